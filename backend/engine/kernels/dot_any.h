// On any processor: products by the compiler's vectors. See dot.h.
#pragma once
#include "vector.h"

namespace tenfold {

constexpr const char* WAY = "the compiler's vectors";

#if defined(TENFOLD_EMULATED_AMX)
typedef uint16_t WideRow;  // bf16, as tiles take it
inline float number_of(uint16_t x) { return to_float(bf16{x}); }
#else
typedef float WideRow;
inline float number_of(float x) { return x; }
#endif

struct WideDot {
  typedef WideRow In;
  typedef f4v Sum;
  static constexpr int PER_STEP = 2, PARTS = 2, LANES = 4;
  static f4v part(const char* at, int which) {
    const auto w = load_as<Register<16>::Bits>(at);
    return (f4v)(which ? w & 0xffff0000u : w << 16);
  }
  static f4v spread(const In* at, int which) { return number_of(at[which]) - f4v{}; }
  static f4v add(f4v sum, f4v x, f4v w) { return sum + x * w; }
};

struct ByteDot {
  typedef uint8_t In;
  typedef Register<16>::Int i4v;
  typedef i4v Sum;
  static constexpr int PER_STEP = 4, PARTS = 4, LANES = 4;
  static i4v part(const char* at, int which) { return (load_as<i4v>(at) << (24 - 8 * which)) >> 24; }
  static i4v spread(const uint8_t* at, int which) { return (int32_t)at[which] - i4v{}; }
  static i4v add(i4v sum, i4v x, i4v w) { return sum + x * w; }
};

constexpr int ROWS = 6, SUMS = 24;  // rows of a tile, and vectors of sums that registers hold beside the rest
constexpr bool ROWS_ARE_SIGNED = false;

typedef WideDot::In Wide;
typedef ByteDot::In Byte;

inline i16v round_even(f16v x) {
  float in[16]; int32_t out[16];
  store(in, x);
  for (int i = 0; i < 16; i++) out[i] = (int32_t)std::nearbyint(in[i]);
  return load(out);
}
// 16 numbers of a row.
inline void put_bytes(uint8_t* to, i16v v, int32_t zero) {
  int32_t in[16];
  store(in, v + zero);
  for (int i = 0; i < 16; i++) to[i] = (uint8_t)in[i];
}

}  // namespace tenfold
