// On x86 with AVX-512 and VNNI; with BF16 too, 16-bit weights meet rows in bf16, else in float32. See dot.h.
#pragma once
#include "vector.h"

#include <immintrin.h>

namespace tenfold {

#ifdef TENFOLD_BF16
constexpr const char* WAY = "AVX-512 VNNI and BF16";
#else
constexpr const char* WAY = "AVX-512 VNNI";
#endif

// What a dot instruction takes whole: 4 bytes of each column, and the 4 bytes of a row that meet them.
struct FourBytes {
  static constexpr int PARTS = 1, LANES = 16;
  static __m512i part(const char* at, int) { return _mm512_loadu_si512(at); }
  static __m512i spread(const void* at, int) {
    int32_t four;
    std::memcpy(&four, at, 4);
    return _mm512_set1_epi32(four);
  }
};

// The dot instructions. As intrinsics, GCC copies the sums about and keeps some of them in memory.
#ifdef TENFOLD_BF16
struct WideDot : FourBytes {
  typedef __m512 Sum;
  typedef uint16_t In;
  static constexpr int PER_STEP = 2;
  static __m512 add(__m512 sum, __m512i x, __m512i w) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
};
#else
struct WideDot {
  typedef __m512 Sum;
  typedef float In;
  static constexpr int PER_STEP = 2, PARTS = 2, LANES = 16;
  static __m512 part(const char* at, int which) {
    const __m512i w = _mm512_loadu_si512(at);
    return _mm512_castsi512_ps(which ? _mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)) : _mm512_slli_epi32(w, 16));
  }
  static __m512 spread(const float* at, int which) { return _mm512_set1_ps(at[which]); }
  static __m512 add(__m512 sum, __m512 x, __m512 w) { return _mm512_fmadd_ps(x, w, sum); }
};
#endif

struct ByteDot : FourBytes {
  typedef uint8_t In;  // unsigned, as the instruction wants them
  typedef __m512i Sum;
  static constexpr int PER_STEP = 4;
  static __m512i add(__m512i sum, __m512i x, __m512i w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
    return sum;
  }
};

constexpr int ROWS = 12, SUMS = 24;  // rows of a tile, and vectors of sums that registers hold beside the rest
constexpr bool ROWS_ARE_SIGNED = false;

typedef WideDot::In Wide;
typedef ByteDot::In Byte;

inline i16v round_even(f16v x) { return (i16v)_mm512_cvtps_epi32((__m512)x); }
// 16 numbers of a row.
inline void put_bytes(uint8_t* to, i16v v, int32_t zero) {
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8((__m512i)(v + zero)));
}

}  // namespace tenfold
