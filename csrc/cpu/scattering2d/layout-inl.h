// Sizes of spectra and fields, where coefficients and pixels stand, and parts of the work.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/pack.h"
#include "cpu/simd/target-inl.h"
#include "cpu/threads/scratch.h"

#if defined(SCATSIMCLR_SCATTERING2D_LAYOUT_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_LAYOUT_INL_H_
#undef SCATSIMCLR_SCATTERING2D_LAYOUT_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_LAYOUT_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// Elements of the two grids' spectra and fields at level j, in scalars.
template <class T, int W>
struct Sizes {
  int ny, nx;
  explicit Sizes(const Pack<T>& pack, int j) : ny(pack.ny >> j), nx(pack.nx >> j) {}
  // A complex field with odd_stride rows, in either orientation.
  size_t field() const { return size_t(std::max(ny * odd_stride(nx), nx * odd_stride(ny))) * 2 * W; }
  size_t spectrum() const { return size_t(half_rows(ny)) * odd_stride(nx) * 2 * W; }
  // A field low-passed in one direction; level 0 has the most: its outputs are at most half of its inputs.
  size_t low_rows() const { return size_t(ny) * nx / 2 * W; }
};

// The offset of coefficient q of a plane, in elements.
template <class T>
ptrdiff_t coefficient_offset(const Scattering<T>& job, int64_t plane, int q) {
  const Plane& out = job.coefficients_out;
  return plane / job.colours * out.image + (plane % job.colours * job.coefficients + q) * out.channel;
}

// Index of the first of the second-order coefficients of path (j1, θ1) among the K of a plane.
inline int second_coefficient(int J, int L, int j1, int theta1) {
  int paths = 0;
  for (int j = 0; j < j1; ++j) paths += L * (J - 1 - j);
  return 1 + J * L + L * paths + theta1 * L * (J - 1 - j1);
}

// One of `pieces` parts of about equal size.
inline Range part(int count, int64_t piece, int64_t pieces) {
  return {static_cast<int>(count * piece / pieces), static_cast<int>(count * (piece + 1) / pieces)};
}

// A worker with this thread's buffers, for fields of scale `level` and coarser.
template <class Worker, class T>
Worker make_worker(const Scattering<T>& job, int level) {
  return scratch(Slot::own, [&](Arena& arena) { return Worker(job, level, arena); });
}

// Index reflection without repeating the edge, of period 2(size − 1), as numpy.pad(mode="reflect").
inline int reflect(int index, int size) {
  const int period = std::max(2 * (size - 1), 1);
  const int i = ((index % period) + period) % period;
  return i < size ? i : period - i;
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_LAYOUT_INL_H_
