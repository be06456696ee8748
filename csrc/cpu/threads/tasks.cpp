#include "cpu/threads/tasks.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "cpu/threads/scratch.h"

namespace scatsimclr {

int thread_count() { return static_cast<int>(torch::stable::get_num_threads()); }

void run_tasks(int64_t count, int threads, void (*task)(const void*, int64_t), const void* context) {
  const int64_t workers = std::min<int64_t>(count, threads);
  // What neighbouring tasks share stays in one core's cache, from round to round.
  struct alignas(64) Stretch {
    std::atomic<int64_t> next;
    int64_t end;
  };
  std::vector<Stretch> stretches(workers);
  for (int64_t w = 0; w < workers; ++w) {
    stretches[w].next = count * w / workers;
    stretches[w].end = count * (w + 1) / workers;
  }
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t own = begin; own < end; ++own) {
      for (int64_t w = 0; w < workers; ++w) {
        Stretch& stretch = stretches[(own + w) % workers];
        for (int64_t i; (i = stretch.next.fetch_add(1)) < stretch.end;) task(context, i);
      }
    }
    trim_scratch(Slot::own);
  });
}

}  // namespace scatsimclr
