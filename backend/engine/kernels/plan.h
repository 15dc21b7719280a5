// A step's work, cut into tasks once for all layers.
#pragma once
#include "kernels.h"
#include "softmax.h"

#include <cstring>
#include <vector>

namespace tenfold {
namespace {  // each source its own: nothing but the C interface leaves the library

constexpr int FEWEST_KEPT = 16;  // pages; a sparse choice among fewer saves nothing

struct Task {
  int32_t sequence;     // the first one; a shared tile has `count` of them, at `member`
  int32_t member, count;
  int32_t kv_head;      // -1: every head
  int32_t segment;      // -1: all of them, one after the other
  int32_t first_row, rows;
};

inline int new_tokens(const tenfold_batch& b, int s) { return b.query_starts[s + 1] - b.query_starts[s]; }
inline int pages_of(const tenfold_batch& b, int s) { return (b.context_lens[s] + PAGE - 1) / PAGE; }
inline int kept_pages(const tenfold_batch& b, int s) {
  return std::max((pages_of(b, s) * b.keep_percent + 99) / 100, FEWEST_KEPT);
}
inline bool is_sparse(const tenfold_batch& b, int s) {
  return b.keep_percent < 100 && new_tokens(b, s) == 1 && b.heads / b.kv_heads <= TILE && pages_of(b, s) > kept_pages(b, s);
}

struct Plan {
  std::vector<Task> tasks, sparse;  // `sparse` stands in for the dense tasks of sequences that are long enough
  std::vector<int32_t> members;     // sequences of shared tiles
  std::vector<int64_t> partial;     // per sequence: where its partial results begin; -1: it has none
  std::vector<int32_t> segments;    // per sequence
  int64_t partials = 0;             // floats
  int first_dense = 0;              // tasks before this one are those that `sparse` replaces
};

inline Plan make_plan(const tenfold_batch& b) {
  Plan plan;
  const int group = b.heads / b.kv_heads, record = b.head_size + 2;
  plan.partial.assign(b.sequences, -1);
  plan.segments.resize(b.sequences);
  std::vector<Task> dense, thin;
  std::vector<int> small;
  for (int s = 0; s < b.sequences; s++) {
    const int rows = new_tokens(b, s) * group;
    plan.segments[s] = (pages_of(b, s) + SEGMENT - 1) / SEGMENT;
    if (rows > TILE) {
      for (int h = 0; h < b.kv_heads; h++)
        for (int first = 0; first < rows; first += TILE)
          dense.push_back({s, 0, 1, h, -1, first, std::min(TILE, rows - first)});
      continue;
    }
    small.push_back(s);
    if (plan.segments[s] > 1) {
      plan.partial[s] = plan.partials;
      plan.partials += (int64_t)new_tokens(b, s) * b.heads * plan.segments[s] * record;
    }
  }
  int64_t tiles = 0;
  for (int s : small) tiles += plan.segments[s];
  const bool by_head = tiles + (int64_t)dense.size() < 16;  // few sequences: every core gets a head
  auto add = [&](Task t, std::vector<Task>& to) {
    if (!by_head) { t.kv_head = -1; to.push_back(t); return; }
    for (int h = 0; h < b.kv_heads; h++) { t.kv_head = h; to.push_back(t); }
  };
  for (int s : small)
    if (is_sparse(b, s)) {
      for (int h = 0; h < b.kv_heads; h++) plan.sparse.push_back({s, 0, 1, h, -1, 0, group});
      for (int g = 0; g < plan.segments[s]; g++) add({s, 0, 1, -1, g, 0, group}, thin);
    }
  std::vector<char> taken;
  for (int segment = 0; ; segment++) {
    bool any = false;
    taken.assign(b.sequences, 0);
    for (size_t i = 0; i < small.size(); i++) {
      const int s = small[i];
      if (segment >= plan.segments[s] || is_sparse(b, s)) continue;
      any = true;
      if (taken[s]) continue;
      const int rows = new_tokens(b, s) * group;
      Task t{s, (int)plan.members.size(), 1, -1, segment, 0, rows};
      plan.members.push_back(s);
      // Whole segments only, and none that a row of the tile sees in part.
      const bool whole = (segment + 1) * SEGMENT * PAGE <= b.context_lens[s] - new_tokens(b, s);
      if (b.share_pages && whole) {
        const int32_t* mine = b.tables + s * b.table_stride + segment * SEGMENT;
        for (size_t j = i + 1; j < small.size() && t.rows < TILE; j++) {
          const int other = small[j], more = new_tokens(b, other) * group;
          if (taken[other] || is_sparse(b, other) || t.rows + more > TILE) continue;
          if ((segment + 1) * SEGMENT * PAGE > b.context_lens[other] - new_tokens(b, other)) continue;
          if (std::memcmp(mine, b.tables + other * b.table_stride + segment * SEGMENT, SEGMENT * sizeof(int32_t))) continue;
          plan.members.push_back(other);
          taken[other] = 1; t.count++; t.rows += more;
        }
      }
      add(t, dense);
    }
    if (!any) break;
  }
  plan.first_dense = (int)thin.size();
  plan.tasks = std::move(thin);
  plan.tasks.insert(plan.tasks.end(), dense.begin(), dense.end());
  return plan;
}

}  // namespace
}  // namespace tenfold
