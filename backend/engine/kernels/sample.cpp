// The next token of each row of logits: greedy, or drawn after temperature, min-p, top-k and top-p; and what is reported
// of the probabilities. A row is one thread's, so a draw does not depend on the rows beside it.
#include "kernels.h"
#include "team.h"
#include "vector.h"

#include <algorithm>
#include <vector>

using namespace tenfold;

namespace {

constexpr int BLOCK = 1024;             // numbers whose sum is taken as one: what an inverse looks through
constexpr int GROUP = 64;               // numbers that are passed over together where none is likely enough
constexpr size_t FEW = 24;              // candidates that are sorted
constexpr float FIRST = 1.0f / 1024;    // weights, of the likeliest's, above which candidates are looked for at first
constexpr float LOWER = 1.0f / 8;       // by how much less where those are too few

struct Candidate { float weight; int token; };
inline bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
}

// 16 numbers from place i on, -infinity behind the end.
inline f16v read(const float* row, int i, int count) {
  if (i + 16 <= count) return load(row + i);
  float few[16];
  for (int k = 0; k < 16; k++) few[k] = i + k < count ? row[i + k] : -INFINITY;
  return load(few);
}

float top_of(const float* row, int vocab) {
  f16v top = splat(-INFINITY);
  for (int i = 0; i < vocab; i += 16) top = larger(read(row, i, vocab), top);
  return largest(top);
}

int greedy(const float* row, int vocab) {
  const float top = top_of(row, vocab);
  for (int i = 0; i < vocab; i++) if (row[i] == top) return i;
  return 0;  // nothing there is a number
}

// e^((x - top) / temperature), and exactly 0 where that is next to nothing.
inline f16v weight_of(f16v x, float top, float inverse) {
  x = (x - top) * inverse;
  return select(x > -80.0f, exp16(x), f16v{});
}

// A row's weights (not divided by their sum), [vocab in whole vectors], and the sums of its blocks.
struct Weights {
  std::vector<float> of;
  std::vector<double> sums;
  std::vector<Candidate> candidates;
  double total = 0;

  void take(const float* row, int vocab, float temperature, float min_p) {
    const float top = top_of(row, vocab), inverse = 1.0f / temperature;
    of.resize((vocab + 15) / 16 * 16);
    sums.clear();
    total = 0;
    for (int from = 0; from < vocab; from += BLOCK) {
      f16v sum_here = {};
      for (int i = from; i < std::min(from + BLOCK, vocab); i += 16) {
        f16v w = weight_of(read(row, i, vocab), top, inverse);
        if (min_p > 0) w = select(w < min_p, f16v{}, w);
        store(&of[i], w);
        sum_here += w;
      }
      sums.push_back(sum(sum_here));
      total += sums.back();
    }
  }

  // The token at which the sum of weights, in the order of tokens, exceeds `target`.
  int at(double target, int vocab) const {
    int last = 0;
    double before = 0;
    for (size_t b = 0; b < sums.size(); before += sums[b++]) {
      if (before + sums[b] <= target && b + 1 < sums.size()) continue;
      double reached = before;
      for (int i = (int)b * BLOCK; i < std::min((int)(b + 1) * BLOCK, vocab); i++) {
        if (!(of[i] > 0)) continue;
        last = i;
        if ((reached += of[i]) > target) return i;
      }
    }
    if (!last) for (int i = 0; i < vocab; i++) if (of[i] > 0) last = i;
    return last;  // what was summed another way was a little more
  }

  // All tokens at least so likely, compared with the likeliest; their weights' sum.
  double collect(float least, int vocab) {
    candidates.clear();
    double mass = 0;
    for (int from = 0; from < vocab; from += GROUP) {
      const int end = std::min(from + GROUP, (int)of.size());
      f16v top = load(&of[from]);
      for (int i = from + 16; i < end; i += 16) top = larger(load(&of[i]), top);
      if (largest(top) < least) continue;
      for (int k = from; k < std::min(end, vocab); k++)
        if (of[k] >= least && of[k] > 0) { candidates.push_back({of[k], k}); mass += of[k]; }
    }
    return mass;
  }

  struct Reached { size_t place; double before; };

  // The candidate, of the first `count` in the order of likelihood, at which their sum reaches `target` (or, `beyond`,
  // exceeds it): its place, and the sum before it. Those before it in memory are then the likelier ones. By partition,
  // not by sorting: a flat distribution has thousands.
  Reached reach(double target, size_t count, bool beyond) {
    size_t low = 0, high = count;
    double before = 0;
    auto short_of = [&](double mass) { return beyond ? mass <= target : mass < target; };
    while (high - low > FEW) {
      const Candidate a = candidates[low], b = candidates[low + (high - low) / 2], c = candidates[high - 1];
      const Candidate pivot = likelier(a, b) ? (likelier(b, c) ? b : likelier(a, c) ? c : a)
                                             : (likelier(a, c) ? a : likelier(b, c) ? c : b);
      const auto split = std::partition(candidates.begin() + low, candidates.begin() + high,
                                        [&](const Candidate& x) { return likelier(x, pivot); });
      const size_t middle = split - candidates.begin();
      double mass = before;
      for (size_t i = low; i < middle; i++) mass += candidates[i].weight;
      if (middle > low && !short_of(mass)) { high = middle; continue; }
      before = mass;
      if (middle == low) {  // the pivot is the likeliest: it alone, in its place
        std::iter_swap(split, std::find_if(split, candidates.begin() + high, [&](const Candidate& x) {
          return x.token == pivot.token;
        }));
        if (!short_of(before + pivot.weight)) return {low, before};
        before += pivot.weight;
        low++;
      } else {
        low = middle;
      }
    }
    std::sort(candidates.begin() + low, candidates.begin() + high, likelier);
    for (; low + 1 < high && short_of(before + candidates[low].weight); low++) before += candidates[low].weight;
    return {low, before};
  }

  // Among the likeliest: `top_k` of them (0: any number), of which those before a share of `top_p`.
  int among(int top_k, float top_p, double uniform, int vocab) {
    float least = FIRST;
    for (;; least *= LOWER) {
      const double mass = collect(least, vocab);
      const bool enough = top_k ? (int)candidates.size() >= top_k : mass >= top_p * total;
      if (enough || least < 1e-37f) break;
    }
    if (top_k && (int)candidates.size() > top_k) {
      std::nth_element(candidates.begin(), candidates.begin() + top_k - 1, candidates.end(), likelier);
      candidates.resize(top_k);
    }
    if (candidates.empty()) return at(uniform * total, vocab);
    double mass = total;
    if (top_k) { mass = 0; for (const Candidate& c : candidates) mass += c.weight; }
    const Reached edge = reach(top_p * mass, candidates.size(), false);
    const double kept = edge.before + candidates[edge.place].weight;
    return candidates[reach(uniform * kept, edge.place + 1, true).place].token;
  }
};

}  // namespace

extern "C" {

void tenfold_sample(const float* logits, int rows, int vocab, const tenfold_draw* draws, int64_t* tokens) {
  for_each(rows, 1, [=](int r) {
    static thread_local Weights weights;
    const float* row = logits + (int64_t)r * vocab;
    const tenfold_draw& d = draws[r];
    if (!(d.temperature > 0)) { tokens[r] = greedy(row, vocab); return; }
    weights.take(row, vocab, d.temperature, d.min_p);
    const bool cut = d.top_k > 0 || d.top_p < 1.0f;
    tokens[r] = cut ? weights.among(d.top_k, d.top_p, d.uniform, vocab) : weights.at(d.uniform * weights.total, vocab);
  });
}

void tenfold_logprobs(const float* logits, int rows, int vocab, const int64_t* chosen, int count, float* of_chosen,
                      int64_t* tokens, float* values) {
  for_each(rows, 1, [=](int r) {
    static thread_local std::vector<Candidate> best;
    const float* row = logits + (int64_t)r * vocab;
    const float top = top_of(row, vocab);
    double total = 0;
    best.clear();
    float least = -INFINITY;  // of those kept, once there are enough
    for (int from = 0; from < vocab; from += GROUP) {
      f16v weights = {}, most = splat(-INFINITY);
      for (int i = from; i < std::min(from + GROUP, vocab); i += 16) {
        const f16v x = read(row, i, vocab);
        weights += weight_of(x, top, 1.0f);
        most = larger(x, most);
      }
      total += sum(weights);
      if (!count || !(largest(most) > least || (int)best.size() < count)) continue;
      for (int k = from; k < std::min(from + GROUP, vocab); k++) {
        if (!(row[k] > least) && (int)best.size() >= count) continue;
        const Candidate c{row[k], k};
        best.insert(std::upper_bound(best.begin(), best.end(), c, likelier), c);
        if ((int)best.size() > count) best.pop_back();
        if ((int)best.size() == count) least = best.back().weight;
      }
    }
    const float all = top + (float)std::log(total);
    of_chosen[r] = row[chosen[r]] - all;
    for (int i = 0; i < count; i++) {
      tokens[(int64_t)r * count + i] = best[i].token;
      values[(int64_t)r * count + i] = best[i].weight - all;
    }
  });
}

}  // extern "C"
