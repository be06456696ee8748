// What a tile adds in the forward and in the backward pass.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/ntxent/job.h"
#include "cpu/ntxent/product-inl.h"
#include "cpu/ntxent/tile-inl.h"
#include "cpu/simd/exp-inl.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_NTXENT_PASSES_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_NTXENT_PASSES_INL_H_
#undef SCATSIMCLR_NTXENT_PASSES_INL_H_
#else
#define SCATSIMCLR_NTXENT_PASSES_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent {

template <typename T>
SCATSIMCLR_INLINE void add_pull(NtxentJob<T>& job, const Tile<T>& tile, bool both_sides) {
  positives(tile, [&](int64_t i, int64_t j, double share) {
    const double s = static_cast<double>(tile.s[i * tile.stride + j]) * share;
    job.pull[tile.I.begin + i] += s;
    if (both_sides) job.pull[tile.J.begin + j] += s;
  });
}

// Adds Σ exp(c s) of the tile to the totals of its rows and, if both_sides, of its columns.
template <typename T>
inline void forward_fixed(NtxentJob<T>& job, Tile<T>& tile, bool both_sides, T* scratch) {
  using V = Vec<T>;
  const Exponential<T> exponential(job.c);
  V* row_sums = reinterpret_cast<V*>(scratch);
  for (int64_t i = 0; i < tile.I.count + kRows; ++i) row_sums[i] = V{};
  V columns[2] = {};
  bool pairs = false;
  positives(tile, [&](int64_t, int64_t, double) { pairs = true; });
  tile.products([&](int64_t i, int64_t j, V(&acc)[kRows][2]) SCATSIMCLR_LAMBDA_INLINE {
    const bool masked = tile.masked(j);
    if (pairs) tile.keep(acc, i, j);
SCATSIMCLR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if (i + r >= tile.I.count) break;
      V e0 = exponential.template operator()<false>(acc[r][0]);
      V e1 = exponential.template operator()<false>(acc[r][1]);
      if (masked) {
        e0 = tile.valid(i + r, j) ? e0 : V{};
        e1 = tile.valid(i + r, j + kLanes<T>) ? e1 : V{};
      }
      row_sums[i + r] += e0 + e1;
      columns[0] += e0;
      columns[1] += e1;
    }
    if (i + kRows < tile.I.count) return;
    if (both_sides) {
      double* total = job.total + tile.J.begin + j;
      const int64_t count = std::min<int64_t>(kWidth<T>, tile.J.count - j);
      for (int64_t l = 0; l < count; ++l) total[l] += columns[l / kLanes<T>][l % kLanes<T>];
    }
    columns[0] = columns[1] = V{};
  });
  for (int64_t i = 0; i < tile.I.count; ++i) job.total[tile.I.begin + i] += sum_lanes<T>(row_sums[i]);
  if (pairs) add_pull(job, tile, both_sides);
}

// The new maximum of a row and its old total on the new scale; false where nothing was seen.
template <typename T>
SCATSIMCLR_INLINE bool raise(const NtxentJob<T>& job, int64_t row, T best) {
  T& shift = job.shift[row];
  if (best > shift) {
    job.total[row] *= std::exp(job.c * (static_cast<double>(shift) - static_cast<double>(best)));
    shift = best;
  }
  return shift != -std::numeric_limits<T>::infinity();
}

// As forward_fixed, with running maxima: for similarities whose exponentials could overflow or vanish.
template <typename T>
inline void forward_safe(NtxentJob<T>& job, Tile<T>& tile, bool both_sides) {
  using V = Vec<T>;
  const Exponential<T> exponential(job.c);
  const V lowest = splat(-std::numeric_limits<T>::infinity());
  tile.products([&](int64_t i, int64_t j, V(&acc)[kRows][2]) SCATSIMCLR_LAMBDA_INLINE {
    if (tile.masked(j)) {
      for (int r = 0; r < kRows; ++r) {
        acc[r][0] = tile.valid(i + r, j) ? acc[r][0] : lowest;
        acc[r][1] = tile.valid(i + r, j + kLanes<T>) ? acc[r][1] : lowest;
      }
    }
    tile.keep(acc, i, j);
  });
  add_pull(job, tile, both_sides);
  for (int64_t i = 0; i < tile.I.count; ++i) {
    const T* s = tile.s + i * tile.stride;
    V best = lowest;
    for (int64_t j = 0; j < tile.J.count; j += kLanes<T>) {
      const V v = load(s + j);
      best = v > best ? v : best;
    }
    if (!raise(job, tile.I.begin + i, max_lanes<T>(best))) continue;
    const V shift = splat(job.shift[tile.I.begin + i]);
    V sum = {};
    for (int64_t j = 0; j < tile.J.count; j += kLanes<T>) {
      sum += exponential.template operator()<true>(load(s + j) - shift);
    }
    job.total[tile.I.begin + i] += sum_lanes<T>(sum);
  }
  if (!both_sides) return;
  for (int64_t j = 0; j < tile.J.count; j += kLanes<T>) {
    const int64_t count = std::min<int64_t>(kLanes<T>, tile.J.count - j);
    V best = lowest, shift = lowest, sum = {};
    for (int64_t i = 0; i < tile.I.count; ++i) {
      const V v = load(tile.s + i * tile.stride + j);
      best = v > best ? v : best;
    }
    for (int64_t l = 0; l < count; ++l) {
      raise(job, tile.J.begin + j + l, best[l]);
      shift[l] = job.shift[tile.J.begin + j + l];
    }
    for (int64_t i = 0; i < tile.I.count; ++i) {
      sum += exponential.template operator()<true>(load(tile.s + i * tile.stride + j) - shift);
    }
    for (int64_t l = 0; l < count; ++l) job.total[tile.J.begin + j + l] += sum[l];
  }
}

// G of the tile less the positives' share, then dz_I += G z_J and, if both_sides, dz_J += Gᵀ z_I.
template <typename T, bool kFixed>
inline void backward_tile(NtxentJob<T>& job, Tile<T>& tile, bool both_sides) {
  using V = Vec<T>;
  const Exponential<T> exponential(job.c);
  tile.products([&](int64_t i, int64_t j, V(&acc)[kRows][2]) SCATSIMCLR_LAMBDA_INLINE {
    const bool masked = tile.masked(j);
    const T* inverse_j = job.inverse + tile.J.begin + j;
    const T* shift_j = job.shift + tile.J.begin + j;
SCATSIMCLR_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = tile.I.begin + i + r;
SCATSIMCLR_UNROLL
      for (int h = 0; h < 2; ++h) {
        const V own = splat(job.inverse[row]), other = load(inverse_j + h * kLanes<T>);
        V g;
        if constexpr (kFixed) {
          g = exponential.template operator()<false>(acc[r][h]) * (own + other);
        } else {
          g = exponential.template operator()<true>(acc[r][h] - splat(job.shift[row])) * own +
              exponential.template operator()<true>(acc[r][h] - load(shift_j + h * kLanes<T>)) * other;
        }
        acc[r][h] = masked ? (tile.valid(i + r, j + h * kLanes<T>) ? g : V{}) : g;
      }
    }
    tile.keep(acc, i, j);
  });
  positives(tile, [&](int64_t i, int64_t j, double share) {
    tile.s[i * tile.stride + j] -= static_cast<T>(2 * share);
  });
  const auto rows = [&](const Strip& strip) { return job.z + strip.begin * job.stride; };
  const auto out = [&](const Strip& strip) { return job.dz + (strip.begin - job.first) * job.dz_stride; };
  add_product<T, false>(job, out(tile.I), tile.I.count, tile.s, tile.stride, rows(tile.J), tile.J.count);
  if (!both_sides) return;
  add_product<T, true>(job, out(tile.J), tile.J.count, tile.s, tile.stride, rows(tile.I), tile.I.count);
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_NTXENT_PASSES_INL_H_
