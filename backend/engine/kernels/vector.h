// What every CPU kernel is written in: 16 lanes by GCC/Clang vector extensions, and bf16 and int8 beside them. The
// compiler picks the instructions of the machine it runs on; where its registers are narrower than 16 lanes, a vector is
// put together of what they hold, since the compiler would keep it in memory otherwise.
#pragma once
// 512-bit registers are used where the products use them too (dot.h): a vector is the same everywhere.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define TENFOLD_512 1
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX__)
#include <immintrin.h>
#endif
#if defined(TENFOLD_512) && defined(__AVX512BF16__)
#define TENFOLD_BF16 1
#endif

#define TENFOLD_INLINE __attribute__((always_inline))

namespace tenfold {

// ---- vectors --------------------------------------------------------------------------------------------------------

// A vector that a register holds, and those of its lanes that go with it: other kinds of number in as many lanes.
template <int bytes> struct Register;
#define TENFOLD_REGISTER(bytes) \
  template <> struct Register<bytes> { \
    typedef float Float __attribute__((vector_size(bytes))); \
    typedef uint32_t Bits __attribute__((vector_size(bytes))); \
    typedef int32_t Int __attribute__((vector_size(bytes))); \
    typedef uint16_t Half __attribute__((vector_size(bytes / 2))); \
    typedef int8_t Byte __attribute__((vector_size(bytes / 4))); \
  }
TENFOLD_REGISTER(16);
TENFOLD_REGISTER(32);
TENFOLD_REGISTER(64);
#undef TENFOLD_REGISTER
typedef Register<16>::Float f4v;

// Two vectors, one behind the other, as one.
template <typename Half> struct Two { Half lo, hi; };
#define TENFOLD_OPERATOR(op) \
  template <typename H> inline auto operator op(Two<H> a, Two<H> b) { \
    return Two<decltype(a.lo op b.lo)>{a.lo op b.lo, a.hi op b.hi}; \
  } \
  template <typename H, typename S, typename = std::enable_if_t<std::is_arithmetic<S>::value>> \
  inline auto operator op(Two<H> a, S s) { return Two<decltype(a.lo op s)>{a.lo op s, a.hi op s}; } \
  template <typename H, typename S, typename = std::enable_if_t<std::is_arithmetic<S>::value>> \
  inline auto operator op(S s, Two<H> b) { return Two<decltype(s op b.lo)>{s op b.lo, s op b.hi}; }
TENFOLD_OPERATOR(+)
TENFOLD_OPERATOR(-)
TENFOLD_OPERATOR(*)
TENFOLD_OPERATOR(/)
TENFOLD_OPERATOR(&)
TENFOLD_OPERATOR(<)
TENFOLD_OPERATOR(>)
TENFOLD_OPERATOR(<<)
TENFOLD_OPERATOR(>>)
#undef TENFOLD_OPERATOR
template <typename H, typename B> inline Two<H>& operator+=(Two<H>& a, B b) { return a = a + b; }

#if defined(TENFOLD_512)
typedef Register<64>::Float f16v;
typedef Register<64>::Int i16v;
typedef Register<64>::Bits u16v;
#elif defined(__AVX__)
typedef Two<Register<32>::Float> f16v;
typedef Two<Register<32>::Int> i16v;
typedef Two<Register<32>::Bits> u16v;
#else
typedef Two<Two<f4v>> f16v;
typedef Two<Two<Register<16>::Int>> i16v;
typedef Two<Two<Register<16>::Bits>> u16v;
#endif

// How many registers hold 16 lanes, and how many of those a loop may fill with sums.
#if defined(TENFOLD_512)
constexpr int PIECES = 1, SUM_REGISTERS = 24;
#elif defined(__AVX__)
constexpr int PIECES = 2, SUM_REGISTERS = 12;
#elif defined(__aarch64__)
constexpr int PIECES = 4, SUM_REGISTERS = 24;
#else
constexpr int PIECES = 4, SUM_REGISTERS = 12;
#endif

// The same bits as other numbers; towards zero to whole numbers, and back; a choice by lane.
#define TENFOLD_MAP(name, expression) \
  template <typename V, typename R = Register<sizeof(V)>> inline auto name(V v) { return expression; } \
  template <typename H> inline auto name(Two<H> v) { return Two<decltype(name(v.lo))>{name(v.lo), name(v.hi)}; }
TENFOLD_MAP(as_float, (typename R::Float)v)
TENFOLD_MAP(as_bits, (typename R::Bits)v)
TENFOLD_MAP(as_int, (typename R::Int)v)
TENFOLD_MAP(to_int, __builtin_convertvector(v, typename R::Int))
TENFOLD_MAP(to_floats, __builtin_convertvector(v, typename R::Float))
#undef TENFOLD_MAP
template <typename M, typename V> inline V select(M mask, V a, V b) { return mask ? a : b; }
template <typename M, typename H> inline Two<H> select(Two<M> mask, Two<H> a, Two<H> b) {
  return {select(mask.lo, a.lo, b.lo), select(mask.hi, a.hi, b.hi)};
}
template <typename V> inline V smaller(V a, V b) { return select(a < b, a, b); }
template <typename V> inline V larger(V a, V b) { return select(a > b, a, b); }
#if defined(TENFOLD_512)  // what the two mean, which GCC does not see
inline f16v smaller(f16v a, f16v b) { return (f16v)_mm512_min_ps((__m512)a, (__m512)b); }
inline f16v larger(f16v a, f16v b) { return (f16v)_mm512_max_ps((__m512)a, (__m512)b); }
inline i16v smaller(i16v a, i16v b) { return (i16v)_mm512_min_epi32((__m512i)a, (__m512i)b); }
inline i16v larger(i16v a, i16v b) { return (i16v)_mm512_max_epi32((__m512i)a, (__m512i)b); }
#endif
template <typename V> inline V magnitude(V v) { return as_float(as_bits(v) & 0x7fffffffu); }

// ---- memory ---------------------------------------------------------------------------------------------------------

struct bf16 { uint16_t bits; };

// Register by register: what is copied whole goes by way of the stack, in smaller pieces, and waits there.
template <typename V> struct Memory {
  static V load(const void* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
  static void store(void* p, V v) { std::memcpy(p, &v, sizeof v); }
};
template <typename H> struct Memory<Two<H>> {
  static Two<H> load(const void* p) { return {Memory<H>::load(p), Memory<H>::load((const char*)p + sizeof(H))}; }
  static void store(void* p, Two<H> v) { Memory<H>::store(p, v.lo); Memory<H>::store((char*)p + sizeof(H), v.hi); }
};
template <typename V> inline V load_as(const void* p) { return Memory<V>::load(p); }
inline f16v load(const float* p) { return load_as<f16v>(p); }
inline i16v load(const int32_t* p) { return load_as<i16v>(p); }
inline void store(float* p, f16v v) { Memory<f16v>::store(p, v); }
inline void store(int32_t* p, i16v v) { Memory<i16v>::store(p, v); }

// Between 32 bits a lane and fewer.
template <typename V> struct Narrow {
  typedef Register<sizeof(V)> R;
  static constexpr int LANES = sizeof(V) / 4;
  static V from(const uint16_t* p) { return (V)__builtin_convertvector(load_as<typename R::Half>(p), typename R::Bits); }
  static V from(const int8_t* p) { return (V)__builtin_convertvector(load_as<typename R::Byte>(p), typename R::Int); }
  static void to(uint16_t* p, V v) { const auto h = __builtin_convertvector(v, typename R::Half); std::memcpy(p, &h, sizeof h); }
  static void to(int8_t* p, V v) { const auto b = __builtin_convertvector(v, typename R::Byte); std::memcpy(p, &b, sizeof b); }
};
template <typename H> struct Narrow<Two<H>> {
  typedef Narrow<H> Part;
  static constexpr int LANES = 2 * Part::LANES;
  template <typename T> static Two<H> from(const T* p) { return {Part::from(p), Part::from(p + Part::LANES)}; }
  template <typename T> static void to(T* p, Two<H> v) { Part::to(p, v.lo); Part::to(p + Part::LANES, v.hi); }
};

inline f16v load(const bf16* p) {
#if defined(TENFOLD_512)  // left to choose, GCC takes two halves for some processors
  return (f16v)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#else
  return as_float(Narrow<u16v>::from((const uint16_t*)p) << 16);
#endif
}
inline f16v load(const int8_t* p) { return to_floats(Narrow<i16v>::from(p)); }
inline void store(bf16* p, f16v v) {
#ifdef TENFOLD_BF16
  const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &h, 32);
#else
  const u16v u = as_bits(v);
  Narrow<u16v>::to((uint16_t*)p, (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);  // round to nearest even
#endif
}

// ---- lanes ----------------------------------------------------------------------------------------------------------

inline f16v splat(float x) { return x - f16v{}; }
inline i16v splat(int32_t x) { return x - i16v{}; }

inline void store(int8_t* p, f16v v) {  // rounds half away from zero; the caller keeps |v| <= 127
  Narrow<i16v>::to(p, to_int(v + select(v < 0.0f, splat(-0.5f), splat(0.5f))));
}
// Each lane's place.
alignas(64) constexpr int32_t COUNTED[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { uint32_t u = (uint32_t)x.bits << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline uint16_t narrow(float x) {
  uint32_t u; std::memcpy(&u, &x, 4);
  return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// The lanes' sum and the largest of them; the upper half is folded onto the lower one, down to four.
template <int bytes, typename V, typename F> inline float fold_register(V v, F f) {
  if constexpr (bytes == 16) {
    return f(f(v[0], v[2]), f(v[1], v[3]));
  } else {
    typedef typename Register<bytes / 2>::Float H;
    H a, b; std::memcpy(&a, &v, bytes / 2); std::memcpy(&b, (const char*)&v + bytes / 2, bytes / 2);
    return fold_register<bytes / 2>(f(a, b), f);
  }
}
template <typename V, typename F> inline float fold(V v, F f) { return fold_register<sizeof(V)>(v, f); }
template <typename H, typename F> inline float fold(Two<H> v, F f) { return fold(f(v.lo, v.hi), f); }
inline float sum(f16v v) { return fold(v, [](auto a, auto b) { return a + b; }); }
inline float largest(f16v v) { return fold(v, [](auto a, auto b) { return larger(a, b); }); }

// The sums of 16 vectors, one a lane. They are folded two by two: at every step the lanes of `v[i]` that lack a bit take
// in those that have it, and the freed ones hold the same of `v[i + step]`.
inline f16v sums_of(const f16v* v) {
#if defined(TENFOLD_512) && (defined(__clang__) || __GNUC__ >= 12)
  f16v x[16];
  std::memcpy(x, v, sizeof x);
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
  float out[16];
  for (int i = 0; i < 16; i++) out[i] = sum(v[i]);
  return load(out);
#endif
}

// 1 / x within an ulp or two, for x that is neither 0 nor out of the ordinary; a division takes four times as long.
inline f16v reciprocal(f16v x) {
#if defined(TENFOLD_512)
  const f16v r = (f16v)_mm512_rcp14_ps((__m512)x);
  return r * (2.0f - x * r);
#else
  return 1.0f / x;
#endif
}

// To whole numbers, the nearest ones.
inline i16v nearest(f16v x) {
#if defined(TENFOLD_512)
  return (i16v)_mm512_cvtps_epi32((__m512)x);
#else
  return to_int(x + select(x < 0.0f, splat(-0.5f), splat(0.5f)));
#endif
}

// 2^x for x <= 0 within 8e-5 of it, for what is rounded to bf16, which is 25 times as coarse; below -126 as there.
inline f16v coarse_power_of_two(f16v x) {
  x = larger(x, splat(-126.0f));
  const i16v whole = nearest(x);
  const f16v f = x - to_floats(whole);
  f16v p = splat(5.5171669e-2f);
  p = p * f + 2.4261114e-1f;
  p = p * f + 6.9326097e-1f;
  p = p * f + 9.9992806e-1f;
  return as_float(as_int(p) + (whole << 23));
}

// exp on 16 lanes: range reduction by ln 2 and a degree-6 polynomial; about 1 ulp for x <= 0.
inline f16v exp16(f16v x) {
  const f16v low = splat(-87.0f);
  x = select(x < low, low, x);
  f16v t = x * 1.44269504088896341f;
  i16v n = to_int(t - 0.5f);  // truncation; x <= 0 here, so this rounds to nearest
  f16v fn = to_floats(n);
  f16v r = x - fn * 0.693359375f - fn * -2.12194440e-4f;
  f16v p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i16v e = (n + 127) << 23;
  return p * as_float(e);
}

}  // namespace tenfold
