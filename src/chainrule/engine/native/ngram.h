// An n-gram's tables, as models/ngram.py lays them out; nothing here owns memory.
#pragma once
#include <cstdint>

struct ChainruleTables {
  const std::int64_t* contexts;
  std::int64_t num_contexts;
  const std::int64_t* grams;
  std::int64_t num_grams;
  const double* values;
  const double* backoff;
  std::int64_t size, order;
};

constexpr std::int64_t kChainruleMaxOrder = 64;  // orders are below it

// Probabilities p [size] behind the symbols that end at `end`: end[-1] is the newest.
void chainrule_ngram_law(const ChainruleTables& tables, const std::int64_t* end, double* p);

// past [rows, order - 1] and temperature [rows] (0 is greedy); gumbel [rows, count, size];
// out [rows, count].
void chainrule_ngram_rollout(const ChainruleTables& tables, const std::int64_t* past,
                             std::int64_t rows, std::int64_t count, const double* temperature,
                             const float* gumbel, std::int64_t* out);
