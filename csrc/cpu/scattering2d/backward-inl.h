// The backward pass: the gradient of x from the gradient of the coefficients. Nothing was kept from the forward
// pass; each group computes its z1 and û1 again and every second-order z2 once more, and walks back:
//
//   gU2 = Aᵀ gS2 A,  gz2 = gU2 · z2/|z2|,  gû1 += ψ̂2 · unfold(F gz2)/n
//   gU1 = Re(F* gû1) + Aᵀ gS1 A,  gz1 = gU1 · z1/|z1|,  gû0 += ψ̂1 · unfold(F gz1)/n
//
// A group's gû0 goes to a part of its own; a block adds its groups' parts in a fixed order, so that the result
// does not depend on which thread came first.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/fft/fft-inl.h"
#include "cpu/fft/plan.h"
#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/layout-inl.h"
#include "cpu/scattering2d/lowpass-inl.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/scattering2d/tensors-inl.h"
#include "cpu/scattering2d/transforms-inl.h"
#include "cpu/simd/vector-inl.h"
#include "cpu/threads/scratch.h"

#if defined(SCATSIMCLR_SCATTERING2D_BACKWARD_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_BACKWARD_INL_H_
#undef SCATSIMCLR_SCATTERING2D_BACKWARD_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_BACKWARD_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

template <class T, int W>
struct Backward {
  const Scattering<T>& job;
  const Pack<T>& pack;
  T *z, *z1, *spectrum1, *grad1, *grad2, *piece, *low_rows, *s, *line, *columns, *reals, *scratch;

  // Needs all its buffers for fields of the finest scale.
  Backward(const Scattering<T>& job_, int, Arena& arena) : job(job_), pack(job_.pack) {
    const size_t n = size_t(std::max(pack.ny, pack.nx));
    const Sizes<T, W> level0(pack, 0);
    z = arena.take<T>(level0.field());
    z1 = arena.take<T>(level0.field());
    spectrum1 = arena.take<T>(level0.spectrum());
    grad1 = arena.take<T>(level0.spectrum());
    grad2 = arena.take<T>(level0.spectrum());
    piece = pack.separable ? grad2 : arena.take<T>(level0.spectrum());  // only a φ that is not separable uses grad2
    low_rows = arena.take<T>(level0.low_rows());
    s = arena.take<T>(size_t(job.out_height) * job.out_width * W);
    line = arena.take<T>(n * 2 * W);
    columns = arena.take<T>(n * 4 * W);
    reals = arena.take<T>(n * 4 * W);
    scratch = arena.take<T>(2 * (n + job.fft_scratch) * W);
  }

  // gS (in s) of a field at scale j back to where the columns need it: low_rows, or for a φ that is not
  // separable the gradient `spectrum` of the field's spectrum, which accumulates.
  void spread(int j, bool transposed, T* spectrum) {
    const int h = job.out_height, w = job.out_width;
    if (pack.separable) {
      const Lowpass<T>& across = (transposed ? pack.low_y : pack.low_x)[j];
      const Lowpass<T>& along = (transposed ? pack.low_x : pack.low_y)[j];
      for (int m = 0; m < along.outputs; ++m) {
        lowpass_adjoint<T, W>(across, s + ptrdiff_t(transposed ? m : m * w) * W, (transposed ? w : 1) * W,
                              low_rows + ptrdiff_t(m) * across.inputs * W, W);
      }
      return;
    }
    const Product<T>& phi = pack.phi[j];
    const FftPlan<T>&rows = fft_plan<T>(phi.length), &cols = fft_plan<T>(phi.lines);
    const ptrdiff_t stride = ptrdiff_t(odd_stride(phi.length)) * 2 * W;
    for (int x = 0; x < phi.length; ++x) {
      for (int y = 0; y < phi.lines; ++y) {
        T* to = columns + ptrdiff_t(y) * 2 * W;
        const bool inside = y >= 1 && y <= h && x >= 1 && x <= w;
        at<T, W>(to) = inside ? at<T, W>(s + (ptrdiff_t(y - 1) * w + x - 1) * W) : Vec<T, W>{};
        at<T, W>(to + W) = Vec<T, W>{};
      }
      T* out = z + ptrdiff_t(x) * 2 * W;
      fft<T, W>(cols, {columns, columns + W, 2 * W}, {out, out + W, stride}, scratch);
    }
    inverse_lines_adjoint<T, W, false>(phi, z, nullptr, rows, spectrum, line, scratch);
  }

  // gU of columns a and a + 1, into `reals`: from low_rows, from `spectrum` (its rows transformed) or both.
  void gradient_columns(int j, bool transposed, int a, int width, const FftPlan<T>& cols, const T* spectrum) {
    const int n = cols.length;
    T *u0 = reals, *u1 = reals + ptrdiff_t(n) * W;
    if (pack.separable) {
      const Lowpass<T>& along = (transposed ? pack.low_x : pack.low_y)[j];
      lowpass_adjoint<T, W>(along, low_rows + ptrdiff_t(a) * W, ptrdiff_t(width) * W, u0, W);
      lowpass_adjoint<T, W>(along, low_rows + ptrdiff_t(a + 1) * W, ptrdiff_t(width) * W, u1, W);
    }
    if (!spectrum) return;
    T* v = pack.separable ? reals + ptrdiff_t(n) * 2 * W : reals;
    backward_pair<T, W>(cols, spectrum + ptrdiff_t(a) * 2 * W, ptrdiff_t(odd_stride(width)) * 2 * W, v,
                        v + ptrdiff_t(n) * W, scratch);
    if (v == reals) return;
    for (int i = 0; i < 2 * n; ++i) at<T, W>(reals + ptrdiff_t(i) * W) += at<T, W>(v + ptrdiff_t(i) * W);
  }

  void read_gradient(int64_t first_plane, const Lanes<T, W>& lanes, const int (&q)[W]) {
    ptrdiff_t offsets[W];
    for (int l = 0; l < lanes.used; ++l) {
      offsets[l] = coefficient_offset(job, first_plane + lanes.plane[l], q[l]);
    }
    read_lanes<T, W>(job.coefficients_out, s, job.out_height, job.out_width, offsets, lanes.used);
  }

  // û of the planes of a block.
  void block(int64_t first_plane, T* spectrum0) {
    read_planes<T, W>(job, first_plane, {0, pack.nx}, z);
    const FftPlan<T>&rows = fft_plan<T>(pack.nx), &cols = fft_plan<T>(pack.ny);
    for (int a = 0; a < pack.nx; a += 2) {
      forward_pair<T, W>(cols, z + ptrdiff_t(a) * W, z + ptrdiff_t(a + 1) * W, ptrdiff_t(pack.nx) * W,
                         half_spectrum<T, W>(spectrum0, pack.nx).from(a), scratch);
    }
    spectrum_rows<T, W>(rows, {0, half_rows(pack.ny)}, spectrum0, false, scratch);
  }

  // z1 of a group and, where there is a second order, û1.
  void first_order(int j1, const Lanes<T, W>& lanes, const T* spectrum0, T* field, T* spectrum) {
    const Product<T>& product = pack.first[j1];
    const FftPlan<T>&rows = fft_plan<T>(product.length), &cols = fft_plan<T>(product.lines);
    inverse_lines<T, W, true>(product, {0, product.lines}, spectrum0, &lanes, rows, field, line, scratch);
    const ptrdiff_t stride = ptrdiff_t(odd_stride(product.length)) * 2 * W;
    const int n = product.lines;
    for (int a = 0; a < product.length; a += 2) {
      for (int i = 0; i < 2; ++i) {
        T *column = field + ptrdiff_t(a + i) * 2 * W, *to = columns + ptrdiff_t(i) * n * 2 * W;
        fft<T, W>(cols, {column + W, column, stride}, {to + W, to, 2 * W}, scratch);
        for (int y = 0; y < n; ++y) {
          const Vec<T, W> re = at<T, W>(to + ptrdiff_t(y) * 2 * W), im = at<T, W>(to + ptrdiff_t(y) * 2 * W + W);
          at<T, W>(column + y * stride) = re, at<T, W>(column + y * stride + W) = im;
          at<T, W>(to + ptrdiff_t(y) * W) = square_root<T, W>(re * re + im * im);
        }
      }
      if (pack.second_follows(j1)) {
        forward_pair<T, W>(cols, columns, columns + ptrdiff_t(n) * 2 * W, W,
                           half_spectrum<T, W>(spectrum, product.length).from(a), scratch);
      }
    }
    if (pack.second_follows(j1)) spectrum_rows<T, W>(rows, {0, half_rows(n)}, spectrum, false, scratch);
  }

  // Adds the gradient of û1 that comes through the paths (j1, lanes) -> n2 to `grad`.
  void second_order(int j1, int n2, int64_t first_plane, const Lanes<T, W>& lanes, const T* spectrum, T* grad) {
    const Product<T>& product = pack.second[pack.second_index(j1, n2)];
    const int j2 = n2 / pack.L, n = product.lines;
    const FftPlan<T>&rows = fft_plan<T>(product.length), &cols = fft_plan<T>(n);
    int q[W];
    for (int l = 0; l < W; ++l) {
      q[l] = second_coefficient(pack.J, pack.L, j1, lanes.theta[l]) + n2 - (j1 + 1) * pack.L;
    }
    read_gradient(first_plane, lanes, q);
    if (!pack.separable) std::fill_n(grad2, Sizes<T, W>(pack, j2).spectrum(), T(0));
    spread(j2, product.transposed, grad2);
    T* through = pack.separable ? nullptr : grad2;
    if (through) spectrum_rows<T, W>(rows, {0, half_rows(n)}, through, true, scratch);
    inverse_lines<T, W, false>(product, {0, product.lines}, spectrum, nullptr, rows, z, line, scratch);
    const ptrdiff_t stride = ptrdiff_t(odd_stride(product.length)) * 2 * W;
    for (int a = 0; a < product.length; a += 2) {
      gradient_columns(j2, product.transposed, a, product.length, cols, through);
      for (int i = 0; i < 2; ++i) {
        T* column = z + ptrdiff_t(a + i) * 2 * W;
        fft<T, W>(cols, {column + W, column, stride}, {columns + W, columns, 2 * W}, scratch);
        modulus_adjoint<T, W>(columns, reals + ptrdiff_t(i) * n * W, n);
        fft<T, W>(cols, {columns, columns + W, 2 * W}, {column, column + W, stride}, scratch);
      }
    }
    inverse_lines_adjoint<T, W, false>(product, z, nullptr, rows, grad, line, scratch);
  }

  // From the gradient of û1 (consumed) and of S1 to the group's part of the gradient of û0: one spectrum for
  // each plane that the group's lanes touch.
  void finish_group(int j1, int64_t first_plane, const Lanes<T, W>& lanes, T* field, T* grad, T* part) {
    const Product<T>& product = pack.first[j1];
    const FftPlan<T>&rows = fft_plan<T>(product.length), &cols = fft_plan<T>(product.lines);
    int q[W];
    for (int l = 0; l < W; ++l) q[l] = 1 + j1 * pack.L + lanes.theta[l];
    read_gradient(first_plane, lanes, q);
    spread(j1, false, grad);
    T* through = pack.second_follows(j1) || !pack.separable ? grad : nullptr;
    if (through) spectrum_rows<T, W>(rows, {0, half_rows(product.lines)}, through, true, scratch);
    const ptrdiff_t stride = ptrdiff_t(odd_stride(product.length)) * 2 * W;
    const int n = product.lines;
    for (int a = 0; a < product.length; a += 2) {
      gradient_columns(j1, false, a, product.length, cols, through);
      for (int i = 0; i < 2; ++i) {
        T* column = field + ptrdiff_t(a + i) * 2 * W;
        for (int y = 0; y < n; ++y) {
          T* to = columns + ptrdiff_t(y) * 2 * W;
          at<T, W>(to) = at<T, W>(column + y * stride), at<T, W>(to + W) = at<T, W>(column + y * stride + W);
        }
        modulus_adjoint<T, W>(columns, reals + ptrdiff_t(i) * n * W, n);
        fft<T, W>(cols, {columns, columns + W, 2 * W}, {column, column + W, stride}, scratch);
      }
    }
    // `grad` is spent: it takes the lanes' gradients of û0.
    const size_t scalars = Sizes<T, W>(pack, 0).spectrum();
    std::fill_n(grad, scalars, T(0));
    inverse_lines_adjoint<T, W, true>(product, field, &lanes, rows, grad, line, scratch);
    const size_t elements = scalars / W;
    if (lanes.plane[0] == lanes.plane[W - 1]) {
      for (size_t e = 0; e < elements; ++e) part[e] = sum_lanes<T, W>(at<T, W>(grad + e * W));
      return;
    }
    std::fill_n(part, elements * (lanes.plane[W - 1] - lanes.plane[0] + 1), T(0));
    for (int l = 0; l < W; ++l) {
      T* to = part + elements * (lanes.plane[l] - lanes.plane[0]);
      for (size_t e = 0; e < elements; ++e) to[e] += grad[e * W + l];
    }
  }

  // dx of a block's planes from the gradient of their û0 (consumed) and of S0.
  void finish_block(int64_t first_plane, T* grad) {
    const int64_t planes = job.images * job.colours;
    const int ny = pack.ny, nx = pack.nx, used = static_cast<int>(std::min<int64_t>(W, planes - first_plane));
    ptrdiff_t offsets[W];
    for (int l = 0; l < used; ++l) {
      offsets[l] = coefficient_offset(job, first_plane + l, 0);
    }
    read_lanes<T, W>(job.coefficients_out, s, job.out_height, job.out_width, offsets, used);
    spread(0, false, grad);
    const FftPlan<T>&rows = fft_plan<T>(nx), &cols = fft_plan<T>(ny);
    spectrum_rows<T, W>(rows, {0, half_rows(ny)}, grad, true, scratch);
    for (int a = 0; a < nx; a += 2) {
      gradient_columns(0, false, a, nx, cols, grad);
      for (int i = 0; i < 2; ++i) {
        for (int y = 0; y < ny; ++y) {
          at<T, W>(z + (ptrdiff_t(y) * nx + a + i) * W) = at<T, W>(reals + ptrdiff_t(i * ny + y) * W);
        }
      }
    }
    const int top = (ny - job.height) / 2, left = (nx - job.width) / 2;
    for (int l = 0; l < used; ++l) {
      T* dx = static_cast<T*>(job.dx.data) + (first_plane + l) * job.height * job.width;
      std::fill_n(dx, ptrdiff_t(job.height) * job.width, T(0));
      for (int y = 0; y < ny; ++y) {
        T* row = dx + ptrdiff_t(reflect(y - top, job.height)) * job.width;
        const T* from = z + ptrdiff_t(y) * nx * W + l;
        for (int i = 0; i < nx; ++i) row[reflect(i - left, job.width)] += from[ptrdiff_t(i) * W];
      }
    }
  }
};

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_BACKWARD_INL_H_
