// The operators ntxent and ntxent_backward on the CPU: symmetric tiles, memory linear in the rows.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/ntxent/job.h"
#include "cpu/threads/scratch.h"
#include "cpu/threads/tasks.h"

#define SCATSIMCLR_TARGET_INCLUDE "cpu/ntxent/kernels-inl.h"
#include "cpu/simd/foreach_target.h"

namespace scatsimclr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Below this many multiply-adds a second thread costs more than it saves.
constexpr int64_t kSerial = int64_t{1} << 21;

// The class of a local row is its image; remote rows have one class of their own, without members.
Classes view_classes(int64_t total, int64_t views, int64_t first, int64_t rows) {
  const int64_t images = rows / views;
  Classes classes;
  classes.of.assign(total, images);
  classes.members.resize(rows);
  classes.begin.assign(images + 2, rows);
  classes.share.assign(images + 1, views > 1 ? 1.0 / (views - 1) : 0.0);
  for (int64_t a = 0; a < images; ++a) {
    classes.begin[a] = a * views;
    for (int64_t v = 0; v < views; ++v) {
      classes.members[a * views + v] = first + a + v * images;
      classes.of[first + a + v * images] = a;
    }
  }
  classes.anchors = views > 1 ? total : 0;
  return classes;
}

Classes label_classes(const int64_t* labels, int64_t total) {
  Classes classes;
  classes.members.resize(total);
  classes.of.resize(total);
  std::iota(classes.members.begin(), classes.members.end(), int64_t{0});
  std::stable_sort(classes.members.begin(), classes.members.end(),
                   [&](int64_t a, int64_t b) { return labels[a] < labels[b]; });
  for (int64_t begin = 0, end; begin < total; begin = end) {
    const int64_t label = labels[classes.members[begin]];
    for (end = begin; end < total && labels[classes.members[end]] == label; ++end) {
      classes.of[classes.members[end]] = classes.begin.size();
    }
    classes.begin.push_back(begin);
    classes.share.push_back(end - begin > 1 ? 1.0 / (end - begin - 1) : 0.0);
    if (end - begin > 1) classes.anchors += end - begin;
  }
  classes.begin.push_back(total);
  return classes;
}

double read_temperature(const OptionalTensor& temperature, double tau) {
  if (!temperature) return tau;
  const Tensor value = torch::stable::to(*temperature, ScalarType::Double);
  STD_TORCH_CHECK(value.numel() == 1, "ntxent: temperature must have one element, got ", value.numel());
  return *static_cast<const double*>(value.const_data_ptr());
}

// Strips of at most `block` rows that do not cross the borders of the local rows.
std::vector<Strip> cut(int64_t total, int64_t first, int64_t rows, int64_t block) {
  std::vector<Strip> strips;
  const int64_t borders[] = {0, first, first + rows, total};
  for (int part = 0; part < 3; ++part) {
    for (int64_t row = borders[part]; row < borders[part + 1]; row += block) {
      strips.push_back({row, std::min(block, borders[part + 1] - row), part == 1});
    }
  }
  return strips;
}

// Strips of 32 to 128 rows. Small batches need several tiles per thread; large ones, tiles that amortise their loads.
// Two strips of rows and of gradients and a tile fit in 1 MB of L2 up to D = 256.
int64_t strip_rows(int64_t total) { return total >= 2048 ? 128 : total >= 256 ? 64 : 32; }

// One call: its job, whose memory is the slot `shared` of the calling thread, and the rounds over its strips.
template <typename T>
struct Call {
  NtxentJob<T> job;
  int threads;

  Call(const Tensor& x, const OptionalTensor& labels, const OptionalTensor& temperature, double tau, bool normalize,
       int64_t views, int64_t first, int64_t rows, T* dx) {
    job.x = static_cast<const T*>(x.const_data_ptr());
    job.M = x.size(0), job.D = x.size(1), job.first = first, job.rows = rows;
    job.normalize = normalize;
    job.c = 1 / read_temperature(temperature, tau);
    // |c s| ≤ c: e^±60 and its sums over 2^30 rows stay within float32, e^±600 within float64.
    job.fixed = normalize && job.c <= (sizeof(T) == 4 ? 60 : 600);
    job.classes = labels ? label_classes(static_cast<const int64_t*>(labels->const_data_ptr()), job.M)
                         : view_classes(job.M, views, first, rows);
    job.block = strip_rows(job.M);
    job.strips = cut(job.M, first, rows, job.block);
    job.rounds = std::vector<std::atomic<int64_t>>(job.strips.size());
    constexpr int64_t line = 64 / sizeof(T);
    // An odd number of cache lines, so that rows do not fall into the same sets of L1.
    job.stride = (job.D + kPanel<T> - 1) / kPanel<T> * kPanel<T> + line;
    // Whole panels can be added up in the result itself.
    const bool direct = job.D % kPanel<T> == 0;
    job.dx = dx;
    job.dz_stride = direct ? job.D : job.stride;
    const int64_t padded = job.M + kPanel<T> + 8;
    scratch(Slot::shared, [&](Arena& arena) {
      job.z = arena.take<T>((job.M + 8) * job.stride);
      job.panels = arena.take<T>(job.strips.size() * job.block * job.D);
      job.shift = arena.take<T>(padded), job.inverse = arena.take<T>(padded);
      job.norm = arena.take<double>(job.M), job.total = arena.take<double>(job.M);
      job.pull = arena.take<double>(job.M), job.row = arena.take<double>(job.M);
      job.dz = direct ? dx : dx ? arena.take<T>(rows * job.dz_stride) : nullptr;
    });
    std::fill_n(job.z + job.M * job.stride, 8 * job.stride, T(0));
    std::fill_n(job.shift, padded, T(0)), std::fill_n(job.inverse, padded, T(0));
    threads = job.M * rows * job.D < kSerial ? 1 : thread_count();
  }
  ~Call() { trim_scratch(Slot::shared); }

  void run(bool backward) {
    const int64_t strips = job.strips.size();
    parallel_tasks(
        strips, [&](int64_t strip) { SCATSIMCLR_DISPATCH(ntxent::prepare(job, strip)); }, threads);
    parallel_tasks(
        threads, [&](int64_t) { SCATSIMCLR_DISPATCH(ntxent::tiles(job, backward)); }, threads);
    parallel_tasks(
        strips, [&](int64_t strip) { SCATSIMCLR_DISPATCH(ntxent::finish(job, strip, backward)); }, threads);
  }
};

Tensor scalar(double value, ScalarType dtype) {
  Tensor out = torch::stable::empty({}, dtype);
  if (dtype == ScalarType::Double) {
    *static_cast<double*>(out.mutable_data_ptr()) = value;
  } else {
    *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(value);
  }
  return out;
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& x, const OptionalTensor& labels,
                                   const OptionalTensor& temperature, double tau, bool normalize, int64_t views,
                                   int64_t first, int64_t rows) {
  Call<T> call(x, labels, temperature, tau, normalize, views, first, rows, nullptr);
  NtxentJob<T>& job = call.job;
  if (!job.fixed) std::fill_n(job.shift, job.M, -std::numeric_limits<T>::infinity());
  std::fill_n(job.total, job.M, 0.0), std::fill_n(job.pull, job.M, 0.0);
  call.run(false);
  Tensor stats = torch::stable::empty({2, rows}, x.scalar_type());
  T* out = static_cast<T*>(stats.mutable_data_ptr());
  double loss = 0;
  for (int64_t i = 0; i < rows; ++i) {
    out[i] = job.shift[first + i];
    out[rows + i] = static_cast<T>(job.total[first + i]);
    loss += job.row[first + i];
  }
  return {scalar(loss / std::max(job.classes.anchors, 1.0), x.scalar_type()), stats};
}

template <typename T>
std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& x, const Tensor& stats,
                                    const OptionalTensor& labels, const OptionalTensor& temperature, double tau,
                                    bool normalize, int64_t views, int64_t first, int64_t rows) {
  Tensor dx = torch::stable::empty({rows, x.size(1)}, x.scalar_type());
  Call<T> call(x, labels, temperature, tau, normalize, views, first, rows, static_cast<T*>(dx.mutable_data_ptr()));
  NtxentJob<T>& job = call.job;
  const T* shift = static_cast<const T*>(stats.const_data_ptr());
  const auto anchor = [&](int64_t row) {
    return labels ? job.classes.share[job.classes.of[row]] > 0 : views > 1;
  };
  for (int64_t i = 0; i < job.M; ++i) {
    const double total = static_cast<double>(shift[job.M + i]);
    // Statistics may come with a shift even where this kernel would not need one.
    const double exponent = job.fixed ? job.c * static_cast<double>(shift[i]) : 0;
    job.shift[i] = job.fixed ? T(0) : shift[i];
    job.inverse[i] = anchor(i) ? static_cast<T>(exponent == 0 ? 1 / total : std::exp(-exponent) / total) : T(0);
  }
  std::fill_n(job.dz, rows * job.dz_stride, T(0));
  job.scale = job.c * static_cast<const T*>(grad.const_data_ptr())[0] / std::max(job.classes.anchors, 1.0);
  call.run(true);
  double along = 0;
  for (int64_t i = 0; i < rows; ++i) along += job.row[first + i];
  return {dx, scalar(-job.c / 2 * along, x.scalar_type())};
}

// Rows as the kernels take them: contiguous, float64 as it is and anything else as float32.
Tensor rows_of(const Tensor& x, int64_t views, int64_t first, int64_t rows) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) > 0 && x.size(1) > 0, "ntxent: x must be (M, D) and not empty");
  STD_TORCH_CHECK(first >= 0 && rows > 0 && rows <= x.size(0) && first <= x.size(0) - rows,
                  "ntxent: the local rows must lie within the ", x.size(0), " rows, got ", rows, " from row ", first, " on");
  STD_TORCH_CHECK(views > 0 && rows % views == 0, "ntxent: rows must be a multiple of views, got ", rows, " rows and ",
                  views, " views");
  const auto dtype = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  return torch::stable::contiguous(x.scalar_type() == dtype ? x : torch::stable::to(x, dtype));
}

OptionalTensor labels_of(const OptionalTensor& labels, int64_t rows) {
  if (!labels) return std::nullopt;
  STD_TORCH_CHECK(labels->scalar_type() == ScalarType::Long && labels->dim() == 1 && labels->size(0) == rows,
                  "ntxent: labels must be int64 with one entry per row");
  return torch::stable::contiguous(*labels);
}

std::tuple<Tensor, Tensor> ntxent(const Tensor& x, OptionalTensor labels, OptionalTensor temperature, double tau,
                                  bool normalize, int64_t views, int64_t first, int64_t rows) {
  const Tensor own = rows_of(x, views, first, rows);
  labels = labels_of(labels, x.size(0));
  const auto run = own.scalar_type() == ScalarType::Double ? forward<double> : forward<float>;
  return run(own, labels, temperature, tau, normalize, views, first, rows);
}

std::tuple<Tensor, Tensor> ntxent_backward(const Tensor& grad, const Tensor& x, const Tensor& stats,
                                           OptionalTensor labels, OptionalTensor temperature, double tau,
                                           bool normalize, int64_t views, int64_t first, int64_t rows) {
  const Tensor own = rows_of(x, views, first, rows);
  const auto dtype = own.scalar_type();
  labels = labels_of(labels, x.size(0));
  STD_TORCH_CHECK(grad.numel() == 1, "ntxent_backward: grad must have one element, got ", grad.numel());
  STD_TORCH_CHECK(stats.numel() == 2 * x.size(0), "ntxent_backward: stats must be (2, ", x.size(0), ")");
  const auto typed = [&](const Tensor& t) {
    return torch::stable::contiguous(t.scalar_type() == dtype ? t : torch::stable::to(t, dtype));
  };
  const auto run = dtype == ScalarType::Double ? backward<double> : backward<float>;
  auto [dx, dtau] =
      run(typed(grad), own, typed(stats), labels, temperature, tau, normalize, views, first, rows);
  if (x.scalar_type() != dtype) dx = torch::stable::to(dx, x.scalar_type());
  return {dx, dtau};
}

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CPU, m) {
  m.impl("ntxent", TORCH_BOX(&ntxent));
  m.impl("ntxent_backward", TORCH_BOX(&ntxent_backward));
}

}  // namespace
}  // namespace scatsimclr
