// All layers of a decoder in one call: with few sequences, calling 270 kernels from Python would cost as much as a
// fifth of the step. The order and the kernels are those of `Decoder.forward`, and so are the results.
#include "kernels.h"

namespace {

void multiply(const tenfold_linear& w, const uint16_t* x, uint16_t* out, int rows) {
  if (w.bits == 8)
    tenfold_gemm_int8(x, 0, (const int8_t*)w.packed, w.scales, w.sums, w.bias, out, 0, rows, w.n, w.k);
  else
    tenfold_gemm_bf16(x, (const uint16_t*)w.packed, w.bias, out, 0, rows, w.n, w.k);
}

}  // namespace

extern "C" {

int64_t tenfold_scratch(const tenfold_model* m, const tenfold_batch* b) {
  return m->hidden + (int64_t)(3 * b->heads + 2 * b->kv_heads) * b->head_size + 3 * (int64_t)m->intermediate;
}

void tenfold_forward(const tenfold_model* m, const tenfold_batch* b, float* residual, uint16_t* delta,
                     uint16_t* scratch) {
  const int64_t tokens = b->tokens, heads = (int64_t)b->heads * b->head_size;
  uint16_t* x = scratch;
  uint16_t* qkv = x + tokens * m->hidden;
  uint16_t* query = qkv + tokens * (b->heads + 2 * b->kv_heads) * b->head_size;
  uint16_t* attended = query + tokens * heads;
  uint16_t* gate_up = attended + tokens * heads;
  uint16_t* active = gate_up + tokens * 2 * m->intermediate;
  void* plan = tenfold_plan(b);
  for (int i = 0; i < m->count; i++) {
    const tenfold_layer& w = m->layers[i];
    tenfold_add_rms_norm(1, residual, i ? delta : nullptr, w.input_norm, x, b->tokens, m->hidden, m->eps);
    multiply(w.qkv, x, qkv, b->tokens);
    if (w.query_norm)
      tenfold_norm_heads(1, qkv, w.query_norm, w.key_norm, b->tokens, b->heads, b->kv_heads, b->head_size, m->eps);
    tenfold_rope_and_write(1, b, qkv, m->cosine, m->sine, query, w.pages, w.summaries, (int)w.rotate);
    tenfold_attention(1, b, plan, query, w.pages, w.summaries, attended);
    multiply(w.output, attended, delta, b->tokens);
    tenfold_add_rms_norm(1, residual, delta, w.post_norm, x, b->tokens, m->hidden, m->eps);
    multiply(w.gate_up, x, gate_up, b->tokens);
    tenfold_silu_mul(1, gate_up, active, b->tokens, m->intermediate);
    multiply(w.down, active, delta, b->tokens);
  }
  tenfold_plan_free(plan);
}

}  // extern "C"
