// Threads and scratch memory of the CPU kernels.
#pragma once

#include <cstddef>
#include <cstdint>

namespace scatsimclr {

// Runs task(context, i) for every i in [0, count) on PyTorch's threads; each takes the next one that is left.
void parallel_tasks(int64_t count, void (*task)(void*, int64_t), void* context);
int thread_count();

// Scratch memory, 64-byte aligned, of this thread; kept between calls while it is small. Two slots, so that
// what a call shares among its threads does not collide with what the calling thread uses as a worker.
enum class Slot { shared = 0, own = 1 };
char* workspace(Slot slot, size_t bytes);
// Gives back what is too large to keep.
void trim_workspace(Slot slot);

}  // namespace scatsimclr
