// What every CPU kernel is written in: 16 float lanes by GCC/Clang vector extensions, and bf16 and int8 beside them.
// The compiler picks the instructions of the machine it runs on.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tenfold {

typedef float f16v __attribute__((vector_size(64)));
typedef uint32_t u16v __attribute__((vector_size(64)));
typedef int32_t i16v __attribute__((vector_size(64)));
typedef uint16_t h16v __attribute__((vector_size(32)));
typedef int8_t b16v __attribute__((vector_size(16)));

struct bf16 { uint16_t bits; };

inline f16v load(const float* p) { f16v v; std::memcpy(&v, p, 64); return v; }
inline f16v load(const bf16* p) {
  h16v h; std::memcpy(&h, p, 32);
  return (f16v)(__builtin_convertvector(h, u16v) << 16);
}
inline f16v load(const int8_t* p) {
  b16v b; std::memcpy(&b, p, 16);
  return __builtin_convertvector(__builtin_convertvector(b, i16v), f16v);
}
inline void store(float* p, f16v v) { std::memcpy(p, &v, 64); }
inline void store(bf16* p, f16v v) {
  u16v u = (u16v)v;
  u = (u + 0x7fff + ((u >> 16) & 1)) >> 16;  // round to nearest even
  h16v h = __builtin_convertvector(u, h16v);
  std::memcpy(p, &h, 32);
}
inline void store(int8_t* p, f16v v) {  // rounds half away from zero; the caller keeps |v| <= 127
  b16v b = __builtin_convertvector(__builtin_convertvector(v + (v < 0.0f ? f16v{} - 0.5f : f16v{} + 0.5f), i16v), b16v);
  std::memcpy(p, &b, 16);
}
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { uint32_t u = (uint32_t)x.bits << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline uint16_t narrow(float x) {
  uint32_t u; std::memcpy(&u, &x, 4);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline f16v splat(float x) { return f16v{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
typedef float f8v __attribute__((vector_size(32)));
typedef float f4v __attribute__((vector_size(16)));
inline float sum(f16v v) {
  f8v a, b; std::memcpy(&a, &v, 32); std::memcpy(&b, (const char*)&v + 32, 32);
  a += b;
  f4v c, d; std::memcpy(&c, &a, 16); std::memcpy(&d, (const char*)&a + 16, 16);
  c += d;
  return (c[0] + c[2]) + (c[1] + c[3]);
}
// The sums of 16 vectors, one a lane. They are folded two by two: at every step the lanes of `v[i]` that lack a bit take
// in those that have it, and the freed ones hold the same of `v[i + step]`.
inline f16v sums_of(const f16v* v) {
  f16v x[16];
  std::memcpy(x, v, sizeof x);
#if defined(__clang__) || __GNUC__ >= 12
#define TENFOLD_LANES(F, n) F(0, n), F(1, n), F(2, n), F(3, n), F(4, n), F(5, n), F(6, n), F(7, n), F(8, n), F(9, n), \
    F(10, n), F(11, n), F(12, n), F(13, n), F(14, n), F(15, n)
#define TENFOLD_LOW(l, n) ((l) & (n) ? 16 + (l) - (n) : (l))
#define TENFOLD_HIGH(l, n) ((l) & (n) ? 16 + (l) : (l) + (n))
#define TENFOLD_FOLD(n) \
  for (int i = 0; i < n; i++) \
    x[i] = __builtin_shufflevector(x[i], x[i + n], TENFOLD_LANES(TENFOLD_LOW, n)) \
        + __builtin_shufflevector(x[i], x[i + n], TENFOLD_LANES(TENFOLD_HIGH, n))
  TENFOLD_FOLD(8); TENFOLD_FOLD(4); TENFOLD_FOLD(2); TENFOLD_FOLD(1);
#undef TENFOLD_FOLD
#undef TENFOLD_HIGH
#undef TENFOLD_LOW
#undef TENFOLD_LANES
  return x[0];
#else
  f16v out = {};
  for (int i = 0; i < 16; i++) out[i] = sum(x[i]);
  return out;
#endif
}
inline float largest(f16v v) {
  f8v a, b; std::memcpy(&a, &v, 32); std::memcpy(&b, (const char*)&v + 32, 32);
  a = a > b ? a : b;
  f4v c, d; std::memcpy(&c, &a, 16); std::memcpy(&d, (const char*)&a + 16, 16);
  c = c > d ? c : d;
  const float x = c[0] > c[1] ? c[0] : c[1], y = c[2] > c[3] ? c[2] : c[3];
  return x > y ? x : y;
}

// exp on 16 lanes: range reduction by ln 2 and a degree-6 polynomial; about 1 ulp for x <= 0.
inline f16v exp16(f16v x) {
  const f16v low = splat(-87.0f);
  x = x < low ? low : x;
  f16v t = x * 1.44269504088896341f;
  i16v n = __builtin_convertvector(t - 0.5f, i16v);  // truncation; x <= 0 here, so this rounds to nearest
  f16v fn = __builtin_convertvector(n, f16v);
  f16v r = x - fn * 0.693359375f - fn * -2.12194440e-4f;
  f16v p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i16v e = (n + 127) << 23;
  return p * (f16v)e;
}

}  // namespace tenfold
