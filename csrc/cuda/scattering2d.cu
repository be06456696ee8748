// The operator scattering2d_paths_cuda: all paths of one node of the scattering tree, each in one block's shared memory.
//
// Not yet run on hardware: the phases are tested on the host, registers and shared memory by nvcc's report.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "cuda/scattering2d_phases.h"

namespace scatsimclr::cuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Blocks of 256 threads (at 52 × 52 a butterfly of 13 for each), three to a multiprocessor, which bounds a thread to 80
// registers; where shared memory holds only one block, that one has 512.
template <class T, int kThreads>
__global__ void __launch_bounds__(kThreads, kThreads == 256 ? 3 : 1)
    path_kernel(const __grid_constant__ Paths p, int per_block) {
  extern __shared__ float4 memory[];
  const Shared s = carve(p, memory);
  const int thread = threadIdx.x, groups = (p.L + per_block - 1) / per_block;
  const int field = blockIdx.x / groups, begin = blockIdx.x % groups * per_block;
  set_up(p, s, thread, kThreads);
  for (int theta = begin; theta < min(begin + per_block, p.L); ++theta) {
    __syncthreads();  // z and half of the path before have been read, the tables are written
    fold_product(p, s, field, theta, thread, kThreads);
    __syncthreads();
    for (int pass = 0; pass < p.horizontal.passes; ++pass) {
      transform_pass(p, s, true, pass, thread, kThreads);
      __syncthreads();
    }
    for (int pass = 0; pass < p.vertical.passes; ++pass) {
      transform_pass(p, s, false, pass, thread, kThreads);
      __syncthreads();
    }
    if (p.u != nullptr) store_moduli(p, s, field, theta, thread, kThreads);
    low_pass_columns(p, s, thread, kThreads);
    __syncthreads();
    low_pass_rows<T>(p, s, field, theta, thread, kThreads);
  }
}

void check(cudaError_t status) {
  STD_TORCH_CHECK(status == cudaSuccess, "scattering2d_paths_cuda: ", cudaGetErrorString(status));
}

template <class T, int kThreads>
void launch_blocks(const Paths& p, int device, size_t bytes) {
  check(cudaFuncSetAttribute(path_kernel<T, kThreads>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)));
  // The tables of a block serve several paths where there are enough fields to fill the chip.
  const int per_block = p.fields >= 2048 ? p.L : p.fields >= 512 ? (p.L + 1) / 2 : p.fields >= 128 ? (p.L + 3) / 4 : 1;
  const int64_t blocks = static_cast<int64_t>(p.fields) * ((p.L + per_block - 1) / per_block);
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), "scattering2d_paths_cuda: too many fields");
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
                  "scattering2d_paths_cuda: no CUDA stream");
  path_kernel<T, kThreads>
      <<<static_cast<unsigned>(blocks), kThreads, bytes, static_cast<cudaStream_t>(stream)>>>(p, per_block);
  check(cudaGetLastError());
}

template <class T>
void launch(const Paths& p, int device) {
  const size_t bytes = shared_bytes(p);
  int limit = 0;
  check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  STD_TORCH_CHECK(bytes <= static_cast<size_t>(limit), "scattering2d_paths_cuda: (", p.rows, ", ", p.columns,
                  ") takes ", bytes, " bytes of shared memory, this GPU has ", limit);
  if (2 * bytes > static_cast<size_t>(limit)) {
    launch_blocks<T, 512>(p, device, bytes);
  } else {
    launch_blocks<T, 256>(p, device, bytes);
  }
}

// spectra (fields, m, n/2 + 1, 2) float32; psi (L, m, n); low_y (h, m'), low_x (w, n'); fine_y (⌈h/4⌉, 2), fine_x: their
// bands, int32; u (fields, L, m', n') or empty; out (images, colours · K, h, w).
void paths(Tensor spectra, Tensor psi, Tensor low_y, Tensor low_x, Tensor fine_y, Tensor fine_x, Tensor u, Tensor out,
           int64_t first, int64_t stride, int64_t field0, int64_t P, int64_t colours, int64_t K) {
  for (const Tensor* t : {&spectra, &psi, &low_y, &low_x, &u}) {
    STD_TORCH_CHECK(t->is_cuda() && t->scalar_type() == ScalarType::Float && t->is_contiguous(),
                    "scattering2d_paths_cuda: tensors must be contiguous float32 on one GPU");
  }
  for (const Tensor* t : {&fine_y, &fine_x}) {
    STD_TORCH_CHECK(t->is_cuda() && t->scalar_type() == ScalarType::Int && t->is_contiguous(),
                    "scattering2d_paths_cuda: bands must be contiguous int32 on one GPU");
  }
  STD_TORCH_CHECK(out.is_cuda() && out.dim() == 4 && spectra.dim() == 4 && psi.dim() == 3,
                  "scattering2d_paths_cuda: out and spectra must have four dimensions, psi three");
  Paths p{};
  p.spectra = static_cast<const Complex*>(spectra.data_ptr());
  p.psi = static_cast<const float*>(psi.data_ptr());
  p.low_y = static_cast<const float*>(low_y.data_ptr());
  p.low_x = static_cast<const float*>(low_x.data_ptr());
  p.band_y = static_cast<const int*>(fine_y.data_ptr());
  p.band_x = static_cast<const int*>(fine_x.data_ptr());
  p.u = u.numel() > 0 ? static_cast<float*>(u.data_ptr()) : nullptr;
  p.out = out.data_ptr();
  p.image_step = out.stride(0), p.channel_step = out.stride(1), p.row_step = out.stride(2), p.column_step = out.stride(3);
  p.fields = static_cast<int>(spectra.size(0));
  p.L = static_cast<int>(psi.size(0)), p.m = static_cast<int>(psi.size(1)), p.n = static_cast<int>(psi.size(2));
  p.h = static_cast<int>(low_y.size(0)), p.rows = static_cast<int>(low_y.size(1));
  p.w = static_cast<int>(low_x.size(0)), p.columns = static_cast<int>(low_x.size(1));
  p.first = static_cast<int>(first), p.stride = static_cast<int>(stride), p.field0 = static_cast<int>(field0);
  p.P = static_cast<int>(P), p.colours = static_cast<int>(colours), p.K = static_cast<int>(K);
  STD_TORCH_CHECK(spectra.size(1) == p.m && spectra.size(2) == p.n / 2 + 1 && spectra.size(3) == 2 &&
                      p.m % p.rows == 0 && p.n % p.columns == 0 && p.m / p.rows == p.n / p.columns &&
                      out.size(2) == p.h && out.size(3) == p.w && fine_y.numel() == padded(p.h) / kGroup * 2 &&
                      fine_x.numel() == padded(p.w) / kGroup * 2,
                  "scattering2d_paths_cuda: sizes do not belong together");
  p.fold = p.m / p.rows;
  STD_TORCH_CHECK(factor(p.rows, p.vertical) && factor(p.columns, p.horizontal), "scattering2d_paths_cuda: (", p.rows,
                  ", ", p.columns, ") has a prime factor beyond 13");
  if (p.fields == 0) return;
  const int device = spectra.get_device_index();
  switch (out.scalar_type()) {
    case ScalarType::Float: return launch<float>(p, device);
    case ScalarType::BFloat16: return launch<__nv_bfloat16>(p, device);
    case ScalarType::Half: return launch<__half>(p, device);
    default: STD_TORCH_CHECK(false, "scattering2d_paths_cuda: out must be float32, bfloat16 or float16");
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CUDA, m) { m.impl("scattering2d_paths_cuda", TORCH_BOX(&paths)); }

}  // namespace scatsimclr::cuda
