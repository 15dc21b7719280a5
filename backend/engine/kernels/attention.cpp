// Attention over the paged KV cache, read in place.
#include "kernels.h"
#include "parts.h"
#include "plan.h"
#include "rows.h"
#include "select.h"
#include "team.h"

#include <vector>

using namespace tenfold;

namespace {

// What a piece found, until it is committed.
class Found {
 public:
  void clear() { places_.clear(); numbers_.clear(); }
  // Room for `count` numbers that will go to `to`; good until the next is asked for.
  template <typename N> N* at(N* to, int count) {
    places_.push_back({to, count * sizeof(N), numbers_.size()});
    numbers_.resize(numbers_.size() + (count * sizeof(N) + 3) / 4);
    return (N*)&numbers_[places_.back().from];
  }
  void commit() const { for (const Place& p : places_) std::memcpy(p.to, &numbers_[p.from], p.bytes); }

 private:
  struct Place { void* to; size_t bytes, from; };
  std::vector<Place> places_;
  std::vector<float> numbers_;
};

template <typename Q, typename T>
void attend(const tenfold_batch* batch, const Plan* planned, const Q* query, const char* pages,
            const uint16_t* summaries, Q* out) {
  static thread_local Found found;
  const tenfold_batch& b = *batch;
  const Plan& plan = *planned;
  const int D = b.head_size, record = D + 2;
  const int64_t head_bytes = page_bytes<T>(D), block_bytes = head_bytes * b.kv_heads;
  static thread_local std::vector<float> partials;
  if ((int64_t)partials.size() < plan.partials) {
    Team::settle();
    partials.resize(plan.partials);
  }
  float* partial = partials.data();
  const bool sparse = summaries && !plan.sparse.empty();
  const Task* first = sparse ? plan.tasks.data() + plan.first_dense : plan.tasks.data();
  const int dense = (int)(plan.tasks.data() + plan.tasks.size() - first);
  const int thin = sparse ? (int)plan.sparse.size() : 0;
  Team::run(thin + dense, [=](int i, int) {
    found.clear();
    const tenfold_batch& b = *batch;
    const Plan& plan = *planned;
    static thread_local State st;
    static thread_local Rows<Q> rows;
    static thread_local std::vector<float> merged;
    static thread_local Chooser chooser;
    const bool choose = i < thin;
    const Task& t = choose ? plan.sparse[i] : first[i - thin];
    const int32_t* table = b.tables + t.sequence * b.table_stride;
    const int low = t.kv_head < 0 ? 0 : t.kv_head, high = t.kv_head < 0 ? b.kv_heads : t.kv_head + 1;
    const int total_pages = pages_of(b, t.sequence);
    for (int h = low; h < high; h++) {
      gather_rows<Q, T>(b, plan, t, h, query, out, rows);
      const char* head = pages + h * head_bytes;
      if (t.segment >= 0) {
        st.clear(rows.width, D);
        run_pages<Q, T>(rows, head, block_bytes, table, t.segment * SEGMENT,
                        std::min(total_pages, (t.segment + 1) * SEGMENT), h + 1 < high ? head + head_bytes : head,
                        D, st);
        for (int r = 0; r < rows.count; r++) {
          const float total = sum(st.total[r]);
          if (rows.partial[r] < 0) {
            finish(found.at(rows.out[r], D), &st.acc[(size_t)r * D], total, D);
            continue;
          }
          float* to = found.at(partial + rows.partial[r] + (int64_t)t.segment * record, record);
          to[0] = st.top[r]; to[1] = total;
          std::memcpy(to + 2, &st.acc[(size_t)r * D], D * sizeof(float));
        }
        continue;
      }
      int last = 0;
      for (int r = 0; r < rows.count; r++) last = std::max(last, (rows.limit[r] + PAGE - 1) / PAGE);
      if (choose) {
        choose_pages(b, rows, summaries, h, table, total_pages, kept_pages(b, t.sequence), chooser);
        const int hidden = (total_pages - (int)chooser.chosen.size()) * PAGE;  // the last page keeps its own end
        for (int r = 0; r < rows.count; r++) rows.limit[r] -= hidden;
        last = (int)chooser.chosen.size();
      }
      merged.resize((size_t)TILE * D);
      Merged m[TILE];
      for (int from = 0; from < last; from += SEGMENT) {
        st.clear(rows.width, D);
        run_pages<Q, T>(rows, head, block_bytes, choose ? chooser.chosen.data() : table, from,
                        std::min(last, from + SEGMENT), head, D, st);
        for (int r = 0; r < rows.count; r++)
          merge(m[r], &merged[(size_t)r * D], st.top[r], sum(st.total[r]), &st.acc[(size_t)r * D], D);
      }
      for (int r = 0; r < rows.count; r++) finish(found.at(rows.out[r], D), &merged[(size_t)r * D], m[r].total, D);
    }
  }, [](int) { found.commit(); });
  if (!plan.partials) return;
  for_each(b.sequences, 4, [&](int s) {
    static thread_local std::vector<float> merged;
    if (plan.partial[s] < 0 || (sparse && is_sparse(b, s))) return;
    merged.resize(D);
    for (int row = 0; row < new_tokens(b, s) * b.heads; row++) {
      Merged m;
      for (int g = 0; g < plan.segments[s]; g++) {
        const float* from = partial + plan.partial[s] + ((int64_t)row * plan.segments[s] + g) * record;
        merge(m, merged.data(), from[0], from[1], from + 2, D);
      }
      finish(out + ((int64_t)b.query_starts[s] * b.heads + row) * D, merged.data(), m.total, D);
    }
  });
}

}  // namespace

void tenfold::attention(int is_bf16, const tenfold_batch* b, const void* plan, const void* query, const void* pages,
                        const uint16_t* summaries, void* out) {
  with_kind(b->kind, [&](auto t) {
    using T = decltype(t);
    const Plan* p = (const Plan*)plan;
    if (is_bf16) attend<bf16, T>(b, p, (const bf16*)query, (const char*)pages, summaries, (bf16*)out);
    else attend<float, T>(b, p, (const float*)query, (const char*)pages, summaries, (float*)out);
  });
}

extern "C" {

void* tenfold_plan(const tenfold_batch* batch) { return new Plan(make_plan(*batch)); }
void tenfold_plan_free(void* plan) { delete (Plan*)plan; }

void tenfold_attention(int is_bf16, const tenfold_batch* b, const void* plan, const void* query, const void* pages,
                       const uint16_t* summaries, void* out) {
  attention(is_bf16, b, plan, query, pages, summaries, out);
  Team::settle();
}

}  // extern "C"
