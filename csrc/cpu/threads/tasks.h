// Tasks of the CPU kernels on PyTorch's threads.
#pragma once

#include <cstdint>

namespace scatsimclr {

int thread_count();

// As below, for a task given as a function and its context.
void run_tasks(int64_t count, int threads, void (*task)(const void*, int64_t), const void* context);

// Runs task(i) for every i in [0, count) on at most `threads` threads. Each takes a stretch of its own, front to back,
// and then helps with what is left of the others'. A task's scratch memory (scratch.h) is its thread's Slot::own.
template <class Task>
void parallel_tasks(int64_t count, const Task& task, int threads = thread_count()) {
  run_tasks(
      count, threads, [](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); }, &task);
}

}  // namespace scatsimclr
