// Packing bf16 tighter (packed.h): a step reads a quarter less from memory, bit for bit the same.
#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "machine.h"

namespace {

using Bytes = std::vector<unsigned char>;

constexpr std::int64_t kSampled = 8;  // one weight in so many says which high bytes are frequent

// The 16 most frequent high bytes of `count` bf16.
void chainrule_frequent(const unsigned char* w, std::int64_t count, unsigned char* table) {
  std::int64_t counts[256] = {};
  for (std::int64_t i = 0; i < count; i += kSampled) ++counts[w[2 * i + 1]];
  for (int n = 0; n < 16; ++n) {
    const auto best = std::max_element(counts, counts + 256);
    table[n] = static_cast<unsigned char>(best - counts), *best = -1;
  }
}

// A span in bf16 as it is when tight, and which of its clumps are odd.
void chainrule_tighten(const ChainruleMatrix& m, std::int64_t span, const unsigned char* w,
                       Bytes& out, std::vector<ChainruleOdd>& odd) {
  const std::int64_t many = std::min<std::int64_t>(8, m.blocks - span * 8);
  const std::int64_t clumps = chainrule_clumps(m, span);
  out.assign(64, 0), odd.clear();
  chainrule_frequent(w, many * m.units * 32, out.data());
  for (std::int64_t k = 0; k < m.units; ++k) {
    std::int64_t behind = static_cast<std::int64_t>(out.size());
    out.resize(out.size() + static_cast<std::size_t>(clumps * kChainruleClump));
    for (std::int64_t c = 0; c < clumps; ++c, behind += kChainruleClump) {
      const unsigned char* from[4];
      for (std::int64_t b = 0; b < 4; ++b) {  // what pads the last is as the block before
        const std::int64_t block = std::min(4 * c + b, many - 1), first = block / 2 * 2;
        const std::int64_t step = std::min<std::int64_t>(2, many - first);
        from[b] = w + (first * m.units + k * step + block % 2) * 64;
      }
      if (chainrule_kernels().tighten(from, out.data(), &out[behind])) continue;
      odd.push_back({static_cast<std::int32_t>(k), static_cast<std::int32_t>(c)});
      for (const unsigned char* vector : from) out.insert(out.end(), vector, vector + 64);
    }
  }
  odd.push_back({static_cast<std::int32_t>(m.units), 0});
}

}  // namespace

// Packs a matrix into the memory that begins at `to`, no later than its own; what it takes there,
// or 0 if nothing is gained.
std::size_t ChainruleMachine::tightened(ChainruleWeight& w, unsigned char* to) const {
  ChainruleMatrix& m = w.matrix;
  const std::int64_t spans = (m.blocks + 7) / 8, wide = 8 * m.units * 64;
  if (m.type != ChainruleType::bf16) return 0;
  Bytes made;
  std::vector<ChainruleOdd> odd;
  std::size_t size = 0;
  std::vector<std::size_t> first;
  for (const bool writes : {false, true}) {
    size = 0;
    for (std::int64_t s = 0; s < spans; ++s) {
      chainrule_tighten(m, s, w.data + s * wide, made, odd);
      if (writes) {
        std::memcpy(to + size, made.data(), made.size());
        w.tight.push_back({to + size, nullptr}), first.push_back(w.odd.size());
        w.odd.insert(w.odd.end(), odd.begin(), odd.end());
      }
      size += made.size();
      // It must not reach what is still to be read.
      if (s + 1 < spans && to + size > w.data + (s + 1) * wide) return 0;
    }
    if (size > w.bytes / 8 * 7) return 0;
  }
  for (std::int64_t s = 0; s < spans; ++s) w.tight[s].odd = &w.odd[first[s]];
  m.type = ChainruleType::tight, m.tight = w.tight.data(), w.bytes = size;
  return size;
}

void ChainruleMachine::tighten(std::int64_t bytes) {
  if (room_) refuse("weight", "it has run already");
  std::int64_t wide = 0;
  for (const auto& w : weights_) {
    if (w->data && w->matrix.type == ChainruleType::bf16) wide += static_cast<std::int64_t>(w->bytes);
  }
  const bool able = chainrule_kernels().tight || !bytes;  // slower than plain, it still can be had
  if (!able || wide < bytes || pieces_.size() != 1 || !waiting_.empty()) return;
  unsigned char* next = pieces_[0].data();
  for (const auto& w : weights_) {  // as they lie
    if (!w->data) continue;
    if (tightened(*w, next)) {
      tight_units_ = std::max(tight_units_, w->matrix.units);
    } else {
      std::memmove(next, w->data, w->bytes);
    }
    w->matrix.data = w->data = next;
    next += (w->bytes + 63) / 64 * 64;
  }
  pieces_[0].end_at(static_cast<std::size_t>(next - pieces_[0].data()));
}
