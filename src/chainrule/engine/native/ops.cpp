// The ops of a machine. Whatever comes in is checked here once more, whoever checked it before.
#include <algorithm>
#include <map>
#include <stdexcept>

#include "machine.h"
#include "ngram.h"

namespace {

constexpr std::int64_t kWidest = std::int64_t{1} << 24;
constexpr std::int64_t kTurned = std::int64_t{1} << 14;  // columns of all tables of angles

const std::map<std::string, ChainruleOp>& chainrule_ops() {
  static const std::map<std::string, ChainruleOp> ops = {
      {"embed", ChainruleOp::embed},   {"symbol", ChainruleOp::symbol},
      {"wave", ChainruleOp::wave},     {"linear", ChainruleOp::linear},
      {"bias", ChainruleOp::bias},     {"add", ChainruleOp::add},
      {"mul", ChainruleOp::mul},       {"norm", ChainruleOp::norm},
      {"activate", ChainruleOp::activate}, {"gate", ChainruleOp::gate},
      {"rope", ChainruleOp::rope},     {"attend", ChainruleOp::attend},
      {"cross", ChainruleOp::cross},   {"cell", ChainruleOp::cell},
      {"recent", ChainruleOp::recent}, {"backoff", ChainruleOp::backoff},
      {"table", ChainruleOp::table},   {"near", ChainruleOp::near},
      {"around", ChainruleOp::around}, {"place", ChainruleOp::place}};
  return ops;
}

}  // namespace

void ChainruleMachine::add_op(const std::string& name, std::vector<std::int64_t> at, double real,
                              int part) {
  const auto found = chainrule_ops().find(name);
  if (found == chainrule_ops().end()) refuse(name, "unknown");
  const ChainruleOp op = found->second;
  static constexpr std::size_t kSizes[] = {3, 1, 3, 4, 3, 3, 3, 6, 3, 3,
                                           5, 9, 4, 6, 3, 6, 2, 5, 5, 3};
  const bool taps = op == ChainruleOp::near || op == ChainruleOp::around;
  const std::size_t size = kSizes[static_cast<int>(op)];
  if (at.size() != size && !(taps && at.size() > size && at.size() % 2)) {
    refuse(name, "a wrong number of arguments");
  }
  if (part < 0 || part > 3 || (part > kChainruleHead && !grid_.width)) refuse(name, "an unknown part");
  const auto need = [&](bool ok, const char* why) {
    if (!ok) refuse(name, why);
  };
  const auto buffer = [&](std::size_t i) -> const ChainruleBuffer& {
    need(at[i] >= 0 && at[i] < static_cast<std::int64_t>(buffers_.size()), "a buffer out of range");
    return buffers_[at[i]];
  };
  const auto weight = [&](std::size_t i, int kind, std::int64_t rows, std::int64_t cols) {
    need(at[i] >= 0 && at[i] < static_cast<std::int64_t>(weights_.size()), "a weight out of range");
    const ChainruleWeight& w = *weights_[at[i]];
    need(w.kind == kind, "a weight of another kind");
    need(kind > 1 || rows < 0 || w.matrix.rows == rows, "a weight whose rows don't fit");
    need(kind != 0 || w.matrix.cols == cols, "a weight whose columns don't fit");
  };
  const auto leaf = [&](std::size_t i, ChainruleKind kind, std::int64_t dim) {
    need(at[i] >= 0 && at[i] < static_cast<std::int64_t>(leaves_.size()), "a leaf out of range");
    need(leaves_[at[i]].kind == kind && leaves_[at[i]].dim == dim, "a leaf that doesn't fit");
  };
  const auto optional = [&](std::size_t i, std::int64_t rows) {
    if (at[i] != -1) weight(i, 1, rows, 0);
  };
  const ChainruleBuffer& out = buffer(0);
  need(out.root == at[0], "it writes a view");
  const auto bytes = [&](std::int64_t index, std::int64_t rows, std::int64_t cols) {
    const auto type = weights_[index]->matrix.type;
    return rows * cols * (type == ChainruleType::f32 ? 8 : type == ChainruleType::bf16 ? 4 :
                          type == ChainruleType::q4  ? 1 : 2) / 2;
  };
  const std::int64_t dim = out.dim;
  ChainruleList& list = parts_[part];
  switch (op) {
    case ChainruleOp::embed:
      weight(1, 0, -1, dim);
      need(at[2] == 0 || at[2] == 1, "an unknown kind");
      break;
    case ChainruleOp::table:
      weight(1, 1, -1, 0);
      need(weights_[at[1]]->matrix.rows % dim == 0, "a table whose columns don't fit");
      break;
    case ChainruleOp::place:
      weight(1, 0, -1, dim), weight(2, 2, 0, 0);
      for (const std::int64_t row : weights_[at[2]]->ints) {
        need(row >= 0 && row < weights_[at[1]]->matrix.rows, "an index past the last row");
      }
      break;
    case ChainruleOp::near: check_near(at); break;
    case ChainruleOp::around: check_around(at, part); break;
    case ChainruleOp::symbol: need(dim == 1, "it makes one column"); break;
    case ChainruleOp::wave: weight(1, 1, dim, 0), weight(2, 1, dim, 0); break;
    case ChainruleOp::linear: {
      weight(2, 0, dim, buffer(1).dim), optional(3, dim);
      list.bytes += bytes(at[2], dim, buffer(1).dim);
      break;
    }
    case ChainruleOp::bias: need(buffer(1).dim == dim, "widths differ"), weight(2, 1, dim, 0); break;
    case ChainruleOp::add:
    case ChainruleOp::mul:
      need(buffer(1).dim == dim && buffer(2).dim == dim, "widths differ");
      break;
    case ChainruleOp::norm:
      need(buffer(1).dim == dim && real > 0, "widths differ");
      need(at[5] > 0 && dim % at[5] == 0, "heads that don't fit");
      weight(2, 1, at[5], 0), optional(3, at[5]);
      break;
    case ChainruleOp::activate:
      need(buffer(1).dim == dim && at[2] >= 0 && at[2] < 6, "an unknown function");
      break;
    case ChainruleOp::gate:
      need(buffer(1).dim == 2 * dim && at[2] >= 0 && at[2] < 6, "an unknown function");
      break;
    case ChainruleOp::rope: {
      need(buffer(1).dim == dim && at[2] > 1 && at[2] % 2 == 0 && dim % at[2] == 0 && at[3] >= 0,
           "heads that don't fit");
      weight(4, 3, 0, 0);
      need(static_cast<std::int64_t>(weights_[at[4]]->reals.size()) == at[2] / 2 && real > 0,
           "rates that don't fit");
      std::size_t turn = 0;
      while (turn < turns_.size() && (turns_[turn].rates != at[4] || turns_[turn].scale != real)) ++turn;
      std::int64_t columns = at[2];
      for (const Turn& each : turns_) columns += each.width;
      if (turn == turns_.size()) {
        need(columns <= kTurned, "more angles than there is room for");
        turns_.push_back({at[2], at[4], real, {}});
      }
      at.push_back(static_cast<std::int64_t>(turn));
      break;
    }
    case ChainruleOp::attend: {
      const std::int64_t keys = buffer(2).dim;
      need(at[5] > 0 && buffer(1).dim == dim && dim % at[5] == 0 && buffer(3).dim == keys &&
               keys % (dim / at[5]) == 0 && at[5] % (keys / (dim / at[5])) == 0,
           "heads that don't fit");
      leaf(4, ChainruleKind::cache, keys);
      need(leaves_[at[4]].width == dim / at[5], "a cache of other heads");
      need(at[6] > 0 && at[6] <= kWidest && at[7] >= 0 && at[7] <= kWidest, "a window out of bounds");
      if (at[8] != -1) need(buffer(8).dim == dim, "widths differ");
      break;
    }
    case ChainruleOp::cross:
      need(at[3] > 0 && buffer(1).dim == dim && dim % at[3] == 0, "heads that don't fit");
      leaf(2, ChainruleKind::fixed, 2 * dim);
      break;
    case ChainruleOp::cell: {
      need(at[3] >= 0 && at[3] < 4, "an unknown kind");
      static constexpr std::int64_t kGates[] = {1, 4, 3, 2};
      need(buffer(1).dim == kGates[at[3]] * dim, "gates that don't fit");
      leaf(2, ChainruleKind::window, at[3] == 1 ? 2 * dim : dim);
      need(leaves_[at[2]].width == 1, "a window that is too wide");
      if (at[3] != 3) {
        weight(4, 0, kGates[at[3]] * dim, dim), weight(5, 1, kGates[at[3]] * dim, 0);
        list.bytes += bytes(at[4], kGates[at[3]] * dim, dim);
        most_gates_ = std::max(most_gates_, chainrule_round16(kGates[at[3]] * dim));
      }
      break;
    }
    case ChainruleOp::recent:
      leaf(2, ChainruleKind::window, buffer(1).dim);
      need(dim == buffer(1).dim * leaves_[at[2]].width, "a window that doesn't fit");
      break;
    case ChainruleOp::backoff: {
      weight(2, 2, 0, 0), weight(3, 2, 0, 0), weight(4, 3, 0, 0), weight(5, 3, 0, 0);
      const std::size_t contexts = weights_[at[2]]->ints.size(), grams = weights_[at[3]]->ints.size();
      need(buffer(1).dim < kChainruleMaxOrder && dim == size_ && weights_[at[4]]->reals.size() == grams &&
               weights_[at[5]]->reals.size() == contexts + 1 &&
               grams > static_cast<std::size_t>(size_),
           "tables that don't fit each other");
      break;
    }
  }
  const bool in_place = op == ChainruleOp::bias || op == ChainruleOp::add ||
                        op == ChainruleOp::mul || op == ChainruleOp::activate;
  if (op == ChainruleOp::attend) {
    for (std::size_t i : {1, 2, 3, 8}) {
      need(at[i] < 0 || buffers_[at[i]].root != at[0], "it reads what it writes");
    }
  } else if (!in_place && at.size() > 1 && op != ChainruleOp::embed && op != ChainruleOp::wave &&
             op != ChainruleOp::table && op != ChainruleOp::place && !taps) {
    need(buffer(1).root != at[0], "it reads what it writes");
  }
  const bool alone = op == ChainruleOp::linear || in_place || op == ChainruleOp::norm ||
                     op == ChainruleOp::gate;
  need(part != kChainruleHead || alone || op == ChainruleOp::backoff, "it can't stand in the head");
  need(part < kChainruleRows || alone || taps || op == ChainruleOp::cross,
       "it can't stand in rows or pixels");
  const bool product = op == ChainruleOp::linear || (op == ChainruleOp::cell && at[3] != 3);
  const bool mixes = op == ChainruleOp::attend || op == ChainruleOp::recent ||
                     op == ChainruleOp::cell;  // of rows or steps
  list.meetings += 2 * product + 2 * mixes + (op == ChainruleOp::around);
  list.ops.push_back({op, std::move(at), real});
}
