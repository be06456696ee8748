// The gradient of the filters: Gᵀ [Σ (Bᵀ d B) ⊙ (A e Aᵀ)] G over the tiles, of their inputs d and the gradients e of
// their outputs: 16 products of (out × tiles) with (tiles × in).
//
// A task has rows of the positions, each of which needs two of a tile's four rows of inputs, and some channels. Its
// sums are its own, and it goes through the tiles in their order: the result does not depend on the number of threads.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "cpu/conv3x3/arithmetic-inl.h"
#include "cpu/conv3x3/filters-inl.h"
#include "cpu/conv3x3/places-inl.h"
#include "cpu/threads/scratch.h"
#include "cpu/threads/tasks.h"

#if defined(SCATSIMCLR_CONV3X3_WEIGHT_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_CONV3X3_WEIGHT_INL_H_
#undef SCATSIMCLR_CONV3X3_WEIGHT_INL_H_
#else
#define SCATSIMCLR_CONV3X3_WEIGHT_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3 {

// The two rows of a tile's inputs whose sum or difference is row kRow of its positions.
constexpr int first_row(int row) { return row == 0 ? 0 : 1; }
constexpr int second_row(int row) { return row == 3 ? 3 : 2; }

// What a task reads of a tile. joined: its first two columns are the last two of the tile before.
template <class S>
struct TileRow {
  const S *first[4], *second[4], *grad[4];
  bool joined;
};

// Beyond the last image there are zeros.
template <int kRow, class S>
SCATSIMCLR_INLINE TileRow<S> row_of(const Conv3x3Weight<S>& job, const TilePlace& at) {
  TileRow<S> row;
  row.joined = at.x > 0;
  SCATSIMCLR_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int64_t x = at.x - 1 + j;
    row.first[j] = pixel_of(job, job.x, job.in, at.image, at.y - 1 + first_row(kRow), x);
    row.second[j] = pixel_of(job, job.x, job.in, at.image, at.y - 1 + second_row(kRow), x);
    row.grad[j] = pixel_of(job, job.grad, job.out, at.image, at.y + j / 2, at.x + j % 2);
  }
  return row;
}

// d holds the columns of the tile before, and then those of this one.
template <class A, int kRow, bool kFull, int kPart>
SCATSIMCLR_INLINE void transform_inputs(const TileRow<typename A::Storage>& tile, bool joined, int64_t channel,
                                        int64_t left, V* d, V* out) {
  const auto read = [&](int j) __attribute__((always_inline)) {
    const V a = A::template part<kFull, kPart>(tile.first[j] + channel, left);
    const V b = A::template part<kFull, kPart>(tile.second[j] + channel, left);
    d[j] = kRow == 1 ? a + b : kRow == 2 ? b - a : a - b;
  };
  if (joined) {
    d[0] = d[2], d[1] = d[3];
  } else {
    read(0), read(1);
  }
  read(2), read(3);
  differences(d, out);
}

template <class A, int kRow, bool kFull, int kPart>
SCATSIMCLR_INLINE void transform_gradients(const TileRow<typename A::Storage>& tile, int64_t channel, int64_t left,
                                           V* out) {
  V e[2];
  SCATSIMCLR_UNROLL
  for (int j = 0; j < 2; ++j) {
    const V a = A::template part<kFull, kPart>(tile.grad[j] + channel, left);
    const V b = A::template part<kFull, kPart>(tile.grad[2 + j] + channel, left);
    e[j] = kRow == 0 ? a : kRow == 1 ? a + b : kRow == 2 ? a - b : -b;
  }
  out[0] = e[0], out[1] = e[0] + e[1], out[2] = e[0] - e[1], out[3] = -e[1];
}

// Position j of a group of tiles, joined.
template <class A>
SCATSIMCLR_INLINE void join_position(typename A::Operand* to, const V (&values)[A::kParts][A::kGroup][4], int j) {
  V of[A::kParts][A::kGroup];
  SCATSIMCLR_UNROLL
  for (int p = 0; p < A::kParts; ++p) {
    for (int g = 0; g < A::kGroup; ++g) of[p][g] = values[p][g][j];
  }
  A::join(to, of);
}

// A step of channels of a chunk: groups follow each other in `to`, positions are `stride` apart.
template <class A, int kRow, bool kFull>
void input_step(const TileRow<typename A::Storage>* tiles, int64_t groups, int64_t channel, int64_t left,
                typename A::Operand* to, int64_t stride) {
  V d[A::kParts][4] = {};
  for (int64_t group = 0; group < groups; ++group, to += kBlock * A::kGroup) {
    V values[A::kParts][A::kGroup][4];
    SCATSIMCLR_UNROLL
    for (int g = 0; g < A::kGroup; ++g, ++tiles) {
      const bool joined = tiles->joined && (g > 0 || group > 0);
      transform_inputs<A, kRow, kFull, 0>(*tiles, joined, channel, left, d[0], values[0][g]);
      if constexpr (A::kParts == 2) {
        transform_inputs<A, kRow, kFull, 1>(*tiles, joined, channel, left, d[1], values[1][g]);
      }
    }
    SCATSIMCLR_UNROLL
    for (int j = 0; j < 4; ++j) join_position<A>(to + j * stride, values, j);
  }
}

template <class A, int kRow, bool kFull>
void gradient_step(const TileRow<typename A::Storage>* tiles, int64_t groups, int64_t channel, int64_t left,
                   typename A::Operand* to, int64_t stride) {
  constexpr int kPiece = kPanel * A::kGroup;
  for (int64_t group = 0; group < groups; ++group, to += kPiece) {
    V values[A::kParts][A::kGroup][4];
    SCATSIMCLR_UNROLL
    for (int g = 0; g < A::kGroup; ++g, ++tiles) {
      transform_gradients<A, kRow, kFull, 0>(*tiles, channel, left, values[0][g]);
      if constexpr (A::kParts == 2) transform_gradients<A, kRow, kFull, 1>(*tiles, channel, left, values[1][g]);
    }
    SCATSIMCLR_UNROLL
    for (int j = 0; j < 4; ++j) {
      alignas(64) typename A::Operand joined[A::kStep * A::kGroup];
      join_position<A>(joined, values, j);
      SCATSIMCLR_UNROLL
      for (int i = 0; i < A::kStep / kPanel; ++i) {
        std::memcpy(to + j * stride + i * groups * kPiece, joined + i * kPiece, kPiece * sizeof(*joined));
      }
    }
  }
}

// kPanel output channels × kBlock input channels of one position, added to their sums.
template <class A>
void multiply_channels(const typename A::Operand* z, const typename A::Operand* v, int64_t groups, float* sums,
                       int64_t stride) {
  V sum[kPanel][2];
  SCATSIMCLR_UNROLL
  for (int r = 0; r < kPanel; ++r) {
    for (int h = 0; h < 2; ++h) sum[r][h] = V{};
  }
  for (int64_t g = 0; g < groups; ++g, v += kBlock * A::kGroup, z += kPanel * A::kGroup) {
    const auto v0 = A::factor(v), v1 = A::factor(v + kLanes<float> * A::kGroup);
    SCATSIMCLR_UNROLL
    for (int r = 0; r < kPanel; ++r) {
      sum[r][0] = A::multiply_add(sum[r][0], z + r * A::kGroup, v0);
      sum[r][1] = A::multiply_add(sum[r][1], z + r * A::kGroup, v1);
    }
  }
  SCATSIMCLR_UNROLL
  for (int r = 0; r < kPanel; ++r) {
    for (int h = 0; h < 2; ++h) {
      float* to = sums + r * stride + h * kLanes<float>;
      store(to, load(to) + sum[r][h]);
    }
  }
}

// Sizes of what a task keeps of a chunk of tiles. Inputs lie as [position][block of channels][group of tiles]
// [channel][tile], gradients the same by panels.
template <class S>
struct ChunkMemory {
  using A = typename Arithmetic<S>::type;
  using Operand = typename A::Operand;
  static constexpr int64_t kChunk = kChunkBytes / sizeof(Operand);  // tiles
  static constexpr int64_t kPadding = kPaddingBytes / sizeof(Operand);
  int64_t in, out;  // channels

  explicit ChunkMemory(const WeightTask& task) : in(task.in_end - task.in_begin), out(task.out_end - task.out_begin) {}

  int64_t input_stride() const { return in * kChunk + kPadding; }
  int64_t gradient_stride() const { return out * kChunk + kPadding; }
};

// Transforms the tiles of a chunk, an even number; the last one may lie beyond the end.
template <class S, int kRow>
void transform_chunk(const Conv3x3Weight<S>& job, const WeightTask& task, const TileRow<S>* tiles, int64_t groups,
                     typename Arithmetic<S>::type::Operand* inputs,
                     typename Arithmetic<S>::type::Operand* gradients) {
  using A = typename Arithmetic<S>::type;
  const ChunkMemory<S> sizes(task);
  for (int64_t k = 0; k < sizes.in; k += A::kStep) {
    const int64_t channel = task.in_begin + k, left = job.in - channel;
    auto* to = inputs + (k / kBlock * kBlock * groups + k % kBlock) * A::kGroup;
    if (left >= A::kStep) {
      input_step<A, kRow, true>(tiles, groups, channel, left, to, sizes.input_stride());
    } else {
      input_step<A, kRow, false>(tiles, groups, left > 0 ? channel : 0, left, to, sizes.input_stride());
    }
  }
  for (int64_t k = 0; k < sizes.out; k += A::kStep) {
    const int64_t channel = task.out_begin + k, left = job.out - channel;
    auto* to = gradients + k * groups * A::kGroup;
    if (left >= A::kStep) {
      gradient_step<A, kRow, true>(tiles, groups, channel, left, to, sizes.gradient_stride());
    } else {
      gradient_step<A, kRow, false>(tiles, groups, left > 0 ? channel : 0, left, to, sizes.gradient_stride());
    }
  }
}

// The products of row kRow of a chunk's tiles, the first of which is at `at`.
template <class S, int kRow>
void sum_chunk(const Conv3x3Weight<S>& job, const WeightTask& task, TilePlace at, int64_t groups) {
  using A = typename Arithmetic<S>::type;
  using Operand = typename A::Operand;
  const ChunkMemory<S> sizes(task);
  const auto [inputs, gradients] = scratch(Slot::own, [&](Arena& arena) {
    return std::pair{arena.take<Operand>(4 * sizes.input_stride()), arena.take<Operand>(4 * sizes.gradient_stride())};
  });
  const int64_t stride = round_up(job.in, kBlock), rows = round_up(job.out, kBlock);
  float* sums = job.sums + (4 * kRow * rows + task.out_begin) * stride + task.in_begin;

  TileRow<S> tiles[ChunkMemory<S>::kChunk];
  for (int64_t t = 0; t < groups * A::kGroup; ++t, at = next_place(job, at)) tiles[t] = row_of<kRow>(job, at);
  transform_chunk<S, kRow>(job, task, tiles, groups, inputs, gradients);
  for (int j = 0; j < 4; ++j) {
    for (int64_t i = 0; i < sizes.in; i += kBlock) {
      const Operand* v = inputs + j * sizes.input_stride() + i * groups * A::kGroup;
      for (int64_t o = 0; o < sizes.out; o += kPanel) {
        const Operand* z = gradients + j * sizes.gradient_stride() + o * groups * A::kGroup;
        multiply_channels<A>(z, v, groups, sums + (j * rows + o) * stride + i, stride);
      }
    }
  }
}

template <class S>
void sum_tiles(const Conv3x3Weight<S>& job, const WeightTask& task) {
  constexpr int64_t kGroup = Arithmetic<S>::type::kGroup, kChunk = ChunkMemory<S>::kChunk;
  const int64_t all = job.tiles();
  for (int64_t first = 0; first < all; first += kChunk) {
    const int64_t groups = (std::min(all - first, kChunk) + kGroup - 1) / kGroup;
    const TilePlace at = place_of(job, first);
    for (int row = task.row_begin; row < task.row_end; ++row) {
      switch (row) {
        case 0: sum_chunk<S, 0>(job, task, at, groups); break;
        case 1: sum_chunk<S, 1>(job, task, at, groups); break;
        case 2: sum_chunk<S, 2>(job, task, at, groups); break;
        default: sum_chunk<S, 3>(job, task, at, groups);
      }
    }
  }
}

// The filters of one output channel.
template <class S>
void gather_filters(const Conv3x3Weight<S>& job, int64_t o) {
  const int64_t stride = round_up(job.in, kBlock), position = round_up(job.out, kBlock) * stride;
  for (int64_t i = 0; i < job.in; i += kLanes<float>) {
    V columns[4][3];
    for (int j = 0; j < 4; ++j) {
      V u[4];
      for (int row = 0; row < 4; ++row) u[row] = load(job.sums + (4 * row + j) * position + o * stride + i);
      gather(u, columns[j]);
    }
    for (int row = 0; row < 3; ++row) {
      const V u[4] = {columns[0][row], columns[1][row], columns[2][row], columns[3][row]};
      V g[3];
      gather(u, g);
      for (int j = 0; j < 3; ++j) store_some(job.taps + (o * 9 + 3 * row + j) * job.in + i, g[j], job.in - i);
    }
  }
}

inline int64_t sums_count(int64_t in, int64_t out) {
  return kPositions * round_up(in, kBlock) * round_up(out, kBlock);
}

// As many stretches of channels as give each thread a task and keep a chunk in cache. Where there are many more input
// than output channels a task takes all rows: it reads the images once, and transforms the gradients, which are small,
// once for each stretch. Otherwise it takes one row.
template <class S>
std::vector<WeightTask> weight_tasks(const Conv3x3Weight<S>& job, int threads) {
  constexpr int64_t kStretch = kDepthBytes / sizeof(typename Arithmetic<S>::type::Operand);
  const int64_t in = round_up(job.in, kBlock), out = round_up(job.out, kBlock);
  const int rows = in >= 4 * out ? 4 : 1;
  const int64_t stretch = rows == 4 ? kStretch / 2 : kStretch;
  int64_t ins = (in + stretch - 1) / stretch, outs = (out + kStretch - 1) / kStretch;
  const auto enough = [&] {
    const int64_t tasks = 4 / rows * ins * outs;
    return tasks % threads == 0 || tasks >= 6 * threads;
  };
  while (!enough() && ins < in / kBlock) ++ins;
  while (!enough() && outs < out / kBlock) ++outs;
  std::vector<WeightTask> tasks;
  const auto bound = [](int64_t channels, int64_t part, int64_t parts) {
    return channels / kBlock * part / parts * kBlock;
  };
  for (int64_t i = 0; i < ins; ++i) {
    for (int64_t o = 0; o < outs; ++o) {
      for (int row = 0; row < 4; row += rows) {
        tasks.push_back(
            {row, row + rows, bound(in, i, ins), bound(in, i + 1, ins), bound(out, o, outs), bound(out, o + 1, outs)});
      }
    }
  }
  return tasks;
}

template <class S>
void weight_gradient(const Conv3x3Weight<S>& job) {
  const std::vector<WeightTask> tasks = weight_tasks(job, thread_count());
  std::fill_n(job.sums, sums_count(job.in, job.out), 0.0f);
  parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) { sum_tiles(job, tasks[i]); });
  parallel_tasks(job.out, [&](int64_t o) { gather_filters(job, o); });
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_CONV3X3_WEIGHT_INL_H_
