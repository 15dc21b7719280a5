// A BERT encoder from token ids to one vector a text. Every thread takes whole texts, from the embeddings through all
// layers to the mean: no thread waits for another between two steps, a text's numbers stay in the core's own cache, and
// a vector is the same to the last bit whatever else is in the batch. Sums of 8-bit products are exact; what lies
// between them is float32, but for queries, keys, values and the inner rows, which are bf16 where products take them so.
#include "kernels.h"
#include "encoder_attention.h"
#include "team.h"

#include <memory>

using namespace tenfold;

namespace {

// The sum of each token's and its place's embeddings, normalized: [tokens][hidden].
void embed_tokens(const Model& m, const int32_t* ids, int tokens, float* x) {
  for (int t = 0; t < tokens; t++) {
    float* row = x + (int64_t)t * m.hidden;
    const float *word = m.words + (int64_t)ids[t] * m.hidden, *place = m.places + (int64_t)t * m.hidden;
    for (int i = 0; i < m.hidden; i += 16)
      store(row + i, load(word + i) + load(place + i));
    layer_norm(row, m.hidden, m.norm, m.norm_bias, m.eps);
  }
}

// What follows attention in a layer, for `count` rows of `x` and of `attended`.
void feed_forward(const Model& m, const tenfold_encoder_layer& w, int count, const Held* attended, float* x,
                  Scratch& s) {
  const int H = m.hidden;
  const int inner = inner_stride(m);
  auto add = [&](int row, int column, f16v v) {
    float* at = x + (int64_t)row * H + column;
    store(at, load(at) + v);
  };
  s.rows.shape(w.output, count);
  for (int r = 0; r < count; r++) s.rows.put(w.output, r, numbers_of(attended + (int64_t)r * H));
  multiply(s.rows, count, w.output, add);
  s.rows.shape(w.inner, count);
  for (int r = 0; r < count; r++) {
    float* row = x + (int64_t)r * H;
    layer_norm(row, H, w.attention_norm, w.attention_norm_bias, m.eps);
    s.rows.put(w.inner, r, numbers_of(row));
  }
  multiply(s.rows, count, w.inner, [&](int row, int column, f16v v) {
    store(&s.inner[(int64_t)row * inner + column], v);
  });
  s.rows.shape(w.outer, count);
  for (int r = 0; r < count; r++) s.rows.put_gelu(w.outer, r, &s.inner[(int64_t)r * inner]);
  multiply(s.rows, count, w.outer, add);
  for (int r = 0; r < count; r++) layer_norm(x + (int64_t)r * H, H, w.outer_norm, w.outer_norm_bias, m.eps);
}

// The mean of `count` rows, brought to length 1.
void pool(const float* x, int count, int width, float* out) {
  f16v squares = {};
  for (int i = 0; i < width; i += 16) {
    f16v total = {};
    for (int t = 0; t < count; t++) total += load(x + (int64_t)t * width + i);
    store(out + i, total);
    squares += total * total;
  }
  const float length = std::max(std::sqrt(sum(squares)), 1e-12f);
  for (int i = 0; i < width; i += 16) store(out + i, load(out + i) / length);
}

void encode(const Model& m, const int32_t* ids, int tokens, float* out, Scratch& s) {
  const int H = m.hidden;
  s.fit(m, tokens);
  float* x = &s.x[0];
  embed_tokens(m, ids, tokens, x);
  const int unit = in_tiles_of(H) ? TILED_ROWS : ROWS, most = BLOCK / unit * unit;  // no part of a tile but the last
  const int blocks = up(tokens, most), each = up(up(tokens, blocks), unit) * unit;
  for (int i = 0; i < m.count; i++) {
    const tenfold_encoder_layer& w = m.layers[i];
    s.rows.shape(w.qkv, tokens);
    for (int t = 0; t < tokens; t++) s.rows.put(w.qkv, t, numbers_of(x + (int64_t)t * H));
    multiply(s.rows, tokens, w.qkv, [&](int row, int column, f16v v) {
      store(&s.qkv[(int64_t)row * 3 * H + column], v);
    });
    attend(m, tokens, s);
    for (int first = 0; first < tokens; first += each)
      feed_forward(m, w, std::min(each, tokens - first), &s.attended[(int64_t)first * H], x + (int64_t)first * H, s);
  }
  pool(x, m.pool_first ? 1 : tokens, H, out);
}

}  // namespace

extern "C" void tenfold_encode(const tenfold_encoder* model, const int32_t* ids, const int32_t* starts, int texts,
                               float* out) {
  Team::run_once(texts, [&](int i) {
    static thread_local std::unique_ptr<Scratch> kept;
    if (!kept) kept = std::make_unique<Scratch>();
    encode(*model, ids + starts[i], starts[i + 1] - starts[i], out + (int64_t)i * model->hidden, *kept);
  });
  Team::settle();
}
