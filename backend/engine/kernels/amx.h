// Products by AMX (Intel's tiles): 32 rows by 32 columns at once, on the panels and the rows that every other way reads.
// 16 steps of a panel are two tiles of weights as they lie, 16 rows of 64 bytes a tile of activations. Sums of 8-bit
// products are the same as everywhere; those of 16 bits differ in the last bit, so a layer takes this way for every batch
// or for none.
#pragma once
#include "gemm.h"

#if defined(TENFOLD_EMULATED_AMX)  // the file that has the instructions in plain C++: tests, on processors without them
#include TENFOLD_EMULATED_AMX
#define TENFOLD_AMX 1
#elif defined(TENFOLD_BF16) && defined(__AMX_TILE__) && defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define TENFOLD_AMX 1
#endif

namespace tenfold {

// As the library was told, before anything is multiplied. Not inline: an inline variable is one for all libraries of a
// process that have it.
extern bool tiles_wanted;

// Whether the processor has tiles and the kernel of the system lets this process use them; it is asked once.
inline bool tiles_granted() {
#if defined(TENFOLD_EMULATED_AMX)
  return true;
#elif defined(TENFOLD_AMX)
  static const bool granted = [] {
    constexpr long ASK = 0x1023, WHAT = 0x1022, TILE_DATA = 18;  // arch_prctl
    unsigned long has = 0;
    return syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0 && syscall(SYS_arch_prctl, WHAT, &has) == 0 && (has >> TILE_DATA & 1);
  }();
  return granted;
#else
  return false;
#endif
}

// Whether a layer's products go by tiles: whole tiles of its inner dimension, of so many bytes a row.
inline bool by_tiles(int64_t row_bytes) { return row_bytes % 64 == 0 && tiles_wanted && tiles_granted(); }

// Numbers from one row to the next: an odd count of cache lines where tiles read them, or all rows fall on few sets.
inline int64_t tile_stride(int64_t row_bytes) { return by_tiles(row_bytes) ? (row_bytes / 64 | 1) * 64 : row_bytes; }

#if defined(TENFOLD_AMX)
static_assert(std::is_same<Wide, uint16_t>::value && std::is_same<Byte, uint8_t>::value, "what tiles multiply");

// The shapes of a thread's tiles, for `rows` rows of 32: sums in 0 to 3, rows in 4 and 5, weights in 6 and 7.
class Tiles {
 public:
  explicit Tiles(int rows) {
    struct alignas(64) Shapes {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {};
      uint8_t rows[16] = {};
    } shapes;
    auto shape = [&](int tile, int count) { shapes.bytes[tile] = 64; shapes.rows[tile] = (uint8_t)count; };
    for (int tile : {0, 1, 4}) shape(tile, std::min(rows, 16));
    if (rows > 16) for (int tile : {2, 3, 5}) shape(tile, rows - 16);
    for (int tile : {6, 7}) shape(tile, 16);
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
};

// Sums of up to 32 rows with a panel, 64 bytes of each row at a time; T is int32_t (8 bits) or float (16).
template <typename T>
inline void tile_sums(const char* rows, int64_t stride, int count, const char* panel, int steps, Ahead ahead, T (*sums)[PANEL]) {
#define TENFOLD_ADD(to, x, w) if constexpr (std::is_same<T, float>::value) _tile_dpbf16ps(to, x, w); else _tile_dpbusd(to, x, w)
  const Tiles tiles(count);
  const bool two = count > 16;
  _tile_zero(0);
  _tile_zero(1);
  if (two) { _tile_zero(2); _tile_zero(3); }
  for (int i = 0; i < steps; i++, rows += 64, panel += 16 * PANEL_STEP, ahead.at += ahead.per_step) {
    for (int64_t line = 0; line < ahead.per_step; line += 64) __builtin_prefetch(ahead.at + line, 0, 2);
    _tile_loadd(6, panel, PANEL_STEP);
    _tile_loadd(4, rows, stride);
    TENFOLD_ADD(0, 4, 6);
    _tile_loadd(7, panel + 64, PANEL_STEP);
    TENFOLD_ADD(1, 4, 7);
    if (two) {
      _tile_loadd(5, rows + 16 * stride, stride);
      TENFOLD_ADD(2, 5, 6);
      TENFOLD_ADD(3, 5, 7);
    }
  }
  constexpr int64_t ROW = PANEL * sizeof(T);
  _tile_stored(0, sums, ROW);
  _tile_stored(1, sums[0] + 16, ROW);
  if (two) { _tile_stored(2, sums[16], ROW); _tile_stored(3, sums[16] + 16, ROW); }
#undef TENFOLD_ADD
}

// As `tile` of gemm.h, for any count of rows, `stride` bytes apart.
template <typename T, typename Put>
inline void by_tiles(const void* a, int64_t stride, int count, const void* panel, int64_t row_bytes, const void* next, Put put) {
  alignas(64) T sums[32][PANEL];
  const int steps = (int)(row_bytes / 64);
  for (int at = 0; at < count; at += 32) {
    const int rows = std::min(32, count - at);
    tile_sums<T>((const char*)a + at * stride, stride, rows, (const char*)panel, steps,
                 share(next, row_bytes * PANEL, at, rows, count, steps), sums);
    for (int r = 0; r < rows; r++)
      for (int half = 0; half < 2; half++) put(at + r, half, load(sums[r] + 16 * half));
  }
}
#endif

}  // namespace tenfold
