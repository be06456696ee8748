// Which instruction set the CPU kernels run on: one source per operator, compiled once per instruction set, chosen once
// at run time. See foreach_target.h for how a kernel's source is compiled several times.
#pragma once

// Whether there are targets beyond the baseline. gcc and clang both switch targets within one file.
#if defined(__x86_64__) && defined(__GNUC__)
#define SCATSIMCLR_X86_TARGETS 1
#else
#define SCATSIMCLR_X86_TARGETS 0
#endif

namespace scatsimclr {

// avx512_bf16 is avx512 to all operators except those that multiply bfloat16.
enum class Isa { baseline = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3 };

// The best ISA of this CPU, or the one forced by the operator `cpu_isa_force` or the environment
// variable SCATSIMCLR_CPU_ISA (baseline | avx2 | avx512 | avx512_bf16; never one that the CPU does not have).
Isa active_isa();

}  // namespace scatsimclr
