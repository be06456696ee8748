// Lanes in another order, and transposes of W vectors of W lanes.
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_SIMD_SHUFFLE_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SIMD_SHUFFLE_INL_H_
#undef SCATSIMCLR_SIMD_SHUFFLE_INL_H_
#else
#define SCATSIMCLR_SIMD_SHUFFLE_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE {

// The index of a lane, as wide as the lane's element, which is what shuffles take.
template <class T>
using LaneIndex = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Lane l is lane select[l] of v.
template <class T, int W>
SCATSIMCLR_INLINE Vec<T, W> permuted(Vec<T, W> v, const Vec<LaneIndex<T>, W>& select) {
#ifdef __clang__
  Vec<T, W> out;
  for (int l = 0; l < W; ++l) out[l] = v[select[l]];
  return out;
#else
  return __builtin_shuffle(v, select);
#endif
}

// gcc has __builtin_shufflevector from 12 on, clang has no __builtin_shuffle.
#ifdef __clang__
#define SCATSIMCLR_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SCATSIMCLR_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Vec<LaneIndex<T>, W>{__VA_ARGS__})
#endif

// Interleaves the lower (or upper) halves of a and b: a0 b0 a1 b1 …
template <class T, int W, bool upper, size_t... I>
SCATSIMCLR_INLINE Vec<T, W> zip(Vec<T, W> a, Vec<T, W> b, std::index_sequence<I...>) {
  return SCATSIMCLR_SHUFFLE(a, b, (int(I) / 2 + (upper ? W / 2 : 0) + (I % 2 ? W : 0))...);
}

// The lanes from last to first.
template <class T, int W, size_t... I>
SCATSIMCLR_INLINE Vec<T, W> reversed(Vec<T, W> v, std::index_sequence<I...>) {
  return SCATSIMCLR_SHUFFLE(v, v, (W - 1 - int(I))...);
}
template <class T, int W>
SCATSIMCLR_INLINE Vec<T, W> reversed(Vec<T, W> v) {
  return reversed<T, W>(v, std::make_index_sequence<W>{});
}

#undef SCATSIMCLR_SHUFFLE

// Transposes W vectors of W lanes: log2(W) rounds of zipping the first half of the rows with the second.
template <class T, int W>
SCATSIMCLR_INLINE void transpose(Vec<T, W> (&rows)[W]) {
  SCATSIMCLR_UNROLL for (int round = 1; round < W; round *= 2) {
    Vec<T, W> next[W];
    SCATSIMCLR_UNROLL for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = zip<T, W, false>(rows[i], rows[i + W / 2], std::make_index_sequence<W>{});
      next[2 * i + 1] = zip<T, W, true>(rows[i], rows[i + W / 2], std::make_index_sequence<W>{});
    }
    SCATSIMCLR_UNROLL for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SIMD_SHUFFLE_INL_H_
