// Dot products of bf16 pairs, where the processor has the instruction (`HAS_DOT`).
#pragma once
#include "vector.h"

#ifdef TENFOLD_BF16
#include <immintrin.h>
#endif

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

// Two products of bf16 pairs at once, where the processor has the instruction: half the work on bf16 pages. Queries are
// bf16 already; the softmax's weights are rounded to it, as every fused attention in 16 bits does. The pair is spread
// over the lanes by the instruction itself; left to choose, the compiler spreads them ahead and has no registers left.
#ifdef TENFOLD_BF16
constexpr bool HAS_DOT = true;
inline f16v load_pairs(const bf16* at) { f16v v; std::memcpy(&v, at, 64); return v; }
inline f16v add_dot(f16v acc, const uint32_t* pair, f16v pairs) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(pairs), "m"(*pair));
  return acc;
}
inline void store_pairs(uint32_t* to, f16v v) {
  const __m256bh narrow = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(to, &narrow, 32);
}
inline f16v product(const bf16* x, const bf16* y, int count) {  // count divisible by 16; the lanes' sum is the product
  const int even = count / 32 * 32;
  __m512 acc = even == count ? _mm512_setzero_ps() : (__m512)(load(x + even) * load(y + even));
  for (int i = 0; i < even; i += 32)
    acc = _mm512_dpbf16_ps(acc, (__m512bh)_mm512_loadu_si512(x + i), (__m512bh)_mm512_loadu_si512(y + i));
  return (f16v)acc;
}
#else
constexpr bool HAS_DOT = false;
inline f16v load_pairs(const bf16*) { return f16v{}; }
inline f16v add_dot(f16v acc, const uint32_t*, f16v) { return acc; }
inline void store_pairs(uint32_t*, f16v) {}
inline f16v product(const bf16* x, const bf16* y, int count) {
  f16v acc = {};
  for (int i = 0; i < count; i += 16) acc += load(x + i) * load(y + i);
  return acc;
}
#endif

}  // namespace
}  // namespace tenfold
