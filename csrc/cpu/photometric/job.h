// What the kernel of `photometric` needs to know: see scatsimclr/reference/photometric.py for what it computes.
#pragma once

#include <cstdint>

namespace scatsimclr {

constexpr int kSteps = 4;  // brightness, contrast, saturation, hue

struct Photometric {
  const uint8_t* images;  // (B, H, W, channels)
  int64_t height, width;
  int64_t channels;         // 3 or 1
  const bool* mirror;       // (B)
  const int64_t* order;     // (B, 4), −1 for no step
  const float* factors;     // (B, 4)
  const bool* grayscale;    // (B)
  const int32_t* weights;   // (B, half + 1)
  int64_t half;
  const void* table;  // (channels, 256) elements
  int64_t element;    // bytes: 1, 2, 4 or 8
  void* out;          // (B, H, W, channels) elements
};

constexpr int kBlurPadding = 32;  // elements behind a line: the lanes of a register

// Per thread. planes: channels × pixels levels; middle: the height's sums along a row of width + kBlurPadding;
// line: width + 2 half + kBlurPadding levels; rows: 2 half + 1 of `middle`.
struct PhotometricScratch {
  uint8_t* planes;
  uint16_t* middle;
  uint8_t* line;
  const uint16_t** rows;
};

}  // namespace scatsimclr
