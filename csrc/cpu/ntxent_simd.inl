// Vectors of the NT-Xent kernels, their exponential and their small matrix products, for one instruction set.

#define SCATSIMCLR_INLINE __attribute__((always_inline)) inline

template <typename T>
struct Simd {
  typedef T V __attribute__((vector_size(SCATSIMCLR_SIMD_BYTES)));
  typedef T Unaligned __attribute__((vector_size(SCATSIMCLR_SIMD_BYTES), aligned(sizeof(T))));
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Int I __attribute__((vector_size(SCATSIMCLR_SIMD_BYTES)));
  typedef std::make_unsigned_t<Int> U __attribute__((vector_size(SCATSIMCLR_SIMD_BYTES)));
  static constexpr int kLanes = SCATSIMCLR_SIMD_BYTES / sizeof(T);
  static constexpr int kWidth = 2 * kLanes;  // columns of a micro tile
  // Rows of a micro tile: 8 × 2 sums fill half of AVX-512's 32 registers, 4 × 2 half of the others' 16;
  // both are enough to hide the latency of a multiply-add.
  static constexpr int kRows = SCATSIMCLR_SIMD_BYTES == 64 ? 8 : 4;

  static SCATSIMCLR_INLINE V load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static SCATSIMCLR_INLINE void store(T* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static SCATSIMCLR_INLINE V splat(T value) { return value - V{}; }

  static SCATSIMCLR_INLINE I iota() {
    I lanes;
    for (int i = 0; i < kLanes; ++i) lanes[i] = i;
    return lanes;
  }

  static SCATSIMCLR_INLINE T sum(V v) {
    T lanes[kLanes];
    store(lanes, v);
    for (int width = kLanes / 2; width; width /= 2) {
      for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    return lanes[0];
  }

  static SCATSIMCLR_INLINE T max(V v) {
    T best = v[0];
    for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
    return best;
  }
};

// exp(c d) as 2^n 2^f, n an integer, |f| ≤ 1/2. The product c·log2(e)·d is never rounded before n is taken
// off (with a fused multiply-add), so that the error does not grow with c. Minimax polynomials of 2^f:
// 2e-9 in degree 6, 3e-18 in degree 11. `kLow`: d may be so low, or −∞, that the result is 0.
template <typename T>
struct Exponential {
  using S = Simd<T>;
  using V = typename S::V;
  using I = typename S::I;
  V high, low;

  explicit Exponential(double c) {
    const double factor = c * 1.4426950408889634074;
    high = S::splat(static_cast<T>(factor));
    low = S::splat(static_cast<T>(factor - static_cast<double>(static_cast<T>(factor))));
  }

  template <bool kLow>
  SCATSIMCLR_INLINE V operator()(V d) const {
    constexpr bool kSingle = sizeof(T) == 4;
    constexpr T kMagic = kSingle ? T(12582912.0) : T(6755399441055744.0);  // 1.5 · 2^(mantissa bits)
    constexpr int kMantissa = kSingle ? 23 : 52;
    constexpr std::make_unsigned_t<typename S::Int> kBias = kSingle ? 127 : 1023;
    const V magic = S::splat(kMagic);
    V t = d * high;
    const I vanishes = t < S::splat(T(1) - T(kBias));
    if constexpr (kLow) t = vanishes ? V{} : t;
    const V shifted = t + magic;
    const V n = shifted - magic;
    V f = d * high - n;
    f = d * low + f;
    V p;
    if constexpr (kSingle) {
      p = S::splat(0.00015461456301343578f);
      p = p * f + S::splat(0.0013400441580195398f);
      p = p * f + S::splat(0.00961805664951722f);
      p = p * f + S::splat(0.055503271931639935f);
      p = p * f + S::splat(0.2402265092242472505f);
      p = p * f + S::splat(0.69314720671853752154f);
      p = p * f + S::splat(1.0f);
    } else {
      p = S::splat(4.4558199665721416662e-10);
      p = p * f + S::splat(7.0741981587913462805e-9);
      p = p * f + S::splat(1.0178057076155389287e-7);
      p = p * f + S::splat(1.3215432514189648706e-6);
      p = p * f + S::splat(0.000015252733841579288244);
      p = p * f + S::splat(0.00015403530463766596102);
      p = p * f + S::splat(0.0013333558146406453105);
      p = p * f + S::splat(0.0096181291075872236643);
      p = p * f + S::splat(0.055504108664821627087);
      p = p * f + S::splat(0.24022650695910159656);
      p = p * f + S::splat(0.69314718055994530925);
      p = p * f + S::splat(1.0);
    }
    // The low mantissa bits of `shifted` are n; they become the exponent. Unsigned, because lanes that the caller
    // masks may hold anything.
    using U = typename S::U;
    const U exponent = (reinterpret_cast<U>(shifted) << kMantissa) + ((U{} + kBias) << kMantissa);
    const V result = p * reinterpret_cast<V>(exponent);
    if constexpr (kLow) return vanishes ? V{} : result;
    return result;
  }
};

// acc[r][·] += Σ_k A(r, k) B(k, ·): A(r, k) is a[r · stride + k], or a[k · stride + r] if kTransposed.
template <typename T, int kRows, bool kTransposed>
SCATSIMCLR_INLINE void multiply(typename Simd<T>::V (&acc)[kRows][2], const T* a, int64_t a_stride, const T* b,
                                int64_t b_stride, int64_t depth) {
  using S = Simd<T>;
  for (int64_t k = 0; k < depth; ++k) {
    const auto b0 = S::load(b), b1 = S::load(b + S::kLanes);
    b += b_stride;
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto value = S::splat(kTransposed ? a[k * a_stride + r] : a[r * a_stride + k]);
      acc[r][0] += value * b0;
      acc[r][1] += value * b1;
    }
  }
}

// c (rows × kWidth) += A B, as `multiply`. Summed from 0 and added once: shorter chains of roundings.
template <typename T, int kRows, bool kTransposed>
inline void accumulate(T* c, int64_t c_stride, const T* a, int64_t a_stride, const T* b, int64_t b_stride,
                       int64_t depth) {
  using S = Simd<T>;
  typename S::V acc[kRows][2] = {};
  multiply<T, kRows, kTransposed>(acc, a, a_stride, b, b_stride, depth);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    S::store(c + r * c_stride, S::load(c + r * c_stride) + acc[r][0]);
    S::store(c + r * c_stride + S::kLanes, S::load(c + r * c_stride + S::kLanes) + acc[r][1]);
  }
}

// dz (rows, ·) += A z with A (rows, depth) a tile or its transpose, z (depth, D).
template <typename T, bool kTransposed>
inline void add_product(const NtxentJob<T>& job, T* dz, int64_t rows, const T* tile, int64_t tile_stride,
                        const T* z, int64_t depth) {
  using S = Simd<T>;
  const int64_t step = kTransposed ? 1 : tile_stride;
  for (int64_t d = 0; d < job.D; d += S::kWidth) {
    int64_t i = 0;
    for (; i + S::kRows <= rows; i += S::kRows) {
      accumulate<T, S::kRows, kTransposed>(dz + i * job.dz_stride + d, job.dz_stride, tile + i * step,
                                           tile_stride, z + d, job.stride, depth);
    }
    for (; i < rows; ++i) {
      accumulate<T, 1, kTransposed>(dz + i * job.dz_stride + d, job.dz_stride, tile + i * step, tile_stride,
                                    z + d, job.stride, depth);
    }
  }
}
