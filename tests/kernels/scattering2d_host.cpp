// The phases of csrc/cuda/scattering2d.cu on the host: a block's threads one after the other within each phase, forwards,
// backwards or in a shuffled order. Where the order changes a bit, two threads of a phase touch the same number.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/scattering2d_phases.h"

using namespace scatsimclr::cuda;

namespace {

template <class Phase>
void every_thread(const std::vector<int>& order, Phase&& phase) {
  for (const int thread : order) phase(thread, static_cast<int>(order.size()));
}

void run_block(const Paths& p, int field, const std::vector<int>& order) {
  // Shared memory is not zero when a block starts.
  std::vector<float> memory(shared_bytes(p) / sizeof(float) + 1, std::numeric_limits<float>::quiet_NaN());
  const Shared s = carve(p, memory.data());
  every_thread(order, [&](int t, int n) { set_up(p, s, t, n); });
  for (int theta = 0; theta < p.L; ++theta) {
    every_thread(order, [&](int t, int n) { fold_product(p, s, field, theta, t, n); });
    for (const bool horizontal : {true, false}) {
      for (int pass = 0; pass < (horizontal ? p.horizontal : p.vertical).passes; ++pass) {
        every_thread(order, [&](int t, int n) { transform_pass(p, s, horizontal, pass, t, n); });
      }
    }
    // One phase in the kernel: a thread does both before the barrier.
    every_thread(order, [&](int t, int n) {
      if (p.u) store_moduli(p, s, field, theta, t, n);
      low_pass_columns(p, s, t, n);
    });
    every_thread(order, [&](int t, int n) { low_pass_rows<float>(p, s, field, theta, t, n); });
  }
}

}  // namespace

// sizes: fields, L, m, n, rows, columns, h, w, first, stride, field0, P, colours, K. out is contiguous. Returns the bytes of
// shared memory, or 0 where the lengths have other factors.
extern "C" int64_t run_paths(const float* spectra, const float* psi, const float* low_y, const float* low_x,
                             const int* band_y, const int* band_x, float* u, float* out, const int64_t* sizes, int threads, int seed) {
  Paths p{};
  p.spectra = reinterpret_cast<const Complex*>(spectra);
  p.psi = psi, p.low_y = low_y, p.low_x = low_x, p.band_y = band_y, p.band_x = band_x, p.u = u, p.out = out;
  int* const fields[] = {&p.fields, &p.L, &p.m, &p.n, &p.rows, &p.columns, &p.h, &p.w, &p.first, &p.stride, &p.field0,
                         &p.P, &p.colours, &p.K};
  for (size_t i = 0; i < std::size(fields); ++i) *fields[i] = static_cast<int>(sizes[i]);
  p.fold = p.m / p.rows;
  p.column_step = 1, p.row_step = p.w, p.channel_step = int64_t{p.h} * p.w;
  p.image_step = p.channel_step * p.colours * p.K;
  if (!factor(p.rows, p.vertical) || !factor(p.columns, p.horizontal)) return 0;
  std::vector<int> order(threads);
  std::iota(order.begin(), order.end(), 0);
  if (seed == 1) std::reverse(order.begin(), order.end());
  if (seed > 1) std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  for (int field = 0; field < p.fields; ++field) run_block(p, field, order);
  return static_cast<int64_t>(shared_bytes(p));
}
