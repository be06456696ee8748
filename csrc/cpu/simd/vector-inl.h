// Vectors of W lanes of T, of a whole register unless W says otherwise: what all kernels are written in.
#include <cstdint>

#include "cpu/simd/target-inl.h"

#if defined(SCATSIMCLR_SIMD_VECTOR_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SIMD_VECTOR_INL_H_
#undef SCATSIMCLR_SIMD_VECTOR_INL_H_
#else
#define SCATSIMCLR_SIMD_VECTOR_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE {

template <class T>
constexpr int kLanes = SCATSIMCLR_SIMD_BYTES / sizeof(T);

template <class T, int W>
struct Simd {
  typedef T V __attribute__((vector_size(sizeof(T) * W), may_alias));
  typedef T Unaligned __attribute__((vector_size(sizeof(T) * W), may_alias, aligned(sizeof(T))));
};
template <class T, int W = kLanes<T>>
using Vec = typename Simd<T, W>::V;

// The vector at an aligned address.
template <class T, int W>
SCATSIMCLR_INLINE Vec<T, W>& at(T* p) {
  return *reinterpret_cast<Vec<T, W>*>(p);
}
template <class T, int W>
SCATSIMCLR_INLINE const Vec<T, W>& at(const T* p) {
  return *reinterpret_cast<const Vec<T, W>*>(p);
}

// At any address.
template <class T, int W = kLanes<T>>
SCATSIMCLR_INLINE Vec<T, W> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T, W>::Unaligned*>(p);
}
template <class T, int W = kLanes<T>>
SCATSIMCLR_INLINE void store(T* p, Vec<T, W> v) {
  *reinterpret_cast<typename Simd<T, W>::Unaligned*>(p) = v;
}

template <class T, int W = kLanes<T>>
SCATSIMCLR_INLINE Vec<T, W> splat(T value) {
  return value - Vec<T, W>{};
}

template <class T, int W = kLanes<T>>
SCATSIMCLR_INLINE Vec<T, W> square_root(Vec<T, W> x) {
  // A loop that the compiler turns into one instruction: vector types have no square root of their own.
  T v[W] __attribute__((aligned(64)));
  at<T, W>(v) = x;
  for (int l = 0; l < W; ++l) v[l] = sizeof(T) == 4 ? __builtin_sqrtf(v[l]) : __builtin_sqrt(v[l]);
  return at<T, W>(v);
}

// Halves are added to each other until one lane is left.
template <class T, int W = kLanes<T>>
SCATSIMCLR_INLINE T sum_lanes(Vec<T, W> v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    T lanes[W] __attribute__((aligned(64)));
    at<T, W>(lanes) = v;
    return sum_lanes<T, W / 2>(at<T, W / 2>(lanes) + at<T, W / 2>(lanes + W / 2));
  }
}
template <class T, int W = kLanes<T>>
SCATSIMCLR_INLINE T max_lanes(Vec<T, W> v) {
  T best = v[0];
  for (int i = 1; i < W; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SIMD_VECTOR_INL_H_
