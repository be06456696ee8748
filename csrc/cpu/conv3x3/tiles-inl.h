// The convolution: blocks of tiles through Bᵀ d B, the products and Aᵀ m A.
#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/conv3x3/arithmetic-inl.h"
#include "cpu/conv3x3/places-inl.h"
#include "cpu/threads/scratch.h"
#include "cpu/threads/tasks.h"

#if defined(SCATSIMCLR_CONV3X3_TILES_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_CONV3X3_TILES_INL_H_
#undef SCATSIMCLR_CONV3X3_TILES_INL_H_
#else
#define SCATSIMCLR_CONV3X3_TILES_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3 {

// The tiles of a block, and their pixels row by row.
template <class S>
struct TileBlock {
  int64_t count;
  TilePlace places[kTiles];
  const S* pixels[kTiles][kPositions];

  TileBlock(const Conv3x3<S>& job, int64_t first) : count(std::min<int64_t>(job.tiles() - first, kTiles)) {
    for (int64_t t = 0; t < count; ++t) {
      const TilePlace& at = places[t] = t == 0 ? place_of(job, first) : next_place(job, places[t - 1]);
      for (int i = 0; i < kPositions; ++i) {
        pixels[t][i] = pixel_of(job, job.x, job.in, at.image, at.y - 1 + i / 4, at.x - 1 + i % 4);
      }
    }
  }
};

// Vector kPart of a step of channels of every tile, to v: tiles are `depth` apart, positions `stride`. The first two
// columns of a tile are the last two of its left neighbour.
template <class A, bool kFull, int kPart>
void transform_part(const TileBlock<typename A::Storage>& tiles, int64_t channel, int64_t left,
                    typename A::Operand* v, int64_t depth, int64_t stride) {
  V columns[4][4];
  for (int64_t t = 0; t < tiles.count; ++t, v += depth) {
    const auto read = [&](int j) __attribute__((always_inline)) {
      V d[4];
      SCATSIMCLR_UNROLL
      for (int i = 0; i < 4; ++i) d[i] = A::template part<kFull, kPart>(tiles.pixels[t][4 * i + j] + channel, left);
      differences(d, columns[j]);
    };
    if (t == 0 || tiles.places[t].x == 0) {
      read(0), read(1);
    } else {
      SCATSIMCLR_UNROLL
      for (int i = 0; i < 4; ++i) columns[0][i] = columns[2][i], columns[1][i] = columns[3][i];
    }
    read(2), read(3);
    SCATSIMCLR_UNROLL
    for (int i = 0; i < 4; ++i) {
      const V row[4] = {columns[0][i], columns[1][i], columns[2][i], columns[3][i]};
      V out[4];
      differences(row, out);
      SCATSIMCLR_UNROLL
      for (int j = 0; j < 4; ++j) A::put(v + (4 * i + j) * stride, kPart, out[j]);
    }
  }
}

template <class A, bool kFull>
SCATSIMCLR_INLINE void transform_step(const TileBlock<typename A::Storage>& tiles, int64_t channel, int64_t left,
                                      typename A::Operand* v, int64_t depth, int64_t stride) {
  transform_part<A, kFull, 0>(tiles, channel, left, v, depth, stride);
  if constexpr (A::kParts == 2) transform_part<A, kFull, 1>(tiles, channel, left, v, depth, stride);
}

// kRows tiles × kBlock columns of one position. A stretch's sum is added to those before, which keeps the rounding of
// long sums down.
template <class A>
void multiply_tiles(const typename A::Operand* v, int64_t depth, const typename A::Operand* u, float* m, bool first) {
  V sums[kRows][2];
  SCATSIMCLR_UNROLL
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < 2; ++h) sums[r][h] = V{};
  }
  for (int64_t k = 0; k < depth; k += A::kGroup, u += kBlock * A::kGroup) {
    const auto u0 = A::factor(u), u1 = A::factor(u + kLanes<float> * A::kGroup);
    SCATSIMCLR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      sums[r][0] = A::multiply_add(sums[r][0], v + r * depth + k, u0);
      sums[r][1] = A::multiply_add(sums[r][1], v + r * depth + k, u1);
    }
  }
  SCATSIMCLR_UNROLL
  for (int r = 0; r < kRows; ++r) {
    for (int h = 0; h < 2; ++h) {
      float* to = m + r * kBlock + h * kLanes<float>;
      store(to, first ? sums[r][h] : sums[r][h] + load(to));
    }
  }
}

// A vector of output channels of a tile, of which `left` exist.
template <class S>
SCATSIMCLR_INLINE void write_tile(const Conv3x3<S>& job, const TilePlace& at, int64_t channel, int64_t left,
                                  const float* m, int64_t stride) {
  V rows[2][4];
  SCATSIMCLR_UNROLL
  for (int j = 0; j < 4; ++j) {
    V d[4];
    SCATSIMCLR_UNROLL
    for (int i = 0; i < 4; ++i) d[i] = load(m + (4 * i + j) * stride);
    rows[0][j] = d[0] + d[1] + d[2];
    rows[1][j] = d[1] - d[2] - d[3];
  }
  const V bias = job.bias ? load_some(job.bias + channel, left) : V{};
  SCATSIMCLR_UNROLL
  for (int i = 0; i < 2; ++i) {
    if (at.y + i >= job.height) break;
    S* y = job.y + ((at.image * job.height + at.y + i) * job.width + at.x) * job.out + channel;
    store_some(y, rows[i][0] + rows[i][1] + rows[i][2] + bias, left);
    if (at.x + 1 < job.width) store_some(y + job.out, rows[i][1] - rows[i][2] - rows[i][3] + bias, left);
  }
}

// What a thread needs for a block of tiles: the transformed inputs of a stretch of the depth, and products: of one block
// of columns where that stretch is the whole depth, otherwise of every block.
template <class S>
struct TileMemory {
  using A = typename Arithmetic<S>::type;
  using Operand = typename A::Operand;
  int64_t depth, stretch, columns;

  explicit TileMemory(const Conv3x3<S>& job)
      : depth(depth_of<A>(job.in)), columns(round_up(job.out, kBlock) / kBlock) {
    stretch = std::min<int64_t>(depth, kDepthBytes / sizeof(Operand));
  }

  static constexpr int64_t kProductStride = kTiles * kBlock + kPaddingBytes / sizeof(float);
  int64_t inputs() const { return kPositions * (kTiles * stretch + kPaddingBytes / int64_t{sizeof(Operand)}); }
  int64_t product_blocks() const { return stretch == depth ? 1 : columns; }
  int64_t products() const { return product_blocks() * kPositions * kProductStride; }
};

template <class S>
void convolve_block(const Conv3x3<S>& job, int64_t block) {
  using A = typename Arithmetic<S>::type;
  using Operand = typename A::Operand;
  const TileMemory<S> sizes(job);
  const auto [v, products] = scratch(Slot::own, [&](Arena& arena) {
    return std::pair{arena.take<Operand>(sizes.inputs()), arena.take<float>(sizes.products())};
  });
  const Operand* filters = static_cast<const Operand*>(job.weights);

  const TileBlock<S> tiles(job, block * kTiles);
  for (int64_t start = 0; start < sizes.depth; start += sizes.stretch) {
    const int64_t depth = std::min(sizes.depth - start, sizes.stretch);
    const int64_t stride = kTiles * depth + kPaddingBytes / sizeof(Operand);
    for (int64_t k = 0; k < depth; k += A::kStep) {
      const int64_t channel = start + k, left = job.in - channel;
      if (left >= A::kStep) {
        transform_step<A, true>(tiles, channel, left, v + k, depth, stride);
      } else {
        transform_step<A, false>(tiles, channel, left, v + k, depth, stride);
      }
    }
    for (int64_t c = 0; c < sizes.columns; ++c) {
      float* m = products + c % sizes.product_blocks() * kPositions * sizes.kProductStride;
      for (int p = 0; p < kPositions; ++p) {
        const Operand* u = filters + ((c * kPositions + p) * sizes.depth + start) * kBlock;
        for (int64_t t = 0; t < tiles.count; t += kRows) {
          multiply_tiles<A>(v + p * stride + t * depth, depth, u, m + p * sizes.kProductStride + t * kBlock,
                            start == 0);
        }
      }
      if (start + depth < sizes.depth) continue;
      for (int64_t t = 0; t < tiles.count; ++t) {
        for (int64_t h = 0; h < 2; ++h) {
          const int64_t channel = c * kBlock + h * kLanes<float>, left = job.out - channel;
          const float* from = m + t * kBlock + h * kLanes<float>;
          if (left > 0) write_tile(job, tiles.places[t], channel, left, from, sizes.kProductStride);
        }
      }
    }
  }
}

template <class S>
void convolve(const Conv3x3<S>& job) {
  parallel_tasks(round_up(job.tiles(), kTiles) / kTiles, [&](int64_t block) { convolve_block(job, block); });
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_CONV3X3_TILES_INL_H_
