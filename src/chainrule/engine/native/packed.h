// What the kernels read: packed weights, prepared inputs, one attention job, one row's warps.
#pragma once
#include <cstdint>

constexpr std::int64_t kChainruleLanes = 16;  // rows of a weight that lie side by side: a block
constexpr std::int64_t kChainruleTile = 12;   // rows of x that a kernel takes at a time, at most

enum class ChainruleType : int { f32 = 0, bf16 = 1, int8 = 2, int8_row = 3, q4 = 4 };

// A weight [rows, cols], 16 rows side by side, columns padded with zeros to `unit` of them:
//   f32       [blocks][cols][16] floats
//   bf16      [blocks][cols / 2][16][2]
//   int8, row [blocks][cols / 4][16][4] bytes, w + 128
//   q4        [blocks][cols / 8][16][4] bytes, w + 8: columns 0-3 in the low halves, 4-7 above
// scale: bf16 [blocks][groups][16], one for `group` columns each; int8_row: float [blocks][16].
struct ChainruleMatrix {
  ChainruleType type = ChainruleType::f32;
  std::int64_t rows = 0, cols = 0, blocks = 0, padded = 0;
  std::int64_t group = 0, groups = 0;
  std::int64_t block_bytes = 0;
  const unsigned char* data = nullptr;
  const void* scale = nullptr;
};

// Rows of x in the form that one kernel reads, in tiles of at most kChainruleTile rows:
// [tile][unit of columns][row of the tile]; scale and offset [tile][group][row] when quantised.
struct ChainruleInput {
  std::int64_t rows = 0;
  unsigned char* data = nullptr;  // 4 bytes a column and row are always enough
  float* scale = nullptr;
  std::int32_t* offset = nullptr;  // what the weights' + 128 or + 8 adds, negated
};

// Tiles that a kernel has code for; any number of rows is cut into these, the largest first.
// Sums in groups need two registers an output, so their tiles are smaller.
inline bool chainrule_grouped(ChainruleType type) {
  return type == ChainruleType::int8 || type == ChainruleType::q4;
}
inline std::int64_t chainrule_tile(ChainruleType type, std::int64_t left) {
  if (chainrule_grouped(type)) return left >= 6 ? 6 : left >= 4 ? 4 : left;
  return left >= 12 ? 12 : left >= 8 ? 8 : left >= 6 ? 6 : left >= 4 ? 4 : left;
}

// Consecutive queries of one head of one row, on its cache of blocks of 16 positions: a key block
// is [width][16], a value block [16][padded width], floats or bf16.
struct ChainruleAttend {
  const float* query = nullptr;  // [count] queries, stride_q apart
  const float* edge = nullptr;   // the same towards the sinks, stride_edge apart; or null
  std::int64_t stride_q = 0, stride_edge = 0, count = 0;
  std::int64_t place = 0;  // where the first query's own key stands in the cache
  std::int64_t window = 0, sinks = 0;
  const unsigned char* keys = nullptr;
  const unsigned char* values = nullptr;
  bool narrow = false;
  std::int64_t width = 0, padded = 0;
  float* scores = nullptr;  // chainrule_score_room(place + count) floats
  float* out = nullptr;     // [count][width], stride_out apart
  std::int64_t stride_out = 0;
};

constexpr std::int64_t kChainruleQueries = 4;  // that share a key when it is read
inline std::int64_t chainrule_score_room(std::int64_t length) {
  return kChainruleQueries * ((length + 15) / 16 * 16 + 128);
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
