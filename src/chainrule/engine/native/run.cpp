// Running a machine: every thread goes through all ops; they meet before and after what mixes rows.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "dispatch.h"
#include "machine.h"
#include "ngram.h"

namespace {

constexpr std::int64_t kTurns = 8192;       // positions whose angles are kept
constexpr std::int64_t kFarthest = std::int64_t{1} << 40;
constexpr std::int64_t kSymbols = std::int64_t{1} << 24;  // numbers that a float holds exactly

}  // namespace

void ChainruleMachine::check(const ChainruleCall& call) const {
  if (call.rows < 1 || call.length < 1) throw std::invalid_argument("no symbols to consume");
  std::int64_t farthest = 0;
  for (std::int64_t b = 0; b < call.rows; ++b) {
    if (call.positions[b] < 0 || call.positions[b] > kFarthest - call.length) {
      throw std::invalid_argument("a position out of range");
    }
    farthest = std::max(farthest, call.positions[b] + call.length - 1);
    for (std::size_t c = 0; c < call.places.size(); ++c) {
      const std::int64_t place = call.places[c][b];
      if (place < 0 || place > kFarthest || place + call.length > call.capacity[c] * 16) {
        throw std::invalid_argument("a length past the capacity of its cache");
      }
    }
  }
  if (grid_.width) check_picture(call);
  for (const ChainruleStep& each : parts_[kChainruleOps].ops) {
    const bool number = each.op == ChainruleOp::symbol, table = each.op == ChainruleOp::table;
    if (each.op != ChainruleOp::embed && !number && !table) continue;
    const std::int64_t rows = number ? kSymbols : weights_[each.at[1]]->matrix.rows /
                                                      (table ? buffers_[each.at[0]].dim : 1);
    const bool position = each.op == ChainruleOp::embed && each.at[2];
    if (position && farthest >= rows) throw std::invalid_argument("a position past the last");
    for (std::int64_t i = 0; !position && i < call.rows * call.length; ++i) {
      if (call.symbols[i] < 0 || call.symbols[i] >= rows) {
        throw std::invalid_argument("a symbol outside the alphabet");
      }
    }
  }
}

void ChainruleMachine::run(const ChainruleCall& call) {
  check(call);
  const std::int64_t most = grid_.width ? 1
                            : call.both ? call.length
                                        : std::max<std::int64_t>(1, kMost / call.rows);
  const std::int64_t each = std::min(call.length, most);
  for (const ChainruleLeaf& leaf : leaves_) {
    if (leaf.kind != ChainruleKind::window) continue;
    auto& work = work_[leaf.place];
    work.resize(static_cast<std::size_t>(call.rows * (leaf.width + each) * leaf.dim));
    for (std::int64_t b = 0; b < call.rows; ++b) {
      std::memcpy(work.data() + b * (leaf.width + each) * leaf.dim,
                  call.windows[leaf.place][b], leaf.width * leaf.dim * 4);
    }
  }
  for (std::int64_t first = 0; first < call.length; first += each) {
    piece(call, first, std::min(each, call.length - first));
  }
}

float* ChainruleMachine::work(std::int64_t window, std::int64_t b, std::int64_t t) const {
  const ChainruleLeaf& leaf = leaves_[window];
  const std::int64_t each =
      static_cast<std::int64_t>(work_[leaf.place].size()) / call_->rows / leaf.dim;
  return const_cast<float*>(work_[leaf.place].data()) + (b * each + t) * leaf.dim;
}

void ChainruleMachine::piece(const ChainruleCall& call, std::int64_t first, std::int64_t length) {
  call_ = &call, first_ = first, length_ = length, rows_ = call.rows * length;
  std::int64_t room = std::max(rows_, call.rows);
  if (!parts_[kChainruleRows].ops.empty()) {  // as many picture rows at a time as fit into a piece
    room = std::max(room, grid_.width * std::max<std::int64_t>(1, std::min(call.rows, kMost / grid_.width)));
  }
  make_room(room);
  std::int64_t longest = 0, farthest = 0;
  for (std::int64_t b = 0; b < call.rows; ++b) {
    farthest = std::max(farthest, call.positions[b] + first + length);
    for (const auto& places : call.places) longest = std::max(longest, places[b] + first + length);
  }
  for (std::int64_t s : call.memory_length) longest = std::max(longest, s);
  std::int64_t padded = 16;
  for (const ChainruleLeaf& leaf : leaves_) {
    if (leaf.kind == ChainruleKind::cache) padded = std::max(padded, leaf.width + 16);
  }
  for (auto& scores : scores_) {
    const auto room = static_cast<std::size_t>(chainrule_score_room(longest + 64, padded));
    if (scores.size() < room) scores.resize(room + room / 2);
  }
  for (Turn& turn : turns_) {
    const std::int64_t have = static_cast<std::int64_t>(turn.table.size()) / turn.width;
    std::int64_t want = std::min(farthest, kTurns);
    if (want <= have) continue;
    want = std::min(kTurns, std::max(want, have + 256));
    turn.table.resize(static_cast<std::size_t>(want * turn.width));
    const double* const rate = weights_[turn.rates]->reals.data();
    for (std::int64_t p = have; p < want; ++p) turn.make(rate, p, &turn.table[p * turn.width]);
  }
  if (grid_.width) begin_symbol();
  const ChainruleList& list = parts_[kChainruleOps];
  pool_.run(
      [this, &list](int thread) {
        for (const ChainruleStep& each : list.ops) step(each, thread);
        pool_.barrier();
      },
      list.bytes * rows_ < alone_ * list.meetings);
  for (std::int64_t b = 0; b < call.rows; ++b) {
    const std::int64_t dim = hidden_dim();
    for (std::int64_t t = 0; t < length; ++t) {
      std::memcpy(call.hidden[b] + (first + t) * dim, row(hidden_, b * length + t), dim * 4);
    }
    for (std::size_t i = 0; i < leaves_.size(); ++i) {
      const ChainruleLeaf& leaf = leaves_[i];
      if (leaf.kind != ChainruleKind::window) continue;
      const auto at = static_cast<std::int64_t>(i);
      std::memcpy(call.new_windows[leaf.place][b] + first * leaf.dim, work(at, b, leaf.width),
                  length * leaf.dim * 4);
      if (first + length < call.length) {  // another piece follows
        std::memmove(work(at, b, 0), work(at, b, length), leaf.width * leaf.dim * 4);
      }
    }
  }
}

void ChainruleMachine::head(const float* hidden, std::int64_t count, const ChainruleTake& take) {
  const std::int64_t dim = hidden_dim();
  for (std::int64_t first = 0; first < count; first += kMost) {
    const std::int64_t many = std::min(count - first, kMost);
    call_ = nullptr, rows_ = many;
    make_room(many);
    for (std::int64_t n = 0; n < many; ++n) {
      std::memcpy(row(hidden_, n), hidden + (first + n) * dim, dim * 4);
    }
    const ChainruleList& list = parts_[kChainruleHead];
    const auto work = [&](int thread) {
      for (const ChainruleStep& each : list.ops) step(each, thread);
      pool_.barrier();
      const int threads = pool_.active();
      for (std::int64_t n = many * thread / threads; n < many * (thread + 1) / threads; ++n) {
        take(first + n, row(logits_, n), thread);
      }
    };
    pool_.run(std::cref(work), list.bytes * many < alone_ * list.meetings);
  }
}

// ---- ops ----

void ChainruleMachine::step(const ChainruleStep& each, int thread) {
  switch (each.op) {
    case ChainruleOp::linear: do_linear(each, thread); return;
    case ChainruleOp::attend: do_attend(each, thread); return;
    case ChainruleOp::cell: do_cell(each, thread); return;
    case ChainruleOp::around: do_around(each, thread); return;
    case ChainruleOp::recent: {
      pool_.barrier();
      const ChainruleLeaf& leaf = leaves_[each.at[2]];
      for (std::int64_t b = thread; b < call_->rows; b += pool_.active()) {
        for (std::int64_t t = 0; t < length_; ++t) {
          const std::int64_t n = b * length_ + t;
          std::memcpy(work(each.at[2], b, leaf.width + t), row(each.at[1], n), leaf.dim * 4);
          std::memcpy(row(each.at[0], n), work(each.at[2], b, t + 1), leaf.width * leaf.dim * 4);
        }
      }
      pool_.barrier();
      return;
    }
    default:
      for (std::int64_t n = rows_ * thread / pool_.active();
           n < rows_ * (thread + 1) / pool_.active(); ++n) {
        do_row(each, n, thread);
      }
  }
}

void ChainruleMachine::do_row(const ChainruleStep& each, std::int64_t n, int thread) {
  const ChainruleKernels& k = chainrule_kernels();
  const auto& at = each.at;
  float* const out = row(at[0], n);
  const std::int64_t dim = buffers_[at[0]].dim;
  const auto vector = [&](std::int64_t i) {
    return at[i] < 0 ? nullptr : weights_[at[i]]->vector.data();
  };
  // Of pictures, which go symbol by symbol, a row of the buffers is a pixel of any row of the batch.
  const std::int64_t b = !call_ ? 0 : grid_.width ? spots_[n].line : n / length_;
  const std::int64_t t = call_ && !grid_.width ? n % length_ : 0;
  switch (each.op) {
    case ChainruleOp::embed: {
      const std::int64_t index = at[2] ? call_->positions[b] + first_ + t
                                       : call_->symbols[b * call_->length + first_ + t];
      k.embed(weights_[at[1]]->matrix, index, out);
      return;
    }
    case ChainruleOp::place: {
      const auto& index = weights_[at[2]]->ints;
      const auto last = static_cast<std::int64_t>(index.size()) - 1;
      const std::int64_t position = std::min(call_->positions[b] + first_ + t, last);
      k.embed(weights_[at[1]]->matrix, index[position], out);
      return;
    }
    case ChainruleOp::near: do_near(each, n); return;
    case ChainruleOp::table: {
      const std::int64_t index = call_->symbols[b * call_->length + first_ + t];
      std::memcpy(out, vector(1) + index * dim, dim * 4);
      return;
    }
    case ChainruleOp::symbol:
      *out = static_cast<float>(call_->symbols[b * call_->length + first_ + t]);
      return;
    case ChainruleOp::wave: {
      const auto position = static_cast<double>(call_->positions[b] + first_ + t);
      for (std::int64_t d = 0; d < dim; ++d) {
        out[d] = static_cast<float>(std::sin(vector(1)[d] * position + vector(2)[d]));
      }
      return;
    }
    case ChainruleOp::bias: k.add(row(at[1], n), vector(2), dim, out); return;
    case ChainruleOp::add: k.add(row(at[1], n), row(at[2], n), dim, out); return;
    case ChainruleOp::mul: k.mul(row(at[1], n), row(at[2], n), dim, out); return;
    case ChainruleOp::norm:
      for (std::int64_t d = 0; d < dim; d += at[5]) {
        k.norm(at[4] != 0, row(at[1], n) + d, at[5], vector(2), vector(3),
               static_cast<float>(each.real), out + d);
      }
      return;
    case ChainruleOp::activate:
      k.activate(static_cast<int>(at[2]), row(at[1], n), dim, out);
      return;
    case ChainruleOp::gate: k.gate(static_cast<int>(at[2]), row(at[1], n), dim, out); return;
    case ChainruleOp::rope: {
      std::int64_t position = call_->positions[b] + first_ + t;
      if (at[3]) position = std::min(position, at[3]);
      const float* const turn = angles(each, position, thread);
      k.rope(row(at[1], n), dim, at[2], turn, turn + at[2] / 2, out);
      return;
    }
    case ChainruleOp::cross: {
      const std::int64_t place = leaves_[at[2]].place;
      k.cross({row(at[1], n), call_->memory[place][b], call_->memory_ok[place][b],
               call_->memory_length[place], at[3], dim, scores_[thread].data(), out});
      return;
    }
    case ChainruleOp::backoff: {
      const std::int64_t width = buffers_[at[1]].dim;
      std::int64_t past[kChainruleMaxOrder];
      for (std::int64_t i = 0; i < width; ++i) {
        const float symbol = row(at[1], n)[i];  // whatever the program puts there
        const bool one = symbol >= 0 && symbol <= static_cast<float>(size_);
        past[i] = one && symbol == std::floor(symbol) ? static_cast<std::int64_t>(symbol) : -1;
      }
      const auto& contexts = weights_[at[2]]->ints;
      const auto& grams = weights_[at[3]]->ints;
      const ChainruleTables tables{contexts.data(), static_cast<std::int64_t>(contexts.size()),
                                   grams.data(), static_cast<std::int64_t>(grams.size()),
                                   weights_[at[4]]->reals.data(), weights_[at[5]]->reals.data(),
                                   size_, width + 1};
      chainrule_ngram_law(tables, past + width, laws_[thread].data());
      for (std::int64_t x = 0; x < size_; ++x) {
        out[x] = static_cast<float>(std::log(laws_[thread][x]));
      }
      return;
    }
    default: return;
  }
}

const float* ChainruleMachine::angles(const ChainruleStep& each, std::int64_t position,
                                      int thread) {
  const Turn& turn = turns_[each.at[5]];
  if (position < static_cast<std::int64_t>(turn.table.size()) / turn.width) {
    return turn.table.data() + position * turn.width;
  }
  auto& made = angles_[thread];
  turn.make(weights_[turn.rates]->reals.data(), position, made.data());
  return made.data();
}

void ChainruleMachine::Turn::make(const double* rate, std::int64_t position, float* out) const {
  for (std::int64_t i = 0; i < width / 2; ++i) {
    const double angle = static_cast<double>(position) * rate[i];
    out[i] = static_cast<float>(scale * std::cos(angle));
    out[width / 2 + i] = static_cast<float>(scale * std::sin(angle));
  }
}

void ChainruleMachine::product(const ChainruleWeight& w, const float* x, std::int64_t stride_x,
                               std::int64_t rows, const float* bias, float* y,
                               std::int64_t stride_y, int thread) {
  const ChainruleKernels& k = chainrule_kernels();
  const ChainruleMatrix& m = w.matrix;
  const int threads = pool_.active();
  ChainruleInput in{rows, prepared_.data(), prepared_scale_.as<float>(),
                    prepared_offset_.as<std::int32_t>(), loose_[thread].data()};
  if (m.type == ChainruleType::f32 && rows == 1) {  // one row is read as it lies
    in.data = reinterpret_cast<unsigned char*>(const_cast<float*>(x));
  } else {
    k.prepare(m, x, stride_x, rows * thread / threads, rows * (thread + 1) / threads, in);
  }
  pool_.barrier();
  k.linear(m, in, m.blocks * thread / threads, m.blocks * (thread + 1) / threads, bias, y, stride_y);
  pool_.barrier();
}

void ChainruleMachine::do_linear(const ChainruleStep& each, int thread) {
  const ChainruleBuffer& x = buffers_[each.at[1]];
  const ChainruleBuffer& y = buffers_[each.at[0]];
  const float* const bias = each.at[3] < 0 ? nullptr : weights_[each.at[3]]->vector.data();
  product(*weights_[each.at[2]], row(each.at[1], 0), x.stride, rows_, bias, row(each.at[0], 0),
          y.stride, thread);
}

void ChainruleMachine::do_attend(const ChainruleStep& each, int thread) {
  const ChainruleKernels& k = chainrule_kernels();
  const auto& at = each.at;
  const ChainruleLeaf& leaf = leaves_[at[4]];
  const std::int64_t width = leaf.width, groups = leaf.dim / width, heads = at[5];
  const std::int64_t block = block_bytes(leaf), half = call_->capacity[leaf.place] * block;
  const int threads = pool_.active();
  const auto keys = [&](std::int64_t b, std::int64_t g) {
    return call_->caches[leaf.place][b] + 2 * g * half;
  };
  ChainruleAttend job;
  job.kept = kept_, job.width = width, job.padded = (width + 15) / 16 * 16;
  job.window = at[6], job.sinks = at[7], job.scores = scores_[thread].data();
  // One query a head: the heads that share keys read them together.
  const bool together = length_ == 1;
  job.step = !together, job.both = call_->both && !together;
  const auto stride = [&](std::int64_t i) {
    return at[i] < 0 ? 0 : together ? width : buffers_[at[i]].stride;
  };
  job.stride_q = stride(1), job.stride_out = stride(0), job.stride_edge = stride(8);
  pool_.barrier();
  for (std::int64_t i = thread; i < call_->rows * groups; i += threads) {
    const std::int64_t b = i / groups, g = i % groups;
    for (std::int64_t t = 0; t < length_; ++t) {
      const std::int64_t n = b * length_ + t;
      k.remember(row(at[2], n) + g * width, row(at[3], n) + g * width, width, job.padded, kept_,
                 call_->places[leaf.place][b] + first_ + t, keys(b, g), keys(b, g) + half);
    }
  }
  pool_.barrier();
  const std::int64_t all = call_->rows * heads, end = all * (thread + 1) / threads;
  for (std::int64_t i = all * thread / threads; i < end; i += together ? job.count : 1) {
    const std::int64_t b = i / heads, h = i % heads, g = h / (heads / groups), n = b * length_;
    job.count = together ? std::min(end, b * heads + (g + 1) * (heads / groups)) - i : length_;
    job.place = call_->places[leaf.place][b] + first_;
    job.query = row(at[1], n) + h * width;
    job.edge = at[8] < 0 ? nullptr : row(at[8], n) + h * width;
    job.keys = keys(b, g), job.values = keys(b, g) + half;
    job.out = row(at[0], n) + h * width;
    k.attend(job);
  }
  pool_.barrier();
}

void ChainruleMachine::do_cell(const ChainruleStep& each, int thread) {
  const ChainruleKernels& k = chainrule_kernels();
  const auto& at = each.at;
  const std::int64_t dim = buffers_[at[0]].dim, rows = call_->rows, threads = pool_.active();
  const std::int64_t hidden = at[3] == 1 ? dim : 0;  // behind the cell vector of an lstm
  const std::int64_t stride = work(at[2], 1, 0) - work(at[2], 0, 0);
  const std::int64_t gates = at[3] == 3 ? 0 : (weights_[at[4]]->matrix.rows + 15) / 16 * 16;
  pool_.barrier();
  const std::int64_t first = dim * thread / threads / 16 * 16;
  const std::int64_t end = thread + 1 == threads ? dim : dim * (thread + 1) / threads / 16 * 16;
  for (std::int64_t t = 0; t < length_; ++t) {
    if (gates) {
      product(*weights_[at[4]], work(at[2], 0, t) + hidden, stride, rows,
              weights_[at[5]]->vector.data(), gates_.data(), gates, thread);
    }
    for (std::int64_t b = 0; b < rows; ++b) {
      const std::int64_t n = b * length_ + t;
      float* const after = work(at[2], b, t + 1);
      k.cell(static_cast<int>(at[3]), row(at[1], n), gates_.data() + b * gates,
             work(at[2], b, t), first, end, dim, after);
      std::memcpy(row(at[0], n) + first, after + hidden + first, (end - first) * 4);
    }
    pool_.barrier();
  }
}
