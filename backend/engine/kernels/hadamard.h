// Walsh-Hadamard transform of a row, before it is quantized: what stands out in one channel is spread over many.
// The additions are in one order wherever it runs, so that the results are the same to the bit (hadamard.py).
#pragma once
#include "vector.h"

#include <algorithm>
#include <type_traits>

namespace tenfold {

typedef Two<Two<f4v>> Quads;  // 16 lanes, four by four, whatever the registers

inline f4v butterflies(f4v v) {  // strides 2 and 1
#if defined(__clang__) || __GNUC__ >= 12
  v = v * f4v{1, 1, -1, -1} + __builtin_shufflevector(v, v, 2, 3, 0, 1);
  return v * f4v{1, -1, 1, -1} + __builtin_shufflevector(v, v, 1, 0, 3, 2);
#else
  const f4v w = {v[0] + v[2], v[1] + v[3], v[0] - v[2], v[1] - v[3]};
  return {w[0] + w[1], w[0] - w[1], w[2] + w[3], w[2] - w[3]};
#endif
}
template <typename H> inline Two<H> butterflies(Two<H> v) { return {butterflies(v.lo + v.hi), butterflies(v.lo - v.hi)}; }

// The strides from 8 to 1 of 16 numbers.
#if defined(TENFOLD_512) && (defined(__clang__) || __GNUC__ >= 12)
constexpr bool WITHIN = true;
inline f16v within(f16v v) {
#define TENFOLD_SIGNS(a, b, c, d) f16v{1, a, b, a * b, c, a * c, b * c, a * b * c, d, a * d, b * d, a * b * d, c * d, a * c * d, b * c * d, a * b * c * d}
#define TENFOLD_ACROSS(n) __builtin_shufflevector(v, v, 0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n, 9 ^ n, \
                                                  10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n, 15 ^ n)
  v = v * TENFOLD_SIGNS(1, 1, 1, -1) + TENFOLD_ACROSS(8);
  v = v * TENFOLD_SIGNS(1, 1, -1, 1) + TENFOLD_ACROSS(4);
  v = v * TENFOLD_SIGNS(1, -1, 1, 1) + TENFOLD_ACROSS(2);
  return v * TENFOLD_SIGNS(-1, 1, 1, 1) + TENFOLD_ACROSS(1);
#undef TENFOLD_ACROSS
#undef TENFOLD_SIGNS
}
#else  // narrower registers do better with a pass over four lanes at a time
constexpr bool WITHIN = false;
inline f16v within(f16v v) { return v; }
#endif

constexpr int AT_ONCE = PIECES == 1 ? 8 : 4;  // vectors that go through several strides in registers

// `count` vectors, `stride` numbers apart, through the strides from this one to count / 2 of it; before them, if `first`,
// through those within each.
template <int count, bool first> TENFOLD_INLINE inline void strides(float* x, int stride) {
  f16v v[count];
#pragma GCC unroll 8
  for (int i = 0; i < count; i++) v[i] = first ? within(load(x + i * stride)) : load(x + i * stride);
#pragma GCC unroll 3
  for (int apart = 1; apart < count; apart *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
      if (!(i & apart)) {
        const f16v a = v[i], b = v[i + apart];
        v[i] = a + b;
        v[i + apart] = a - b;
      }
#pragma GCC unroll 8
  for (int i = 0; i < count; i++) store(x + i * stride, v[i]);
}

// All of x [k] through the strides from `stride` to count / 2 of it.
template <int count, bool first> inline void pass(float* x, int k, int stride) {
  for (int block = 0; block < k; block += count * stride)
    for (int i = block; i < block + stride; i += 16) strides<count, first>(x + i, stride);
}

// Each `order` numbers of x [k] in turn; order is a power of two from 16 on, and divides k.
inline void hadamard(float* x, int k, int order) {
  if (!WITHIN) for (int i = 0; i < k; i += 16) Memory<Quads>::store(x + i, butterflies(Memory<Quads>::load(x + i)));
  bool first = WITHIN;
  for (int stride = 16; first || stride < order; stride *= AT_ONCE, first = false) {
    const int left = std::min(order / stride, AT_ONCE);
    auto through = [&](auto count) {
      if (first) pass<decltype(count)::value, true>(x, k, stride); else pass<decltype(count)::value, false>(x, k, stride);
    };
    if (left == 8) through(std::integral_constant<int, AT_ONCE>{});
    else if (left == 4) through(std::integral_constant<int, 4>{});
    else if (left == 2) through(std::integral_constant<int, 2>{});
    else through(std::integral_constant<int, 1>{});
  }
}

}  // namespace tenfold
