// What the forward and the backward pass share: scratch memory, lanes in and out of tensors, the grids.

// Elements of the two grids' spectra and fields at level j, in scalars.
template <class T, int W>
struct Sizes {
  int ny, nx, lines_y, lines_x;
  explicit Sizes(const Pack<T>& pack, int j) : ny(pack.ny >> j), nx(pack.nx >> j) {}
  // A complex field with odd_stride rows, in either orientation.
  size_t field() const { return size_t(std::max(ny * odd_stride(nx), nx * odd_stride(ny))) * 2 * W; }
  size_t spectrum() const { return size_t(half_rows(ny)) * odd_stride(nx) * 2 * W; }
  // A field low-passed in one direction; level 0 has the most: its outputs are at most half of its inputs.
  size_t low_rows() const { return size_t(ny) * nx / 2 * W; }
};

// Hands out parts of a piece of memory; without one it only counts what they take.
template <class T>
struct Arena {
  T* base;
  size_t used = 0;
  T* take(size_t scalars) {
    T* taken = base ? base + used : nullptr;
    used += (scalars + 15) / 16 * 16;
    return taken;
  }
};

// The offset of coefficient q of a plane, in elements.
inline ptrdiff_t coefficient_offset(const Plane& p, int64_t plane, int colours, int coefficients, int q) {
  return plane / colours * p.image + (plane % colours * coefficients + q) * p.channel;
}

// Index of the first of the second-order coefficients of path (j1, θ1) among the K of a plane.
inline int second_coefficient(int J, int L, int j1, int theta1) {
  int paths = 0;
  for (int j = 0; j < j1; ++j) paths += L * (J - 1 - j);
  return 1 + J * L + L * paths + theta1 * L * (J - 1 - j1);
}

template <class To>
struct Cast {
  static To from(double v) { return static_cast<To>(static_cast<float>(v)); }
  static To from(float v) { return static_cast<To>(v); }
};
template <>
struct Cast<double> {
  static double from(double v) { return v; }
};

// gcc has __builtin_shufflevector from 12 on, clang has no __builtin_shuffle.
#ifdef __clang__
#define SCATSIMCLR_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SCATSIMCLR_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Vec<LaneIndex<T>, W>{__VA_ARGS__})
#endif

// Interleaves the lower (or upper) halves of a and b: a0 b0 a1 b1 …
template <class T, int W, bool upper, size_t... I>
SCATSIMCLR_INLINE Vec<T, W> zip(Vec<T, W> a, Vec<T, W> b, std::index_sequence<I...>) {
  return SCATSIMCLR_SHUFFLE(a, b, (int(I) / 2 + (upper ? W / 2 : 0) + (I % 2 ? W : 0))...);
}

#undef SCATSIMCLR_SHUFFLE

// Transposes W vectors of W lanes: log2(W) rounds of zipping the first half of the rows with the second.
template <class T, int W>
SCATSIMCLR_INLINE void transpose(Vec<T, W> (&rows)[W]) {
  SCATSIMCLR_UNROLL for (int round = 1; round < W; round *= 2) {
    Vec<T, W> next[W];
    SCATSIMCLR_UNROLL for (int i = 0; i < W / 2; ++i) {
      next[2 * i] = zip<T, W, false>(rows[i], rows[i + W / 2], std::make_index_sequence<W>{});
      next[2 * i + 1] = zip<T, W, true>(rows[i], rows[i + W / 2], std::make_index_sequence<W>{});
    }
    SCATSIMCLR_UNROLL for (int i = 0; i < W; ++i) rows[i] = next[i];
  }
}

// Lanes as bfloat16, rounded to nearest even, any NaN as c10::BFloat16's: the compiler leaves its test for NaN a branch.
template <int W>
SCATSIMCLR_INLINE void round_lanes(c10::BFloat16* to, Vec<float, W> v) {
  using Bits = Vec<uint32_t, W>;
  const Vec<int32_t, W> unequal = v != v;
  const Bits bits = reinterpret_cast<const Bits&>(v), nan = reinterpret_cast<const Bits&>(unequal);
  const Bits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const Bits whole = (rounded & ~nan) | (nan & 0x7FC0u);
  const Vec<uint16_t, W> half = __builtin_convertvector(whole, Vec<uint16_t, W>);
  std::memcpy(static_cast<void*>(to), &half, sizeof half);
}

// The first `count` lanes as neighbouring elements.
template <class E, class T, int W>
SCATSIMCLR_INLINE void write_vector(E* to, Vec<T, W> v, int count) {
  if constexpr (std::is_same_v<E, T>) {
    if (count == W) {
      *reinterpret_cast<typename Simd<T, W>::Unaligned*>(to) = v;
      return;
    }
  }
  alignas(64) E elements[W];
  if constexpr (std::is_same_v<E, c10::BFloat16> && std::is_same_v<T, float>) {
    round_lanes<W>(elements, v);
  } else {
    for (int i = 0; i < W; ++i) elements[i] = Cast<E>::from(v[i]);
  }
  if (count == W) {
    std::memcpy(static_cast<void*>(to), elements, sizeof elements);
  } else {
    for (int i = 0; i < count; ++i) to[i] = elements[i];
  }
}

template <class E, class T, int W>
void write_lanes_as(const Plane& out, const T* s, int height, int width, const ptrdiff_t* offset, int used) {
  E* base = static_cast<E*>(out.data);
  if (out.column == 1 && (out.row == width || height == 1)) {
    const int pixels = height * width;
    int p = 0;
    for (; p + W <= pixels; p += W) {
      Vec<T, W> rows[W];
      SCATSIMCLR_UNROLL for (int i = 0; i < W; ++i) rows[i] = at<T, W>(s + ptrdiff_t(p + i) * W);
      transpose<T, W>(rows);
      for (int l = 0; l < used; ++l) write_vector<E, T, W>(base + offset[l] + p, rows[l], W);
    }
    for (; p < pixels; ++p) {
      for (int l = 0; l < used; ++l) base[offset[l] + p] = Cast<E>::from(s[ptrdiff_t(p) * W + l]);
    }
    return;
  }
  bool neighbours = true;
  for (int l = 1; l < used; ++l) neighbours &= offset[l] == offset[0] + l;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x, s += W) {
      E* pixel = base + y * out.row + x * out.column;
      if (neighbours) {
        write_vector<E, T, W>(pixel + offset[0], at<T, W>(s), used);
      } else {
        for (int l = 0; l < used; ++l) pixel[offset[l]] = Cast<E>::from(s[l]);
      }
    }
  }
}

// Writes `count` <= W fields at once, whose coefficients follow each other: those of lane l go to offset[l] and
// behind it. Channels-last, where a field at a time would touch every line of the output for 2 or 4 bytes.
template <class E, class T, int W>
void write_runs_as(const Plane& out, const T* s, int height, int width, int count, const ptrdiff_t* offset, int used) {
  E* base = static_cast<E*>(out.data);
  const ptrdiff_t field = ptrdiff_t(height) * width * W;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x, s += W) {
      Vec<T, W> rows[W] = {};
      for (int k = 0; k < count; ++k) rows[k] = at<T, W>(s + k * field);
      transpose<T, W>(rows);
      E* pixel = base + y * out.row + x * out.column;
      for (int l = 0; l < used; ++l) write_vector<E, T, W>(pixel + offset[l], rows[l], count);
    }
  }
}

template <class T, int W>
void write_runs(const Plane& out, const T* s, int height, int width, int count, const ptrdiff_t* offset, int used) {
  switch (out.type) {
    case Element::f32: return write_runs_as<float, T, W>(out, s, height, width, count, offset, used);
    case Element::f64: return write_runs_as<double, T, W>(out, s, height, width, count, offset, used);
    case Element::bf16: return write_runs_as<c10::BFloat16, T, W>(out, s, height, width, count, offset, used);
    case Element::f16: return write_runs_as<c10::Half, T, W>(out, s, height, width, count, offset, used);
  }
}

// Writes a field (height · width, W lanes) of coefficients; lane l goes to offset[l] of the output.
template <class T, int W>
void write_lanes(const Plane& out, const T* s, int height, int width, const ptrdiff_t* offset, int used) {
  switch (out.type) {
    case Element::f32: return write_lanes_as<float, T, W>(out, s, height, width, offset, used);
    case Element::f64: return write_lanes_as<double, T, W>(out, s, height, width, offset, used);
    case Element::bf16: return write_lanes_as<c10::BFloat16, T, W>(out, s, height, width, offset, used);
    case Element::f16: return write_lanes_as<c10::Half, T, W>(out, s, height, width, offset, used);
  }
}

template <class E, class T, int W>
void read_lanes_as(const Plane& in, T* s, int height, int width, const ptrdiff_t* offset, int used) {
  const E* base = static_cast<const E*>(in.data);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x, s += W) {
      const E* pixel = base + y * in.row + x * in.column;
      for (int l = 0; l < W; ++l) s[l] = l < used ? static_cast<T>(pixel[offset[l]]) : T(0);
    }
  }
}

// Reads a field of gradients; lanes that are not used become 0.
template <class T, int W>
void read_lanes(const Plane& in, T* s, int height, int width, const ptrdiff_t* offset, int used) {
  switch (in.type) {
    case Element::f32: return read_lanes_as<float, T, W>(in, s, height, width, offset, used);
    case Element::f64: return read_lanes_as<double, T, W>(in, s, height, width, offset, used);
    case Element::bf16: return read_lanes_as<c10::BFloat16, T, W>(in, s, height, width, offset, used);
    case Element::f16: return read_lanes_as<c10::Half, T, W>(in, s, height, width, offset, used);
  }
}

// Index reflection without repeating the edge, of period 2(size − 1), as numpy.pad(mode="reflect").
inline int reflect(int index, int size) {
  const int period = std::max(2 * (size - 1), 1);
  const int i = ((index % period) + period) % period;
  return i < size ? i : period - i;
}

// Columns of planes first … first + W of x, padded by reflection, one plane in each lane; lanes beyond the last
// plane hold 0.
template <class T, int W>
void read_planes(const Scattering<T>& job, int64_t first, Range columns, T* padded) {
  const int ny = job.pack.ny, nx = job.pack.nx, count = columns.end - columns.begin;
  const int top = (ny - job.height) / 2, left = (nx - job.width) / 2;
  const int used = static_cast<int>(std::min<int64_t>(W, job.images * job.colours - first));
  const T* plane[W];
  for (int l = 0; l < used; ++l) {
    plane[l] = static_cast<const T*>(job.x.data) + (first + l) / job.colours * job.x.image +
               (first + l) % job.colours * job.x.channel;
  }
  // Columns begin … end come from the image itself, in its order; those before and after are reflections.
  const int begin = std::clamp(left - columns.begin, 0, count);
  const int end = std::clamp(left + job.width - columns.begin, begin, count);
  for (int y = 0; y < ny; ++y) {
    T* row = padded + ptrdiff_t(y) * count * W;
    const ptrdiff_t from = reflect(y - top, job.height) * job.x.row;
    const auto copy = [&](int i, int column) {
      at<T, W>(row + ptrdiff_t(i) * W) = Vec<T, W>{};
      for (int l = 0; l < used; ++l) row[i * W + l] = plane[l][from + column * job.x.column];
    };
    for (int i = 0; i < begin; ++i) copy(i, reflect(columns.begin + i - left, job.width));
    int i = begin;
    for (; job.x.column == 1 && i + W <= end; i += W) {
      Vec<T, W> block[W] = {};
      for (int l = 0; l < used; ++l) {
        block[l] = *reinterpret_cast<const typename Simd<T, W>::Unaligned*>(plane[l] + from + columns.begin + i - left);
      }
      transpose<T, W>(block);
      SCATSIMCLR_UNROLL for (int k = 0; k < W; ++k) at<T, W>(row + ptrdiff_t(i + k) * W) = block[k];
    }
    for (; i < end; ++i) copy(i, columns.begin + i - left);
    for (; i < count; ++i) copy(i, reflect(columns.begin + i - left, job.width));
  }
}
