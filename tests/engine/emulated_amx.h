// AMX's tile instructions in plain C++, so that what is built of them can be tested where no processor has them.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>  // before its names mean something else
#endif
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace emulated_amx {

struct Tile { int rows = 0, bytes = 0; unsigned char data[16][64]; };
inline thread_local Tile tiles[8];
inline thread_local bool configured = false;

inline void demand(bool holds) { if (!holds) std::abort(); }

inline Tile& tile(int i) { demand(configured && tiles[i].rows > 0); return tiles[i]; }

inline void configure(const void* at) {
  const unsigned char* c = (const unsigned char*)at;
  demand(((uintptr_t)at & 63) == 0 && c[0] == 1 && c[1] == 0);
  for (int i = 0; i < 8; i++) {
    uint16_t bytes;
    std::memcpy(&bytes, c + 16 + 2 * i, 2);
    tiles[i].bytes = bytes;
    tiles[i].rows = c[48 + i];
    demand(bytes <= 64 && tiles[i].rows <= 16);
    std::memset(tiles[i].data, 0, sizeof tiles[i].data);
  }
  configured = true;
}
inline void release() { configured = false; }
inline void zero(int i) { std::memset(tile(i).data, 0, sizeof tile(i).data); }
inline void load(int i, const void* at, int64_t stride) {
  Tile& t = tile(i);
  for (int r = 0; r < t.rows; r++) std::memcpy(t.data[r], (const char*)at + r * stride, t.bytes);
}
inline void keep(int i, void* at, int64_t stride) {
  Tile& t = tile(i);
  for (int r = 0; r < t.rows; r++) std::memcpy((char*)at + r * stride, t.data[r], t.bytes);
}

template <typename Number, typename Add> void each_sum(int to, int a, int b, Add add) {
  Tile &sums = tile(to), &x = tile(a), &w = tile(b);
  demand(sums.rows == x.rows && w.rows * 4 == x.bytes && sums.bytes == w.bytes);
  for (int r = 0; r < sums.rows; r++)
    for (int c = 0; c < sums.bytes / 4; c++) {
      Number sum;
      std::memcpy(&sum, sums.data[r] + 4 * c, 4);
      for (int s = 0; s < w.rows; s++) sum = add(sum, x.data[r] + 4 * s, w.data[s] + 4 * c);
      std::memcpy(sums.data[r] + 4 * c, &sum, 4);
    }
}
inline void multiply_bytes(int to, int a, int b) {
  each_sum<int32_t>(to, a, b, [](int32_t sum, const unsigned char* x, const unsigned char* w) {
    for (int i = 0; i < 4; i++) sum += (int32_t)x[i] * (int32_t)(int8_t)w[i];
    return sum;
  });
}
inline void multiply_bf16(int to, int a, int b) {
  each_sum<float>(to, a, b, [](float sum, const unsigned char* x, const unsigned char* w) {
    for (int i = 0; i < 2; i++) {
      uint32_t u = (uint32_t)(x[2 * i] | x[2 * i + 1] << 8) << 16, v = (uint32_t)(w[2 * i] | w[2 * i + 1] << 8) << 16;
      float p, q;
      std::memcpy(&p, &u, 4);
      std::memcpy(&q, &v, 4);
      sum += p * q;
    }
    return sum;
  });
}

}  // namespace emulated_amx

#define _tile_loadconfig(at) emulated_amx::configure(at)
#define _tile_release() emulated_amx::release()
#define _tile_zero(i) emulated_amx::zero(i)
#define _tile_loadd(i, at, stride) emulated_amx::load(i, at, stride)
#define _tile_stored(i, at, stride) emulated_amx::keep(i, at, stride)
#define _tile_dpbusd(to, a, b) emulated_amx::multiply_bytes(to, a, b)
#define _tile_dpbf16ps(to, a, b) emulated_amx::multiply_bf16(to, a, b)
