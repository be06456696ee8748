// What the operators (conv3x3.cpp) hand to the kernels that are compiled for each instruction set. See
// scatsimclr/reference/conv3x3.py for what is computed, kernels-inl.h for how.
#pragma once

#include <cstdint>

namespace scatsimclr {

constexpr int kPositions = 16;     // elements of a transformed tile, 4 × 4
constexpr int kDepthBytes = 512;   // of a pixel's channels that a block of tiles transforms at a time
constexpr int kChunkBytes = 288;   // of a channel's tiles in a chunk of the weights' gradient: an even number of tiles
constexpr int kPaddingBytes = 64;  // between positions, whose distance could otherwise be a multiple of 4 KiB

// Images in tiles of 2 × 2; where a side is odd, the last tiles are half outside.
struct Tiling {
  int64_t batch, height, width;

  int64_t tile_rows() const { return (height + 1) / 2; }
  int64_t tile_columns() const { return (width + 1) / 2; }
  int64_t tiles() const { return batch * tile_rows() * tile_columns(); }
};

// Images of elements S (float, or the bits of bfloat16), channels last.
template <class S>
struct Conv3x3 : Tiling {
  const S* x;  // (batch, height, width, in)
  int64_t in, out;
  const void* weights;  // as pack_filters left them
  const float* bias;    // (out), or null
  S* y;                 // (batch, height, width, out)
  const S* zeros;       // (in): what lies outside an image
};

// Filters (out, 3, 3, in), float32, of the convolution or of its adjoint.
struct Filters3x3 {
  const float* taps;
  int64_t out, in;
  bool adjoint;
  void* packed;
};

template <class S>
struct Conv3x3Weight : Tiling {
  const S* x;     // (batch, height, width, in)
  const S* grad;  // (batch, height, width, out)
  int64_t in, out;
  const S* zeros;  // (max(in, out)): what lies outside an image
  float* sums;     // (16, out rounded up, in rounded up): sums of products of transformed tiles
  float* taps;     // (out, 3, 3, in), the result
};

// What one task of the weights' gradient takes: rows of the transformed tiles, and channels.
struct WeightTask {
  int row_begin, row_end;
  int64_t in_begin, in_end, out_begin, out_end;
};

inline int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

}  // namespace scatsimclr
