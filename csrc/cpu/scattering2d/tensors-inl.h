// Lanes from and to tensors of any dtype and strides.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/layout-inl.h"
#include "cpu/simd/bfloat16-inl.h"
#include "cpu/simd/shuffle-inl.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_SCATTERING2D_TENSORS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_TENSORS_INL_H_
#undef SCATSIMCLR_SCATTERING2D_TENSORS_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_TENSORS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// Calls f with a value of the element's type.
template <class F>
SCATSIMCLR_INLINE void with_element(Element type, const F& f) {
  switch (type) {
    case Element::f32: return f(float{});
    case Element::f64: return f(double{});
    case Element::bf16: return f(c10::BFloat16{});
    case Element::f16: return f(c10::Half{});
  }
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

// The first `count` lanes as neighbouring elements.
template <class E, class T, int W>
SCATSIMCLR_INLINE void write_vector(E* to, Vec<T, W> v, int count) {
  if constexpr (std::is_same_v<E, T>) {
    if (count == W) {
      store<T, W>(to, v);
      return;
    }
  }
  alignas(64) E elements[W];
  if constexpr (std::is_same_v<E, c10::BFloat16> && std::is_same_v<T, float>) {
    store_float<W>(reinterpret_cast<uint16_t*>(elements), v);
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
  with_element(out.type, [&](auto element) {
    write_runs_as<decltype(element), T, W>(out, s, height, width, count, offset, used);
  });
}

// Writes a field (height · width, W lanes) of coefficients; lane l goes to offset[l] of the output.
template <class T, int W>
void write_lanes(const Plane& out, const T* s, int height, int width, const ptrdiff_t* offset, int used) {
  with_element(out.type, [&](auto element) {
    write_lanes_as<decltype(element), T, W>(out, s, height, width, offset, used);
  });
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
  with_element(in.type, [&](auto element) {
    read_lanes_as<decltype(element), T, W>(in, s, height, width, offset, used);
  });
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
        block[l] = load<T, W>(plane[l] + from + columns.begin + i - left);
      }
      transpose<T, W>(block);
      SCATSIMCLR_UNROLL for (int k = 0; k < W; ++k) at<T, W>(row + ptrdiff_t(i + k) * W) = block[k];
    }
    for (; i < end; ++i) copy(i, columns.begin + i - left);
    for (; i < count; ++i) copy(i, reflect(columns.begin + i - left, job.width));
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_TENSORS_INL_H_
