// On x86 with AVX2 and nothing newer. 16-bit weights are widened and multiplied in float32. 8-bit weights are widened to
// 16 bits and multiplied in pairs, since the instruction for bytes cuts off what 16 bits cannot hold. See dot.h.
#pragma once
#include "vector.h"

#include <immintrin.h>

namespace tenfold {

constexpr const char* WAY = "AVX2";

// The sums' instructions as they are written here: left to choose, GCC spreads all rows' numbers first and keeps sums in
// memory.
struct WideDot {
  static constexpr uint32_t HALF = 0xffff0000;
  typedef float In;
  typedef __m256 Sum;
  static constexpr int PER_STEP = 2, PARTS = 2, LANES = 8;
  static __m256 part(const char* at, int which) {
    alignas(32) static constexpr uint32_t HIGH[8] = {HALF, HALF, HALF, HALF, HALF, HALF, HALF, HALF};
    const __m256i& w = *(const __m256i_u*)at;
    __m256i out;
    if (which) asm("vmovdqa %2, %0\n\tvpand %1, %0, %0" : "=&x"(out) : "m"(w), "m"(HIGH));
    else out = _mm256_slli_epi32(w, 16);
    return _mm256_castsi256_ps(out);
  }
  static __m256 spread(const float* at, int which) { return _mm256_broadcast_ss(at + which); }
  static __m256 add(__m256 sum, __m256 x, __m256 w) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
    return sum;
  }
};

struct ByteDot {
  typedef int16_t In;  // of every four, the first and third before the second and fourth
  typedef __m256i Sum;
  static constexpr int PER_STEP = 4, PARTS = 2, LANES = 8;
  static __m256i part(const char* at, int which) {
    const __m256i w = _mm256_loadu_si256((const __m256i*)at);
    return _mm256_srai_epi16(which ? w : _mm256_slli_epi16(w, 8), 8);
  }
  static __m256i spread(const int16_t* at, int which) {
    int32_t pair;
    std::memcpy(&pair, at + 2 * which, 4);
    return _mm256_set1_epi32(pair);
  }
  static __m256i add(__m256i sum, __m256i x, __m256i w) {
    __m256i products;
    asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(x), "x"(w));
    return sum;
  }
};

constexpr int ROWS = 6, SUMS = 8;  // rows of a tile, and vectors of sums that registers hold beside the rest
constexpr bool ROWS_ARE_SIGNED = true;  // held as what they mean, so no zero point is in the sums

typedef WideDot::In Wide;
typedef ByteDot::In Byte;

inline i16v round_even(f16v x) {
  return {(Register<32>::Int)_mm256_cvtps_epi32(x.lo), (Register<32>::Int)_mm256_cvtps_epi32(x.hi)};
}
// 16 numbers of a row.
inline void put_bytes(int16_t* to, i16v v, int32_t) {
  for (int half = 0; half < 2; half++) {
    __m256i x = (__m256i)(half ? v.hi : v.lo);
    x = _mm256_shufflelo_epi16(_mm256_packs_epi32(x, x), _MM_SHUFFLE(3, 1, 2, 0));
    _mm_storel_epi64((__m128i*)(to + 8 * half), _mm256_castsi256_si128(x));
    _mm_storel_epi64((__m128i*)(to + 8 * half + 4), _mm256_extracti128_si256(x, 1));
  }
}

}  // namespace tenfold
