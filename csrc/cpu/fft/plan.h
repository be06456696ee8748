// Plans of one-dimensional FFTs of any length, for the lane-vectorised kernels in fft-inl.h.
//
// A length is split into coprime prime powers (Good 1958, Thomas 1963): between them no twiddle factors are
// needed, only index maps. A prime power beyond the largest codelet is split further by Cooley and Tukey,
// with twiddles. Each stage reads one buffer and writes another, so a stage is nothing but two index lists.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace scatsimclr {

template <class T>
struct FftPlan;

template <class T>
struct FftStage {
  int radix = 0;
  int butterflies = 0;
  std::vector<int> load, store;   // [butterflies][radix]: indices into the previous and the next buffer
  std::vector<T> twiddle;         // [butterflies][radix][re, im], applied to the results; empty: none
  // For a radix without a codelet, cos and sin of 2πjk/radix: [pair of k][j][2][cos, sin], j and k from 1 to
  // radix/2; whole fours of k.
  std::vector<T> roots;
  // For a large one instead: Bluestein's convolution with a chirp, by transforms of a longer but easy length.
  std::shared_ptr<const FftPlan<T>> inner;
  std::vector<T> chirp;   // [radix][re, im] of exp(−πi·n²/radix)
  std::vector<T> kernel;  // [inner length][re, im]: the transform of the conjugate chirp, over that length
};

template <class T>
struct FftPlan {
  int length = 0;
  size_t scratch = 0;  // complex elements that `fft` needs
  std::vector<FftStage<T>> stages;
};

// True for the radices that fft-inl.h has straight-line code for.
bool fft_has_codelet(int radix);

// The plan of a length, made once per process. Thread-safe; the reference stays valid.
template <class T>
const FftPlan<T>& fft_plan(int length);

}  // namespace scatsimclr
