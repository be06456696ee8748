// How a pack is read, and how it is told from a pack of other filters.
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/scattering2d/pack_format.h"

namespace scatsimclr {
namespace {

// Reads bytes that nobody vouches for.
struct Reader {
  const char* blob;
  size_t bytes;

  static void check(bool fits) {
    if (!fits) throw std::runtime_error("packed is not the result of scattering2d_pack");
  }

  template <class V>
  const V* array(int64_t offset, int64_t count) const {
    check(offset >= 0 && offset % 64 == 0 && static_cast<size_t>(offset) <= bytes && count >= 0 &&
          static_cast<size_t>(count) <= (bytes - offset) / sizeof(V));
    return reinterpret_cast<const V*>(blob + offset);
  }

  // A product of spectra of (ny, nx), folded by k.
  template <class T>
  Product<T> product(const ProductRecord& r, int ny, int nx, int k, int stride) const {
    check(r.transposed == 0 || r.transposed == 1);
    Product<T> p{(r.transposed ? nx : ny) / k, (r.transposed ? ny : nx) / k, static_cast<int>(r.transposed), stride,
                 nullptr, nullptr, nullptr};
    p.line_start = array<int32_t>(r.line_start, int64_t{p.lines} + 1);
    p.segments = array<Segment>(r.segments, r.n_segments);
    p.weights = array<T>(r.weights, r.n_weights);
    check(p.line_start[0] == 0 && p.line_start[p.lines] <= r.n_segments);
    bool fits = true;
    for (int line = 0; line < p.lines; ++line) fits &= p.line_start[line] <= p.line_start[line + 1];
    const int64_t bins = int64_t{half_rows(ny)} * odd_stride(nx), rows = r.n_weights / stride;
    for (int64_t i = 0; i < r.n_segments; ++i) {
      const Segment& s = p.segments[i];
      const int64_t last = s.source + (int64_t{s.length} - 1) * s.step;
      fits &= s.length >= 1 && s.dst >= 0 && int64_t{s.dst} + s.length <= p.length;
      fits &= s.source >= 0 && s.source < bins && last >= 0 && last < bins;
      fits &= s.weight >= 0 && int64_t{s.weight} + s.length <= rows;
    }
    check(fits);
    return p;
  }

  template <class T>
  Lowpass<T> lowpass(const LowpassRecord& r, int inputs, int k) const {
    const LowpassSizes sizes(inputs, k);
    Lowpass<T> low{inputs, sizes.periods - 2, sizes.parts, sizes.rows, nullptr, nullptr};
    low.bands = array<Range>(r.bands, sizes.rows);
    low.weights = array<T>(r.weights, static_cast<int64_t>(sizes.weights()));
    for (int row = 0; row < sizes.rows; ++row) {
      const Range& band = low.bands[row];
      check(band.begin >= 0 && band.begin <= sizes.pairs && band.end >= 0 && band.end <= sizes.pairs);
    }
    return low;
  }
};

Header header_of(const char* blob, size_t bytes) {
  Header h{};
  Reader::check(bytes >= sizeof h);
  std::memcpy(&h, blob, sizeof h);
  return h;
}

}  // namespace

template <class T>
Pack<T> read_pack(const char* blob, size_t bytes, const FilterBank<T>& bank) {
  const Header h = header_of(blob, bytes);
  Reader::check(h.magic == kMagic && h.bytes == static_cast<int64_t>(bytes));
  const int J = bank.J, L = bank.L, max_order = bank.max_order, ny = bank.ny, nx = bank.nx;
  if (h.scalar != sizeof(T) || h.J != J || h.L != L || (h.max_order >= 2) != (max_order >= 2) || h.ny != ny ||
      h.nx != nx) {
    const auto text = [](int64_t s, int64_t j, int64_t l, int64_t o, int64_t m, int64_t n) {
      return "J=" + std::to_string(j) + ", L=" + std::to_string(l) + ", max_order=" + std::to_string(o) +
             ", padded size (" + std::to_string(m) + ", " + std::to_string(n) + "), " +
             std::to_string(s) + " bytes a number";
    };
    throw std::runtime_error("packed was made for " + text(h.scalar, h.J, h.L, h.max_order, h.ny, h.nx) +
                             ", but the call has " + text(sizeof(T), J, L, max_order, ny, nx));
  }
  Reader::check(h.separable == 0 || h.separable == 1);
  const Reader reader{blob, bytes};
  const int n_second = count_second(J, L, max_order);
  Pack<T> pack{J, L, max_order, ny, nx, static_cast<int>(h.separable), {}, {}, {}, {}, {}, {}};
  const int n_alone = has_alone(L, ny, nx, pack.separable) ? J * L : 0;
  const auto* products = reader.array<ProductRecord>(h.products, J + n_second + (pack.separable ? n_alone : J));
  const auto* lowpasses = reader.array<LowpassRecord>(h.lowpasses, pack.separable ? 2 * J : 0);
  for (int j = 0; j < J; ++j) {
    Reader::check(products[j].transposed == 0);
    pack.first.push_back(reader.product<T>(products[j], ny, nx, 1 << j, orientation_stride(L)));
  }
  const ProductRecord* next = products + J;
  for (int j1 = 0; max_order >= 2 && j1 + 1 < J; ++j1) {
    for (int n2 = (j1 + 1) * L; n2 < J * L; ++n2, ++next) {
      Reader::check(pack.separable || next->transposed == 0);
      pack.second.push_back(reader.product<T>(*next, ny >> j1, nx >> j1, 1 << (n2 / L - j1), 1));
    }
  }
  for (int n1 = 0; n1 < n_alone; ++n1) {
    Reader::check(next[n1].transposed == 0);
    pack.alone.push_back(reader.product<T>(next[n1], ny, nx, 1 << (n1 / L), 1));
  }
  for (int j = 0; j < J; ++j) {
    const int k = 1 << (J - j);
    if (pack.separable) {
      pack.low_y.push_back(reader.lowpass<T>(lowpasses[2 * j], ny >> j, k));
      pack.low_x.push_back(reader.lowpass<T>(lowpasses[2 * j + 1], nx >> j, k));
    } else {
      Reader::check(next[j].transposed == 0);
      pack.phi.push_back(reader.product<T>(next[j], ny >> j, nx >> j, k, 1));
    }
  }
  return pack;
}

bool of_another_version(const char* blob, size_t bytes) {
  if (bytes < sizeof(Header)) return false;
  const int64_t magic = header_of(blob, bytes).magic;
  return magic != kMagic && (magic & kMagicName) == (kMagic & kMagicName);
}

template <class T>
bool made_from(const char* blob, const FilterBank<T>& bank) {
  return header_of(blob, sizeof(Header)).fingerprint == fingerprint(bank);
}

template Pack<float> read_pack<float>(const char*, size_t, const FilterBank<float>&);
template Pack<double> read_pack<double>(const char*, size_t, const FilterBank<double>&);
template bool made_from<float>(const char*, const FilterBank<float>&);
template bool made_from<double>(const char*, const FilterBank<double>&);

}  // namespace scatsimclr
