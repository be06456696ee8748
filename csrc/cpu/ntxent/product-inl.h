// The small matrix products of the NT-Xent kernels.
#include <cstdint>

#include "cpu/ntxent/job.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_NTXENT_PRODUCT_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_NTXENT_PRODUCT_INL_H_
#undef SCATSIMCLR_NTXENT_PRODUCT_INL_H_
#else
#define SCATSIMCLR_NTXENT_PRODUCT_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent {

template <class T>
constexpr int kWidth = 2 * kLanes<T>;  // columns of a micro tile
// Rows of a micro tile: 8 × 2 sums fill half of AVX-512's 32 registers, 4 × 2 half of the others' 16;
// both are enough to hide the latency of a multiply-add.
constexpr int kRows = SCATSIMCLR_SIMD_BYTES == 64 ? 8 : 4;

// acc[r][·] += Σ_k A(r, k) B(k, ·): A(r, k) is a[r · stride + k], or a[k · stride + r] if kTransposed.
template <typename T, int R, bool kTransposed>
SCATSIMCLR_INLINE void multiply(Vec<T> (&acc)[R][2], const T* a, int64_t a_stride, const T* b,
                                int64_t b_stride, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    const auto b0 = load(b), b1 = load(b + kLanes<T>);
    b += b_stride;
SCATSIMCLR_UNROLL
    for (int r = 0; r < R; ++r) {
      const auto value = splat(kTransposed ? a[k * a_stride + r] : a[r * a_stride + k]);
      acc[r][0] += value * b0;
      acc[r][1] += value * b1;
    }
  }
}

// c (rows × kWidth) += A B, as `multiply`. Summed from 0 and added once: shorter chains of roundings.
template <typename T, int R, bool kTransposed>
inline void accumulate(T* c, int64_t c_stride, const T* a, int64_t a_stride, const T* b, int64_t b_stride,
                       int64_t depth) {
  Vec<T> acc[R][2] = {};
  multiply<T, R, kTransposed>(acc, a, a_stride, b, b_stride, depth);
SCATSIMCLR_UNROLL
  for (int r = 0; r < R; ++r) {
    store(c + r * c_stride, load(c + r * c_stride) + acc[r][0]);
    store(c + r * c_stride + kLanes<T>, load(c + r * c_stride + kLanes<T>) + acc[r][1]);
  }
}

// dz (rows, ·) += A z with A (rows, depth) a tile or its transpose, z (depth, D).
template <typename T, bool kTransposed>
inline void add_product(const NtxentJob<T>& job, T* dz, int64_t rows, const T* tile, int64_t tile_stride,
                        const T* z, int64_t depth) {
  const int64_t step = kTransposed ? 1 : tile_stride;
  for (int64_t d = 0; d < job.D; d += kWidth<T>) {
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows) {
      accumulate<T, kRows, kTransposed>(dz + i * job.dz_stride + d, job.dz_stride, tile + i * step,
                                           tile_stride, z + d, job.stride, depth);
    }
    for (; i < rows; ++i) {
      accumulate<T, 1, kTransposed>(dz + i * job.dz_stride + d, job.dz_stride, tile + i * step, tile_stride,
                                    z + d, job.stride, depth);
    }
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_NTXENT_PRODUCT_INL_H_
