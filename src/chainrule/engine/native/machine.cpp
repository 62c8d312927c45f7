// Building a machine. Whatever comes in is checked here once more, whoever checked it before.
#include "machine.h"

#include "ngram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

namespace {

constexpr std::int64_t kWidest = std::int64_t{1} << 24;
constexpr std::int64_t kColumns = std::int64_t{1} << 22;  // of all buffers: 2 GiB for 128 positions
constexpr std::int64_t kKept = std::int64_t{1} << 26;     // values that a leaf has in a row
constexpr std::int64_t kTurned = std::int64_t{1} << 14;   // columns of all tables of angles
constexpr int kThreads = 1024;

std::int64_t chainrule_round16(std::int64_t n) { return (n + 15) / 16 * 16; }

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
      {"table", ChainruleOp::table}};
  return ops;
}

}  // namespace

void ChainruleMachine::refuse(const std::string& op, const std::string& why) const {
  throw std::invalid_argument("op " + op + ": " + why);
}

ChainruleMachine::ChainruleMachine(const std::vector<std::vector<std::int64_t>>& buffers,
                                   const std::vector<std::vector<std::int64_t>>& leaves,
                                   std::int64_t hidden, std::int64_t logits, std::int64_t size,
                                   int kept, int threads)
    : hidden_(hidden), logits_(logits), size_(size), kept_(static_cast<ChainruleKept>(kept)),
      pool_(threads < kThreads ? threads : kThreads) {
  if (kept < 0 || kept > 2) refuse("attend", "an unknown kind of cache");
  const auto many = static_cast<std::int64_t>(buffers.size());
  for (const auto& given : buffers) {
    if (given.size() != 3) refuse("buffer", "needs dim, root and first");
    if (given[0] < 1 || given[0] > kWidest) refuse("buffer", "a width out of bounds");
  }
  for (std::int64_t i = 0; i < many; ++i) {
    const auto& given = buffers[i];
    ChainruleBuffer b{given[0], given[1], given[2], 0, 0};
    if (b.root < 0 || b.root >= many || b.first < 0 || buffers[b.root][1] != b.root ||
        b.first > kWidest || b.first + b.dim > buffers[b.root][0] || (b.root == i && b.first)) {
      refuse("buffer", "a width or a view that lies outside its buffer");
    }
    b.stride = chainrule_round16(buffers[b.root][0]);
    buffers_.push_back(b);
  }
  for (std::int64_t i = 0; i < many; ++i) {
    if (buffers_[i].root != i) continue;
    buffers_[i].offset = columns_;
    columns_ += buffers_[i].stride;
    if (columns_ > 16 * many + kColumns) refuse("buffer", "more columns than there is room for");
  }
  for (ChainruleBuffer& b : buffers_) b.offset = buffers_[b.root].offset;
  if (hidden < 0 || hidden >= many || logits < 0 || logits >= many || size < 1 ||
      buffers_[hidden].root != hidden || buffers_[logits].root != logits ||
      buffers_[logits].dim != size) {
    refuse("program", "hidden and logits must be whole buffers, logits of V columns");
  }
  std::int64_t places[3] = {0, 0, 0};
  for (const auto& given : leaves) {
    if (given.size() != 3 || given[0] < 0 || given[0] > 2 || given[1] < 1 || given[1] > kWidest ||
        given[2] < 1 || given[2] > kWidest || given[1] > kKept / given[2]) {
      refuse("leaf", "an unknown kind, or a size out of bounds");
    }
    if (given[0] == 1 && given[1] % given[2]) refuse("leaf", "a cache whose heads don't fit");
    if (given[0] == 2 && given[1] % 2) refuse("leaf", "a memory without room for keys and values");
    leaves_.push_back({static_cast<ChainruleKind>(given[0]), given[1], given[2], places[given[0]]++});
  }
  work_.resize(places[0]);
  const auto count = static_cast<std::size_t>(pool_.threads());
  scores_.resize(count), sampling_.resize(count), angles_.resize(count), laws_.resize(count);
  loose_.resize(count);
}

std::int64_t ChainruleMachine::count(ChainruleKind kind) const {
  std::int64_t n = 0;
  for (const ChainruleLeaf& leaf : leaves_) n += leaf.kind == kind;
  return n;
}

std::int64_t ChainruleMachine::block_bytes(const ChainruleLeaf& leaf) const {
  return chainrule_kept_bytes(kept_, chainrule_round16(leaf.width));
}

// ---- weights ----

std::int64_t ChainruleMachine::add_matrix(int kind, std::int64_t rows, std::int64_t cols,
                                          std::int64_t group) {
  if (kind < 0 || kind > kChainruleQ41) refuse("weight", "an unknown type");
  const ChainruleType type = chainrule_type(kind);
  auto weight = std::make_unique<ChainruleWeight>();
  ChainruleMatrix& m = weight->matrix;
  const bool grouped = chainrule_grouped(type);
  const std::int64_t unit = type == ChainruleType::f32    ? 1
                            : type == ChainruleType::bf16 ? 2
                            : type == ChainruleType::q4   ? 8
                                                          : 4;
  if (rows < 1 || cols < 1 || rows > kWidest || cols > kWidest) refuse("weight", "a size out of bounds");
  if (grouped && (group < 8 || group > 4096 || group % 8)) refuse("weight", "a group out of bounds");
  if (type == ChainruleType::int8_row && cols > 65536) {
    refuse("weight", "too many columns for one exact sum");
  }
  m.half = kind >= kChainruleQ80, m.least = kind == kChainruleQ41;
  if (m.half && cols % group) refuse("weight", "columns that don't fill its groups");
  m.type = type, m.rows = rows, m.cols = cols;
  m.blocks = (rows + 15) / 16, m.padded = (cols + unit - 1) / unit * unit;
  m.units = m.padded / unit;
  m.group = grouped ? group : m.padded, m.each = m.group / unit;
  m.groups = grouped ? (m.padded + group - 1) / group : 1;
  const std::int64_t span = chainrule_span_size(type);
  m.span_bytes = chainrule_span_bytes(m, span);
  const std::int64_t spans = (m.blocks + span - 1) / span;
  weight->bytes = static_cast<std::size_t>(spans * m.span_bytes + 63) / 64 * 64;
  if (type == ChainruleType::int8_row) weight->vector.assign(m.blocks * 16, 0.0f);
  if (m.padded > widest_) widest_ = m.padded;
  if (m.groups > most_groups_) most_groups_ = m.groups;
  weights_.push_back(std::move(weight));
  waiting_.push_back(static_cast<std::int64_t>(weights_.size()) - 1);
  return waiting_.back();
}

// Room for all matrices that wait for it, in one piece; zeros in it, as padding must be.
void ChainruleMachine::settle() {
  if (waiting_.empty()) return;
  std::size_t bytes = 0;
  for (std::int64_t i : waiting_) bytes += weights_[i]->bytes;
  pieces_.emplace_back(bytes);
  unsigned char* next = pieces_.back().data();
  for (std::int64_t i : waiting_) {
    ChainruleWeight& weight = *weights_[i];
    ChainruleMatrix& m = weight.matrix;
    const bool exact = m.type != ChainruleType::f32 && m.type != ChainruleType::bf16;
    std::memset(next, m.type == ChainruleType::q4 ? 0x88 : exact ? 0x80 : 0, weight.bytes);
    m.data = weight.data = next;
    if (m.type == ChainruleType::int8_row) m.scale = weight.vector.data();
    for (std::int64_t row = 0; chainrule_grouped(m.type) && row < m.blocks * 16; ++row) {
      for (std::int64_t g = 0; g < m.groups * (1 + m.least); ++g) {
        std::memset(next + chainrule_scale_at(m, row, g), 0, 2);
      }
    }
    next += weight.bytes;
  }
  waiting_.clear();
}

void ChainruleMachine::fill(std::int64_t index, std::int64_t first, std::int64_t count,
                            const void* data, const void* scale) {
  if (index < 0 || index >= static_cast<std::int64_t>(weights_.size()) || weights_[index]->kind) {
    refuse("weight", "no matrix of this number");
  }
  settle();
  const ChainruleWeight& weight = *weights_[index];
  const ChainruleMatrix& m = weight.matrix;
  if (first < 0 || count < 0 || first > m.rows || count > m.rows - first) {
    refuse("weight", "rows out of range");
  }
  const ChainruleType type = m.type;
  const bool q4 = type == ChainruleType::q4;
  const std::int64_t wide = chainrule_row_bytes(m);
  const unsigned char* w = static_cast<const unsigned char*>(data);
  for (std::int64_t i = 0; i < count; ++i, w += wide) {
    const std::int64_t row = first + i, in = row / 16 % chainrule_span_size(type);
    const std::int64_t step = chainrule_span(m, row / 16 - in) * 64;
    unsigned char* to = nullptr;
    for (std::int64_t unit = 0, left = 0; unit < m.units; ++unit, --left, to += step) {
      if (!left) to = weight.data + chainrule_unit_at(m, row, unit), left = m.each;
      unsigned char b[4];  // a unit is four bytes here too
      std::memset(b, q4 ? 0x88 : 0, 4);
      if (wide - unit * 4 < 4) std::memcpy(b, w + unit * 4, wide - unit * 4);
      else std::memcpy(b, w + unit * 4, 4);
      if (q4) {
        const int turned[4] = {(b[0] & 15) | b[2] << 4, b[0] >> 4 | (b[2] & 240),
                               (b[1] & 15) | b[3] << 4, b[1] >> 4 | (b[3] & 240)};
        for (int k = 0; k < 4; ++k) b[k] = static_cast<unsigned char>(turned[k]);
      }
      for (int k = 0; type >= ChainruleType::int8 && !q4 && k < 4; ++k) b[k] ^= 0x80;
      std::memcpy(to, b, 4);
    }
    if (type == ChainruleType::int8_row) {
      std::memcpy(weights_[index]->vector.data() + row, static_cast<const float*>(scale) + i, 4);
    } else if (chainrule_grouped(type)) {
      const std::int64_t many = m.groups * (1 + m.least);
      for (std::int64_t g = 0; g < many; ++g) {
        std::memcpy(weight.data + chainrule_scale_at(m, row, g),
                    static_cast<const std::uint16_t*>(scale) + i * many + g, 2);
      }
    }
  }
}

std::int64_t ChainruleMachine::add_vector(const float* data, std::int64_t size) {
  if (size < 1) refuse("weight", "it is empty");
  auto weight = std::make_unique<ChainruleWeight>();
  weight->kind = 1;
  weight->vector.assign(chainrule_round16(size), 0.0f);
  std::memcpy(weight->vector.data(), data, size * sizeof(float));
  weight->matrix.rows = size;
  weights_.push_back(std::move(weight));
  return static_cast<std::int64_t>(weights_.size()) - 1;
}

std::int64_t ChainruleMachine::add_ints(const std::int64_t* data, std::int64_t size) {
  if (size < 1) refuse("weight", "it is empty");
  auto weight = std::make_unique<ChainruleWeight>();
  weight->kind = 2;
  weight->ints.assign(data, data + size);
  weights_.push_back(std::move(weight));
  return static_cast<std::int64_t>(weights_.size()) - 1;
}

std::int64_t ChainruleMachine::add_reals(const double* data, std::int64_t size) {
  if (size < 1) refuse("weight", "it is empty");
  auto weight = std::make_unique<ChainruleWeight>();
  weight->kind = 3;
  weight->reals.assign(data, data + size);
  weights_.push_back(std::move(weight));
  return static_cast<std::int64_t>(weights_.size()) - 1;
}

std::int64_t ChainruleMachine::weight_bytes() const {
  std::size_t bytes = 0;
  for (const auto& w : weights_) {
    bytes += w->bytes + w->vector.size() * 4 + w->ints.size() * 8 +
             w->reals.size() * 8;
  }
  return static_cast<std::int64_t>(bytes);
}

// ---- ops ----

void ChainruleMachine::add_op(const std::string& name, std::vector<std::int64_t> at, double real,
                              bool head) {
  const auto found = chainrule_ops().find(name);
  if (found == chainrule_ops().end()) refuse(name, "unknown");
  const ChainruleOp op = found->second;
  static constexpr std::size_t kSizes[] = {3, 1, 3, 4, 3, 3, 3, 6, 3, 3, 5, 9, 4, 6, 3, 6, 2};
  if (at.size() != kSizes[static_cast<int>(op)]) refuse(name, "a wrong number of arguments");
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
  switch (op) {
    case ChainruleOp::embed:
      weight(1, 0, -1, dim);
      need(at[2] == 0 || at[2] == 1, "an unknown kind");
      break;
    case ChainruleOp::table:
      weight(1, 1, -1, 0);
      need(weights_[at[1]]->matrix.rows % dim == 0, "a table whose columns don't fit");
      break;
    case ChainruleOp::symbol: need(dim == 1, "it makes one column"); break;
    case ChainruleOp::wave: weight(1, 1, dim, 0), weight(2, 1, dim, 0); break;
    case ChainruleOp::linear: {
      weight(2, 0, dim, buffer(1).dim), optional(3, dim);
      (head ? head_bytes_ : bytes_) += bytes(at[2], dim, buffer(1).dim);
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
        bytes_ += bytes(at[4], kGates[at[3]] * dim, dim);
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
             op != ChainruleOp::table) {
    need(buffer(1).root != at[0], "it reads what it writes");
  }
  if (head) {
    need(op == ChainruleOp::linear || in_place || op == ChainruleOp::norm ||
             op == ChainruleOp::gate || op == ChainruleOp::backoff,
         "it can't stand in the head");
  }
  const bool product = op == ChainruleOp::linear || (op == ChainruleOp::cell && at[3] != 3);
  const bool mixes = op == ChainruleOp::attend || op == ChainruleOp::recent ||
                     op == ChainruleOp::cell;  // of rows or steps
  (head ? head_meetings_ : meetings_) += 2 * product + 2 * mixes;
  (head ? head_ : ops_).push_back({op, std::move(at), real});
}
