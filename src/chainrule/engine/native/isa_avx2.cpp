#define CHAINRULE_ISA avx2
#include "isa.inc"

const ChainruleKernels* chainrule_avx2() {
  static const ChainruleKernels kernels = chainrule::avx2::filled();
  return &kernels;
}
