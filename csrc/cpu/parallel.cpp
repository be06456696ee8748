#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace scatsimclr {
namespace {

struct FreeAligned {
  void operator()(char* p) const { std::free(p); }
};

struct Workspace {
  std::unique_ptr<char, FreeAligned> memory;
  size_t bytes = 0;
};

thread_local Workspace workspaces[2];

// Large pages: fresh memory costs a fault each, and columns of a field touch a page for every row.
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kKeptBytes = size_t{32} << 20;  // of each slot, between calls

}  // namespace

void parallel_tasks(int64_t count, void (*task)(void*, int64_t), void* context) {
  const int64_t workers = std::min<int64_t>(count, thread_count());
  // Each worker takes a stretch of its own, front to back, and then helps with what is left of the others': what
  // neighbouring tasks share stays in one core's cache, from round to round.
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
    trim_workspace(Slot::own);
  });
}

int thread_count() { return static_cast<int>(torch::stable::get_num_threads()); }

char* workspace(Slot slot, size_t bytes) {
  Workspace& w = workspaces[static_cast<int>(slot)];
  if (w.bytes < bytes) {
    w.memory.reset();
    w.bytes = 0;
    const size_t unit = bytes < kHugePage ? 64 : kHugePage, rounded = (bytes + unit - 1) / unit * unit;
    w.memory.reset(static_cast<char*>(std::aligned_alloc(unit, rounded)));
    if (!w.memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (unit == kHugePage) madvise(w.memory.get(), rounded, MADV_HUGEPAGE);
#endif
    w.bytes = rounded;
  }
  return w.memory.get();
}

void trim_workspace(Slot slot) {
  Workspace& w = workspaces[static_cast<int>(slot)];
  if (w.bytes > kKeptBytes) {
    w.memory.reset();
    w.bytes = 0;
  }
}

}  // namespace scatsimclr
