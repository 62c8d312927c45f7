// What the kernels read: packed weights, prepared inputs, one attention job, one row's warps.
#pragma once
#include <cstdint>

constexpr std::int64_t kChainruleLanes = 16;  // rows of a weight that lie side by side: a block
constexpr std::int64_t kChainruleTile = 12;   // rows of x that a kernel takes at a time, at most

enum class ChainruleType : int { f32 = 0, bf16 = 1, int8 = 2, int8_row = 3, q4 = 4, tight = 5 };
// Weights as they are given: one of those types but tight, which is made of bf16, or a block of GGUF, which is int8 or q4 with f16
// scales; q4_1 has a minimum too, and halves w / scale.
constexpr int kChainruleQ80 = 5, kChainruleQ40 = 6, kChainruleQ41 = 7;
constexpr ChainruleType chainrule_type(int kind) {
  return kind < kChainruleQ80 ? static_cast<ChainruleType>(kind)
         : kind == kChainruleQ80 ? ChainruleType::int8 : ChainruleType::q4;
}

// A weight [rows, cols]: blocks of 16 rows side by side, in spans of some blocks, so that one
// row of x reads each span from end to end. A unit is what a lane holds in 32 bits: one float, two
// bf16, four bytes w + 128 or eight halves w + 8 (columns 0-3 low, 4-7 high).
//   span [unit][block][16 lanes], and before the units of each group its scales [block][16], bf16
//   or f16, and then its minima.
// Columns are padded with zeros to whole units; int8_row has float scales [blocks][16] of its own.
// A tight span is a table [16] of high bytes of bf16, padded to 64 bytes, and [unit][clump]: of
// each 4 blocks of a unit first the low bytes and then nibbles, the high bytes' places in the table.
// Of two blocks 8 bytes each alternate, as unpacking wants them, and the nibbles of the first two
// are the lower halves. A clump with other high bytes is odd: behind its unit comes what it was in
// bf16, 256 bytes.
constexpr std::int64_t kChainruleClump = 192;
struct ChainruleOdd {
  std::int32_t unit, clump;  // of a span; after the last one comes one that is past the end
};
struct ChainruleTight {
  const unsigned char* data;
  const ChainruleOdd* odd;
};

struct ChainruleMatrix {
  ChainruleType type = ChainruleType::f32;
  bool half = false, least = false;  // scales in f16; w = scale · q + minimum
  std::int64_t rows = 0, cols = 0, blocks = 0, padded = 0, units = 0;
  std::int64_t group = 0, groups = 0, each = 0;  // columns of a group, how many, units of one
  std::int64_t span_bytes = 0;  // of a span with all of its blocks
  const unsigned char* data = nullptr;
  const float* scale = nullptr;  // of int8_row
  const ChainruleTight* tight = nullptr;  // [spans]
};
// Clumps of a unit in a tight span.
inline std::int64_t chainrule_clumps(const ChainruleMatrix& m, std::int64_t span) {
  return m.blocks - span * 8 > 4 ? 2 : 1;
}

constexpr bool chainrule_grouped(ChainruleType type) {
  return type == ChainruleType::int8 || type == ChainruleType::q4;
}
// Bytes of one of its rows before they are packed.
inline std::int64_t chainrule_row_bytes(const ChainruleMatrix& m) {
  return m.type == ChainruleType::f32 ? m.cols * 4 : m.type == ChainruleType::bf16 ? m.cols * 2
         : m.type == ChainruleType::q4 ? (m.cols + 1) / 2 : m.cols;
}
// Blocks of a span: as many as one row of x keeps in flight, or, of wide types, several rows.
constexpr int chainrule_span_size(ChainruleType type) {
  return type == ChainruleType::q4 || type == ChainruleType::tight ? 8 : type == ChainruleType::int8 ? 4 : 2;
}
// Blocks in the span that begins at `block`.
inline std::int64_t chainrule_span(const ChainruleMatrix& m, std::int64_t block) {
  const std::int64_t most = chainrule_span_size(m.type), left = m.blocks - block;
  return left < most ? left : most;
}
// Bytes of a span of `many` blocks: the scales of one group, one group, all.
inline std::int64_t chainrule_scale_bytes(const ChainruleMatrix& m, std::int64_t many) {
  return chainrule_grouped(m.type) ? (many * (m.least ? 64 : 32) + 63) / 64 * 64 : 0;
}
inline std::int64_t chainrule_group_bytes(const ChainruleMatrix& m, std::int64_t many) {
  return chainrule_scale_bytes(m, many) + m.each * many * 64;
}
inline std::int64_t chainrule_span_bytes(const ChainruleMatrix& m, std::int64_t many) {
  return m.groups * chainrule_scale_bytes(m, many) + m.units * many * 64;
}
// Where a block's first unit lies, or with groups its first scales.
inline std::int64_t chainrule_begin(const ChainruleMatrix& m, std::int64_t block) {
  const std::int64_t span = chainrule_span_size(m.type);
  return block / span * chainrule_span_bytes(m, span);
}
// Where a row's 32 bits of a unit lie, and its scale of a group; groups that come after the last
// are those of the minima.
inline std::int64_t chainrule_unit_at(const ChainruleMatrix& m, std::int64_t row,
                                      std::int64_t unit) {
  const std::int64_t block = row / 16, in = block % chainrule_span_size(m.type);
  const std::int64_t many = chainrule_span(m, block - in);
  const std::int64_t g = chainrule_grouped(m.type) ? unit / m.each : 0;
  return chainrule_begin(m, block) + (chainrule_grouped(m.type) ? g + 1 : 0) *
             chainrule_scale_bytes(m, many) + (unit * many + in) * 64 + row % 16 * 4;
}
inline std::int64_t chainrule_scale_at(const ChainruleMatrix& m, std::int64_t row, std::int64_t g) {
  const std::int64_t block = row / 16, in = block % chainrule_span_size(m.type);
  const std::int64_t many = chainrule_span(m, block - in);
  return chainrule_begin(m, block) + g % m.groups * chainrule_group_bytes(m, many) +
         (g / m.groups * many + in) * 32 + row % 16 * 2;
}

// Rows of x in the form that one kernel reads, in tiles of at most kChainruleTile rows:
// [tile][unit of columns][row of the tile]; scale and offset [tile][group][row] when quantised.
struct ChainruleInput {
  std::int64_t rows = 0;
  unsigned char* data = nullptr;  // 4 bytes a column and row are always enough
  float* scale = nullptr;
  // What the weights' + 128 or + 8 adds, negated; with minima the sum of the group.
  std::int32_t* offset = nullptr;
  unsigned char* room = nullptr;  // of this thread: two blocks of a tight weight
};

// Tiles that a kernel has code for; any number of rows is cut into these, the largest first.
// Sums in groups need two registers an output, so their tiles are smaller.
inline std::int64_t chainrule_tile(ChainruleType type, std::int64_t left) {
  if (chainrule_grouped(type)) return left >= 6 ? 6 : left >= 4 ? 4 : left;
  return left >= 12 ? 12 : left >= 8 ? 8 : left >= 6 ? 6 : left >= 4 ? 4 : left;
}

// What keys and values are kept in. A block of 16 positions has keys in pieces of 4 bytes, [width]
// [16] floats, [width / 2][16][2] bf16 or [width / 4][16][4] bytes k + 128, or values [16][padded
// width] of either, signed where they are bytes; behind bytes 16 scales, float.
enum class ChainruleKept : int { f32 = 0, bf16 = 1, int8 = 2 };

inline std::int64_t chainrule_kept_bytes(ChainruleKept kept, std::int64_t padded) {
  return kept == ChainruleKept::f32 ? 64 * padded : kept == ChainruleKept::bf16 ? 32 * padded
                                                                                : 16 * padded + 64;
}

// Queries of one row, on its cache of one head of keys: of consecutive positions (step 1), or of
// one position and several heads that share the keys (step 0).
struct ChainruleAttend {
  const float* query = nullptr;  // [count] queries, stride_q apart
  const float* edge = nullptr;   // the same towards the sinks, stride_edge apart; or null
  std::int64_t stride_q = 0, stride_edge = 0, count = 0, step = 1;
  std::int64_t place = 0;  // where the first query's own key stands in the cache
  std::int64_t window = 0, sinks = 0;
  const unsigned char* keys = nullptr;
  const unsigned char* values = nullptr;
  ChainruleKept kept = ChainruleKept::f32;
  bool both = false;  // all queries but the first see the keys of all
  std::int64_t width = 0, padded = 0;
  float* scores = nullptr;  // chainrule_score_room(place + count, padded) floats
  float* out = nullptr;     // [count][width], stride_out apart
  std::int64_t stride_out = 0;
};

constexpr std::int64_t kChainruleQueries = 4;  // that share a key when it is read
inline std::int64_t chainrule_score_room(std::int64_t length, std::int64_t padded) {
  return kChainruleQueries * ((length + 15) / 16 * 16 + 128 + 2 * padded);
}

// Queries on fixed memory [length][2 dim]: keys, then values; places with ok 0 are padding.
struct ChainruleCross {
  const float* query = nullptr;
  const float* memory = nullptr;
  const std::uint8_t* ok = nullptr;
  std::int64_t length = 0, heads = 0, dim = 0;
  float* scores = nullptr;  // [length]
  float* out = nullptr;
};

// Settings of one row, as core's Warps: temperature 0 is greedy; 0, 1, 0, 1 switch the rest off.
struct ChainruleWarp {
  double temperature;
  std::int64_t top_k;
  double top_p, min_p, typical;
};
