// The forward pass where there are too few signals for the lanes: one signal at a time, and the lanes are W
// neighbouring columns of its fields. An element of a field is then a block of W columns; along the columns all is
// as in forward-inl.h, along the rows W rows are transposed, transformed and transposed back. Ranges
// count what is taken together: pairs of blocks along the columns, groups of W along the rows. Not one template with
// Forward, which has neither transposes nor blocks; FFTs, low-pass and what takes the columns (Columns) serve both.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/fft/fft-inl.h"
#include "cpu/fft/plan.h"
#include "cpu/scattering2d/forward-inl.h"
#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/layout-inl.h"
#include "cpu/scattering2d/lowpass-inl.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/scattering2d/tensors-inl.h"
#include "cpu/scattering2d/transforms-inl.h"
#include "cpu/simd/shuffle-inl.h"
#include "cpu/simd/vector-inl.h"
#include "cpu/threads/scratch.h"

#if defined(SCATSIMCLR_SCATTERING2D_SINGLE_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_SINGLE_INL_H_
#undef SCATSIMCLR_SCATTERING2D_SINGLE_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_SINGLE_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

template <class T, int W>
struct Single {
  using V = Vec<T, W>;
  const Scattering<T>& job;
  const Pack<T>& pack;
  // Buffers of this thread.
  Stored<T> own;
  T *columns, *turned, *lines, *s, *coefficient, *scratch;

  // Blocks of a row of n; an even number, because columns are transformed in pairs.
  static int blocks(int n) { return (n + 2 * W - 1) / (2 * W) * 2; }
  static int pairs(int n) { return blocks(n) / 2; }
  static int groups(int rows) { return (rows + W - 1) / W; }
  // A row holds the real parts of its blocks, then as many imaginary parts, and a cache line to spare: pairs of blocks
  // fill whole lines, and a column does not fall on a few sets of the cache.
  static ptrdiff_t imaginary(int n) { return ptrdiff_t(blocks(n)) * W; }
  static ptrdiff_t stride_of(int n) { return 2 * imaginary(n) + ptrdiff_t(64 / sizeof(T)); }
  static size_t field(int rows, int n) { return size_t(rows) * stride_of(n); }

  static T* take_spectrum(const Pack<T>& pack, int level, Arena& arena) {
    return arena.take<T>(field(half_rows(pack.ny >> level), pack.nx >> level));
  }
  static Stored<T> take_stored(const Pack<T>& pack, int level, Arena& arena) {
    const int ny = pack.ny >> level, nx = pack.nx >> level, n = std::max(ny, nx);
    return {arena.take<T>(std::max(field(ny, nx), field(nx, ny))), take_spectrum(pack, level, arena),
            arena.take<T>(size_t(n / 2) * blocks(n) * W)};
  }

  // `level`: the finest scale whose fields this thread keeps to itself.
  Single(const Scattering<T>& job_, int level, Arena& arena) : job(job_), pack(job_.pack) {
    const size_t n = size_t(std::max(pack.ny, pack.nx));
    own = take_stored(pack, level, arena);
    columns = arena.take<T>(4 * n * W);
    turned = arena.take<T>(2 * (n + W) * W);
    lines = arena.take<T>(2 * imaginary(static_cast<int>(n)) * W);
    s = arena.take<T>(n * W);
    coefficient = arena.take<T>(size_t(job.out_height) * job.out_width);
    scratch = arena.take<T>(2 * (n + job.fft_scratch) * W);
  }

  // W rows from `first` (the last one again where there are no more), transposed: turned[x][parts][W rows].
  void turn(const T* rows, ptrdiff_t stride, int first, int count, int n, int parts) {
    for (int b = 0; b < (n + W - 1) / W; ++b) {
      for (int part = 0; part < parts; ++part) {
        V v[W];
        for (int l = 0; l < W; ++l) {
          v[l] = at<T, W>(rows + std::min(first + l, count - 1) * stride + part * imaginary(n) + ptrdiff_t(b) * W);
        }
        transpose<T, W>(v);
        for (int i = 0; i < W; ++i) at<T, W>(turned + ptrdiff_t((b * W + i) * parts + part) * W) = v[i];
      }
    }
  }

  // And back, complex.
  void turn_back(T* rows, ptrdiff_t stride, int first, int count, int n) {
    for (int b = 0; b < (n + W - 1) / W; ++b) {
      for (int part = 0; part < 2; ++part) {
        V v[W];
        for (int i = 0; i < W; ++i) v[i] = at<T, W>(turned + ptrdiff_t((b * W + i) * 2 + part) * W);
        transpose<T, W>(v);
        for (int l = 0; l < W && first + l < count; ++l) {
          at<T, W>(rows + (first + l) * stride + part * imaginary(n) + ptrdiff_t(b) * W) = v[l];
        }
      }
    }
  }

  void spectrum_rows(int n, int rows, Range range, T* spectrum) {
    for (int first = range.begin * W; first < std::min(range.end * W, rows); first += W) {
      turn(spectrum, stride_of(n), first, rows, n, 2);
      fft<T, W>(fft_plan<T>(n), {turned, turned + W, 2 * W}, {turned, turned + W, 2 * W}, scratch);
      turn_back(spectrum, stride_of(n), first, rows, n);
    }
  }

  // Adds a segment: to[k] += weight[k] · from[k·step], real and imaginary parts. Along a row (step ±1) in vectors.
  static SCATSIMCLR_INLINE void add_segment(T* re, T* im, const T* from, ptrdiff_t from_im, ptrdiff_t step,
                                            const T* weight, T sign, int length) {
    const auto values = [step](const T* x) __attribute__((always_inline)) {
      return step == 1 ? load<T, W>(x) : reversed<T, W>(load<T, W>(x - (W - 1)));
    };
    int k = 0;
    for (; (step == 1 || step == -1) && k + W <= length; k += W, from += step * W) {
      const V w = load<T, W>(weight + k);
      store<T, W>(re + k, load<T, W>(re + k) + w * values(from));
      store<T, W>(im + k, load<T, W>(im + k) + w * sign * values(from + from_im));
    }
    for (; k < length; ++k, from += step) {
      re[k] += weight[k] * from[0], im[k] += weight[k] * sign * from[from_im];
    }
  }

  // Line `line` of the filtered and folded spectrum (rows of n) into row `to`, which holds zeros.
  void gather(const Product<T>& product, int line, T* to, const T* spectrum, int n) {
    for (int i = product.line_start[line]; i < product.line_start[line + 1]; ++i) {
      const Segment& segment = product.segments[i];
      const int row = segment.source / odd_stride(n), x = segment.source % odd_stride(n);
      const T sign = segment.conj ? -1 : 1;
      const T* from = spectrum + row * stride_of(n) + x;
      const T* weight = product.weights + segment.weight;
      T *re = to + segment.dst, *im = re + imaginary(product.length);
      const bool along = segment.step == 1 || segment.step == -1;
      const ptrdiff_t step = along ? segment.step : segment.step / odd_stride(n) * stride_of(n);
      add_segment(re, im, from, imaginary(n), step, weight, sign, segment.length);
    }
  }

  // First half of an inverse transform, into z.
  void inverse_lines(const Product<T>& product, Range range, const T* spectrum, int n, T* z) {
    const ptrdiff_t row = 2 * imaginary(product.length);
    for (int first = range.begin * W; first < std::min(range.end * W, product.lines); first += W) {
      const int last = std::min(first + W, product.lines);
      // Lanes beyond the row are 0 too: real columns are transformed in pairs, and large values would spoil their
      // partner's digits.
      std::fill_n(lines, row * W, T(0));
      for (int line = first; line < last; ++line) {
        gather(product, line, lines + (line - first) * row, spectrum, n);
      }
      turn(lines, row, 0, W, product.length, 2);
      if (product.line_start[first] < product.line_start[last]) {
        fft<T, W>(fft_plan<T>(product.length), {turned + W, turned, 2 * W}, {turned + W, turned, 2 * W}, scratch);
      }
      turn_back(z, stride_of(product.length), first, product.lines, product.length);
    }
  }

  // Second half, modulus, and every pair of blocks into the sink.
  void modulus_columns(const Product<T>& product, Range range, const T* z, const Columns<T, W>& sink) {
    const FftPlan<T>& cols = fft_plan<T>(product.lines);
    const ptrdiff_t stride = stride_of(product.length);
    const int used = (product.length + W - 1) / W;
    for (int a = 2 * range.begin; a < std::min(2 * range.end, used); a += 2) {
      T* second = columns;  // an odd number of blocks ends with the same one twice
      for (int i = 0; i < 2 && a + i < used; ++i) {
        const T* from = z + ptrdiff_t(a + i) * W;
        second = columns + ptrdiff_t(i) * product.lines * W;
        fft<T, W, Result::modulus>(cols, {from + imaginary(product.length), from, stride}, {second, second, W},
                                   scratch);
      }
      sink.put(a, columns, second, W);
    }
  }

  Columns<T, W> sink(int lines, int length, T* spectrum, const Lowpass<T>& low, T* low_rows) const {
    return {&fft_plan<T>(lines), blocks(length), {spectrum, stride_of(length), W, imaginary(length)}, &low, low_rows,
            scratch};
  }

  // Low-pass along the rows of a range, W of them at once, and out. Transposed: of all rows.
  void finish(const Columns<T, W>& sink, int j, bool transposed, Range range, int n, int64_t plane, int q) {
    const Lowpass<T>& across = (transposed ? pack.low_y : pack.low_x)[j];
    const int begin = range.begin * W, end = std::min(range.end * W, sink.low->outputs), w = job.out_width;
    for (int first = begin; first < end; first += W) {
      turn(sink.low_rows, ptrdiff_t(sink.width) * W, first, sink.low->outputs, n, 1);
      lowpass<T, W>(across, turned, W, s, W);
      for (int l = 0; l < W && first + l < end; ++l) {
        const int row = first - begin + l;
        for (int k = 0; k < across.outputs; ++k) {
          coefficient[transposed ? k * w + row : row * w + k] = s[ptrdiff_t(k) * W + l];
        }
      }
    }
    const ptrdiff_t offset = coefficient_offset(job, plane, q) +
                             begin * job.coefficients_out.row;
    write_lanes<T, 1>(job.coefficients_out, coefficient, transposed ? job.out_height : end - begin, w, &offset, 1);
  }

  // Columns of a padded plane, `count` of them from `first`, into z; 0 where there are no more.
  void read_columns(int64_t plane, int first, int count, T* z) const {
    const int ny = pack.ny, top = (ny - job.height) / 2, left = (pack.nx - job.width) / 2 - first;
    const int used = std::min(count, pack.nx - first);
    const int begin = std::clamp(left, 0, used), end = std::clamp(left + job.width, begin, used);
    const T* x = static_cast<const T*>(job.x.data) + plane / job.colours * job.x.image +
                 plane % job.colours * job.x.channel;
    for (int y = 0; y < ny; ++y, z += count) {
      const T* from = x + reflect(y - top, job.height) * job.x.row;
      for (int i = 0; i < begin; ++i) z[i] = from[reflect(i - left, job.width) * job.x.column];
      for (int i = begin; i < end; ++i) z[i] = from[(i - left) * job.x.column];
      for (int i = end; i < used; ++i) z[i] = from[reflect(i - left, job.width) * job.x.column];
      std::fill_n(z + used, count - used, T(0));
    }
  }

  Columns<T, W> block_sink(const Stored<T>& stored) const {
    return sink(pack.ny, pack.nx, stored.spectrum, pack.low_y[0], stored.low_rows);
  }

  // Columns of û of a plane.
  void block_columns(int64_t plane, Range range, const Stored<T>& stored) {
    const int first = 2 * range.begin, count = 2 * (range.end - range.begin);
    read_columns(plane, first * W, count * W, own.z);
    const Columns<T, W> into = block_sink(stored);
    for (int a = 0; a < count; a += 2) {
      const T* u = own.z + ptrdiff_t(a) * W;
      into.put(first + a, u, u + W, ptrdiff_t(count) * W);
    }
  }
  void block_rows(Range range, const Stored<T>& stored) {
    spectrum_rows(pack.nx, half_rows(pack.ny), range, stored.spectrum);
  }
  // S0 of a plane.
  void block_finish(int64_t plane, Range range, const Stored<T>& stored) {
    finish(block_sink(stored), 0, false, range, pack.nx, plane, 0);
  }

  Columns<T, W> path_sink(int j1, const Stored<T>& stored) const {
    return sink(pack.first[j1].lines, pack.first[j1].length, pack.second_follows(j1) ? stored.spectrum : nullptr,
                pack.low_y[j1], stored.low_rows);
  }

  // The first order of a path, step by step: z1; U1, and columns of û1 and S1; rows of û1; S1.
  void path_lines(int j1, int theta1, Range range, const T* spectrum0, const Stored<T>& stored) {
    inverse_lines(pack.alone[j1 * pack.L + theta1], range, spectrum0, pack.nx, stored.z);
  }
  void path_columns(int j1, Range range, const Stored<T>& stored) {
    modulus_columns(pack.first[j1], range, stored.z, path_sink(j1, stored));
  }
  void path_rows(int j1, Range range, const Stored<T>& stored) {
    if (!pack.second_follows(j1)) return;
    spectrum_rows(pack.first[j1].length, half_rows(pack.first[j1].lines), range, stored.spectrum);
  }
  void path_finish(int64_t plane, int j1, int theta1, Range range, const Stored<T>& stored) {
    finish(path_sink(j1, stored), j1, false, range, pack.first[j1].length, plane, 1 + j1 * pack.L + theta1);
  }

  // S2 of the path (j1, θ1) -> n2.
  void second_order(int64_t plane, int j1, int theta1, int n2, const T* spectrum) {
    const Product<T>& second = pack.second[pack.second_index(j1, n2)];
    const int j2 = n2 / pack.L;
    const Lowpass<T>& low = (second.transposed ? pack.low_x : pack.low_y)[j2];
    const Columns<T, W> last = sink(second.lines, second.length, nullptr, low, own.low_rows);
    inverse_lines(second, {0, groups(second.lines)}, spectrum, pack.first[j1].length, own.z);
    modulus_columns(second, {0, pairs(second.length)}, own.z, last);
    finish(last, j2, second.transposed, {0, groups(low.outputs)}, second.length, plane,
           second_coefficient(pack.J, pack.L, j1, theta1) + n2 - (j1 + 1) * pack.L);
  }

  // û of a plane, into `spectrum0`, and its S0.
  void block(int64_t plane, T* spectrum0) {
    const Stored<T> stored{own.z, spectrum0, own.low_rows};
    block_columns(plane, {0, pairs(pack.nx)}, stored);
    block_rows({0, groups(half_rows(pack.ny))}, stored);
    block_finish(plane, {0, groups(job.out_height)}, stored);
  }

  // All coefficients of orders 1 and 2 of the paths that begin with (j1, θ1).
  void path(int64_t plane, int j1, int theta1, const T* spectrum0) {
    const Product<T>& first = pack.first[j1];
    path_lines(j1, theta1, {0, groups(first.lines)}, spectrum0, own);
    path_columns(j1, {0, pairs(first.length)}, own);
    path_rows(j1, {0, groups(half_rows(first.lines))}, own);
    path_finish(plane, j1, theta1, {0, groups(job.out_height)}, own);
    if (!pack.second_follows(j1)) return;
    for (int n2 = (j1 + 1) * pack.L; n2 < pack.J * pack.L; ++n2) second_order(plane, j1, theta1, n2, own.spectrum);
  }
};

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_SINGLE_INL_H_
