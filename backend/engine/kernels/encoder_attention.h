// Attention of the encoder: one text, every token looks at every other.
#pragma once
#include "encoder_rows.h"

#include <algorithm>

namespace tenfold {
namespace {

// Rows that go through attention together where tiles multiply, and whether they do for this inner dimension.
constexpr int TILED_ROWS = 32;
inline bool in_tiles_of(int k) { return !std::is_same<Held, float>::value && by_tiles(k * sizeof(Held)); }

constexpr int BLOCK = 128;  // rows, at most, that go through the feed-forward layer together: what they need stays cached

typedef tenfold_encoder Model;

// A row of what lies between the feed-forward products: were its length a power of two, rows would crowd a few sets of
// the cache.
inline int inner_stride(const Model& m) { return m.intermediate + 32; }

// What a thread needs for a text; kept between texts.
struct Scratch {
  Rows rows;
  Room<float> x;                // [tokens][hidden]: what the layers pass on
  Room<Held> qkv;               // [tokens][3 hidden]
  Room<Held> attended;          // [tokens][hidden]
  Room<Held> inner;             // [BLOCK][inner_stride]
  Room<uint16_t> keys, values;  // of one head, as panels
  Room<Held> weights;           // [rows][tokens, in whole panels]: the softmax before it is divided by its sum
  void fit(const Model& m, int tokens) {
    const size_t padded = up(tokens, PANEL) * PANEL, hidden = m.hidden, head = m.hidden / m.heads;
    x.fit(tokens * hidden);
    qkv.fit(tokens * 3 * hidden);
    attended.fit(tokens * hidden);
    inner.fit((size_t)BLOCK * inner_stride(m));
    keys.fit(padded * head);
    values.fit(padded * head);
    weights.fit(std::max(ROWS, TILED_ROWS) * padded);
  }
};

inline uint16_t narrow_of(float x) { return narrow(x); }
inline uint16_t narrow_of(bf16 x) { return x.bits; }

// Keys of one head as panels of 32 tokens, to be multiplied by queries: [panel][head_size / 2][32][2].
void pack_keys(const Held* from, int64_t stride, int tokens, int D, uint16_t* to) {
  for (int t = 0; t < up(tokens, PANEL) * PANEL; t++) {
    uint32_t* at = (uint32_t*)(to + (int64_t)(t / PANEL) * D * PANEL) + t % PANEL;
    const Held* key = from + t * stride;
    for (int d = 0; d < D; d += 2)
      at[d / 2 * PANEL] = t < tokens ? narrow_of(key[d]) | (uint32_t)narrow_of(key[d + 1]) << 16 : 0;
  }
}

// Values of one head as panels of 32 dimensions, to be multiplied by weights: [panel][room / 2][32][2], zero from `tokens`
// on. `room` is even.
void pack_values(const Held* from, int64_t stride, int tokens, int room, int D, uint16_t* to) {
  for (int p = 0; p < D / PANEL; p++)
    for (int t = 0; t < room; t += 2) {
      uint16_t* at = to + ((int64_t)p * room + t) * PANEL;
      if (t >= tokens) {
        std::fill(at, at + 2 * PANEL, 0);
        continue;
      }
      const Held* first = from + t * stride + p * PANEL;
      for (int d = 0; d < PANEL; d++) {
        at[2 * d] = narrow_of(first[d]);
        at[2 * d + 1] = t + 1 < tokens ? narrow_of(first[stride + d]) : 0;
      }
    }
}

// `count` rows by a panel: by tiles, or in the usual way, for which `count` is MR. `put` as everywhere.
template <int MR, bool TILES, typename Put>
inline void few_rows(const Held* rows, int64_t stride, int count, const uint16_t* panel, int k, Put put) {
#if defined(TENFOLD_AMX)
  if constexpr (TILES) {
    by_tiles<float>(rows, stride * sizeof(Held), count, panel, k * sizeof(Held), nullptr, put);
    return;
  }
#endif
  tile_wide<MR>((const Wide*)rows, stride, panel, k, NOTHING_AHEAD, put);
}

// Weights of `count` (at most MR) queries for all tokens, 2^(score - offset), zero behind the end; `part` becomes 1 / their
// sum. Returns whether all sums are far from what float32 cannot hold.
template <int MR, bool TILES>
bool weigh(const Held* query, int64_t stride, int count, int tokens, int D, const float* offset, const Scratch& s,
           Held* weights, float* part) {
  const int panels = up(tokens, PANEL), padded = panels * PANEL;
  const float scale = 1.44269504f / std::sqrt((float)D);
  const i16v lane = load(COUNTED);
  f16v total[MR];
  for (int r = 0; r < count; r++) total[r] = f16v{};
  for (int p = 0; p < panels; p++)
    few_rows<MR, TILES>(query, stride, count, &s.keys[(size_t)p * D * PANEL], D, [&](int r, int half, f16v v) {
      const int column = p * PANEL + half * 16;
      f16v e = power_of_two(v * scale - offset[r]);
      if (column + 16 > tokens) e = select(lane < tokens - column, e, f16v{});
      total[r] += e;
      store(weights + r * padded + column, e);
    });
  bool fine = true;
  for (int r = 0; r < count; r++) {
    const float all = sum(total[r]);
    fine = fine && all > 1e-30f && all < 1e30f;
    part[r] = 1.0f / all;
  }
  return fine;
}

// The largest score of each of `count` (at most MR) queries.
template <int MR, bool TILES>
void find_largest(const Held* query, int64_t stride, int count, int tokens, int D, const Scratch& s, float* most) {
  const float scale = 1.44269504f / std::sqrt((float)D);
  const i16v lane = load(COUNTED);
  f16v top[MR];
  for (int r = 0; r < count; r++) top[r] = splat(-INFINITY);
  for (int p = 0; p < up(tokens, PANEL); p++)
    few_rows<MR, TILES>(query, stride, count, &s.keys[(size_t)p * D * PANEL], D, [&](int r, int half, f16v v) {
      top[r] = larger(select(lane < tokens - p * PANEL - half * 16, v, splat(-INFINITY)), top[r]);
    });
  for (int r = 0; r < count; r++) most[r] = largest(top[r]) * scale;
}

// What `count` (at most MR) tokens from `first` on gather with a head whose keys and values are packed, the values for
// `room` tokens. Nearly all scores are small enough to be taken as they are; only where they are not, the largest is found
// first.
template <int MR, bool TILES> void attend_rows(const Model& m, int tokens, int room, int head, int first, int count, Scratch& s) {
  const int D = m.hidden / m.heads, padded = up(tokens, PANEL) * PANEL;
  const int64_t stride = 3 * (int64_t)m.hidden;
  const Held* query = &s.qkv[0] + head * D + first * stride;
  float offset[MR] = {}, part[MR];
  if (!weigh<MR, TILES>(query, stride, count, tokens, D, offset, s, &s.weights[0], part)) {
    find_largest<MR, TILES>(query, stride, count, tokens, D, s, offset);
    weigh<MR, TILES>(query, stride, count, tokens, D, offset, s, &s.weights[0], part);
  }
  for (int p = 0; p < D / PANEL; p++)
    few_rows<MR, TILES>(&s.weights[0], padded, count, &s.values[(size_t)p * room * PANEL], room, [&](int r, int half, f16v v) {
      store(&s.attended[(int64_t)(first + r) * m.hidden + head * D + p * PANEL + half * 16], v * part[r]);
    });
}

void attend(const Model& m, int tokens, Scratch& s) {
  const int D = m.hidden / m.heads;
  const bool tiles = in_tiles_of(D);
  const int room = tiles ? up(tokens, PANEL) * PANEL : up(tokens, 2) * 2;
  const int64_t stride = 3 * (int64_t)m.hidden;
  for (int h = 0; h < m.heads; h++) {
    const Held* queries = &s.qkv[0] + h * D;
    pack_keys(queries + m.hidden, stride, tokens, D, &s.keys[0]);
    pack_values(queries + 2 * m.hidden, stride, tokens, room, D, &s.values[0]);
#if defined(TENFOLD_AMX)
    if (tiles) {
      for (int first = 0; first < tokens; first += TILED_ROWS)
        attend_rows<TILED_ROWS, true>(m, tokens, room, h, first, std::min(TILED_ROWS, tokens - first), s);
      continue;
    }
#endif
    in_tiles(tokens, [&](auto rows, int first) {
      attend_rows<decltype(rows)::value, false>(m, tokens, room, h, first, decltype(rows)::value, s);
    });
  }
}

}  // namespace
}  // namespace tenfold
