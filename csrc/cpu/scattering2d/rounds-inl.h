// How a call is cut into tasks. Blocks (W planes) are taken some at a time, and each round of tasks over them
// ends before the next begins. A group's second order follows its first order in the same task where there are
// groups enough for the threads. Otherwise (`split`) it is a round of its own, in pieces, and so are the steps of a
// block. With threads for two pieces of every group and more (`cut`) the first order is cut into its steps too: one
// image keeps many threads busy. Its fields then wander between the threads' caches: at 96², 3 groups, the steps
// took 1.6 times the work of whole groups (EPYC Zen 4, two threads, 2026-11-25).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/scattering2d/backward-inl.h"
#include "cpu/scattering2d/forward-inl.h"
#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/layout-inl.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/scattering2d/transforms-inl.h"
#include "cpu/simd/vector-inl.h"
#include "cpu/threads/scratch.h"
#include "cpu/threads/tasks.h"

#if defined(SCATSIMCLR_SCATTERING2D_ROUNDS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_ROUNDS_INL_H_
#undef SCATSIMCLR_SCATTERING2D_ROUNDS_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_ROUNDS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

template <class T, int W>
struct Rounds {
  // Backward, the pieces of each group's second order: each sums its gradients, and the sums are added in order, whoever
  // made them. Their number depends on the job alone, so that the bits do not depend on the number of threads. They
  // cost memory and, where a thread makes them one after the other, 3 to 6 % of the time: few groups have some.
  int second_pieces() const { return all_groups() < 16 ? 4 : 1; }

  const Scattering<T>& job;
  int64_t first_block, blocks;
  size_t spectrum_scalars, field_scalars;
  bool split = false, cut = false;
  int pieces = 1;  // forward, of every step
  // Forward: what each block stores and, where split, each group, scale by scale: its spectrum, or everything where cut.
  std::vector<Stored<T>> of_block, of_group;
  // Backward: û0 of each block, û1 of each group (only where split), also z1 and the pieces' gradients of û1 (only
  // where split), and the groups' parts.
  T *spectra0 = nullptr, *spectra1 = nullptr, *fields = nullptr, *grads = nullptr, *parts = nullptr;
  std::vector<size_t> part_start;  // of each task (j1, group), in scalars

  struct Group {
    int j1;
    int64_t block, plane;
    Lanes<T, W> lanes;
  };

  int64_t planes(int64_t block) const {
    return std::min<int64_t>(W, job.images * job.colours - (first_block + block) * W);
  }
  int groups(int64_t block) const { return static_cast<int>((planes(block) * job.pack.L + W - 1) / W); }
  // All blocks but the last of a call have L groups.
  int64_t all_groups() const { return (blocks - 1) * job.pack.L + groups(blocks - 1); }

  // Tasks go scale by scale, the finest and dearest first.
  Group group_of(int64_t task) const {
    const int L = job.pack.L;
    const int64_t index = task % all_groups(), block = index / L;
    return {static_cast<int>(task / all_groups()), block, (first_block + block) * W,
            make_lanes<T, W>(static_cast<int>(index % L), static_cast<int>(planes(block)), L)};
  }

  // Where cut, the finest fields are shared: a thread's own hold the second order, or a piece of a block.
  Forward<T, W> forward_worker() const { return make_worker<Forward<T, W>>(job, cut ? 1 : 0); }
  Backward<T, W> backward_worker() const { return make_worker<Backward<T, W>>(job, 0); }

  // The scales and angles n2 of one piece of (j1, ·)'s second order, in a row.
  Range second_part(int j1, int64_t piece, int64_t pieces) const {
    const int first = (j1 + 1) * job.pack.L;
    const int count = job.pack.max_order < 2 ? 0 : job.pack.J * job.pack.L - first;
    const Range range = part(count, piece, pieces);
    return {first + range.begin, first + range.end};
  }

  // Backward: sums one piece's gradients of û1 in `grad`, which is not read.
  void sum_piece(const Group& g, int piece, const T* spectrum, T* grad, Backward<T, W>& worker) const {
    std::fill_n(grad, Sizes<T, W>(job.pack, g.j1).spectrum(), T(0));
    if (!job.pack.second_follows(g.j1)) return;
    for (int n2 = (g.j1 + 1) * job.pack.L + piece; n2 < job.pack.J * job.pack.L; n2 += second_pieces()) {
      worker.second_order(g.j1, n2, g.plane, g.lanes, spectrum, grad);
    }
  }

  void add_piece(const Group& g, T* grad, const T* piece) const {
    const size_t scalars = Sizes<T, W>(job.pack, g.j1).spectrum();
    for (size_t i = 0; i < scalars; i += W) at<T, W>(grad + i) += at<T, W>(piece + i);
  }

  // Columns are taken in pairs.
  static Range column_part(int count, int64_t piece, int64_t pieces) {
    const Range pairs = part(count / 2, piece, pieces);
    return {2 * pairs.begin, 2 * pairs.end};
  }

  void forward_block(int64_t task) const {
    const Pack<T>& pack = job.pack;
    const int64_t plane = (first_block + task) * W;
    auto worker = forward_worker();
    const Stored<T> stored{nullptr, of_block[task].spectrum, worker.own.low_rows};
    worker.block_columns(plane, {0, pack.nx}, stored);
    worker.block_rows({0, half_rows(pack.ny)}, stored);
    worker.block_finish(plane, stored);
  }

  void forward_group(int64_t task) const {
    const Group g = group_of(task);
    const Product<T>& first = job.pack.first[g.j1];
    auto worker = forward_worker();
    Stored<T> stored = worker.own;
    if (split) stored.spectrum = of_group[task].spectrum;
    worker.group_lines(g.j1, {0, first.lines}, g.lanes, of_block[g.block].spectrum, stored);
    worker.group_columns(g.j1, {0, first.length}, stored);
    worker.group_rows(g.j1, {0, half_rows(first.lines)}, stored);
    worker.group_finish(g.j1, g.plane, g.lanes, stored);
    if (split) return;
    worker.second_orders(g.j1, second_part(g.j1, 0, 1), g.plane, g.lanes, stored.spectrum);
  }

  // The same in steps. A step's last piece, one more than the others, writes coefficients.
  void split_block_columns(int64_t task) const {
    const int64_t block = task / pieces;
    const Range range = column_part(job.pack.nx, task % pieces, pieces);
    forward_worker().block_columns((first_block + block) * W, range, of_block[block]);
  }

  void split_block_rows(int64_t task) const {
    const int64_t block = task / (pieces + 1), piece = task % (pieces + 1);
    auto worker = forward_worker();
    if (piece == pieces) return worker.block_finish((first_block + block) * W, of_block[block]);
    worker.block_rows(part(half_rows(job.pack.ny), piece, pieces), of_block[block]);
  }

  void cut_group_lines(int64_t task) const {
    const int64_t index = task / pieces;
    const Group g = group_of(index);
    const Range range = part(job.pack.first[g.j1].lines, task % pieces, pieces);
    forward_worker().group_lines(g.j1, range, g.lanes, of_block[g.block].spectrum, of_group[index]);
  }

  void cut_group_columns(int64_t task) const {
    const int64_t index = task / pieces;
    const int j1 = group_of(index).j1;
    const Range range = column_part(job.pack.first[j1].length, task % pieces, pieces);
    forward_worker().group_columns(j1, range, of_group[index]);
  }

  void cut_group_rows(int64_t task) const {
    const int64_t index = task / (pieces + 1), piece = task % (pieces + 1);
    const Group g = group_of(index);
    auto worker = forward_worker();
    if (piece == pieces) return worker.group_finish(g.j1, g.plane, g.lanes, of_group[index]);
    worker.group_rows(g.j1, part(half_rows(job.pack.first[g.j1].lines), piece, pieces), of_group[index]);
  }

  void split_second(int64_t task) const {
    const int64_t index = task / pieces;
    const Group g = group_of(index);
    auto worker = forward_worker();
    const Range range = second_part(g.j1, task % pieces, pieces);
    worker.second_orders(g.j1, range, g.plane, g.lanes, of_group[index].spectrum);
  }

  void backward_block(int64_t task) const {
    backward_worker().block((first_block + task) * W, spectra0 + task * spectrum_scalars);
  }

  // The whole group, or where split its first order only.
  void backward_group(int64_t task) const {
    const Group g = group_of(task);
    auto worker = backward_worker();
    const T* spectrum0 = spectra0 + g.block * spectrum_scalars;
    if (split) {
      worker.first_order(g.j1, g.lanes, spectrum0, fields + task * field_scalars,
                         spectra1 + task * spectrum_scalars);
      return;
    }
    worker.first_order(g.j1, g.lanes, spectrum0, worker.z1, worker.spectrum1);
    sum_piece(g, 0, worker.spectrum1, worker.grad1, worker);
    for (int piece = 1; piece < second_pieces() && job.pack.second_follows(g.j1); ++piece) {
      sum_piece(g, piece, worker.spectrum1, worker.piece, worker);
      add_piece(g, worker.grad1, worker.piece);
    }
    worker.finish_group(g.j1, g.plane, g.lanes, worker.z1, worker.grad1, parts + part_start[task]);
  }

  void backward_piece(int64_t task) const {
    const Group g = group_of(task / second_pieces());
    auto worker = backward_worker();
    const T* spectrum = spectra1 + task / second_pieces() * spectrum_scalars;
    sum_piece(g, static_cast<int>(task % second_pieces()), spectrum, grads + task * spectrum_scalars, worker);
  }

  void backward_join(int64_t task) const {
    const Group g = group_of(task);
    T* grad = grads + task * second_pieces() * spectrum_scalars;
    for (int piece = 1; piece < second_pieces() && job.pack.second_follows(g.j1); ++piece) {
      add_piece(g, grad, grad + piece * spectrum_scalars);
    }
    auto worker = backward_worker();
    worker.finish_group(g.j1, g.plane, g.lanes, fields + task * field_scalars, grad,
                        parts + part_start[task]);
  }

  // Adds the groups' parts of the gradient of û0, in the order of the tasks.
  void backward_finish(int64_t task) const {
    T* grad = spectra0 + task * spectrum_scalars;  // û0 itself is spent
    std::fill_n(grad, spectrum_scalars, T(0));
    const size_t elements = spectrum_scalars / W;
    for (int j1 = 0; j1 < job.pack.J; ++j1) {
      for (int group = 0; group < groups(task); ++group) {
        const int64_t index = j1 * all_groups() + task * job.pack.L + group;
        const Lanes<T, W> lanes = group_of(index).lanes;
        const T* part = parts + part_start[index];
        for (int plane = lanes.plane[0]; plane <= lanes.plane[W - 1]; ++plane, part += elements) {
          for (size_t e = 0; e < elements; ++e) grad[e * W + plane] += part[e];
        }
      }
    }
    backward_worker().finish_block((first_block + task) * W, grad);
  }

  void take_shared(Arena& arena, int64_t tasks) {
    of_block.clear(), of_group.clear();
    for (int64_t block = 0; block < blocks; ++block) {
      // A block has no z, and low_rows of its own only where its steps are taken apart.
      const Sizes<T, W> sizes(job.pack, 0);
      of_block.push_back(
          {nullptr, arena.take<T>(sizes.spectrum()), split ? arena.take<T>(sizes.low_rows()) : nullptr});
    }
    for (int64_t task = 0; split && task < tasks; ++task) {
      const int j1 = static_cast<int>(task / all_groups());
      of_group.push_back(cut ? take_stored<T, W>(job.pack, j1, arena)
                             : Stored<T>{nullptr, arena.take<T>(Sizes<T, W>(job.pack, j1).spectrum()), nullptr});
    }
  }

  void forward() {
    const int64_t tasks = all_groups() * job.pack.J;
    scratch(Slot::shared, [&](Arena& arena) { take_shared(arena, tasks); });
    if (!split) {
      parallel_tasks(blocks, [&](int64_t task) { forward_block(task); });
      parallel_tasks(tasks, [&](int64_t task) { forward_group(task); });
      return;
    }
    parallel_tasks(blocks * pieces, [&](int64_t task) { split_block_columns(task); });
    parallel_tasks(blocks * (pieces + 1), [&](int64_t task) { split_block_rows(task); });
    if (cut) {
      parallel_tasks(tasks * pieces, [&](int64_t task) { cut_group_lines(task); });
      parallel_tasks(tasks * pieces, [&](int64_t task) { cut_group_columns(task); });
      parallel_tasks(tasks * (pieces + 1), [&](int64_t task) { cut_group_rows(task); });
    } else {
      parallel_tasks(tasks, [&](int64_t task) { forward_group(task); });
    }
    parallel_tasks(all_groups() * (job.pack.J - 1) * pieces, [&](int64_t task) { split_second(task); });
  }

  void backward() {
    const int64_t tasks = all_groups() * job.pack.J;
    size_t part_scalars = 0;
    for (int64_t task = 0; task < tasks; ++task) {
      part_start.push_back(part_scalars);
      const Lanes<T, W> lanes = group_of(task).lanes;
      part_scalars += spectrum_scalars / W * (lanes.plane[W - 1] - lanes.plane[0] + 1);
    }
    scratch(Slot::shared, [&](Arena& arena) {
      spectra0 = arena.take<T>(blocks * spectrum_scalars);
      parts = arena.take<T>(part_scalars);
      if (!split) return;
      spectra1 = arena.take<T>(tasks * spectrum_scalars);
      fields = arena.take<T>(tasks * field_scalars);
      grads = arena.take<T>(tasks * second_pieces() * spectrum_scalars);
    });
    parallel_tasks(blocks, [&](int64_t task) { backward_block(task); });
    parallel_tasks(tasks, [&](int64_t task) { backward_group(task); });
    if (split) {
      parallel_tasks(tasks * second_pieces(), [&](int64_t task) { backward_piece(task); });
      parallel_tasks(tasks, [&](int64_t task) { backward_join(task); });
    }
    parallel_tasks(blocks, [&](int64_t task) { backward_finish(task); });
  }
};

// All blocks of a call, some at a time so that what the rounds share stays near 16 MB.
template <class T, int W>
void run_rounds(const Scattering<T>& job, bool backward) {
  const Sizes<T, W> level0(job.pack, 0);
  const int64_t blocks = (job.images * job.colours + W - 1) / W;
  const int64_t at_once =
      std::max<int64_t>(1, (int64_t{backward ? 4 : 16} << 20) / int64_t(level0.spectrum() * sizeof(T)));
  for (int64_t first = 0; first < blocks; first += at_once) {
    Rounds<T, W> rounds{job, first, std::min(at_once, blocks - first), level0.spectrum(), level0.field()};
    // Each step is cut so that every thread gets some pieces.
    const int64_t wanted = 4 * int64_t{thread_count()}, groups = rounds.all_groups();
    rounds.split = thread_count() > 1 && groups < wanted;
    if (backward) {
      // What is cut is the second order.
      rounds.split = rounds.split && job.pack.max_order >= 2 && job.pack.J > 1;
      rounds.backward();
    } else {
      // φ without the separable low-pass needs whole spectra before it can finish: not cut into steps.
      rounds.split = rounds.split && job.pack.separable;
      rounds.cut = rounds.split && thread_count() >= 2 * groups;
      rounds.pieces = static_cast<int>(std::clamp<int64_t>((wanted + groups - 1) / groups, 4, 16));
      rounds.forward();
    }
  }
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_ROUNDS_INL_H_
