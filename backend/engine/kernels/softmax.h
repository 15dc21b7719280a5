// The online softmax over a tile of rows and some pages, and how what segments of pages gave is merged.
//
// The softmax is computed online (Milakov & Gimelshein 2018) over groups of 4 pages within segments of 16; segments
// are merged in order (Flash-Decoding, Dao et al. 2023). The cut is by position alone, so a row's result is the same to
// the last bit whatever else is in the batch, however its prompt was chunked, and whoever shares its pages.
#pragma once
#include "amx.h"
#include "pages.h"
#include "pairs.h"

#include <vector>

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

constexpr int GROUP = 4;      // pages per step of the online softmax
constexpr int SEGMENT = 16;   // pages whose softmax is merged as one
#if defined(TENFOLD_AMX)
constexpr int TILE = 16;      // rows (query token, head) that share a load
#else
constexpr int TILE = 12;
#endif

// Running softmax of up to TILE rows: maximum, sum (as lanes) and weighted values.
struct State {
  float top[TILE];
  f16v total[TILE];
  std::vector<float> acc;  // [TILE][head_size]
  void clear(int rows, int D) {
    acc.resize((size_t)TILE * D);
    for (int r = 0; r < rows; r++) { top[r] = -INFINITY; total[r] = f16v{}; }
    std::fill(acc.begin(), acc.begin() + (size_t)rows * D, 0.0f);
  }
};

// Takes in a row's scores of `count` pages, `scores(page)`; `put(page, weights)` is given the tokens' weights, which may be
// `coarse` where they are rounded to bf16. Returns how much what was known before counts.
template <bool coarse, typename Scores, typename Put>
TENFOLD_INLINE inline float soften(State& st, int r, int count, Scores scores, Put put) {
  f16v best = scores(0);
#pragma GCC unroll 4
  for (int b = 1; b < count; b++) { best = larger(scores(b), best); }
  const float top = std::max(st.top[r], largest(best));
  const float carry = top == st.top[r] ? 1.0f : std::exp(st.top[r] - top);
  st.top[r] = top;
  f16v total = st.total[r] * carry;
#pragma GCC unroll 4
  for (int b = 0; b < count; b++) {
    constexpr float LOG2E = 1.44269504088896341f;
    const f16v x = coarse ? scores(b) * LOG2E - top * LOG2E : scores(b) - top;
    f16v e = coarse ? coarse_power_of_two(x) : exp16(x);
    e = select(x > -80.0f, e, f16v{});  // also where nothing may be looked at, and x is not a number
    total += e;
    put(b, e);
  }
  st.total[r] = total;
  return carry;
}

// Takes in `count` (at most GROUP) pages. room[r]: how many of their tokens row r may look at; below 1 is none.
// Queries come as float32 [D][MR], or for `DOT` as bf16 pairs [D / 2][MR]; `scale` is that of the scores.
template <int MR, typename T, bool DOT>
void take_pages(const char* const* pages, int count, const char* const* ahead, int D, const float* query,
                const uint32_t* pairs, float scale, const int* room, State& st) {
  alignas(64) float p[GROUP][MR][PAGE] = {};
  alignas(64) uint32_t narrow_p[GROUP][MR][PAGE / 2];  // pairs of bf16
  const i16v lanes = load(COUNTED);
  constexpr int NB = MR * PIECES <= SUM_REGISTERS / 4 ? 2 : 1;
  auto score = [&](auto width, int page) {
    constexpr int NB = decltype(width)::value;
    f16v acc[NB][MR];
#pragma GCC unroll 16
    for (int b = 0; b < NB; b++)
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) acc[b][r] = f16v{};
    for (int d = 0; d < D; d += 4)
#pragma GCC unroll 16
      for (int b = 0; b < NB; b++) {
        // Pages are scattered, so nothing but this asks for the next ones in time.
        for (int i = 0; i < (int)(4 * PAGE * sizeof(T)); i += 64) {
          __builtin_prefetch(ahead[page + b] + d * PAGE * sizeof(T) + i, 0, 2);
          __builtin_prefetch(ahead[page + b] + (D + d) * PAGE * sizeof(T) + i, 0, 2);
        }
        const T* at = keys_of<T>(pages[page + b]) + d * PAGE;
        if constexpr (DOT) {
#pragma GCC unroll 2
          for (int i = 0; i < 2; i++) {
            const f16v k = load_pairs(at + i * 2 * PAGE);
            const uint32_t* q = pairs + (d / 2 + i) * MR;
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++) acc[b][r] = add_dot(acc[b][r], q + r, k);
          }
        } else {
          f16v k[4];
          load_four(at, PAGE, k);
#pragma GCC unroll 16
          for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) acc[b][r] += k[i] * query[(d + i) * MR + r];
        }
      }
#pragma GCC unroll 16
    for (int b = 0; b < NB; b++) {
      f16v factor = splat(scale);
      if (std::is_same<T, int8_t>::value) factor = factor * load(key_scales(pages[page + b], D));
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) {
        f16v s = acc[b][r] * factor;
        const int left = room[r] - (page + b) * PAGE;
        if (left < PAGE) s = select(lanes < left, s, splat(-INFINITY));
        store(p[page + b][r], s);
      }
    }
  };
  int page = 0;
  for (; page + NB <= count; page += NB) score(std::integral_constant<int, NB>{}, page);
  for (; page < count; page++) score(std::integral_constant<int, 1>{}, page);

  float carry[MR];  // what is known so far counts this much after the maximum has risen
  int reach = 0;
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++) {
    carry[r] = soften<DOT>(st, r, count, [&](int b) { return load(p[b][r]); }, [&](int b, f16v e) {
      if (std::is_same<T, int8_t>::value) e = e * load(value_scales(pages[b], D));
      if (DOT) store_pairs(narrow_p[b][r], e); else store(p[b][r], e);
    });
    reach = std::max(reach, room[r]);
  }

  auto weigh = [&](auto width, int from) {
    constexpr int NC = decltype(width)::value;
    f16v acc[MR][NC];
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
      for (int c = 0; c < NC; c++) acc[r][c] = load(&st.acc[(size_t)r * D + from + c * 16]) * carry[r];
    for (int b = 0; b < count; b++) {
      const T* v = values_of<T>(pages[b], D);
      const int tokens = std::min(PAGE, reach - b * PAGE);
      for (int t = 0; t < tokens; t += 4) {  // a token past the end weighs nothing
        const uint32_t* weights = &narrow_p[b][0][t / 2];
#pragma GCC unroll 16
        for (int c = 0; c < NC; c++) {
          const T* at = v + value_at<T>(from + c * 16, t, D);
          if constexpr (DOT) {
#pragma GCC unroll 2
            for (int i = 0; i < 2; i++) {
              const f16v x = load_pairs(at + i * 2 * D);
#pragma GCC unroll 16
              for (int r = 0; r < MR; r++) acc[r][c] = add_dot(acc[r][c], weights + r * (PAGE / 2) + i, x);
            }
          } else {
            f16v x[4];
            load_four(at, D, x);
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++)
#pragma GCC unroll 4
              for (int i = 0; i < 4; i++) acc[r][c] += x[i] * p[b][r][t + i];
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 16
      for (int c = 0; c < NC; c++) store(&st.acc[(size_t)r * D + from + c * 16], acc[r][c]);
  };
  constexpr int FIT = SUM_REGISTERS / (MR * PIECES), NC = FIT >= 4 ? 4 : FIT >= 2 ? 2 : 1;
  int from = 0;
  for (; from + NC * 16 <= D; from += NC * 16) weigh(std::integral_constant<int, NC>{}, from);
  for (; from < D; from += 16) weigh(std::integral_constant<int, 1>{}, from);
}

struct Merged {  // segments in order
  float top = -INFINITY, total = 0;
};
inline void merge(Merged& m, float* acc, float top, float total, const float* values, int D) {
  if (top == -INFINITY) return;
  if (m.top == -INFINITY) {
    m.top = top; m.total = total;
    std::memcpy(acc, values, D * sizeof(float));
    return;
  }
  const float high = std::max(m.top, top), a = std::exp(m.top - high), b = std::exp(top - high);
  m.total = m.total * a + total * b;
  m.top = high;
  for (int d = 0; d < D; d += 16) store(acc + d, load(acc + d) * a + load(values + d) * b);
}
template <typename Q> inline void finish(Q* out, const float* acc, float total, int D) {
  const float inverse = 1.0f / total;
  for (int d = 0; d < D; d += 16) store(out + d, load(acc + d) * inverse);
}

}  // namespace
}  // namespace tenfold
