// The rows of a tile: which query tokens and heads look at the same pages, gathered so that one load serves all.
#pragma once
#include "plan.h"
#include "tile_attention.h"

#include <cmath>
#include <vector>

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

template <typename Q> struct Rows {
  int count = 0, width = 0;
  int limit[TILE];             // tokens that the row may look at
  const Q* query[TILE];
  Q* out[TILE];
  int64_t partial[TILE];       // of its first segment; -1: it has only one
  std::vector<float> packed;     // [head_size][width]
  std::vector<uint32_t> pairs;   // the same in bf16, two dimensions each: [head_size / 2][width]
  std::vector<bf16> tiles;       // as tiles take them: [count][head_size]
};

template <typename Q, typename T>
constexpr bool PAIRED = HAS_DOT && std::is_same<Q, bf16>::value && std::is_same<T, bf16>::value;

// Whether rows and pages of these kinds, in heads of this size, meet in tiles.
template <typename Q, typename T> inline bool in_tiles_of(int head_size) {
  return std::is_same<Q, bf16>::value && std::is_same<T, bf16>::value && by_tiles(head_size * sizeof(bf16));
}

inline int rounded(int rows) {
  for (int width : {1, 2, 3, 4, 6, 8}) if (rows <= width) return width;
  return TILE;
}

template <typename Q, typename T>
void gather_rows(const tenfold_batch& b, const Plan& plan, const Task& t, int kv_head, const Q* query, Q* out,
                 Rows<Q>& rows) {
  const int D = b.head_size, group = b.heads / b.kv_heads, record = D + 2;
  rows.count = 0;
  for (int m = 0; m < t.count; m++) {
    const int s = t.count > 1 ? plan.members[t.member + m] : t.sequence;
    const int start = b.query_starts[s], mine = t.count > 1 ? new_tokens(b, s) * group : t.rows;
    for (int i = 0; i < mine; i++) {
      const int r = rows.count++, token = (t.first_row + i) / group, head = kv_head * group + (t.first_row + i) % group;
      const int64_t at = ((int64_t)(start + token) * b.heads + head) * D;
      rows.limit[r] = (int)b.positions[start + token] + 1;
      rows.query[r] = query + at;
      rows.out[r] = out + at;
      rows.partial[r] = plan.partial[s] < 0 ? -1
          : plan.partial[s] + ((int64_t)token * b.heads + head) * plan.segments[s] * record;
    }
  }
  rows.width = rounded(rows.count);
  if (in_tiles_of<Q, T>(D)) {
    rows.tiles.resize((size_t)rows.count * D);
    for (int r = 0; r < rows.count; r++) std::memcpy(&rows.tiles[(size_t)r * D], rows.query[r], D * sizeof(bf16));
  } else if (PAIRED<Q, T>) {
    rows.pairs.assign((size_t)D / 2 * rows.width, 0);
    for (int r = 0; r < rows.count; r++)
      for (int d = 0; d < D; d += 2) std::memcpy(&rows.pairs[(size_t)d / 2 * rows.width + r], rows.query[r] + d, 4);
  } else {
    rows.packed.assign((size_t)D * rows.width, 0.0f);
    for (int r = 0; r < rows.count; r++)
      for (int d = 0; d < D; d++) rows.packed[(size_t)d * rows.width + r] = to_float(rows.query[r][d]);
  }
  for (int r = rows.count; r < TILE; r++) rows.limit[r] = 0;
}

template <typename Q, typename T>
void take(const Rows<Q>& rows, const char* const* pages, int count, const char* const* ahead, int D, const int* room,
          State& st) {
  const float scale = 1.0f / std::sqrt((float)D);
#if defined(TENFOLD_AMX)
  if (in_tiles_of<Q, T>(D)) {
    take_pages_by_tiles(pages, count, ahead, D, rows.tiles.data(), rows.count, scale, room, st);
    return;
  }
#endif
  switch (rows.width) {
#define TENFOLD_WIDTH(N) \
  case N: \
    take_pages<N, T, PAIRED<Q, T>>(pages, count, ahead, D, rows.packed.data(), rows.pairs.data(), scale, room, st); \
    break
    TENFOLD_WIDTH(1); TENFOLD_WIDTH(2); TENFOLD_WIDTH(3); TENFOLD_WIDTH(4); TENFOLD_WIDTH(6); TENFOLD_WIDTH(8);
    TENFOLD_WIDTH(TILE);
#undef TENFOLD_WIDTH
  }
}

// Pages [from, to) of `table` into the state; the rows see the first `limit` tokens of the whole table. `then` is where
// the reading goes on after them.
template <typename Q, typename T>
void run_pages(const Rows<Q>& rows, const char* head, int64_t block_bytes, const int32_t* table, int from, int to,
               const char* then, int D, State& st) {
  int room[TILE];
  const char *pages[GROUP], *ahead[GROUP];
#if defined(TENFOLD_AMX)
  if (in_tiles_of<Q, T>(D)) shape_tiles(TileUse::PAGES, rows.count, page_shapes);
#endif
  for (int page = from; page < to; page += GROUP) {
    const int count = std::min(GROUP, to - page);
    for (int i = 0; i < count; i++) {
      const int next = page + GROUP + i;
      pages[i] = head + table[page + i] * block_bytes;
      ahead[i] = next < to ? head + table[next] * block_bytes : then + table[from + i] * block_bytes;
    }
    for (int r = 0; r < rows.width; r++) room[r] = rows.limit[r] - page * PAGE;
    take<Q, T>(rows, pages, count, ahead, D, room, st);
  }
}

}  // namespace
}  // namespace tenfold
