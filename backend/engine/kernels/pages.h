// The pages of the KV cache: where each number lies, and reading and writing one token's keys and values.
//
// A page holds 16 tokens of one KV head, keys and values one behind the other; a block is the pages of all KV heads,
// so that a decode step reads long runs. Keys lie transposed, so that one vector holds one dimension of all 16 tokens;
// in bf16 two, in int8 four dimensions (of keys) or tokens (of values) lie side by side, so that one load gives so
// many vectors:
//   float32  keys [head_size][16]          values [16][head_size]
//   bf16     keys [head_size / 2][16][2]   values [8][head_size][2]
//   int8     keys [head_size / 4][16][4]   values [4][head_size][4]    then 16 key and 16 value scales, float32
#pragma once
#include "vector.h"

#include <algorithm>
#include <type_traits>

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

constexpr int PAGE = 16;

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
    const u16v u = load_as<u16v>(at + i * 2 * stride);
    v[i * 2] = as_float(u << 16);
    v[i * 2 + 1] = as_float(u & 0xffff0000u);
  }
}
inline void load_four(const int8_t* at, int, f16v* v) {
  const i16v u = load_as<i16v>(at);
  v[0] = to_floats((u << 24) >> 24);
  v[1] = to_floats((u << 16) >> 24);
  v[2] = to_floats((u << 8) >> 24);
  v[3] = to_floats(u >> 24);
}
// Places of (dimension, token), in elements; `side` is how many lie side by side.
template <typename T> constexpr int side() { return std::is_same<T, bf16>::value ? 2 : std::is_same<T, int8_t>::value ? 4 : 1; }
template <typename T> inline int key_at(int d, int t) {
  return d / side<T>() * side<T>() * PAGE + t * side<T>() + d % side<T>();
}
template <typename T> inline int value_at(int d, int t, int D) {
  return t / side<T>() * side<T>() * D + d * side<T>() + t % side<T>();
}

inline void put_key(float* page, const float* key, int t, int D) { for (int d = 0; d < D; d++) page[d * PAGE + t] = key[d]; }
inline void put_key(bf16* page, const float* key, int t, int D) {
  uint32_t* pairs = (uint32_t*)page + t;
  for (int d = 0; d < D; d += 2) pairs[d / 2 * PAGE] = narrow(key[d]) | (uint32_t)narrow(key[d + 1]) << 16;
}
inline float put_scaled(int8_t* to, const float* x, int D) {
  f16v top = {};
  for (int d = 0; d < D; d += 16) top = larger(magnitude(load(x + d)), top);
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

// Calls `f` with the element type of the pages.
template <typename F> void with_kind(int kind, F f) {
  if (kind == 0) f(float{}); else if (kind == 1) f(bf16{}); else f(int8_t{});
}

}  // namespace
}  // namespace tenfold
