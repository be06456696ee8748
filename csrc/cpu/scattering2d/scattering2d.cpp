// The operators scattering2d, scattering2d_backward and scattering2d_pack on the CPU: checks, and what the
// kernels need to know. The arithmetic is in the -inl.h files, compiled once for each instruction set.
#include "cpu/scattering2d/job.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "cpu/fft/plan.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/threads/scratch.h"

#define SCATSIMCLR_TARGET_INCLUDE "cpu/scattering2d/kernels-inl.h"
#include "cpu/simd/foreach_target.h"

namespace scatsimclr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Element element_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return Element::f32;
    case ScalarType::Double: return Element::f64;
    case ScalarType::BFloat16: return Element::bf16;
    case ScalarType::Half: return Element::f16;
    default: STD_TORCH_CHECK(false, "scattering2d: dtype must be float32, float64, bfloat16 or float16");
  }
}

Plane plane_of(const Tensor& t) {
  return {t.data_ptr(), element_of(t.scalar_type()), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// The bank that the tensors hold; `kept` keeps copies of those that are not contiguous.
template <class T>
FilterBank<T> bank_of(const std::vector<Tensor>& filters, int64_t J, int64_t L, int64_t max_order,
                      std::vector<Tensor>& kept) {
  const int64_t expected = filter_count(J, L);
  STD_TORCH_CHECK(static_cast<int64_t>(filters.size()) == expected, "scattering2d: J=", J, ", L=", L, " take ",
                  expected, " filters, got ", filters.size());
  const int64_t ny = filters[0].size(0), nx = filters[0].size(1);
  FilterBank<T> bank{{}, filter_levels(static_cast<int>(J), static_cast<int>(L)), static_cast<int>(J),
                     static_cast<int>(L), static_cast<int>(max_order), static_cast<int>(ny), static_cast<int>(nx)};
  const ScalarType type = filters[0].scalar_type();
  bank.filters.reserve(filters.size());
  for (size_t i = 0; i < filters.size(); ++i) {
    const int level = bank.levels[i];
    const Tensor& f = filters[i];
    const auto size = f.sizes();
    STD_TORCH_CHECK(size.size() == 3 && size[0] == ny >> level && size[1] == nx >> level && size[2] == 1,
                    "scattering2d: filter ", i, " must have shape (", ny >> level, ", ", nx >> level, ", 1)");
    STD_TORCH_CHECK(f.is_cpu() && f.scalar_type() == type,
                    "scattering2d: filters must be on the CPU and of one dtype");
    const bool dense = f.is_contiguous();
    if (!dense) kept.push_back(torch::stable::contiguous(f));
    bank.filters.push_back(static_cast<const T*>((dense ? f : kept.back()).const_data_ptr()));
  }
  return bank;
}

template <class T>
std::vector<char> pack_of(const std::vector<Tensor>& filters, int64_t J, int64_t L, int64_t max_order) {
  std::vector<Tensor> kept;
  return pack_filters<T>(bank_of<T>(filters, J, L, max_order, kept));
}

void check_settings(const std::vector<Tensor>& filters, int64_t J, int64_t L) {
  STD_TORCH_CHECK(J >= 1 && J < 16 && L >= 1 && L < 4096, "scattering2d: J and L must be at least 1, got ", J,
                  " and ", L);
  STD_TORCH_CHECK(!filters.empty() && filters[0].dim() == 3, "scattering2d: filters must be (M, N, 1) tensors");
  const int64_t ny = filters[0].size(0), nx = filters[0].size(1), step = int64_t{1} << J;
  STD_TORCH_CHECK(ny % step == 0 && nx % step == 0 && ny >= 3 * step && nx >= 3 * step,
                  "scattering2d: the padded size must be a multiple of 2^J, three at least, got (", ny, ", ", nx,
                  ") with J=", J);
  // Offsets inside the kernels are 32 bit numbers of elements.
  STD_TORCH_CHECK(ny * (nx + 1) < (int64_t{1} << 27), "scattering2d: images beyond 2^27 pixels do not fit");
}

// Everything but the output: `blob` keeps the pack alive where the call made it.
template <class T>
Scattering<T> describe(const Tensor& x, const std::vector<Tensor>& filters, const Tensor& packed, int64_t J,
                       int64_t L, int64_t max_order, bool pre_pad, std::vector<char>& blob) {
  std::vector<Tensor> kept;
  const FilterBank<T> bank = bank_of<T>(filters, J, L, max_order, kept);
  const int ny = bank.ny, nx = bank.nx;
  STD_TORCH_CHECK(packed.numel() == 0 ||
                      (packed.is_cpu() && packed.scalar_type() == ScalarType::Byte && packed.is_contiguous()),
                  "packed is not the result of scattering2d_pack");
  const char* bytes = static_cast<const char*>(packed.numel() == 0 ? nullptr : packed.const_data_ptr());
  // An exported encoder keeps its pack, and may be older or newer than this.
  if (bytes && of_another_version(bytes, packed.numel())) bytes = nullptr;
  if (bytes && reinterpret_cast<uintptr_t>(bytes) % 16 != 0) {
    blob.assign(bytes, bytes + packed.numel());
    bytes = blob.data();
  }
  Scattering<T> job{};
  if (bytes) job.pack = read_pack<T>(bytes, packed.numel(), bank);
  // The filters are the truth: a pack that was made before they were changed is made again.
  if (!bytes || !made_from<T>(bytes, bank)) {
    blob = pack_filters<T>(bank);
    job.pack = read_pack<T>(blob.data(), blob.size(), bank);
  }
  job.images = x.size(0);
  job.colours = static_cast<int>(x.size(1));
  job.coefficients = static_cast<int>(1 + J * L + (max_order >= 2 ? L * L * J * (J - 1) / 2 : 0));
  job.height = static_cast<int>(x.size(2)), job.width = static_cast<int>(x.size(3));
  STD_TORCH_CHECK(job.height >= 1 && job.width >= 1 && job.height <= ny && job.width <= nx,
                  "scattering2d: an image of (", job.height, ", ", job.width, ") does not fit filters of (", ny,
                  ", ", nx, ")");
  STD_TORCH_CHECK(!pre_pad || (job.height == ny && job.width == nx), "scattering2d: with pre_pad the image must be (",
                  ny, ", ", nx, "), got (", job.height, ", ", job.width, ")");
  job.out_height = (ny >> J) - 2, job.out_width = (nx >> J) - 2;
  for (int j = 0; j < job.pack.J; ++j) {
    job.fft_scratch = std::max({job.fft_scratch, fft_plan<T>(ny >> j).scratch, fft_plan<T>(nx >> j).scratch});
  }
  job.x = plane_of(x);
  return job;
}

void check_input(const Tensor& x, const std::vector<Tensor>& filters) {
  STD_TORCH_CHECK(x.dim() == 4, "scattering2d: x must be (N, C, M, N), got ", x.dim(), " dimensions");
  STD_TORCH_CHECK(x.is_cpu() && filters[0].is_cpu(), "scattering2d: x and filters must be on the CPU");
  STD_TORCH_CHECK(x.scalar_type() == filters[0].scalar_type() &&
                      (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double),
                  "scattering2d: x and filters must both be float32 or both float64");
}

// A contiguous (N, C, H, W) tensor, or one whose memory is (N, H, W, C).
Tensor empty4(std::vector<int64_t> size, ScalarType type, bool channels_last) {
  return torch::stable::empty(size, type, std::nullopt, torch::stable::Device(torch::headeronly::DeviceType::CPU),
                              std::nullopt,
                              channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                            : torch::headeronly::MemoryFormat::Contiguous);
}

template <class T>
Tensor forward(const Tensor& x, const std::vector<Tensor>& filters, const Tensor& packed, int64_t J, int64_t L,
               int64_t max_order, bool pre_pad, bool channels_last, ScalarType out_dtype) {
  std::vector<char> blob;
  Scattering<T> job = describe<T>(x, filters, packed, J, L, max_order, pre_pad, blob);
  Tensor out = empty4({job.images, int64_t{job.colours} * job.coefficients, job.out_height, job.out_width},
                      out_dtype, channels_last);
  if (out.numel() == 0) return out;
  job.coefficients_out = plane_of(out);
  if (channels_last) {
    // Strides of dimensions of size 1 are arbitrary: state what the kernel relies on.
    const int64_t channels = int64_t{job.colours} * job.coefficients;
    job.coefficients_out.channel = 1, job.coefficients_out.column = channels;
    job.coefficients_out.row = channels * job.out_width;
  }
  SCATSIMCLR_DISPATCH(scattering2d::run<T>(job, false));
  trim_scratch(Slot::shared);
  return out;
}

Tensor scattering2d(Tensor x, std::vector<Tensor> filters, Tensor packed, int64_t J, int64_t L, int64_t max_order,
                    bool pre_pad, bool channels_last, ScalarType out_dtype) {
  check_settings(filters, J, L);
  check_input(x, filters);
  if (x.scalar_type() == ScalarType::Float) {
    return forward<float>(x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype);
  }
  return forward<double>(x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype);
}

template <class T>
Tensor backward(const Tensor& grad, const Tensor& x, const std::vector<Tensor>& filters, const Tensor& packed,
                int64_t J, int64_t L, int64_t max_order, bool pre_pad) {
  std::vector<char> blob;
  Scattering<T> job = describe<T>(x, filters, packed, J, L, max_order, pre_pad, blob);
  STD_TORCH_CHECK(grad.is_cpu() && grad.dim() == 4 && grad.size(0) == job.images &&
                      grad.size(1) == int64_t{job.colours} * job.coefficients &&
                      grad.size(2) == job.out_height && grad.size(3) == job.out_width,
                  "scattering2d_backward: grad must be a CPU tensor of the shape of the coefficients, (", job.images,
                  ", ", int64_t{job.colours} * job.coefficients, ", ", job.out_height, ", ", job.out_width, ")");
  Tensor dx = empty4({x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type(), false);
  if (dx.numel() == 0) return dx;
  job.coefficients_out = plane_of(grad);
  job.dx = plane_of(dx);
  SCATSIMCLR_DISPATCH(scattering2d::run<T>(job, true));
  trim_scratch(Slot::shared);
  return dx;
}

Tensor scattering2d_backward(Tensor grad, Tensor x, std::vector<Tensor> filters, Tensor packed, int64_t J, int64_t L,
                             int64_t max_order, bool pre_pad) {
  check_settings(filters, J, L);
  check_input(x, filters);
  if (x.scalar_type() == ScalarType::Float) {
    return backward<float>(grad, x, filters, packed, J, L, max_order, pre_pad);
  }
  return backward<double>(grad, x, filters, packed, J, L, max_order, pre_pad);
}

Tensor scattering2d_pack(std::vector<Tensor> filters, int64_t J, int64_t L, int64_t max_order) {
  check_settings(filters, J, L);
  const bool single = filters[0].scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(single || filters[0].scalar_type() == ScalarType::Double,
                  "scattering2d_pack: filters must be float32 or float64");
  const std::vector<char> blob =
      single ? pack_of<float>(filters, J, L, max_order) : pack_of<double>(filters, J, L, max_order);
  const std::vector<int64_t> size{static_cast<int64_t>(blob.size())};
  Tensor packed = torch::stable::empty(size, ScalarType::Byte);
  std::memcpy(packed.data_ptr(), blob.data(), blob.size());
  return packed;
}

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CPU, m) {
  m.impl("scattering2d", TORCH_BOX(&scattering2d));
  m.impl("scattering2d_backward", TORCH_BOX(&scattering2d_backward));
  m.impl("scattering2d_pack", TORCH_BOX(&scattering2d_pack));
}

}  // namespace
}  // namespace scatsimclr
