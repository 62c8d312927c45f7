#define CHAINRULE_ISA portable
#include "isa.inc"

const ChainruleKernels* chainrule_portable() {
  static const ChainruleKernels kernels = chainrule::portable::filled();
  return &kernels;
}
