// Tiles of the matrix products: what `gemm.cpp` shares out among threads and `encoder.cpp` runs within one.
//
// Packed weights come in panels of 32 output columns; within a panel the inner dimension runs in steps of one dot
// instruction (2 bf16 or 4 int8 values), so a step of a panel is 128 consecutive bytes:
//   bf16  [panel][k / 2][32][2]        int8  [panel][k / 4][32][4]
// Rows of an 8-bit product are quantized as the dot instruction wants them, unsigned with a zero point; its share is
// taken off again with the column sums of the weights.
#pragma once

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define TENFOLD_GEMM 1
#include "vector.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <immintrin.h>
#include <type_traits>

namespace tenfold {

constexpr int PANEL = 32;
constexpr int ROWS = 12;  // of a tile: 12 x 2 sums fill the register file

// What a pass over a panel asks for meanwhile: its share of the panel that this thread works on next. So weights come
// from memory while all passes compute, not while the first one waits.
struct Ahead { const char* at; int64_t per_step; };
inline void prefetch(Ahead& a) {
  _mm_prefetch(a.at, _MM_HINT_T1);
  if (a.per_step > 64) _mm_prefetch(a.at + 64, _MM_HINT_T1);
  a.at += a.per_step;
}

// The part of `bytes` at `next` that the pass over rows [at, at + rows) of `count` asks for, in `steps` steps.
inline Ahead share(const void* next, int64_t bytes, int at, int rows, int count, int steps) {
  return {(const char*)next + bytes * at / count, bytes * rows / ((int64_t)count * steps)};
}

// The dot instructions. As intrinsics, GCC copies the sums about and keeps some of them in memory.
inline __m512 add_dot(__m512 sum, __m512bh x, __m512bh w) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}
inline __m512i add_dot(__m512i sum, __m512i x, __m512i w) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w));
  return sum;
}

// Bytes of a row that one dot instruction takes, and of a panel.
constexpr int STEP = 4, PANEL_STEP = STEP * PANEL;

// MR rows at `a`, `stride` bytes apart, by one panel, in steps of one dot instruction. `put(row, half of the panel,
// 16 sums)` takes the results.
template <int MR, typename Sum, typename Lanes, typename Put>
inline void tile(const void* a, int64_t stride, const void* panel, int steps, Ahead ahead, Put put) {
  const char *row = (const char*)a, *w = (const char*)panel;
  Sum acc[MR][2];
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++) acc[r][0] = acc[r][1] = Sum{};
  for (int i = 0; i < steps; i++, row += STEP, w += PANEL_STEP) {
    prefetch(ahead);
    const Lanes w0 = (Lanes)_mm512_loadu_si512(w), w1 = (Lanes)_mm512_loadu_si512(w + 64);
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++) {
      int32_t few; std::memcpy(&few, row + r * stride, STEP);
      const Lanes x = (Lanes)_mm512_set1_epi32(few);
      acc[r][0] = add_dot(acc[r][0], x, w0);
      acc[r][1] = add_dot(acc[r][1], x, w1);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++) { put(r, 0, acc[r][0]); put(r, 1, acc[r][1]); }
}

// bf16: sums in float32. k is even.
template <int MR, typename Put>
inline void tile_bf16(const uint16_t* a, int64_t lda, const uint16_t* panel, int k, Ahead ahead, Put put) {
  tile<MR, __m512, __m512bh>(a, 2 * lda, panel, k / 2, ahead, put);
}

// 8 bits: rows unsigned, sums exact in 32 bits. k is divisible by 4.
template <int MR, typename Put>
inline void tile_int8(const uint8_t* a, int64_t lda, const int8_t* panel, int k, Ahead ahead, Put put) {
  tile<MR, __m512i, __m512i>(a, lda, panel, k / 4, ahead, put);
}

// Cuts rows into tiles of the sizes that are compiled: `tile(size, first row)`.
template <typename Tile>
inline void in_tiles(int count, Tile tile) {
  int at = 0;
  auto take = [&](auto size) { tile(size, at); at += decltype(size)::value; };
  while (at < count) {
    const int left = count - at;
    if (left >= ROWS && left != 16) take(std::integral_constant<int, ROWS>{});
    else if (left >= 8) take(std::integral_constant<int, 8>{});
    else if (left >= 6) take(std::integral_constant<int, 6>{});
    else if (left >= 4) take(std::integral_constant<int, 4>{});
    else if (left >= 2) take(std::integral_constant<int, 2>{});
    else take(std::integral_constant<int, 1>{});
  }
}

// A row's numbers are (byte - zero) x scale.
struct RowScale { float scale; int32_t zero; };

inline __mmask16 lanes(int count) { return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1); }
inline __m512 load_masked(const float* at, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, at); }
inline __m512 load_masked(const uint16_t* at, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at)), 16));
}

// `load(i, lanes)` gives 16 numbers from place i on.
template <typename Load>
inline void to_bytes(int k, RowScale s, uint8_t* out, Load load) {
  const __m512 inverse = _mm512_set1_ps(1.0f / s.scale);
  const __m512i zero = _mm512_set1_epi32(s.zero);
  auto bytes = [&](int i, __mmask16 mask) {
    return _mm512_cvtusepi32_epi8(_mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(load(i, mask), inverse)), zero));
  };
  int i = 0;
  for (; i + 16 <= k; i += 16) _mm_storeu_si128((__m128i*)(out + i), bytes(i, lanes(16)));
  if (i < k) _mm_mask_storeu_epi8(out + i, lanes(k - i), bytes(i, lanes(k - i)));
}

// One row to 8 bits, symmetric: zero is 128.
template <typename Load>
inline RowScale quantize_row(int k, uint8_t* out, Load load) {
  __m512 top = _mm512_setzero_ps();
  for (int i = 0; i < k; i += 16) top = _mm512_max_ps(top, _mm512_abs_ps(load(i, lanes(k - i))));
  const RowScale s{std::max(_mm512_reduce_max_ps(top), 1e-8f) / 127.0f, 128};
  to_bytes(k, s, out, load);
  return s;
}

}  // namespace tenfold
#endif
