// Top-K sparse attention (Quest, Tang et al. 2024): which pages a decode step reads.
//
// Quest bounds a page's best score by the largest and smallest key of every dimension, which overstates it: no key is
// the largest in all of them. The mean and the spread of the page's scores, as they would be if its keys' dimensions
// were independent, found the pages that matter more often here (a third of the divergence), from as many bytes.
#pragma once
#include "rows.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

constexpr int AT_ONCE = 8;       // pages whose sums are made together
constexpr float SPREADS = 2.0f;  // standard deviations above its mean that a page's best score is taken to be

struct Chooser {
  std::vector<bf16> query;
  std::vector<std::pair<float, int>> scored;
  std::vector<int32_t> chosen;
};

// The pages likeliest to hold what the rows look for, with the first and the last: table entries, in order.
template <typename Q>
void choose_pages(const tenfold_batch& b, const Rows<Q>& rows, const uint16_t* summaries, int kv_head,
                  const int32_t* table, int pages, int kept, Chooser& c) {
  const int D = b.head_size, step = 2 * D;
  c.query.resize((size_t)rows.count * step);  // [row][plain, squared][head_size]
  for (int r = 0; r < rows.count; r++)
    for (int d = 0; d < D; d++) {
      const float q = to_float(rows.query[r][d]);
      c.query[(size_t)r * step + d].bits = narrow(q);
      c.query[(size_t)r * step + D + d].bits = narrow(q * q);
    }
  auto summary = [&](int page) {
    return (const bf16*)summaries + ((int64_t)table[std::min(page, pages - 2)] * b.kv_heads + kv_head) * step;
  };
  c.scored.resize(pages - 2);
  for (int from = 1; from < pages - 1; from += AT_ONCE) {
    float best[AT_ONCE];
    std::fill(best, best + AT_ONCE, -INFINITY);
    for (int p = 0; p < AT_ONCE; p++)
      for (int i = 0; i < 2 * step; i += 64) __builtin_prefetch((const char*)summary(from + 2 * AT_ONCE + p) + i, 0, 2);
    for (int r = 0; r < rows.count; r++) {
      const bf16* q = &c.query[(size_t)r * step];
      f16v sums[2 * AT_ONCE];
      for (int p = 0; p < AT_ONCE; p++) {
        const bf16* at = summary(from + p);
        sums[p] = product(q, at, D);
        sums[AT_ONCE + p] = product(q + D, at + D, D);
      }
      alignas(64) float total[2 * AT_ONCE];
      store(total, sums_of(sums));
      for (int p = 0; p < AT_ONCE; p++)
        best[p] = std::max(best[p], total[p] + SPREADS * std::sqrt(total[AT_ONCE + p]));
    }
    for (int p = 0; p < AT_ONCE && from + p < pages - 1; p++) c.scored[from + p - 1] = {-best[p], from + p};
  }
  const int keep = std::min<int>((int)c.scored.size(), kept - 2);
  std::nth_element(c.scored.begin(), c.scored.begin() + (keep - 1), c.scored.end());
  c.chosen.clear();
  c.chosen.push_back(0);
  for (int i = 0; i < keep; i++) c.chosen.push_back(c.scored[i].second);
  c.chosen.push_back(pages - 1);
  std::sort(c.chosen.begin(), c.chosen.end());
  for (int32_t& page : c.chosen) page = table[page];
}

}  // namespace
}  // namespace tenfold
