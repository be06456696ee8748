// How a pack is made of filters.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/scattering2d/pack_format.h"

namespace scatsimclr {
namespace {

// Filter bins below this part of the filter's maximum are dropped. float32: changes S2 by 0.2 of the threshold
// times its size, well under the rounding of an FFT (facts/scattering.md). float64: nothing is dropped.
template <class T>
constexpr double kPrune = std::is_same_v<T, float> ? 3e-7 : 0.0;
// Taps of the low-pass, likewise.
constexpr double kTaps = 1e-8;
// How far φ̂ may be from the outer product of its axes: the float32 rounding of kymatio's is up to 2e-7, and up to
// 3.3e-7 (at 998 points) where a large prime factor makes its transform less exact; another filter is 1e-3 off.
constexpr double kSeparable = 5e-7;

struct Writer {
  std::vector<char> bytes;

  template <class V>
  int64_t put(const V* data, size_t count) {
    const size_t at = (bytes.size() + 63) / 64 * 64;
    bytes.resize(at + count * sizeof(V));
    if (count > 0) std::memcpy(bytes.data() + at, data, count * sizeof(V));
    return static_cast<int64_t>(at);
  }
};

template <class T>
struct ProductBuilder {
  // The filters that share the product's weights rows: one, or the L orientations of one scale.
  std::vector<const T*> filters;
  int ny, nx, k, weight_stride;
  double scale;
  bool transposed;
  std::vector<double> floors;
  std::vector<int32_t> line_start{0};
  std::vector<Segment> segments;
  std::vector<T> weights;

  bool active(int ky, int kx) const {
    const size_t at = static_cast<size_t>(ky) * nx + kx;
    for (size_t f = 0; f < filters.size(); ++f) {
      if (!(std::abs(static_cast<double>(filters[f][at])) <= floors[f])) return true;
    }
    return false;
  }

  void append(int ky, int kx, int dst) {
    const bool mirrored = ky > ny / 2;
    const int row = mirrored ? ny - ky : ky, column = mirrored ? (nx - kx) % nx : kx;
    const int source = row * odd_stride(nx) + column;
    const int step = (mirrored ? -1 : 1) * (transposed ? odd_stride(nx) : 1);
    const auto weight = static_cast<int32_t>(weights.size() / weight_stride);
    if (!segments.empty() && static_cast<int>(segments.size()) > line_start.back()) {
      Segment& s = segments.back();
      if (s.dst + s.length == dst && s.conj == mirrored && s.source + s.length * s.step == source &&
          s.step == step) {
        s.length += 1;
        push_weight(ky, kx);
        return;
      }
    }
    segments.push_back({dst, 1, source, step, mirrored, weight});
    push_weight(ky, kx);
  }

  void push_weight(int ky, int kx) {
    const size_t at = static_cast<size_t>(ky) * nx + kx;
    for (int i = 0; i < weight_stride; ++i) {
      weights.push_back(static_cast<T>(static_cast<double>(filters[i % filters.size()][at]) * scale));
    }
  }

  void build() {
    for (const T* f : filters) {
      double peak = 0;
      for (size_t i = 0; i < static_cast<size_t>(ny) * nx; ++i) {
        peak = std::max(peak, std::abs(static_cast<double>(f[i])));
      }
      floors.push_back(kPrune<T> * peak);
    }
    const int my = ny / k, mx = nx / k;
    const int lines = transposed ? mx : my, length = transposed ? my : mx;
    for (int line = 0; line < lines; ++line) {
      for (int a = 0; a < k; ++a) {
        for (int b = 0; b < k; ++b) {
          for (int i = 0; i < length; ++i) {
            const int ky = (transposed ? i : line) + a * my, kx = (transposed ? line : i) + b * mx;
            if (active(ky, kx)) append(ky, kx, i);
          }
        }
      }
      line_start.push_back(static_cast<int32_t>(segments.size()));
    }
  }

  int active_lines() const {
    int n = 0;
    for (size_t i = 1; i < line_start.size(); ++i) n += line_start[i] != line_start[i - 1];
    return n;
  }

  ProductRecord write(Writer& out) const {
    ProductRecord r{transposed, 0, 0, 0, static_cast<int64_t>(segments.size()),
                    static_cast<int64_t>(weights.size())};
    r.line_start = out.put(line_start.data(), line_start.size());
    r.segments = out.put(segments.data(), segments.size());
    r.weights = out.put(weights.data(), weights.size());
    return r;
  }
};

// φ̂(ky, kx) ≈ f(ky)·g(kx) with even f and g.
struct Axes {
  std::vector<double> y, x;
};

void make_even(std::vector<double>& v) {
  for (size_t i = 1; 2 * i < v.size(); ++i) v[i] = v[v.size() - i] = (v[i] + v[v.size() - i]) / 2;
}

// The best such axes: two steps of the power iteration, which averages the rounding of the stored φ̂ out.
template <class T>
Axes rank_one(const T* phi, int ny, int nx) {
  Axes axes{std::vector<double>(ny), std::vector<double>(phi, phi + nx)};
  for (int step = 0; step < 2; ++step) {
    double norm = 0;
    for (const double v : axes.x) norm += v * v;
    for (int ky = 0; ky < ny; ++ky) {
      axes.y[ky] = 0;
      for (int kx = 0; kx < nx; ++kx) axes.y[ky] += phi[static_cast<size_t>(ky) * nx + kx] * axes.x[kx] / norm;
    }
    make_even(axes.y);
    norm = 0;
    for (const double v : axes.y) norm += v * v;
    std::fill(axes.x.begin(), axes.x.end(), 0.0);
    for (int ky = 0; ky < ny; ++ky) {
      for (int kx = 0; kx < nx; ++kx) axes.x[kx] += phi[static_cast<size_t>(ky) * nx + kx] * axes.y[ky] / norm;
    }
    make_even(axes.x);
  }
  return axes;
}

// In float32 only: what kymatio stores is separable to its rounding.
template <class T>
bool separable(const T* phi, const Axes& axes) {
  if (!std::is_same_v<T, float>) return false;
  const double bound = kSeparable * std::abs(static_cast<double>(phi[0]));
  for (size_t i = 0; i < axes.y.size() * axes.x.size(); ++i) {
    const double outer = axes.y[i / axes.x.size()] * axes.x[i % axes.x.size()];
    if (!(std::abs(phi[i] - outer) <= bound)) return false;
  }
  return true;
}

// spectrum: one axis of φ̂.
template <class T>
LowpassRecord write_lowpass(Writer& out, const std::vector<double>& spectrum, int k) {
  const LowpassSizes sizes(static_cast<int>(spectrum.size()), k);
  const int inputs = sizes.inputs, parts = sizes.parts, period = sizes.period, rows = sizes.rows, pairs = sizes.pairs;
  std::vector<double> a(inputs);  // a(n) = (1/N) Σ_q φ̂(q) cos(2πqn/N)
  double peak = 0;
  for (int n = 0; n < inputs; ++n) {
    for (int q = 0; q < inputs; ++q) {
      const double angle = 2 * M_PI * (static_cast<long>(q) * n % inputs) / inputs;
      a[n] += spectrum[q] * std::cos(angle) / inputs;
    }
    peak = std::max(peak, std::abs(a[n]));
  }
  std::vector<T> weights(sizes.weights());
  std::vector<Range> bands(rows, Range{pairs, 0});
  const auto tap = [&](long n) { return a[(n % inputs + inputs) % inputs]; };
  for (int t = 0; t < pairs; ++t) {
    for (int r = 0; r < rows; ++r) {
      const long here = long{k} * r - t, mirror = long{k} * r + t;
      T* weight = weights.data() + (static_cast<size_t>(t) * rows + r) * parts * 2;
      bool counts = false;
      for (int part = 0; part < parts; ++part) {
        const auto kernel = [&](long n) {
          return parts == 1 ? tap(n) : (part == 0 ? tap(n) + tap(n + period) : tap(n) - tap(n + period)) / 2;
        };
        const double own = t == 0 || 2 * t == period ? 2 : 1;  // f[±t] is one input then, taken twice
        *weight++ = static_cast<T>((kernel(here) + kernel(mirror)) / 2 / own);
        *weight++ = static_cast<T>((kernel(here) - kernel(mirror)) / 2 / own);
        counts = counts || std::max(std::abs(kernel(here)), std::abs(kernel(mirror))) * parts > kTaps * peak;
      }
      if (counts) bands[r] = {std::min(bands[r].begin, t), t + 1};
    }
  }
  for (int r = rows - 1; r-- > 0;) bands[r].begin = std::min(bands[r].begin, bands[r + 1].begin);
  for (int r = 1; r < rows; ++r) bands[r].end = std::max(bands[r].end, bands[r - 1].end);
  const int64_t bands_at = out.put(bands.data(), bands.size());
  return {bands_at, out.put(weights.data(), weights.size())};
}

// The û of the kernel is twice the transform (its real FFT leaves out a factor ½): hence the ½ here.
template <class T>
double product_scale(int ny, int nx, int k) {
  const double folded = static_cast<double>(ny / k) * (nx / k);
  return 0.5 / (static_cast<double>(k) * k) / folded;
}

// The product of spectra of (ny, nx), folded by k, with one filter or with the orientations of a scale. `choose`: by
// rows or by columns, whichever leaves more lines without any bin, which need no transform; otherwise by rows.
template <class T>
ProductRecord write_product(Writer& out, std::vector<const T*> filters, int ny, int nx, int k, int stride, bool choose) {
  ProductBuilder<T> rows{std::move(filters), ny, nx, k, stride, product_scale<T>(ny, nx, k), false, {}, {0}, {}, {}};
  rows.build();
  if (!choose) return rows.write(out);
  ProductBuilder<T> columns{rows.filters, ny, nx, k, stride, rows.scale, true, {}, {0}, {}, {}};
  columns.build();
  const double rows_left = static_cast<double>(rows.active_lines()) * k / ny;
  const double columns_left = static_cast<double>(columns.active_lines()) * k / nx;
  return columns_left < rows_left ? columns.write(out) : rows.write(out);
}

// The resolutions at which a ψ of scale j is stored.
int psi_levels(int j, int J) { return std::min(j + 1, std::max(J - 1, 1)); }

}  // namespace

int64_t filter_count(int64_t J, int64_t L) {
  int64_t count = J;
  for (int j = 0; j < J; ++j) count += L * psi_levels(j, static_cast<int>(J));
  return count;
}

std::vector<int> filter_levels(int J, int L) {
  std::vector<int> levels;
  levels.reserve(filter_count(J, L));
  for (int j = 0; j < J; ++j) levels.push_back(j);
  for (int j = 0; j < J; ++j) {
    const int stored = psi_levels(j, J);
    for (int i = 0; i < L * stored; ++i) levels.push_back(i % stored);
  }
  return levels;
}

template <class T>
std::vector<char> pack_filters(const FilterBank<T>& bank) {
  const std::vector<const T*>& filters = bank.filters;
  const int J = bank.J, L = bank.L, max_order = bank.max_order, ny = bank.ny, nx = bank.nx;
  Writer out;
  Header header{kMagic, 0, sizeof(T), J, L, max_order, ny, nx, 1, fingerprint(bank), 0, 0};
  out.put(&header, 1);
  std::vector<Axes> axes;
  for (int j = 0; j < J; ++j) {
    axes.push_back(rank_one(filters[j], ny >> j, nx >> j));
    header.separable = header.separable && separable(filters[j], axes[j]);
  }

  const auto psi = [&](int j, int theta, int level) {
    int index = J;
    for (int i = 0; i < j; ++i) index += L * psi_levels(i, J);
    return filters[index + theta * psi_levels(j, J) + level];
  };
  std::vector<ProductRecord> products;
  const auto add = [&](std::vector<const T*> f, int level, int k, int stride, bool choose) {
    products.push_back(write_product(out, std::move(f), ny >> level, nx >> level, k, stride, choose));
  };
  for (int j = 0; j < J; ++j) {
    std::vector<const T*> orientations;
    for (int theta = 0; theta < L; ++theta) orientations.push_back(psi(j, theta, 0));
    add(std::move(orientations), 0, 1 << j, orientation_stride(L), false);
  }
  if (max_order >= 2) {
    for (int j1 = 0; j1 + 1 < J; ++j1) {
      for (int j2 = j1 + 1; j2 < J; ++j2) {
        for (int theta = 0; theta < L; ++theta) {
          add({psi(j2, theta, j1)}, j1, 1 << (j2 - j1), 1, header.separable != 0);
        }
      }
    }
  }
  if (has_alone(L, ny, nx, header.separable != 0)) {
    for (int j = 0; j < J; ++j) {
      for (int theta = 0; theta < L; ++theta) add({psi(j, theta, 0)}, 0, 1 << j, 1, false);
    }
  }
  std::vector<LowpassRecord> lowpasses;
  for (int j = 0; j < J; ++j) {
    if (header.separable) {
      lowpasses.push_back(write_lowpass<T>(out, axes[j].y, 1 << (J - j)));
      lowpasses.push_back(write_lowpass<T>(out, axes[j].x, 1 << (J - j)));
    } else {
      add({filters[j]}, j, 1 << (J - j), 1, false);
    }
  }
  header.products = out.put(products.data(), products.size());
  header.lowpasses = out.put(lowpasses.data(), lowpasses.size());
  header.bytes = static_cast<int64_t>(out.bytes.size());
  std::memcpy(out.bytes.data(), &header, sizeof header);
  return std::move(out.bytes);
}

template std::vector<char> pack_filters<float>(const FilterBank<float>&);
template std::vector<char> pack_filters<double>(const FilterBank<double>&);

}  // namespace scatsimclr
