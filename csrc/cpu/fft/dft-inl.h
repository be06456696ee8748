// Discrete Fourier transforms of the small lengths that fft-inl.h is made of, in registers, one in each SIMD lane.
#include <cstddef>

#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_FFT_DFT_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_FFT_DFT_INL_H_
#undef SCATSIMCLR_FFT_DFT_INL_H_
#else
#define SCATSIMCLR_FFT_DFT_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE {

// cos(2πm/n) at compile time. The angle is first brought into [0, π/4], where the series converges at once.
constexpr double unit_cos(long m, long n);
constexpr double unit_sin(long m, long n);
constexpr double series(double x, bool sine) {
  double term = sine ? x : 1.0, sum = term;
  for (int i = sine ? 2 : 1; i < 24; i += 2) {
    term *= -x * x / (i * (i + 1.0));
    sum += term;
  }
  return sum;
}
constexpr double unit_cos(long m, long n) {
  m = (m % n + n) % n;
  if (2 * m > n) m = n - m;
  if (4 * m > n) return -unit_cos(n - 2 * m, 2 * n);
  if (8 * m > n) return unit_sin(n - 4 * m, 4 * n);
  return series(6.283185307179586476925 * m / n, false);
}
constexpr double unit_sin(long m, long n) {
  m = (m % n + n) % n;
  if (2 * m > n) return -unit_sin(n - m, n);
  if (4 * m > n) return unit_sin(n - 2 * m, 2 * n);
  if (8 * m > n) return unit_cos(n - 4 * m, 4 * n);
  return series(6.283185307179586476925 * m / n, true);
}
template <class T, int N>
struct Roots {
  T c[N] = {}, s[N] = {};
  constexpr Roots() {
    for (int m = 0; m < N; ++m) c[m] = T(unit_cos(m, N)), s[m] = T(unit_sin(m, N));
  }
};

// Forward DFT in place of R points held in registers: X[k] = Σ x[n] exp(−2πi·nk/R). Odd primes: with
// a_j = x_j + x_{R−j} and b_j = x_j − x_{R−j},  X[±k] = x_0 + Σ cos(jk)·a_j ∓ i Σ sin(jk)·b_j.
template <class T, int W, int R>
struct Dft {
  using V = Vec<T, W>;
  static SCATSIMCLR_INLINE void run(V (&xr)[R], V (&xi)[R]) {
    static_assert(R % 2 == 1);
    constexpr int H = R / 2;
    static constexpr Roots<T, R> w{};
    V ar[H], ai[H], br[H], bi[H];
    SCATSIMCLR_UNROLL for (int j = 0; j < H; ++j) {
      ar[j] = xr[j + 1] + xr[R - 1 - j], ai[j] = xi[j + 1] + xi[R - 1 - j];
      br[j] = xr[j + 1] - xr[R - 1 - j], bi[j] = xi[j + 1] - xi[R - 1 - j];
    }
    const V x0r = xr[0], x0i = xi[0];
    SCATSIMCLR_UNROLL for (int j = 0; j < H; ++j) xr[0] += ar[j], xi[0] += ai[j];
    SCATSIMCLR_UNROLL for (int k = 1; k <= H; ++k) {
      V cr = x0r, ci = x0i, sr = br[0] * w.s[k], si = bi[0] * w.s[k];
      SCATSIMCLR_UNROLL for (int j = 0; j < H; ++j) {
        cr += ar[j] * w.c[(j + 1) * k % R], ci += ai[j] * w.c[(j + 1) * k % R];
        if (j > 0) sr += br[j] * w.s[(j + 1) * k % R], si += bi[j] * w.s[(j + 1) * k % R];
      }
      xr[k] = cr + si, xi[k] = ci - sr;
      xr[R - k] = cr - si, xi[R - k] = ci + sr;
    }
  }
};

template <class T, int W>
struct Dft<T, W, 1> {
  using V = Vec<T, W>;
  static SCATSIMCLR_INLINE void run(V (&)[1], V (&)[1]) {}
};

template <class T, int W>
struct Dft<T, W, 2> {
  using V = Vec<T, W>;
  static SCATSIMCLR_INLINE void run(V (&xr)[2], V (&xi)[2]) {
    const V r = xr[0] - xr[1], i = xi[0] - xi[1];
    xr[0] += xr[1], xi[0] += xi[1], xr[1] = r, xi[1] = i;
  }
};

template <class T, int W>
struct Dft<T, W, 4> {
  using V = Vec<T, W>;
  static SCATSIMCLR_INLINE void run(V (&xr)[4], V (&xi)[4]) {
    const V ar = xr[0] + xr[2], ai = xi[0] + xi[2], br = xr[0] - xr[2], bi = xi[0] - xi[2];
    const V cr = xr[1] + xr[3], ci = xi[1] + xi[3], dr = xr[1] - xr[3], di = xi[1] - xi[3];
    xr[0] = ar + cr, xi[0] = ai + ci, xr[2] = ar - cr, xi[2] = ai - ci;
    xr[1] = br + di, xi[1] = bi - dr, xr[3] = br - di, xi[3] = bi + dr;
  }
};

// x ·= exp(−2πi·m/n), with the cheap cases spelt out (a product with 0 may not be dropped by the compiler).
template <class T, int W>
SCATSIMCLR_INLINE void rotate(Vec<T, W>& r, Vec<T, W>& i, int m, int n, T c, T s) {
  using V = Vec<T, W>;
  if (m == 0) return;
  if (4 * m == n) {
    const V t = r;
    r = i, i = -t;
  } else if (8 * m == n) {
    const V t = r;
    r = (r + i) * c, i = (i - t) * c;
  } else {
    const V t = r;
    r = r * c + i * s, i = i * c - t * s;
  }
}

template <class T, int W, int A, int B>
struct Composite {
  using V = Vec<T, W>;
  static SCATSIMCLR_INLINE void run(V (&xr)[A * B], V (&xi)[A * B]) {
    static constexpr Roots<T, A * B> w{};
    V yr[A * B], yi[A * B];
    SCATSIMCLR_UNROLL for (int n2 = 0; n2 < B; ++n2) {
      V r[A], i[A];
      SCATSIMCLR_UNROLL for (int n1 = 0; n1 < A; ++n1) r[n1] = xr[B * n1 + n2], i[n1] = xi[B * n1 + n2];
      Dft<T, W, A>::run(r, i);
      SCATSIMCLR_UNROLL for (int k1 = 0; k1 < A; ++k1) {
        rotate<T, W>(r[k1], i[k1], n2 * k1, A * B, w.c[n2 * k1], w.s[n2 * k1]);
        yr[B * k1 + n2] = r[k1], yi[B * k1 + n2] = i[k1];
      }
    }
    SCATSIMCLR_UNROLL for (int k1 = 0; k1 < A; ++k1) {
      V r[B], i[B];
      SCATSIMCLR_UNROLL for (int n2 = 0; n2 < B; ++n2) r[n2] = yr[B * k1 + n2], i[n2] = yi[B * k1 + n2];
      Dft<T, W, B>::run(r, i);
      SCATSIMCLR_UNROLL for (int k2 = 0; k2 < B; ++k2) xr[k1 + A * k2] = r[k2], xi[k1 + A * k2] = i[k2];
    }
  }
};
template <class T, int W>
struct Dft<T, W, 8> : Composite<T, W, 2, 4> {};
template <class T, int W>
struct Dft<T, W, 9> : Composite<T, W, 3, 3> {};
template <class T, int W>
struct Dft<T, W, 16> : Composite<T, W, 4, 4> {};

// The constants of 13 points. 2 generates the residues: the sums' kernels are cos and sin of 2π·2^w/13.
template <class T>
struct Roots13 {
  static constexpr int power[6] = {1, 2, 4, 8, 3, 6};  // 2^w mod 13
  T p[3] = {}, q[3] = {};      // of the cosines, (c_w ± c_{w+3})/2
  T mean[2] = {}, z[3][2] = {};  // of the sines, s_w = mean[w mod 4] + z[w mod 3][w mod 4]
  constexpr Roots13() {
    constexpr Roots<double, 13> exact{};
    for (int w = 0; w < 3; ++w) {
      p[w] = T((exact.c[power[w]] + exact.c[power[w + 3]]) / 2);
      q[w] = T((exact.c[power[w]] - exact.c[power[w + 3]]) / 2);
    }
    double s[3][2] = {};
    for (int w = 0, residue = 1; w < 12; ++w, residue = residue * 2 % 13) {
      if (w % 4 < 2) s[w % 3][w % 4] = exact.s[residue];
    }
    for (int i = 0; i < 2; ++i) {
      const double average = (s[0][i] + s[1][i] + s[2][i]) / 3;
      mean[i] = T(average);
      for (int w = 0; w < 3; ++w) z[w][i] = T(s[w][i] - average);
    }
  }
};

// dft_part of 13 points: with a_v and b_v of index 2^v, the sums are correlations. That of the cosines,
// C_u = Σ_v c_{u+v} a_v, v < 6, is cyclic and splits into two of length 3 (by a_v ± a_{v+3}); C_{u+3} comes with C_u. That of the sines is
// cyclic but for the sign, s_{w+6} = −s_w. By (w mod 3, w mod 4) it is one of length 3 of pairs, which multiply like
// complex numbers: the mean kernel needs the pairs' sum alone, and what is left of it, whose three values sum to
// nothing, two differences. The third result is three times the mean's less the other two.
// 80 products and 98 additions, against 144 and 48 of the plain formula: Zen 4 adds on ports of their own, and takes
// its square roots on those of the products.
template <class T, int W, class Get, class Both, class Done>
SCATSIMCLR_INLINE void dft_part_13(const T* even, const T* odd, Vec<T, W> x0, Get get, Both both, Done done) {
  using V = Vec<T, W>;
  constexpr int R = 13;
  V sum = x0;
  static constexpr Roots13<T> w{};
  constexpr const int* power = Roots13<T>::power;
  V first[2], second[2], mean[2];
  {
    V pair[3][2], total[2];
    SCATSIMCLR_UNROLL for (int v = 0; v < 6; ++v) {
      const int m = v % 4 < 2 ? power[v] : R - power[v];
      pair[v % 3][v % 2] = get(odd, m) - get(odd, R - m);
    }
    SCATSIMCLR_UNROLL for (int i = 0; i < 2; ++i) {
      first[i] = pair[0][i] - pair[2][i], second[i] = pair[1][i] - pair[2][i];
      total[i] = pair[0][i] + pair[1][i] + pair[2][i];
    }
    mean[0] = total[0] * w.mean[0] + total[1] * w.mean[1];
    mean[1] = total[0] * w.mean[1] - total[1] * w.mean[0];
  }
  V p[3], q[3], rest[2];
  SCATSIMCLR_UNROLL for (int v = 0; v < 3; ++v) {
    const V a = get(even, power[v]) + get(even, R - power[v]);
    const V c = get(even, power[v + 3]) + get(even, R - power[v + 3]);
    p[v] = a + c, q[v] = a - c, sum += p[v];
  }
  done(0, sum);
  SCATSIMCLR_UNROLL for (int u = 0; u < 3; ++u) {
    V cp = x0 + p[0] * w.p[u], cq = q[0] * w.q[u];
    SCATSIMCLR_UNROLL for (int v = 1; v < 3; ++v) {
      cp += p[v] * w.p[(u + v) % 3];
      cq = u + v < 3 ? cq + q[v] * w.q[u + v] : cq - q[v] * w.q[u + v - 3];
    }
    V s[2];
    SCATSIMCLR_UNROLL for (int i = 0; i < 2; ++i) {
      if (u == 2) {
        s[i] = mean[i] * T(3) - rest[i];
        continue;
      }
      s[i] = mean[i] + first[0] * w.z[u][i] + second[0] * w.z[u + 1][i];
      s[i] = i == 0 ? s[i] + first[1] * w.z[u][1] + second[1] * w.z[u + 1][1]
                    : s[i] - first[1] * w.z[u][0] - second[1] * w.z[u + 1][0];
      rest[i] = u == 0 ? s[i] : rest[i] + s[i];
    }
    SCATSIMCLR_UNROLL for (int n = u; n < 6; n += 3) {
      both(n % 4 < 2 ? power[n] : R - power[n], n < 3 ? cp + cq : cp - cq, s[n % 2]);
    }
  }
}

// One part of the DFT of R points, R an odd prime: the real parts of the results take the sums of the inputs' real
// parts (`even`) and the differences of their imaginary parts (`odd`), the imaginary parts the other halves.
// Everything of one pass, constants included, fits in AVX-512's 32 registers. done(k, value) gets X[k]'s part;
// X[±k] = C_k ∓ i S_k, where C_0 is the sum.
template <class T, int W, int R, bool imaginary, class Done>
SCATSIMCLR_INLINE void dft_part(const int* load, const T* even, const T* odd, ptrdiff_t stride, Done done) {
  using V = Vec<T, W>;
  constexpr int H = R / 2;
  const auto get = [&](const T* from, int n)
      __attribute__((always_inline)) { return at<T, W>(from + load[n] * stride); };
  const auto both = [&](int k, V c, V s) __attribute__((always_inline)) {
    done(imaginary ? R - k : k, c + s);
    done(imaginary ? k : R - k, c - s);
  };
  const V x0 = get(even, 0);
  if constexpr (R == 13) {
    dft_part_13<T, W>(even, odd, x0, get, both, done);
  } else {
    V sum = x0;
    static constexpr Roots<T, R> w{};
    V a[H], b[H];
    SCATSIMCLR_UNROLL for (int j = 0; j < H; ++j) {
      a[j] = get(even, j + 1) + get(even, R - 1 - j), b[j] = get(odd, j + 1) - get(odd, R - 1 - j);
      sum += a[j];
    }
    done(0, sum);
    SCATSIMCLR_UNROLL for (int k = 1; k <= H; ++k) {
      V c = x0, s = b[0] * w.s[k];
      SCATSIMCLR_UNROLL for (int j = 0; j < H; ++j) {
        c += a[j] * w.c[(j + 1) * k % R];
        if (j > 0) s += b[j] * w.s[(j + 1) * k % R];
      }
      both(k, c, s);
    }
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_FFT_DFT_INL_H_
