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

constexpr int kChunk = 4;  // outputs that the low-pass computes at once

// One direction of the separable low-pass, S = A U Aᵀ, A[m, n] = a(k(m+1) − n) with a even. Reflection about
// c = k(outputs+1)/2 maps input n to 2c − n and output m to outputs−1−m, which halves the work:
//   S[m] = P_r + Q_r,  S[m'] = P_r − Q_r,  P_r = Σ_t even[r,t](u[c+t] + u[c−t]),  Q_r with odd and minus,
// r = 0 …, m = outputs/2 + r, t = 0 … inputs/2. Weights are [chunk of r][t][kChunk], zero outside `band`.
template <class T>
struct Lowpass {
  int inputs, outputs, centre, chunks;
  const int32_t* band;  // [chunks][first t, end t]
  const T *even, *odd;
};

template <class T>
struct Pack {
  int J, L, max_order, ny, nx, separable;
  std::vector<Product<T>> first;            // [j1]
  std::vector<Product<T>> second;           // see second_index
  std::vector<Product<T>> phi;              // [j], where φ is not separable
  std::vector<Lowpass<T>> low_y, low_x;     // [j], where it is

  int second_index(int j1, int n2) const {
    // filters before (j1, ·): Σ_{i<j1} L(J−1−i)
    return L * (j1 * (J - 1) - j1 * (j1 - 1) / 2) + n2 - (j1 + 1) * L;
  }
};

// filters[i]: contiguous buffers in kymatio's order. Throws std::runtime_error with a reason.
template <class T>
std::vector<char> pack_filters(const std::vector<const T*>& filters, int J, int L, int max_order, int ny, int nx);

// A view into the blob; checks that it was made for these settings.
template <class T>
Pack<T> read_pack(const char* blob, size_t bytes, int J, int L, int max_order, int ny, int nx);

}  // namespace scatsimclr
