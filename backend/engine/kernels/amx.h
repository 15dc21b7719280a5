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

// What this thread's tiles are shaped for; 0: nothing.
extern thread_local uint32_t tiles_shaped;

// Lets go of this thread's tiles: held, they are written to memory whenever another thread gets the core, and keep an idle
// core awake.
inline void release_tiles() {
#if defined(TENFOLD_AMX)
  if (!tiles_shaped) return;
  _tile_release();
  tiles_shaped = 0;
#endif
}

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

// The shapes of a thread's tiles, as the processor takes them.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  void set(int tile, int count, int row_bytes) { rows[tile] = (uint8_t)count; bytes[tile] = (uint16_t)row_bytes; }
};

// Those of a product with `rows` rows of 32: sums in 0 to 3, rows in 4 and 5, weights in 6 and 7.
inline TileShapes product_shapes(int rows) {
  TileShapes shapes;
  for (int tile : {0, 1, 4}) shapes.set(tile, std::min(rows, 16), 64);
  if (rows > 16) for (int tile : {2, 3, 5}) shapes.set(tile, rows - 16, 64);
  for (int tile : {6, 7}) shapes.set(tile, 16, 64);
  return shapes;
}

// What uses tiles, each in shapes of its own.
enum class TileUse : uint32_t { PRODUCT = 1, PAGES = 2 };

// Gives this thread's tiles their shapes for so many rows. It takes as long as ten steps of a product, so they are kept
// until other ones are asked for or `release_tiles` is called.
template <typename Shapes> inline void shape_tiles(TileUse use, int rows, Shapes shapes) {
  const uint32_t wanted = (uint32_t)use << 16 | (uint32_t)rows;
  if (tiles_shaped == wanted) return;
  const TileShapes now = shapes(rows);
  _tile_loadconfig(&now);
  tiles_shaped = wanted;
}

// Sums of up to 32 rows with a panel, 64 bytes of each row at a time, on top of what is in `sums` if they go on; T is int32_t
// (8 bits) or float (16).
template <typename T>
inline void tile_sums(const char* rows, int64_t stride, int count, const char* panel, int steps, Ahead ahead, bool go_on,
                      T (*sums)[PANEL]) {
#define TENFOLD_ADD(to, x, w) if constexpr (std::is_same<T, float>::value) _tile_dpbf16ps(to, x, w); else _tile_dpbusd(to, x, w)
  constexpr int64_t ROW = PANEL * sizeof(T);
  const bool two = count > 16;
  if (go_on) {
    _tile_loadd(0, sums, ROW); _tile_loadd(1, sums[0] + 16, ROW);
    if (two) { _tile_loadd(2, sums[16], ROW); _tile_loadd(3, sums[16] + 16, ROW); }
  } else {
    _tile_zero(0); _tile_zero(1);
    if (two) { _tile_zero(2); _tile_zero(3); }
  }
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
  _tile_stored(0, sums, ROW);
  _tile_stored(1, sums[0] + 16, ROW);
  if (two) { _tile_stored(2, sums[16], ROW); _tile_stored(3, sums[16] + 16, ROW); }
#undef TENFOLD_ADD
}

constexpr int64_t STRETCH = 768;  // bytes of 32 rows and of a panel's columns that the nearest cache holds side by side

// As `tile` of gemm.h, for any count of rows, `stride` bytes apart; `next` may be null. The rows are cut into equal parts,
// of which the last begins within the one before if need be, so that the tiles keep their shapes.
template <typename T, typename Put>
inline void by_tiles(const void* a, int64_t stride, int count, const void* panel, int64_t row_bytes, const void* next, Put put) {
  alignas(64) T few[32][PANEL];
  const int steps = (int)(row_bytes / 64), parts = (count + 31) / 32, rows = (count + parts - 1) / parts;
  shape_tiles(TileUse::PRODUCT, rows, product_shapes);
  // Many rows take so long that nobody needs to ask for the next panel.
  const Ahead ahead = next && parts == 1 ? share(next, row_bytes * PANEL, 0, rows, rows, steps) : Ahead{"", 0};
  auto sum_up = [&](int from, int step, int some, T (*sums)[PANEL]) {
    tile_sums<T>((const char*)a + from * stride + step * 64, stride, rows, (const char*)panel + (int64_t)step * 16 * PANEL_STEP,
                 some, ahead, step > 0, sums);
  };
  if constexpr (std::is_same<Put, Into<T>>::value) {
    const int whole = count / rows * rows, last = count - rows;
    const int stretches = parts == 1 ? 1 : (int)((row_bytes + STRETCH - 1) / STRETCH), each = (steps + stretches - 1) / stretches;
    for (int step = 0; step < steps; step += each) {
      const int some = std::min(each, steps - step);
      for (int at = 0; at < whole; at += rows) sum_up(at, step, some, put.rows + at);
      if (whole < count) sum_up(last, step, some, few);
    }
    for (int r = whole; r < count; r++) std::memcpy(put.rows[r], few[r - last], sizeof few[0]);
  } else {
    for (int at = 0; at < count; at += rows) {
      const int from = std::min(at, count - rows);
      sum_up(from, 0, steps, few);
      for (int r = at - from; r < rows; r++)
        for (int half = 0; half < 2; half++) put(from + r, half, load(few[r] + 16 * half));
    }
  }
}
#endif

}  // namespace tenfold
