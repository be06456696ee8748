#include "cpu/fft/plan.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <map>
#include <memory>
#include <mutex>

namespace scatsimclr {
namespace {

// Prime radices up to here take the O(R²) formula: at 127 it costs what Bluestein's does (EPYC Zen 4, 2026-11-24).
constexpr int kLargestDirect = 127;

std::vector<int> prime_powers(int n) {
  std::vector<int> powers;
  for (int p = 2; n > 1; ++p) {
    int power = 1;
    for (; n % p == 0; n /= p) power *= p;
    if (power > 1) powers.push_back(power);
    if (p * p > n && n > 1) p = n - 1;
  }
  return powers;
}

// First factor a of a prime power q = a·b that has no codelet; 1 for a prime.
int first_factor(int q) {
  int p = 2;
  while (q % p) ++p;
  if (p == q) return 1;
  if (p == 2) {
    // 16 at most per stage, split evenly over as few stages as that takes: 32 = 4·8, 256 = 16·16.
    int exponent = 0;
    while ((1 << exponent) < q) ++exponent;
    const int stages = (exponent + 3) / 4;
    return 1 << (exponent / stages);
  }
  return p == 3 && q > 27 ? 9 : p;
}

template <class T>
struct Builder {
  FftPlan<T> plan;

  FftStage<T>& stage(size_t depth, int radix) {
    while (plan.stages.size() <= depth) plan.stages.emplace_back();
    FftStage<T>& s = plan.stages[depth];
    s.radix = radix;
    return s;
  }

  // Transform of `in.size()` points read at `in`, written in order at `out`; returns the stages it took.
  //   X[k1 + a·k2] = Σ_n2 W_q^{n2·k1} (Σ_n1 x[b·n1 + n2] W_a^{n1·k1}) W_b^{n2·k2}
  size_t emit(size_t depth, const std::vector<int>& in, const std::vector<int>& out) {
    const int q = static_cast<int>(in.size());
    const int a = fft_has_codelet(q) ? 1 : first_factor(q);
    if (a == 1) {
      butterfly(depth, in, out);
      return 1;
    }
    const int b = q / a;
    for (int n2 = 0; n2 < b; ++n2) {
      std::vector<int> slots(a);
      for (int n1 = 0; n1 < a; ++n1) slots[n1] = in[b * n1 + n2];
      butterfly(depth, slots, slots);
      for (int k1 = 0; k1 < a; ++k1) push_root(stage(depth, a).twiddle, static_cast<long>(n2) * k1, q);
    }
    size_t taken = 0;
    for (int k1 = 0; k1 < a; ++k1) {
      std::vector<int> inner(b), result(b);
      for (int n2 = 0; n2 < b; ++n2) inner[n2] = in[b * k1 + n2];
      for (int k2 = 0; k2 < b; ++k2) result[k2] = out[k1 + a * k2];
      taken = emit(depth + 1, inner, result);
    }
    return taken + 1;
  }

  void butterfly(size_t depth, const std::vector<int>& in, const std::vector<int>& out) {
    FftStage<T>& s = stage(depth, static_cast<int>(in.size()));
    s.butterflies += 1;
    s.load.insert(s.load.end(), in.begin(), in.end());
    s.store.insert(s.store.end(), out.begin(), out.end());
  }

  // exp(−2πi·m/q)
  static void push_root(std::vector<T>& to, long m, int q) {
    const double angle = -2.0 * M_PI * static_cast<double>(m % q) / q;
    to.push_back(static_cast<T>(std::cos(angle)));
    to.push_back(static_cast<T>(std::sin(angle)));
  }

  // With n = Σ (N/q)·n_q and k = Σ (N/q)·k_q (mod N), nk/N = Σ (N/q)·n_q·k_q/q: each dimension is a DFT whose
  // result m belongs at k_q = m·(N/q)⁻¹ (Temperton 1985).
  void build(int n) {
    plan.length = n;
    size_t depth = 0;
    if (n == 1) butterfly(depth, {0}, {0});
    for (const int q : prime_powers(n)) {
      const int step = n / q;
      int inverse = 1 % q;
      while (static_cast<long>(inverse) * step % q != 1 % q) ++inverse;
      size_t taken = 0;
      for (int base = 0; base < step; ++base) {
        // Representatives of the cosets: base·q steps through the other dimensions.
        const int origin = static_cast<int>(static_cast<long>(base) * q % n);
        std::vector<int> in(q), out(q);
        for (int m = 0; m < q; ++m) {
          in[m] = static_cast<int>((origin + static_cast<long>(step) * m) % n);
          const long rotated = static_cast<long>(m) * inverse % q;
          out[m] = static_cast<int>((origin + step * rotated) % n);
        }
        taken = emit(depth, in, out);
      }
      depth += taken;
    }
    plan.scratch = 3 * static_cast<size_t>(n);
    for (auto& s : plan.stages) {
      if (fft_has_codelet(s.radix)) continue;
      if (s.radix > kLargestDirect) {
        bluestein(s);
        plan.scratch = std::max(plan.scratch, 2 * static_cast<size_t>(n) + s.inner->length + s.inner->scratch);
        continue;
      }
      const int half = s.radix / 2;
      for (int pair = 0; pair < (half + 3) / 4 * 2; ++pair) {
        for (int j = 1; j <= half; ++j) {
          for (int k = 2 * pair + 1; k <= 2 * pair + 2; ++k) {
            const double angle = 2.0 * M_PI * (j * k % s.radix) / s.radix;
            s.roots.push_back(static_cast<T>(std::cos(angle)));
            s.roots.push_back(static_cast<T>(std::sin(angle)));
          }
        }
      }
    }
  }

  // With nk = (n² + k² − (k − n)²)/2 and c[n] = exp(−πi·n²/R):  X[k] = c[k] Σ_n (x[n] c[n]) c*[k − n]
  // (Bluestein 1970), a convolution that fits in any length of at least 2R − 1.
  static void bluestein(FftStage<T>& s) {
    const long R = s.radix;
    std::vector<std::complex<double>> chirp(R);
    for (long n = 0; n < R; ++n) chirp[n] = std::polar(1.0, -M_PI * static_cast<double>(n * n % (2 * R)) / R);
    int P = static_cast<int>(2 * R - 1);
    const auto easy = [](int length) {
      for (const int q : prime_powers(length)) {
        if (!fft_has_codelet(q)) return false;
      }
      return true;
    };
    while (!easy(P)) ++P;
    std::vector<std::complex<double>> root(P), padded(P);
    for (int m = 0; m < P; ++m) root[m] = std::polar(1.0, -2.0 * M_PI * m / P);
    for (long n = 0; n < R; ++n) padded[n] = padded[(P - n) % P] = std::conj(chirp[n]) / static_cast<double>(P);
    for (long q = 0; q < P; ++q) {
      std::complex<double> sum = 0;
      for (long n = 0; n < P; ++n) sum += padded[n] * root[q * n % P];
      push(s.kernel, sum);
    }
    for (const auto& c : chirp) push(s.chirp, c);
    Builder<T> builder;
    builder.build(P);
    s.inner = std::make_shared<const FftPlan<T>>(std::move(builder.plan));
  }

  static void push(std::vector<T>& to, std::complex<double> z) {
    to.push_back(static_cast<T>(z.real()));
    to.push_back(static_cast<T>(z.imag()));
  }
};

}  // namespace

bool fft_has_codelet(int radix) {
  switch (radix) {
    case 1: case 2: case 3: case 4: case 5: case 7: case 8: case 9: case 11: case 13: case 16:
      return true;
    default:
      return false;
  }
}

template <class T>
const FftPlan<T>& fft_plan(int length) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<FftPlan<T>>> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  auto& plan = plans[length];
  if (!plan) {
    Builder<T> builder;
    builder.build(length);
    plan = std::make_unique<FftPlan<T>>(std::move(builder.plan));
  }
  return *plan;
}

template const FftPlan<float>& fft_plan<float>(int);
template const FftPlan<double>& fft_plan<double>(int);

}  // namespace scatsimclr
