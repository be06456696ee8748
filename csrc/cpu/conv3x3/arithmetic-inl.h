// Arithmetic of the convolution kernels for one instruction set: how elements are read, multiplied and written.
//
// An arithmetic A has
//   Storage   the images' elements; Operand, those of transformed tiles and filters;
//   kGroup    operands whose products one multiply-add sums up;
//   kStep     channels of a transform, as kParts vectors; channel_at(k) is the channel of the operand k;
//   part      the vector `kPart` of the channels at p; of a step that is not full, `left` channels are read, 0 beyond;
//   put       writes vector `part` of a step as operands;
//   interleave    writes kLanes groups of operands, one of each vector;
//   join      writes kStep groups, of all parts, channels in their own order.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/conv3x3/job.h"
#include "cpu/simd/bfloat16-inl.h"
#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_CONV3X3_ARITHMETIC_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_CONV3X3_ARITHMETIC_INL_H_
#undef SCATSIMCLR_CONV3X3_ARITHMETIC_INL_H_
#else
#define SCATSIMCLR_CONV3X3_ARITHMETIC_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3 {

using V = Vec<float>;
constexpr int kBlock = 2 * kLanes<float>;  // columns of a product: two vectors
// Rows of a product: as many as 32 or 16 registers hold beside the operands, which hides a multiply-add's latency.
constexpr int kRows = SCATSIMCLR_SIMD_BYTES == 64 ? 14 : 6;
constexpr int kTiles = SCATSIMCLR_SIMD_BYTES == 64 ? 28 : 24;  // of a block
constexpr int kPanel = SCATSIMCLR_SIMD_BYTES == 64 ? 8 : 4;    // rows of a product of the weights' gradient

template <class S>
struct SingleArithmetic {
  using Storage = S;
  using Operand = float;
  using Factor = V;
  static constexpr int kGroup = 1, kStep = kLanes<float>, kParts = 1;

  static int64_t channel_at(int64_t k) { return k; }

  template <bool kFull, int kPart>
  static SCATSIMCLR_INLINE V part(const S* p, int64_t left) {
    return kFull ? load_float(p) : load_some(p, left);
  }

  static SCATSIMCLR_INLINE void put(float* to, int, V v) { store(to, v); }
  static SCATSIMCLR_INLINE void interleave(float* to, const V* values) { store(to, values[0]); }
  static SCATSIMCLR_INLINE void join(float* to, const V (&values)[kParts][kGroup]) { store(to, values[0][0]); }
  static SCATSIMCLR_INLINE Factor factor(const float* p) { return load(p); }
  static SCATSIMCLR_INLINE V multiply_add(V sum, const float* scalar, Factor f) { return sum + splat(*scalar) * f; }
};

template <class S>
struct Arithmetic {
  using type = SingleArithmetic<S>;
};

#if SCATSIMCLR_TARGET == SCATSIMCLR_TARGET_AVX512_BF16
struct Order {
  alignas(64) uint16_t lane[32];
  SCATSIMCLR_INLINE __m512i load() const { return _mm512_load_si512(lane); }
};

// (first, second) of each lane of two vectors.
constexpr Order zipped() {
  Order order{};
  for (int i = 0; i < 32; ++i) order.lane[i] = static_cast<uint16_t>(i / 2 + (i % 2 ? 16 : 0));
  return order;
}

// Where the pairs of the channels first … first + 15 are, among 16 even channels' first elements and their second
// ones, and the same of odd channels.
constexpr Order natural(int first) {
  Order order{};
  for (int i = 0; i < 32; ++i) {
    const int channel = first + i / 2;
    order.lane[i] = static_cast<uint16_t>(channel / 2 + (channel % 2 ? 32 : 0) + (i % 2 ? 16 : 0));
  }
  return order;
}

// A register of 32 channels is two vectors, its even and its odd elements: a shift or a mask makes either float32.
struct PairArithmetic {
  using Storage = uint16_t;
  using Operand = uint16_t;
  using Factor = __m512bh;
  static constexpr int kGroup = 2, kStep = 32, kParts = 2;

  static int64_t channel_at(int64_t k) {
    const int64_t lane = k % kStep;
    return k - lane + (lane < 16 ? 2 * lane : 2 * lane - 31);
  }

  template <bool kFull, int kPart>
  static SCATSIMCLR_INLINE V part(const uint16_t* p, int64_t left) {
    const __mmask32 lanes = left >= kStep ? ~0u : left <= 0 ? 0 : (1u << left) - 1;
    const __m512i pairs = kFull ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(lanes, p);
    const auto bits = reinterpret_cast<Vec<uint32_t>>(pairs);
    return reinterpret_cast<V>(kPart ? bits & 0xffff0000 : bits << 16);
  }

  static SCATSIMCLR_INLINE void put(uint16_t* to, int part, V v) { store_float(to + 16 * part, v); }

  static SCATSIMCLR_INLINE void interleave(uint16_t* to, const V* values) {
    static constexpr Order order = zipped();
    const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1], values[0]));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order.load(), both));
  }

  static SCATSIMCLR_INLINE void join(uint16_t* to, const V (&values)[kParts][kGroup]) {
    static constexpr Order low = natural(0), high = natural(16);
    const __m512i even = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[0][1], values[0][0]));
    const __m512i odd = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(values[1][1], values[1][0]));
    _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low.load(), odd));
    _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(even, high.load(), odd));
  }

  static SCATSIMCLR_INLINE Factor factor(const uint16_t* p) {
    return reinterpret_cast<Factor>(_mm512_loadu_si512(p));
  }

  static SCATSIMCLR_INLINE V multiply_add(V sum, const uint16_t* scalars, Factor f) {
    int both;
    std::memcpy(&both, scalars, sizeof(both));
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_epi32(both)), f);
  }
};

template <>
struct Arithmetic<uint16_t> {
  using type = PairArithmetic;
};
#endif

// Operands of a sum over channels: whole steps, and one where there are no channels.
template <class A>
int64_t depth_of(int64_t channels) {
  return round_up(std::max<int64_t>(channels, 1), A::kStep);
}

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE::conv3x3
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_CONV3X3_ARITHMETIC_INL_H_
