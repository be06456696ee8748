// The kernels of one instruction set: scattering2d.cpp compiles them for each.
#include <algorithm>
#include <cstdint>

#include "cpu/scattering2d/job.h"
#include "cpu/scattering2d/rounds-inl.h"
#include "cpu/scattering2d/single_rounds-inl.h"
#include "cpu/simd/target-inl.h"

#if defined(SCATSIMCLR_SCATTERING2D_KERNELS_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SCATTERING2D_KERNELS_INL_H_
#undef SCATSIMCLR_SCATTERING2D_KERNELS_INL_H_
#else
#define SCATSIMCLR_SCATTERING2D_KERNELS_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d {

// One image with few angles leaves most of a wide register empty: half the width costs 0.65 of it (EPYC Zen 4, 52²
// transforms, 2026-11-24) and half the memory.
template <class T>
void run(const Scattering<T>& job, bool backward) {
  constexpr int W = SCATSIMCLR_SIMD_BYTES / sizeof(T);
  const int64_t signals = job.images * job.colours * job.pack.L;
  const bool few = signals <= std::max(1, W / 4), large = int64_t{job.pack.ny} * job.pack.nx >= kLarge;
  if (!backward && !job.pack.alone.empty() && (few || large)) return SingleRounds<T, W>{job}.run();
#if SCATSIMCLR_SIMD_BYTES == 64
  if (signals <= W / 4) return run_rounds<T, W / 4>(job, backward);
#endif
#if SCATSIMCLR_SIMD_BYTES >= 32
  if (signals <= W / 2) return run_rounds<T, W / 2>(job, backward);
#endif
  run_rounds<T, W>(job, backward);
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::scattering2d
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SCATTERING2D_KERNELS_INL_H_
