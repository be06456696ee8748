#include "cpu/simd/isa.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <cstdlib>
#include <string>

namespace scatsimclr {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};

Isa detect() {
#if SCATSIMCLR_X86_TARGETS
  // By features: gcc 11 does not know the levels' names.
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  if (v4) return __builtin_cpu_supports("avx512bf16") ? Isa::avx512_bf16 : Isa::avx512;
  if (v3) return Isa::avx2;
#endif
  return Isa::baseline;
}

Isa best() {
  static const Isa isa = detect();
  return isa;
}

Isa parse(const std::string& name) {
  if (name.empty()) return best();
  for (int i = 0; i < 4; ++i) {
    if (name == kNames[i]) {
      STD_TORCH_CHECK(i <= static_cast<int>(best()), "CPU instruction set ", name,
                      " was asked for, but this CPU only has ", kNames[static_cast<int>(best())]);
      return static_cast<Isa>(i);
    }
  }
  STD_TORCH_CHECK(false, "CPU instruction set must be baseline, avx2, avx512, avx512_bf16 or empty, got ", name);
}

std::atomic<int>& current() {
  static std::atomic<int> isa = [] {
    const char* forced = std::getenv("SCATSIMCLR_CPU_ISA");
    return static_cast<int>(parse(forced ? forced : ""));
  }();
  return isa;
}

std::string cpu_isa() { return kNames[current().load()]; }

void cpu_isa_force(std::string name) { current().store(static_cast<int>(parse(name))); }

}  // namespace

Isa active_isa() { return static_cast<Isa>(current().load(std::memory_order_relaxed)); }

STABLE_TORCH_LIBRARY_IMPL(scatsimclr, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
  m.impl("cpu_isa_force", TORCH_BOX(&cpu_isa_force));
}

}  // namespace scatsimclr
