// Many rows of noise, laws and warps by one set of kernels. B or N rows, L positions, V symbols.
#pragma once
#include "kernels.h"

// keys and starts [B]; out [B, L, lanes].
void chainrule_gumbel_block(const ChainruleKernels& kernels, const std::int64_t* keys,
                            const std::int64_t* starts, std::int64_t rows, std::int64_t length,
                            std::int64_t stream, std::int64_t lanes, float* out);

// logits and out [N, V].
void chainrule_log_softmax_block(const ChainruleKernels& kernels, const float* logits,
                                 std::int64_t rows, std::int64_t size, double* out);

// logits [N, V], symbols and out [N]. False where a symbol is not one of the V.
bool chainrule_log_prob_block(const ChainruleKernels& kernels, const float* logits,
                              const std::int64_t* symbols, std::int64_t rows, std::int64_t size,
                              double* out);

// Settings of N rows; false from `valid` where one is out of the bounds of decoding/warps.py.
struct ChainruleWarps {
  const double* temperature;
  const std::int64_t* top_k;
  const double *top_p, *min_p, *typical;
  ChainruleWarp row(std::int64_t i) const {
    return {temperature[i], top_k[i], top_p[i], min_p[i], typical[i]};
  }
  bool valid(std::int64_t rows) const;
};

// log_p and out [N, V].
void chainrule_warp_block(const ChainruleKernels& kernels, const ChainruleWarps& warps,
                          const double* log_p, std::int64_t rows, std::int64_t size, double* out);

// scores and noise [N, V]; out [N].
void chainrule_pick_block(const ChainruleKernels& kernels, const double* scores,
                          const float* noise, std::int64_t rows, std::int64_t size,
                          std::int64_t* out);
