// NT-Xent on the CPU: what ntxent.cpp (once) and the kernels (once per instruction set) share.
//
// The rows are cut into P strips. In round r = 0 … P−1, strip I meets strip J = (r − I) mod P: every strip
// is in exactly one tile per round, and over the rounds in one tile with every strip and with itself. A tile
// (I, J) may therefore write both its strips without a lock, and a strip adds its tiles in the order of the
// rounds whatever the number of threads: same bits for every number of threads, no buffer for partial sums.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

namespace scatsimclr {

// Columns of one panel of the transposed rows: two cache lines, so that every ISA shares one layout.
template <typename T>
constexpr int64_t kPanel = 128 / sizeof(T);

// The longest stretch of D that one product covers: a panel of it is 16 KB, half of L1.
constexpr int64_t kDepth = 128;

struct Classes {
  std::vector<int64_t> begin;    // class a holds members[begin[a]] … members[begin[a + 1] − 1]
  std::vector<int64_t> members;  // rows, ascending within a class
  std::vector<int64_t> of;       // the class of each row
  std::vector<double> share;     // per class, 1 / positives of one row; 0 without any
  double anchors = 0;            // rows with a positive, of all processes
};

struct Strip {
  int64_t begin, count;
  bool local;
};

template <typename T>
struct NtxentJob {
  // Settings. Local rows are first … first + rows − 1 of the M rows x (M, D), which are contiguous.
  const T* x;
  int64_t M, D, first, rows;
  bool normalize;
  double c;    // 1/τ
  bool fixed;  // exp(c s) cannot overflow or vanish: no maximum needed
  Classes classes;

  // Tiling.
  int64_t block;   // rows of a strip, at most
  int64_t stride;  // between rows of z and of dz
  std::vector<Strip> strips;
  std::vector<std::atomic<int64_t>> rounds;  // per strip: rounds done
  std::atomic<int64_t> next{0};              // the next task to be taken

  // Workspaces.
  T* z;          // (M + 8, stride): rows, zero beyond D
  T* panels;     // per strip, per panel of columns: (D, kPanel) transposed rows, zero beyond the strip
  double* norm;  // (M): max(length, 1e-12), negative where it is the 1e-12
  T* shift;      // (M + padding): a_i
  double* total; // (M): forward, Σ_k exp(c (s_ik − a_i))
  double* pull;  // (M): forward, mean similarity with the positives
  T* inverse;    // (M + padding): backward, 1 / that sum, 0 where the row is no anchor
  double* row;   // (M): forward, the row's loss; backward, z_i·∂loss/∂z_i

  // Backward.
  T* dz;             // (local rows, dz_stride), accumulated
  int64_t dz_stride;
  T* dx;             // (local rows, D); may be dz
  double scale;      // c · incoming gradient / anchors
};

}  // namespace scatsimclr
