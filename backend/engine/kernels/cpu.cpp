// CPU kernels of the decoder: paged attention, the KV write with rotary embedding, and the element-wise glue.
// A plain C interface (raw pointers, loaded with ctypes): no torch header, so a first build takes seconds.
// GCC/Clang vector extensions only; the compiler picks the instructions of the machine it runs on.
//
// Layouts. Keys of a page lie transposed, so that one vector holds one dimension of all 16 tokens; in bf16, two
// dimensions (of keys) or two tokens (of values) lie side by side, so that one load gives two vectors for one
// operation each:
//   float32  key pages [block][kv_head][head_size][16]          value pages [block][kv_head][16][head_size]
//   bf16     key pages [block][kv_head][head_size / 2][16][2]   value pages [block][kv_head][8][head_size][2]
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int PAGE = 16;
typedef float f16v __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));
typedef uint16_t h16v __attribute__((vector_size(32)));

struct bf16 { uint16_t bits; };

inline f16v load(const float* p) { f16v v; std::memcpy(&v, p, 64); return v; }
inline f16v load(const bf16* p) {
  h16v h; std::memcpy(&h, p, 32);
  u16v u = __builtin_convertvector(h, u16v) << 16;
  return (f16v)u;
}
inline void store(float* p, f16v v) { std::memcpy(p, &v, 64); }
inline void store(bf16* p, f16v v) {
  u16v u = (u16v)v;
  u = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // round to nearest even
  h16v h = __builtin_convertvector(u, h16v);
  std::memcpy(p, &h, 32);
}
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { uint32_t u = (uint32_t)x.bits << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline void from_float(float& out, float x) { out = x; }
inline void from_float(bf16& out, float x) {
  uint32_t u; std::memcpy(&u, &x, 4);
  out.bits = (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline f16v splat(float x) { return f16v{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// Two vectors that lie as a pair (see the layouts): `at` points to the first, `stride` elements apart in float32.
inline void load_pair(const float* at, int stride, f16v& first, f16v& second) {
  first = load(at); second = load(at + stride);
}
inline void load_pair(const bf16* at, int, f16v& first, f16v& second) {
  u16v u; std::memcpy(&u, at, 64);
  first = (f16v)(u << 16);
  second = (f16v)(u & 0xffff0000u);
}
// Places of (dimension, token) in a page of keys and of values, in elements.
inline int key_at(const float*, int d, int t) { return d * PAGE + t; }
inline int key_at(const bf16*, int d, int t) { return (d & ~1) * PAGE + t * 2 + (d & 1); }
inline int value_at(const float*, int d, int t, int D) { return t * D + d; }
inline int value_at(const bf16*, int d, int t, int D) { return (t & ~1) * D + d * 2 + (t & 1); }

// Pages are scattered, so the hardware cannot guess the next one.
template <typename T> inline void prefetch_page(const T* page, int elements) {
  for (int i = 0; i < elements; i += 64 / (int)sizeof(T)) __builtin_prefetch(page + i, 0, 1);
}
inline float sum(f16v v) { float s = 0; for (int i = 0; i < 16; i++) s += v[i]; return s; }

// exp on 16 lanes: range reduction by ln 2 and a degree-6 polynomial; about 1 ulp for x <= 0.
inline f16v exp16(f16v x) {
  const f16v low = splat(-87.0f);
  x = x < low ? low : x;
  f16v t = x * 1.44269504088896341f;
  i16v n = __builtin_convertvector(t - 0.5f, i16v);  // truncation; x <= 0 here, so this rounds to nearest
  f16v fn = __builtin_convertvector(n, f16v);
  f16v r = x - fn * 0.693359375f - fn * -2.12194440e-4f;
  f16v p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i16v e = (n + 127) << 23;
  return p * (f16v)e;
}

struct AttentionArgs {
  const int32_t* tables; int64_t table_stride;
  const int32_t* query_starts;   // [sequences + 1]
  const int32_t* context_lens;   // [sequences], new tokens included
  int sequences, heads, kv_heads, head_size;
  float scale;
};

// One tile: up to MR rows (query token, head of the group) of one sequence and one KV head.
// Row r may look at keys [0, limit[r]).
template <int MR, typename T>
void attend_tile(const AttentionArgs& a, const T* keys, const T* values, const int32_t* table, int kv_head,
                 const float* query /* [head_size][MR], scaled */, const int* limit, T* const* out,
                 int rows, std::vector<float>& scratch) {
  const int D = a.head_size;
  int longest = 0;
  for (int r = 0; r < rows; r++) longest = std::max(longest, limit[r]);
  const int pages = (longest + PAGE - 1) / PAGE;
  scratch.resize((size_t)pages * PAGE * MR + 16);
  float* p = scratch.data();  // [page][row][16]
  const int64_t page_size = (int64_t)a.kv_heads * D * PAGE;
  const int64_t head_offset = (int64_t)kv_head * D * PAGE;
  constexpr int NB = MR <= 2 ? 4 : (MR <= 6 ? 2 : 1);

  f16v top[MR];
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++) top[r] = splat(-INFINITY);
  const i16v lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  auto finish = [&](int page, int r, f16v s) {
    const int room = (r < rows ? limit[r] : 0) - page * PAGE;
    if (room < PAGE) s = (lanes < (i16v{} + room)) ? s : splat(-INFINITY);
    top[r] = s > top[r] ? s : top[r];
    store(p + ((size_t)page * MR + r) * PAGE, s);
  };
  auto key_page = [&](int page) { return keys + table[std::min(page, pages - 1)] * page_size + head_offset; };
  auto value_page = [&](int page) { return values + table[std::min(page, pages - 1)] * page_size + head_offset; };
  auto score = [&](auto width, int page) {
    constexpr int NB = decltype(width)::value;
    const T* k[NB];
#pragma GCC unroll 16
    for (int b = 0; b < NB; b++) {
      k[b] = key_page(page + b);
      prefetch_page(key_page(page + NB + b), D * PAGE);
    }
    f16v acc[NB][MR] = {};
    for (int d = 0; d < D; d += 2) {
      f16v first[NB], second[NB];
#pragma GCC unroll 16
      for (int b = 0; b < NB; b++) load_pair(k[b] + d * PAGE, PAGE, first[b], second[b]);
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) {
        const f16v q0 = splat(query[d * MR + r]), q1 = splat(query[(d + 1) * MR + r]);
#pragma GCC unroll 16
        for (int b = 0; b < NB; b++) acc[b][r] += first[b] * q0;
#pragma GCC unroll 16
        for (int b = 0; b < NB; b++) acc[b][r] += second[b] * q1;
      }
    }
#pragma GCC unroll 16
    for (int b = 0; b < NB; b++)
#pragma GCC unroll 16
      for (int r = 0; r < MR; r++) finish(page + b, r, acc[b][r]);
  };
  int page = 0;
  for (; page + NB <= pages; page += NB) score(std::integral_constant<int, NB>{}, page);
  for (; page < pages; page++) score(std::integral_constant<int, 1>{}, page);
  prefetch_page(value_page(0), D * PAGE);

  float inverse[MR];
#pragma GCC unroll 16
  for (int r = 0; r < MR; r++) {
    float best = -INFINITY;
    for (int i = 0; i < 16; i++) best = std::max(best, top[r][i]);
    if (r >= rows) { best = 0; }
    f16v total = {};
    for (int b = 0; b < pages; b++) {
      float* s = p + ((size_t)b * MR + r) * PAGE;
      f16v x = load(s) - best;
      f16v e = exp16(x);
      e = x < -80.0f ? f16v{} : e;
      total += e;
      store(s, e);
    }
    inverse[r] = r < rows ? 1.0f / sum(total) : 0.0f;
  }

  auto weigh = [&](auto width, int from) {
    constexpr int NC = decltype(width)::value;
    f16v acc[MR][NC] = {};
    for (int b = 0; b < pages; b++) {
      const T* v = value_page(b);
      if (from == 0) prefetch_page(value_page(b + 1), D * PAGE);
      const float* s = p + (size_t)b * MR * PAGE;
      const int tokens = std::min(PAGE, longest - b * PAGE);
      for (int t = 0; t < tokens; t += 2) {  // a token past the end weighs nothing
        f16v first[NC], second[NC];
#pragma GCC unroll 16
        for (int c = 0; c < NC; c++) load_pair(v + value_at(v, from + c * 16, t, D), D, first[c], second[c]);
#pragma GCC unroll 16
        for (int r = 0; r < MR; r++) {
          const f16v w0 = splat(s[r * PAGE + t]), w1 = splat(s[r * PAGE + t + 1]);
#pragma GCC unroll 16
          for (int c = 0; c < NC; c++) acc[r][c] += first[c] * w0;
#pragma GCC unroll 16
          for (int c = 0; c < NC; c++) acc[r][c] += second[c] * w1;
        }
      }
    }
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
      for (int c = 0; c < NC; c++) store(out[r] + from + c * 16, acc[r][c] * inverse[r]);
  };
  constexpr int NC = MR <= 6 ? 4 : 2;
  int from = 0;
  for (; from + NC * 16 <= D; from += NC * 16) weigh(std::integral_constant<int, NC>{}, from);
  for (; from < D; from += 16) weigh(std::integral_constant<int, 1>{}, from);
}

struct Task { int sequence, kv_head, first_row, rows; };

template <typename T>
void attend(const AttentionArgs& a, const T* query, const T* keys, const T* values, T* out) {
  const int group = a.heads / a.kv_heads;
  constexpr int TILE = 12;
  std::vector<Task> tasks;
  for (int s = 0; s < a.sequences; s++) {
    const int rows = (a.query_starts[s + 1] - a.query_starts[s]) * group;
    for (int h = 0; h < a.kv_heads; h++)
      for (int first = 0; first < rows; first += TILE)
        tasks.push_back({s, h, first, std::min(TILE, rows - first)});
  }
  std::atomic<int> next{0};
  const int count = (int)tasks.size();
#pragma omp parallel
  {
    std::vector<float> scratch, packed((size_t)a.head_size * TILE);
    for (int i; (i = next.fetch_add(1)) < count;) {
      const Task& t = tasks[i];
      const int start = a.query_starts[t.sequence], n = a.query_starts[t.sequence + 1] - start;
      const int past = a.context_lens[t.sequence] - n;
      int limit[TILE]; T* rows_out[TILE];
      const int mr = t.rows <= 1 ? 1 : t.rows <= 2 ? 2 : t.rows <= 3 ? 3 : t.rows <= 4 ? 4 : t.rows <= 6 ? 6 : TILE;
      std::fill(packed.begin(), packed.end(), 0.0f);
      for (int r = 0; r < t.rows; r++) {
        const int token = (t.first_row + r) / group, head = t.kv_head * group + (t.first_row + r) % group;
        limit[r] = past + token + 1;
        const int64_t at = ((int64_t)(start + token) * a.heads + head) * a.head_size;
        rows_out[r] = out + at;
        for (int d = 0; d < a.head_size; d++) packed[d * mr + r] = to_float(query[at + d]) * a.scale;
      }
      const int32_t* table = a.tables + t.sequence * a.table_stride;
#define TENFOLD_TILE(N) attend_tile<N, T>(a, keys, values, table, t.kv_head, packed.data(), limit, rows_out, t.rows, scratch)
      switch (mr) {
        case 1: TENFOLD_TILE(1); break;
        case 2: TENFOLD_TILE(2); break;
        case 3: TENFOLD_TILE(3); break;
        case 4: TENFOLD_TILE(4); break;
        case 6: TENFOLD_TILE(6); break;
        default: TENFOLD_TILE(TILE);
      }
#undef TENFOLD_TILE
    }
  }
}

// Splits a fused qkv row, rotates q and k (halves layout), writes k and v to their page slots.
template <typename T>
void rope_and_write(const T* qkv, const int64_t* positions, const int64_t* slots, const float* cosine,
                    const float* sine, T* query, T* keys, T* values, int tokens, int heads, int kv_heads, int D,
                    bool rotate) {
  const int half = D / 2, width = (heads + 2 * kv_heads) * D;
#pragma omp parallel for schedule(static) if (tokens * width > 16384)
  for (int t = 0; t < tokens; t++) {
    const T* row = qkv + (int64_t)t * width;
    const float* c = cosine + positions[t] * half;
    const float* s = sine + positions[t] * half;
    const int64_t block = slots[t] / PAGE;
    const int offset = (int)(slots[t] % PAGE);
    for (int h = 0; h < heads; h++) {
      const T* x = row + h * D;
      T* y = query + ((int64_t)t * heads + h) * D;
      if (!rotate) { std::memcpy(y, x, D * sizeof(T)); continue; }
      for (int d = 0; d < half; d++) {
        const float a = to_float(x[d]), b = to_float(x[d + half]);
        from_float(y[d], a * c[d] - b * s[d]);
        from_float(y[d + half], b * c[d] + a * s[d]);
      }
    }
    for (int h = 0; h < kv_heads; h++) {
      const T* x = row + (heads + h) * D;
      const T* v = row + (heads + kv_heads + h) * D;
      T* k = keys + (block * kv_heads + h) * D * PAGE;
      T* w = values + (block * kv_heads + h) * D * PAGE;
      for (int d = 0; d < half; d++) {
        const float a = to_float(x[d]), b = to_float(x[d + half]);
        from_float(k[key_at(k, d, offset)], rotate ? a * c[d] - b * s[d] : a);
        from_float(k[key_at(k, d + half, offset)], rotate ? b * c[d] + a * s[d] : b);
      }
      for (int d = 0; d < D; d++) w[value_at(w, d, offset, D)] = v[d];
    }
  }
}

// residual += delta (when given); out = rms_norm(residual) * weight.
template <typename D, typename O>
void add_rms_norm(float* residual, const D* delta, const float* weight, O* out, int tokens, int width, float eps) {
#pragma omp parallel for schedule(static) if (tokens * width > 32768)
  for (int t = 0; t < tokens; t++) {
    float* x = residual + (int64_t)t * width;
    f16v squares = {};
    for (int i = 0; i < width; i += 16) {
      f16v v = load(x + i);
      if (delta) { v += load(delta + (int64_t)t * width + i); store(x + i, v); }
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
    for (int i = 0; i < width; i += 16) store(out + (int64_t)t * width + i, load(x + i) * scale * load(weight + i));
  }
}

template <typename T>
void silu_mul(const T* gate_up, T* out, int tokens, int width) {
#pragma omp parallel for schedule(static) if (tokens * width > 16384)
  for (int t = 0; t < tokens; t++) {
    const T* g = gate_up + (int64_t)t * 2 * width;
    for (int i = 0; i < width; i += 16) {
      const f16v x = load(g + i), u = load(g + width + i);
      const f16v magnitude = x < 0.0f ? x : -x;
      const f16v e = exp16(magnitude);
      const f16v sigmoid = (x < 0.0f ? e : splat(1.0f)) / (1.0f + e);
      store(out + (int64_t)t * width + i, x * sigmoid * u);
    }
  }
}

}  // namespace

extern "C" {

void tenfold_attention(int is_bf16, const void* query, const void* keys, const void* values, void* out,
                       const int32_t* tables, int64_t table_stride, const int32_t* query_starts,
                       const int32_t* context_lens, int sequences, int heads, int kv_heads, int head_size,
                       float scale) {
  AttentionArgs a{tables, table_stride, query_starts, context_lens, sequences, heads, kv_heads, head_size, scale};
  if (is_bf16) attend<bf16>(a, (const bf16*)query, (const bf16*)keys, (const bf16*)values, (bf16*)out);
  else attend<float>(a, (const float*)query, (const float*)keys, (const float*)values, (float*)out);
}

void tenfold_rope_and_write(int is_bf16, const void* qkv, const int64_t* positions, const int64_t* slots,
                            const float* cosine, const float* sine, void* query, void* keys, void* values,
                            int tokens, int heads, int kv_heads, int head_size, int rotate) {
  if (is_bf16)
    rope_and_write<bf16>((const bf16*)qkv, positions, slots, cosine, sine, (bf16*)query, (bf16*)keys,
                         (bf16*)values, tokens, heads, kv_heads, head_size, rotate);
  else
    rope_and_write<float>((const float*)qkv, positions, slots, cosine, sine, (float*)query, (float*)keys,
                          (float*)values, tokens, heads, kv_heads, head_size, rotate);
}

void tenfold_add_rms_norm(int is_bf16, float* residual, const void* delta, const float* weight, void* out,
                          int tokens, int width, float eps) {
  if (is_bf16) add_rms_norm<bf16, bf16>(residual, (const bf16*)delta, weight, (bf16*)out, tokens, width, eps);
  else add_rms_norm<float, float>(residual, (const float*)delta, weight, (float*)out, tokens, width, eps);
}

void tenfold_silu_mul(int is_bf16, const void* gate_up, void* out, int tokens, int width) {
  if (is_bf16) silu_mul<bf16>((const bf16*)gate_up, (bf16*)out, tokens, width);
  else silu_mul<float>((const float*)gate_up, (float*)out, tokens, width);
}

}  // extern "C"
