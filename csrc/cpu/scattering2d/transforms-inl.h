// Filtering, folding and two-dimensional transforms, with one signal in each SIMD lane.
//
// A complex element is W real parts followed by W imaginary parts; a real element is W values. Spectra of real
// signals are half spectra (pack.h) of twice the transform.
#include <algorithm>
#include <cstddef>

#include "cpu/fft/fft-inl.h"
#include "cpu/fft/plan.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/simd/shuffle-inl.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_SCATTERING2D_TRANSFORMS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_TRANSFORMS_INL_H_
#undef SCATSIMCLR_SCATTERING2D_TRANSFORMS_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_TRANSFORMS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// Which signal each lane holds, among the planes of a block and the L orientations: item = plane·L + θ.
template <class T, int W>
struct Lanes {
  int used;            // lanes beyond repeat the last one's plane; nothing of theirs is read or written
  int theta0;          // θ of lane 0
  int plane[W], theta[W];
  Vec<LaneIndex<T>, W> select;  // plane, as a permutation
};

template <class T, int W>
Lanes<T, W> make_lanes(int group, int planes, int L) {
  Lanes<T, W> lanes{};
  lanes.theta0 = group * W % L;
  for (int l = 0; l < W; ++l) {
    const int item = group * W + l;
    const bool valid = item < planes * L;
    lanes.used += valid;
    lanes.plane[l] = std::min(item, planes * L - 1) / L;
    lanes.theta[l] = item % L;
    lanes.select[l] = lanes.plane[l];
  }
  return lanes;
}

// Points [begin, end) of a segment: set, or added to what other parts of the spectrum folded there.
template <class T, int W, bool per_lane, bool add>
SCATSIMCLR_INLINE void gather_points(const Product<T>& product, const Segment& segment, int begin, int end,
                                     const T* spectrum, const Lanes<T, W>* lanes, T* out) {
  using V = Vec<T, W>;
  const ptrdiff_t step = ptrdiff_t(segment.step) * 2 * W, stride = product.weight_stride;
  const T* from = spectrum + ptrdiff_t(segment.source) * 2 * W + begin * step;
  const T* weight = product.weights + (segment.weight + begin) * stride + (per_lane ? lanes->theta0 : 0);
  const T sign = segment.conj ? -1 : 1;
  T* to = out + ptrdiff_t(segment.dst + begin) * 2 * W;
  for (int i = begin; i < end; ++i, from += step, to += 2 * W, weight += per_lane ? stride : 1) {
    V re, im;
    if constexpr (per_lane) {
      const V w = load<T, W>(weight);
      re = w * permuted<T, W>(at<T, W>(from), lanes->select);
      im = w * sign * permuted<T, W>(at<T, W>(from + W), lanes->select);
    } else {
      re = at<T, W>(from) * *weight, im = at<T, W>(from + W) * (sign * *weight);
    }
    at<T, W>(to) = add ? at<T, W>(to) + re : re;
    at<T, W>(to + W) = add ? at<T, W>(to + W) + im : im;
  }
}

// One line of the filtered and folded spectrum, into out[0 … length). With `lanes`, the spectrum's lanes are
// planes and each result lane has a filter of its own; without, all lanes share the filter.
template <class T, int W, bool per_lane>
void gather_line(const Product<T>& product, int line, const T* spectrum, const Lanes<T, W>* lanes, T* out) {
  int filled = 0;  // out[0 … filled) holds something
  const auto clear_until = [&](int end) __attribute__((always_inline)) {
    for (; filled < end; ++filled) {
      at<T, W>(out + ptrdiff_t(filled) * 2 * W) = at<T, W>(out + ptrdiff_t(filled) * 2 * W + W) = Vec<T, W>{};
    }
  };
  for (int s = product.line_start[line]; s < product.line_start[line + 1]; ++s) {
    const Segment& segment = product.segments[s];
    clear_until(segment.dst);
    const int known = std::min(filled - segment.dst, segment.length);
    gather_points<T, W, per_lane, true>(product, segment, 0, known, spectrum, lanes, out);
    gather_points<T, W, per_lane, false>(product, segment, known, segment.length, spectrum, lanes, out);
    filled = std::max(filled, segment.dst + segment.length);
  }
  clear_until(product.length);
}

// First half of an inverse transform: lines filtered, folded and transformed along themselves. The rows of z are
// odd_stride(length) elements apart.
template <class T, int W, bool per_lane>
void inverse_lines(const Product<T>& product, Range range, const T* spectrum, const Lanes<T, W>* lanes,
                   const FftPlan<T>& plan, T* z, T* line, T* scratch) {
  for (int m = range.begin; m < range.end; ++m) {
    T* row = z + ptrdiff_t(m) * odd_stride(product.length) * 2 * W;
    if (product.line_start[m] == product.line_start[m + 1]) {
      for (int i = 0; i < 2 * product.length; ++i) at<T, W>(row + i * W) = Vec<T, W>{};
      continue;
    }
    gather_line<T, W, per_lane>(product, m, spectrum, lanes, line);
    fft<T, W>(plan, {line + W, line, 2 * W}, {row + W, row, 2 * W}, scratch);
  }
}

// A half spectrum in memory: scalars from a row to the next, from a column (an element of W lanes) to the next, and
// from the real to the imaginary part.
template <class T>
struct HalfSpectrum {
  T* data;  // null: not wanted
  ptrdiff_t row, column, imaginary;

  // Its columns from a on.
  HalfSpectrum from(int a) const { return {data + a * column, row, column, imaginary}; }
};

// With a signal in each lane, and `width` columns.
template <class T, int W>
HalfSpectrum<T> half_spectrum(T* data, int width) {
  return {data, ptrdiff_t(odd_stride(width)) * 2 * W, 2 * W, W};
}

// Transforms the real columns u0 and u1 together and stores twice their half spectra at `to`'s first two columns.
// pair: scratch of 4·length complex elements.
template <class T, int W>
void forward_pair(const FftPlan<T>& plan, const T* u0, const T* u1, ptrdiff_t u_stride, const HalfSpectrum<T>& to,
                  T* pair) {
  using V = Vec<T, W>;
  const int n = plan.length;
  fft<T, W>(plan, {u0, u1, u_stride}, {pair, pair + W, 2 * W}, pair + ptrdiff_t(n) * 2 * W);
  for (int k = 0; k <= n / 2; ++k) {
    const T *z = pair + ptrdiff_t(k) * 2 * W, *m = pair + ptrdiff_t(k == 0 ? 0 : n - k) * 2 * W;
    const V zr = at<T, W>(z), zi = at<T, W>(z + W), mr = at<T, W>(m), mi = at<T, W>(m + W);
    T *re = to.data + k * to.row, *im = re + to.imaginary;
    at<T, W>(re) = zr + mr, at<T, W>(im) = zi - mi;
    at<T, W>(re + to.column) = zi + mi, at<T, W>(im + to.column) = mr - zr;
  }
}

// The adjoint of û = 2·F(u) in both directions, last half: two columns of the accumulated half spectrum, already
// transformed along the other direction, to the real columns u0 and u1.
template <class T, int W>
void backward_pair(const FftPlan<T>& plan, const T* spectrum, ptrdiff_t stride, T* u0, T* u1, T* pair) {
  using V = Vec<T, W>;
  const int n = plan.length;
  for (int k = 0; k <= n / 2; ++k) {
    const T* from = spectrum + k * stride;
    T *z = pair + ptrdiff_t(k) * 2 * W, *m = pair + ptrdiff_t(k == 0 ? 0 : n - k) * 2 * W;
    V ar = at<T, W>(from), ai = at<T, W>(from + W), br = at<T, W>(from + 2 * W), bi = at<T, W>(from + 3 * W);
    if (2 * k == n || k == 0) {
      // These rows are their own mirror images: the imaginary part stands for nothing real.
      at<T, W>(z) = ar + ar, at<T, W>(z + W) = br + br;
    } else {
      at<T, W>(z) = ar - bi, at<T, W>(z + W) = ai + br;
      at<T, W>(m) = ar + bi, at<T, W>(m + W) = br - ai;
    }
  }
  fft<T, W>(plan, {pair + W, pair, 2 * W}, {u1, u0, W}, pair + ptrdiff_t(n) * 2 * W);
}

// Transforms rows of a half spectrum along themselves, in place.
template <class T, int W>
void spectrum_rows(const FftPlan<T>& plan, Range rows, T* spectrum, bool inverse, T* scratch) {
  for (int m = rows.begin; m < rows.end; ++m) {
    T* row = spectrum + ptrdiff_t(m) * odd_stride(plan.length) * 2 * W;
    T *re = inverse ? row + W : row, *im = inverse ? row : row + W;
    fft<T, W>(plan, {re, im, 2 * W}, {re, im, 2 * W}, scratch);
  }
}

// The adjoint of gather_line: accumulates a line's gradient at the bins it came from. With `lanes`, every lane
// keeps a spectrum of its own (the planes are told apart later).
template <class T, int W, bool per_lane>
void scatter_line(const Product<T>& product, int line, const T* in, const Lanes<T, W>* lanes, T* spectrum) {
  using V = Vec<T, W>;
  for (int s = product.line_start[line]; s < product.line_start[line + 1]; ++s) {
    const Segment& segment = product.segments[s];
    T* to = spectrum + ptrdiff_t(segment.source) * 2 * W;
    const ptrdiff_t step = ptrdiff_t(segment.step) * 2 * W;
    const T* from = in + ptrdiff_t(segment.dst) * 2 * W;
    const T* weight = product.weights + ptrdiff_t(segment.weight) * product.weight_stride;
    const T sign = segment.conj ? -1 : 1;
    if constexpr (per_lane) {
      weight += lanes->theta0;
      for (int i = 0; i < segment.length; ++i, to += step, from += 2 * W, weight += product.weight_stride) {
        const V w = load<T, W>(weight);
        at<T, W>(to) += w * at<T, W>(from);
        at<T, W>(to + W) += w * sign * at<T, W>(from + W);
      }
    } else {
      for (int i = 0; i < segment.length; ++i, to += step, from += 2 * W) {
        at<T, W>(to) += at<T, W>(from) * weight[i];
        at<T, W>(to + W) += at<T, W>(from + W) * (sign * weight[i]);
      }
    }
  }
}

// The adjoint of inverse_lines: the columns of z are already transformed; `spectrum` accumulates.
template <class T, int W, bool per_lane>
void inverse_lines_adjoint(const Product<T>& product, const T* z, const Lanes<T, W>* lanes,
                           const FftPlan<T>& plan, T* spectrum, T* line, T* scratch) {
  for (int m = 0; m < product.lines; ++m) {
    if (product.line_start[m] == product.line_start[m + 1]) continue;
    const T* row = z + ptrdiff_t(m) * odd_stride(product.length) * 2 * W;
    fft<T, W>(plan, {row, row + W, 2 * W}, {line, line + W, 2 * W}, scratch);
    scatter_line<T, W, per_lane>(product, m, line, lanes, spectrum);
  }
}

// z ← grad · z/|z|, with the subgradient 0 at 0.
template <class T, int W>
void modulus_adjoint(T* z, const T* grad, int count) {
  using V = Vec<T, W>;
  for (int i = 0; i < count; ++i, z += 2 * W, grad += W) {
    const V modulus = square_root<T, W>(at<T, W>(z) * at<T, W>(z) + at<T, W>(z + W) * at<T, W>(z + W));
    const V factor = modulus == 0 ? V{} : at<T, W>(grad) / modulus;
    at<T, W>(z) *= factor, at<T, W>(z + W) *= factor;
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_TRANSFORMS_INL_H_
