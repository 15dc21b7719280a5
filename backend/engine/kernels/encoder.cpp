// A BERT encoder from token ids to one vector a text. Every thread takes whole texts, from the embeddings through all
// layers to the mean: no thread waits for another between two steps, a text's numbers stay in the core's own cache, and
// a vector is the same to the last bit whatever else is in the batch. Sums of 8-bit products are exact; what lies
// between them is float32, but for queries, keys, values and the inner rows, which are bf16.
#include "kernels.h"
#include "gemm.h"

#ifdef TENFOLD_GEMM
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

using namespace tenfold;

namespace {

constexpr int BLOCK = 120;  // rows, at most, that go through the feed-forward layer together: what they need stays cached

typedef tenfold_encoder Model;
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

// ---- one text -------------------------------------------------------------------------------------------------------

// A row of what lies between the feed-forward products: were its length a power of two, rows would crowd a few sets of
// the cache.
inline int inner_stride(const Model& m) { return m.intermediate + 32; }

// What a thread needs for a text; kept between texts.
struct Scratch {
  Rows rows;
  Room<float> x;                // [tokens][hidden]: what the layers pass on
  Room<uint16_t> qkv;           // [tokens][3 hidden]
  Room<uint16_t> attended;      // [tokens][hidden]
  Room<uint16_t> inner;         // [BLOCK][inner_stride]
  Room<uint16_t> keys, values;  // of one head, as panels
  Room<uint16_t> weights;       // [ROWS][tokens, in whole panels]: the softmax before it is divided by its sum
  void fit(const Model& m, int tokens) {
    const size_t padded = up(tokens, PANEL) * PANEL, hidden = m.hidden, head = m.hidden / m.heads;
    x.fit(tokens * hidden);
    qkv.fit(tokens * 3 * hidden);
    attended.fit(tokens * hidden);
    inner.fit((size_t)BLOCK * inner_stride(m));
    keys.fit(padded * head);
    values.fit(padded * head);
    weights.fit(ROWS * padded);
  }
};

// Keys of one head as panels of 32 tokens, to be multiplied by queries: [panel][head_size / 2][32][2].
void pack_keys(const uint16_t* from, int64_t stride, int tokens, int D, uint16_t* to) {
  for (int t = 0; t < up(tokens, PANEL) * PANEL; t++) {
    uint32_t* at = (uint32_t*)(to + (int64_t)(t / PANEL) * D * PANEL) + t % PANEL;
    for (int d = 0; d < D; d += 2) {
      uint32_t pair = 0;
      if (t < tokens) std::memcpy(&pair, from + t * stride + d, 4);
      at[d / 2 * PANEL] = pair;
    }
  }
}

// Values of one head as panels of 32 dimensions, to be multiplied by weights: [panel][tokens / 2][32][2].
void pack_values(const uint16_t* from, int64_t stride, int tokens, int D, uint16_t* to) {
  const int even = up(tokens, 2) * 2;
  for (int p = 0; p < D / PANEL; p++)
    for (int t = 0; t < even; t += 2) {
      uint16_t* at = to + ((int64_t)p * even + t) * PANEL;
      const uint16_t* first = from + t * stride + p * PANEL;
      for (int d = 0; d < PANEL; d++) {
        at[2 * d] = first[d];
        at[2 * d + 1] = t + 1 < tokens ? first[stride + d] : 0;
      }
    }
}

// Weights of MR queries for all tokens, 2^(score - offset) in bf16, zero behind the end; `part` becomes 1 / their sum.
// Returns whether all sums are far from what float32 cannot hold.
template <int MR>
bool weigh(const uint16_t* query, int64_t stride, int tokens, int D, const float* offset, const Scratch& s,
           uint16_t* weights, float* part) {
  const int panels = up(tokens, PANEL), padded = panels * PANEL;
  const __m512 scale = _mm512_set1_ps(1.44269504f / std::sqrt((float)D));
  __m512 total[MR];
  for (int r = 0; r < MR; r++) total[r] = _mm512_setzero_ps();
  for (int p = 0; p < panels; p++)
    tile_bf16<MR>(query, stride, &s.keys[(size_t)p * D * PANEL], D, NOTHING_AHEAD, [&](int r, int half, __m512 v) {
      const int column = p * PANEL + half * 16;
      __m512 e = power_of_two(_mm512_fmsub_ps(v, scale, _mm512_set1_ps(offset[r])));
      if (column + 16 > tokens) e = _mm512_maskz_mov_ps(lanes(std::max(tokens - column, 0)), e);
      total[r] = _mm512_add_ps(total[r], e);
      store_narrow(weights + r * padded + column, e);
    });
  bool fine = true;
  for (int r = 0; r < MR; r++) {
    const float sum = _mm512_reduce_add_ps(total[r]);
    fine = fine && sum > 1e-30f && sum < 1e30f;
    part[r] = 1.0f / sum;
  }
  return fine;
}

// The largest score of each of MR queries.
template <int MR>
void find_largest(const uint16_t* query, int64_t stride, int tokens, int D, const Scratch& s, float* largest) {
  const float scale = 1.44269504f / std::sqrt((float)D);
  __m512 top[MR];
  for (int r = 0; r < MR; r++) top[r] = _mm512_set1_ps(-INFINITY);
  for (int p = 0; p < up(tokens, PANEL); p++)
    tile_bf16<MR>(query, stride, &s.keys[(size_t)p * D * PANEL], D, NOTHING_AHEAD, [&](int r, int half, __m512 v) {
      const int column = p * PANEL + half * 16;
      top[r] = _mm512_mask_max_ps(top[r], lanes(std::max(tokens - column, 0)), top[r], v);
    });
  for (int r = 0; r < MR; r++) largest[r] = _mm512_reduce_max_ps(top[r]) * scale;
}

// Nearly all scores are small enough to be taken as they are; only where they are not, the largest is found first.
void attend(const Model& m, int tokens, Scratch& s) {
  const int D = m.hidden / m.heads, even = up(tokens, 2) * 2, padded = up(tokens, PANEL) * PANEL;
  const int64_t stride = 3 * (int64_t)m.hidden;
  for (int h = 0; h < m.heads; h++) {
    const uint16_t* queries = &s.qkv[0] + h * D;
    pack_keys(queries + m.hidden, stride, tokens, D, &s.keys[0]);
    pack_values(queries + 2 * m.hidden, stride, tokens, D, &s.values[0]);
    in_tiles(tokens, [&](auto tile, int first) {
      constexpr int MR = decltype(tile)::value;
      const uint16_t* query = queries + first * stride;
      float offset[MR] = {}, part[MR];
      if (!weigh<MR>(query, stride, tokens, D, offset, s, &s.weights[0], part)) {
        find_largest<MR>(query, stride, tokens, D, s, offset);
        weigh<MR>(query, stride, tokens, D, offset, s, &s.weights[0], part);
      }
      for (int p = 0; p < D / PANEL; p++)
        tile_bf16<MR>(&s.weights[0], padded, &s.values[(size_t)p * even * PANEL], even, NOTHING_AHEAD,
                      [&](int r, int half, __m512 v) {
          store_narrow(&s.attended[(int64_t)(first + r) * m.hidden + h * D + p * PANEL + half * 16],
                       _mm512_mul_ps(v, _mm512_set1_ps(part[r])));
        });
    });
  }
}

// The sum of each token's and its place's embeddings, normalized: [tokens][hidden].
void embed_tokens(const Model& m, const int32_t* ids, int tokens, float* x) {
  for (int t = 0; t < tokens; t++) {
    float* row = x + (int64_t)t * m.hidden;
    const float *word = m.words + (int64_t)ids[t] * m.hidden, *place = m.places + (int64_t)t * m.hidden;
    for (int i = 0; i < m.hidden; i += 16)
      _mm512_storeu_ps(row + i, _mm512_add_ps(_mm512_loadu_ps(word + i), _mm512_loadu_ps(place + i)));
    layer_norm(row, m.hidden, m.norm, m.norm_bias, m.eps);
  }
}

// What follows attention in a layer, for `count` rows of `x` and of `attended`.
void feed_forward(const Model& m, const tenfold_encoder_layer& w, int count, const uint16_t* attended, float* x,
                  Scratch& s) {
  const int H = m.hidden;
  const int inner = inner_stride(m);
  auto add = [&](int row, int column, __m512 v) {
    float* at = x + (int64_t)row * H + column;
    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), v));
  };
  s.rows.shape(w.output, count);
  for (int r = 0; r < count; r++) s.rows.put(w.output, r, numbers_of(attended + (int64_t)r * H));
  multiply(s.rows, count, w.output, add);
  s.rows.shape(w.inner, count);
  for (int r = 0; r < count; r++) {
    float* row = x + (int64_t)r * H;
    layer_norm(row, H, w.attention_norm, w.attention_norm_bias, m.eps);
    s.rows.put(w.inner, r, numbers_of(row));
  }
  multiply(s.rows, count, w.inner, [&](int row, int column, __m512 v) {
    store_narrow(&s.inner[(int64_t)row * inner + column], v);
  });
  s.rows.shape(w.outer, count);
  for (int r = 0; r < count; r++) s.rows.put_gelu(w.outer, r, &s.inner[(int64_t)r * inner]);
  multiply(s.rows, count, w.outer, add);
  for (int r = 0; r < count; r++) layer_norm(x + (int64_t)r * H, H, w.outer_norm, w.outer_norm_bias, m.eps);
}

// The mean of `count` rows, brought to length 1.
void pool(const float* x, int count, int width, float* out) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < width; i += 16) {
    __m512 total = _mm512_setzero_ps();
    for (int t = 0; t < count; t++) total = _mm512_add_ps(total, _mm512_loadu_ps(x + (int64_t)t * width + i));
    _mm512_storeu_ps(out + i, total);
    squares = _mm512_fmadd_ps(total, total, squares);
  }
  const __m512 length = _mm512_set1_ps(std::max(std::sqrt(_mm512_reduce_add_ps(squares)), 1e-12f));
  for (int i = 0; i < width; i += 16) _mm512_storeu_ps(out + i, _mm512_div_ps(_mm512_loadu_ps(out + i), length));
}

void encode(const Model& m, const int32_t* ids, int tokens, float* out, Scratch& s) {
  const int H = m.hidden;
  s.fit(m, tokens);
  float* x = &s.x[0];
  embed_tokens(m, ids, tokens, x);
  const int blocks = up(tokens, BLOCK), each = up(up(tokens, blocks), ROWS) * ROWS;
  for (int i = 0; i < m.count; i++) {
    const tenfold_encoder_layer& w = m.layers[i];
    s.rows.shape(w.qkv, tokens);
    for (int t = 0; t < tokens; t++) s.rows.put(w.qkv, t, numbers_of(x + (int64_t)t * H));
    multiply(s.rows, tokens, w.qkv, [&](int row, int column, __m512 v) {
      store_narrow(&s.qkv[(int64_t)row * 3 * H + column], v);
    });
    attend(m, tokens, s);
    for (int first = 0; first < tokens; first += each)
      feed_forward(m, w, std::min(each, tokens - first), &s.attended[(int64_t)first * H], x + (int64_t)first * H, s);
  }
  pool(x, m.pool_first ? 1 : tokens, H, out);
}

}  // namespace

extern "C" void tenfold_encode(const tenfold_encoder* model, const int32_t* ids, const int32_t* starts, int texts,
                               float* out) {
  std::atomic<int> next{0};
#pragma omp parallel
  {
    static thread_local std::unique_ptr<Scratch> kept;
    if (!kept) kept = std::make_unique<Scratch>();
    Scratch& scratch = *kept;
    for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < texts;)
      encode(*model, ids + starts[i], starts[i + 1] - starts[i], out + (int64_t)i * model->hidden, scratch);
  }
}
#else  // never called: tenfold_has_gemm() is 0
extern "C" void tenfold_encode(const tenfold_encoder*, const int32_t*, const int32_t*, int, float*) {}
#endif
