#define CHAINRULE_ISA avx512
#include "isa.inc"

const ChainruleKernels* chainrule_avx512() {
  static const ChainruleKernels kernels = chainrule::avx512::filled();
  return &kernels;
}
