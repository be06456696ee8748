// The kernel of `photometric` for one instruction set: photometric.cpp compiles it for each.
//
// Colour steps go over chunks of pixels that stay in L1, as float32 whose values are whole levels; each is a plain
// loop that the compiler vectorises. Every rounding is the reference's own (no contraction: see below), so
// that results are equal to the last bit. The only thing that needs the whole image is contrast, which is centred on
// its mean: steps before it are one pass, contrast and what follows another. A mirrored sample is mirrored where it
// is written: nothing before depends on left and right. Images of one channel are grey: `kColours` is false, their
// plane is `red`, and steps that leave grey as it is (saturation, hue, grey) are none.
#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include "cpu/photometric/job.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_PHOTOMETRIC_KERNELS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_PHOTOMETRIC_KERNELS_INL_H_
#undef SCATSIMCLR_PHOTOMETRIC_KERNELS_INL_H_
#else
#define SCATSIMCLR_PHOTOMETRIC_KERNELS_INL_H_
#endif

// A product and a sum are two roundings, as in the reference. Levels are finite and the sign of a zero never shows:
// so told, the compiler clips by a minimum and a maximum instead of comparisons and masks. Before the target: gcc, told
// later, forgets some of the target.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off", "finite-math-only", "no-signed-zeros")
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::photometric {

constexpr int kChunk = 512;

struct Chunk {
  alignas(64) float red[kChunk], green[kChunk], blue[kChunk];
  alignas(64) float first[kChunk], second[kChunk], third[kChunk];  // temporaries
};

// The whole part of a number that is not negative and below 2^31: one instruction where there is one, else two.
inline float whole(float x) {
#if SCATSIMCLR_SIMD_BYTES > 16
  return __builtin_truncf(x);
#else
  return static_cast<float>(static_cast<int32_t>(x));
#endif
}

inline float clipped(float x) {
  x = x < 0.0f ? 0.0f : x;
  return x > 255.0f ? 255.0f : x;
}

// Pillow's L. Every sum is a multiple of 2^-16 below 2^8: exact.
inline float luma(float red, float green, float blue) {
  return whole(red * (19595.0f / 65536.0f) + green * (38470.0f / 65536.0f) + blue * (7471.0f / 65536.0f) + 0.5f);
}

// base + factor (x − base), clipped and truncated.
inline void blend(float* x, const float* base, float factor, int n) {
  for (int i = 0; i < n; ++i) {
    const float b = base[i];
    x[i] = whole(clipped((x[i] - b) * factor + b));
  }
}

inline void blend_level(float* x, float level, float factor, int n) {
  for (int i = 0; i < n; ++i) x[i] = whole(clipped((x[i] - level) * factor + level));
}

inline void luma_of(const Chunk& c, float* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = luma(c.red[i], c.green[i], c.blue[i]);
}

// value − round(value s c / 255²) of one channel; `hue` is 255 units to a sextant.
template <int kCenter>
inline void channel_of(float* out, const float* hue, const float* chroma, const float* value, int n) {
  for (int i = 0; i < n; ++i) {
    float d = hue[i] - kCenter;
    d = d < 0.0f ? -d : d;
    // Red is dark around cyan, green and blue are bright around their own hue.
    d = clipped(kCenter == 765 ? 510.0f - d : d - 255.0f);
    // Times the reciprocal: the whole part is that of the quotient for every sum there can be
    // (tests/ops/test_photometric.py), without a division.
    out[i] = value[i] - whole((d * chroma[i] + 32512.0f) * (1.0f / 65025.0f));
  }
}

// A shift of Pillow's 8-bit HSV hue: see color.py for the form of the conversion.
inline void shift_hue(Chunk& c, float shift, int n) {
  float *hues = c.first, *chromas = c.second, *values = c.third;
  for (int i = 0; i < n; ++i) {
    const float red = c.red[i], green = c.green[i], blue = c.blue[i];
    const float high = red > green ? red : green, low = red > green ? green : red;
    const float value = high > blue ? high : blue, least = low < blue ? low : blue;
    const float between = high < blue ? high : blue;
    const float middle = between > low ? between : low;
    const float spread = value - least;
    float hue = (value - middle) / (spread < 1.0f ? 1.0f : spread);
    const float rg = red >= green ? 1.0f : 0.0f, gb = green >= blue ? 1.0f : 0.0f;
    const float rb = red >= blue ? 1.0f : 0.0f;
    const float offset = 3.0f - 2.0f * rb + 2.0f * rg * (1.0f - 2.0f * rb + gb);
    const float parity = (1.0f - 2.0f * rg) * (1.0f - 2.0f * gb) * (1.0f - 2.0f * rb);
    hue = (hue * parity + offset) / 6.0f * 255.0f;
    hue = whole(hue < 0.0f ? hue + 255.0f : hue) + shift;
    hue = hue < 0.0f ? hue + 256.0f : hue;
    hue = hue >= 256.0f ? hue - 256.0f : hue;
    hues[i] = hue * 6.0f;
    chromas[i] = whole(spread * 255.0f / (value < 1.0f ? 1.0f : value)) * value;
    values[i] = value;
  }
  channel_of<765>(c.red, hues, chromas, values, n);
  channel_of<510>(c.green, hues, chromas, values, n);
  channel_of<1020>(c.blue, hues, chromas, values, n);
}

// Whether a step of this number does anything.
template <bool kColours>
inline bool acts(int64_t operation) {
  return operation >= 0 && (kColours || operation < 2);
}

template <bool kColours>
inline void step(Chunk& c, int64_t operation, float factor, float mean, int n) {
  const float level = operation == 1 ? mean : 0.0f;
  if constexpr (!kColours) {
    blend_level(c.red, level, factor, n);
  } else if (operation == 3) {
    shift_hue(c, factor, n);
  } else if (operation == 2) {
    luma_of(c, c.first, n);
    for (float* plane : {c.red, c.green, c.blue}) blend(plane, c.first, factor, n);
  } else {
    for (float* plane : {c.red, c.green, c.blue}) blend_level(plane, level, factor, n);
  }
}

template <int kStride>
inline void load(Chunk& c, const uint8_t* red, const uint8_t* green, const uint8_t* blue, int n) {
  for (int i = 0; i < n; ++i) {
    c.red[i] = red[kStride * i];
    c.green[i] = green[kStride * i];
    c.blue[i] = blue[kStride * i];
  }
}

inline void load_grey(Chunk& c, const uint8_t* level, int n) {
  for (int i = 0; i < n; ++i) c.red[i] = level[i];
}

inline void store(const float* plane, uint8_t* out, int n) {
  for (int i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(static_cast<int32_t>(plane[i]));
}

// The colour steps and grey of one sample: interleaved levels -> planes.
template <bool kColours>
inline void colour(const Photometric& job, int64_t sample, const PhotometricScratch& scratch) {
  const int64_t pixels = job.height * job.width;
  const uint8_t* image = job.images + (kColours ? 3 : 1) * pixels * sample;
  const bool grey = kColours && job.grayscale[sample];
  const int64_t* order = job.order + kSteps * sample;
  const float* factors = job.factors + kSteps * sample;
  uint8_t* planes = scratch.planes;
  int contrast = 0;
  while (contrast < kSteps && order[contrast] != 1) ++contrast;
  Chunk c;
  float mean = 0;
  for (int part = contrast < kSteps ? 0 : 1; part < 2; ++part) {
    const int begin = part && contrast < kSteps ? contrast : 0, end = part ? kSteps : contrast;
    int64_t sum = 0;
    for (int64_t at = 0; at < pixels; at += kChunk) {
      const int n = static_cast<int>(pixels - at < kChunk ? pixels - at : kChunk);
      if constexpr (!kColours) {
        load_grey(c, (begin == 0 ? image : planes) + at, n);
      } else if (begin == 0) {
        load<3>(c, image + 3 * at, image + 3 * at + 1, image + 3 * at + 2, n);
      } else {
        load<1>(c, planes + at, planes + pixels + at, planes + 2 * pixels + at, n);
      }
      for (int s = begin; s < end; ++s) {
        if (acts<kColours>(order[s])) step<kColours>(c, order[s], factors[order[s]], mean, n);
      }
      if (kColours && (!part || grey)) luma_of(c, c.first, n);
      if (!part) {
        const float* level = kColours ? c.first : c.red;
        int32_t levels = 0;
        for (int i = 0; i < n; ++i) levels += static_cast<int32_t>(level[i]);
        sum += levels;
        if (end == 0) continue;  // nothing has changed: the next pass reads the image again
      }
      if (part && grey) {
        store(c.first, planes + at, n);
        continue;
      }
      store(c.red, planes + at, n);
      if constexpr (kColours) {
        store(c.green, planes + pixels + at, n);
        store(c.blue, planes + 2 * pixels + at, n);
      }
    }
    mean = static_cast<float>(static_cast<int64_t>(static_cast<double>(sum) / static_cast<double>(pixels) + 0.5));
  }
}

// Index k of an axis that is mirrored about its end pixels.
inline int64_t folded(int64_t k, int64_t length) {
  if (k >= 0 && k < length) return k;  // nearly always, and a division is as long as ten pixels of a blur
  if (length == 1) return 0;
  const int64_t period = 2 * (length - 1);
  k %= period;
  if (k < 0) k += period;
  return k < length ? k : period - k;
}

// Lanes of 16-bit sums in a register, and of 32-bit ones; kBlurPadding (photometric.h) is the widest.
constexpr int kSums = kLanes<uint16_t>, kWideSums = kLanes<uint32_t>;
static_assert(kSums <= kBlurPadding);
using Sums = Vec<uint16_t>;
using WideSums = Vec<uint32_t>;
using Levels = Vec<uint8_t, kWideSums>;

// W elements of type T from memory, as the elements of V.
template <class V, class T, int W>
inline V widened(const T* from) {
  return __builtin_convertvector(*reinterpret_cast<const typename Simd<T, W>::Unaligned*>(from), V);
}

// Both passes of the blur over one plane, in place. Sums along a row are at most 255 · 256, over both 255 · 2^16.
// Lines and rows of sums are padded, so that whole registers are read and written beyond their ends.
inline void blur(const Photometric& job, const int32_t* weights, uint8_t* plane, const PhotometricScratch& scratch) {
  const int64_t height = job.height, width = job.width, half = job.half;
  const int64_t stride = width + kBlurPadding;
  uint8_t* line = scratch.line;
  int64_t outermost = 0;  // the first tap that counts
  while (outermost < half && weights[outermost] == 0) ++outermost;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = plane + y * width;
    std::memcpy(line + half, row, width);
    for (int64_t k = 1; k <= half; ++k) {
      line[half - k] = row[folded(-k, width)];
      line[half + width - 1 + k] = row[folded(width - 1 + k, width)];
    }
    uint16_t* sums = scratch.middle + y * stride;
    for (int64_t x = 0; x < width; x += kSums) {
      const uint8_t* at = line + x;
      Sums sum = widened<Sums, uint8_t, kSums>(at + half) * static_cast<uint16_t>(weights[half]);
      for (int64_t t = outermost; t < half; ++t) {
        const Sums pair = widened<Sums, uint8_t, kSums>(at + t) + widened<Sums, uint8_t, kSums>(at + 2 * half - t);
        sum += pair * static_cast<uint16_t>(weights[t]);
      }
      std::memcpy(sums + x, &sum, sizeof sum);
    }
  }
  const uint16_t** rows = scratch.rows;
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t t = 0; t <= 2 * half; ++t) rows[t] = scratch.middle + folded(y - half + t, height) * stride;
    for (int64_t x = 0; x < width; x += kWideSums) {
      WideSums sum = widened<WideSums, uint16_t, kWideSums>(rows[half] + x) * static_cast<uint32_t>(weights[half]);
      sum += 32768u;
      for (int64_t t = outermost; t < half; ++t) {
        const WideSums pair = widened<WideSums, uint16_t, kWideSums>(rows[t] + x) +
                              widened<WideSums, uint16_t, kWideSums>(rows[2 * half - t] + x);
        sum += pair * static_cast<uint32_t>(weights[t]);
      }
      const Levels levels = __builtin_convertvector(sum >> 16, Levels);
      std::memcpy(line + x, &levels, sizeof levels);
    }
    std::memcpy(plane + y * width, line, width);
  }
}

// Two elements as one number, as memory has them.
template <class E>
using Pair = std::conditional_t<sizeof(E) == 1, uint16_t, std::conditional_t<sizeof(E) == 2, uint32_t, uint64_t>>;
template <class E>
inline void put_pair(E* out, E first, E second) {
  static_assert(std::endian::native == std::endian::little);
  const auto pair = static_cast<Pair<E>>(first | Pair<E>{second} << 8 * sizeof(E));
  std::memcpy(out, &pair, sizeof pair);
}

// Levels -> elements of the table, channels last. kStride: between pixels, 3 or 1.
template <class E, int kStride>
inline void write(const Photometric& job, int64_t sample, const uint8_t* red, const uint8_t* green,
                  const uint8_t* blue) {
  const E* table = static_cast<const E*>(job.table);
  E* out = static_cast<E*>(job.out) + 3 * job.height * job.width * sample;
  const int64_t width = job.width, forward = job.mirror[sample] ? -kStride : kStride;
  for (int64_t y = 0; y < job.height; ++y) {
    int64_t at = kStride * (y * width + (job.mirror[sample] ? width - 1 : 0)), x = 0;
    if constexpr (sizeof(E) < 8) {
      for (; x + 2 <= width; x += 2, at += 2 * forward, out += 6) {  // a store is dearer than putting two together
        const int64_t next = at + forward;
        put_pair(out, table[red[at]], table[256 + green[at]]);
        put_pair(out + 2, table[512 + blue[at]], table[red[next]]);
        put_pair(out + 4, table[256 + green[next]], table[512 + blue[next]]);
      }
    }
    for (; x < width; ++x, at += forward, out += 3) {
      out[0] = table[red[at]];
      out[1] = table[256 + green[at]];
      out[2] = table[512 + blue[at]];
    }
  }
}

// The same of grey levels.
template <class E>
inline void write_grey(const Photometric& job, int64_t sample, const uint8_t* levels) {
  const E* table = static_cast<const E*>(job.table);
  const int64_t width = job.width, rows = job.height;
  E* out = static_cast<E*>(job.out) + rows * width * sample;
  if (!job.mirror[sample]) {
    for (int64_t i = 0; i < rows * width; ++i) out[i] = table[levels[i]];
    return;
  }
  for (int64_t y = 0; y < rows; ++y, out += width, levels += width) {
    for (int64_t x = 0; x < width; ++x) out[x] = table[levels[width - 1 - x]];
  }
}

template <class E, bool kColours>
inline void view(const Photometric& job, int64_t sample, const PhotometricScratch& scratch) {
  const int64_t pixels = job.height * job.width;
  const int64_t* order = job.order + kSteps * sample;
  const int32_t* weights = job.weights + (job.half + 1) * sample;
  const bool grey = kColours && job.grayscale[sample], soft = weights[job.half] != 256;
  bool jittered = false;
  for (int s = 0; s < kSteps; ++s) jittered |= acts<kColours>(order[s]);
  if (!jittered && !grey && !soft) {
    const uint8_t* image = job.images + (kColours ? 3 : 1) * pixels * sample;
    if constexpr (kColours) {
      return write<E, 3>(job, sample, image, image + 1, image + 2);
    } else {
      return write_grey<E>(job, sample, image);
    }
  }
  colour<kColours>(job, sample, scratch);
  if constexpr (!kColours) {
    if (soft) blur(job, weights, scratch.planes, scratch);
    return write_grey<E>(job, sample, scratch.planes);
  }
  const int64_t apart = grey ? 0 : pixels;  // a grey view is one plane
  if (soft) {
    for (int plane = 0; plane < (grey ? 1 : 3); ++plane) blur(job, weights, scratch.planes + plane * pixels, scratch);
  }
  write<E, 1>(job, sample, scratch.planes, scratch.planes + apart, scratch.planes + 2 * apart);
}

template <bool kColours>
inline void view_of(const Photometric& job, int64_t sample, const PhotometricScratch& scratch) {
  switch (job.element) {
    case 1: return view<uint8_t, kColours>(job, sample, scratch);
    case 2: return view<uint16_t, kColours>(job, sample, scratch);
    case 4: return view<uint32_t, kColours>(job, sample, scratch);
    default: return view<uint64_t, kColours>(job, sample, scratch);
  }
}

inline void sample_view(const Photometric& job, int64_t sample, const PhotometricScratch& scratch) {
  job.channels == 3 ? view_of<true>(job, sample, scratch) : view_of<false>(job, sample, scratch);
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::photometric
SCATSIMCLR_AFTER_NAMESPACE();

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif

#endif  // SCATSIMCLR_PHOTOMETRIC_KERNELS_INL_H_
