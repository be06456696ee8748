// The operator photometric on the CPU: checks, scratch memory, threads. The arithmetic is in photometric.inl.
#include "cpu/photometric.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/isa.h"

// A product and a sum are two roundings, as in the reference. Levels are finite and the sign of a zero never shows:
// so told, the compiler clips by a minimum and a maximum instead of comparisons and masks.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off", "finite-math-only", "no-signed-zeros")
#endif

#define SCATSIMCLR_KERNEL "cpu/photometric.inl"
#include "cpu/foreach_isa.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

namespace scatsimclr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Tensor checked(const Tensor& t, const char* name, ScalarType dtype, std::vector<int64_t> shape) {
  bool fits = t.scalar_type() == dtype && t.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || t.size(i) == shape[i];
  STD_TORCH_CHECK(fits, "photometric: ", name, " has a wrong dtype or shape");
  return torch::stable::contiguous(t);
}

Tensor photometric(const Tensor& images, const Tensor& mirror, const Tensor& order, const Tensor& factors,
                   const Tensor& grayscale, const Tensor& weights, const Tensor& table) {
  const Tensor x = checked(images, "images", ScalarType::Byte, {-1, -1, -1, -1});
  const int64_t batch = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  STD_TORCH_CHECK(channels == 1 || channels == 3, "photometric: images must have 1 or 3 channels");
  const Tensor m = checked(mirror, "mirror", ScalarType::Bool, {batch});
  const Tensor o = checked(order, "order", ScalarType::Long, {batch, kSteps});
  const Tensor f = checked(factors, "factors", ScalarType::Float, {batch, kSteps});
  const Tensor g = checked(grayscale, "grayscale", ScalarType::Bool, {batch});
  const Tensor w = checked(weights, "weights", ScalarType::Int, {batch, -1});
  const Tensor t = checked(table, "table", table.scalar_type(), {channels, 256});
  STD_TORCH_CHECK(w.size(1) > 0, "photometric: weights must have at least one column");
  Tensor out = torch::stable::empty({batch, height, width, channels}, table.scalar_type());
  Photometric job{
      static_cast<const uint8_t*>(x.const_data_ptr()), height, width, channels,
      static_cast<const bool*>(m.const_data_ptr()), static_cast<const int64_t*>(o.const_data_ptr()),
      static_cast<const float*>(f.const_data_ptr()), static_cast<const bool*>(g.const_data_ptr()),
      static_cast<const int32_t*>(w.const_data_ptr()), w.size(1) - 1, t.const_data_ptr(),
      static_cast<int64_t>(t.element_size()), out.mutable_data_ptr()};
  const int64_t* steps = job.order;
  STD_TORCH_CHECK(std::all_of(steps, steps + kSteps * batch, [](int64_t s) { return s >= -1 && s < kSteps; }),
                  "photometric: order must be -1..3");
  if (out.numel() == 0) return out;
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    const int64_t pixels = height * width;
    thread_local std::vector<uint8_t> planes, line;
    thread_local std::vector<uint16_t> middle;
    thread_local std::vector<const uint16_t*> rows;
    planes.resize(channels * pixels), line.resize(width + 2 * job.half + kBlurPadding);
    middle.resize(height * (width + kBlurPadding)), rows.resize(2 * job.half + 1);
    const PhotometricScratch scratch{planes.data(), middle.data(), line.data(), rows.data()};
    SCATSIMCLR_DISPATCH(photometric_views(job, begin, end, scratch));
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CPU, m) { m.impl("photometric", TORCH_BOX(&photometric)); }

}  // namespace
}  // namespace scatsimclr
