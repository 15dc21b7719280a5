// `count` rows by panel `p` of a product's weights, in whichever way this machine multiplies; the panel `next` is asked for
// meanwhile. `put(row, half of the panel, 16 sums)` takes the results.
#pragma once
#include "amx.h"

namespace tenfold {

constexpr int FEW_ROWS = 4;  // for which tiles bring nothing: weights have to come from memory all the same

// 8 bits: exact sums in 32 bits. Rows are `stride` numbers apart.
template <typename Put>
inline void panel_of_bytes(const Byte* a, int64_t stride, int count, const int8_t* packed, int k, int p, int next, Put put) {
  const int64_t size = (int64_t)PANEL * k;
#if defined(TENFOLD_AMX)
  if (count > FEW_ROWS && by_tiles(k)) {
    by_tiles<int32_t>(a, stride, count, packed + p * size, k, packed + next * size, put);
    return;
  }
#endif
  in_tiles(count, [&](auto rows, int at) {
    constexpr int MR = decltype(rows)::value;
    tile_bytes<MR>(a + at * stride, stride, packed + p * size, k, share(packed + next * size, size, at, MR, count, k / 4),
                   [&](int r, int half, i16v v) { put(at + r, half, v); });
  });
}

// 16 bits: sums in float32.
template <typename Put>
inline void panel_of_wide(const Wide* a, int64_t stride, int count, const uint16_t* packed, int k, int p, int next, Put put) {
  const int64_t size = (int64_t)PANEL * k;
#if defined(TENFOLD_AMX)
  if (by_tiles(2 * k)) {
    by_tiles<float>(a, 2 * stride, count, packed + p * size, 2 * k, packed + next * size, put);
    return;
  }
#endif
  in_tiles(count, [&](auto rows, int at) {
    constexpr int MR = decltype(rows)::value;
    tile_wide<MR>(a + at * stride, stride, packed + p * size, k, share(packed + next * size, size * 2, at, MR, count, k / 2),
                  [&](int r, int half, f16v v) { put(at + r, half, v); });
  });
}

}  // namespace tenfold
