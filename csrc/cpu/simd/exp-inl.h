// The exponential of vectors.
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "cpu/simd/vector-inl.h"

#if defined(SCATSIMCLR_SIMD_EXP_INL_H_) == defined(SCATSIMCLR_TARGET_TOGGLE)
#ifdef SCATSIMCLR_SIMD_EXP_INL_H_
#undef SCATSIMCLR_SIMD_EXP_INL_H_
#else
#define SCATSIMCLR_SIMD_EXP_INL_H_
#endif

SCATSIMCLR_BEFORE_NAMESPACE();
namespace scatsimclr::SCATSIMCLR_NAMESPACE {

// Minimax polynomials of 2^f, |f| ≤ 1/2, highest power first: to 2e-9 in degree 6, to 3e-18 in degree 11.
template <typename T>
struct Exp2Polynomial;
template <>
struct Exp2Polynomial<float> {
  static constexpr float kCoefficients[] = {
      0.00015461456301343578f, 0.0013400441580195398f, 0.00961805664951722f, 0.055503271931639935f,
      0.2402265092242472505f, 0.69314720671853752154f, 1.0f};
};
template <>
struct Exp2Polynomial<double> {
  static constexpr double kCoefficients[] = {
      4.4558199665721416662e-10, 7.0741981587913462805e-9, 1.0178057076155389287e-7,
      1.3215432514189648706e-6, 0.000015252733841579288244, 0.00015403530463766596102,
      0.0013333558146406453105, 0.0096181291075872236643, 0.055504108664821627087, 0.24022650695910159656,
      0.69314718055994530925, 1.0};
};

// exp(c d) as 2^n 2^f, n an integer, |f| ≤ 1/2. The product c·log2(e)·d is never rounded before n is taken
// off (with a fused multiply-add), so that the error does not grow with c. `kLow`: d may be so low, or −∞, that the
// result is 0.
template <typename T>
struct Exponential {
  using V = Vec<T>;
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  using U = Vec<std::make_unsigned_t<Int>>;
  V high, low;

  explicit Exponential(double c) {
    const double factor = c * 1.4426950408889634074;
    high = splat(static_cast<T>(factor));
    low = splat(static_cast<T>(factor - static_cast<double>(static_cast<T>(factor))));
  }

  template <bool kLow>
  SCATSIMCLR_INLINE V operator()(V d) const {
    constexpr bool kSingle = sizeof(T) == 4;
    constexpr T kMagic = kSingle ? T(12582912.0) : T(6755399441055744.0);  // 1.5 · 2^(mantissa bits)
    constexpr int kMantissa = kSingle ? 23 : 52;
    constexpr std::make_unsigned_t<Int> kBias = kSingle ? 127 : 1023;
    const V magic = splat(kMagic);
    V t = d * high;
    const Vec<Int> vanishes = t < splat(T(1) - T(kBias));
    if constexpr (kLow) t = vanishes ? V{} : t;
    const V shifted = t + magic;
    const V n = shifted - magic;
    V f = d * high - n;
    f = d * low + f;
    constexpr const T* c = Exp2Polynomial<T>::kCoefficients;
    constexpr int terms = std::size(Exp2Polynomial<T>::kCoefficients);
    V p = splat(c[0]);
    SCATSIMCLR_UNROLL for (int k = 1; k < terms; ++k) p = p * f + splat(c[k]);
    // The low mantissa bits of `shifted` are n; they become the exponent. Unsigned, because lanes that the caller
    // masks may hold anything.
    const U exponent = (reinterpret_cast<U>(shifted) << kMantissa) + ((U{} + kBias) << kMantissa);
    const V result = p * reinterpret_cast<V>(exponent);
    if constexpr (kLow) return vanishes ? V{} : result;
    return result;
  }
};

}  // namespace scatsimclr::SCATSIMCLR_NAMESPACE
SCATSIMCLR_AFTER_NAMESPACE();

#endif  // SCATSIMCLR_SIMD_EXP_INL_H_
