// One tile of similarities, and the positive pairs in it.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/ntxent/job.h"
#include "cpu/ntxent/product-inl.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_NTXENT_TILE_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_NTXENT_TILE_INL_H_
#undef SCATSIMCLR_NTXENT_TILE_INL_H_
#else
#define SCATSIMCLR_NTXENT_TILE_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent {

// Of lanes: all bits set, or none.
template <class T>
using Mask = Vec<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>;

template <class T>
SCATSIMCLR_INLINE Mask<T> iota() {
  Mask<T> lanes;
  for (int i = 0; i < kLanes<T>; ++i) lanes[i] = i;
  return lanes;
}

// One tile of similarities: strip I against strip J.
template <typename T>
struct Tile {
  const NtxentJob<T>& job;
  const Strip &I, &J;
  bool diagonal;
  T* s;  // (block, stride)
  int64_t stride;

  // Whether lanes of columns j … may differ from plain rows and columns.
  SCATSIMCLR_INLINE bool masked(int64_t j) const { return diagonal || j + kWidth<T> > J.count; }

  // Which of the columns j … of row i are neither i itself nor beyond the strip.
  SCATSIMCLR_INLINE Mask<T> valid(int64_t i, int64_t j) const {
    using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    const auto lanes = iota<T>() + static_cast<Int>(j);
    const auto inside = lanes < static_cast<Int>(J.count);
    return diagonal ? inside & (lanes != static_cast<Int>(i)) : inside;
  }

  // Calls done(i, j, acc) with each micro tile of s, rows i … i + kRows − 1 (some may be beyond the strip),
  // columns j … j + kWidth − 1. Column-major, so that a panel stays in L1.
  template <typename Done>
  SCATSIMCLR_INLINE void products(Done&& done) {
    const T* rows = job.z + I.begin * job.stride;
    const T* panels = job.panels + (&J - job.strips.data()) * job.block * job.D;
    for (int64_t j = 0; j < J.count; j += kWidth<T>) {
      const T* panel = panels + j / kPanel<T> * kPanel<T> * job.D + j % kPanel<T>;
      int64_t d = 0;
      for (; d + kDepth < job.D; d += kDepth) {
        for (int64_t i = 0; i < I.count; i += kRows) {
          Vec<T> acc[kRows][2] = {};
          multiply<T, kRows, false>(acc, rows + i * job.stride + d, job.stride, panel + d * kPanel<T>,
                                       kPanel<T>, kDepth);
          if (d) add_kept(acc, i, j);
          keep(acc, i, j);
        }
      }
      for (int64_t i = 0; i < I.count; i += kRows) {
        Vec<T> acc[kRows][2] = {};
        multiply<T, kRows, false>(acc, rows + i * job.stride + d, job.stride, panel + d * kPanel<T>,
                                     kPanel<T>, job.D - d);
        if (d) add_kept(acc, i, j);
        done(i, j, acc);
      }
    }
  }

  template <typename Acc>
  SCATSIMCLR_INLINE void add_kept(Acc& acc, int64_t i, int64_t j) const {
SCATSIMCLR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      acc[r][0] += load(s + (i + r) * stride + j);
      acc[r][1] += load(s + (i + r) * stride + j + kLanes<T>);
    }
  }

  template <typename Acc>
  SCATSIMCLR_INLINE void keep(const Acc& acc, int64_t i, int64_t j) const {
SCATSIMCLR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      store(s + (i + r) * stride + j, acc[r][0]);
      store(s + (i + r) * stride + j + kLanes<T>, acc[r][1]);
    }
  }
};

// Calls visit(i, j, share) for every positive pair of the tile, row i and column j: share is 1/|P(i)|. Done on
// the tile's own similarities, because a saturated row's loss and gradient are small differences of them.
template <typename T, typename Visit>
SCATSIMCLR_INLINE void positives(const Tile<T>& tile, Visit&& visit) {
  const Classes& classes = tile.job.classes;
  for (int64_t i = 0; i < tile.I.count; ++i) {
    const int64_t row = tile.I.begin + i, own = classes.of[row];
    const int64_t* end = classes.members.data() + classes.begin[own + 1];
    const int64_t* member = std::lower_bound(classes.members.data() + classes.begin[own], end, tile.J.begin);
    for (; member < end && *member < tile.J.begin + tile.J.count; ++member) {
      if (*member != row) visit(i, *member - tile.J.begin, classes.share[own]);
    }
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_NTXENT_TILE_INL_H_
