// Everything that writes pages of the KV cache, and what is read out of them again but by attention.
#include "kernels.h"
#include "pages.h"
#include "team.h"

using namespace tenfold;

namespace {

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
  for_each(b.tokens, 16, [&](int t) {
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
  });
  if (!summaries) return;
  // Pages that are full once this step is over and that it wrote into. A sequence's tokens come in order.
  for_each(b.sequences, 2, [&](int s) {
    for (int t = b.query_starts[s]; t < b.query_starts[s + 1]; t++) {
      const int64_t page = b.positions[t] / PAGE;
      const bool again = t + 1 < b.query_starts[s + 1] && b.positions[t + 1] / PAGE == page;
      if (again || (page + 1) * PAGE > b.context_lens[s]) continue;
      for (int h = 0; h < b.kv_heads; h++) summarize<T>(pages, summaries, b.slots[t] / PAGE * b.kv_heads + h, D);
    }
  });
}

template <typename T>
void read_tokens(const char* pages, const int64_t* slots, int count, int kv_heads, int D, float* keys, float* values) {
  for_each(count, 8, [&](int i) {
    for (int h = 0; h < kv_heads; h++) {
      const char* page = pages + (slots[i] / PAGE * kv_heads + h) * page_bytes<T>(D);
      const int64_t to = ((int64_t)i * kv_heads + h) * D;
      for (int d = 0; d < D; d++) {
        keys[to + d] = key_value<T>(page, d, (int)(slots[i] % PAGE), D);
        values[to + d] = value_value<T>(page, d, (int)(slots[i] % PAGE), D);
      }
    }
  });
}

template <typename T>
void write_tokens(char* pages, const int64_t* slots, int count, int kv_heads, int D,
                  const float* keys, const float* values, const float* cosine, const float* sine) {
  const int half = D / 2;
  for_each(kv_heads, 1, [&](int h) {
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
  });
}

template <typename T>
void summarize_blocks(const char* pages, uint16_t* summaries, const int32_t* blocks, int count, int kv_heads, int D) {
  for_each(count, 2, [&](int i) {
    for (int h = 0; h < kv_heads; h++) summarize<T>(pages, summaries, (int64_t)blocks[i] * kv_heads + h, D);
  });
}

}  // namespace

extern "C" {

int64_t tenfold_page_bytes(int kind, int head_size) {
  int64_t bytes = 0;
  with_kind(kind, [&](auto t) { bytes = page_bytes<decltype(t)>(head_size); });
  return bytes;
}

void tenfold_rope_and_write(int is_bf16, const tenfold_batch* b, const void* qkv, const float* cosine, const float* sine,
                            void* query, void* pages, uint16_t* summaries, int rotate) {
  with_kind(b->kind, [&](auto t) {
    using T = decltype(t);
    if (is_bf16) rope_and_write<bf16, T>(*b, (const bf16*)qkv, cosine, sine, (bf16*)query, (char*)pages, summaries, rotate);
    else rope_and_write<float, T>(*b, (const float*)qkv, cosine, sine, (float*)query, (char*)pages, summaries, rotate);
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
