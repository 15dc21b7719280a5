// Attention over the paged KV cache, read in place, and everything that writes a page.
//
// A page holds 16 tokens of one KV head, keys and values one behind the other; a block is the pages of all KV heads,
// so that a decode step reads long runs. Keys lie transposed, so that one vector holds one dimension of all 16 tokens;
// in bf16 two, in int8 four dimensions (of keys) or tokens (of values) lie side by side, so that one load gives so
// many vectors:
//   float32  keys [head_size][16]          values [16][head_size]
//   bf16     keys [head_size / 2][16][2]   values [8][head_size][2]
//   int8     keys [head_size / 4][16][4]   values [4][head_size][4]    then 16 key and 16 value scales, float32
//
// The softmax is computed online (Milakov & Gimelshein 2018) over groups of 4 pages within segments of 16; segments
// are merged in order (Flash-Decoding, Dao et al. 2023). The cut is by position alone, so a row's result is the same to
// the last bit whatever else is in the batch, however its prompt was chunked, and whoever shares its pages.
#include "kernels.h"
#include "vector.h"

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

using namespace tenfold;

namespace {

// Two products of bf16 pairs at once, where the processor has the instruction: half the work on bf16 pages. Queries are
// bf16 already; the softmax's weights are rounded to it, as every fused attention in 16 bits does. The pair is spread
// over the lanes by the instruction itself; left to choose, the compiler spreads them ahead and has no registers left.
#ifdef __AVX512BF16__
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

constexpr int PAGE = 16;
constexpr int GROUP = 4;      // pages per step of the online softmax
constexpr int SEGMENT = 16;   // pages whose softmax is merged as one
constexpr int TILE = 12;      // rows (query token, head) that share a load
constexpr int FEWEST_KEPT = 16;  // pages; a sparse choice among fewer saves nothing

// ---- places in a page -----------------------------------------------------------------------------------------------

template <typename T> constexpr int64_t page_bytes(int D) {
  return 2 * (int64_t)D * PAGE * sizeof(T) + (std::is_same<T, int8_t>::value ? 2 * PAGE * sizeof(float) : 0);
}
template <typename T> inline const T* keys_of(const char* page) { return (const T*)page; }
template <typename T> inline const T* values_of(const char* page, int D) { return (const T*)page + D * PAGE; }
inline const float* key_scales(const char* page, int D) { return (const float*)(page + 2 * D * PAGE); }
inline const float* value_scales(const char* page, int D) { return key_scales(page, D) + PAGE; }

// Four vectors that follow one another (see the layouts); `stride` is the distance of two in float32.
inline void load_four(const float* at, int stride, f16v* v) { for (int i = 0; i < 4; i++) v[i] = load(at + i * stride); }
inline void load_four(const bf16* at, int stride, f16v* v) {
  for (int i = 0; i < 2; i++) {
    u16v u; std::memcpy(&u, at + i * 2 * stride, 64);
    v[i * 2] = (f16v)(u << 16);
    v[i * 2 + 1] = (f16v)(u & 0xffff0000u);
  }
}
inline void load_four(const int8_t* at, int, f16v* v) {
  i16v u; std::memcpy(&u, at, 64);
  v[0] = __builtin_convertvector((u << 24) >> 24, f16v);
  v[1] = __builtin_convertvector((u << 16) >> 24, f16v);
  v[2] = __builtin_convertvector((u << 8) >> 24, f16v);
  v[3] = __builtin_convertvector(u >> 24, f16v);
}
// Places of (dimension, token), in elements; `side` is how many lie side by side.
template <typename T> constexpr int side() { return std::is_same<T, bf16>::value ? 2 : std::is_same<T, int8_t>::value ? 4 : 1; }
template <typename T> inline int key_at(int d, int t) {
  return d / side<T>() * side<T>() * PAGE + t * side<T>() + d % side<T>();
}
template <typename T> inline int value_at(int d, int t, int D) {
  return t / side<T>() * side<T>() * D + d * side<T>() + t % side<T>();
}

// ---- one tile over some pages ---------------------------------------------------------------------------------------

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

// Takes in `count` (at most GROUP) pages. room[r]: how many of their tokens row r may look at; below 1 is none.
// Queries come as float32 [D][MR], or for `DOT` as bf16 pairs [D / 2][MR]; `scale` is that of the scores.
template <int MR, typename T, bool DOT>
void take_pages(const char* const* pages, int count, const char* const* ahead, int D, const float* query,
                const uint32_t* pairs, float scale, const int* room, State& st) {
  alignas(64) float p[GROUP][MR][PAGE] = {};
  alignas(64) uint32_t narrow_p[GROUP][MR][PAGE / 2];  // pairs of bf16
  const i16v lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  constexpr int NB = MR <= 6 ? 2 : 1;
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
        if (left < PAGE) s = (lanes < (i16v{} + left)) ? s : splat(-INFINITY);
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
    f16v best = load(p[0][r]);
    for (int b = 1; b < count; b++) { const f16v s = load(p[b][r]); best = s > best ? s : best; }
    const float top = std::max(st.top[r], largest(best));
    carry[r] = top == st.top[r] ? 1.0f : std::exp(st.top[r] - top);
    st.top[r] = top;
    f16v total = st.total[r] * carry[r];
    for (int b = 0; b < count; b++) {
      const f16v x = load(p[b][r]) - top;
      f16v e = exp16(x);
      e = x > -80.0f ? e : f16v{};  // also where nothing may be looked at, and x is not a number
      total += e;
      if (std::is_same<T, int8_t>::value) e = e * load(value_scales(pages[b], D));
      if (DOT) store_pairs(narrow_p[b][r], e); else store(p[b][r], e);
    }
    st.total[r] = total;
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
  constexpr int NC = MR <= 6 ? 4 : 2;
  int from = 0;
  for (; from + NC * 16 <= D; from += NC * 16) weigh(std::integral_constant<int, NC>{}, from);
  for (; from < D; from += 16) weigh(std::integral_constant<int, 1>{}, from);
}

// ---- a step's work, cut once for all layers -------------------------------------------------------------------------

struct Task {
  int32_t sequence;     // the first one; a shared tile has `count` of them, at `member`
  int32_t member, count;
  int32_t kv_head;      // -1: every head
  int32_t segment;      // -1: all of them, one after the other
  int32_t first_row, rows;
};

inline int new_tokens(const tenfold_batch& b, int s) { return b.query_starts[s + 1] - b.query_starts[s]; }
inline int pages_of(const tenfold_batch& b, int s) { return (b.context_lens[s] + PAGE - 1) / PAGE; }
inline int kept_pages(const tenfold_batch& b, int s) {
  return std::max((pages_of(b, s) * b.keep_percent + 99) / 100, FEWEST_KEPT);
}
inline bool is_sparse(const tenfold_batch& b, int s) {
  return b.keep_percent < 100 && new_tokens(b, s) == 1 && b.heads / b.kv_heads <= TILE && pages_of(b, s) > kept_pages(b, s);
}

struct Plan {
  std::vector<Task> tasks, sparse;  // `sparse` stands in for the dense tasks of sequences that are long enough
  std::vector<int32_t> members;     // sequences of shared tiles
  std::vector<int64_t> partial;     // per sequence: where its partial results begin; -1: it has none
  std::vector<int32_t> segments;    // per sequence
  int64_t partials = 0;             // floats
  int first_dense = 0;              // tasks before this one are those that `sparse` replaces
};

Plan make_plan(const tenfold_batch& b) {
  Plan plan;
  const int group = b.heads / b.kv_heads, record = b.head_size + 2;
  plan.partial.assign(b.sequences, -1);
  plan.segments.resize(b.sequences);
  std::vector<Task> dense, thin;
  std::vector<int> small;
  for (int s = 0; s < b.sequences; s++) {
    const int rows = new_tokens(b, s) * group;
    plan.segments[s] = (pages_of(b, s) + SEGMENT - 1) / SEGMENT;
    if (rows > TILE) {
      for (int h = 0; h < b.kv_heads; h++)
        for (int first = 0; first < rows; first += TILE)
          dense.push_back({s, 0, 1, h, -1, first, std::min(TILE, rows - first)});
      continue;
    }
    small.push_back(s);
    if (plan.segments[s] > 1) {
      plan.partial[s] = plan.partials;
      plan.partials += (int64_t)new_tokens(b, s) * b.heads * plan.segments[s] * record;
    }
  }
  int64_t tiles = 0;
  for (int s : small) tiles += plan.segments[s];
  const bool by_head = tiles + (int64_t)dense.size() < 16;  // few sequences: every core gets a head
  auto add = [&](Task t, std::vector<Task>& to) {
    if (!by_head) { t.kv_head = -1; to.push_back(t); return; }
    for (int h = 0; h < b.kv_heads; h++) { t.kv_head = h; to.push_back(t); }
  };
  for (int s : small)
    if (is_sparse(b, s)) {
      for (int h = 0; h < b.kv_heads; h++) plan.sparse.push_back({s, 0, 1, h, -1, 0, group});
      for (int g = 0; g < plan.segments[s]; g++) add({s, 0, 1, -1, g, 0, group}, thin);
    }
  std::vector<char> taken;
  for (int segment = 0; ; segment++) {
    bool any = false;
    taken.assign(b.sequences, 0);
    for (size_t i = 0; i < small.size(); i++) {
      const int s = small[i];
      if (segment >= plan.segments[s] || is_sparse(b, s)) continue;
      any = true;
      if (taken[s]) continue;
      const int rows = new_tokens(b, s) * group;
      Task t{s, (int)plan.members.size(), 1, -1, segment, 0, rows};
      plan.members.push_back(s);
      // Whole segments only, and none that a row of the tile sees in part.
      const bool whole = (segment + 1) * SEGMENT * PAGE <= b.context_lens[s] - new_tokens(b, s);
      if (b.share_pages && whole) {
        const int32_t* mine = b.tables + s * b.table_stride + segment * SEGMENT;
        for (size_t j = i + 1; j < small.size() && t.rows < TILE; j++) {
          const int other = small[j], more = new_tokens(b, other) * group;
          if (taken[other] || is_sparse(b, other) || t.rows + more > TILE) continue;
          if ((segment + 1) * SEGMENT * PAGE > b.context_lens[other] - new_tokens(b, other)) continue;
          if (std::memcmp(mine, b.tables + other * b.table_stride + segment * SEGMENT, SEGMENT * sizeof(int32_t))) continue;
          plan.members.push_back(other);
          taken[other] = 1; t.count++; t.rows += more;
        }
      }
      add(t, dense);
    }
    if (!any) break;
  }
  plan.first_dense = (int)thin.size();
  plan.tasks = std::move(thin);
  plan.tasks.insert(plan.tasks.end(), dense.begin(), dense.end());
  return plan;
}

// ---- rows of a tile -------------------------------------------------------------------------------------------------

template <typename Q> struct Rows {
  int count = 0, width = 0;
  int limit[TILE];             // tokens that the row may look at
  const Q* query[TILE];
  Q* out[TILE];
  int64_t partial[TILE];       // of its first segment; -1: it has only one
  std::vector<float> packed;     // [head_size][width]
  std::vector<uint32_t> pairs;   // the same in bf16, two dimensions each: [head_size / 2][width]
};

template <typename Q, typename T>
constexpr bool PAIRED = HAS_DOT && std::is_same<Q, bf16>::value && std::is_same<T, bf16>::value;

inline int rounded(int rows) {
  for (int width : {1, 2, 3, 4, 6, 8}) if (rows <= width) return width;
  return TILE;
}

template <typename Q>
void gather_rows(const tenfold_batch& b, const Plan& plan, const Task& t, int kv_head, const Q* query, Q* out,
                 bool paired, Rows<Q>& rows) {
  const int D = b.head_size, group = b.heads / b.kv_heads, record = D + 2;
  rows.count = 0;
  for (int m = 0; m < t.count; m++) {
    const int s = t.count > 1 ? plan.members[t.member + m] : t.sequence;
    const int start = b.query_starts[s], mine = t.count > 1 ? new_tokens(b, s) * group : t.rows;
    for (int i = 0; i < mine; i++) {
      const int r = rows.count++, token = (t.first_row + i) / group, head = kv_head * group + (t.first_row + i) % group;
      const int64_t at = ((int64_t)(start + token) * b.heads + head) * D;
      rows.limit[r] = (int)b.positions[start + token] + 1;
      rows.query[r] = query + at;
      rows.out[r] = out + at;
      rows.partial[r] = plan.partial[s] < 0 ? -1
          : plan.partial[s] + ((int64_t)token * b.heads + head) * plan.segments[s] * record;
    }
  }
  rows.width = rounded(rows.count);
  if (paired) {
    rows.pairs.assign((size_t)D / 2 * rows.width, 0);
    for (int r = 0; r < rows.count; r++)
      for (int d = 0; d < D; d += 2) std::memcpy(&rows.pairs[(size_t)d / 2 * rows.width + r], rows.query[r] + d, 4);
  } else {
    rows.packed.assign((size_t)D * rows.width, 0.0f);
    for (int r = 0; r < rows.count; r++)
      for (int d = 0; d < D; d++) rows.packed[(size_t)d * rows.width + r] = to_float(rows.query[r][d]);
  }
  for (int r = rows.count; r < TILE; r++) rows.limit[r] = 0;
}

template <typename Q, typename T>
void take(const Rows<Q>& rows, const char* const* pages, int count, const char* const* ahead, int D, const int* room,
          State& st) {
  const float scale = 1.0f / std::sqrt((float)D);
  switch (rows.width) {
#define TENFOLD_WIDTH(N) \
  case N: \
    take_pages<N, T, PAIRED<Q, T>>(pages, count, ahead, D, rows.packed.data(), rows.pairs.data(), scale, room, st); \
    break
    TENFOLD_WIDTH(1); TENFOLD_WIDTH(2); TENFOLD_WIDTH(3); TENFOLD_WIDTH(4); TENFOLD_WIDTH(6); TENFOLD_WIDTH(8);
    TENFOLD_WIDTH(TILE);
#undef TENFOLD_WIDTH
  }
}

// Pages [from, to) of `table` into the state; the rows see the first `limit` tokens of the whole table. `then` is where
// the reading goes on after them.
template <typename Q, typename T>
void run_pages(const Rows<Q>& rows, const char* head, int64_t block_bytes, const int32_t* table, int from, int to,
               const char* then, int D, State& st) {
  int room[TILE];
  const char *pages[GROUP], *ahead[GROUP];
  for (int page = from; page < to; page += GROUP) {
    const int count = std::min(GROUP, to - page);
    for (int i = 0; i < count; i++) {
      const int next = page + GROUP + i;
      pages[i] = head + table[page + i] * block_bytes;
      ahead[i] = next < to ? head + table[next] * block_bytes : then + table[from + i] * block_bytes;
    }
    for (int r = 0; r < rows.width; r++) room[r] = rows.limit[r] - page * PAGE;
    take<Q, T>(rows, pages, count, ahead, D, room, st);
  }
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

// ---- top-K sparse attention (Quest, Tang et al. 2024) ---------------------------------------------------------------
//
// Quest bounds a page's best score by the largest and smallest key of every dimension, which overstates it: no key is
// the largest in all of them. The mean and the spread of the page's scores, as they would be if its keys' dimensions
// were independent, found the pages that matter more often here (a third of the divergence), from as many bytes.

constexpr int AT_ONCE = 8;       // pages whose sums are made together
constexpr float SPREADS = 2.0f;  // standard deviations above its mean that a page's best score is taken to be

struct Chooser {
  std::vector<bf16> query;
  std::vector<std::pair<float, int>> scored;
  std::vector<int32_t> chosen;
};

// The pages likeliest to hold what the rows look for, with the first and the last: table entries, in order.
template <typename Q>
void choose_pages(const tenfold_batch& b, const Rows<Q>& rows, const uint16_t* summaries, int kv_head,
                  const int32_t* table, int pages, int kept, Chooser& c) {
  const int D = b.head_size, step = 2 * D;
  c.query.resize((size_t)rows.count * step);  // [row][plain, squared][head_size]
  for (int r = 0; r < rows.count; r++)
    for (int d = 0; d < D; d++) {
      const float q = to_float(rows.query[r][d]);
      c.query[(size_t)r * step + d].bits = narrow(q);
      c.query[(size_t)r * step + D + d].bits = narrow(q * q);
    }
  auto summary = [&](int page) {
    return (const bf16*)summaries + ((int64_t)table[std::min(page, pages - 2)] * b.kv_heads + kv_head) * step;
  };
  c.scored.resize(pages - 2);
  for (int from = 1; from < pages - 1; from += AT_ONCE) {
    float best[AT_ONCE];
    std::fill(best, best + AT_ONCE, -INFINITY);
    for (int p = 0; p < AT_ONCE; p++)
      for (int i = 0; i < 2 * step; i += 64) __builtin_prefetch((const char*)summary(from + 2 * AT_ONCE + p) + i, 0, 2);
    for (int r = 0; r < rows.count; r++) {
      const bf16* q = &c.query[(size_t)r * step];
      f16v sums[2 * AT_ONCE];
      for (int p = 0; p < AT_ONCE; p++) {
        const bf16* at = summary(from + p);
        sums[p] = product(q, at, D);
        sums[AT_ONCE + p] = product(q + D, at + D, D);
      }
      alignas(64) float total[2 * AT_ONCE];
      store(total, sums_of(sums));
      for (int p = 0; p < AT_ONCE; p++)
        best[p] = std::max(best[p], total[p] + SPREADS * std::sqrt(total[AT_ONCE + p]));
    }
    for (int p = 0; p < AT_ONCE && from + p < pages - 1; p++) c.scored[from + p - 1] = {-best[p], from + p};
  }
  const int keep = std::min<int>((int)c.scored.size(), kept - 2);
  std::nth_element(c.scored.begin(), c.scored.begin() + (keep - 1), c.scored.end());
  c.chosen.clear();
  c.chosen.push_back(0);
  for (int i = 0; i < keep; i++) c.chosen.push_back(c.scored[i].second);
  c.chosen.push_back(pages - 1);
  std::sort(c.chosen.begin(), c.chosen.end());
  for (int32_t& page : c.chosen) page = table[page];
}

// ---- a layer --------------------------------------------------------------------------------------------------------

template <typename Q, typename T>
void attend(const tenfold_batch& b, const Plan& plan, const Q* query, const char* pages, const uint16_t* summaries,
            Q* out) {
  const int D = b.head_size, record = D + 2;
  const int64_t head_bytes = page_bytes<T>(D), block_bytes = head_bytes * b.kv_heads;
  static thread_local std::vector<float> partials;
  if ((int64_t)partials.size() < plan.partials) partials.resize(plan.partials);
  float* partial = partials.data();
  const bool sparse = summaries && !plan.sparse.empty();
  const Task* first = sparse ? plan.tasks.data() + plan.first_dense : plan.tasks.data();
  const int dense = (int)(plan.tasks.data() + plan.tasks.size() - first);
  const int thin = sparse ? (int)plan.sparse.size() : 0;
  std::atomic<int> next{0};
#pragma omp parallel
  {
    State st;
    Rows<Q> rows;
    std::vector<float> merged;
    Chooser chooser;
    for (int i; (i = next.fetch_add(1)) < thin + dense;) {
      const bool choose = i < thin;
      const Task& t = choose ? plan.sparse[i] : first[i - thin];
      const int32_t* table = b.tables + t.sequence * b.table_stride;
      const int low = t.kv_head < 0 ? 0 : t.kv_head, high = t.kv_head < 0 ? b.kv_heads : t.kv_head + 1;
      const int total_pages = pages_of(b, t.sequence);
      for (int h = low; h < high; h++) {
        gather_rows(b, plan, t, h, query, out, PAIRED<Q, T>, rows);
        const char* head = pages + h * head_bytes;
        if (t.segment >= 0) {
          st.clear(rows.width, D);
          run_pages<Q, T>(rows, head, block_bytes, table, t.segment * SEGMENT,
                          std::min(total_pages, (t.segment + 1) * SEGMENT), h + 1 < high ? head + head_bytes : head,
                          D, st);
          for (int r = 0; r < rows.count; r++) {
            const float total = sum(st.total[r]);
            if (rows.partial[r] < 0) { finish(rows.out[r], &st.acc[(size_t)r * D], total, D); continue; }
            float* to = partial + rows.partial[r] + (int64_t)t.segment * record;
            to[0] = st.top[r]; to[1] = total;
            std::memcpy(to + 2, &st.acc[(size_t)r * D], D * sizeof(float));
          }
          continue;
        }
        int last = 0;
        for (int r = 0; r < rows.count; r++) last = std::max(last, (rows.limit[r] + PAGE - 1) / PAGE);
        if (choose) {
          choose_pages(b, rows, summaries, h, table, total_pages, kept_pages(b, t.sequence), chooser);
          const int hidden = (total_pages - (int)chooser.chosen.size()) * PAGE;  // the last page keeps its own end
          for (int r = 0; r < rows.count; r++) rows.limit[r] -= hidden;
          last = (int)chooser.chosen.size();
        }
        merged.resize((size_t)TILE * D);
        Merged m[TILE];
        for (int from = 0; from < last; from += SEGMENT) {
          st.clear(rows.width, D);
          run_pages<Q, T>(rows, head, block_bytes, choose ? chooser.chosen.data() : table, from,
                          std::min(last, from + SEGMENT), head, D, st);
          for (int r = 0; r < rows.count; r++)
            merge(m[r], &merged[(size_t)r * D], st.top[r], sum(st.total[r]), &st.acc[(size_t)r * D], D);
        }
        for (int r = 0; r < rows.count; r++) finish(rows.out[r], &merged[(size_t)r * D], m[r].total, D);
      }
    }
    if (plan.partials) {
#pragma omp barrier
      merged.resize(D);
#pragma omp for schedule(dynamic, 4)
      for (int s = 0; s < b.sequences; s++) {
        if (plan.partial[s] < 0 || (sparse && is_sparse(b, s))) continue;
        for (int row = 0; row < new_tokens(b, s) * b.heads; row++) {
          Merged m;
          for (int g = 0; g < plan.segments[s]; g++) {
            const float* from = partial + plan.partial[s] + ((int64_t)row * plan.segments[s] + g) * record;
            merge(m, merged.data(), from[0], from[1], from + 2, D);
          }
          finish(out + ((int64_t)b.query_starts[s] * b.heads + row) * D, merged.data(), m.total, D);
        }
      }
    }
  }
}

// ---- writing pages --------------------------------------------------------------------------------------------------

inline void put_key(float* page, const float* key, int t, int D) { for (int d = 0; d < D; d++) page[d * PAGE + t] = key[d]; }
inline void put_key(bf16* page, const float* key, int t, int D) {
  uint32_t* pairs = (uint32_t*)page + t;
  for (int d = 0; d < D; d += 2) pairs[d / 2 * PAGE] = narrow(key[d]) | (uint32_t)narrow(key[d + 1]) << 16;
}
inline float put_scaled(int8_t* to, const float* x, int D) {
  f16v top = {};
  for (int d = 0; d < D; d += 16) { const f16v v = load(x + d), m = v < 0.0f ? -v : v; top = m > top ? m : top; }
  const float scale = std::max(largest(top), 1e-8f) / 127.0f, inverse = 1.0f / scale;
  for (int d = 0; d < D; d += 16) store(to + d, load(x + d) * inverse);
  return scale;
}
inline void put_key(int8_t* page, const float* key, int t, int D) {
  alignas(64) int8_t row[512];
  ((float*)(page + 2 * D * PAGE))[t] = put_scaled(row, key, D);
  for (int d = 0; d < D; d += 4) std::memcpy(page + d * PAGE + t * 4, row + d, 4);
}
inline void put_value(float* page, const float* value, int t, int D) {
  std::memcpy(page + D * PAGE + t * D, value, D * sizeof(float));
}
inline void put_value(bf16* page, const float* value, int t, int D) {
  bf16* at = page + D * PAGE + (t & ~1) * D + (t & 1);
  for (int d = 0; d < D; d++) at[d * 2].bits = narrow(value[d]);
}
inline void put_value(int8_t* page, const float* value, int t, int D) {
  alignas(64) int8_t row[512];
  ((float*)(page + 2 * D * PAGE))[PAGE + t] = put_scaled(row, value, D);
  int8_t* at = page + D * PAGE + (t & ~3) * D + (t & 3);
  for (int d = 0; d < D; d++) at[d * 4] = row[d];
}

template <typename T> float key_value(const char* page, int d, int t, int D) {
  if constexpr (std::is_same<T, int8_t>::value) return keys_of<T>(page)[key_at<T>(d, t)] * key_scales(page, D)[t];
  else return to_float(keys_of<T>(page)[key_at<T>(d, t)]);
}
template <typename T> float value_value(const char* page, int d, int t, int D) {
  if constexpr (std::is_same<T, int8_t>::value) return values_of<T>(page, D)[value_at<T>(d, t, D)] * value_scales(page, D)[t];
  else return to_float(values_of<T>(page, D)[value_at<T>(d, t, D)]);
}

// What `choose_pages` knows of a full page: its keys' mean and variance, dimension by dimension.
template <typename T> void summarize(const char* pages, uint16_t* summaries, int64_t page, int D) {
  const char* at = pages + page * page_bytes<T>(D);
  for (int d = 0; d < D; d++) {
    float key[PAGE], mean = 0, variance = 0;
    for (int t = 0; t < PAGE; t++) mean += key[t] = key_value<T>(at, d, t, D);
    mean /= PAGE;
    for (float k : key) variance += (k - mean) * (k - mean);
    summaries[page * 2 * D + d] = narrow(mean);
    summaries[page * 2 * D + D + d] = narrow(variance / PAGE);
  }
}

template <typename Q, typename T>
void rope_and_write(const tenfold_batch& b, const Q* qkv, const float* cosine, const float* sine, Q* query, char* pages,
                    uint16_t* summaries, bool rotate) {
  const int D = b.head_size, half = D / 2, width = (b.heads + 2 * b.kv_heads) * D;
  const int64_t head_bytes = page_bytes<T>(D);
  auto turn = [&](const Q* from, int64_t position, float* to) {
    alignas(64) float x[512];
    float* in = rotate ? x : to;
    for (int d = 0; d < D; d += 16) store(in + d, load(from + d));
    if (!rotate) return;
    const float *c = cosine + position * half, *s = sine + position * half;
    for (int d = 0; d < half; d++) to[d] = x[d] * c[d] - x[d + half] * s[d];
    for (int d = 0; d < half; d++) to[d + half] = x[d + half] * c[d] + x[d] * s[d];
  };
#pragma omp parallel for schedule(static) if (b.tokens > 2)
  for (int t = 0; t < b.tokens; t++) {
    alignas(64) float x[512];
    const Q* row = qkv + (int64_t)t * width;
    const int64_t block = b.slots[t] / PAGE;
    const int offset = (int)(b.slots[t] % PAGE);
    for (int h = 0; h < b.kv_heads; h++) {  // first the stores that miss the cache
      T* page = (T*)(pages + (block * b.kv_heads + h) * head_bytes);
      turn(row + (b.heads + h) * D, b.positions[t], x);
      put_key(page, x, offset, D);
      for (int d = 0; d < D; d += 16) store(x + d, load(row + (b.heads + b.kv_heads + h) * D + d));
      put_value(page, x, offset, D);
    }
    for (int h = 0; h < b.heads; h++) {
      turn(row + h * D, b.positions[t], x);
      for (int d = 0; d < D; d += 16) store(query + ((int64_t)t * b.heads + h) * D + d, load(x + d));
    }
  }
  if (!summaries) return;
  // Pages that are full once this step is over and that it wrote into. A sequence's tokens come in order.
#pragma omp parallel for schedule(dynamic)
  for (int s = 0; s < b.sequences; s++)
    for (int t = b.query_starts[s]; t < b.query_starts[s + 1]; t++) {
      const int64_t page = b.positions[t] / PAGE;
      const bool again = t + 1 < b.query_starts[s + 1] && b.positions[t + 1] / PAGE == page;
      if (again || (page + 1) * PAGE > b.context_lens[s]) continue;
      for (int h = 0; h < b.kv_heads; h++) summarize<T>(pages, summaries, b.slots[t] / PAGE * b.kv_heads + h, D);
    }
}

template <typename T>
void read_tokens(const char* pages, const int64_t* slots, int count, int kv_heads, int D, float* keys, float* values) {
#pragma omp parallel for schedule(static)
  for (int i = 0; i < count; i++)
    for (int h = 0; h < kv_heads; h++) {
      const char* page = pages + (slots[i] / PAGE * kv_heads + h) * page_bytes<T>(D);
      const int64_t to = ((int64_t)i * kv_heads + h) * D;
      for (int d = 0; d < D; d++) {
        keys[to + d] = key_value<T>(page, d, (int)(slots[i] % PAGE), D);
        values[to + d] = value_value<T>(page, d, (int)(slots[i] % PAGE), D);
      }
    }
}

template <typename T>
void write_tokens(char* pages, const int64_t* slots, int count, int kv_heads, int D,
                  const float* keys, const float* values, const float* cosine, const float* sine) {
  const int half = D / 2;
#pragma omp parallel for schedule(static)
  for (int h = 0; h < kv_heads; h++)
    for (int i = 0; i < count; i++) {
      alignas(64) float x[512];
      const int t = (int)(slots[i] % PAGE);
      const int64_t at = slots[i] / PAGE * kv_heads + h;
      const float* key = keys + ((int64_t)i * kv_heads + h) * D;
      T* page = (T*)(pages + at * page_bytes<T>(D));
      if (cosine) {
        for (int d = 0; d < half; d++) x[d] = key[d] * cosine[d] - key[d + half] * sine[d];
        for (int d = 0; d < half; d++) x[d + half] = key[d + half] * cosine[d] + key[d] * sine[d];
      } else {
        std::memcpy(x, key, D * sizeof(float));
      }
      put_key(page, x, t, D);
      put_value(page, values + ((int64_t)i * kv_heads + h) * D, t, D);
    }
}

template <typename T>
void summarize_blocks(const char* pages, uint16_t* summaries, const int32_t* blocks, int count, int kv_heads, int D) {
#pragma omp parallel for schedule(static)
  for (int i = 0; i < count; i++)
    for (int h = 0; h < kv_heads; h++) summarize<T>(pages, summaries, (int64_t)blocks[i] * kv_heads + h, D);
}

// Calls `f` with the element type of the pages.
template <typename F> void with_kind(int kind, F f) {
  if (kind == 0) f(float{}); else if (kind == 1) f(bf16{}); else f(int8_t{});
}

}  // namespace

extern "C" {

int64_t tenfold_page_bytes(int kind, int head_size) {
  int64_t bytes = 0;
  with_kind(kind, [&](auto t) { bytes = page_bytes<decltype(t)>(head_size); });
  return bytes;
}

void* tenfold_plan(const tenfold_batch* batch) { return new Plan(make_plan(*batch)); }
void tenfold_plan_free(void* plan) { delete (Plan*)plan; }

void tenfold_rope_and_write(int is_bf16, const tenfold_batch* b, const void* qkv, const float* cosine, const float* sine,
                            void* query, void* pages, uint16_t* summaries, int rotate) {
  with_kind(b->kind, [&](auto t) {
    using T = decltype(t);
    if (is_bf16) rope_and_write<bf16, T>(*b, (const bf16*)qkv, cosine, sine, (bf16*)query, (char*)pages, summaries, rotate);
    else rope_and_write<float, T>(*b, (const float*)qkv, cosine, sine, (float*)query, (char*)pages, summaries, rotate);
  });
}

void tenfold_attention(int is_bf16, const tenfold_batch* b, const void* plan, const void* query, const void* pages,
                       const uint16_t* summaries, void* out) {
  with_kind(b->kind, [&](auto t) {
    using T = decltype(t);
    const Plan& p = *(const Plan*)plan;
    if (is_bf16) attend<bf16, T>(*b, p, (const bf16*)query, (const char*)pages, summaries, (bf16*)out);
    else attend<float, T>(*b, p, (const float*)query, (const char*)pages, summaries, (float*)out);
  });
}

void tenfold_read_tokens(int kind, const void* pages, const int64_t* slots, int count, int kv_heads, int head_size,
                         float* keys, float* values) {
  with_kind(kind, [&](auto t) {
    read_tokens<decltype(t)>((const char*)pages, slots, count, kv_heads, head_size, keys, values);
  });
}

void tenfold_write_tokens(int kind, void* pages, const int64_t* slots, int count, int kv_heads, int head_size,
                          const float* keys, const float* values, const float* cosine, const float* sine) {
  with_kind(kind, [&](auto t) {
    write_tokens<decltype(t)>((char*)pages, slots, count, kv_heads, head_size, keys, values, cosine, sine);
  });
}

void tenfold_summarize(int kind, const void* pages, uint16_t* summaries, const int32_t* blocks, int count, int kv_heads,
                    int head_size) {
  with_kind(kind, [&](auto t) {
    summarize_blocks<decltype(t)>((const char*)pages, summaries, blocks, count, kv_heads, head_size);
  });
}

}  // extern "C"
