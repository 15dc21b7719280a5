// Rows of the encoder: brought to 8 bits or bf16 for a product, multiplied, normalized; within one thread.
#pragma once
#include "kernels.h"
#include "gemm.h"

#ifdef TENFOLD_GEMM
#include <cmath>
#include <vector>

namespace tenfold {
namespace {

typedef tenfold_encoder_product Product;

const Ahead NOTHING_AHEAD{"", 0};

constexpr int up(int count, int by) { return (count + by - 1) / by; }

// ---- functions of 16 numbers ----------------------------------------------------------------------------------------

// 2^x within 8e-5, P fitted to [-1/2, 1/2]: the results are rounded to bf16, which is 25 times as coarse.
inline __m512 power_of_two(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, whole);
  __m512 p = _mm512_set1_ps(5.5171669e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4261114e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326097e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992806e-1f));
  return _mm512_scalef_ps(p, whole);
}

// GELU (Hendrycks & Gimpel 2016) within 2e-4: the normal distribution as 1/2 + x P(x^2) on [-4, 4], P fitted to that.
inline __m512 gelu(__m512 x) {
  const __m512 inside = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-4.0f)), _mm512_set1_ps(4.0f));
  const __m512 u = _mm512_mul_ps(inside, inside);
  __m512 p = _mm512_set1_ps(2.2780229e-8f);
  p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-1.5985413e-6f));
  p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(4.7954327e-5f));
  p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-8.1400410e-4f));
  p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(8.7723341e-3f));
  p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-6.4572997e-2f));
  p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(3.9788327e-1f));
  return _mm512_mul_ps(x, _mm512_fmadd_ps(inside, p, _mm512_set1_ps(0.5f)));
}
constexpr float LEAST_GELU = 0.1702f;  // GELU is nowhere below minus this

// Room that only grows, in whole cache lines.
template <typename T> class Room {
 public:
  void fit(size_t count) { if (lines_.size() * 64 < count * sizeof(T)) lines_.resize((count * sizeof(T) + 63) / 64); }
  T& operator[](size_t i) { return ((T*)lines_.data())[i]; }
  const T& operator[](size_t i) const { return ((const T*)lines_.data())[i]; }

 private:
  struct alignas(64) Line { char bytes[64]; };
  std::vector<Line> lines_;
};

// ---- rows -----------------------------------------------------------------------------------------------------------

// Gives 16 numbers of a row from place i on, those of the lanes asked for.
template <typename T> inline auto numbers_of(const T* row) {
  return [row](int i, __mmask16 mask) { return load_masked(row + i, mask); };
}

// Rows as a product takes them: 8 bits with a scale each, or bf16.
struct Rows {
  Room<uint8_t> bytes;
  Room<RowScale> scales;
  Room<uint16_t> wide;
  int k = 0;
  void shape(const Product& w, int rows) {
    k = w.linear.k;
    if (w.linear.bits == 8) { bytes.fit((size_t)rows * k); scales.fit(rows); } else wide.fit((size_t)rows * k);
  }
  // `load` as `numbers_of` gives it.
  template <typename Load> void put(const Product& w, int row, Load load) {
    if (w.linear.bits != 8) {
      for (int i = 0; i < k; i += 16)
        _mm256_storeu_si256((__m256i*)(&wide[(size_t)row * k] + i), (__m256i)_mm512_cvtneps_pbh(load(i, lanes(16))));
      return;
    }
    uint8_t* to = &bytes[(size_t)row * k];
    if (!w.smooth) { scales[row] = quantize_row(k, to, load); return; }
    scales[row] = quantize_row(k, to, [&](int i, __mmask16 mask) {
      return _mm512_mul_ps(load(i, mask), _mm512_loadu_ps(w.smooth + i));
    });
  }
  // GELU of a row. Its least value is known and near zero, so nearly all of the 8 bits are for what is above.
  void put_gelu(const Product& w, int row, const uint16_t* from) {
    auto load = [&](int i, __mmask16 mask) { return gelu(load_masked(from + i, mask)); };
    if (w.linear.bits != 8) { put(w, row, load); return; }
    __m512 top = _mm512_setzero_ps();
    for (int i = 0; i < k; i += 16) top = _mm512_max_ps(top, load_masked(from + i, lanes(16)));
    const float most = _mm512_cvtss_f32(gelu(_mm512_set1_ps(_mm512_reduce_max_ps(top))));  // it rises where positive
    const float scale = (most + LEAST_GELU) / 254.0f;
    scales[row] = {scale, (int32_t)std::ceil(LEAST_GELU / scale)};
    to_bytes(k, scales[row], &bytes[(size_t)row * k], load);
  }
};

// Multiplies `count` rows; `put(row, column, 16 numbers)` takes the results, bias included.
template <typename Put>
void multiply(const Rows& x, int count, const Product& product, Put put) {
  const tenfold_linear& w = product.linear;
  const int panels = w.n / PANEL;
  const int64_t size = (int64_t)PANEL * w.k;
  for (int p = 0; p < panels; p++) {
    const int next = p + 1 < panels ? p + 1 : 0;
    if (w.bits == 8) {
      const int8_t* packed = (const int8_t*)w.packed;
      in_tiles(count, [&](auto tile, int at) {
        constexpr int MR = decltype(tile)::value;
        tile_int8<MR>(&x.bytes[(size_t)at * w.k], w.k, packed + p * size, w.k,
                      share(packed + next * size, size, at, MR, count, w.k / 4), [&](int r, int half, __m512i v) {
          const int column = p * PANEL + half * 16;
          const RowScale s = x.scales[at + r];
          __m512i sums = _mm512_loadu_si512(w.sums + column);  // times 128, as most rows have it for zero
          if (s.zero != 128) sums = _mm512_mullo_epi32(_mm512_srai_epi32(sums, 7), _mm512_set1_epi32(s.zero));
          const __m512i exact = _mm512_sub_epi32(v, sums);
          const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(w.scales + column), _mm512_set1_ps(s.scale));
          put(at + r, column, _mm512_fmadd_ps(_mm512_cvtepi32_ps(exact), scale, _mm512_loadu_ps(w.bias + column)));
        });
      });
    } else {
      const uint16_t* packed = (const uint16_t*)w.packed;
      in_tiles(count, [&](auto tile, int at) {
        constexpr int MR = decltype(tile)::value;
        tile_bf16<MR>(&x.wide[(size_t)at * w.k], w.k, packed + p * size, w.k,
                      share(packed + next * size, size * 2, at, MR, count, w.k / 2), [&](int r, int half, __m512 v) {
          const int column = p * PANEL + half * 16;
          put(at + r, column, _mm512_add_ps(v, _mm512_loadu_ps(w.bias + column)));
        });
      });
    }
  }
}

inline void store_narrow(uint16_t* at, __m512 v) { _mm256_storeu_si256((__m256i*)at, (__m256i)_mm512_cvtneps_pbh(v)); }

void layer_norm(float* x, int width, const float* weight, const float* bias, float eps) {
  __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (int i = 0; i < width; i += 16) total = _mm512_add_ps(total, _mm512_loadu_ps(x + i));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / width);
  for (int i = 0; i < width; i += 16) {
    const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  const __m512 scale = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / width + eps));
  for (int i = 0; i < width; i += 16) {
    const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), scale);
    _mm512_storeu_ps(x + i, _mm512_fmadd_ps(v, _mm512_loadu_ps(weight + i), _mm512_loadu_ps(bias + i)));
  }
}

}  // namespace
}  // namespace tenfold
#endif
