// Tiles of the matrix products: what `gemm.cpp` shares out among threads and `encoder.cpp` runs within one.
//
// Packed weights come in panels of 32 output columns; within a panel the inner dimension runs in steps of 4 bytes a
// column (2 bf16 or 4 int8 values), so a step of a panel is 128 consecutive bytes:
//   bf16  [panel][k / 2][32][2]        int8  [panel][k / 4][32][4]
// It is the layout that the dot instructions want, and every other way (dot.h) reads the same.
#pragma once
#include "dot.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace tenfold {

constexpr int PANEL = 32;
constexpr int PANEL_STEP = 4 * PANEL;  // bytes

// What a pass over a panel asks for meanwhile: its share of the panel that this thread works on next. So weights come
// from memory while all passes compute, not while the first one waits.
struct Ahead { const char* at; int64_t per_step; };
inline void prefetch(Ahead& a) {
  __builtin_prefetch(a.at, 0, 2);
  if (a.per_step > 64) __builtin_prefetch(a.at + 64, 0, 2);
  a.at += a.per_step;
}

// The part of `bytes` at `next` that the pass over rows [at, at + rows) of `count` asks for, in `steps` steps.
inline Ahead share(const void* next, int64_t bytes, int at, int rows, int count, int steps) {
  return {(const char*)next + bytes * at / count, bytes * rows / ((int64_t)count * steps)};
}

// Loops whose counters the compiler knows at every place: left as loops, what they fill would live in memory.
template <int... I, typename F> TENFOLD_INLINE inline void each_of(std::integer_sequence<int, I...>, F f) {
  (f(std::integral_constant<int, I>{}), ...);
}
template <int N, typename F> TENFOLD_INLINE inline void each(F f) { each_of(std::make_integer_sequence<int, N>{}, f); }

// Takes results as they are: the sums of a panel, row by row.
template <typename T> struct Into {
  T (*rows)[PANEL];
  template <typename V> void operator()(int row, int half, V v) const { store(rows[row] + half * 16, v); }
};

// A finished sum, moved: what is live while results are put, calls included, must not be what the loop adds to, or GCC
// keeps that in memory all along.
template <typename Sum> TENFOLD_INLINE inline Sum moved(Sum sum) {
  Sum out;
#if defined(__AVX512F__)
  asm volatile("vmovaps %1, %0" : "=v"(out) : "v"(sum));
#elif defined(__AVX__)
  asm volatile("vmovaps %1, %0" : "=x"(out) : "x"(sum));
#elif defined(__aarch64__)
  asm volatile("mov %0.16b, %1.16b" : "=w"(out) : "w"(sum));
#else
  out = sum;
#endif
  return out;
}

// `count` of a tile's sums as one vector.
template <typename Dot, int count> TENFOLD_INLINE inline auto joined(const typename Dot::Sum* sums) {
  typedef Register<4 * Dot::LANES> R;
  typedef std::conditional_t<std::is_same<Dot, ByteDot>::value, typename R::Int, typename R::Float> V;
  if constexpr (count == 1) return (V)sums[0];
  else if constexpr (count == 2) return Two<V>{(V)sums[0], (V)sums[1]};
  else return Two<Two<V>>{{(V)sums[0], (V)sums[1]}, {(V)sums[2], (V)sums[3]}};
}

// MR rows at `a`, `stride` numbers apart, by one panel. `put(row, half of the panel, 16 sums)` takes the results.
template <typename Dot, int MR, typename Put>
inline void tile(const typename Dot::In* a, int64_t stride, const void* panel, int steps, Ahead ahead, Put put) {
  typedef typename Dot::Sum Sum;
  constexpr int BYTES = 4 * Dot::LANES;  // of a step's weights in a vector
  constexpr int VECTORS = PANEL / Dot::LANES, HALF = VECTORS / 2, WIDTH = MR * VECTORS <= SUMS ? VECTORS : HALF;
  each<VECTORS / WIDTH>([&](auto pass) TENFOLD_INLINE {
    const typename Dot::In* row = a;
    const char* w = (const char*)panel + pass * WIDTH * BYTES;
    Sum acc[MR][WIDTH];
    each<MR * WIDTH>([&](auto i) TENFOLD_INLINE { acc[i / WIDTH][i % WIDTH] = Sum{}; });
    for (int i = 0; i < steps; i++, row += Dot::PER_STEP, w += PANEL_STEP) {
      if (pass == 0) prefetch(ahead);
      each<Dot::PARTS>([&](auto p) TENFOLD_INLINE {
        decltype(Dot::part(w, p)) part[WIDTH];
        each<WIDTH>([&](auto c) TENFOLD_INLINE { part[c] = Dot::part(w + c * BYTES, p); });
        each<MR>([&](auto r) TENFOLD_INLINE {
          const auto x = Dot::spread(row + r * stride, p);
          each<WIDTH>([&](auto c) TENFOLD_INLINE { acc[r][c] = Dot::add(acc[r][c], x, part[c]); });
        });
      });
    }
    Sum done[MR][WIDTH];
    each<MR * WIDTH>([&](auto i) TENFOLD_INLINE { done[i / WIDTH][i % WIDTH] = moved(acc[i / WIDTH][i % WIDTH]); });
    each<MR>([&](auto r) TENFOLD_INLINE {
      each<WIDTH / HALF>([&](auto h) TENFOLD_INLINE {
        put(r, pass * (WIDTH / HALF) + h, joined<Dot, HALF>(&done[r][h * HALF]));
      });
    });
  });
}

// 16-bit weights: sums in float32. k is even.
template <int MR, typename Put>
inline void tile_wide(const Wide* a, int64_t lda, const uint16_t* panel, int k, Ahead ahead, Put put) {
  tile<WideDot, MR>(a, lda, panel, k / 2, ahead, put);
}

// 8 bits: sums exact in 32 bits. k is divisible by 4.
template <int MR, typename Put>
inline void tile_bytes(const Byte* a, int64_t lda, const int8_t* panel, int k, Ahead ahead, Put put) {
  tile<ByteDot, MR>(a, lda, panel, k / 4, ahead, put);
}

// Cuts rows into tiles of the sizes that are compiled: `tile(size, first row)`.
template <typename Tile>
inline void in_tiles(int count, Tile tile) {
  int at = 0;
  auto take = [&](auto size) { tile(size, at); at += decltype(size)::value; };
  while (at < count) {
    const int left = count - at;
    if (left >= ROWS && left != ROWS + ROWS / 3) take(std::integral_constant<int, ROWS>{});
    else if (left >= ROWS * 2 / 3) take(std::integral_constant<int, ROWS * 2 / 3>{});
    else if (ROWS > 6 && left >= 6) take(std::integral_constant<int, 6>{});
    else if (ROWS > 6 && left >= 4) take(std::integral_constant<int, 4>{});
    else if (ROWS <= 6 && left >= 3) take(std::integral_constant<int, 3>{});
    else if (left >= 2) take(std::integral_constant<int, 2>{});
    else take(std::integral_constant<int, 1>{});
  }
}

// ---- rows in 8 bits -------------------------------------------------------------------------------------------------

// A row's numbers are (byte - zero) x scale.
struct RowScale { float scale; int32_t zero; };

// 16 numbers from `at` on, of which `count` are there; zero for the others.
template <typename T> inline f16v load_some(const T* at, int count) {
  if (count >= 16) return load(at);
  T few[16] = {};
  std::memcpy(few, at, count * sizeof(T));
  return load(few);
}

// `read(i, count)` gives 16 numbers from place i on, as `load_some` does. k is divisible by 4.
template <typename Read>
inline void to_bytes(int k, RowScale s, Byte* out, Read read) {
  const f16v inverse = splat(1.0f / s.scale);
  const i16v least = splat(-s.zero), most = splat(255 - s.zero);
  auto bytes = [&](int i, int count) { return larger(smaller(round_even(read(i, count) * inverse), most), least); };
  int i = 0;
  for (; i + 16 <= k; i += 16) put_bytes(out + i, bytes(i, 16), s.zero);
  if (i < k) {
    Byte rest[16];
    put_bytes(rest, bytes(i, k - i), s.zero);
    std::memcpy(out + i, rest, (k - i) * sizeof(Byte));
  }
}

// One row to 8 bits, symmetric: zero is 128.
template <typename Read>
inline RowScale quantize_row(int k, Byte* out, Read read) {
  f16v top = {};
  int i = 0;
  for (; i + 16 <= k; i += 16) top = larger(magnitude(read(i, 16)), top);
  if (i < k) top = larger(magnitude(read(i, k - i)), top);
  const RowScale s{std::max(largest(top), 1e-8f) / 127.0f, 128};
  to_bytes(k, s, out, read);
  return s;
}

// Sums of a product with a row in 8 bits, without the share of the row's zero point. `sums` is 128 x the column sums.
inline i16v without_zero(i16v v, const int32_t* sums, int32_t zero) {
  if (ROWS_ARE_SIGNED) return v;
  const i16v share = load(sums);
  return v - (zero == 128 ? share : (share >> 7) * splat(zero));
}

}  // namespace tenfold
