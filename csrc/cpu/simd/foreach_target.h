// Compiles the file named by SCATSIMCLR_TARGET_INCLUDE once for each target, in the namespaces scatsimclr::baseline,
// scatsimclr::avx2 and scatsimclr::avx512 and, where SCATSIMCLR_WITH_BF16 is defined, scatsimclr::avx512_bf16, which has
// products of pairs of bfloat16. As in google/highway, every `-inl.h` file guards itself by
//
//   #if defined(ITS_NAME_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
//
// and toggles the definition of its name, so that each pass over the files reads each of them once.
//
//   #define SCATSIMCLR_TARGET_INCLUDE "cpu/ntxent/kernels-inl.h"
//   #include "cpu/simd/foreach_target.h"
//   ... SCATSIMCLR_DISPATCH(run(args...)) calls the active target's, and is what that returns.

#include "cpu/simd/isa.h"
#include "cpu/simd/target-inl.h"

// The pass of the baseline; target-inl.h, just read, goes first in it.
#include SCATSIMCLR_TARGET_INCLUDE

#if SCATSIMCLR_X86_TARGETS
#undef SCATSIMCLR_TARGET
#define SCATSIMCLR_TARGET SCATSIMCLR_TARGET_AVX2
#define SCATSIMCLR_TARGET_TOGGLE
#include SCATSIMCLR_TARGET_INCLUDE

#undef SCATSIMCLR_TARGET
#define SCATSIMCLR_TARGET SCATSIMCLR_TARGET_AVX512
#undef SCATSIMCLR_TARGET_TOGGLE
#include SCATSIMCLR_TARGET_INCLUDE

#ifdef SCATSIMCLR_WITH_BF16
#undef SCATSIMCLR_TARGET
#define SCATSIMCLR_TARGET SCATSIMCLR_TARGET_AVX512_BF16
#define SCATSIMCLR_TARGET_TOGGLE
#include SCATSIMCLR_TARGET_INCLUDE
#define SCATSIMCLR_BEST avx512_bf16
#else
#define SCATSIMCLR_BEST avx512
#endif

#define SCATSIMCLR_DISPATCH(...)                                                          \
  [&] {                                                                                   \
    switch (::scatsimclr::active_isa()) {                                                 \
      case ::scatsimclr::Isa::avx512_bf16: return ::scatsimclr::SCATSIMCLR_BEST::__VA_ARGS__; \
      case ::scatsimclr::Isa::avx512: return ::scatsimclr::avx512::__VA_ARGS__;           \
      case ::scatsimclr::Isa::avx2: return ::scatsimclr::avx2::__VA_ARGS__;               \
      default: return ::scatsimclr::baseline::__VA_ARGS__;                                \
    }                                                                                     \
  }()
#else
#define SCATSIMCLR_DISPATCH(...) ::scatsimclr::baseline::__VA_ARGS__
#endif
