// A group of pages by AMX's tiles: a page's keys are tiles of 32 dimensions by 16 tokens as they lie, its values tiles of
// 16 tokens by 16 dimensions. Scores and sums are in float32, the softmax's weights in bf16 between them. Every row goes
// this way or none, however few there are, so that a token's result does not depend on what it was read with.
#pragma once
#include "amx.h"
#include "softmax.h"

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

#if defined(TENFOLD_AMX)
// The shapes for `rows` rows: sums in 0 to 3, queries in 4, weights of a page's tokens in 5, keys in 6, values in 7.
inline TileShapes page_shapes(int rows) {
  TileShapes shapes;
  for (int tile : {0, 1, 2, 3, 4}) shapes.set(tile, rows, 64);
  shapes.set(5, rows, 2 * PAGE);
  shapes.set(6, 16, 64);
  shapes.set(7, PAGE / 2, 64);
  return shapes;
}

inline void ask_for(const char* at, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
}

// As `take_pages`, for rows of bf16 `query` [rows][D] and pages of bf16, with tiles of `page_shapes`. D is divisible by 32.
inline void take_pages_by_tiles(const char* const* pages, int count, const char* const* ahead, int D, const bf16* query,
                                int rows, float scale, const int* room, State& st) {
  alignas(64) float scores[GROUP][TILE][PAGE], sums[4][TILE][16];
  alignas(64) bf16 weights[TILE][GROUP * PAGE];
  _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
  for (int d = 0; d < D; d += 32) {
    _tile_loadd(4, query + d, D * sizeof(bf16));
#define TENFOLD_SCORE(page) \
  if (page < count) { \
    if (rows < TILE) {  /* a prompt's tiles read the same pages one after the other */ \
      ask_for(ahead[page] + d * PAGE * sizeof(bf16), 1024); \
      ask_for(ahead[page] + (D + d) * PAGE * sizeof(bf16), 1024); \
    } \
    _tile_loadd(6, keys_of<bf16>(pages[page]) + d * PAGE, 64); \
    _tile_dpbf16ps(page, 4, 6); \
  }
    TENFOLD_SCORE(0) TENFOLD_SCORE(1) TENFOLD_SCORE(2) TENFOLD_SCORE(3)
#undef TENFOLD_SCORE
  }
  static_assert(GROUP == 4, "a tile of sums each");
  _tile_stored(0, scores[0], 64);
  if (count > 1) _tile_stored(1, scores[1], 64);
  if (count > 2) _tile_stored(2, scores[2], 64);
  if (count > 3) _tile_stored(3, scores[3], 64);

  const i16v lanes = load(COUNTED);
  const f16v factor = splat(scale), none = splat(-INFINITY);
  float carry[TILE];
  for (int r = 0; r < rows; r++) {
    f16v s[GROUP];
#pragma GCC unroll 4
    for (int b = 0; b < GROUP; b++) {
      const int left = room[r] - b * PAGE;
      s[b] = b < count ? load(scores[b][r]) * factor : none;
      if (left < PAGE) s[b] = select(lanes < left, s[b], none);
    }
    carry[r] = soften<true>(st, r, GROUP, [&](int b) { return s[b]; }, [&](int b, f16v e) { store(&weights[r][b * PAGE], e); });
  }

  for (int from = 0; from < D; from += 64) {
    const int wide = std::min(64, D - from) / 16;
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (int b = 0; b < count; b++) {
      _tile_loadd(5, &weights[0][b * PAGE], sizeof weights[0]);
      const bf16* values = values_of<bf16>(pages[b], D) + from * 2;
#define TENFOLD_WEIGH(part) _tile_loadd(7, values + part * 32, D * 2 * sizeof(bf16)); _tile_dpbf16ps(part, 5, 7)
      TENFOLD_WEIGH(0); TENFOLD_WEIGH(1);
      if (wide > 2) { TENFOLD_WEIGH(2); TENFOLD_WEIGH(3); }
#undef TENFOLD_WEIGH
    }
    _tile_stored(0, sums[0], 64); _tile_stored(1, sums[1], 64);
    if (wide > 2) { _tile_stored(2, sums[2], 64); _tile_stored(3, sums[3], 64); }
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < wide; c++) {
        float* at = &st.acc[(size_t)r * D + from + c * 16];
        store(at, load(at) * carry[r] + load(sums[c][r]));
      }
  }
}
#endif

}  // namespace
}  // namespace tenfold
