// How a call is cut into tasks. Blocks (W planes) are taken some at a time, and each round of tasks over them
// ends before the next begins. A group's second order follows its first order in the same task where there are
// groups enough for the threads. Otherwise (`split`) it is a round of its own, in pieces, and so are the steps of a
// block. With threads for two pieces of every group and more (`cut`) the first order is cut into its steps too: one
// image keeps many threads busy. Its fields then wander between the threads' caches: at 96², 3 groups, the steps
// took 1.6 times the work of whole groups (EPYC Zen 4, two threads, 2026-11-25).

template <class T, int W>
struct Rounds {
  static constexpr int kPieces = 4;  // of one group's second order, backward: their gradients take memory

  const Scattering<T>& job;
  int64_t first_block, blocks;
  size_t spectrum_scalars, field_scalars;
  bool split = false, cut = false;
  int pieces = 1;  // forward, of every step
  // Forward: of each block; where split also of each group, scale by scale, its spectrum, where cut all.
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

  // This thread's buffers, for fields of scale `level` and coarser.
  template <class Worker>
  Worker worker(int level = 0) const {
    Arena<T> sizes{nullptr};
    Worker(job, level, sizes);
    Arena<T> memory{reinterpret_cast<T*>(workspace(Slot::own, sizes.used * sizeof(T)))};
    return Worker(job, level, memory);
  }

  // Where cut, the finest fields are shared: a thread's own hold the second order, or a piece of a block.
  Forward<T, W> forward_worker() const { return worker<Forward<T, W>>(cut ? 1 : 0); }

  // The scales and angles n2 of one piece of (j1, ·)'s second order, in a row.
  Range second_part(int j1, int64_t piece, int64_t pieces) const {
    const int first = (j1 + 1) * job.pack.L;
    const int count = job.pack.max_order < 2 ? 0 : job.pack.J * job.pack.L - first;
    const Range range = part(count, piece, pieces);
    return {first + range.begin, first + range.end};
  }

  // Backward: runs f(n2) for every count-th; count == 1: for all.
  template <class F>
  void each_second(int j1, int piece, int count, F f) const {
    if (job.pack.max_order < 2) return;
    for (int n2 = (j1 + 1) * job.pack.L + piece; n2 < job.pack.J * job.pack.L; n2 += count) f(n2);
  }

  static Range part(int count, int64_t piece, int64_t pieces) {
    return {static_cast<int>(count * piece / pieces), static_cast<int>(count * (piece + 1) / pieces)};
  }
  // Columns are taken in pairs.
  static Range column_part(int count, int64_t piece, int64_t pieces) {
    const Range pairs = part(count / 2, piece, pieces);
    return {2 * pairs.begin, 2 * pairs.end};
  }

  static Rounds& of(void* context) { return *static_cast<Rounds*>(context); }

  static void forward_block(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Pack<T>& pack = r.job.pack;
    const int64_t plane = (r.first_block + task) * W;
    auto worker = r.forward_worker();
    const Stored<T> stored{nullptr, r.of_block[task].spectrum, worker.own.low_rows};
    worker.block_columns(plane, {0, pack.nx}, stored);
    worker.block_rows({0, half_rows(pack.ny)}, stored);
    worker.block_finish(plane, stored);
  }

  static void forward_group(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Group g = r.group_of(task);
    const Product<T>& first = r.job.pack.first[g.j1];
    auto worker = r.forward_worker();
    Stored<T> stored = worker.own;
    if (r.split) stored.spectrum = r.of_group[task].spectrum;
    worker.group_lines(g.j1, {0, first.lines}, g.lanes, r.of_block[g.block].spectrum, stored);
    worker.group_columns(g.j1, {0, first.length}, stored);
    worker.group_rows(g.j1, {0, half_rows(first.lines)}, stored);
    worker.group_finish(g.j1, g.plane, g.lanes, stored);
    if (r.split) return;
    worker.second_orders(g.j1, r.second_part(g.j1, 0, 1), g.plane, g.lanes, stored.spectrum);
  }

  // The same in steps. A step's last piece, one more than the others, writes coefficients.
  static void split_block_columns(void* context, int64_t task) {
    const Rounds& r = of(context);
    const int64_t block = task / r.pieces;
    const Range range = column_part(r.job.pack.nx, task % r.pieces, r.pieces);
    r.forward_worker().block_columns((r.first_block + block) * W, range, r.of_block[block]);
  }

  static void split_block_rows(void* context, int64_t task) {
    const Rounds& r = of(context);
    const int64_t block = task / (r.pieces + 1), piece = task % (r.pieces + 1);
    auto worker = r.forward_worker();
    if (piece == r.pieces) return worker.block_finish((r.first_block + block) * W, r.of_block[block]);
    worker.block_rows(part(half_rows(r.job.pack.ny), piece, r.pieces), r.of_block[block]);
  }

  static void cut_group_lines(void* context, int64_t task) {
    const Rounds& r = of(context);
    const int64_t index = task / r.pieces;
    const Group g = r.group_of(index);
    const Range range = part(r.job.pack.first[g.j1].lines, task % r.pieces, r.pieces);
    r.forward_worker().group_lines(g.j1, range, g.lanes, r.of_block[g.block].spectrum, r.of_group[index]);
  }

  static void cut_group_columns(void* context, int64_t task) {
    const Rounds& r = of(context);
    const int64_t index = task / r.pieces;
    const int j1 = r.group_of(index).j1;
    const Range range = column_part(r.job.pack.first[j1].length, task % r.pieces, r.pieces);
    r.forward_worker().group_columns(j1, range, r.of_group[index]);
  }

  static void cut_group_rows(void* context, int64_t task) {
    const Rounds& r = of(context);
    const int64_t index = task / (r.pieces + 1), piece = task % (r.pieces + 1);
    const Group g = r.group_of(index);
    auto worker = r.forward_worker();
    if (piece == r.pieces) return worker.group_finish(g.j1, g.plane, g.lanes, r.of_group[index]);
    worker.group_rows(g.j1, part(half_rows(r.job.pack.first[g.j1].lines), piece, r.pieces), r.of_group[index]);
  }

  static void split_second(void* context, int64_t task) {
    const Rounds& r = of(context);
    const int64_t index = task / r.pieces;
    const Group g = r.group_of(index);
    auto worker = r.forward_worker();
    const Range range = r.second_part(g.j1, task % r.pieces, r.pieces);
    worker.second_orders(g.j1, range, g.plane, g.lanes, r.of_group[index].spectrum);
  }

  static void backward_block(void* context, int64_t task) {
    const Rounds& r = of(context);
    r.template worker<Backward<T, W>>().block((r.first_block + task) * W, r.spectra0 + task * r.spectrum_scalars);
  }

  // The whole group, or where split its first order only.
  static void backward_group(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Group g = r.group_of(task);
    auto worker = r.template worker<Backward<T, W>>();
    const T* spectrum0 = r.spectra0 + g.block * r.spectrum_scalars;
    if (r.split) {
      worker.first_order(g.j1, g.lanes, spectrum0, r.fields + task * r.field_scalars,
                         r.spectra1 + task * r.spectrum_scalars);
      return;
    }
    worker.first_order(g.j1, g.lanes, spectrum0, worker.z1, worker.spectrum1);
    std::fill_n(worker.grad1, r.spectrum_scalars, T(0));
    r.each_second(g.j1, 0, 1, [&](int n2) {
      worker.second_order(g.j1, n2, g.plane, g.lanes, worker.spectrum1, worker.grad1);
    });
    worker.finish_group(g.j1, g.plane, g.lanes, worker.z1, worker.grad1, r.parts + r.part_start[task]);
  }

  static void backward_piece(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Group g = r.group_of(task / kPieces);
    auto worker = r.template worker<Backward<T, W>>();
    T* grad = r.grads + task * r.spectrum_scalars;
    std::fill_n(grad, r.spectrum_scalars, T(0));
    r.each_second(g.j1, static_cast<int>(task % kPieces), kPieces, [&](int n2) {
      worker.second_order(g.j1, n2, g.plane, g.lanes, r.spectra1 + task / kPieces * r.spectrum_scalars, grad);
    });
  }

  static void backward_join(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Group g = r.group_of(task);
    T* grad = r.grads + task * kPieces * r.spectrum_scalars;
    for (int piece = 1; piece < kPieces; ++piece) {
      const T* other = grad + piece * r.spectrum_scalars;
      for (size_t i = 0; i < r.spectrum_scalars; i += W) at<T, W>(grad + i) += at<T, W>(other + i);
    }
    auto worker = r.template worker<Backward<T, W>>();
    worker.finish_group(g.j1, g.plane, g.lanes, r.fields + task * r.field_scalars, grad,
                        r.parts + r.part_start[task]);
  }

  // Adds the groups' parts of the gradient of û0, in the order of the tasks.
  static void backward_finish(void* context, int64_t task) {
    const Rounds& r = of(context);
    T* grad = r.spectra0 + task * r.spectrum_scalars;  // û0 itself is spent
    std::fill_n(grad, r.spectrum_scalars, T(0));
    const size_t elements = r.spectrum_scalars / W;
    for (int j1 = 0; j1 < r.job.pack.J; ++j1) {
      for (int group = 0; group < r.groups(task); ++group) {
        const int64_t index = j1 * r.all_groups() + task * r.job.pack.L + group;
        const Lanes<T, W> lanes = r.group_of(index).lanes;
        const T* part = r.parts + r.part_start[index];
        for (int plane = lanes.plane[0]; plane <= lanes.plane[W - 1]; ++plane, part += elements) {
          for (size_t e = 0; e < elements; ++e) grad[e * W + plane] += part[e];
        }
      }
    }
    r.template worker<Backward<T, W>>().finish_block((r.first_block + task) * W, grad);
  }

  void take_shared(Arena<T> arena, int64_t tasks, size_t* used) {
    of_block.clear(), of_group.clear();
    for (int64_t block = 0; block < blocks; ++block) {
      // A block has no z, and low_rows of its own only where its steps are taken apart.
      const Sizes<T, W> sizes(job.pack, 0);
      of_block.push_back({nullptr, arena.take(sizes.spectrum()), split ? arena.take(sizes.low_rows()) : nullptr});
    }
    for (int64_t task = 0; split && task < tasks; ++task) {
      const int j1 = static_cast<int>(task / all_groups());
      of_group.push_back(cut ? take_stored<T, W>(job.pack, j1, arena)
                             : Stored<T>{nullptr, arena.take(Sizes<T, W>(job.pack, j1).spectrum()), nullptr});
    }
    *used = arena.used;
  }

  void forward() {
    const int64_t tasks = all_groups() * job.pack.J;
    size_t shared;
    take_shared({nullptr}, tasks, &shared);
    take_shared({reinterpret_cast<T*>(workspace(Slot::shared, shared * sizeof(T)))}, tasks, &shared);
    if (!split) {
      parallel_tasks(blocks, &forward_block, this);
      parallel_tasks(tasks, &forward_group, this);
      return;
    }
    parallel_tasks(blocks * pieces, &split_block_columns, this);
    parallel_tasks(blocks * (pieces + 1), &split_block_rows, this);
    if (cut) {
      parallel_tasks(tasks * pieces, &cut_group_lines, this);
      parallel_tasks(tasks * pieces, &cut_group_columns, this);
      parallel_tasks(tasks * (pieces + 1), &cut_group_rows, this);
    } else {
      parallel_tasks(tasks, &forward_group, this);
    }
    parallel_tasks(all_groups() * (job.pack.J - 1) * pieces, &split_second, this);
  }

  void backward() {
    const int64_t tasks = all_groups() * job.pack.J;
    size_t part_scalars = 0;
    for (int64_t task = 0; task < tasks; ++task) {
      part_start.push_back(part_scalars);
      const Lanes<T, W> lanes = group_of(task).lanes;
      part_scalars += spectrum_scalars / W * (lanes.plane[W - 1] - lanes.plane[0] + 1);
    }
    part_scalars = (part_scalars + 15) / 16 * 16;
    const size_t of_group = split ? field_scalars + (1 + kPieces) * spectrum_scalars : 0;
    const size_t shared = blocks * spectrum_scalars + part_scalars + tasks * of_group;
    spectra0 = reinterpret_cast<T*>(workspace(Slot::shared, shared * sizeof(T)));
    spectra1 = spectra0 + blocks * spectrum_scalars;
    fields = spectra1 + (split ? tasks : 0) * spectrum_scalars;
    grads = fields + (split ? tasks : 0) * field_scalars;
    parts = grads + (split ? tasks * kPieces : 0) * spectrum_scalars;
    parallel_tasks(blocks, &backward_block, this);
    parallel_tasks(tasks, &backward_group, this);
    if (split) {
      parallel_tasks(tasks * kPieces, &backward_piece, this);
      parallel_tasks(tasks, &backward_join, this);
    }
    parallel_tasks(blocks, &backward_finish, this);
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
