#include "rollout.h"

#include <cstring>

#include "dispatch.h"

namespace {

bool chainrule_plain(const ChainruleWarp& w) {
  return w.temperature == 1 && w.top_k == 0 && w.top_p == 1 && w.min_p == 0 && w.typical == 1;
}

// Where a row's value of a step is kept.
std::int64_t chainrule_place(const ChainruleRollout& job, std::int64_t b, std::int64_t step) {
  return b * job.kept + (job.kept == 1 ? 0 : step);
}

// The rows of `job` that go on, as one call of one symbol each.
ChainruleCall chainrule_call(const ChainruleMachine& machine, const ChainruleRollout& job,
                             const std::vector<std::int64_t>& going, std::int64_t step,
                             std::vector<std::int64_t>& symbols) {
  ChainruleCall call;
  const auto rows = static_cast<std::int64_t>(going.size());
  call.rows = rows, call.length = 1;
  symbols.resize(going.size());
  call.capacity = job.state.capacity;
  call.memory_length = job.state.memory_length;
  call.caches.resize(job.state.caches.size()), call.places.resize(job.state.caches.size());
  call.memory.resize(job.state.memory.size()), call.memory_ok.resize(job.state.memory.size());
  call.windows.resize(job.windows.size()), call.new_windows.resize(job.windows.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::int64_t b = going[i];
    symbols[i] = step ? job.symbols[b * job.most + step - 1] : job.last[b];
    call.positions.push_back(job.position[b] + step);
    call.hidden.push_back(job.hidden + chainrule_place(job, b, step) * machine.hidden_dim());
    for (std::size_t c = 0; c < call.caches.size(); ++c) {
      call.caches[c].push_back(job.state.caches[c][b]);
      call.places[c].push_back(job.state.places[c][b] + step);
    }
    for (std::size_t m = 0; m < call.memory.size(); ++m) {
      call.memory[m].push_back(job.state.memory[m][b]);
      call.memory_ok[m].push_back(job.state.memory_ok[m][b]);
    }
  }
  for (const ChainruleLeaf& leaf : machine.leaves()) {
    if (leaf.kind != ChainruleKind::window) continue;
    for (std::int64_t i = 0; i < rows; ++i) {
      call.windows[leaf.place].push_back(job.windows[leaf.place] + going[i] * leaf.width * leaf.dim);
      call.new_windows[leaf.place].push_back(job.fresh[leaf.place] +
                                             chainrule_place(job, going[i], step) * leaf.dim);
    }
  }
  call.symbols = symbols.data();
  return call;
}

}  // namespace

void chainrule_rollout(ChainruleMachine& machine, ChainruleRollout& job) {
  const ChainruleKernels& k = chainrule_kernels();
  const std::int64_t size = machine.size(), dim = machine.hidden_dim();
  std::vector<std::uint64_t>& lanes = machine.lanes();
  if (lanes.empty()) {
    lanes.resize(static_cast<std::size_t>(size + 8));
    k.lane_table(size, lanes.data());
  }
  bool plain = true;
  for (std::int64_t b = 0; b < job.rows; ++b) plain = plain && chainrule_plain(job.warp[b]);
  for (auto& room : machine.sampling()) {
    if (!plain) room.resize(static_cast<std::size_t>(size * 6));  // of a thread of the pool
  }

  std::vector<std::int64_t> going, symbols;
  for (std::int64_t b = 0; b < job.rows; ++b) going.push_back(b), job.count[b] = 0;
  std::vector<float> hidden(static_cast<std::size_t>(job.rows * dim));
  for (std::int64_t step = 0; step < job.most && !going.empty(); ++step) {
    machine.run(chainrule_call(machine, job, going, step, symbols));
    const auto rows = static_cast<std::int64_t>(going.size());
    for (const ChainruleLeaf& leaf : machine.leaves()) {
      if (leaf.kind != ChainruleKind::window) continue;
      for (std::int64_t i = 0; i < rows; ++i) {
        float* const window = job.windows[leaf.place] + going[i] * leaf.width * leaf.dim;
        std::memmove(window, window + leaf.dim, (leaf.width - 1) * leaf.dim * 4);
        std::memcpy(window + (leaf.width - 1) * leaf.dim,
                    job.fresh[leaf.place] + chainrule_place(job, going[i], step) * leaf.dim,
                    leaf.dim * 4);
      }
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      const float* const from = job.hidden + chainrule_place(job, going[i], step) * dim;
      std::memcpy(hidden.data() + i * dim, from, dim * 4);
    }
    machine.head(hidden.data(), rows, [&](std::int64_t i, const float* logits, int thread) {
      const std::int64_t b = going[i], at = b * job.most + step;
      const std::int64_t number = job.number[b] + step;
      std::int64_t& x = job.symbols[at];
      if (chainrule_plain(job.warp[b])) {
        x = k.draw_plain(logits, size, lanes.data(), job.key[b], number, job.log_prob + at);
      } else {
        double* const log_p = machine.sampling()[static_cast<std::size_t>(thread)].data();
        double* const warped = log_p + size;
        k.log_softmax(logits, size, log_p);
        k.warp(job.warp[b], log_p, size, warped + size, warped);
        x = k.draw(warped, size, lanes.data(), job.key[b], number);
        job.log_prob[at] = log_p[x];
      }
      ++job.count[b];
    });
    std::vector<std::int64_t> on;
    for (const std::int64_t b : going) {
      if (job.symbols[b * job.most + step] != job.stop) on.push_back(b);
    }
    going.swap(on);
  }
}
