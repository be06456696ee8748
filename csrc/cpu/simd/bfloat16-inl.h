// float32 lanes from and to memory that holds float32 or the bits of bfloat16.
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_SIMD_BFLOAT16_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SIMD_BFLOAT16_INL_H_
#undef SCATSIMCLR_SIMD_BFLOAT16_INL_H_
#else
#define SCATSIMCLR_SIMD_BFLOAT16_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE {

template <int W = kLanes<float>>
SCATSIMCLR_INLINE Vec<float, W> load_float(const float* p) {
  return load<float, W>(p);
}
template <int W = kLanes<float>>
SCATSIMCLR_INLINE Vec<float, W> load_float(const uint16_t* p) {
  Vec<uint16_t, W> halves;
  std::memcpy(&halves, p, sizeof halves);
  return reinterpret_cast<Vec<float, W>>(__builtin_convertvector(halves, Vec<uint32_t, W>) << 16);
}

template <int W = kLanes<float>>
SCATSIMCLR_INLINE void store_float(float* p, Vec<float, W> v) {
  store<float, W>(p, v);
}
// To the nearest, ties to even, any NaN as c10::BFloat16's. Masks, because a test for NaN may become a branch.
template <int W = kLanes<float>>
SCATSIMCLR_INLINE void store_float(uint16_t* p, Vec<float, W> v) {
#if SCATSIMCLR_TARGET == SCATSIMCLR_TARGET_AVX512_BF16
  static_assert(W == kLanes<float>);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
#else
  using Bits = Vec<uint32_t, W>;
  const Vec<int32_t, W> unequal = v != v;
  const Bits bits = reinterpret_cast<const Bits&>(v), nan = reinterpret_cast<const Bits&>(unequal);
  const Bits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const Bits whole = (rounded & ~nan) | (nan & 0x7FC0u);
  const Vec<uint16_t, W> half = __builtin_convertvector(whole, Vec<uint16_t, W>);
  std::memcpy(p, &half, sizeof half);
#endif
}

// The first `left` elements, zeros beyond.
template <class S>
SCATSIMCLR_INLINE Vec<float> load_some(const S* p, int64_t left) {
  if (left >= kLanes<float>) return load_float(p);
  S lanes[kLanes<float>] = {};
  for (int64_t i = 0; i < left; ++i) lanes[i] = p[i];
  return load_float(lanes);
}
template <class S>
SCATSIMCLR_INLINE void store_some(S* p, Vec<float> v, int64_t left) {
  if (left >= kLanes<float>) return store_float(p, v);
  S lanes[kLanes<float>];
  store_float(lanes, v);
  for (int64_t i = 0; i < left; ++i) p[i] = lanes[i];
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SIMD_BFLOAT16_INL_H_
