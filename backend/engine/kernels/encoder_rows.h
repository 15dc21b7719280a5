// Rows of the encoder: brought to 8 bits or bf16 for a product, multiplied, normalized; within one thread.
#pragma once
#include "kernels.h"
#include "panel.h"

#include <cmath>
#include <vector>

namespace tenfold {
namespace {

typedef tenfold_encoder_product Product;

const Ahead NOTHING_AHEAD{"", 0};

constexpr int up(int count, int by) { return (count + by - 1) / by; }

// ---- functions of 16 numbers ----------------------------------------------------------------------------------------

// 2^x within 8e-5, P fitted to [-1/2, 1/2]: the results are rounded to bf16, which is 25 times as coarse.
inline f16v power_of_two(f16v x) {
  const i16v whole = round_even(larger(smaller(x, splat(127.0f)), splat(-126.0f)));
  const f16v f = x - to_floats(whole);
  f16v p = splat(5.5171669e-2f);
  p = p * f + 2.4261114e-1f;
  p = p * f + 6.9326097e-1f;
  p = p * f + 9.9992806e-1f;
  const f16v power = p * as_float((whole + 127) << 23);
  return select(x < -126.0f, f16v{}, select(x > 127.0f, splat(INFINITY), power));
}

// GELU (Hendrycks & Gimpel 2016) within 2e-4: the normal distribution as 1/2 + x P(x^2) on [-4, 4], P fitted to that.
inline f16v gelu(f16v x) {
  const f16v inside = smaller(larger(x, splat(-4.0f)), splat(4.0f));
  const f16v u = inside * inside;
  f16v p = splat(2.2780229e-8f);
  p = p * u + -1.5985413e-6f;
  p = p * u + 4.7954327e-5f;
  p = p * u + -8.1400410e-4f;
  p = p * u + 8.7723341e-3f;
  p = p * u + -6.4572997e-2f;
  p = p * u + 3.9788327e-1f;
  return x * (inside * p + 0.5f);
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

// What rows are held as between products: as the product with 16-bit weights takes them.
typedef std::conditional_t<std::is_same<Wide, float>::value, float, bf16> Held;

// Gives 16 numbers of a row from place i on, as many of them as are asked for.
template <typename T> inline auto numbers_of(const T* row) {
  return [row](int i, int count) { return load_some(row + i, count); };
}

// Rows as a product takes them: 8 bits with a scale each, or as they are held.
struct Rows {
  Room<Byte> bytes;
  Room<RowScale> scales;
  Room<Held> wide;
  int k = 0;
  int64_t stride = 0;  // numbers from row to row
  void shape(const Product& w, int rows) {
    k = w.linear.k;
    const int64_t size = w.linear.bits == 8 ? 1 : sizeof(Held);
    stride = tile_stride(k * size) / size;
    if (w.linear.bits == 8) { bytes.fit((size_t)rows * stride); scales.fit(rows); } else wide.fit((size_t)rows * stride);
  }
  // `read` as `numbers_of` gives it.
  template <typename Read> void put(const Product& w, int row, Read read) {
    if (w.linear.bits != 8) {
      for (int i = 0; i < k; i += 16) store(&wide[row * stride] + i, read(i, 16));
      return;
    }
    Byte* to = &bytes[row * stride];
    if (!w.smooth) { scales[row] = quantize_row(k, to, read); return; }
    scales[row] = quantize_row(k, to, [&](int i, int count) { return read(i, count) * load(w.smooth + i); });
  }
  // GELU of a row. Its least value is known and near zero, so nearly all of the 8 bits are for what is above.
  void put_gelu(const Product& w, int row, const Held* from) {
    auto read = [&](int i, int) { return gelu(load(from + i)); };
    if (w.linear.bits != 8) { put(w, row, read); return; }
    f16v top = {};
    for (int i = 0; i < k; i += 16) top = larger(load(from + i), top);
    alignas(64) float most[16];
    store(most, gelu(splat(largest(top))));  // it rises where positive
    const float scale = (most[0] + LEAST_GELU) / 254.0f;
    scales[row] = {scale, (int32_t)std::ceil(LEAST_GELU / scale)};
    to_bytes(k, scales[row], &bytes[row * stride], read);
  }
};

// Multiplies `count` rows; `put(row, column, 16 numbers)` takes the results, bias included.
template <typename Put>
void multiply(const Rows& x, int count, const Product& product, Put put) {
  const tenfold_linear& w = product.linear;
  const int panels = w.n / PANEL;
  for (int p = 0; p < panels; p++) {
    const int next = p + 1 < panels ? p + 1 : 0;
    if (w.bits == 8) {
      panel_of_bytes(&x.bytes[0], x.stride, count, (const int8_t*)w.packed, w.k, p, next, [&](int r, int half, i16v v) {
        const int column = p * PANEL + half * 16;
        const RowScale s = x.scales[r];
        const f16v exact = to_floats(without_zero(v, w.sums + column, s.zero));
        put(r, column, exact * (load(w.scales + column) * s.scale) + load(w.bias + column));
      });
    } else {
      panel_of_wide((const Wide*)&x.wide[0], x.stride, count, (const uint16_t*)w.packed, w.k, p, next,
                    [&](int r, int half, f16v v) {
        const int column = p * PANEL + half * 16;
        put(r, column, v + load(w.bias + column));
      });
    }
  }
}

void layer_norm(float* x, int width, const float* weight, const float* bias, float eps) {
  f16v total = {}, squares = {};
  for (int i = 0; i < width; i += 16) total += load(x + i);
  const float mean = sum(total) / width;
  for (int i = 0; i < width; i += 16) {
    const f16v v = load(x + i) - mean;
    squares += v * v;
  }
  const float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
  for (int i = 0; i < width; i += 16) store(x + i, (load(x + i) - mean) * scale * load(weight + i) + load(bias + i));
}

}  // namespace
}  // namespace tenfold
