// One-dimensional FFTs, one in each SIMD lane.
//
// A vector of W lanes is a point of W independent signals, so the algorithm below is the scalar one. Real and
// imaginary parts have pointers of their own: swapping them gives the unnormalised inverse transform, and
// pointing them at two real signals transforms both at once.
#include <cstddef>

#include "cpu/fft/dft-inl.h"
#include "cpu/fft/plan.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_FFT_FFT_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_FFT_FFT_INL_H_
#undef SCATSIMCLR_FFT_FFT_INL_H_
#else
#define SCATSIMCLR_FFT_FFT_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE {

// Where a stage reads and writes: separate bases for the two parts, one stride (in scalars) per index.
template <class T>
struct Points {
  T *re, *im;
  ptrdiff_t stride;
};

// What a stage does with its results. The modulus is taken in the last stage of a transform, where the square
// roots (a unit of their own, not pipelined) hide behind the multiply-adds; the approximate reciprocal square root
// with a Newton step was slower by 5 % (EPYC Zen 4, 2026-11-24).
enum class Result { complex, twiddled, modulus };

template <class T, int W, Result result = Result::complex>
void fft(const FftPlan<T>& plan, Points<const T> in, Points<T> out, T* scratch);

template <class T, int W, int R, Result result>
__attribute__((noinline)) void fft_stage(const FftStage<T>& stage, Points<const T> in, Points<T> out) {
  using V = Vec<T, W>;
  const int *load = stage.load.data(), *store = stage.store.data();
  const T* twiddle = stage.twiddle.data();
  for (int b = 0; b < stage.butterflies; ++b, load += R, store += R) {
    V xr[R], xi[R];
    SCATSIMCLR_UNROLL for (int n = 0; n < R; ++n) {
      const ptrdiff_t from = load[n] * in.stride;
      xr[n] = at<T, W>(in.re + from);
      xi[n] = at<T, W>(in.im + from);
    }
    Dft<T, W, R>::run(xr, xi);
    SCATSIMCLR_UNROLL for (int k = 0; k < R; ++k) {
      const ptrdiff_t to = store[k] * out.stride;
      if constexpr (result == Result::modulus) {
        at<T, W>(out.re + to) = square_root<T, W>(xr[k] * xr[k] + xi[k] * xi[k]);
        continue;
      }
      if (result == Result::twiddled && k > 0) {
        const T c = twiddle[2 * k], s = twiddle[2 * k + 1];
        const V t = xr[k];
        xr[k] = xr[k] * c - xi[k] * s, xi[k] = xi[k] * c + t * s;
      }
      at<T, W>(out.re + to) = xr[k];
      at<T, W>(out.im + to) = xi[k];
    }
    if (result == Result::twiddled) twiddle += 2 * R;
  }
}

// A stage of a large prime radix, as `fft_stage` but by parts. Reads its inputs twice: not in place, which no
// transform here asks for, because lengths are even and a large prime therefore never the only stage.
template <class T, int W, int R, Result result>
__attribute__((noinline)) void fft_stage_by_parts(const FftStage<T>& stage, Points<const T> in, Points<T> out) {
  using V = Vec<T, W>;
  const int *load = stage.load.data(), *store = stage.store.data();
  for (int b = 0; b < stage.butterflies; ++b, load += R, store += R) {
    dft_part<T, W, R, false>(load, in.re, in.im, in.stride, [&](int k, V x) __attribute__((always_inline)) {
      at<T, W>(out.re + store[k] * out.stride) = result == Result::modulus ? x * x : x;
    });
    dft_part<T, W, R, true>(load, in.im, in.re, in.stride, [&](int k, V x) __attribute__((always_inline)) {
      if constexpr (result == Result::modulus) {
        V& to = at<T, W>(out.re + store[k] * out.stride);
        to = square_root<T, W>(to + x * x);
      } else {
        at<T, W>(out.im + store[k] * out.stride) = x;
      }
    });
  }
}

// A prime radix without a codelet: the formula of Dft with its sums a, b in memory, O(R²) per butterfly, for K
// results at once, whose sums stay in registers.
template <class T, int W, Result result>
__attribute__((noinline)) void fft_stage_prime(const FftStage<T>& stage, Points<const T> in, Points<T> out,
                                               T* sums) {
  using V = Vec<T, W>;
  constexpr int K = SCATSIMCLR_SIMD_BYTES == 64 ? 4 : 2;  // 32 registers or 16
  const int R = stage.radix, H = R / 2;
  V *a = reinterpret_cast<V*>(sums), *b = a + 2 * H;
  const int *load = stage.load.data(), *store = stage.store.data();
  const T* twiddle = stage.twiddle.data();
  const auto put = [&](int k, V r, V i) __attribute__((always_inline)) {
    if constexpr (result == Result::modulus) {
      at<T, W>(out.re + store[k] * out.stride) = square_root<T, W>(r * r + i * i);
      return;
    }
    if constexpr (result == Result::twiddled) {
      const T c = twiddle[2 * k], s = twiddle[2 * k + 1];
      const V t = r;
      r = r * c - i * s, i = i * c + t * s;
    }
    at<T, W>(out.re + store[k] * out.stride) = r;
    at<T, W>(out.im + store[k] * out.stride) = i;
  };
  for (int butterfly = 0; butterfly < stage.butterflies; ++butterfly, load += R, store += R) {
    const V x0r = at<T, W>(in.re + load[0] * in.stride);
    const V x0i = at<T, W>(in.im + load[0] * in.stride);
    V sum_r = x0r, sum_i = x0i;
    for (int j = 0; j < H; ++j) {
      const ptrdiff_t p = load[j + 1] * in.stride, q = load[R - 1 - j] * in.stride;
      const V pr = at<T, W>(in.re + p), pi = at<T, W>(in.im + p);
      const V qr = at<T, W>(in.re + q), qi = at<T, W>(in.im + q);
      a[2 * j] = pr + qr, a[2 * j + 1] = pi + qi, b[2 * j] = pr - qr, b[2 * j + 1] = pi - qi;
      sum_r += a[2 * j], sum_i += a[2 * j + 1];
    }
    put(0, sum_r, sum_i);
    const T* roots = stage.roots.data();
    for (int k = 1; k <= H; k += K, roots += 2 * K * H) {
      V cr[K], ci[K], sr[K], si[K];
      SCATSIMCLR_UNROLL for (int i = 0; i < K; ++i) cr[i] = x0r, ci[i] = x0i, sr[i] = si[i] = V{};
      for (int j = 0; j < H; ++j) {
        const V ar = a[2 * j], ai = a[2 * j + 1], br = b[2 * j], bi = b[2 * j + 1];
        SCATSIMCLR_UNROLL for (int i = 0; i < K; ++i) {
          // Stored in pairs of results: [pair][j][2][cos, sin].
          const T* root = roots + (i / 2 * H + j) * 4 + i % 2 * 2;
          cr[i] += ar * root[0], ci[i] += ai * root[0], sr[i] += br * root[1], si[i] += bi * root[1];
        }
      }
      SCATSIMCLR_UNROLL for (int i = 0; i < K; ++i) {
        if (k + i > H) break;
        put(k + i, cr[i] + si[i], ci[i] - sr[i]);
        put(R - k - i, cr[i] - si[i], ci[i] + sr[i]);
      }
    }
    if (result == Result::twiddled) twiddle += 2 * R;
  }
}

// A large prime radix: Bluestein's convolution (fft_plan.cpp). scratch: inner.length + inner.scratch elements.
template <class T, int W, Result result>
__attribute__((noinline)) void fft_stage_chirp(const FftStage<T>& stage, Points<const T> in, Points<T> out,
                                               T* scratch) {
  using V = Vec<T, W>;
  const FftPlan<T>& inner = *stage.inner;
  const int R = stage.radix, P = inner.length;
  const int *load = stage.load.data(), *store = stage.store.data();
  const T* twiddle = stage.twiddle.data();
  T *a = scratch, *rest = scratch + ptrdiff_t(P) * 2 * W;
  const auto multiply = [](V& r, V& i, const T* by) __attribute__((always_inline)) {
    const V t = r;
    r = r * by[0] - i * by[1], i = i * by[0] + t * by[1];
  };
  for (int butterfly = 0; butterfly < stage.butterflies; ++butterfly, load += R, store += R) {
    for (int n = 0; n < P; ++n) {
      V r{}, i{};
      if (n < R) {
        r = at<T, W>(in.re + load[n] * in.stride);
        i = at<T, W>(in.im + load[n] * in.stride);
        multiply(r, i, stage.chirp.data() + 2 * n);
      }
      at<T, W>(a + ptrdiff_t(n) * 2 * W) = r, at<T, W>(a + ptrdiff_t(n) * 2 * W + W) = i;
    }
    fft<T, W>(inner, {a, a + W, 2 * W}, {a, a + W, 2 * W}, rest);
    for (int q = 0; q < P; ++q) {
      T* at_q = a + ptrdiff_t(q) * 2 * W;
      multiply(at<T, W>(at_q), at<T, W>(at_q + W), stage.kernel.data() + 2 * q);
    }
    fft<T, W>(inner, {a + W, a, 2 * W}, {a + W, a, 2 * W}, rest);
    for (int k = 0; k < R; ++k) {
      V r = at<T, W>(a + ptrdiff_t(k) * 2 * W);
      V i = at<T, W>(a + ptrdiff_t(k) * 2 * W + W);
      const ptrdiff_t to = store[k] * out.stride;
      if constexpr (result == Result::modulus) {
        at<T, W>(out.re + to) = square_root<T, W>(r * r + i * i);
      } else {
        multiply(r, i, stage.chirp.data() + 2 * k);
        if (result == Result::twiddled && k > 0) multiply(r, i, twiddle + 2 * k);
        at<T, W>(out.re + to) = r, at<T, W>(out.im + to) = i;
      }
    }
    if (result == Result::twiddled) twiddle += 2 * R;
  }
}

template <class T, int W, Result result>
void fft_stage_any(const FftStage<T>& stage, Points<const T> in, Points<T> out, T* sums) {
  switch (stage.radix) {
    case 1: return fft_stage<T, W, 1, result>(stage, in, out);
    case 2: return fft_stage<T, W, 2, result>(stage, in, out);
    case 3: return fft_stage<T, W, 3, result>(stage, in, out);
    case 4: return fft_stage<T, W, 4, result>(stage, in, out);
    case 5: return fft_stage<T, W, 5, result>(stage, in, out);
    case 7: return fft_stage<T, W, 7, result>(stage, in, out);
    case 8: return fft_stage<T, W, 8, result>(stage, in, out);
    case 9: return fft_stage<T, W, 9, result>(stage, in, out);
    case 11:
      if constexpr (result == Result::twiddled) return fft_stage<T, W, 11, result>(stage, in, out);
      return fft_stage_by_parts<T, W, 11, result>(stage, in, out);
    case 13:
      if constexpr (result == Result::twiddled) return fft_stage<T, W, 13, result>(stage, in, out);
      return fft_stage_by_parts<T, W, 13, result>(stage, in, out);
    case 16: return fft_stage<T, W, 16, result>(stage, in, out);
    default:
      if (stage.inner) return fft_stage_chirp<T, W, result>(stage, in, out, sums);
      return fft_stage_prime<T, W, result>(stage, in, out, sums);
  }
}

// Forward transform of every lane, out of place or in place. `scratch` holds plan.scratch complex vectors.
// With Result::modulus only the moduli of the results are stored, at out.re.
template <class T, int W, Result result>
void fft(const FftPlan<T>& plan, Points<const T> in, Points<T> out, T* scratch) {
  const size_t last = plan.stages.size() - 1, buffer = size_t(plan.length) * 2 * W;
  T* sums = scratch + 2 * buffer;
  Points<const T> from = in;
  for (size_t s = 0; s < last; ++s) {
    const FftStage<T>& stage = plan.stages[s];
    T* next = scratch + (s % 2) * buffer;
    const Points<T> to{next, next + W, 2 * W};
    if (stage.twiddle.empty()) {
      fft_stage_any<T, W, Result::complex>(stage, from, to, sums);
    } else {
      fft_stage_any<T, W, Result::twiddled>(stage, from, to, sums);
    }
    from = {to.re, to.im, to.stride};
  }
  fft_stage_any<T, W, result>(plan.stages[last], from, out, sums);  // the last stage of a split never twiddles
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_FFT_FFT_INL_H_
