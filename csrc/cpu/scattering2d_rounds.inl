// How a call is cut into tasks. Blocks (W planes) are taken some at a time, and each round of tasks over them
// ends before the next begins. A group's second order follows its first order in the same task where there are
// groups enough for the threads; otherwise it is cut into pieces that are tasks of their own, so that one image
// keeps several threads busy.

template <class T, int W>
struct Rounds {
  static constexpr int kPieces = 4;  // of one group's second order

  const Scattering<T>& job;
  int64_t first_block, blocks;
  size_t spectrum_scalars, field_scalars;
  bool split;
  // Forward: û0 of each block, û1 of each group (only where split).
  // Backward: also z1 and the pieces' gradients of û1 (only where split), and the groups' parts.
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

  template <class Worker>
  Worker worker() const {
    return Worker(job, reinterpret_cast<T*>(workspace(Slot::own, Worker::own_scalars(job.pack) * sizeof(T))));
  }

  // Runs f(n2) for the scales and angles of one piece of (j1, ·)'s second order; pieces == 1: for all.
  template <class F>
  void each_second(int j1, int piece, int pieces, F f) const {
    if (job.pack.max_order < 2) return;
    for (int n2 = (j1 + 1) * job.pack.L + piece; n2 < job.pack.J * job.pack.L; n2 += pieces) f(n2);
  }

  static Rounds& of(void* context) { return *static_cast<Rounds*>(context); }

  static void forward_block(void* context, int64_t task) {
    const Rounds& r = of(context);
    r.template worker<Forward<T, W>>().block((r.first_block + task) * W, r.spectra0 + task * r.spectrum_scalars);
  }

  static void forward_group(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Group g = r.group_of(task);
    auto worker = r.template worker<Forward<T, W>>();
    T* spectrum = r.split ? r.spectra1 + task * r.spectrum_scalars : worker.spectrum1;
    worker.first_order(g.j1, g.plane, g.lanes, r.spectra0 + g.block * r.spectrum_scalars, spectrum);
    if (r.split) return;
    r.each_second(g.j1, 0, 1, [&](int n2) { worker.second_order(g.j1, n2, g.plane, g.lanes, spectrum); });
  }

  static void forward_piece(void* context, int64_t task) {
    const Rounds& r = of(context);
    const Group g = r.group_of(task / kPieces);
    auto worker = r.template worker<Forward<T, W>>();
    const T* spectrum = r.spectra1 + task / kPieces * r.spectrum_scalars;
    r.each_second(g.j1, static_cast<int>(task % kPieces), kPieces,
                  [&](int n2) { worker.second_order(g.j1, n2, g.plane, g.lanes, spectrum); });
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

  void forward() {
    const int64_t tasks = all_groups() * job.pack.J;
    const size_t shared = (blocks + (split ? tasks : 0)) * spectrum_scalars;
    spectra0 = reinterpret_cast<T*>(workspace(Slot::shared, shared * sizeof(T)));
    spectra1 = spectra0 + blocks * spectrum_scalars;
    parallel_tasks(blocks, &forward_block, this);
    parallel_tasks(tasks, &forward_group, this);
    if (split) parallel_tasks(all_groups() * (job.pack.J - 1) * kPieces, &forward_piece, this);
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
    Rounds<T, W> rounds{job, first, std::min(at_once, blocks - first), level0.spectrum(), level0.field(), false};
    rounds.split = job.pack.max_order >= 2 && job.pack.J > 1 && thread_count() > 1 &&
                   rounds.all_groups() < 4 * thread_count();
    if (backward) {
      rounds.backward();
    } else {
      rounds.forward();
    }
  }
}
