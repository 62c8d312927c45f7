#include "rollout.h"

#include <algorithm>
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

// Points a call of one symbol each at the rows of `job` that go on. What moves with every step is
// set by `chainrule_move`.
void chainrule_aim(const ChainruleMachine& machine, const ChainruleRollout& job,
                   const std::vector<std::int64_t>& going, ChainruleCall& call) {
  call.rows = static_cast<std::int64_t>(going.size()), call.length = 1;
  call.capacity = job.state.capacity, call.memory_length = job.state.memory_length;
  const auto chosen = [&](const auto& from, auto& to) {
    to.resize(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      to[i].clear();
      for (const std::int64_t b : going) to[i].push_back(from[i][b]);
    }
  };
  chosen(job.state.caches, call.caches), chosen(job.state.places, call.places);
  chosen(job.state.memory, call.memory), chosen(job.state.memory_ok, call.memory_ok);
  chosen(job.state.seen, call.seen), chosen(job.state.grids, call.grids);
  call.windows.resize(job.windows.size()), call.new_windows.resize(job.windows.size());
  for (const ChainruleLeaf& leaf : machine.leaves()) {
    if (leaf.kind != ChainruleKind::window) continue;
    auto& windows = call.windows[leaf.place];
    windows.clear(), call.new_windows[leaf.place].resize(going.size());
    for (const std::int64_t b : going) {
      windows.push_back(job.windows[leaf.place] + b * leaf.width * leaf.dim);
    }
  }
  call.positions.resize(going.size()), call.hidden.resize(going.size());
}

void chainrule_move(const ChainruleMachine& machine, const ChainruleRollout& job,
                    const std::vector<std::int64_t>& going, std::int64_t step,
                    std::vector<std::int64_t>& symbols, ChainruleCall& call) {
  symbols.resize(going.size()), call.symbols = symbols.data();
  for (std::size_t i = 0; i < going.size(); ++i) {
    const std::int64_t b = going[i], place = chainrule_place(job, b, step);
    symbols[i] = step ? job.symbols[b * job.most + step - 1] : job.last[b];
    call.positions[i] = job.position[b] + step;
    call.hidden[i] = job.hidden + place * machine.hidden_dim();
    for (std::size_t c = 0; c < call.places.size(); ++c) {
      call.places[c][i] = job.state.places[c][b] + step;
    }
    for (const ChainruleLeaf& leaf : machine.leaves()) {
      if (leaf.kind != ChainruleKind::window) continue;
      call.new_windows[leaf.place][i] = job.fresh[leaf.place] + place * leaf.dim;
    }
  }
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

  ChainruleCall call;
  std::vector<std::int64_t> going, symbols;
  for (std::int64_t b = 0; b < job.rows; ++b) going.push_back(b), job.count[b] = 0;
  std::vector<float> hidden(static_cast<std::size_t>(job.rows * dim));
  std::int64_t step = 0;
  const ChainruleTake take = [&](std::int64_t i, const float* logits, int thread) {
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
  };
  for (; step < job.most && !going.empty(); ++step) {
    if (static_cast<std::int64_t>(going.size()) != call.rows) {
      chainrule_aim(machine, job, going, call);
    }
    chainrule_move(machine, job, going, step, symbols, call);
    machine.run(call);
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
    machine.head(hidden.data(), rows, take);
    const auto ended = [&](std::int64_t b) { return job.symbols[b * job.most + step] == job.stop; };
    going.erase(std::remove_if(going.begin(), going.end(), ended), going.end());
  }
}
