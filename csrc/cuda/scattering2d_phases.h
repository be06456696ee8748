// One scattering path in shared memory, as phases: within a phase threads touch different numbers, and a barrier ends it.
//
//   Y = fold(û ψ̂)    z = F Y Fᵀ    U = |z|    S = A_y U A_xᵀ
//
// Everything is float32. The transforms are in place, line by line, by decimation in frequency: outputs stand in the order of
// their reversed digits, which the tables of A and the copy of U undo. Compiles for the host too, where a test runs the
// phases thread by thread (tests/kernels/scattering2d_host.cpp).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define SCAT_HD __host__ __device__ __forceinline__
#define SCAT_UNROLL _Pragma("unroll")
#else
#define SCAT_HD inline
#define SCAT_UNROLL
#endif

namespace scatsimclr::cuda {

// cos and sin of π x.
#ifdef __CUDA_ARCH__
SCAT_HD double cosine_pi(double x) { return cospi(x); }
SCAT_HD double sine_pi(double x) { return sinpi(x); }
#else
SCAT_HD double cosine_pi(double x) { return std::cos(3.141592653589793 * x); }
SCAT_HD double sine_pi(double x) { return std::sin(3.141592653589793 * x); }
#endif

struct alignas(8) Complex {
  float re, im;
};

constexpr int kMaxPasses = 8;
constexpr int kGroup = 4;  // outputs of the low-pass that a thread computes at once

// The factors of a length, in the order of the passes.
struct Line {
  int length, passes, radix[kMaxPasses];
};

// Factors of 2, 3, 5, 7, 11 and 13; false where another is left.
inline bool factor(int length, Line& line) {
  line = {length, 0, {}};
  for (const int radix : {13, 11, 9, 7, 5, 3, 8, 4, 2}) {
    while (length % radix == 0 && line.passes < kMaxPasses) {
      line.radix[line.passes++] = radix;
      length /= radix;
    }
  }
  return length == 1;
}

// One launch: the node's paths of `fields` signals and L filters. Fields are (plane, θ1), P of them a plane, the first
// is field0; planes are (image, colour).
struct Paths {
  const Complex* spectra;  // (fields, m, n/2 + 1)
  const float* psi;        // (L, m, n), pruned and normalised
  const float *low_y, *low_x;  // (h, rows), (w, columns)
  const int *band_y, *band_x;  // [begin, end) of the inputs that count for each kGroup outputs
  float* u;                // (fields, L, rows, columns), or null
  void* out;               // (images, colours · K, h, w) of these steps, in elements
  int64_t image_step, channel_step, row_step, column_step;
  int fields, L, fold, m, n, rows, columns, h, w;
  int first, stride, field0, P, colours, K;
  Line vertical, horizontal;
};

// What a block keeps in shared memory. Rows of z are an odd number of elements apart: no two of a warp's rows share a bank.
struct Shared {
  Complex *z, *roots_y, *roots_x;
  float *low_y, *low_x;  // [input][output], zero beyond h and w
  float* half;           // A_y U, (h, columns)
  int *order_y, *order_x;  // order[index] = position of that output
  int pitch, groups_y, groups_x;
};

SCAT_HD int padded(int outputs) { return (outputs + kGroup - 1) / kGroup * kGroup; }

SCAT_HD size_t shared_bytes(const Paths& p) {
  const size_t complexes = static_cast<size_t>(p.rows) * (p.columns | 1) + p.rows + p.columns;
  const size_t floats = static_cast<size_t>(p.rows) * padded(p.h) + static_cast<size_t>(p.columns) * padded(p.w) +
                        static_cast<size_t>(padded(p.h)) * p.columns;
  return complexes * sizeof(Complex) + floats * sizeof(float) + (p.rows + p.columns) * sizeof(int);
}

SCAT_HD Shared carve(const Paths& p, void* memory) {
  Shared s;
  s.pitch = p.columns | 1;
  s.groups_y = padded(p.h) / kGroup;
  s.groups_x = padded(p.w) / kGroup;
  // The tables of A first: their rows of kGroup floats are read as one.
  s.low_y = static_cast<float*>(memory);
  s.low_x = s.low_y + p.rows * padded(p.h);
  s.half = s.low_x + p.columns * padded(p.w);
  s.z = reinterpret_cast<Complex*>(s.half + padded(p.h) * p.columns);
  s.roots_y = s.z + p.rows * s.pitch;
  s.roots_x = s.roots_y + p.rows;
  s.order_y = reinterpret_cast<int*>(s.roots_x + p.columns);
  s.order_x = s.order_y + p.rows;
  return s;
}

// n / d for 0 ≤ n < 2^21, with inverse = 1.0f / d.
SCAT_HD int divide(int n, float inverse) { return static_cast<int>((static_cast<float>(n) + 0.5f) * inverse); }

// The output that stands at a position.
SCAT_HD int output_at(const Line& line, int position) {
  int left = line.length, unit = 1, output = 0;
  for (int i = 0; i < line.passes; ++i) {
    left /= line.radix[i];
    output += unit * (position / left);
    position %= left;
    unit *= line.radix[i];
  }
  return output;
}

SCAT_HD void set_up_axis(const Line& line, const float* low, int outputs, Complex* roots, float* table, int* order,
                         int thread, int threads) {
  const int wide = padded(outputs);
  for (int i = thread; i < line.length; i += threads) {
    order[output_at(line, i)] = i;
    const double turns = 2.0 * i / line.length;
    roots[i] = {static_cast<float>(cosine_pi(turns)), static_cast<float>(sine_pi(turns))};
    for (int o = 0; o < wide; ++o) {
      table[i * wide + o] = o < outputs ? low[static_cast<int64_t>(o) * line.length + i] : 0.0f;
    }
  }
}

SCAT_HD void set_up(const Paths& p, const Shared& s, int thread, int threads) {
  set_up_axis(p.vertical, p.low_y, p.h, s.roots_y, s.low_y, s.order_y, thread, threads);
  set_up_axis(p.horizontal, p.low_x, p.w, s.roots_x, s.low_x, s.order_x, thread, threads);
}

// Y, from the half spectrum of a real signal: beyond n/2 the conjugate of the opposite bin.
SCAT_HD void fold_product(const Paths& p, const Shared& s, int field, int theta, int thread, int threads) {
  const int half = p.n / 2 + 1;
  const Complex* spectrum = p.spectra + static_cast<int64_t>(field) * p.m * half;
  const float* psi = p.psi + static_cast<int64_t>(theta) * p.m * p.n;
  const float inverse = 1.0f / p.columns;
  for (int item = thread; item < p.rows * p.columns; item += threads) {
    const int row = divide(item, inverse), column = item - row * p.columns;
    Complex sum{0, 0};
    for (int ky = row; ky < p.m; ky += p.rows) {
      for (int kx = column; kx < p.n; kx += p.columns) {
        const float weight = psi[ky * p.n + kx];
        if (weight == 0.0f) continue;
        const bool mirrored = kx >= half;
        const int y = mirrored && ky > 0 ? p.m - ky : ky;
        const Complex u = spectrum[y * half + (mirrored ? p.n - kx : kx)];
        sum.re += weight * u.re;
        sum.im += mirrored ? -weight * u.im : weight * u.im;
      }
    }
    s.z[row * s.pitch + column] = sum;
  }
}

// cos and sin of 2π i/R, to the last bit of a float: Taylor in double.
template <int R>
struct Trig {
  float cosine[R], sine[R];
  constexpr Trig() : cosine(), sine() {
    for (int i = 0; i < R; ++i) {
      const double a = 6.283185307179586 * i / R - 3.141592653589793;
      double term_c = 1, term_s = a, c = 1, s = a;
      for (int k = 1; k < 20; ++k) {
        term_c *= -a * a / ((2 * k - 1) * (2 * k));
        term_s *= -a * a / ((2 * k) * (2 * k + 1));
        c += term_c;
        s += term_s;
      }
      cosine[i] = static_cast<float>(-c);
      sine[i] = static_cast<float>(-s);
    }
  }
};

// y[j] = Σ_i x[i] exp(2πi ij/R), in place. Odd R: pairs x[i] ± x[R − i].
template <int R>
SCAT_HD void dft(Complex (&x)[R]) {
  static_assert(R % 2 == 1, "even radices have their own");
  constexpr Trig<R> trig{};
  constexpr int H = R / 2;
  Complex sum[H], difference[H];
  const Complex x0 = x[0];
  SCAT_UNROLL for (int i = 0; i < H; ++i) {
    const Complex a = x[i + 1], b = x[R - 1 - i];
    sum[i] = {a.re + b.re, a.im + b.im};
    difference[i] = {a.re - b.re, a.im - b.im};
    x[0].re += sum[i].re;
    x[0].im += sum[i].im;
  }
  SCAT_UNROLL for (int j = 1; j <= H; ++j) {
    Complex c = x0, d{0, 0};
    SCAT_UNROLL for (int i = 1; i <= H; ++i) {
      const float cosine = trig.cosine[i * j % R], sine = trig.sine[i * j % R];
      c.re += cosine * sum[i - 1].re;
      c.im += cosine * sum[i - 1].im;
      d.re += sine * difference[i - 1].re;
      d.im += sine * difference[i - 1].im;
    }
    x[j] = {c.re - d.im, c.im + d.re};
    x[R - j] = {c.re + d.im, c.im - d.re};
  }
}

template <>
SCAT_HD void dft<2>(Complex (&x)[2]) {
  const Complex a = x[0], b = x[1];
  x[0] = {a.re + b.re, a.im + b.im};
  x[1] = {a.re - b.re, a.im - b.im};
}

template <>
SCAT_HD void dft<4>(Complex (&x)[4]) {
  const Complex a{x[0].re + x[2].re, x[0].im + x[2].im}, b{x[0].re - x[2].re, x[0].im - x[2].im};
  const Complex c{x[1].re + x[3].re, x[1].im + x[3].im}, d{x[1].re - x[3].re, x[1].im - x[3].im};
  x[0] = {a.re + c.re, a.im + c.im};
  x[1] = {b.re - d.im, b.im + d.re};
  x[2] = {a.re - c.re, a.im - c.im};
  x[3] = {b.re + d.im, b.im - d.re};
}

template <>
SCAT_HD void dft<8>(Complex (&x)[8]) {
  Complex even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
  dft<4>(even);
  dft<4>(odd);
  constexpr float r = 0.70710678118654752f;
  const Complex turned[4] = {odd[0],
                             {r * (odd[1].re - odd[1].im), r * (odd[1].re + odd[1].im)},
                             {-odd[2].im, odd[2].re},
                             {-r * (odd[3].re + odd[3].im), r * (odd[3].re - odd[3].im)}};
  SCAT_UNROLL for (int j = 0; j < 4; ++j) {
    x[j] = {even[j].re + turned[j].re, even[j].im + turned[j].im};
    x[j + 4] = {even[j].re - turned[j].re, even[j].im - turned[j].im};
  }
}

// One pass over blocks of `block` numbers of every line: butterflies of R numbers block/R apart, then the twiddles. The last
// pass of the last axis leaves |z| in the real part.
template <int R>
SCAT_HD void butterflies(Complex* z, int lines, int line_step, int step, int length, int block, const Complex* roots,
                         bool modulus, int thread, int threads) {
  const int apart = block / R, turn = length / block;
  const float by_lines = 1.0f / lines, by_apart = 1.0f / apart;
  for (int item = thread; item < lines * (length / R); item += threads) {
    const int rest = divide(item, by_lines), line = item - rest * lines;
    const int which = divide(rest, by_apart), k = rest - which * apart;
    Complex* at = z + line * line_step + (which * block + k) * step;
    Complex x[R];
    SCAT_UNROLL for (int i = 0; i < R; ++i) x[i] = at[i * apart * step];
    dft<R>(x);
    if (modulus) {
      SCAT_UNROLL for (int j = 0; j < R; ++j) x[j] = {sqrtf(x[j].re * x[j].re + x[j].im * x[j].im), 0.0f};
    } else if (apart > 1) {
      SCAT_UNROLL for (int j = 1; j < R; ++j) {
        const Complex w = roots[j * k * turn], y = x[j];
        x[j] = {y.re * w.re - y.im * w.im, y.re * w.im + y.im * w.re};
      }
    }
    SCAT_UNROLL for (int j = 0; j < R; ++j) at[j * apart * step] = x[j];
  }
}

// Pass `pass` along the rows (horizontal) or the columns of z.
SCAT_HD void transform_pass(const Paths& p, const Shared& s, bool horizontal, int pass, int thread, int threads) {
  const Line& line = horizontal ? p.horizontal : p.vertical;
  int block = line.length;
  for (int i = 0; i < pass; ++i) block /= line.radix[i];
  const int lines = horizontal ? p.rows : p.columns;
  const int line_step = horizontal ? s.pitch : 1, step = horizontal ? 1 : s.pitch;
  const Complex* roots = horizontal ? s.roots_x : s.roots_y;
  const bool modulus = !horizontal && pass + 1 == line.passes;
#define SCAT_PASS(R)                                                                                          \
  case R:                                                                                                     \
    butterflies<R>(s.z, lines, line_step, step, line.length, block, roots, modulus, thread, threads);         \
    break;
  switch (line.radix[pass]) {
    SCAT_PASS(2) SCAT_PASS(3) SCAT_PASS(4) SCAT_PASS(5) SCAT_PASS(7) SCAT_PASS(8) SCAT_PASS(9) SCAT_PASS(11)
    SCAT_PASS(13)
  }
#undef SCAT_PASS
}

// U in its own order, to device memory.
SCAT_HD void store_moduli(const Paths& p, const Shared& s, int field, int theta, int thread, int threads) {
  float* u = p.u + (static_cast<int64_t>(field) * p.L + theta) * p.rows * p.columns;
  const float inverse = 1.0f / p.columns;
  for (int item = thread; item < p.rows * p.columns; item += threads) {
    const int row = divide(item, inverse), column = item - row * p.columns;
    u[item] = s.z[s.order_y[row] * s.pitch + s.order_x[column]].re;
  }
}

// kGroup outputs of the low-pass: Σ_i A(o, i) value(i) over the group's band.
template <class Value>
SCAT_HD void low_pass_group(const int* band, const float* low, int group, int groups, float (&sum)[kGroup],
                            const Value& value) {
  for (int i = band[2 * group]; i < band[2 * group + 1]; ++i) {
    const float v = value(i);
    SCAT_UNROLL for (int o = 0; o < kGroup; ++o) sum[o] += low[(i * groups + group) * kGroup + o] * v;
  }
}

// half = A_y U: a thread takes kGroup outputs of one column.
SCAT_HD void low_pass_columns(const Paths& p, const Shared& s, int thread, int threads) {
  const float inverse = 1.0f / p.columns;
  for (int item = thread; item < p.columns * s.groups_y; item += threads) {
    const int group = divide(item, inverse), column = item - group * p.columns;
    float sum[kGroup] = {};
    low_pass_group(p.band_y, s.low_y, group, s.groups_y, sum,
                   [&](int i) { return s.z[s.order_y[i] * s.pitch + column].re; });
    SCAT_UNROLL for (int o = 0; o < kGroup; ++o) s.half[(group * kGroup + o) * p.columns + column] = sum[o];
  }
}

// S = half A_xᵀ, rounded to the result's type: a thread takes kGroup outputs of one row.
template <class T>
SCAT_HD void low_pass_rows(const Paths& p, const Shared& s, int field, int theta, int thread, int threads) {
  const int global = p.field0 + field, plane = global / p.P;
  T* out = static_cast<T*>(p.out) + (plane / p.colours) * p.image_step +
           (static_cast<int64_t>(plane % p.colours) * p.K + p.first + static_cast<int64_t>(global % p.P) * p.stride +
            theta) * p.channel_step;
  const float inverse = 1.0f / s.groups_x;
  for (int item = thread; item < p.h * s.groups_x; item += threads) {
    const int row = divide(item, inverse), group = item - row * s.groups_x;
    float sum[kGroup] = {};
    low_pass_group(p.band_x, s.low_x, group, s.groups_x, sum,
                   [&](int i) { return s.half[row * p.columns + s.order_x[i]]; });
    SCAT_UNROLL for (int o = 0; o < kGroup; ++o) {
      const int column = group * kGroup + o;
      if (column < p.w) out[row * p.row_step + column * p.column_step] = static_cast<T>(sum[o]);
    }
  }
}

}  // namespace scatsimclr::cuda
