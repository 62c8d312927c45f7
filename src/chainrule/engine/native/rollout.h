// Ancestral sampling by a machine, many symbols in one call, rows ending at their stop symbols.
#pragma once
#include "machine.h"

struct ChainruleRollout {
  std::int64_t rows = 0, most = 0;     // B, and the most symbols that a row gets
  std::vector<std::int64_t> last;      // [B], emitted before and not yet consumed
  std::vector<std::int64_t> position;  // [B], where `last` stands
  std::vector<std::int64_t> number;    // [B], of the first new symbol: its noise's position
  std::vector<std::uint64_t> key;      // [B], of the noise
  std::vector<ChainruleWarp> warp;     // [B]
  std::int64_t stop = -1;              // the symbol that ends a row, or -1
  ChainruleCall state;                 // caches, places, capacity and memory; rows and length 0
  std::vector<float*> windows;         // [window]: [B][w][D], moved on in place
  std::int64_t kept = 0;            // values kept of every row: `most`, or 1: the newest alone
  std::vector<float*> fresh;        // [window]: [B][kept][D], every step's new value
  float* hidden = nullptr;          // [B][kept][D]
  std::int64_t* symbols = nullptr;  // [B][most]
  double* log_prob = nullptr;       // [B][most], in nats, before any warp
  std::int64_t* count = nullptr;    // [B]: how many of them there are
};

void chainrule_rollout(ChainruleMachine& machine, ChainruleRollout& job);
