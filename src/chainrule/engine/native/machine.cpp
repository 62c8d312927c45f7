// Building a machine. Whatever comes in is checked here once more, whoever checked it before.
#include "machine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace {

constexpr std::int64_t kWidest = std::int64_t{1} << 24;
constexpr std::int64_t kColumns = std::int64_t{1} << 22;  // of all buffers: 2 GiB for 128 positions
constexpr std::int64_t kKept = std::int64_t{1} << 26;     // values that a leaf has in a row
constexpr std::int64_t kPicture = std::int64_t{1} << 28;  // values of a grid in a row
constexpr int kThreads = 1024;

}  // namespace

void ChainruleMachine::refuse(const std::string& op, const std::string& why) const {
  throw std::invalid_argument("op " + op + ": " + why);
}

ChainruleMachine::ChainruleMachine(const std::vector<std::vector<std::int64_t>>& buffers,
                                   const std::vector<std::vector<std::int64_t>>& leaves,
                                   std::int64_t hidden, std::int64_t logits, std::int64_t size,
                                   int kept, int threads, const std::vector<std::int64_t>& grid)
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
  set_grid(grid);
  std::int64_t places[5] = {};
  const int kinds = grid_.width ? 5 : 3;  // the last two are of pictures
  for (const auto& given : leaves) {
    if (given.size() != 3 || given[0] < 0 || given[0] >= kinds || given[1] < 1 || given[1] > kWidest ||
        given[2] < 1 || given[2] > kWidest || given[1] > kKept / given[2]) {
      refuse("leaf", "an unknown kind, or a size out of bounds");
    }
    if (given[0] == 1 && given[1] % given[2]) refuse("leaf", "a cache whose heads don't fit");
    if (given[0] == 2 && given[1] % 2) refuse("leaf", "a memory without room for keys and values");
    if (given[0] > 2 && (given[2] != 1 || (given[0] == 3 && given[1] != 1) ||
                         grid_.height * grid_.width > kPicture / given[1])) {
      refuse("leaf", "a picture whose size is out of bounds");
    }
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

// ---- room for so many rows of buffers ----

void ChainruleMachine::make_room(std::int64_t rows) {
  settle();
  if (rows <= room_) return;  // nothing is allocated by a thread of the pool
  const std::int64_t wide = (widest_ + 64) * rows;
  scratch_ = ChainruleMemory(static_cast<std::size_t>((columns_ * rows + 64) * 4));
  std::memset(scratch_.data(), 0, scratch_.bytes());
  prepared_ = ChainruleMemory(static_cast<std::size_t>(wide * 4 + 64));
  prepared_scale_ = ChainruleMemory(static_cast<std::size_t>(most_groups_ * rows * 4 + 64));
  prepared_offset_ = ChainruleMemory(static_cast<std::size_t>(most_groups_ * rows * 4 + 64));
  gates_.resize(static_cast<std::size_t>(rows * most_gates_ + 16));
  for (auto& room : loose_) room.resize(static_cast<std::size_t>(tight_units_ * 128));
  for (auto& law : laws_) law.resize(static_cast<std::size_t>(size_));
  for (auto& made : angles_) {
    for (const Turn& turn : turns_) {
      if (made.size() < static_cast<std::size_t>(turn.width)) made.resize(turn.width);
    }
  }
  room_ = rows;
}
