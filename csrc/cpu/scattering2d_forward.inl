// The forward pass. A block is W planes; a group is W of a block's (plane, θ1) pairs at one scale j1.
//
// For each block: û of its planes and S0. For each group: U1, S1 and û1, and from û1, while it is in cache,
// every second-order path of the group.

// Turns pairs of real columns of a field U into its half spectrum and its low-pass, as they are made.
template <class T, int W>
struct Columns {
  const FftPlan<T>* plan;  // along the columns
  int width;
  T* spectrum;           // null: not wanted
  const Lowpass<T>* low;  // null: not separable
  T* low_rows;           // low-passed columns: [output][width]
  T* pair;               // scratch

  void put(int a, const T* u0, const T* u1, ptrdiff_t stride) const {
    if (low) {
      lowpass<T, W>(*low, u0, stride, low_rows + ptrdiff_t(a) * W, ptrdiff_t(width) * W);
      lowpass<T, W>(*low, u1, stride, low_rows + ptrdiff_t(a + 1) * W, ptrdiff_t(width) * W);
    }
    if (spectrum) {
      forward_pair<T, W>(*plan, u0, u1, stride, spectrum + ptrdiff_t(a) * 2 * W,
                         ptrdiff_t(odd_stride(width)) * 2 * W, pair);
    }
  }
};

template <class T, int W>
struct Forward {
  const Scattering<T>& job;
  const Pack<T>& pack;
  // Buffers of this thread.
  T *z, *spectrum1, *spectrum2, *low_rows, *s, *line, *columns, *scratch;

  static size_t own_scalars(const Pack<T>& pack) {
    const size_t n = size_t(std::max(pack.ny, pack.nx)), level0 = Sizes<T, W>(pack, 0).field();
    return level0 + 2 * Sizes<T, W>(pack, 0).spectrum() + n * n / 2 * W + n * n / 4 * W + 12 * n * 2 * W + 256;
  }

  Forward(const Scattering<T>& job_, T* memory) : job(job_), pack(job_.pack) {
    Arena<T> arena{memory};
    const size_t n = size_t(std::max(pack.ny, pack.nx));
    const Sizes<T, W> level0(pack, 0);
    z = arena.take(level0.field());
    spectrum1 = arena.take(level0.spectrum());
    spectrum2 = arena.take(level0.spectrum());
    low_rows = arena.take(n * n / 2 * W);
    s = arena.take(n * n / 4 * W);
    line = arena.take(n * 2 * W);
    columns = arena.take(n * 4 * W);
    scratch = arena.take(n * 8 * W);
  }

  // Low-pass of a field whose columns went through `sink`, written as coefficient offsets[l] of each lane.
  void finish(const Columns<T, W>& sink, int j, bool transposed, const ptrdiff_t* offsets, int used) {
    const int h = job.out_height, w = job.out_width;
    if (sink.low) {
      const Lowpass<T>& across = (transposed ? pack.low_y : pack.low_x)[j];
      for (int m = 0; m < sink.low->outputs; ++m) {
        T* out = s + ptrdiff_t(transposed ? m : m * w) * W;
        lowpass<T, W>(across, low_rows + ptrdiff_t(m) * sink.width * W, W, out, (transposed ? w : 1) * W);
      }
    } else {
      const Product<T>& phi = pack.phi[j];
      const FftPlan<T>&rows = fft_plan<T>(phi.length), &cols = fft_plan<T>(phi.lines);
      inverse_lines<T, W, false>(phi, sink.spectrum, nullptr, rows, z, line, scratch);
      const ptrdiff_t stride = ptrdiff_t(odd_stride(phi.length)) * 2 * W;
      for (int x = 1; x + 1 < phi.length; ++x) {
        T* column = z + ptrdiff_t(x) * 2 * W;
        fft<T, W>(cols, {column + W, column, stride}, {columns + W, columns, 2 * W}, scratch);
        for (int y = 1; y + 1 < phi.lines; ++y) {
          at<T, W>(s + (ptrdiff_t(y - 1) * w + x - 1) * W) = at<T, W>(columns + ptrdiff_t(y) * 2 * W);
        }
      }
    }
    write_lanes<T, W>(job.coefficients_out, s, h, w, offsets, used);
  }

  // û of the planes of a block, into `spectrum0`, and their S0.
  void block(int64_t first_plane, T* spectrum0) {
    read_planes<T, W>(job, first_plane, z);
    const FftPlan<T>&rows = fft_plan<T>(pack.nx), &cols = fft_plan<T>(pack.ny);
    const Columns<T, W> sink{&cols, pack.nx, spectrum0, pack.separable ? &pack.low_y[0] : nullptr, low_rows,
                             scratch};
    for (int a = 0; a < pack.nx; a += 2) {
      sink.put(a, z + ptrdiff_t(a) * W, z + ptrdiff_t(a + 1) * W, ptrdiff_t(pack.nx) * W);
    }
    spectrum_rows<T, W>(rows, half_rows(pack.ny), spectrum0, false, scratch);
    ptrdiff_t offsets[W];
    const int used = static_cast<int>(std::min<int64_t>(W, job.images * job.colours - first_plane));
    for (int l = 0; l < used; ++l) {
      offsets[l] =
          coefficient_offset(job.coefficients_out, first_plane + l, job.colours, job.coefficients, 0);
    }
    finish(sink, 0, false, offsets, used);
  }

  // Second half of the inverse transform in z, modulus, and both columns of each pair into the sink.
  void modulus_columns(const Product<T>& product, const FftPlan<T>& cols, const Columns<T, W>& sink) {
    const ptrdiff_t stride = ptrdiff_t(odd_stride(product.length)) * 2 * W;
    const int n = product.lines;
    for (int a = 0; a < product.length; a += 2) {
      for (int i = 0; i < 2; ++i) {
        const T* from = z + ptrdiff_t(a + i) * 2 * W;
        T* to = columns + ptrdiff_t(i) * n * W;
        fft<T, W, Result::modulus>(cols, {from + W, from, stride}, {to, to, W}, scratch);
      }
      sink.put(a, columns, columns + ptrdiff_t(n) * W, W);
    }
  }

  // U1, S1 and, where there is a second order, û1 (into `spectrum`) of a group.
  void first_order(int j1, int64_t first_plane, const Lanes<T, W>& lanes, const T* spectrum0, T* spectrum) {
    const Product<T>& product = pack.first[j1];
    const FftPlan<T>&rows = fft_plan<T>(product.length), &cols = fft_plan<T>(product.lines);
    inverse_lines<T, W, true>(product, spectrum0, &lanes, rows, z, line, scratch);
    const bool wanted = !pack.separable || (pack.max_order >= 2 && j1 + 1 < pack.J);
    const Columns<T, W> sink{&cols, product.length, wanted ? spectrum : nullptr,
                             pack.separable ? &pack.low_y[j1] : nullptr, low_rows, scratch};
    modulus_columns(product, cols, sink);
    if (wanted) spectrum_rows<T, W>(rows, half_rows(product.lines), spectrum, false, scratch);
    ptrdiff_t offsets[W];
    for (int l = 0; l < lanes.used; ++l) {
      offsets[l] = coefficient_offset(job.coefficients_out, first_plane + lanes.plane[l], job.colours,
                                      job.coefficients, 1 + j1 * pack.L + lanes.theta[l]);
    }
    finish(sink, j1, false, offsets, lanes.used);
  }

  // S2 of the paths (j1, lanes) -> n2.
  void second_order(int j1, int n2, int64_t first_plane, const Lanes<T, W>& lanes, const T* spectrum) {
    const Product<T>& product = pack.second[pack.second_index(j1, n2)];
    const int j2 = n2 / pack.L;
    const FftPlan<T>&rows = fft_plan<T>(product.length), &cols = fft_plan<T>(product.lines);
    inverse_lines<T, W, false>(product, spectrum, nullptr, rows, z, line, scratch);
    const Lowpass<T>* low = nullptr;
    if (pack.separable) low = product.transposed ? &pack.low_x[j2] : &pack.low_y[j2];
    const Columns<T, W> sink{&cols, product.length, low ? nullptr : spectrum2, low, low_rows, scratch};
    modulus_columns(product, cols, sink);
    if (!low) spectrum_rows<T, W>(rows, half_rows(product.lines), spectrum2, false, scratch);
    ptrdiff_t offsets[W];
    for (int l = 0; l < lanes.used; ++l) {
      const int q = second_coefficient(pack.J, pack.L, j1, lanes.theta[l]) + n2 - (j1 + 1) * pack.L;
      offsets[l] = coefficient_offset(job.coefficients_out, first_plane + lanes.plane[l], job.colours,
                                      job.coefficients, q);
    }
    finish(sink, j2, product.transposed, offsets, lanes.used);
  }
};
