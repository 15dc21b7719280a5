// The kernels' C interface: raw pointers, loaded with ctypes; no torch header, so a first build takes seconds.
// `is_bf16` says what activations are: 1 bf16, 0 float32. `kind` of KV pages: 0 float32, 1 bf16, 2 int8.
#pragma once
#include <cstdint>

extern "C" {

// ---- the threads that share the work (team.cpp): as many as this process may use, or OMP_NUM_THREADS says, unless set
void tenfold_set_threads(int threads);

// ---- element-wise (elementwise.cpp)
void tenfold_add_rms_norm(int is_bf16, float* residual, const void* delta, const float* weight, void* out, int tokens,
                          int width, float eps);
void tenfold_silu_mul(int is_bf16, const void* gate_up, void* out, int tokens, int width);
void tenfold_norm_heads(int is_bf16, void* qkv, const float* query_norm, const float* key_norm, int tokens, int heads,
                        int kv_heads, int head_size, float eps);

// ---- paged attention (attention.cpp) and its pages (write.cpp)
struct tenfold_batch {
  const int64_t* positions;      // [tokens]
  const int64_t* slots;          // [tokens], block * 16 + offset
  const int32_t* query_starts;   // [sequences + 1]
  const int32_t* context_lens;   // [sequences], new tokens included
  const int32_t* tables;         // [sequences][table_stride]
  int64_t table_stride;
  int32_t sequences, tokens;
  int32_t heads, kv_heads, head_size;
  int32_t kind;                  // of the pages
  int32_t keep_percent;          // top-K sparse decode: share of its pages a sequence reads; 100 reads all
  int32_t share_pages;           // 1: pages that several sequences name are read once for all of them
};
int64_t tenfold_page_bytes(int kind, int head_size);  // of one block and one KV head
void* tenfold_plan(const tenfold_batch* batch);       // what every layer of a step does; free it after the step
void tenfold_plan_free(void* plan);
// Splits fused qkv rows, rotates queries and keys, writes keys and values into their pages.
// `summaries` (or null) keeps the mean and variance of each full page's keys: bf16 [block][kv_head][2][head_size].
void tenfold_rope_and_write(int is_bf16, const tenfold_batch* batch, const void* qkv, const float* cosine,
                            const float* sine, void* query, void* pages, uint16_t* summaries, int rotate);
void tenfold_attention(int is_bf16, const tenfold_batch* batch, const void* plan, const void* query, const void* pages,
                       const uint16_t* summaries, void* out);
// Tokens between their pages and plain float32 rows [tokens][kv_heads][head_size]. Writing rotates the keys by the
// angles given ([head_size / 2] each; null leaves them as they are), so that a text can be used at another position.
void tenfold_read_tokens(int kind, const void* pages, const int64_t* slots, int count, int kv_heads, int head_size,
                         float* keys, float* values);
void tenfold_write_tokens(int kind, void* pages, const int64_t* slots, int count, int kv_heads, int head_size,
                          const float* keys, const float* values, const float* cosine, const float* sine);
// Summaries of whole blocks, from their keys.
void tenfold_summarize(int kind, const void* pages, uint16_t* summaries, const int32_t* blocks, int count, int kv_heads,
                    int head_size);

// ---- matrix products (gemm.cpp)
struct tenfold_linear {
  const void* packed;
  const float* scales;      // bits 8
  const int32_t* sums;      // bits 8
  const float* bias;        // or null
  int32_t n, k, bits;
  int32_t rotated;          // bits 8: channels of the input that are rotated together (hadamard.h), or 0
};
const char* tenfold_way();     // the instructions that they are built of
int tenfold_has_tiles();       // 1: AMX is there and granted
void tenfold_use_tiles(int use);  // 0: not; before anything is multiplied
int tenfold_rows_are_bf16();   // what rows meet 16-bit weights as: 1 bf16, 0 float32; others are converted
// out [rows][n] = x [rows][k] by the weights, float32 or bf16.
void tenfold_multiply(const tenfold_linear* weights, int is_bf16, const void* x, void* out, int out_is_float, int rows);

// ---- all layers of a step (forward.cpp); weights as gemm.cpp packs them
struct tenfold_layer {
  const float *input_norm, *post_norm;
  const float *query_norm, *key_norm;  // or null
  tenfold_linear qkv, output, gate_up, down;
  void* pages;
  uint16_t* summaries;      // null: the layer reads all pages
  int64_t rotate;
};
struct tenfold_model {
  const tenfold_layer* layers;
  const float *cosine, *sine;
  int32_t count, hidden, intermediate;
  float eps;
};
// `residual` [tokens][hidden] goes in as the embeddings and comes out as the last layer's residual; what its
// down projection adds is in `delta`. `scratch` holds tokens * tenfold_scratch() activations, as `delta` bf16 or float32.
int64_t tenfold_scratch(const tenfold_model* model, const tenfold_batch* batch);
void tenfold_forward(int is_bf16, const tenfold_model* model, const tenfold_batch* batch, float* residual, void* delta,
                     void* scratch);

// ---- a BERT encoder (encoder.cpp). Sizes are divisible by 32.
struct tenfold_encoder_product {
  tenfold_linear linear;
  const float* smooth;      // [k]: what the input is multiplied by before it is quantized; or null
};
struct tenfold_encoder_layer {
  tenfold_encoder_product qkv, output, inner, outer;
  const float *attention_norm, *attention_norm_bias, *outer_norm, *outer_norm_bias;
};
struct tenfold_encoder {
  const tenfold_encoder_layer* layers;
  const float* words;       // [vocabulary][hidden]
  const float* places;      // [positions][hidden], the embedding of the token type included
  const float *norm, *norm_bias;
  int32_t count, hidden, intermediate, heads;
  int32_t pool_first;       // 1: the first token's row is the vector; 0: the mean
  float eps;
};
// `ids` of all texts, text i at [starts[i], starts[i + 1]). out: [texts][hidden], each of length 1.
void tenfold_encode(const tenfold_encoder* model, const int32_t* ids, const int32_t* starts, int texts, float* out);

// ---- the next token of each row of float32 logits [rows][vocab] (sample.cpp)
struct tenfold_draw {
  double uniform;           // in [0, 1): where in the distribution
  float temperature;        // 0 is greedy, and the rest is not looked at
  float top_p, min_p;       // 1 and 0 leave everything
  int32_t top_k;            // 0 leaves everything
};
void tenfold_sample(const float* logits, int rows, int vocab, const tenfold_draw* draws, int64_t* tokens);
// Log probabilities of a row's chosen token, and its `count` (at most vocab) likeliest with theirs: [rows][count].
void tenfold_logprobs(const float* logits, int rows, int vocab, const int64_t* chosen, int count, float* of_chosen,
                      int64_t* tokens, float* values);

// ---- sizes.cpp: bytes of each struct above, in their order, so that whoever mirrors them can compare
int tenfold_sizes(int64_t* out, int room);  // gives how many there are; `room` of them are told

}  // extern "C"
