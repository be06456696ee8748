// The kernels of one instruction set: scattering2d.cpp includes this file through foreach_isa.h.
#include "cpu/fft.inl"
#include "cpu/scattering2d_transforms.inl"
#include "cpu/scattering2d_work.inl"
#include "cpu/scattering2d_forward.inl"
#include "cpu/scattering2d_backward.inl"
#include "cpu/scattering2d_rounds.inl"

template <class T>
void scattering2d_run(const Scattering<T>& job, bool backward) {
  run_rounds<T, SCATSIMCLR_SIMD_BYTES / sizeof(T)>(job, backward);
}
