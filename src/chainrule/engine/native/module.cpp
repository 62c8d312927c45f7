// chainrule.engine._native: what the processor can do, asked at run time; loops that torch is slow at.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <thread>

#include "ngram.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#define CHAINRULE_CPUID 1
#endif

namespace nb = nanobind;

namespace {

#ifdef CHAINRULE_CPUID
// The register state that the operating system saves (XCR0). An instruction whose registers it
// doesn't save faults, whatever cpuid says.
unsigned long long chainrule_saved_state() {
  unsigned eax = 0, edx = 0;
  __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (static_cast<unsigned long long>(edx) << 32) | eax;
}

void chainrule_ask_cpuid(nb::dict& out) {
  constexpr unsigned long long kAvx = 0x6, kAvx512 = 0xE6, kAmx = 0x60000;
  unsigned a = 0, b = 0, c = 0, d = 0;
  unsigned long long saved = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) && (c >> 27 & 1)) saved = chainrule_saved_state();
  const bool avx = (saved & kAvx) == kAvx;
  const bool avx512 = (saved & kAvx512) == kAvx512;
  const bool amx = (saved & kAmx) == kAmx;

  const bool leaf7 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
  out["avx2"] = leaf7 && avx && (b >> 5 & 1);
  out["avx512f"] = leaf7 && avx512 && (b >> 16 & 1);
  out["avx512_vnni"] = leaf7 && avx512 && (c >> 11 & 1);
  out["amx_tile"] = leaf7 && amx && (d >> 24 & 1);
  const bool more = leaf7 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0;
  out["avx512_bf16"] = more && avx512 && (a >> 5 & 1);
}
#endif

nb::dict chainrule_features() {
  nb::dict out;
#ifdef CHAINRULE_CPUID
  chainrule_ask_cpuid(out);
#endif
  return out;
}

unsigned chainrule_num_cores() { return std::thread::hardware_concurrency(); }

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Ints = Array<const std::int64_t, 1>;
using Reals = Array<const double, 1>;

void chainrule_rollout(const Ints& contexts, const Ints& grams, const Reals& values,
                       const Reals& backoff, const Array<const std::int64_t, 2>& past,
                       const Reals& temperature, const Array<const float, 3>& gumbel,
                       const Array<std::int64_t, 2>& out) {
  const auto rows = static_cast<std::int64_t>(gumbel.shape(0));
  const auto count = static_cast<std::int64_t>(gumbel.shape(1));
  ChainruleTables tables{contexts.data(), static_cast<std::int64_t>(contexts.size()),
                         grams.data(),    static_cast<std::int64_t>(grams.size()),
                         values.data(),   backoff.data(),
                         static_cast<std::int64_t>(gumbel.shape(2)),
                         static_cast<std::int64_t>(past.shape(1)) + 1};
  if (values.size() != grams.size() || backoff.size() != contexts.size() + 1 ||
      tables.num_grams <= tables.size || past.shape(0) != gumbel.shape(0) ||
      temperature.size() != gumbel.shape(0) || out.shape(0) != gumbel.shape(0) ||
      out.shape(1) != gumbel.shape(1)) {
    throw std::invalid_argument("the tables and rows of an n-gram rollout don't fit together");
  }
  chainrule_ngram_rollout(tables, past.data(), rows, count, temperature.data(), gumbel.data(),
                          out.data());
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "What the processor can do, and loops that torch is slow at.";
  m.def("chainrule_features", &chainrule_features,
        "Instruction sets that can be used here, by name; empty on an unknown processor.");
  m.def("chainrule_ngram_rollout", &chainrule_rollout,
        "contexts, grams, values, backoff, past [B, n-1], temperature [B], gumbel [B, L, V], out "
        "[B, L]: ancestral symbols of an n-gram.");
  m.def("chainrule_num_cores", &chainrule_num_cores, "Cores this process may use; 0 if unknown.");
}
