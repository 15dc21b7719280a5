// Matrix products of the decoder: bf16 and 8-bit weights, packed once, read in the order they are used; see gemm.h.
// Rows of the 8-bit product are quantized here, each (a token) by itself.
#include "kernels.h"
#include "hadamard.h"
#include "panel.h"
#include "parts.h"
#include "team.h"

#include <chrono>
#include <cmath>
#include <string>
#include <vector>

using namespace tenfold;

namespace {

constexpr int BLOCK = 96;     // rows that share a panel while it is in the cache nearest to the core

// Where a product's results go: rows of `columns` numbers, the whole product's.
struct Out {
  void* base; int is_float; int columns;
  const float* bias;
  // `count` rows of a panel, from `row` and `column` on: `number(row of them, half of the panel)` gives 16 numbers.
  template <typename Number> void put(int64_t row, int column, int count, Number number) const {
    if (!bias && !is_float && column + PANEL <= columns) {
      bf16* to = (bf16*)base + row * columns + column;
      for (int r = 0; r < count; r++, to += columns)
        for (int half = 0; half < 2; half++) store(to + half * 16, number(r, half));
      return;
    }
    for (int r = 0; r < count; r++)
      for (int half = 0; half < 2; half++) put_few(row + r, column + half * 16, number(r, half));
  }

 private:
  void put_few(int64_t row, int column, f16v v) const {
    const int room = columns - column;
    if (room <= 0) return;
    if (bias) v = v + load_some(bias + column, room);
    if (is_float) put_some((float*)base + row * columns + column, v, room);
    else put_some((bf16*)base + row * columns + column, v, room);
  }
  template <typename T> static void put_some(T* to, f16v v, int count) {
    if (count >= 16) { store(to, v); return; }
    T few[16];
    store(few, v);
    std::memcpy(to, few, count * sizeof(T));
  }
};

// Room that a thread keeps between calls.
template <typename T> T* room(size_t count) {
  static thread_local std::vector<T> held;
  if (held.size() < count) {
    Team::settle();
    held.resize(count);
  }
  return held.data();
}

// A product in (panels, row block) pieces, a panel's one after the other, so that it comes from memory once. A piece is
// computed as sums, `sum(first row, rows, panel, next panel, sums)`, and becomes numbers on its way out, `finish(first row,
// column)` giving what makes 16 numbers of `(row, half of the panel, sums)`: results are written while others are awaited.
template <typename T, typename Sum, typename Finish> void in_pieces(int m, Out out, Sum sum, Finish finish) {
  struct alignas(64) Sums { T rows[BLOCK][PANEL]; };
  static thread_local Sums sums;
  if (!m) return;
  const int panels = (out.columns + PANEL - 1) / PANEL, blocks = (m + BLOCK - 1) / BLOCK, block = std::min(m, BLOCK);
  // Few rows are done with a panel as quickly as threads agree on who takes it: then a piece is several.
  const int together = std::clamp(panels / (6 * Team::size()), 1, std::min(8, BLOCK / block));
  Team::run((panels + together - 1) / together * blocks, [=](int piece, int next) {
    const int first = piece % blocks * BLOCK, from = piece / blocks * together, to = std::min(from + together, panels);
    T (*rows)[PANEL] = sums.rows;
    for (int p = from; p < to; p++, rows += block)
      sum(first, std::min(BLOCK, m - first), p, p + 1 < to ? p + 1 : next / blocks * together, Into<T>{rows});
  }, [=](int piece) {
    const int first = piece % blocks * BLOCK, from = piece / blocks * together, to = std::min(from + together, panels);
    const T (*rows)[PANEL] = sums.rows;
    for (int p = from; p < to; p++, rows += block) {
      const auto number = finish(first, p * PANEL);
      out.put(first, p * PANEL, std::min(BLOCK, m - first),
              [&](int r, int half) { return number(r, half, load(rows[r] + half * 16)); });
    }
  });
}

// Does something with each row: by the team where there is enough of it.
template <typename Row> void each_row(int rows, int k, Row row) {
  for_each(rows, std::max(1, 16384 / k), row);
}

template <typename T> void multiply_wide(tenfold_linear w, const T* x, Out out, int m) {
  const int64_t stride = tile_stride(w.k * sizeof(Wide)) / sizeof(Wide);
  const Wide* a = (const Wide*)x;
  if (std::is_same<T, float>::value != std::is_same<Wide, float>::value || stride != w.k) {
    typedef std::conditional_t<std::is_same<Wide, float>::value, float, bf16> To;
    To* to = (To*)room<Wide>((size_t)m * stride);
    each_row(m, w.k, [&](int r) {
      const T* from = x + (int64_t)r * w.k;
      for (int i = 0; i < w.k; i += 16) {
        To few[16];
        store(few, load_some(from + i, w.k - i));
        std::memcpy(to + r * stride + i, few, std::min(16, w.k - i) * sizeof(To));
      }
    });
    a = (const Wide*)to;
  }
  in_pieces<float>(m, out, [=](int first, int count, int p, int next, auto into) {
    panel_of_wide(a + first * stride, stride, count, (const uint16_t*)w.packed, w.k, p, next, into);
  }, [](int, int) { return [](int, int, f16v v) { return v; }; });
}

// A row as the rotated weight meets it, until the thread asks for the next one.
template <typename T> const float* rotated(const T* row, const tenfold_linear& w) {
  static thread_local std::vector<float> held;
  held.resize(w.k);
  for (int i = 0; i < w.k; i += 16) store(&held[i], load(row + i));
  hadamard(held.data(), w.k, w.rotated);
  return held.data();
}

template <typename T> void multiply_bytes(tenfold_linear w, const T* x, Out out, int m) {
  const int64_t stride = tile_stride(w.k);
  Byte* q = room<Byte>((size_t)m * stride);
  float* scales = room<float>(m);
  each_row(m, w.k, [&](int r) {
    const T* row = x + (int64_t)r * w.k;
    Byte* to = q + r * stride;
    auto quantize = [&](const auto* from) {
      scales[r] = quantize_row(w.k, to, [&](int i, int count) { return load_some(from + i, count); }).scale;
    };
    if (w.rotated) quantize(rotated(row, w)); else quantize(row);
  });
  in_pieces<int32_t>(m, out, [=](int first, int count, int p, int next, auto into) {
    panel_of_bytes(q + first * stride, stride, count, (const int8_t*)w.packed, w.k, p, next, into);
  }, [=](int first, int column) {
    struct Half { f16v scale; i16v zero; };
    auto half = [&](int at) {
      return Half{load(w.scales + at), ROWS_ARE_SIGNED ? splat(0) : load(w.sums + at)};
    };
    return [low = half(column), high = half(column + 16), rows = scales + first](int r, int half, i16v v) {
      const Half& h = half ? high : low;
      return to_floats(v - h.zero) * h.scale * rows[r];
    };
  });
}

}  // namespace

bool tenfold::tiles_wanted = true;

void tenfold::multiply(const tenfold_linear& w, int is_bf16, const void* x, void* out, int out_is_float, int rows) {
  const Out to{out, out_is_float, w.n, w.bias};
  auto with = [&](auto* x) { if (w.bits == 8) multiply_bytes(w, x, to, rows); else multiply_wide(w, x, to, rows); };
  if (is_bf16) with((const bf16*)x); else with((const float*)x);
}

extern "C" {

const char* tenfold_way() {
  static const std::string with_tiles = std::string("AMX, for few rows ") + WAY;
  return tiles_wanted && tiles_granted() ? with_tiles.c_str() : WAY;
}
int tenfold_has_tiles() { return tiles_granted(); }
void tenfold_use_tiles(int use) { tiles_wanted = use; }
int tenfold_rows_are_bf16() { return std::is_same<Wide, uint16_t>::value; }

// weight: float32 [n][k], row major. k must be a multiple of 4.
void tenfold_pack_bf16(const float* weight, int n, int k, uint16_t* packed) {
  const int panels = (n + PANEL - 1) / PANEL;
  for_each(panels, 1, [&](int p) {
    for (int i = 0; i < k; i += 2)
      for (int c = 0; c < PANEL; c++)
        for (int j = 0; j < 2; j++) {
          const int column = p * PANEL + c;
          packed[((int64_t)p * k + i) * PANEL + c * 2 + j] = column < n ? narrow(weight[(int64_t)column * k + i + j]) : 0;
        }
  });
}

// Also gives each column's scale and 128 x the sum of its 8-bit weights, both padded to whole panels.
void tenfold_pack_int8(const float* weight, int n, int k, int8_t* packed, float* scales, int32_t* sums) {
  const int panels = (n + PANEL - 1) / PANEL;
  for_each(panels, 1, [&](int p) {
    for (int c = 0; c < PANEL; c++) {
      const int column = p * PANEL + c;
      float top = 1e-8f;
      if (column < n) for (int i = 0; i < k; i++) top = std::max(top, std::fabs(weight[(int64_t)column * k + i]));
      const float inverse = 127.0f / top;
      int32_t sum = 0;
      for (int i = 0; i < k; i++) {
        const int v = column < n ? (int)std::lrintf(weight[(int64_t)column * k + i] * inverse) : 0;
        sum += v;
        packed[((int64_t)p * k + i / 4 * 4) * PANEL + c * 4 + i % 4] = (int8_t)v;
      }
      scales[column] = top / 127.0f;
      sums[column] = 128 * sum;
    }
  });
}

void tenfold_multiply(const tenfold_linear* w, int is_bf16, const void* x, void* out, int out_is_float, int rows) {
  multiply(*w, is_bf16, x, out, out_is_float, rows);
  Team::settle();
}

// Operations per second of a step of the products alone, by the whole team: what they can reach at most. bits: 16 or 8.
double tenfold_peak(int bits) {
  constexpr int64_t ROUNDS = 4'000'000;
  auto spin = [&](auto dot) {
    typedef decltype(dot) Dot;
    char w[64];
    std::memset(w, 1, sizeof w);
    const typename Dot::In row[4] = {1, 1, 1, 1};
    const auto part = Dot::part(w, 0);
    const auto x = Dot::spread(row, 0);
    typename Dot::Sum s[8] = {};  // eight chains hide the instructions' latency
    for (int64_t r = 0; r < ROUNDS; r++) each<8>([&](auto i) TENFOLD_INLINE { s[i] = Dot::add(s[i], x, part); });
    each<8>([&](auto i) TENFOLD_INLINE { s[i] = moved(s[i]); });
  };
  const int threads = Team::size();
  auto seconds_of = [&](auto work) {
    const auto began = std::chrono::steady_clock::now();
    Team::run_once(threads, [&](int) { work(); });
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
#if defined(TENFOLD_AMX)
  if (by_tiles(64)) {
    constexpr double OPERATIONS = 4 * 2.0 * 16 * 16 * 64;  // of four tiles of 8-bit products; half of it in 16 bits
    const double seconds = seconds_of([&] {
      shape_tiles(TileUse::PRODUCT, 32, product_shapes);
      _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
      for (int64_t r = 0; r < ROUNDS / 8; r++) {
        if (bits == 8) { _tile_dpbusd(0, 4, 6); _tile_dpbusd(1, 4, 7); _tile_dpbusd(2, 5, 6); _tile_dpbusd(3, 5, 7); }
        else { _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7); }
      }
      release_tiles();
    });
    return ROUNDS / 8 * threads * (bits == 8 ? OPERATIONS : OPERATIONS / 2) / seconds;
  }
#endif
  const double seconds = seconds_of([&] { if (bits == 8) spin(ByteDot{}); else spin(WideDot{}); });
  auto each_add = [](auto dot) { return 2.0 * decltype(dot)::LANES * decltype(dot)::PER_STEP / decltype(dot)::PARTS; };
  return (double)ROUNDS * 8 * threads * (bits == 8 ? each_add(ByteDot{}) : each_add(WideDot{})) / seconds;
}

}  // extern "C"
