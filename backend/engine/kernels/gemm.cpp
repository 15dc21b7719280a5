// Matrix products of the decoder: bf16 and 8-bit weights, packed once, read in the order they are used; see gemm.h.
// Activations of the 8-bit product are quantized per row (token) here.
#include "kernels.h"
#include "gemm.h"

#include <atomic>
#include <cmath>
#include <vector>

#include <omp.h>

extern "C" int tenfold_has_gemm() {
#ifdef TENFOLD_GEMM
  return 1;
#else
  return 0;
#endif
}

#ifdef TENFOLD_GEMM
using namespace tenfold;

namespace {

constexpr int BLOCK = 96;     // rows that share a panel while it is in the cache nearest to the core

struct Out {
  void* base; int64_t stride; int is_float; int columns;  // columns of the whole product
  const float* bias;
};

inline void put(const Out& o, int64_t row, int column, __m512 v) {
  const int room = o.columns - column;
  if (room <= 0) return;
  const __mmask16 mask = lanes(room);
  if (o.bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, o.bias + column));
  if (o.is_float) _mm512_mask_storeu_ps((float*)o.base + row * o.stride + column, mask, v);
  else _mm256_mask_storeu_epi16((uint16_t*)o.base + row * o.stride + column, mask, (__m256i)_mm512_cvtneps_pbh(v));
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
    in_tiles(count, [&](auto tile, int at) {
      constexpr int MR = decltype(tile)::value;
      const int64_t row = first + at;
      tile_bf16<MR>(a + row * k, k, packed + p * size, k, share(packed + next * size, size * 2, at, MR, count, k / 2),
                    [&](int r, int half, __m512 v) { put(o, row + r, p * PANEL + half * 16, v); });
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
  Shares shares(m, (n + PANEL - 1) / PANEL);
  auto quantize = [&](int r) {
    auto from = [&](auto* row) {
      s[r] = quantize_row(k, q + (int64_t)r * k, [&](int i, __mmask16 mask) { return load_masked(row + i, mask); }).scale;
    };
    if (a_is_float) from((const float*)a + (int64_t)r * k); else from((const uint16_t*)a + (int64_t)r * k);
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
      in_tiles(count, [&](auto tile, int at) {
        constexpr int MR = decltype(tile)::value;
        const int64_t row = first + at;
        tile_int8<MR>(q + row * k, k, packed + p * size, k, share(packed + next * size, size, at, MR, count, k / 4),
                      [&](int r, int half, __m512i v) {
          const int column = p * PANEL + half * 16;
          const __m512 exact = _mm512_cvtepi32_ps(_mm512_sub_epi32(v, _mm512_loadu_si512(sums + column)));
          const __m512 scaled = _mm512_mul_ps(exact, _mm512_loadu_ps(scales + column));
          put(o, row + r, column, _mm512_mul_ps(scaled, _mm512_set1_ps(s[row + r])));
        });
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
