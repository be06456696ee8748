// The forward pass where there are too few signals for the lanes: one signal at a time, and the lanes are W
// neighbouring columns of its fields. An element of a field is then a block of W columns; along the columns all is
// as in scattering2d_forward.inl, along the rows W rows are transposed, transformed and transposed back.

template <class T, int W>
struct Single {
  using V = Vec<T, W>;
  const Scattering<T>& job;
  const Pack<T>& pack;
  T *z, *spectrum1, *low_rows, *columns, *turned, *s, *coefficient, *scratch;

  // Blocks of a row of n; an even number, because columns are transformed in pairs.
  static int blocks(int n) { return (n + 2 * W - 1) / (2 * W) * 2; }
  static size_t field(int rows, int n) { return size_t(rows) * odd_stride(blocks(n)) * 2 * W; }
  static size_t spectrum0_scalars(const Pack<T>& pack) { return field(half_rows(pack.ny), pack.nx); }

  Single(const Scattering<T>& job_, Arena<T>& arena) : job(job_), pack(job_.pack) {
    const size_t n = size_t(std::max(pack.ny, pack.nx)), m = size_t(job.out_height) * job.out_width;
    z = arena.take(std::max(field(pack.ny, pack.nx), field(pack.nx, pack.ny)));
    spectrum1 = arena.take(spectrum0_scalars(pack));
    low_rows = arena.take((n / 2) * blocks(static_cast<int>(n)) * W);
    columns = arena.take(4 * n * W);
    turned = arena.take(2 * (n + W) * W);
    s = arena.take(n * W);
    coefficient = arena.take(m);
    scratch = arena.take(2 * (n + job.fft_scratch) * W);
  }

  // W rows from `first` (the last one again where there are no more), transposed: turned[x][parts][W rows].
  void turn(const T* rows, ptrdiff_t stride, int first, int count, int n, int parts) {
    for (int b = 0; b < (n + W - 1) / W; ++b) {
      for (int part = 0; part < parts; ++part) {
        V v[W];
        for (int l = 0; l < W; ++l) {
          v[l] = at<T, W>(rows + std::min(first + l, count - 1) * stride + ptrdiff_t(b * parts + part) * W);
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
          at<T, W>(rows + (first + l) * stride + ptrdiff_t(b * 2 + part) * W) = v[l];
        }
      }
    }
  }

  static ptrdiff_t stride_of(int n) { return ptrdiff_t(odd_stride(blocks(n))) * 2 * W; }

  void spectrum_rows(int n, int rows, T* spectrum) {
    for (int first = 0; first < rows; first += W) {
      turn(spectrum, stride_of(n), first, rows, n, 2);
      fft<T, W>(fft_plan<T>(n), {turned, turned + W, 2 * W}, {turned, turned + W, 2 * W}, scratch);
      turn_back(spectrum, stride_of(n), first, rows, n);
    }
  }

  // Line `line` of the filtered and folded spectrum (rows of n) into lane `lane` of `turned`, which holds zeros.
  void gather(const Product<T>& product, int line, int lane, const T* spectrum, int n, int theta) {
    for (int i = product.line_start[line]; i < product.line_start[line + 1]; ++i) {
      const Segment& segment = product.segments[i];
      int row = segment.source / odd_stride(n), x = segment.source % odd_stride(n);
      const bool along = segment.step == 1 || segment.step == -1;
      const int row_step = along ? 0 : segment.step / odd_stride(n), x_step = along ? segment.step : 0;
      const T sign = segment.conj ? -1 : 1;
      const T* weight = product.weights + ptrdiff_t(segment.weight) * product.weight_stride + theta;
      T* to = turned + ptrdiff_t(segment.dst) * 2 * W + lane;
      for (int k = 0; k < segment.length; ++k, row += row_step, x += x_step) {
        const T* from = spectrum + row * stride_of(n) + x / W * 2 * W + x % W;
        to[0] += *weight * from[0], to[W] += sign * *weight * from[W];
        to += 2 * W, weight += product.weight_stride;
      }
    }
  }

  // First half of an inverse transform, into z.
  void inverse_lines(const Product<T>& product, const T* spectrum, int n, int theta) {
    for (int first = 0; first < product.lines; first += W) {
      const int last = std::min(first + W, product.lines);
      // Lanes beyond the row are 0 too: real columns are transformed in pairs, and large values would spoil their
      // partner's digits.
      std::fill_n(turned, ptrdiff_t(product.length + W - 1) / W * W * 2 * W, T(0));
      for (int line = first; line < last; ++line) gather(product, line, line - first, spectrum, n, theta);
      if (product.line_start[first] < product.line_start[last]) {
        fft<T, W>(fft_plan<T>(product.length), {turned + W, turned, 2 * W}, {turned + W, turned, 2 * W}, scratch);
      }
      turn_back(z, stride_of(product.length), first, product.lines, product.length);
    }
  }

  // Second half, modulus, and every pair of blocks into the sink.
  void modulus_columns(const Product<T>& product, const Columns<T, W>& sink) {
    const FftPlan<T>& cols = fft_plan<T>(product.lines);
    const ptrdiff_t stride = stride_of(product.length);
    const int used = (product.length + W - 1) / W;
    for (int a = 0; a < used; a += 2) {
      T* second = columns;  // an odd number of blocks ends with the same one twice
      for (int i = 0; i < 2 && a + i < used; ++i) {
        const T* from = z + ptrdiff_t(a + i) * 2 * W;
        second = columns + ptrdiff_t(i) * product.lines * W;
        fft<T, W, Result::modulus>(cols, {from + W, from, stride}, {second, second, W}, scratch);
      }
      sink.put(a, columns, second, W);
    }
  }

  Columns<T, W> sink(int lines, int length, T* spectrum, const Lowpass<T>& low) const {
    return {&fft_plan<T>(lines), blocks(length), spectrum, &low, low_rows, scratch};
  }

  // Low-pass along the rows, W of them at once, and out.
  void finish(const Columns<T, W>& sink, int j, bool transposed, int n, int64_t plane, int q) {
    const Lowpass<T>& across = (transposed ? pack.low_y : pack.low_x)[j];
    const int rows = sink.low->outputs, w = job.out_width;
    for (int first = 0; first < rows; first += W) {
      turn(low_rows, ptrdiff_t(sink.width) * W, first, rows, n, 1);
      lowpass<T, W>(across, turned, W, s, W);
      for (int l = 0; l < W && first + l < rows; ++l) {
        for (int k = 0; k < across.outputs; ++k) {
          coefficient[transposed ? k * w + first + l : (first + l) * w + k] = s[ptrdiff_t(k) * W + l];
        }
      }
    }
    const ptrdiff_t offset = coefficient_offset(job.coefficients_out, plane, job.colours, job.coefficients, q);
    write_lanes<T, 1>(job.coefficients_out, coefficient, job.out_height, w, &offset, 1);
  }

  // û of a plane, into `spectrum0`, and its S0.
  void block(int64_t plane, T* spectrum0) {
    const int ny = pack.ny, nx = pack.nx;
    const ptrdiff_t row = ptrdiff_t(blocks(nx)) * W;
    read_plane(plane, row);
    const Columns<T, W> into = sink(ny, nx, spectrum0, pack.low_y[0]);
    for (int a = 0; a < blocks(nx); a += 2) into.put(a, z + ptrdiff_t(a) * W, z + ptrdiff_t(a + 1) * W, row);
    spectrum_rows(nx, half_rows(ny), spectrum0);
    finish(into, 0, false, nx, plane, 0);
  }

  // A padded plane into z, its rows `row` apart.
  void read_plane(int64_t plane, ptrdiff_t row) {
    const int ny = pack.ny, nx = pack.nx, top = (ny - job.height) / 2, left = (nx - job.width) / 2;
    const T* x = static_cast<const T*>(job.x.data) + plane / job.colours * job.x.image +
                 plane % job.colours * job.x.channel;
    std::fill_n(z, ny * row, T(0));
    for (int y = 0; y < ny; ++y) {
      const T* from = x + reflect(y - top, job.height) * job.x.row;
      for (int i = 0; i < nx; ++i) z[y * row + i] = from[reflect(i - left, job.width) * job.x.column];
    }
  }

  // All coefficients of orders 1 and 2 of the paths that begin with (j1, θ1).
  void path(int64_t plane, int j1, int theta1, const T* spectrum0) {
    const Product<T>& first = pack.first[j1];
    const bool second_follows = pack.max_order >= 2 && j1 + 1 < pack.J;
    inverse_lines(first, spectrum0, pack.nx, theta1);
    const Columns<T, W> into = sink(first.lines, first.length, second_follows ? spectrum1 : nullptr, pack.low_y[j1]);
    modulus_columns(first, into);
    finish(into, j1, false, first.length, plane, 1 + j1 * pack.L + theta1);
    if (!second_follows) return;
    spectrum_rows(first.length, half_rows(first.lines), spectrum1);
    for (int n2 = (j1 + 1) * pack.L; n2 < pack.J * pack.L; ++n2) {
      const Product<T>& second = pack.second[pack.second_index(j1, n2)];
      const int j2 = n2 / pack.L;
      inverse_lines(second, spectrum1, first.length, 0);
      const bool t = second.transposed;
      const Columns<T, W> last = sink(second.lines, second.length, nullptr, (t ? pack.low_x : pack.low_y)[j2]);
      modulus_columns(second, last);
      finish(last, j2, t, second.length, plane,
             second_coefficient(pack.J, pack.L, j1, theta1) + n2 - (j1 + 1) * pack.L);
    }
  }
};

template <class T, int W>
struct SingleRounds {
  const Scattering<T>& job;
  T* spectra0 = nullptr;

  Single<T, W> worker() const {
    Arena<T> sizes{nullptr};
    Single<T, W>(job, sizes);
    Arena<T> memory{reinterpret_cast<T*>(workspace(Slot::own, sizes.used * sizeof(T)))};
    return Single<T, W>(job, memory);
  }

  static void block(void* context, int64_t plane) {
    const SingleRounds& r = *static_cast<SingleRounds*>(context);
    r.worker().block(plane, r.spectra0 + plane * Single<T, W>::spectrum0_scalars(r.job.pack));
  }

  // The finest scale, which is dearest, first.
  static void path(void* context, int64_t task) {
    const SingleRounds& r = *static_cast<SingleRounds*>(context);
    const int64_t planes = r.job.images * r.job.colours, signals = planes * r.job.pack.L;
    const int64_t plane = task % signals / r.job.pack.L;
    r.worker().path(plane, static_cast<int>(task / signals), static_cast<int>(task % r.job.pack.L),
                    r.spectra0 + plane * Single<T, W>::spectrum0_scalars(r.job.pack));
  }

  void run() {
    const int64_t planes = job.images * job.colours;
    const size_t scalars = planes * Single<T, W>::spectrum0_scalars(job.pack);
    spectra0 = reinterpret_cast<T*>(workspace(Slot::shared, scalars * sizeof(T)));
    parallel_tasks(planes, &block, this);
    parallel_tasks(planes * job.pack.L * job.pack.J, &path, this);
  }
};
