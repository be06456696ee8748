// Filtering, folding, two-dimensional transforms and the low-pass, with one signal in each SIMD lane.
//
// A complex element is W real parts followed by W imaginary parts; a real element is W values. Spectra of real
// signals are half spectra (scattering2d_pack.h) of twice the transform.

template <class T, int W>
SCATSIMCLR_INLINE Vec<T, W>& at(T* p) {
  return *reinterpret_cast<Vec<T, W>*>(p);
}
template <class T, int W>
SCATSIMCLR_INLINE const Vec<T, W>& at(const T* p) {
  return *reinterpret_cast<const Vec<T, W>*>(p);
}

// Of a lane, as wide as its element: shuffles want that.
template <class T>
using LaneIndex = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Lane l is lane select[l] of v.
template <class T, int W>
SCATSIMCLR_INLINE Vec<T, W> permuted(Vec<T, W> v, const Vec<LaneIndex<T>, W>& select) {
#ifdef __clang__
  Vec<T, W> out;
  for (int l = 0; l < W; ++l) out[l] = v[select[l]];
  return out;
#else
  return __builtin_shuffle(v, select);
#endif
}

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
      const V w = *reinterpret_cast<const typename Simd<T, W>::Unaligned*>(weight);
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

// One direction of the low-pass (scattering2d_pack.h), a few rows of sums at a time, as many as stay in registers:
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

// Transforms the real columns u0 and u1 together and stores twice their half spectra at columns a and a + 1 of
// a spectrum whose rows are `stride` scalars apart. pair: scratch of 4·length complex elements.
template <class T, int W>
void forward_pair(const FftPlan<T>& plan, const T* u0, const T* u1, ptrdiff_t u_stride, T* spectrum,
                  ptrdiff_t stride, T* pair) {
  using V = Vec<T, W>;
  const int n = plan.length;
  fft<T, W>(plan, {u0, u1, u_stride}, {pair, pair + W, 2 * W}, pair + ptrdiff_t(n) * 2 * W);
  for (int k = 0; k <= n / 2; ++k) {
    const T *z = pair + ptrdiff_t(k) * 2 * W, *m = pair + ptrdiff_t(k == 0 ? 0 : n - k) * 2 * W;
    const V zr = at<T, W>(z), zi = at<T, W>(z + W), mr = at<T, W>(m), mi = at<T, W>(m + W);
    T* to = spectrum + k * stride;
    at<T, W>(to) = zr + mr, at<T, W>(to + W) = zi - mi;
    at<T, W>(to + 2 * W) = zi + mi, at<T, W>(to + 3 * W) = mr - zr;
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
        const V w = *reinterpret_cast<const typename Simd<T, W>::Unaligned*>(weight);
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

template <class T, int W>
SCATSIMCLR_INLINE T sum_lanes(const T* v) {
  if constexpr (W == 1) {
    return *v;
  } else {
    T half[W / 2] __attribute__((aligned(64)));
    at<T, W / 2>(half) = at<T, W / 2>(v) + at<T, W / 2>(v + W / 2);
    return sum_lanes<T, W / 2>(half);
  }
}
