// Matrix products of the decoder: bf16 and 8-bit weights, packed once, read in the order they are used.
//
// Packed weights come in panels of 32 output columns; within a panel the inner dimension runs in steps of one dot
// instruction (2 bf16 or 4 int8 values), so a step of a panel is 128 consecutive bytes:
//   bf16  [panel][k / 2][32][2]        int8  [panel][k / 4][32][4]
// Activations of the 8-bit product are quantized per row (token) here, symmetric, and offset to unsigned as the dot
// instruction wants them; the offset's share is taken off again with the column sums of the weights.
#include "kernels.h"
#include "vector.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define TENFOLD_GEMM 1
#include <immintrin.h>
#endif

using tenfold::narrow;

extern "C" int tenfold_has_gemm() {
#ifdef TENFOLD_GEMM
  return 1;
#else
  return 0;
#endif
}

#ifdef TENFOLD_GEMM
namespace {

constexpr int PANEL = 32;
// Rows of a tile. 12 x 2 accumulators fill the register file; for the 8-bit product GCC spills them, and 8 x 2 are
// twice as fast.
constexpr int ROWS_BF16 = 12, ROWS_INT8 = 8;
constexpr int BLOCK = 96;     // rows that share a panel while it is in the cache nearest to the core

// What a pass over a panel asks for meanwhile: its share of the panel that this thread works on next. So weights come
// from memory while all passes compute, not while the first one waits.
struct Ahead { const char* at; int64_t per_step; };
inline void prefetch(const Ahead& a, int64_t step) {
  const char* p = a.at + step * a.per_step;
  _mm_prefetch(p, _MM_HINT_T1);
  if (a.per_step > 64) _mm_prefetch(p + 64, _MM_HINT_T1);
}

// The part of `bytes` at `next` that the pass over rows [at, at + rows) of `count` asks for, in `steps` steps.
inline Ahead share(const void* next, int64_t bytes, int at, int rows, int count, int steps) {
  return {(const char*)next + bytes * at / count, bytes * rows / ((int64_t)count * steps)};
}

struct Out {
  void* base; int64_t stride; int is_float; int columns;  // columns of the whole product
  const float* bias;
};

inline void put(const Out& o, int64_t row, int column, __m512 v) {
  const int room = o.columns - column;
  if (room <= 0) return;
  const __mmask16 mask = room >= 16 ? 0xffff : (__mmask16)((1u << room) - 1);
  if (o.bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, o.bias + column));
  if (o.is_float) _mm512_mask_storeu_ps((float*)o.base + row * o.stride + column, mask, v);
  else _mm256_mask_storeu_epi16((uint16_t*)o.base + row * o.stride + column, mask, (__m256i)_mm512_cvtneps_pbh(v));
}

template <int MR>
void tile_bf16(const uint16_t* a, int64_t lda, const uint16_t* panel, int k, const Out& o, int64_t row, int column,
               const Ahead& ahead) {
  __m512 acc[MR][2];
  for (int r = 0; r < MR; r++) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  for (int i = 0; i < k; i += 2) {
    prefetch(ahead, i / 2);
    const __m512bh w0 = (__m512bh)_mm512_loadu_si512(panel + (int64_t)i * PANEL);
    const __m512bh w1 = (__m512bh)_mm512_loadu_si512(panel + (int64_t)i * PANEL + 32);
    for (int r = 0; r < MR; r++) {
      int32_t pair; std::memcpy(&pair, a + r * lda + i, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], x, w0);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], x, w1);
    }
  }
  for (int r = 0; r < MR; r++) { put(o, row + r, column, acc[r][0]); put(o, row + r, column + 16, acc[r][1]); }
}

struct Int8 { const uint8_t* rows; const float* row_scales; const float* column_scales; const int32_t* column_sums; };

template <int MR>
void tile_int8(const Int8& q, int64_t lda, const int8_t* panel, int k, const Out& o, int64_t row, int column,
               const Ahead& ahead) {
  __m512i acc[MR][2];
  for (int r = 0; r < MR; r++) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
  const uint8_t* a = q.rows + row * lda;
  for (int i = 0; i < k; i += 4) {
    prefetch(ahead, i / 4);
    const __m512i w0 = _mm512_loadu_si512(panel + (int64_t)i * PANEL);
    const __m512i w1 = _mm512_loadu_si512(panel + (int64_t)i * PANEL + 64);
    for (int r = 0; r < MR; r++) {
      int32_t four; std::memcpy(&four, a + r * lda + i, 4);
      const __m512i x = _mm512_set1_epi32(four);
      acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], x, w0);
      acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], x, w1);
    }
  }
  for (int half = 0; half < 2; half++) {
    const __m512i sums = _mm512_loadu_si512(q.column_sums + column + half * 16);
    const __m512 scales = _mm512_loadu_ps(q.column_scales + column + half * 16);
    for (int r = 0; r < MR; r++) {
      const __m512 v = _mm512_cvtepi32_ps(_mm512_sub_epi32(acc[r][half], sums));
      put(o, row + r, column + half * 16, _mm512_mul_ps(_mm512_mul_ps(v, scales), _mm512_set1_ps(q.row_scales[row + r])));
    }
  }
}

template <int MOST, typename Tile>
void rows(int count, Tile tile) {  // cut rows into tiles of the sizes that are compiled
  int at = 0;
  auto take = [&](auto size) { tile(size, at); at += decltype(size)::value; };
  while (at < count) {
    const int left = count - at;
    if (MOST > 8 && left >= MOST && left != 16) take(std::integral_constant<int, MOST>{});
    else if (left >= 8) take(std::integral_constant<int, 8>{});
    else if (left >= 6) take(std::integral_constant<int, 6>{});
    else if (left >= 4) take(std::integral_constant<int, 4>{});
    else if (left >= 2) take(std::integral_constant<int, 2>{});
    else take(std::integral_constant<int, 1>{});
  }
}

// Shares (row block, panel) tasks out: every thread works through a run of its own, in order, so that it knows which
// panel comes next; who is done takes from the others, so that a thread that was held up costs only its own task.
class Shares {
 public:
  Shares(int m, int panels) : m_(m), panels_(panels), total_((m + BLOCK - 1) / BLOCK * panels) {}
  // `work(first row, rows, panel, next panel)`, by every thread of a team.
  template <typename Work> void run(Work work) {
    const int team = std::min(omp_get_num_threads(), MOST), me = omp_get_thread_num();
    for (int turn = 0; turn < team; turn++) {
      const int whose = (me + turn) % team;
      const int begin = (int64_t)total_ * whose / team, end = (int64_t)total_ * (whose + 1) / team;
      for (int i; (i = begin + taken_[whose].count.fetch_add(1, std::memory_order_relaxed)) < end;) {
        const int first = i / panels_ * BLOCK;
        work(first, std::min(BLOCK, m_ - first), i % panels_, (i + 1 < end ? i + 1 : i) % panels_);
      }
    }
  }

 private:
  static constexpr int MOST = 64;
  struct alignas(64) Taken { std::atomic<int> count{0}; };
  int m_, panels_, total_;
  Taken taken_[MOST];
};

// One row to unsigned 8 bits with offset 128; returns its scale.
template <typename Load>
float quantize_row(int k, uint8_t* out, Load load) {
  __m512 top = _mm512_setzero_ps();
  int i = 0;
  for (; i + 16 <= k; i += 16) top = _mm512_max_ps(top, _mm512_abs_ps(load(i, (__mmask16)0xffff)));
  const __mmask16 tail = (__mmask16)((1u << (k - i)) - 1);
  if (tail) top = _mm512_max_ps(top, _mm512_abs_ps(load(i, tail)));
  const float scale = std::max(_mm512_reduce_max_ps(top), 1e-8f) / 127.0f;
  const __m512 inverse = _mm512_set1_ps(1.0f / scale);
  const __m512i offset = _mm512_set1_epi32(128);
  for (i = 0; i < k; i += 16) {
    const __mmask16 mask = k - i >= 16 ? (__mmask16)0xffff : tail;
    const __m512i v = _mm512_add_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(load(i, mask), inverse)), offset);
    _mm_mask_storeu_epi8(out + i, mask, _mm512_cvtepi32_epi8(v));
  }
  return scale;
}

}  // namespace

extern "C" {

// weight: float32 [n][k], row major. k must be a multiple of 4.
void tenfold_pack_bf16(const float* weight, int n, int k, uint16_t* packed) {
  const int panels = (n + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static)
  for (int p = 0; p < panels; p++)
    for (int i = 0; i < k; i += 2)
      for (int c = 0; c < PANEL; c++)
        for (int j = 0; j < 2; j++) {
          const int column = p * PANEL + c;
          packed[((int64_t)p * k + i) * PANEL + c * 2 + j] = column < n ? narrow(weight[(int64_t)column * k + i + j]) : 0;
        }
}

// Also gives each column's scale and 128 x the sum of its 8-bit weights, both padded to whole panels.
void tenfold_pack_int8(const float* weight, int n, int k, int8_t* packed, float* scales, int32_t* sums) {
  const int panels = (n + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static)
  for (int p = 0; p < panels; p++)
    for (int c = 0; c < PANEL; c++) {
      const int column = p * PANEL + c;
      float top = 1e-8f;
      if (column < n) for (int i = 0; i < k; i++) top = std::max(top, std::fabs(weight[(int64_t)column * k + i]));
      const float inverse = 127.0f / top;
      int32_t sum = 0;
      for (int i = 0; i < k; i++) {
        const int v = column < n ? (int)std::lrintf(weight[(int64_t)column * k + i] * inverse) : 0;
        sum += v;
        packed[((int64_t)p * k + i / 4 * 4) * PANEL + c * 4 + i % 4] = (int8_t)v;
      }
      scales[column] = top / 127.0f;
      sums[column] = 128 * sum;
    }
}

void tenfold_gemm_bf16(const uint16_t* a, const uint16_t* packed, const float* bias, void* out, int out_is_float,
                       int m, int n, int k) {
  const Out o{out, n, out_is_float, n, bias};
  Shares shares(m, (n + PANEL - 1) / PANEL);
#pragma omp parallel
  shares.run([&](int first, int count, int p, int next) {
    const int64_t size = (int64_t)PANEL * k;
    rows<ROWS_BF16>(count, [&](auto tile, int at) {
      constexpr int MR = decltype(tile)::value;
      tile_bf16<MR>(a + (int64_t)(first + at) * k, k, packed + p * size, k, o, first + at, p * PANEL,
                    share(packed + next * size, size * 2, at, MR, count, k / 2));
    });
  });
}

void tenfold_gemm_int8(const void* a, int a_is_float, const int8_t* packed, const float* scales, const int32_t* sums,
                       const float* bias, void* out, int out_is_float, int m, int n, int k) {
  static thread_local std::vector<uint8_t> quantized;
  static thread_local std::vector<float> row_scales;
  if (quantized.size() < (size_t)m * k) quantized.resize((size_t)m * k);
  if (row_scales.size() < (size_t)m) row_scales.resize(m);
  uint8_t* q = quantized.data();
  float* s = row_scales.data();
  const Out o{out, n, out_is_float, n, bias};
  const Int8 x{q, s, scales, sums};
  Shares shares(m, (n + PANEL - 1) / PANEL);
  auto quantize = [&](int r) {
    if (a_is_float) {
      const float* row = (const float*)a + (int64_t)r * k;
      s[r] = quantize_row(k, q + (int64_t)r * k, [&](int i, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, row + i); });
    } else {
      const uint16_t* row = (const uint16_t*)a + (int64_t)r * k;
      s[r] = quantize_row(k, q + (int64_t)r * k, [&](int i, __mmask16 mask) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row + i)), 16));
      });
    }
  };
  const bool shared = (int64_t)m * k > 16384;
  if (!shared) for (int r = 0; r < m; r++) quantize(r);
#pragma omp parallel
  {
    if (shared) {
#pragma omp for schedule(static)
      for (int r = 0; r < m; r++) quantize(r);
    }
    shares.run([&](int first, int count, int p, int next) {
      const int64_t size = (int64_t)PANEL * k;
      rows<ROWS_INT8>(count, [&](auto tile, int at) {
        constexpr int MR = decltype(tile)::value;
        tile_int8<MR>(x, k, packed + p * size, k, o, first + at, p * PANEL,
                      share(packed + next * size, size, at, MR, count, k / 4));
      });
    });
  }
}

// Operations per second of the dot instruction alone, on every core: what a product can reach at most. bits: 16 or 8.
double tenfold_peak(int bits) {
  constexpr int64_t ROUNDS = 4'000'000;
  int threads = 1;
  double seconds = 0;
#pragma omp parallel
  {
    const __m512i x = _mm512_set1_epi32(0x01010101);
    __m512i a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x;  // eight chains hide the instruction's latency
#pragma omp single
    threads = omp_get_num_threads();
    const double started = omp_get_wtime();
    auto spin = [&](auto dot) {
      for (int64_t r = 0; r < ROUNDS; r++) {
        a = dot(a); b = dot(b); c = dot(c); d = dot(d); e = dot(e); f = dot(f); g = dot(g); h = dot(h);
        asm volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h));
      }
    };
    if (bits == 8) spin([&](__m512i v) { return _mm512_dpbusd_epi32(v, x, x); });
    else spin([&](__m512i v) { return (__m512i)_mm512_dpbf16_ps((__m512)v, (__m512bh)x, (__m512bh)x); });
    const double took = omp_get_wtime() - started;
#pragma omp critical
    seconds = std::max(seconds, took);
  }
  return (double)ROUNDS * 8 * threads * (bits == 8 ? 128 : 64) / seconds;
}

}  // extern "C"
#else  // never called: tenfold_has_gemm() is 0
extern "C" {
void tenfold_gemm_bf16(const uint16_t*, const uint16_t*, const float*, void*, int, int, int, int) {}
void tenfold_gemm_int8(const void*, int, const int8_t*, const float*, const int32_t*, const float*, void*, int, int, int,
                       int) {}
}
#endif
