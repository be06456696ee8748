// The NT-Xent kernels for one instruction set: `prepare` for every strip, then `tiles` on every thread, then `finish`
// for every strip. ntxent.cpp compiles them for each.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <thread>
#include <utility>

#include "cpu/ntxent/job.h"
#include "cpu/ntxent/passes-inl.h"
#include "cpu/ntxent/tile-inl.h"
#include "cpu/threads/scratch.h"

#if defined(SCATSIMCLR_NTXENT_KERNELS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_NTXENT_KERNELS_INL_H_
#undef SCATSIMCLR_NTXENT_KERNELS_INL_H_
#else
#define SCATSIMCLR_NTXENT_KERNELS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent {

// Σ a b in double, in 16 interleaved sums.
template <typename A, typename B>
SCATSIMCLR_INLINE double dot(const A* a, const B* b, int64_t count) {
  double sums[16] = {};
  int64_t d = 0;
  for (; d + 16 <= count; d += 16) {
    for (int l = 0; l < 16; ++l) sums[l] += static_cast<double>(a[d + l]) * static_cast<double>(b[d + l]);
  }
  for (; d < count; ++d) sums[d % 16] += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  for (int width = 8; width; width /= 2) {
    for (int l = 0; l < width; ++l) sums[l] += sums[l + width];
  }
  return sums[0];
}

// Length of a row. Squares in double, after a scaling by a power of two where they would leave its range.
template <typename T>
SCATSIMCLR_INLINE double length(const T* x, int64_t count) {
  const double squares = dot(x, x, count);
  if (sizeof(T) == 4 || (squares > 1e-280 && squares < 1e300) || squares == 0) return std::sqrt(squares);
  double largest = 0;
  for (int64_t d = 0; d < count; ++d) largest = std::max(largest, std::abs(static_cast<double>(x[d])));
  if (!(largest < std::numeric_limits<double>::infinity()) || largest == 0) return std::sqrt(squares);
  double sum = 0;
  for (int64_t d = 0; d < count; ++d) sum += (x[d] / largest) * (x[d] / largest);
  return largest * std::sqrt(sum);
}

// Normalises the rows of one strip and transposes them into panels.
template <typename T>
void prepare(NtxentJob<T>& job, int64_t index) {
  const Strip& strip = job.strips[index];
  T* panels = job.panels + index * job.block * job.D;
  for (int64_t i = 0; i < strip.count; ++i) {
    const int64_t row = strip.begin + i;
    const T* x = job.x + row * job.D;
    T* z = job.z + row * job.stride;
    const double norm = job.normalize ? length(x, job.D) : 1;
    const double divisor = norm < 1e-12 ? 1e-12 : norm;
    job.norm[row] = norm < 1e-12 ? -divisor : divisor;
    for (int64_t d = 0; d < job.D; ++d) z[d] = static_cast<T>(static_cast<double>(x[d]) / divisor);
    for (int64_t d = job.D; d < job.stride; ++d) z[d] = 0;
  }
  const T* z = job.z + strip.begin * job.stride;
  for (int64_t j = 0; j < strip.count; j += kPanel<T>) {
    const int64_t count = std::min(kPanel<T>, strip.count - j);
    for (int64_t d0 = 0; d0 < job.D; d0 += 16) {
      const int64_t end = std::min<int64_t>(d0 + 16, job.D);
      for (int64_t l = 0; l < kPanel<T>; ++l) {
        for (int64_t d = d0; d < end; ++d) {
          panels[d * kPanel<T> + l] = l < count ? z[(j + l) * job.stride + d] : T(0);
        }
      }
    }
    panels += kPanel<T> * job.D;
  }
}

// Takes tiles until none is left. Tasks are handed out in the order of the rounds and every task needs only
// earlier ones, so that waiting cannot block for ever.
template <typename T>
void tiles(NtxentJob<T>& job, bool backward) {
  const int64_t strips = job.strips.size(), stride = job.block + kPanel<T> / 2;
  // The tile, and a vector of sums for each of its rows.
  const auto [tile_memory, sums] = scratch(Slot::own, [&](Arena& arena) {
    return std::pair{arena.take<T>(job.block * stride), arena.take<T>((job.block + 8) * kLanes<T>)};
  });
  const auto wait = [&](int64_t strip, int64_t round) {
    for (int spins = 0; job.rounds[strip].load(std::memory_order_acquire) < round; ++spins) {
      if (spins > 64) std::this_thread::yield();
    }
  };
  for (int64_t task; (task = job.next.fetch_add(1)) < strips * strips;) {
    const int64_t round = task / strips;
    int64_t i = task % strips, j = (round - i + strips) % strips;
    if (j < i) continue;
    if (!job.strips[i].local) std::swap(i, j);
    const Strip &I = job.strips[i], &J = job.strips[j];
    if (!I.local) continue;
    const bool both_sides = i != j && J.local;
    wait(i, round);
    if (both_sides) wait(j, round);
    Tile<T> tile{job, I, J, i == j, tile_memory, stride};
    if (backward) {
      job.fixed ? backward_tile<T, true>(job, tile, both_sides) : backward_tile<T, false>(job, tile, both_sides);
    } else if (job.fixed) {
      forward_fixed(job, tile, both_sides, sums);
    } else {
      forward_safe(job, tile, both_sides);
    }
    job.rounds[i].store(round + 1, std::memory_order_release);
    if (both_sides) job.rounds[j].store(round + 1, std::memory_order_release);
  }
}

// One local row, once the tiles are done: its loss, or its gradient in x.
template <typename T>
SCATSIMCLR_INLINE void finish_row(NtxentJob<T>& job, int64_t row, bool backward) {
  if (!backward) {
    const bool anchor = job.classes.share[job.classes.of[row]] > 0;
    job.row[row] = anchor ? job.c * (job.shift[row] - job.pull[row]) + std::log(job.total[row]) : 0;
    return;
  }
  const T* z = job.z + row * job.stride;
  const T* dz = job.dz + (row - job.first) * job.dz_stride;
  T* dx = job.dx + (row - job.first) * job.D;
  const double along = job.scale * dot(z, dz, job.D);
  job.row[row] = along;
  const double norm = job.normalize ? job.norm[row] : -1;  // negative: a constant divisor, no Jacobian
  const double radial = norm > 0 ? along : 0, inverse = 1 / std::abs(norm);
  for (int64_t d = 0; d < job.D; ++d) dx[d] = static_cast<T>((job.scale * dz[d] - radial * z[d]) * inverse);
}

template <typename T>
void finish(NtxentJob<T>& job, int64_t index, bool backward) {
  const Strip& strip = job.strips[index];
  if (!strip.local) return;
  for (int64_t i = 0; i < strip.count; ++i) finish_row(job, strip.begin + i, backward);
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::ntxent
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_NTXENT_KERNELS_INL_H_
