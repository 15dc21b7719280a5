// Walsh-Hadamard transform of a row, before it is quantized: what stands out in one channel is spread over many.
// The additions are in one order wherever it runs, so that the results are the same to the bit (hadamard.py).
#pragma once
#include "vector.h"

namespace tenfold {

typedef Two<Two<f4v>> Quads;  // 16 lanes, four by four, whatever the registers

inline f4v butterflies(f4v v) {  // strides 2 and 1
#if defined(__clang__) || __GNUC__ >= 12
  v = v * f4v{1, 1, -1, -1} + __builtin_shufflevector(v, v, 2, 3, 0, 1);
  return v * f4v{1, -1, 1, -1} + __builtin_shufflevector(v, v, 1, 0, 3, 2);
#else
  const f4v w = {v[0] + v[2], v[1] + v[3], v[0] - v[2], v[1] - v[3]};
  return {w[0] + w[1], w[0] - w[1], w[2] + w[3], w[2] - w[3]};
#endif
}
template <typename H> inline Two<H> butterflies(Two<H> v) { return {butterflies(v.lo + v.hi), butterflies(v.lo - v.hi)}; }

// Each `order` numbers of x [k] in turn; order is a power of two from 16 on, and divides k.
inline void hadamard(float* x, int k, int order) {
  for (int i = 0; i < k; i += 16) Memory<Quads>::store(x + i, butterflies(Memory<Quads>::load(x + i)));
  for (int stride = 16; stride < order; stride *= 2)
    for (int block = 0; block < k; block += 2 * stride)
      for (int i = block; i < block + stride; i += 16) {
        const f16v a = load(x + i), b = load(x + i + stride);
        store(x + i, a + b);
        store(x + i + stride, a - b);
      }
}

}  // namespace tenfold
