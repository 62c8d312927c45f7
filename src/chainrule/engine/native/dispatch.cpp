#include "dispatch.h"

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#include <cpuid.h>
#define CHAINRULE_CPUID 1
#endif

namespace {

#ifdef CHAINRULE_CPUID
// The register state that the operating system saves (XCR0). An instruction whose registers it
// doesn't save faults, whatever cpuid says.
unsigned long long chainrule_saved_state() {
  unsigned eax = 0, edx = 0;
  __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return (static_cast<unsigned long long>(edx) << 32) | eax;
}
#endif

const ChainruleKernels* chainrule_named(const char* name) {
  if (!std::strcmp(name, "portable")) return chainrule_portable();
#ifdef CHAINRULE_X86
  const ChainruleFeatures has = chainrule_ask_processor();
  const bool avx2 = has.avx2 && has.fma && has.f16c;
  const bool avx512 = avx2 && has.avx512f && has.avx512bw && has.avx512dq && has.avx512vl &&
                      has.avx512_vnni && has.avx512_bf16;
  if (avx2 && !std::strcmp(name, "avx2")) return chainrule_avx2();
  if (avx512 && !std::strcmp(name, "avx512")) return chainrule_avx512();
#endif
  return nullptr;
}

const ChainruleKernels* chainrule_best() {
  for (const char* name : {"avx512", "avx2"}) {
    if (const ChainruleKernels* found = chainrule_named(name)) return found;
  }
  return chainrule_portable();
}

std::atomic<const ChainruleKernels*>& chainrule_chosen() {
  static std::atomic<const ChainruleKernels*> chosen{chainrule_best()};
  return chosen;
}

}  // namespace

ChainruleFeatures chainrule_ask_processor() {
  ChainruleFeatures out;
#ifdef CHAINRULE_CPUID
  constexpr unsigned long long kAvx = 0x6, kAvx512 = 0xE6, kAmx = 0x60000;
  unsigned a = 0, b = 0, c = 0, d = 0;
  unsigned long long saved = 0;
  out.known = true;
  const bool leaf1 = __get_cpuid(1, &a, &b, &c, &d) != 0;
  if (leaf1 && (c >> 27 & 1)) saved = chainrule_saved_state();
  const bool avx = (saved & kAvx) == kAvx;
  const bool avx512 = (saved & kAvx512) == kAvx512;
  const bool amx = (saved & kAmx) == kAmx;
  out.fma = leaf1 && avx && (c >> 12 & 1);
  out.f16c = leaf1 && avx && (c >> 29 & 1);

  const bool leaf7 = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
  out.avx2 = leaf7 && avx && (b >> 5 & 1);
  out.avx512f = leaf7 && avx512 && (b >> 16 & 1);
  out.avx512dq = leaf7 && avx512 && (b >> 17 & 1);
  out.avx512bw = leaf7 && avx512 && (b >> 30 & 1);
  out.avx512vl = leaf7 && avx512 && (b >> 31 & 1);
  out.avx512_vnni = leaf7 && avx512 && (c >> 11 & 1);
  out.amx_tile = leaf7 && amx && (d >> 24 & 1);
  const bool more = leaf7 && a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0;
  out.avx512_bf16 = more && avx512 && (a >> 5 & 1);
#endif
  return out;
}

const ChainruleKernels& chainrule_kernels() { return *chainrule_chosen().load(); }

void chainrule_use(const char* name) {
  const ChainruleKernels* const found = chainrule_named(name);
  if (!found) {
    throw std::invalid_argument("no kernels named " + std::string(name) + " can run here");
  }
  chainrule_chosen().store(found);
}
