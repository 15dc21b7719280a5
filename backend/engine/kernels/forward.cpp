// All layers of a decoder in one call: with few sequences, calling 270 kernels from Python would cost as much as a
// fifth of the step. The order and the kernels are those of `Decoder.forward`, and so are the results.
#include "parts.h"
#include "team.h"

namespace {

template <typename T>
void forward(int is_bf16, const tenfold_model& m, const tenfold_batch& b, float* residual, T* delta, T* scratch) {
  const int64_t tokens = b.tokens, heads = (int64_t)b.heads * b.head_size;
  T* x = scratch;
  T* qkv = x + tokens * m.hidden;
  T* query = qkv + tokens * (b.heads + 2 * b.kv_heads) * b.head_size;
  T* attended = query + tokens * heads;
  T* gate_up = attended + tokens * heads;
  T* active = gate_up + tokens * 2 * m.intermediate;
  auto multiply = [&](const tenfold_linear& w, const T* from, T* to) {
    tenfold::multiply(w, is_bf16, from, to, !is_bf16, b.tokens);
  };
  void* plan = tenfold_plan(&b);
  for (int i = 0; i < m.count; i++) {
    const tenfold_layer& w = m.layers[i];
    tenfold_add_rms_norm(is_bf16, residual, i ? delta : nullptr, w.input_norm, x, b.tokens, m.hidden, m.eps);
    multiply(w.qkv, x, qkv);
    if (w.query_norm)
      tenfold_norm_heads(is_bf16, qkv, w.query_norm, w.key_norm, b.tokens, b.heads, b.kv_heads, b.head_size, m.eps);
    tenfold_rope_and_write(is_bf16, &b, qkv, m.cosine, m.sine, query, w.pages, w.summaries, (int)w.rotate);
    tenfold::attention(is_bf16, &b, plan, query, w.pages, w.summaries, attended);
    multiply(w.output, attended, delta);
    tenfold_add_rms_norm(is_bf16, residual, delta, w.post_norm, x, b.tokens, m.hidden, m.eps);
    multiply(w.gate_up, x, gate_up);
    tenfold_silu_mul(is_bf16, gate_up, active, b.tokens, m.intermediate);
    multiply(w.down, active, delta);
  }
  tenfold::Team::settle();
  tenfold_plan_free(plan);
}

}  // namespace

extern "C" {

int64_t tenfold_scratch(const tenfold_model* m, const tenfold_batch* b) {
  return m->hidden + (int64_t)(3 * b->heads + 2 * b->kv_heads) * b->head_size + 3 * (int64_t)m->intermediate;
}

void tenfold_forward(int is_bf16, const tenfold_model* m, const tenfold_batch* b, float* residual, void* delta,
                     void* scratch) {
  if (is_bf16) forward(1, *m, *b, residual, (uint16_t*)delta, (uint16_t*)scratch);
  else forward(0, *m, *b, residual, (float*)delta, (float*)scratch);
}

}  // extern "C"
