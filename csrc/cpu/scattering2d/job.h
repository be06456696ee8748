// What the operators (scattering2d.cpp) hand to the kernels that are compiled for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/scattering2d/pack.h"

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

}  // namespace scatsimclr
