// Ancestral sampling from an n-gram's tables: `NGram.rollout`, without a tensor a symbol.
// The tables are those of models/ngram.py; the sums run in the order that Backoff runs them.
#include "ngram.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

// Where `key` stands in a sorted table whose last entry closes it, or -1.
std::int64_t chainrule_find(const std::int64_t* table, std::int64_t length, std::int64_t key) {
  const std::int64_t* at = std::lower_bound(table, table + length, key);
  return at < table + length && *at == key ? at - table : -1;
}

}  // namespace

void chainrule_ngram_law(const ChainruleTables& t, const std::int64_t* end, double* p) {
  const std::int64_t size = t.size;
  std::int64_t context[kChainruleMaxOrder] = {0};
  double weight[kChainruleMaxOrder];
  std::int64_t row = 0;
  for (std::int64_t k = 1; k < t.order; ++k) {
    if (end[-k] < 0 || end[-k] > size) row = -1;
    row = row < 0 ? -1 : chainrule_find(t.contexts, t.num_contexts, row * (size + 1) + end[-k]);
    row = row < 0 ? -1 : row + 1;
    context[k] = row;
  }
  weight[t.order - 1] = 1;
  for (std::int64_t k = t.order - 1; k > 0; --k) {
    weight[k - 1] = context[k] < 0 ? weight[k] : weight[k] * t.backoff[context[k]];
  }
  for (std::int64_t x = 0; x < size; ++x) p[x] = weight[0] * t.values[x];
  for (std::int64_t k = 1; k < t.order && context[k] >= 0; ++k) {
    const std::int64_t first = context[k] * size;
    const std::int64_t* gram = std::lower_bound(t.grams, t.grams + t.num_grams, first);
    const std::int64_t* stop = t.grams + t.num_grams;
    for (; gram < stop && first <= *gram && *gram < first + size; ++gram) {  // trust no order
      p[*gram - first] += t.values[gram - t.grams] * weight[k];
    }
  }
}

void chainrule_ngram_rollout(const ChainruleTables& t, const std::int64_t* past, std::int64_t rows,
                             std::int64_t count, const double* temperature, const float* gumbel,
                             std::int64_t* out) {
  const std::int64_t size = t.size, reach = t.order - 1;
  std::vector<double> p(size);
  std::vector<std::int64_t> seen(reach + count);
  for (std::int64_t b = 0; b < rows; ++b) {
    std::copy(past + b * reach, past + (b + 1) * reach, seen.begin());
    for (std::int64_t step = 0; step < count; ++step) {
      chainrule_ngram_law(t, seen.data() + reach + step, p.data());
      const float* noise = gumbel + (b * count + step) * size;
      const double heat = temperature[b];
      std::int64_t best = 0;
      double top = -HUGE_VAL;
      for (std::int64_t x = 0; x < size; ++x) {
        const double score = heat > 0 ? std::log(p[x]) / heat + noise[x] : p[x];
        if (score > top) top = score, best = x;
      }
      seen[reach + step] = out[b * count + step] = best;
    }
  }
}
