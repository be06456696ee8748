// The separable low-pass (pack.h) along one direction, with one signal in each SIMD lane, and its adjoint.
#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "cpu/scattering2d/pack.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_SCATTERING2D_LOWPASS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_LOWPASS_INL_H_
#undef SCATSIMCLR_SCATTERING2D_LOWPASS_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_LOWPASS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// Calls work(parts, R, row) for all of a low-pass's rows of sums, R at once, in the fewest calls of about equal size.
template <class T, class Work>
SCATSIMCLR_INLINE void low_rows_in_turn(const Lowpass<T>& low, Work work) {
  constexpr int most = SCATSIMCLR_SIMD_BYTES == 64 ? 4 : 2;  // 32 registers or 16
  const auto run = [&](auto parts) __attribute__((always_inline)) {
    int calls = (low.rows + most - 1) / most;
    for (int row = 0; calls > 0; --calls) {
      const int rows = (low.rows - row + calls - 1) / calls;
      if (rows == 1) work(parts, std::integral_constant<int, 1>{}, row);
      if (rows == 2) work(parts, std::integral_constant<int, 2>{}, row);
      if constexpr (most > 2) {
        if (rows == 3) work(parts, std::integral_constant<int, 3>{}, row);
        if (rows == 4) work(parts, std::integral_constant<int, 4>{}, row);
      }
      row += rows;
    }
  };
  low.parts == 2 ? run(std::integral_constant<int, 2>{}) : run(std::integral_constant<int, 1>{});
}

// Values at ±x and, where there are two parts, half a period from both: of each part the even half, then the odd one.
template <class V, int PARTS>
SCATSIMCLR_INLINE void low_halves(V up, V down, V up_far, V down_far, V (&to)[PARTS][2]) {
  if constexpr (PARTS == 1) {
    to[0][0] = up + down, to[0][1] = up - down;
  } else {
    const V a = up + up_far, b = up - up_far, c = down_far + down, d = down_far - down;
    to[0][0] = a + c, to[0][1] = a - c, to[1][0] = b - d, to[1][1] = b + d;
  }
}

// The way back: put(place, value) for x, its `mirror`, and those half a period (`middle`) from both.
template <class V, int PARTS, class Put>
SCATSIMCLR_INLINE void low_values(const V (&of)[PARTS][2], int x, int middle, int mirror, Put put) {
  const V up = of[0][0] + of[0][1], down = of[0][0] - of[0][1];
  if constexpr (PARTS == 1) {
    put(x, up), put(mirror, down);
  } else {
    const V up_far = of[1][0] + of[1][1], down_far = of[1][1] - of[1][0];
    put(x, up + up_far), put(middle + x, up - up_far);
    put(middle - x, down + down_far), put(mirror, down - down_far);
  }
}

// R rows of sums, from `row` on, and the outputs they are halves of.
template <class T, int W, int PARTS, int R>
SCATSIMCLR_INLINE void lowpass_rows(const Lowpass<T>& low, const T* u, ptrdiff_t u_stride, int row, T* out,
                                    ptrdiff_t out_stride) {
  using V = Vec<T, W>;
  V total[R][PARTS][2] = {};
  const Range band = low.band(row, R);
  const T *middle = u + low.inputs / 2 * u_stride, *last = u + low.inputs * u_stride;
  const ptrdiff_t weights = ptrdiff_t(low.rows) * PARTS * 2;
  const T* weight = low.weights + band.begin * weights + row * PARTS * 2;
  ptrdiff_t ahead = band.begin * u_stride;
  // Sums of sixteen terms, then of those: one sum over a long row would round worse than kymatio's FFT.
  for (int begin = band.begin, end; begin < band.end; begin = end) {
    end = std::min(begin + 16, band.end);
    V sums[R][PARTS][2] = {};
    for (int t = begin; t < end; ++t, ahead += u_stride, weight += weights) {
      V halves[PARTS][2];
      const ptrdiff_t far = PARTS == 2 ? ahead : 0;  // with one part, values half a period from there do not count
      low_halves<V, PARTS>(at<T, W>(u + ahead), at<T, W>(ahead > 0 ? last - ahead : u), at<T, W>(middle + far),
                           at<T, W>(middle - far), halves);
      SCATSIMCLR_UNROLL for (int i = 0; i < R; ++i) {
        SCATSIMCLR_UNROLL for (int s = 0; s < PARTS; ++s) {
          const T* w = weight + (i * PARTS + s) * 2;
          sums[i][s][0] += halves[s][0] * w[0], sums[i][s][1] += halves[s][1] * w[1];
        }
      }
    }
    SCATSIMCLR_UNROLL for (int i = 0; i < R; ++i) {
      SCATSIMCLR_UNROLL for (int s = 0; s < PARTS; ++s) {
        total[i][s][0] += sums[i][s][0], total[i][s][1] += sums[i][s][1];
      }
    }
  }
  const int periods = low.outputs + 2;
  SCATSIMCLR_UNROLL for (int i = 0; i < R; ++i) {
    low_values<V, PARTS>(total[i], row + i, periods / 2, periods - row - i, [&](int m, V v)
                             __attribute__((always_inline)) {
                               if (m >= 1 && m <= low.outputs) at<T, W>(out + (m - 1) * out_stride) = v;
                             });
  }
}

// R rows of the adjoint's sums, added to the inputs' gradients.
template <class T, int W, int PARTS, int R>
SCATSIMCLR_INLINE void adjoint_rows(const Lowpass<T>& low, const T* grad, ptrdiff_t grad_stride, int row, T* u,
                                    ptrdiff_t u_stride) {
  using V = Vec<T, W>;
  const int periods = low.outputs + 2;
  V sums[R][PARTS][2];
  SCATSIMCLR_UNROLL for (int i = 0; i < R; ++i) {
    const int m = row + i;
    const T scale = m == 0 || 2 * PARTS * m == periods ? T(0.5) : T(1);  // its own mirror, taken twice
    const auto get = [&](int output) __attribute__((always_inline)) {
      const bool kept = output >= 1 && output <= low.outputs;
      return kept ? V(at<T, W>(grad + (output - 1) * grad_stride) * scale) : V{};
    };
    low_halves<V, PARTS>(get(m), get(periods - m), get(periods / 2 + m), get(periods / 2 - m), sums[i]);
  }
  const Range band = low.band(row, R);
  for (int t = band.begin; t < band.end; ++t) {
    const T* weight = low.weights + (ptrdiff_t(t) * low.rows + row) * PARTS * 2;
    V part[PARTS][2] = {};
    SCATSIMCLR_UNROLL for (int i = 0; i < R; ++i) {
      SCATSIMCLR_UNROLL for (int s = 0; s < PARTS; ++s) {
        part[s][0] += sums[i][s][0] * *weight++, part[s][1] += sums[i][s][1] * *weight++;
      }
    }
    low_values<V, PARTS>(part, t, low.inputs / 2, t > 0 ? low.inputs - t : 0, [&](int n, V v)
                             __attribute__((always_inline)) { at<T, W>(u + n * u_stride) += v; });
  }
}

// One direction of the low-pass (pack.h), a few rows of sums at a time, as many as stay in registers:
// u[n·u_stride] -> out[m·out_stride].
template <class T, int W>
void lowpass(const Lowpass<T>& low, const T* u, ptrdiff_t u_stride, T* out, ptrdiff_t out_stride) {
  low_rows_in_turn(low, [&](auto parts, auto rows, int row) __attribute__((always_inline)) {
    lowpass_rows<T, W, parts, rows>(low, u, u_stride, row, out, out_stride);
  });
}

// Its adjoint: gradient of the outputs -> u[n·u_stride] for every n.
template <class T, int W>
void lowpass_adjoint(const Lowpass<T>& low, const T* grad, ptrdiff_t grad_stride, T* u, ptrdiff_t u_stride) {
  for (int n = 0; n < low.inputs; ++n) at<T, W>(u + n * u_stride) = Vec<T, W>{};
  low_rows_in_turn(low, [&](auto parts, auto rows, int row) __attribute__((always_inline)) {
    adjoint_rows<T, W, parts, rows>(low, grad, grad_stride, row, u, u_stride);
  });
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_LOWPASS_INL_H_
