// The bytes of a pack: what pack_build.cpp lays out and pack_read.cpp checks.
#pragma once

#include <cstdint>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "cpu/scattering2d/pack.h"

namespace scatsimclr {

constexpr int64_t kMagic = 0x34304b4341505353;  // "SSPACK04"
constexpr int64_t kMagicName = 0xffffffffffff;  // "SSPACK", without the version

// line_start, segments, weights, bands: offsets.
struct ProductRecord {
  int64_t transposed, line_start, segments, weights, n_segments, n_weights;
};
struct LowpassRecord {
  int64_t bands, weights;
};
struct Header {
  int64_t magic, bytes, scalar, J, L, max_order, ny, nx, separable;
  uint64_t fingerprint;
  int64_t products, lowpasses;  // offsets of their records: first, second, phi, alone; then y and x for each j
};

inline int count_second(int J, int L, int max_order) { return max_order >= 2 ? L * J * (J - 1) / 2 : 0; }

// Whether a pack has the first order's products with each filter alone.
inline bool has_alone(int L, int ny, int nx, bool separable) {
  return separable && (L <= kFew || int64_t{ny} * nx >= kLarge);
}

// Vectors of weights start at any θ of the L, cyclically.
inline int orientation_stride(int L) { return L + 16 - std::gcd(L, 16); }

// Sizes of a low-pass; see Lowpass.
struct LowpassSizes {
  int inputs, periods, parts, period, rows, pairs;
  LowpassSizes(int inputs_, int k)
      : inputs(inputs_), periods(inputs / k), parts(periods % 2 == 0 ? 2 : 1), period(inputs / parts),
        rows(periods / parts / 2 + 1), pairs(period / 2 + 1) {}
  size_t weights() const { return static_cast<size_t>(pairs) * rows * parts * 2; }
};

// How many of a filter's elements are compared.
constexpr int kSamples = 64;

// A hash of samples of the filters' bits.
template <class T>
uint64_t fingerprint(const FilterBank<T>& bank) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  uint64_t hashes[4] = {};  // in turn, for multiplications that do not wait for each other
  for (size_t f = 0; f < bank.filters.size(); ++f) {
    const size_t count = static_cast<size_t>(bank.ny >> bank.levels[f]) * (bank.nx >> bank.levels[f]);
    // An odd step, so that samples do not stand in one column.
    const size_t step = count / kSamples | 1;
    for (size_t i = 0, turn = 0; i < count; i += step, ++turn) {
      Bits bits;
      std::memcpy(&bits, bank.filters[f] + i, sizeof bits);
      uint64_t& hash = hashes[turn % 4];
      hash = ((hash << 7 | hash >> 57) ^ bits) * 0x9E3779B97F4A7C15u;
    }
  }
  uint64_t hash = 0;
  for (const uint64_t h : hashes) hash = (hash ^ (h ^ h >> 32)) * 0x9E3779B97F4A7C15u;
  return hash;
}

}  // namespace scatsimclr
