// The kernels of one instruction set: scattering2d.cpp includes this file through foreach_isa.h.
#include "cpu/fft.inl"
#include "cpu/scattering2d_transforms.inl"
#include "cpu/scattering2d_work.inl"
#include "cpu/scattering2d_forward.inl"
#include "cpu/scattering2d_single.inl"
#include "cpu/scattering2d_backward.inl"
#include "cpu/scattering2d_rounds.inl"

// One image with few angles leaves most of a wide register empty: half the width costs 0.65 of it (EPYC Zen 4, 52²
// transforms, 2026-11-24) and half the memory.
template <class T>
void scattering2d_run(const Scattering<T>& job, bool backward) {
  constexpr int W = SCATSIMCLR_SIMD_BYTES / sizeof(T);
  const int64_t signals = job.images * job.colours * job.pack.L;
  if (!backward && job.pack.separable && signals <= std::max(1, W / 4)) return SingleRounds<T, W>{job}.run();
#if SCATSIMCLR_SIMD_BYTES == 64
  if (signals <= W / 4) return run_rounds<T, W / 4>(job, backward);
#endif
#if SCATSIMCLR_SIMD_BYTES >= 32
  if (signals <= W / 2) return run_rounds<T, W / 2>(job, backward);
#endif
  run_rounds<T, W>(job, backward);
}
