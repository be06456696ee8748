// The filters as the CPU kernel wants them: what `scattering2d_pack` computes once per filter bank.
//
// A pack is one flat blob of bytes that depends on the filters alone, never on this machine's instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace scatsimclr {

// Spectra of real signals are stored as rows ky = 0 … ny/2 of nx columns; the other rows are conjugates. Rows
// are an odd number of elements apart, so that a column does not fall on a few sets of the cache.
inline int odd_stride(int n) { return n | 1; }
inline int half_rows(int ny) { return ny / 2 + 1; }

// Part of one line of a filtered, folded spectrum:
//   line[dst + i] += weights[weight + i] · s(spectrum[source + i·step]),  i < length, s the identity or conj.
struct Segment {
  int32_t dst, length, source, step, conj, weight;
};

// The product of a spectrum with a filter, folded by k in both directions, line by line:
//   Y[m, n] = (1/k²) Σ_{a,b} û[m + a·M/k, n + b·N/k] · ψ̂[same]
// The weights hold ψ̂/k² and all normalisations. Lines are rows of Y, or columns where `transposed`.
// A weight is one number, or a row of `weight_stride` numbers, one for each θ (cyclically).
template <class T>
struct Product {
  int lines, length, transposed, weight_stride;
  const int32_t* line_start;  // [lines + 1]
  const Segment* segments;
  const T* weights;
};

// Lines, columns or rows that one call takes care of.
struct Range {
  int begin, end;
};

// One direction of the separable low-pass, S = A U Aᵀ: output m is y[m + 1] of
//   y[M] = Σ_n a(kM − n) u[n],  M modulo N = outputs + 2, n modulo k·N = inputs, a even.
// Two symmetries each halve the work. A shift by half a period (N even, so `parts` is 2; otherwise 1): sums and
// differences f± = u[n] ± u[n + inputs/2] give y±[M] = y[M] ± y[M + N/2], with the kernel a(d) ± a(d + inputs/2)
// of half the period, or of half the period but for the sign. And reflection: y±[r] and y±[−r] are the sum and the
// difference of
//   P_r = Σ_t even[t,r] (f[t] + f[−t]),  Q_r = Σ_t odd[t,r] (f[t] − f[−t]),  0 ≤ t ≤ inputs/parts/2,
// with 0 ≤ r ≤ N/parts/2: the `rows`. Weights are [t][r][part][even, odd]; what counts of row r and
// later rows begins at t = bands[r].begin, of row r and earlier ones it ends before bands[r].end.
template <class T>
struct Lowpass {
  int inputs, outputs, parts, rows;
  const Range* bands;  // [rows]
  const T* weights;

  // What counts for any of R rows.
  Range band(int row, int R) const { return {bands[row].begin, bands[row + R - 1].end}; }
};

// Forward, signals are taken one at a time where they would leave three quarters of a vector's lanes empty (kFew of them
// do in the widest), or where they have kLarge pixels and more: fields of many signals are then far larger than the caches.
// 1024², J = 3, L = 8 takes 0.77 of the time of eight at once, 512² as long in less memory, 256² longer (EPYC Zen 3, one
// thread, 2026-11-28).
constexpr int kFew = 4;
constexpr int64_t kLarge = int64_t{1} << 18;

template <class T>
struct Pack {
  int J, L, max_order, ny, nx, separable;
  std::vector<Product<T>> first;            // [j1]
  std::vector<Product<T>> second;           // see second_index
  std::vector<Product<T>> phi;              // [j], where φ is not separable
  // [j1·L + θ1], the first order's with each filter alone, for signals one at a time: what is read of `first` for one θ
  // are lines of all L. Only where that may happen.
  std::vector<Product<T>> alone;
  std::vector<Lowpass<T>> low_y, low_x;     // [j], where it is

  bool second_follows(int j1) const { return max_order >= 2 && j1 + 1 < J; }
  int second_index(int j1, int n2) const {
    // filters before (j1, ·): Σ_{i<j1} L(J−1−i)
    return L * (j1 * (J - 1) - j1 * (j1 - 1) / 2) + n2 - (j1 + 1) * L;
  }
};

// How many filters a bank has, and the resolution at which each is stored, in kymatio's order: φ at each j, then the
// levels of each ψ (j, θ) in turn.
int64_t filter_count(int64_t J, int64_t L);
std::vector<int> filter_levels(int J, int L);

// Filters, contiguous, and what they are for.
template <class T>
struct FilterBank {
  std::vector<const T*> filters;
  std::vector<int> levels;
  int J, L, max_order, ny, nx;
};

// Throws std::runtime_error with a reason.
template <class T>
std::vector<char> pack_filters(const FilterBank<T>& bank);

// A view into the blob. Nothing in it is trusted: whatever the bytes, the view's offsets lie within the blob and the
// spectra of this bank. Throws std::runtime_error for what is no pack, or one for other settings.
template <class T>
Pack<T> read_pack(const char* blob, size_t bytes, const FilterBank<T>& bank);

// Whether these are the bytes of a pack as another version of this package lays it out.
bool of_another_version(const char* blob, size_t bytes);

// Whether the pack that `read_pack` accepted was made from these filters: samples of each are compared.
template <class T>
bool made_from(const char* blob, const FilterBank<T>& bank);

}  // namespace scatsimclr
