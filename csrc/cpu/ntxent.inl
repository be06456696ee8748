// The NT-Xent kernels for one instruction set. Included by foreach_isa.h inside the ISA's namespace.

#include "cpu/ntxent_simd.inl"

// One tile of similarities: strip I against strip J.
template <typename T>
struct Tile {
  const NtxentJob<T>& job;
  const Strip &I, &J;
  bool diagonal;
  T* s;  // (block, stride)
  int64_t stride;

  // Whether lanes of columns j … may differ from plain rows and columns.
  SCATSIMCLR_INLINE bool masked(int64_t j) const { return diagonal || j + Simd<T>::kWidth > J.count; }

  // Which of the columns j … of row i are neither i itself nor beyond the strip.
  SCATSIMCLR_INLINE typename Simd<T>::I valid(int64_t i, int64_t j) const {
    using S = Simd<T>;
    using Int = typename S::Int;
    const auto lanes = S::iota() + static_cast<Int>(j);
    const auto inside = lanes < static_cast<Int>(J.count);
    return diagonal ? inside & (lanes != static_cast<Int>(i)) : inside;
  }

  // Calls done(i, j, acc) with each micro tile of s, rows i … i + kRows − 1 (some may be beyond the strip),
  // columns j … j + kWidth − 1. Column-major, so that a panel stays in L1.
  template <typename Done>
  SCATSIMCLR_INLINE void products(Done&& done) {
    using S = Simd<T>;
    const T* rows = job.z + I.begin * job.stride;
    const T* panels = job.panels + (&J - job.strips.data()) * job.block * job.D;
    for (int64_t j = 0; j < J.count; j += S::kWidth) {
      const T* panel = panels + j / kPanel<T> * kPanel<T> * job.D + j % kPanel<T>;
      int64_t d = 0;
      for (; d + kDepth < job.D; d += kDepth) {
        for (int64_t i = 0; i < I.count; i += S::kRows) {
          typename S::V acc[S::kRows][2] = {};
          multiply<T, S::kRows, false>(acc, rows + i * job.stride + d, job.stride, panel + d * kPanel<T>,
                                       kPanel<T>, kDepth);
          if (d) add_kept(acc, i, j);
          keep(acc, i, j);
        }
      }
      for (int64_t i = 0; i < I.count; i += S::kRows) {
        typename S::V acc[S::kRows][2] = {};
        multiply<T, S::kRows, false>(acc, rows + i * job.stride + d, job.stride, panel + d * kPanel<T>,
                                     kPanel<T>, job.D - d);
        if (d) add_kept(acc, i, j);
        done(i, j, acc);
      }
    }
  }

  template <typename Acc>
  SCATSIMCLR_INLINE void add_kept(Acc& acc, int64_t i, int64_t j) const {
    using S = Simd<T>;
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r) {
      acc[r][0] += S::load(s + (i + r) * stride + j);
      acc[r][1] += S::load(s + (i + r) * stride + j + S::kLanes);
    }
  }

  template <typename Acc>
  SCATSIMCLR_INLINE void keep(const Acc& acc, int64_t i, int64_t j) const {
    using S = Simd<T>;
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r) {
      S::store(s + (i + r) * stride + j, acc[r][0]);
      S::store(s + (i + r) * stride + j + S::kLanes, acc[r][1]);
    }
  }
};

// Calls visit(i, j, share) for every positive pair of the tile, row i and column j: share is 1/|P(i)|. Done on
// the tile's own similarities, because a saturated row's loss and gradient are small differences of them.
template <typename T, typename Visit>
SCATSIMCLR_INLINE void positives(const Tile<T>& tile, Visit&& visit) {
  const Classes& classes = tile.job.classes;
  for (int64_t i = 0; i < tile.I.count; ++i) {
    const int64_t row = tile.I.begin + i, own = classes.of[row];
    const int64_t* end = classes.members.data() + classes.begin[own + 1];
    const int64_t* member = std::lower_bound(classes.members.data() + classes.begin[own], end, tile.J.begin);
    for (; member < end && *member < tile.J.begin + tile.J.count; ++member) {
      if (*member != row) visit(i, *member - tile.J.begin, classes.share[own]);
    }
  }
}

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
  using S = Simd<T>;
  using V = typename S::V;
  const Exponential<T> exponential(job.c);
  V* row_sums = reinterpret_cast<V*>(scratch);
  for (int64_t i = 0; i < tile.I.count + S::kRows; ++i) row_sums[i] = V{};
  V columns[2] = {};
  bool pairs = false;
  positives(tile, [&](int64_t, int64_t, double) { pairs = true; });
  tile.products([&](int64_t i, int64_t j, V(&acc)[S::kRows][2]) SCATSIMCLR_LAMBDA_INLINE {
    const bool masked = tile.masked(j);
    if (pairs) tile.keep(acc, i, j);
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r) {
      if (i + r >= tile.I.count) break;
      V e0 = exponential.template operator()<false>(acc[r][0]);
      V e1 = exponential.template operator()<false>(acc[r][1]);
      if (masked) {
        e0 = tile.valid(i + r, j) ? e0 : V{};
        e1 = tile.valid(i + r, j + S::kLanes) ? e1 : V{};
      }
      row_sums[i + r] += e0 + e1;
      columns[0] += e0;
      columns[1] += e1;
    }
    if (i + S::kRows < tile.I.count) return;
    if (both_sides) {
      double* total = job.total + tile.J.begin + j;
      const int64_t count = std::min<int64_t>(S::kWidth, tile.J.count - j);
      for (int64_t l = 0; l < count; ++l) total[l] += columns[l / S::kLanes][l % S::kLanes];
    }
    columns[0] = columns[1] = V{};
  });
  for (int64_t i = 0; i < tile.I.count; ++i) job.total[tile.I.begin + i] += S::sum(row_sums[i]);
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
  using S = Simd<T>;
  using V = typename S::V;
  const Exponential<T> exponential(job.c);
  const V lowest = S::splat(-std::numeric_limits<T>::infinity());
  tile.products([&](int64_t i, int64_t j, V(&acc)[S::kRows][2]) SCATSIMCLR_LAMBDA_INLINE {
    if (tile.masked(j)) {
      for (int r = 0; r < S::kRows; ++r) {
        acc[r][0] = tile.valid(i + r, j) ? acc[r][0] : lowest;
        acc[r][1] = tile.valid(i + r, j + S::kLanes) ? acc[r][1] : lowest;
      }
    }
    tile.keep(acc, i, j);
  });
  add_pull(job, tile, both_sides);
  for (int64_t i = 0; i < tile.I.count; ++i) {
    const T* s = tile.s + i * tile.stride;
    V best = lowest;
    for (int64_t j = 0; j < tile.J.count; j += S::kLanes) {
      const V v = S::load(s + j);
      best = v > best ? v : best;
    }
    if (!raise(job, tile.I.begin + i, S::max(best))) continue;
    const V shift = S::splat(job.shift[tile.I.begin + i]);
    V sum = {};
    for (int64_t j = 0; j < tile.J.count; j += S::kLanes) {
      sum += exponential.template operator()<true>(S::load(s + j) - shift);
    }
    job.total[tile.I.begin + i] += S::sum(sum);
  }
  if (!both_sides) return;
  for (int64_t j = 0; j < tile.J.count; j += S::kLanes) {
    const int64_t count = std::min<int64_t>(S::kLanes, tile.J.count - j);
    V best = lowest, shift = lowest, sum = {};
    for (int64_t i = 0; i < tile.I.count; ++i) {
      const V v = S::load(tile.s + i * tile.stride + j);
      best = v > best ? v : best;
    }
    for (int64_t l = 0; l < count; ++l) {
      raise(job, tile.J.begin + j + l, best[l]);
      shift[l] = job.shift[tile.J.begin + j + l];
    }
    for (int64_t i = 0; i < tile.I.count; ++i) {
      sum += exponential.template operator()<true>(S::load(tile.s + i * tile.stride + j) - shift);
    }
    for (int64_t l = 0; l < count; ++l) job.total[tile.J.begin + j + l] += sum[l];
  }
}

// G of the tile less the positives' share, then dz_I += G z_J and, if both_sides, dz_J += Gᵀ z_I.
template <typename T, bool kFixed>
inline void backward_tile(NtxentJob<T>& job, Tile<T>& tile, bool both_sides) {
  using S = Simd<T>;
  using V = typename S::V;
  const Exponential<T> exponential(job.c);
  tile.products([&](int64_t i, int64_t j, V(&acc)[S::kRows][2]) SCATSIMCLR_LAMBDA_INLINE {
    const bool masked = tile.masked(j);
    const T* inverse_j = job.inverse + tile.J.begin + j;
    const T* shift_j = job.shift + tile.J.begin + j;
#pragma GCC unroll 8
    for (int r = 0; r < S::kRows; ++r) {
      const int64_t row = tile.I.begin + i + r;
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const V own = S::splat(job.inverse[row]), other = S::load(inverse_j + h * S::kLanes);
        V g;
        if constexpr (kFixed) {
          g = exponential.template operator()<false>(acc[r][h]) * (own + other);
        } else {
          g = exponential.template operator()<true>(acc[r][h] - S::splat(job.shift[row])) * own +
              exponential.template operator()<true>(acc[r][h] - S::load(shift_j + h * S::kLanes)) * other;
        }
        acc[r][h] = masked ? (tile.valid(i + r, j + h * S::kLanes) ? g : V{}) : g;
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

// Takes tiles until none is left. Tasks are handed out in the order of the rounds and every task needs only
// earlier ones, so that waiting cannot block for ever.
template <typename T>
void tiles(NtxentJob<T>& job, bool backward) {
  const int64_t strips = job.strips.size(), stride = job.block + kPanel<T> / 2;
  const int64_t scratch = job.block + 8;
  std::vector<T> memory(job.block * stride + (scratch * SCATSIMCLR_SIMD_BYTES + 128) / sizeof(T));
  const auto aligned = (reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64;
  T* tile_memory = reinterpret_cast<T*>(aligned);
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
      forward_fixed(job, tile, both_sides, tile_memory + job.block * stride);
    } else {
      forward_safe(job, tile, both_sides);
    }
    job.rounds[i].store(round + 1, std::memory_order_release);
    if (both_sides) job.rounds[j].store(round + 1, std::memory_order_release);
  }
}

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

// One local row, once the tiles are done: its loss, or its gradient in x.
template <typename T>
void finish(NtxentJob<T>& job, int64_t row, bool backward) {
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

#undef SCATSIMCLR_INLINE
