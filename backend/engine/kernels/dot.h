// How this machine multiplies: the steps that the tiles of gemm.h are made of. A step takes 4 bytes of each of a
// panel's columns, 2 bf16 or 4 int8 weights, and the numbers of a row that meet them.
//
// Each way says what it is given and how:
//   In, PER_STEP     a row's numbers, and how many of them a step takes
//   Sum, LANES       so many columns' sums, as one vector
//   PARTS            into how many vectors the 4 bytes of so many columns are taken apart
//   part(at, which)  one of them, once for all rows
//   spread, add      a row's numbers for a part, and the sums with a part's products added
// Sums of 8-bit products are exact whatever the way; those of 16-bit weights are in float32, in the order of the inner
// dimension, so a row's result does not depend on the rows beside it.
#pragma once
#include "vector.h"

#if defined(TENFOLD_512)
#include "dot_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__)
#include "dot_avx2.h"
#else
#include "dot_any.h"
#endif
