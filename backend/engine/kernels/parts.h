// What `tenfold_forward` is made of: `tenfold_multiply` and `tenfold_attention` within the library. When they return,
// somebody may still read what they were given: see `Team::settle`.
#pragma once
#include "kernels.h"

namespace tenfold {

void multiply(const tenfold_linear& weights, int is_bf16, const void* x, void* out, int out_is_float, int rows);
void attention(int is_bf16, const tenfold_batch* batch, const void* plan, const void* query, const void* pages,
               const uint16_t* summaries, void* out);

}  // namespace tenfold
