// Compiles the file named by SCATSIMCLR_KERNEL once for each instruction set, in the namespaces
// scatsimclr::baseline, scatsimclr::avx2 and scatsimclr::avx512. Include it after every other header:
// a header that is opened inside a target region would leave AVX-512 code in shared inline functions,
// which the linker may then hand to a machine without AVX-512.
//
//   #include <all headers>
//   #define SCATSIMCLR_KERNEL "cpu/ntxent.inl"
//   #include "cpu/foreach_isa.h"
//   ... SCATSIMCLR_DISPATCH(run(args...)) calls the active one.
//
// Inside the kernel file, SCATSIMCLR_SIMD_BYTES is the width of a register (16, 32 or 64).

#define SCATSIMCLR_SIMD_BYTES 16
namespace scatsimclr::baseline {
#include SCATSIMCLR_KERNEL
}
#undef SCATSIMCLR_SIMD_BYTES

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SCATSIMCLR_HAVE_X86_ISAS 1

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define SCATSIMCLR_SIMD_BYTES 32
namespace scatsimclr::avx2 {
#include SCATSIMCLR_KERNEL
}
#undef SCATSIMCLR_SIMD_BYTES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")
#define SCATSIMCLR_SIMD_BYTES 64
namespace scatsimclr::avx512 {
#include SCATSIMCLR_KERNEL
}
#undef SCATSIMCLR_SIMD_BYTES
#pragma GCC pop_options

#define SCATSIMCLR_DISPATCH(call)                                \
  do {                                                           \
    switch (::scatsimclr::active_isa()) {                        \
      case ::scatsimclr::Isa::avx512_bf16:                       \
      case ::scatsimclr::Isa::avx512:                            \
        ::scatsimclr::avx512::call;                              \
        break;                                                   \
      case ::scatsimclr::Isa::avx2:                              \
        ::scatsimclr::avx2::call;                                \
        break;                                                   \
      default:                                                   \
        ::scatsimclr::baseline::call;                            \
    }                                                            \
  } while (0)
#else
#define SCATSIMCLR_DISPATCH(call) ::scatsimclr::baseline::call
#endif
