// The forward pass. A block is W planes; a group is W of a block's (plane, θ1) pairs at one scale j1.
//
// For each block: û of its planes and S0. For each group: U1, S1 and û1, and from û1, while it is in cache,
// every second-order path of the group. Each step takes a range of lines, columns or rows, so that several
// threads can share it (rounds-inl.h).
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

#if defined(SCATSIMCLR_SCATTERING2D_FORWARD_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_FORWARD_INL_H_
#undef SCATSIMCLR_SCATTERING2D_FORWARD_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_FORWARD_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// Turns pairs of real columns of a field U into its half spectrum and its low-pass, as they are made.
template <class T, int W>
struct Columns {
  const FftPlan<T>* plan;  // along the columns
  int width;
  HalfSpectrum<T> spectrum;
  const Lowpass<T>* low;  // null: not separable
  T* low_rows;           // low-passed columns: [output][width]
  T* pair;               // scratch

  void put(int a, const T* u0, const T* u1, ptrdiff_t stride) const {
    if (low) {
      lowpass<T, W>(*low, u0, stride, low_rows + ptrdiff_t(a) * W, ptrdiff_t(width) * W);
      lowpass<T, W>(*low, u1, stride, low_rows + ptrdiff_t(a + 1) * W, ptrdiff_t(width) * W);
    }
    if (spectrum.data) forward_pair<T, W>(*plan, u0, u1, stride, spectrum.from(a), pair);
  }
};

// What a block or a group at one scale leaves for its later steps.
template <class T>
struct Stored {
  T *z, *spectrum, *low_rows;
};

template <class T, int W>
Stored<T> take_stored(const Pack<T>& pack, int level, Arena& arena) {
  const Sizes<T, W> sizes(pack, level);
  return {arena.take<T>(sizes.field()), arena.take<T>(sizes.spectrum()), arena.take<T>(sizes.low_rows())};
}

// Bytes of fields that wait for being written together: no more than stays in a core's cache beside a path.
constexpr int64_t kTogether = 640 << 10;

template <class T, int W>
struct Forward {
  const Scattering<T>& job;
  const Pack<T>& pack;
  // How many fields of one path's second order are written at once; `s` holds that many.
  int together;
  // Buffers of this thread.
  Stored<T> own;
  T *second_spectrum, *s, *line, *columns, *scratch;

  // `level`: the finest scale whose fields this thread keeps to itself.
  Forward(const Scattering<T>& job_, int level, Arena& arena) : job(job_), pack(job_.pack) {
    const size_t n = size_t(std::max(pack.ny, pack.nx));
    own = take_stored<T, W>(pack, level, arena);
    second_spectrum = pack.separable ? nullptr : arena.take<T>(Sizes<T, W>(pack, 0).spectrum());
    const int64_t field = int64_t{job.out_height} * job.out_width * W;
    const int64_t fitting = kTogether / (field * int64_t(sizeof(T)));
    together = job.coefficients_out.channel == 1 ? static_cast<int>(std::clamp<int64_t>(fitting, 1, W)) : 1;
    s = arena.take<T>(field * together);
    line = arena.take<T>(n * 2 * W);
    columns = arena.take<T>(n * 4 * W);
    scratch = arena.take<T>(2 * (n + job.fft_scratch) * W);
  }

  // Low-pass of a field whose columns went through `sink`, into `to`.
  void finish(const Columns<T, W>& sink, int j, bool transposed, T* to) {
    const int w = job.out_width;
    if (sink.low) {
      const Lowpass<T>& across = (transposed ? pack.low_y : pack.low_x)[j];
      for (int m = 0; m < sink.low->outputs; ++m) {
        T* out = to + ptrdiff_t(transposed ? m : m * w) * W;
        lowpass<T, W>(across, sink.low_rows + ptrdiff_t(m) * sink.width * W, W, out, (transposed ? w : 1) * W);
      }
    } else {
      const Product<T>& phi = pack.phi[j];
      const FftPlan<T>&rows = fft_plan<T>(phi.length), &cols = fft_plan<T>(phi.lines);
      inverse_lines<T, W, false>(phi, {0, phi.lines}, sink.spectrum.data, nullptr, rows, own.z, line, scratch);
      const ptrdiff_t stride = ptrdiff_t(odd_stride(phi.length)) * 2 * W;
      for (int x = 1; x + 1 < phi.length; ++x) {
        T* column = own.z + ptrdiff_t(x) * 2 * W;
        fft<T, W>(cols, {column + W, column, stride}, {columns + W, columns, 2 * W}, scratch);
        for (int y = 1; y + 1 < phi.lines; ++y) {
          at<T, W>(to + (ptrdiff_t(y - 1) * w + x - 1) * W) = at<T, W>(columns + ptrdiff_t(y) * 2 * W);
        }
      }
    }
  }

  // The same, written as coefficient offsets[l] of each lane.
  void finish(const Columns<T, W>& sink, int j, bool transposed, const ptrdiff_t* offsets, int used) {
    finish(sink, j, transposed, s);
    write_lanes<T, W>(job.coefficients_out, s, job.out_height, job.out_width, offsets, used);
  }

  Columns<T, W> block_sink(const Stored<T>& stored) const {
    return {&fft_plan<T>(pack.ny), pack.nx, half_spectrum<T, W>(stored.spectrum, pack.nx),
            pack.separable ? &pack.low_y[0] : nullptr, stored.low_rows, scratch};
  }

  // Columns of û of the planes of a block.
  void block_columns(int64_t first_plane, Range range, const Stored<T>& stored) {
    read_planes<T, W>(job, first_plane, range, own.z);
    const Columns<T, W> sink = block_sink(stored);
    for (int a = range.begin; a < range.end; a += 2) {
      const T* u = own.z + ptrdiff_t(a - range.begin) * W;
      sink.put(a, u, u + W, ptrdiff_t(range.end - range.begin) * W);
    }
  }

  void block_rows(Range range, const Stored<T>& stored) {
    spectrum_rows<T, W>(fft_plan<T>(pack.nx), range, stored.spectrum, false, scratch);
  }

  // S0 of a block.
  void block_finish(int64_t first_plane, const Stored<T>& stored) {
    ptrdiff_t offsets[W];
    const int used = static_cast<int>(std::min<int64_t>(W, job.images * job.colours - first_plane));
    for (int l = 0; l < used; ++l) {
      offsets[l] = coefficient_offset(job, first_plane + l, 0);
    }
    finish(block_sink(stored), 0, false, offsets, used);
  }

  // Second half of the inverse transform in z, modulus, and both columns of each pair into the sink.
  void modulus_columns(const Product<T>& product, Range range, const T* z, const Columns<T, W>& sink) {
    const FftPlan<T>& cols = fft_plan<T>(product.lines);
    const ptrdiff_t stride = ptrdiff_t(odd_stride(product.length)) * 2 * W;
    const int n = product.lines;
    for (int a = range.begin; a < range.end; a += 2) {
      for (int i = 0; i < 2; ++i) {
        const T* from = z + ptrdiff_t(a + i) * 2 * W;
        T* to = columns + ptrdiff_t(i) * n * W;
        fft<T, W, Result::modulus>(cols, {from + W, from, stride}, {to, to, W}, scratch);
      }
      sink.put(a, columns, columns + ptrdiff_t(n) * W, W);
    }
  }

  Columns<T, W> group_sink(int j1, const Stored<T>& stored) const {
    const bool wanted = !pack.separable || pack.second_follows(j1);
    const int width = pack.first[j1].length;
    return {&fft_plan<T>(pack.first[j1].lines), width, half_spectrum<T, W>(wanted ? stored.spectrum : nullptr, width),
            pack.separable ? &pack.low_y[j1] : nullptr, stored.low_rows, scratch};
  }

  // The first order of a group, step by step: z1; U1, and columns of û1 and S1; rows of û1; S1.
  void group_lines(int j1, Range range, const Lanes<T, W>& lanes, const T* spectrum0,
                   const Stored<T>& stored) {
    const Product<T>& product = pack.first[j1];
    inverse_lines<T, W, true>(product, range, spectrum0, &lanes, fft_plan<T>(product.length), stored.z, line,
                              scratch);
  }
  void group_columns(int j1, Range range, const Stored<T>& stored) {
    modulus_columns(pack.first[j1], range, stored.z, group_sink(j1, stored));
  }
  void group_rows(int j1, Range range, const Stored<T>& stored) {
    T* spectrum = group_sink(j1, stored).spectrum.data;
    if (spectrum) spectrum_rows<T, W>(fft_plan<T>(pack.first[j1].length), range, spectrum, false, scratch);
  }
  void group_finish(int j1, int64_t first_plane, const Lanes<T, W>& lanes, const Stored<T>& stored) {
    ptrdiff_t offsets[W];
    for (int l = 0; l < lanes.used; ++l) {
      offsets[l] = coefficient_offset(job, first_plane + lanes.plane[l], 1 + j1 * pack.L + lanes.theta[l]);
    }
    finish(group_sink(j1, stored), j1, false, offsets, lanes.used);
  }

  // S2 of the paths (j1, lanes) -> n2, into `to`.
  void second_order(int j1, int n2, const T* spectrum, T* to) {
    const Product<T>& product = pack.second[pack.second_index(j1, n2)];
    const int j2 = n2 / pack.L;
    const FftPlan<T>&rows = fft_plan<T>(product.length), &cols = fft_plan<T>(product.lines);
    inverse_lines<T, W, false>(product, {0, product.lines}, spectrum, nullptr, rows, own.z, line, scratch);
    const Lowpass<T>* low = nullptr;
    if (pack.separable) low = product.transposed ? &pack.low_x[j2] : &pack.low_y[j2];
    const Columns<T, W> sink{&cols, product.length, half_spectrum<T, W>(low ? nullptr : second_spectrum, product.length),
                             low, own.low_rows, scratch};
    modulus_columns(product, {0, product.length}, own.z, sink);
    if (!low) spectrum_rows<T, W>(rows, {0, half_rows(product.lines)}, second_spectrum, false, scratch);
    finish(sink, j2, product.transposed, to);
  }

  // S2 of the paths (j1, lanes) -> range.
  void second_orders(int j1, Range range, int64_t first_plane, const Lanes<T, W>& lanes, const T* spectrum) {
    const int h = job.out_height, w = job.out_width;
    for (int begin = range.begin, count; begin < range.end; begin += count) {
      count = std::min(together, range.end - begin);
      for (int k = 0; k < count; ++k) second_order(j1, begin + k, spectrum, s + ptrdiff_t(k) * h * w * W);
      ptrdiff_t offsets[W];
      for (int l = 0; l < lanes.used; ++l) {
        const int q = second_coefficient(pack.J, pack.L, j1, lanes.theta[l]) + begin - (j1 + 1) * pack.L;
        offsets[l] = coefficient_offset(job, first_plane + lanes.plane[l], q);
      }
      if (count > 1) {
        write_runs<T, W>(job.coefficients_out, s, h, w, count, offsets, lanes.used);
      } else {
        write_lanes<T, W>(job.coefficients_out, s, h, w, offsets, lanes.used);
      }
    }
  }
};

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_FORWARD_INL_H_
