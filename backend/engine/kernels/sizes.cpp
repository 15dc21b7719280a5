// What the structs of kernels.h take, for the comparison with their Python mirrors when the library is loaded.
#include "kernels.h"

int tenfold_sizes(int64_t* out, int room) {
  const int64_t sizes[] = {
    sizeof(tenfold_batch), sizeof(tenfold_linear), sizeof(tenfold_layer), sizeof(tenfold_model),
    sizeof(tenfold_encoder_product), sizeof(tenfold_encoder_layer), sizeof(tenfold_encoder), sizeof(tenfold_draw),
  };
  constexpr int count = sizeof sizes / sizeof *sizes;
  for (int i = 0; i < count && i < room; i++) out[i] = sizes[i];
  return count;
}
