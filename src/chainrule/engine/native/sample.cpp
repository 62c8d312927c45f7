#include "sample.h"

#include <vector>

void chainrule_gumbel_block(const ChainruleKernels& kernels, const std::int64_t* keys,
                            const std::int64_t* starts, std::int64_t rows, std::int64_t length,
                            std::int64_t stream, std::int64_t lanes, float* out) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto key = static_cast<std::uint64_t>(keys[i]);
    for (std::int64_t t = 0; t < length; ++t, out += lanes) {
      kernels.gumbel(key, starts[i] + t, stream, lanes, out);
    }
  }
}

void chainrule_log_softmax_block(const ChainruleKernels& kernels, const float* logits,
                                 std::int64_t rows, std::int64_t size, double* out) {
  for (std::int64_t i = 0; i < rows; ++i) {
    kernels.log_softmax(logits + i * size, size, out + i * size);
  }
}

bool chainrule_log_prob_block(const ChainruleKernels& kernels, const float* logits,
                              const std::int64_t* symbols, std::int64_t rows, std::int64_t size,
                              double* out) {
  for (std::int64_t i = 0; i < rows; ++i) {
    if (symbols[i] < 0 || symbols[i] >= size) return false;
    out[i] = kernels.log_prob(logits + i * size, size, symbols[i]);
  }
  return true;
}

bool ChainruleWarps::valid(std::int64_t rows) const {
  for (std::int64_t i = 0; i < rows; ++i) {
    const ChainruleWarp w = row(i);
    const bool fine = w.temperature >= 0 && w.top_k >= 0 && w.top_p > 0 && w.top_p <= 1 &&
                      w.min_p >= 0 && w.min_p <= 1 && w.typical > 0 && w.typical <= 1;
    if (!fine) return false;  // NaN fails every comparison
  }
  return true;
}

void chainrule_warp_block(const ChainruleKernels& kernels, const ChainruleWarps& warps,
                          const double* log_p, std::int64_t rows, std::int64_t size, double* out) {
  std::vector<double> scratch(static_cast<std::size_t>(4 * size));
  for (std::int64_t i = 0; i < rows; ++i) {
    kernels.warp(warps.row(i), log_p + i * size, size, scratch.data(), out + i * size);
  }
}

void chainrule_pick_block(const ChainruleKernels& kernels, const double* scores,
                          const float* noise, std::int64_t rows, std::int64_t size,
                          std::int64_t* out) {
  for (std::int64_t i = 0; i < rows; ++i) {
    out[i] = kernels.pick(scores + i * size, noise + i * size, size);
  }
}
