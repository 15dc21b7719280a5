// The threads that share a step's work. Work comes in small pieces, and whoever is free takes the next one. Who sleeps is
// not waited for, and who was held up by another process on its core is waited for no longer than a piece or two take:
// then what it was at is done once more, by the caller. So a piece has two halves: `compute` gives its results to a place
// of the thread's own and may read what is not true any more, `commit` puts them where they belong and is done once.
#pragma once
#include <cstdint>
#include <type_traits>

namespace tenfold {

class Team {
 public:
  static constexpr int KEPT = 256;  // bytes, at most, of what a job brings along

  // Every piece from 0 on is computed and committed once this returns. `next` is the piece that the same thread is likely
  // to take next. Called by several threads at once, one has the team and each of the others works alone.
  //   compute(piece, next)   may be called again by another thread, and may end after the run has: see `settle`
  //   commit(piece)          by the same thread, right after
  // Both are copied and must hold by value what they need, since who comes late still reads it.
  template <typename Compute, typename Commit> static void run(int pieces, Compute compute, Commit commit) {
    struct Both { Compute compute; Commit commit; } both{compute, commit};
    static_assert(std::is_trivially_copyable<Both>::value && sizeof both <= KEPT);
    start({pieces, sizeof both, &both,
           [](void* with, int piece, int next) { ((Both*)with)->compute(piece, next); },
           [](void* with, int piece) { ((Both*)with)->commit(piece); }});
  }
  // For pieces that nobody may do twice: `work(piece)` is waited for however long it takes.
  template <typename Work> static void run_once(int pieces, Work work) {
    start({pieces, 0, &work, [](void* with, int piece, int) { (*(Work*)with)(piece); }, [](void*, int) {}});
  }

  // Waits for whoever is still at a piece that was done without it, and lets go of the caller's tiles. Before memory that
  // pieces read is given back, and when the library returns.
  static void settle();

  static int size();
  static void resize(int threads);

  struct Job {
    int pieces;
    int size;  // of `with`, which is kept; 0: pieces may not be done twice
    void* with;
    void (*compute)(void*, int, int);
    void (*commit)(void*, int);
  };

 private:
  static void start(const Job& job);
};

// Each of `count` things in bunches of `bunch`; alone where there is no more than one bunch.
template <typename Work> inline void for_each(int count, int bunch, Work work) {
  auto some = [&](int piece) {
    const int end = (int64_t)(piece + 1) * bunch < count ? (piece + 1) * bunch : count;
    for (int i = piece * bunch; i < end; i++) work(i);
  };
  const int pieces = (count + bunch - 1) / bunch;
  if (pieces == 1) some(0); else if (pieces) Team::run_once(pieces, some);
}

}  // namespace tenfold
