// Which kernels run: the best that this processor and its operating system can, asked once.
#pragma once
#include "kernels.h"

struct ChainruleFeatures {
  bool known = false;  // false on a processor that can't be asked
  bool avx2 = false, fma = false, f16c = false, avx512f = false, avx512bw = false, avx512dq = false;
  bool avx512vl = false, avx512_vnni = false, avx512_bf16 = false, amx_tile = false;
};

ChainruleFeatures chainrule_ask_processor();

// The kernels in use.
const ChainruleKernels& chainrule_kernels();

// From now on use "portable", "avx2" or "avx512". Throws std::invalid_argument for another name
// and for a set that the processor lacks.
void chainrule_use(const char* name);
