// The models' element-wise steps: RMS norm with the residual sum, the head norms of Qwen3, SwiGLU.
#include "kernels.h"
#include "team.h"
#include "vector.h"

#include <algorithm>

using namespace tenfold;

namespace {

// residual += delta (when given); out = rms_norm(residual) * weight.
template <typename T>
void add_rms_norm(float* residual, const T* delta, const float* weight, T* out, int tokens, int width, float eps) {
  for_each(tokens, std::max(1, 8192 / width), [&](int t) {
    float* x = residual + (int64_t)t * width;
    f16v squares = {};
    for (int i = 0; i < width; i += 16) {
      f16v v = load(x + i);
      if (delta) { v += load(delta + (int64_t)t * width + i); store(x + i, v); }
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
    for (int i = 0; i < width; i += 16) store(out + (int64_t)t * width + i, load(x + i) * scale * load(weight + i));
  });
}

template <typename T>
void silu_mul(const T* gate_up, T* out, int tokens, int width) {
  for_each(tokens, std::max(1, 16384 / width), [&](int t) {
    const T* g = gate_up + (int64_t)t * 2 * width;
    for (int i = 0; i < width; i += 16) {
      const f16v x = load(g + i), u = load(g + width + i);
      const f16v e = exp16(0.0f - magnitude(x));
      const f16v sigmoid = select(x < 0.0f, e, splat(1.0f)) * reciprocal(1.0f + e);
      store(out + (int64_t)t * width + i, x * sigmoid * u);
    }
  });
}

// RMS norm of every query and key head in place; the value heads behind them stay as they are.
template <typename T>
void norm_heads(T* qkv, const float* query_norm, const float* key_norm, int tokens, int heads, int kv_heads, int D,
                float eps) {
  for_each(tokens, 4, [&](int t) {
    for (int h = 0; h < heads + kv_heads; h++) {
      T* x = qkv + ((int64_t)t * (heads + 2 * kv_heads) + h) * D;
      const float* weight = h < heads ? query_norm : key_norm;
      f16v squares = {};
      for (int i = 0; i < D; i += 16) { const f16v v = load(x + i); squares += v * v; }
      const float scale = 1.0f / std::sqrt(sum(squares) / D + eps);
      for (int i = 0; i < D; i += 16) store(x + i, load(x + i) * scale * load(weight + i));
    }
  });
}

}  // namespace

extern "C" {

void tenfold_add_rms_norm(int is_bf16, float* residual, const void* delta, const float* weight, void* out,
                          int tokens, int width, float eps) {
  if (is_bf16) add_rms_norm(residual, (const bf16*)delta, weight, (bf16*)out, tokens, width, eps);
  else add_rms_norm(residual, (const float*)delta, weight, (float*)out, tokens, width, eps);
}

void tenfold_silu_mul(int is_bf16, const void* gate_up, void* out, int tokens, int width) {
  if (is_bf16) silu_mul((const bf16*)gate_up, (bf16*)out, tokens, width);
  else silu_mul((const float*)gate_up, (float*)out, tokens, width);
}

void tenfold_norm_heads(int is_bf16, void* qkv, const float* query_norm, const float* key_norm, int tokens, int heads,
                        int kv_heads, int head_size, float eps) {
  if (is_bf16) norm_heads((bf16*)qkv, query_norm, key_norm, tokens, heads, kv_heads, head_size, eps);
  else norm_heads((float*)qkv, query_norm, key_norm, tokens, heads, kv_heads, head_size, eps);
}

}  // extern "C"
