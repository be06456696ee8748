// The kernels of one instruction set: scattering2d.cpp includes this file through foreach_isa.h.
#include "cpu/fft.inl"
#include "cpu/scattering2d_transforms.inl"
#include "cpu/scattering2d_work.inl"
#include "cpu/scattering2d_forward.inl"
#include "cpu/scattering2d_backward.inl"
#include "cpu/scattering2d_rounds.inl"

template <class T>
void scattering2d_run(const Scattering<T>& job, bool backward) {
  constexpr int W = SCATSIMCLR_SIMD_BYTES / sizeof(T);
#if SCATSIMCLR_SIMD_BYTES == 64
  // One small image with few angles leaves half of the widest register empty: half the width costs 0.65 of it
  // (EPYC Zen 4, 52² transforms, 2026-11-24) and half the memory.
  if (job.images * job.colours * job.pack.L <= W / 2) return run_rounds<T, W / 2>(job, backward);
#endif
  run_rounds<T, W>(job, backward);
}
