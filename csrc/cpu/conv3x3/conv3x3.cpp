// The operators conv3x3 and conv3x3_weight on the CPU: checks, memory, and the choice of the kernel.
#include "cpu/conv3x3/job.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/threads/scratch.h"

#define SCATSIMCLR_WITH_BF16
#define SCATSIMCLR_TARGET_INCLUDE "cpu/conv3x3/kernels-inl.h"
#include "cpu/simd/foreach_target.h"

namespace scatsimclr {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// bfloat16 is handled as its bits, uint16_t.
template <class S>
const S* elements(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

// (N, C, H, W) whose memory is (N, H, W, C); strides of sides of 1 say nothing.
bool channels_last(const Tensor& t) {
  int64_t stride = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1 && t.stride(dim) != stride) return false;
    stride *= t.size(dim);
  }
  return true;
}

void check(const Tensor& t, const char* op, const char* name) {
  STD_TORCH_CHECK(t.is_cpu() && t.dim() == 4, op, ": ", name, " must be a CPU tensor of 4 dimensions");
  STD_TORCH_CHECK(t.numel() == 0 || channels_last(t), op, ": ", name, " must be channels-last");
}

Tensor empty_channels_last(std::vector<int64_t> size, ScalarType type) {
  return torch::stable::empty(size, type, std::nullopt, torch::stable::Device(torch::headeronly::DeviceType::CPU),
                              std::nullopt, MemoryFormat::ChannelsLast);
}

template <class S>
Tensor convolved(const Tensor& x, const Tensor& weight, const float* bias, bool adjoint) {
  const int64_t out = weight.size(adjoint ? 1 : 0);
  Tensor y = empty_channels_last({x.size(0), out, x.size(2), x.size(3)}, x.scalar_type());
  if (y.numel() == 0) return y;
  const int64_t bytes = SCATSIMCLR_DISPATCH(conv3x3::packed_bytes<S>(x.size(1), out));
  // The filters and the zeros are for all threads.
  const auto [packed, zeros] = scratch(Slot::shared, [&](Arena& arena) {
    return std::pair{arena.take<char>(bytes), arena.take<S>(x.size(1))};
  });
  std::fill_n(zeros, x.size(1), S{});
  const Filters3x3 filters{elements<float>(weight), weight.size(0), weight.size(1), adjoint, packed};
  const Conv3x3<S> job{{x.size(0), x.size(2), x.size(3)}, elements<S>(x), x.size(1), out, packed, bias,
                       static_cast<S*>(y.mutable_data_ptr()), zeros};
  SCATSIMCLR_DISPATCH(conv3x3::pack_filters<S>(filters));
  SCATSIMCLR_DISPATCH(conv3x3::convolve<S>(job));
  trim_scratch(Slot::shared);
  return y;
}

Tensor conv3x3(Tensor x, Tensor weight, std::optional<Tensor> bias, bool adjoint) {
  check(x, "conv3x3", "x");
  check(weight, "conv3x3", "weight");
  const int64_t out = weight.size(adjoint ? 1 : 0);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && weight.size(2) == 3 && weight.size(3) == 3 &&
                      weight.size(adjoint ? 0 : 1) == x.size(1),
                  "conv3x3: weight must be float32 filters of 3x3 for ", x.size(1), " channels");
  const float* offsets = nullptr;
  if (bias) {
    STD_TORCH_CHECK(bias->is_cpu() && bias->scalar_type() == ScalarType::Float && bias->dim() == 1 &&
                        bias->size(0) == out && (out < 2 || bias->stride(0) == 1),
                    "conv3x3: bias must be ", out, " contiguous float32 values");
    offsets = elements<float>(*bias);
  }
  if (x.scalar_type() == ScalarType::Float) return convolved<float>(x, weight, offsets, adjoint);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "conv3x3: x must be float32 or bfloat16");
  return convolved<uint16_t>(x, weight, offsets, adjoint);
}

template <class S>
void gradient_of_filters(const Tensor& grad, const Tensor& x, Tensor& taps) {
  const int64_t in = x.size(1), out = grad.size(1);
  const int64_t count = SCATSIMCLR_DISPATCH(conv3x3::sums_count(in, out));
  const auto [sums, zeros] = scratch(Slot::shared, [&](Arena& arena) {
    return std::pair{arena.take<float>(count), arena.take<S>(std::max(in, out))};
  });
  std::fill_n(zeros, std::max(in, out), S{});
  const Conv3x3Weight<S> job{{x.size(0), x.size(2), x.size(3)}, elements<S>(x), elements<S>(grad), in, out, zeros, sums,
                             static_cast<float*>(taps.mutable_data_ptr())};
  SCATSIMCLR_DISPATCH(conv3x3::weight_gradient<S>(job));
  trim_scratch(Slot::shared);
}

Tensor conv3x3_weight(Tensor grad, Tensor x) {
  check(grad, "conv3x3_weight", "grad");
  check(x, "conv3x3_weight", "x");
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.size(0) == x.size(0) && grad.size(2) == x.size(2) &&
                      grad.size(3) == x.size(3),
                  "conv3x3_weight: grad and x must have the same dtype, batch and size");
  Tensor taps = empty_channels_last({grad.size(1), x.size(1), 3, 3}, ScalarType::Float);
  if (taps.numel() == 0) return taps;
  if (x.scalar_type() == ScalarType::Float) {
    gradient_of_filters<float>(grad, x, taps);
  } else {
    STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16, "conv3x3_weight: x must be float32 or bfloat16");
    gradient_of_filters<uint16_t>(grad, x, taps);
  }
  return taps;
}

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CPU, m) {
  m.impl("conv3x3", TORCH_BOX(&conv3x3));
  m.impl("conv3x3_weight", TORCH_BOX(&conv3x3_weight));
}

}  // namespace
}  // namespace scatsimclr
