// Which instruction set the CPU kernels run on: one source per operator, compiled once per ISA,
// chosen once at run time. See foreach_isa.h for how a kernel's source is compiled three times.
#pragma once

namespace scatsimclr {

// avx512_bf16 is avx512 to all operators but those that multiply bfloat16.
enum class Isa { baseline = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3 };

// The best ISA of this CPU, or the one forced by the operator `cpu_isa_force` or the environment
// variable SCATSIMCLR_CPU_ISA (baseline | avx2 | avx512 | avx512_bf16; never one that the CPU does not have).
Isa active_isa();

}  // namespace scatsimclr
