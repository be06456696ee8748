// How the forward pass of few signals (single-inl.h) is cut into tasks. Not one template with Rounds, which takes every
// group in each step and keeps all their fields: here a step of one path keeps all threads busy, with one path's fields.
#include <cstdint>
#include <vector>

#include "cpu/scattering2d/forward-inl.h"
#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/layout-inl.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/scattering2d/single-inl.h"
#include "cpu/threads/scratch.h"
#include "cpu/threads/tasks.h"

#if defined(SCATSIMCLR_SCATTERING2D_SINGLE_ROUNDS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_SINGLE_ROUNDS_INL_H_
#undef SCATSIMCLR_SCATTERING2D_SINGLE_ROUNDS_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_SINGLE_ROUNDS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// A task is a path with its second order where there are paths enough for the threads, or where they are small.
// Otherwise (`cut`) one path after the other is taken, and each of its steps is shared by the threads.
template <class T, int W>
struct SingleRounds {
  using Worker = Single<T, W>;
  static constexpr int64_t kSmall = 4096;  // pixels; below, waiting for each other takes longer than a step

  const Scattering<T>& job;
  bool cut = false;
  int pieces = 1;
  // Of each plane; where cut, of the one plane and the one path that are worked on.
  std::vector<Stored<T>> of_plane;
  Stored<T> of_path{};
  int64_t plane = 0;
  int j1 = 0, theta1 = 0;

  Worker worker() const { return make_worker<Worker>(job, cut ? 1 : 0); }

  void block(int64_t task) const {
    worker().block(task, of_plane[task].spectrum);
  }

  // The finest scale, which is dearest, first.
  void path(int64_t task) const {
    const int64_t planes = job.images * job.colours, signals = planes * job.pack.L;
    const int64_t of = task % signals / job.pack.L;
    worker().path(of, static_cast<int>(task / signals), static_cast<int>(task % job.pack.L),
                    of_plane[of].spectrum);
  }

  Range piece(int count, int64_t task) const { return part(count, task, pieces); }

  void cut_block_columns(int64_t task) const {
    const Range range = piece(Worker::pairs(job.pack.nx), task);
    if (range.begin < range.end) worker().block_columns(plane, range, of_plane[0]);
  }

  void cut_block_rows(int64_t task) const {
    Worker own = worker();
    if (task < pieces) {
      own.block_rows(piece(Worker::groups(half_rows(job.pack.ny)), task), of_plane[0]);
    } else {
      own.block_finish(plane, piece(Worker::groups(job.out_height), task - pieces), of_plane[0]);
    }
  }

  void cut_lines(int64_t task) const {
    const Range range = piece(Worker::groups(job.pack.first[j1].lines), task);
    worker().path_lines(j1, theta1, range, of_plane[0].spectrum, of_path);
  }

  void cut_columns(int64_t task) const {
    worker().path_columns(j1, piece(Worker::pairs(job.pack.first[j1].length), task), of_path);
  }

  void cut_rows(int64_t task) const {
    Worker own = worker();
    if (task < pieces) {
      own.path_rows(j1, piece(Worker::groups(half_rows(job.pack.first[j1].lines)), task), of_path);
    } else {
      const Range range = piece(Worker::groups(job.out_height), task - pieces);
      own.path_finish(plane, j1, theta1, range, of_path);
    }
  }

  void cut_second(int64_t task) const {
    const int n2 = (j1 + 1) * job.pack.L + static_cast<int>(task);
    worker().second_order(plane, j1, theta1, n2, of_path.spectrum);
  }

  void take_shared(Arena& arena) {
    of_plane.clear();
    for (int64_t p = 0; !cut && p < job.images * job.colours; ++p) {
      of_plane.push_back({nullptr, Worker::take_spectrum(job.pack, 0, arena), nullptr});
    }
    if (cut) {
      // A plane's low-passed columns are spent when its paths begin.
      of_path = Worker::take_stored(job.pack, 0, arena);
      of_plane.push_back({nullptr, Worker::take_spectrum(job.pack, 0, arena), of_path.low_rows});
    }
  }

  void run() {
    const Pack<T>& pack = job.pack;
    const int64_t planes = job.images * job.colours, paths = planes * pack.L * pack.J;
    cut = thread_count() > 1 && paths < 4 * int64_t{thread_count()} && int64_t{pack.ny} * pack.nx >= kSmall;
    pieces = 4 * thread_count();
    scratch(Slot::shared, [&](Arena& arena) { take_shared(arena); });
    if (!cut) {
      parallel_tasks(planes, [&](int64_t task) { block(task); });
      parallel_tasks(paths, [&](int64_t task) { path(task); });
      return;
    }
    for (plane = 0; plane < planes; ++plane) {
      parallel_tasks(pieces, [&](int64_t task) { cut_block_columns(task); });
      parallel_tasks(2 * pieces, [&](int64_t task) { cut_block_rows(task); });
      for (int n1 = 0; n1 < pack.J * pack.L; ++n1) {
        j1 = n1 / pack.L, theta1 = n1 % pack.L;
        parallel_tasks(pieces, [&](int64_t task) { cut_lines(task); });
        parallel_tasks(pieces, [&](int64_t task) { cut_columns(task); });
        parallel_tasks(2 * pieces, [&](int64_t task) { cut_rows(task); });
        if (pack.max_order >= 2) {
          parallel_tasks((pack.J - 1 - j1) * pack.L, [&](int64_t task) { cut_second(task); });
        }
      }
    }
  }
};

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_SINGLE_ROUNDS_INL_H_
