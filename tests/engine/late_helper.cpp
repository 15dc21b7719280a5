// Jobs of a team whose helpers are held up after they took a piece (TENFOLD_STALLS): prints how many pieces were not
// committed when their job returned, and how many were committed more than once.
#include "team.h"

#include <atomic>
#include <chrono>
#include <cstdio>

constexpr int JOBS = 1500, PIECES = 8;
static std::atomic<int> commits[JOBS][PIECES];

int main() {
  tenfold::Team::resize(2);
  int missing = 0, twice = 0;
  for (int job = 0; job < JOBS; job++) {
    tenfold::Team::run(PIECES, [](int, int) {
      const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(150);
      while (std::chrono::steady_clock::now() < until) {}
    }, [job](int piece) { commits[job][piece]++; });
    for (auto& count : commits[job]) missing += count == 0;
  }
  tenfold::Team::settle();
  for (auto& job : commits) for (auto& count : job) twice += count > 1;
  std::printf("%d %d\n", missing, twice);
}
