// How a team works: a job is cut into one run of pieces for each thread. A thread takes pieces from its own run, then
// from the others'. Waiting is spinning for a moment, since the next job mostly comes at once, and then sleeping.
// All that threads share here is atomic and in one order for all (memory_order_seq_cst).
#include "team.h"
#include "amx.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tenfold {
namespace {

constexpr int MOST = 64;
constexpr int SPINS = 2000, LOOKS = 50;  // some 50 and some 1 microseconds
constexpr int PATIENCE = 5;              // microseconds, beside what two pieces take

inline void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Where a helper that loses its core does most harm: tests have it lose it there.
inline void stall([[maybe_unused]] int helper) {
#if defined(TENFOLD_STALLS)
  static thread_local int count = 0;
  if (helper && ++count % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(TENFOLD_STALLS));
#endif
}

// Spins until `ready()`; false where it has not come about.
template <typename Ready> bool spin(Ready ready, int looks) {
  for (int i = 0; i < looks; i++) {
    if (ready()) return true;
    pause();
  }
  return false;
}

int threads_of_this_process() {
  if (const char* asked = std::getenv("OMP_NUM_THREADS")) {
    const int count = std::atoi(asked);
    if (count > 0) return count;
  }
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  return (int)std::thread::hardware_concurrency();
}

// Half of a job's number in the upper half and pieces taken in the lower one: who comes late for a job takes none of the
// next.
struct alignas(64) Taken { std::atomic<uint64_t> value{0}; };
struct alignas(64) AtWork { std::atomic<uint64_t> job{0}; };  // a helper's job while it is at one, else 0

struct alignas(64) Kept { char bytes[Team::KEPT]; };            // what a job brought along, by number
constexpr int RING = 1024;

typedef std::chrono::steady_clock Clock;

struct Crew {
  std::mutex in_use;
  std::atomic<int> size{std::clamp(threads_of_this_process(), 1, MOST)};
  int helpers = 0;  // threads that were begun

  // The job. Written while no piece of it can be taken; who read it proves by taking one that it is still the job.
  std::atomic<void (*)(void*, int, int)> compute{nullptr};
  std::atomic<void (*)(void*, int)> commit{nullptr};
  std::atomic<void*> with{nullptr};
  std::atomic<int> pieces{0}, runs{0};
  std::atomic<std::atomic<uint64_t>*> committed{nullptr};  // by piece: the last job in which somebody committed it
  int room = 0;
  Kept kept[RING];
  Taken taken[MOST];
  AtWork at_work[MOST];
  alignas(64) std::atomic<uint64_t> number{0};  // of 64 bits, or a number would come again within days of full load
  alignas(64) std::atomic<int> done{0};

  // Whether this thread is the one that commits a piece; `before` is what stood there when it began. A later job's number
  // stands there where the thread lost its core before it looked: then its piece was done long ago.
  static bool claim(std::atomic<uint64_t>& slot, uint64_t before, uint64_t job) {
    return before < job && slot.compare_exchange_strong(before, job, std::memory_order_acq_rel);
  }

  // Works on a job until no piece of it is left to be taken; gives how many it took.
  int help(uint64_t job, int me) {
    const auto first = compute.load();
    const auto second = commit.load();
    void* const context = with.load();
    const int total = pieces.load(), team = runs.load();
    std::atomic<uint64_t>* const slots = committed.load();
    int count = 0;
    for (int turn = 0; turn < team; turn++) {
      const int whose = (me + turn) % team;
      const int begin = (int)((int64_t)total * whose / team), end = (int)((int64_t)total * (whose + 1) / team);
      uint64_t seen = taken[whose].value.load();
      while ((uint32_t)(seen >> 32) == (uint32_t)job) {
        const int piece = begin + (int)(uint32_t)seen;
        if (piece >= end) break;
        if (!taken[whose].value.compare_exchange_weak(seen, seen + 1)) continue;
        stall(me);
        const uint64_t before = slots[piece].load();
        first(context, piece, piece + 1 < end ? piece + 1 : piece);
        if (claim(slots[piece], before, job)) {
          second(context, piece);
          if (done.fetch_add(1) + 1 == total) done.notify_one();
        }
        count++;
        seen = taken[whose].value.load();
      }
    }
    return count;
  }

  // What others took and have not committed, once more.
  void do_again(uint64_t job, const Team::Job& what) {
    std::atomic<uint64_t>* const slots = committed.load();
    for (int piece = 0; piece < what.pieces && done.load() < what.pieces; piece++) {
      const uint64_t before = slots[piece].load();
      if (before == job) continue;
      what.compute(what.with, piece, piece);
      if (!claim(slots[piece], before, job)) continue;
      what.commit(what.with, piece);
      done.fetch_add(1);
    }
  }

  void stand_by(int me) {
    uint64_t last = 0;
    for (;;) {
      if (!spin([&] { return number.load() != last; }, SPINS)) {
        release_tiles();
        number.wait(last);
      }
      last = number.load();
      if (me >= runs.load()) continue;
      at_work[me].job.store(last);
      help(last, me);
      at_work[me].job.store(0);
      at_work[me].job.notify_all();
    }
  }

  void begin(int team) {
    for (; helpers < team - 1; helpers++) std::thread([this, me = helpers + 1] { stand_by(me); }).detach();
  }

  void settle(uint64_t job) {
    for (int i = 1; i < MOST; i++)
      for (uint64_t at; (at = at_work[i].job.load()) != 0 && at <= job;)
        if (!spin([&] { return at_work[i].job.load() != at; }, SPINS)) at_work[i].job.wait(at);
  }
};

thread_local uint64_t last_job = 0;  // that this thread had the team do

Crew& crew() {
  static Crew* kept = new Crew;  // never destroyed: its threads end with the process
  return *kept;
}

}  // namespace

thread_local uint32_t tiles_shaped = 0;

int Team::size() { return crew().size; }
void Team::resize(int threads) { crew().size = std::clamp(threads, 1, MOST); }

void Team::settle() {
  if (last_job) crew().settle(last_job);
  release_tiles();
}

void Team::start(const Job& job) {
  Crew& c = crew();
  const int team = std::min<int>(c.size, job.pieces);
  std::unique_lock<std::mutex> lock(c.in_use, std::defer_lock);
  if (team < 2 || !lock.try_lock()) {
    for (int i = 0; i < job.pieces; i++) {
      job.compute(job.with, i, i + 1 < job.pieces ? i + 1 : i);
      job.commit(job.with, i);
    }
    return;
  }
  c.begin(team);
  const uint64_t number = last_job = c.number.load() + 1;
  // First the number in every run: who has still to look at the job before this one finds nothing to take there,
  // whatever of this one's description it sees.
  for (int i = 0; i <= c.helpers; i++) c.taken[i].value.store((uint64_t)number << 32);
  void* with = job.with;
  if (job.size) {
    if (number % RING == 0) c.settle(number);
    with = std::memcpy(c.kept[number % RING].bytes, job.with, job.size);
  }
  if (job.pieces > c.room) {  // what stood there is left to those who may still look at it
    c.room = std::max(4096, 2 * job.pieces);
    c.committed.store(new std::atomic<uint64_t>[c.room]());
  }
  c.compute.store(job.compute);
  c.commit.store(job.commit);
  c.with.store(with);
  c.pieces.store(job.pieces);
  c.runs.store(team);
  c.done.store(0);
  c.number.store(number);
  c.number.notify_all();
  const auto began = Clock::now();
  const int mine = c.help(number, 0);
  auto finished = [&] { return c.done.load() == job.pieces; };
  if (finished()) return;
  if (job.size && mine) {
    const auto patience = std::chrono::microseconds(PATIENCE) + 2 * (Clock::now() - began) / mine;
    const auto until = Clock::now() + patience;
    while (Clock::now() < until)
      if (spin(finished, LOOKS)) return;
    c.do_again(number, job);
  }
  if (spin(finished, SPINS)) return;
  for (int seen; (seen = c.done.load()) != job.pieces;) c.done.wait(seen);
}

}  // namespace tenfold

extern "C" void tenfold_set_threads(int threads) { tenfold::Team::resize(threads); }
