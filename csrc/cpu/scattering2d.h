// What the operators (scattering2d.cpp) hand to the kernels that are compiled for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/scattering2d_pack.h"

namespace scatsimclr {

enum class Element { f32, f64, bf16, f16 };

// A tensor (images, colours · coefficients, rows, columns) or (images, colours, rows, columns); strides in
// elements.
struct Plane {
  void* data;
  Element type;
  int64_t image, channel, row, column;
};

template <class T>
struct Scattering {
  Pack<T> pack;
  int64_t images;
  int colours, coefficients;
  int height, width;          // of x
  int out_height, out_width;  // of the coefficients
  size_t fft_scratch;         // of the transforms, in complex vectors
  Plane x;
  Plane coefficients_out;  // forward: written. backward: their gradient, read
  Plane dx;                // backward only: contiguous, of type T
};

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
