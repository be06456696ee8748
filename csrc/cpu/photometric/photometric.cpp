// The operator photometric on the CPU: checks, scratch memory, threads. The arithmetic is in kernels-inl.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "cpu/photometric/job.h"
#include "cpu/threads/scratch.h"
#include "cpu/threads/tasks.h"

#define SCATSIMCLR_TARGET_INCLUDE "cpu/photometric/kernels-inl.h"
#include "cpu/simd/foreach_target.h"

namespace scatsimclr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// -1 stands for any size.
template <class Sizes>
std::string shape_text(const Sizes& sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : ", ") + (size < 0 ? "any" : std::to_string(size));
  return "(" + text + ")";
}

Tensor checked(const Tensor& t, const char* name, ScalarType dtype, std::vector<int64_t> shape) {
  bool fits = t.scalar_type() == dtype && t.dim() == static_cast<int64_t>(shape.size());
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || t.size(i) == shape[i];
  STD_TORCH_CHECK(fits, "photometric: ", name, " must be of the schema's dtype and of shape ", shape_text(shape),
                  ", got ", shape_text(t.sizes()));
  return torch::stable::contiguous(t);
}

Tensor photometric(const Tensor& images, const Tensor& mirror, const Tensor& order, const Tensor& factors,
                   const Tensor& grayscale, const Tensor& weights, const Tensor& table) {
  const Tensor x = checked(images, "images", ScalarType::Byte, {-1, -1, -1, -1});
  const int64_t batch = x.size(0), height = x.size(1), width = x.size(2), channels = x.size(3);
  STD_TORCH_CHECK(channels == 1 || channels == 3, "photometric: images must have 1 or 3 channels, got ", channels);
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
  parallel_tasks(batch, [&](int64_t sample) {
    const auto memory = scratch(Slot::own, [&](Arena& arena) {
      return PhotometricScratch{arena.take<uint8_t>(channels * height * width),
                                arena.take<uint16_t>(height * (width + kBlurPadding)),
                                arena.take<uint8_t>(width + 2 * job.half + kBlurPadding),
                                arena.take<const uint16_t*>(2 * job.half + 1)};
    });
    SCATSIMCLR_DISPATCH(photometric::sample_view(job, sample, memory));
  });
  return out;
}

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CPU, m) { m.impl("photometric", TORCH_BOX(&photometric)); }

}  // namespace
}  // namespace scatsimclr
