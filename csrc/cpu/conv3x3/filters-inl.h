// Filters of the convolution: G g Gᵀ in the layout of the products, and Gᵀ u G of the weights' gradient.
#include <cstdint>

#include "cpu/conv3x3/arithmetic-inl.h"
#include "cpu/threads/tasks.h"

#if defined(SCATSIMCLR_CONV3X3_FILTERS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_CONV3X3_FILTERS_INL_H_
#undef SCATSIMCLR_CONV3X3_FILTERS_INL_H_
#else
#define SCATSIMCLR_CONV3X3_FILTERS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3 {

// G of a column of three.
SCATSIMCLR_INLINE void spread(const V* g, V* u) {
  const V half = splat(0.5f), outer = (g[0] + g[2]) * half, inner = g[1] * half;
  u[0] = g[0], u[1] = outer + inner, u[2] = outer - inner, u[3] = g[2];
}

// Gᵀ of a column of four.
SCATSIMCLR_INLINE void gather(const V* u, V* g) {
  const V half = splat(0.5f), sum = (u[1] + u[2]) * half;
  g[0] = u[0] + sum, g[1] = (u[1] - u[2]) * half, g[2] = sum + u[3];
}

// The 16 positions of the filters at `taps` of a vector of input channels, of which `left` exist; the adjoint turns the
// filters by 180°.
SCATSIMCLR_INLINE void transform_filters(const float* taps, int64_t in, int64_t left, bool turned, V* u) {
  V columns[3][4];
  for (int j = 0; j < 3; ++j) {
    V g[3];
    for (int i = 0; i < 3; ++i) {
      const int tap = turned ? 8 - 3 * i - j : 3 * i + j;
      g[i] = left > 0 ? load_some(taps + tap * in, left) : V{};
    }
    spread(g, columns[j]);
  }
  for (int i = 0; i < 4; ++i) {
    const V row[3] = {columns[0][i], columns[1][i], columns[2][i]};
    spread(row, u + 4 * i);
  }
}

// Packed: [block of kBlock columns][position][group of depth][column][operand of the group]. Columns are what a
// product yields, output channels or for the adjoint input channels; depth is what it sums over.

// Depth lies in memory with a stride: the vectors of two depths are interleaved.
template <class A>
void pack_adjoint(const Filters3x3& job, int64_t block) {
  using Operand = typename A::Operand;
  const int64_t depth = depth_of<A>(job.out), in = job.in;
  Operand* packed = static_cast<Operand*>(job.packed) + block * kPositions * depth * kBlock;
  for (int64_t k = 0; k < depth; k += A::kGroup) {
    for (int half = 0; half < 2; ++half) {
      const int64_t column = block * kBlock + half * kLanes<float>;
      V u[A::kGroup][kPositions];
      for (int g = 0; g < A::kGroup; ++g) {
        const int64_t channel = A::channel_at(k + g);
        const bool there = channel < job.out && column < in;
        transform_filters(there ? job.taps + channel * 9 * in + column : nullptr, in, there ? in - column : 0, true,
                          u[g]);
      }
      for (int p = 0; p < kPositions; ++p) {
        V group[A::kGroup];
        for (int g = 0; g < A::kGroup; ++g) group[g] = u[g][p];
        A::interleave(packed + (p * depth + k) * kBlock + half * kLanes<float> * A::kGroup, group);
      }
    }
  }
}

// Depth is contiguous in memory, columns are not: a step of the depth is transposed on the stack.
template <class A>
void pack_forward(const Filters3x3& job, int64_t block) {
  using Operand = typename A::Operand;
  const int64_t depth = depth_of<A>(job.in), in = job.in;
  Operand* packed = static_cast<Operand*>(job.packed) + block * kPositions * depth * kBlock;
  alignas(64) float step[kPositions][A::kStep][kBlock];
  for (int64_t k = 0; k < depth; k += A::kStep) {
    for (int64_t c = 0; c < kBlock; ++c) {
      const int64_t column = block * kBlock + c;
      for (int64_t lane = 0; lane < A::kStep; lane += kLanes<float>) {
        const int64_t left = column < job.out ? in - k - lane : 0;
        V u[kPositions];
        transform_filters(left > 0 ? job.taps + column * 9 * in + k + lane : nullptr, in, left, false, u);
        for (int p = 0; p < kPositions; ++p) {
          for (int i = 0; i < kLanes<float>; ++i) step[p][lane + i][c] = u[p][i];
        }
      }
    }
    for (int p = 0; p < kPositions; ++p) {
      for (int64_t at = 0; at < A::kStep; at += A::kGroup) {
        for (int half = 0; half < 2; ++half) {
          V group[A::kGroup];
          for (int g = 0; g < A::kGroup; ++g) group[g] = load(step[p][A::channel_at(at + g)] + half * kLanes<float>);
          A::interleave(packed + (p * depth + k + at) * kBlock + half * kLanes<float> * A::kGroup, group);
        }
      }
    }
  }
}

template <class S>
int64_t packed_bytes(int64_t depth, int64_t columns) {
  using A = typename Arithmetic<S>::type;
  return kPositions * depth_of<A>(depth) * round_up(columns, kBlock) * sizeof(typename A::Operand);
}

template <class S>
void pack_filters(const Filters3x3& job) {
  using A = typename Arithmetic<S>::type;
  const int64_t columns = job.adjoint ? job.in : job.out;
  parallel_tasks(round_up(columns, kBlock) / kBlock, [&](int64_t block) {
    job.adjoint ? pack_adjoint<A>(job, block) : pack_forward<A>(job, block);
  });
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_CONV3X3_FILTERS_INL_H_
