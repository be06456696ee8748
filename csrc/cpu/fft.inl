// One-dimensional FFTs, one in each SIMD lane. Included inside a target region (foreach_isa.h).
//
// A vector of W lanes is a point of W independent signals, so the algorithm below is the scalar one. Real and
// imaginary parts have pointers of their own: swapping them gives the unnormalised inverse transform, and
// pointing them at two real signals transforms both at once.

template <class T, int W>
struct Simd {
  typedef T V __attribute__((vector_size(sizeof(T) * W), may_alias));
  typedef T Unaligned __attribute__((vector_size(sizeof(T) * W), may_alias, aligned(sizeof(T))));
};
template <class T, int W>
using Vec = typename Simd<T, W>::V;

#define SCATSIMCLR_INLINE inline __attribute__((always_inline))
#define SCATSIMCLR_UNROLL _Pragma("GCC unroll 16")

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

// Where a stage reads and writes: separate bases for the two parts, one stride (in scalars) per index.
template <class T>
struct Points {
  T *re, *im;
  ptrdiff_t stride;
};

template <class T, int W>
SCATSIMCLR_INLINE Vec<T, W> square_root(Vec<T, W> x) {
  // A loop that the compiler turns into one instruction: vector types have no square root of their own.
  T v[W] __attribute__((aligned(64)));
  *reinterpret_cast<Vec<T, W>*>(v) = x;
  for (int l = 0; l < W; ++l) v[l] = sizeof(T) == 4 ? __builtin_sqrtf(v[l]) : __builtin_sqrt(v[l]);
  return *reinterpret_cast<Vec<T, W>*>(v);
}

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
      const ptrdiff_t at = load[n] * in.stride;
      xr[n] = *reinterpret_cast<const V*>(in.re + at);
      xi[n] = *reinterpret_cast<const V*>(in.im + at);
    }
    Dft<T, W, R>::run(xr, xi);
    SCATSIMCLR_UNROLL for (int k = 0; k < R; ++k) {
      const ptrdiff_t at = store[k] * out.stride;
      if constexpr (result == Result::modulus) {
        *reinterpret_cast<V*>(out.re + at) = square_root<T, W>(xr[k] * xr[k] + xi[k] * xi[k]);
        continue;
      }
      if (result == Result::twiddled && k > 0) {
        const T c = twiddle[2 * k], s = twiddle[2 * k + 1];
        const V t = xr[k];
        xr[k] = xr[k] * c - xi[k] * s, xi[k] = xi[k] * c + t * s;
      }
      *reinterpret_cast<V*>(out.re + at) = xr[k];
      *reinterpret_cast<V*>(out.im + at) = xi[k];
    }
    if (result == Result::twiddled) twiddle += 2 * R;
  }
}

// One part of the DFT of R points, R an odd prime: the real parts of the results take the sums of the inputs' real
// parts (`even`) and the differences of their imaginary parts (`odd`), the imaginary parts the other halves.
// Everything of one pass, constants included, fits in AVX-512's 32 registers. done(k, value) gets X[k]'s part;
// X[±k] = C_k ∓ i S_k, where C_0 is the sum.
//
// 13 points: 2 generates the residues, so that with a_v of index 2^v the cosine sums are a cyclic correlation of
// length 6, C_u = Σ_v c_{u+v} a_v, which splits into two of length 3 (by a_v ± a_{v+3}); C_{u+3} comes with C_u.
// 108 products and 78 additions, against 144 and 48 of the plain formula: Zen 4 adds on ports of their own.
template <class T, int W, int R, bool imaginary, class Done>
SCATSIMCLR_INLINE void dft_part(const int* load, const T* even, const T* odd, ptrdiff_t stride, Done done) {
  using V = Vec<T, W>;
  constexpr int H = R / 2;
  static constexpr Roots<T, R> w{};
  const auto get = [&](const T* from, int n)
      __attribute__((always_inline)) { return *reinterpret_cast<const V*>(from + load[n] * stride); };
  const auto both = [&](int k, V c, V s) __attribute__((always_inline)) {
    done(imaginary ? R - k : k, c + s);
    done(imaginary ? k : R - k, c - s);
  };
  const V x0 = get(even, 0);
  V sum = x0, b[H];
  if constexpr (R == 13) {
    static constexpr int power[6] = {1, 2, 4, 8, 3, 6};  // 2^v mod 13
    static constexpr Roots<double, 13> exact{};
    V p[3], q[3];
    SCATSIMCLR_UNROLL for (int v = 0; v < 3; ++v) {
      const V a = get(even, power[v]) + get(even, 13 - power[v]);
      const V c = get(even, power[v + 3]) + get(even, 13 - power[v + 3]);
      p[v] = a + c, q[v] = a - c, sum += p[v];
    }
    SCATSIMCLR_UNROLL for (int v = 0; v < 6; ++v) b[v] = get(odd, power[v]) - get(odd, 13 - power[v]);
    done(0, sum);
    SCATSIMCLR_UNROLL for (int u = 0; u < 3; ++u) {
      V cp = x0, cq;
      SCATSIMCLR_UNROLL for (int v = 0; v < 3; ++v) {
        const int m = (1 << (u + v)) % 13, n = (1 << (u + v + 3)) % 13;
        cp += p[v] * T((exact.c[m] + exact.c[n]) / 2);
        const V product = q[v] * T((exact.c[m] - exact.c[n]) / 2);
        cq = v ? cq + product : product;
      }
      SCATSIMCLR_UNROLL for (int half = 0; half < 2; ++half) {
        V s;
        SCATSIMCLR_UNROLL for (int v = 0; v < 6; ++v) {
          const V product = b[v] * w.s[(1 << (u + 3 * half + v)) % 13];
          s = v ? s + product : product;
        }
        both(power[u + 3 * half], half ? cp - cq : cp + cq, s);
      }
    }
  } else {
    V a[H];
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

// A stage of a large prime radix, as `fft_stage` but by parts. Reads its inputs twice: not in place, which no
// transform here asks for, because lengths are even and a large prime therefore never the only stage.
template <class T, int W, int R, Result result>
__attribute__((noinline)) void fft_stage_by_parts(const FftStage<T>& stage, Points<const T> in, Points<T> out) {
  using V = Vec<T, W>;
  const int *load = stage.load.data(), *store = stage.store.data();
  for (int b = 0; b < stage.butterflies; ++b, load += R, store += R) {
    dft_part<T, W, R, false>(load, in.re, in.im, in.stride, [&](int k, V x) __attribute__((always_inline)) {
      *reinterpret_cast<V*>(out.re + store[k] * out.stride) = result == Result::modulus ? x * x : x;
    });
    dft_part<T, W, R, true>(load, in.im, in.re, in.stride, [&](int k, V x) __attribute__((always_inline)) {
      if constexpr (result == Result::modulus) {
        V& to = *reinterpret_cast<V*>(out.re + store[k] * out.stride);
        to = square_root<T, W>(to + x * x);
      } else {
        *reinterpret_cast<V*>(out.im + store[k] * out.stride) = x;
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
      *reinterpret_cast<V*>(out.re + store[k] * out.stride) = square_root<T, W>(r * r + i * i);
      return;
    }
    if constexpr (result == Result::twiddled) {
      const T c = twiddle[2 * k], s = twiddle[2 * k + 1];
      const V t = r;
      r = r * c - i * s, i = i * c + t * s;
    }
    *reinterpret_cast<V*>(out.re + store[k] * out.stride) = r;
    *reinterpret_cast<V*>(out.im + store[k] * out.stride) = i;
  };
  for (int butterfly = 0; butterfly < stage.butterflies; ++butterfly, load += R, store += R) {
    const V x0r = *reinterpret_cast<const V*>(in.re + load[0] * in.stride);
    const V x0i = *reinterpret_cast<const V*>(in.im + load[0] * in.stride);
    V sum_r = x0r, sum_i = x0i;
    for (int j = 0; j < H; ++j) {
      const ptrdiff_t p = load[j + 1] * in.stride, q = load[R - 1 - j] * in.stride;
      const V pr = *reinterpret_cast<const V*>(in.re + p), pi = *reinterpret_cast<const V*>(in.im + p);
      const V qr = *reinterpret_cast<const V*>(in.re + q), qi = *reinterpret_cast<const V*>(in.im + q);
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
        r = *reinterpret_cast<const V*>(in.re + load[n] * in.stride);
        i = *reinterpret_cast<const V*>(in.im + load[n] * in.stride);
        multiply(r, i, stage.chirp.data() + 2 * n);
      }
      *reinterpret_cast<V*>(a + ptrdiff_t(n) * 2 * W) = r, *reinterpret_cast<V*>(a + ptrdiff_t(n) * 2 * W + W) = i;
    }
    fft<T, W>(inner, {a, a + W, 2 * W}, {a, a + W, 2 * W}, rest);
    for (int q = 0; q < P; ++q) {
      T* at_q = a + ptrdiff_t(q) * 2 * W;
      multiply(*reinterpret_cast<V*>(at_q), *reinterpret_cast<V*>(at_q + W), stage.kernel.data() + 2 * q);
    }
    fft<T, W>(inner, {a + W, a, 2 * W}, {a + W, a, 2 * W}, rest);
    for (int k = 0; k < R; ++k) {
      V r = *reinterpret_cast<const V*>(a + ptrdiff_t(k) * 2 * W);
      V i = *reinterpret_cast<const V*>(a + ptrdiff_t(k) * 2 * W + W);
      const ptrdiff_t to = store[k] * out.stride;
      if constexpr (result == Result::modulus) {
        *reinterpret_cast<V*>(out.re + to) = square_root<T, W>(r * r + i * i);
      } else {
        multiply(r, i, stage.chirp.data() + 2 * k);
        if (result == Result::twiddled && k > 0) multiply(r, i, twiddle + 2 * k);
        *reinterpret_cast<V*>(out.re + to) = r, *reinterpret_cast<V*>(out.im + to) = i;
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
