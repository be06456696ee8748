// What the target being compiled is called, how wide its registers are, and which code the compiler may generate. Every
// `-inl.h` file includes this one and stands between
//
//   SCATSIMCLR_BEFORE_NAMESPACE();
//   namespace scatsimclr::SCATSIMCLR_NAMESPACE { … }
//   SCATSIMCLR_AFTER_NAMESPACE();
//
// with its #include lines before: a header that is opened inside would leave AVX-512 code in shared inline functions,
// which the linker may then hand to a machine without AVX-512. foreach_target.h sets SCATSIMCLR_TARGET; opened alone, a
// file is of the baseline.

#define SCATSIMCLR_TARGET_BASELINE 0
#define SCATSIMCLR_TARGET_AVX2 1
#define SCATSIMCLR_TARGET_AVX512 2
#define SCATSIMCLR_TARGET_AVX512_BF16 3

#define SCATSIMCLR_CLANG_AVX2 "avx2,fma,bmi,bmi2,f16c,lzcnt,movbe,popcnt"
#define SCATSIMCLR_CLANG_AVX512 SCATSIMCLR_CLANG_AVX2 ",avx512f,avx512bw,avx512cd,avx512dq,avx512vl"

// In two steps, so that macros in the text are expanded.
#define SCATSIMCLR_PRAGMA(...) SCATSIMCLR_PRAGMA_TEXT(__VA_ARGS__)
#define SCATSIMCLR_PRAGMA_TEXT(...) _Pragma(#__VA_ARGS__)

#define SCATSIMCLR_INLINE inline __attribute__((always_inline))
#define SCATSIMCLR_LAMBDA_INLINE __attribute__((always_inline))
#define SCATSIMCLR_UNROLL _Pragma("GCC unroll 16")

#ifndef SCATSIMCLR_TARGET
#define SCATSIMCLR_TARGET SCATSIMCLR_TARGET_BASELINE
#endif

#if defined(SCATSIMCLR_SIMD_TARGET_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SIMD_TARGET_INL_H_
#undef SCATSIMCLR_SIMD_TARGET_INL_H_
#else
#define SCATSIMCLR_SIMD_TARGET_INL_H_
#endif

#undef SCATSIMCLR_NAMESPACE
#undef SCATSIMCLR_SIMD_BYTES
#undef SCATSIMCLR_FEATURES

// SIMD_BYTES is the width of a register. clang gets the features by name: told a level, it prefers half registers.
#if SCATSIMCLR_TARGET == SCATSIMCLR_TARGET_BASELINE
#define SCATSIMCLR_NAMESPACE baseline
#define SCATSIMCLR_SIMD_BYTES 16
#elif SCATSIMCLR_TARGET == SCATSIMCLR_TARGET_AVX2
#define SCATSIMCLR_NAMESPACE avx2
#define SCATSIMCLR_SIMD_BYTES 32
#ifdef __clang__
#define SCATSIMCLR_FEATURES SCATSIMCLR_CLANG_AVX2
#else
#define SCATSIMCLR_FEATURES "arch=x86-64-v3"
#endif
#elif SCATSIMCLR_TARGET == SCATSIMCLR_TARGET_AVX512
#define SCATSIMCLR_NAMESPACE avx512
#define SCATSIMCLR_SIMD_BYTES 64
#ifdef __clang__
#define SCATSIMCLR_FEATURES SCATSIMCLR_CLANG_AVX512
#else
#define SCATSIMCLR_FEATURES "arch=x86-64-v4,prefer-vector-width=512"
#endif
#else
#define SCATSIMCLR_NAMESPACE avx512_bf16
#define SCATSIMCLR_SIMD_BYTES 64
#ifdef __clang__
#define SCATSIMCLR_FEATURES SCATSIMCLR_CLANG_AVX512 ",avx512bf16"
#else
#define SCATSIMCLR_FEATURES "arch=x86-64-v4,avx512bf16,prefer-vector-width=512"
#endif
#endif

#undef SCATSIMCLR_BEFORE_NAMESPACE
#undef SCATSIMCLR_AFTER_NAMESPACE
#ifdef __clang__
#ifdef SCATSIMCLR_FEATURES
#define SCATSIMCLR_BEFORE_NAMESPACE()                                                                       \
  SCATSIMCLR_PRAGMA(clang attribute push(__attribute__((target(SCATSIMCLR_FEATURES))), apply_to = function)) \
  static_assert(true)
#define SCATSIMCLR_AFTER_NAMESPACE() SCATSIMCLR_PRAGMA(clang attribute pop) static_assert(true)
#else
#define SCATSIMCLR_BEFORE_NAMESPACE() static_assert(true)
#define SCATSIMCLR_AFTER_NAMESPACE() static_assert(true)
#endif
#else
#ifdef SCATSIMCLR_FEATURES
#define SCATSIMCLR_BEFORE_NAMESPACE() \
  SCATSIMCLR_PRAGMA(GCC push_options) SCATSIMCLR_PRAGMA(GCC target SCATSIMCLR_FEATURES) static_assert(true)
#else
#define SCATSIMCLR_BEFORE_NAMESPACE() SCATSIMCLR_PRAGMA(GCC push_options) static_assert(true)
#endif
#define SCATSIMCLR_AFTER_NAMESPACE() SCATSIMCLR_PRAGMA(GCC pop_options) static_assert(true)
#endif

#endif  // SCATSIMCLR_SIMD_TARGET_INL_H_
