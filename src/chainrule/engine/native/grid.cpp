// Pictures: what a machine does before the first symbol of a row and of a pixel, and the ops that
// know where a pixel lies. Symbol p is a channel of pixel p / channels; position p has consumed p.
#include <algorithm>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "machine.h"

namespace {

constexpr std::int64_t kPlaces = std::int64_t{1} << 24;
constexpr std::int64_t kFloats = std::int64_t{1} << 30;  // of scratch for one row of a picture

}  // namespace

// ---- building ----

void ChainruleMachine::set_grid(const std::vector<std::int64_t>& grid) {
  if (grid.empty()) return;
  if (grid.size() != 3) refuse("grid", "needs height, width and channels");
  for (const std::int64_t n : grid) {
    if (n < 1 || n > kPlaces) refuse("grid", "a size out of bounds");
  }
  if (grid[0] * grid[1] > kPlaces / grid[2]) refuse("grid", "more symbols than there is room for");
  grid_ = {grid[0], grid[1], grid[2]};
  if (columns_ > kFloats / grid_.width) refuse("grid", "more columns than there is room for");
}

// at: out, leaf, weight, then down and right of every tap.
void ChainruleMachine::check_near(const std::vector<std::int64_t>& at) {
  const auto many = static_cast<std::int64_t>(leaves_.size());
  if (at[1] < 0 || at[1] >= many || leaves_[at[1]].kind != ChainruleKind::symbols) {
    refuse("near", "a leaf that doesn't fit");
  }
  const auto taps = static_cast<std::int64_t>(at.size() - 3) / 2, dim = buffers_[at[0]].dim;
  if (dim % (taps * grid_.channels)) refuse("near", "columns that don't fit its taps");
  const std::int64_t width = dim / (taps * grid_.channels);
  if (at[2] < 0 || at[2] >= weights() || weights_[at[2]]->kind != 1 ||
      weights_[at[2]]->matrix.rows / grid_.channels / width != size_ ||
      weights_[at[2]]->matrix.rows % (grid_.channels * width)) {
    refuse("near", "a weight that doesn't fit");
  }
  for (std::size_t i = 3; i < at.size(); ++i) {
    if (at[i] < -kPlaces || at[i] > kPlaces) refuse("near", "a tap out of bounds");
  }
}

// at: out, leaf, x or -1, then down and right of every tap.
void ChainruleMachine::check_around(const std::vector<std::int64_t>& at, int part) {
  const auto many = static_cast<std::int64_t>(leaves_.size());
  if (at[1] < 0 || at[1] >= many || leaves_[at[1]].kind != ChainruleKind::grid) {
    refuse("around", "a leaf that doesn't fit");
  }
  const auto taps = static_cast<std::int64_t>(at.size() - 3) / 2;
  const std::int64_t dim = leaves_[at[1]].dim;
  if (buffers_[at[0]].dim != taps * dim) refuse("around", "columns that don't fit its taps");
  given_.resize(leaves_.size());
  if (at[2] != -1) {
    if (at[2] < 0 || at[2] >= static_cast<std::int64_t>(buffers_.size()) ||
        buffers_[at[2]].dim != dim || buffers_[at[2]].root == at[0]) {
      refuse("around", "a buffer that doesn't fit");
    }
    if (given_[at[1]] || part < kChainruleRows) refuse("around", "a leaf that another op writes");
    given_[at[1]] = true;
  } else if (!given_[at[1]]) {
    refuse("around", "a leaf that no op writes");
  }
  for (std::size_t i = 3; i < at.size(); ++i) {
    if (at[i] < -kPlaces || at[i] > kPlaces) refuse("around", "a tap out of bounds");
  }
}

// ---- running ----

void ChainruleMachine::check_picture(const ChainruleCall& call) const {
  for (std::int64_t b = 0; b < call.rows; ++b) {
    if (call.positions[b] > grid_.end() + 1 - call.length) {
      throw std::invalid_argument("a position past the end of its picture");
    }
    for (std::int64_t t = call.positions[b] == 0; t < call.length; ++t) {
      const std::int64_t symbol = call.symbols[b * call.length + t];
      if (symbol < 0 || symbol >= size_) throw std::invalid_argument("a symbol outside the alphabet");
    }
  }
}

// Notes the symbol of every row, and runs what comes before the first one of a row and of a pixel.
void ChainruleMachine::begin_symbol() {
  const ChainruleCall& call = *call_;
  const std::int64_t channels = grid_.channels, line = grid_.width * channels;
  for (const auto& seen : call.seen) {
    for (std::int64_t b = 0; b < call.rows; ++b) {
      seen[b][call.positions[b] + first_] = call.symbols[b * call.length + first_];
    }
  }
  for (const ChainrulePart part : {kChainruleRows, kChainrulePixels}) {
    if (parts_[part].ops.empty()) continue;
    lines_.clear();
    for (std::int64_t b = 0; b < call.rows; ++b) {
      const std::int64_t position = call.positions[b] + first_;
      const bool begins = position % (part == kChainruleRows ? line : channels) == 0;
      if (begins && position < grid_.end()) lines_.push_back(b);
    }
    run_part(part, part == kChainruleRows ? grid_.width : 1);
  }
  spots_.clear();
  rows_ = call.rows;
  for (std::int64_t b = 0; b < call.rows; ++b) {
    const std::int64_t position = call.positions[b] + first_;
    const std::int64_t pixel = std::min(position / channels, grid_.height * grid_.width - 1);
    spots_.push_back({b, pixel / grid_.width, pixel % grid_.width, position});
  }
}

// One part for `lines_`: as many of them at a time as there is room for, `wide` pixels each.
void ChainruleMachine::run_part(ChainrulePart part, std::int64_t wide) {
  const ChainruleList& list = parts_[part];
  const auto count = static_cast<std::int64_t>(lines_.size());
  const std::int64_t most = std::max<std::int64_t>(1, std::min(room_, kMost) / wide);
  for (std::int64_t first = 0; first < count; first += most) {
    spots_.clear();
    for (std::int64_t i = first; i < std::min(count, first + most); ++i) {
      const std::int64_t position = call_->positions[lines_[i]] + first_;
      const std::int64_t pixel = position / grid_.channels;
      for (std::int64_t w = 0; w < wide; ++w) {
        spots_.push_back({lines_[i], pixel / grid_.width, pixel % grid_.width + w, position});
      }
    }
    rows_ = static_cast<std::int64_t>(spots_.size());
    const auto work = [this, &list](int thread) {
      for (const ChainruleStep& each : list.ops) step(each, thread);
      pool_.barrier();
    };
    pool_.run(std::cref(work), list.bytes * rows_ < alone_ * list.meetings);
  }
}

void ChainruleMachine::do_near(const ChainruleStep& each, std::int64_t n) {
  const auto& at = each.at;
  const ChainruleSpot& spot = spots_[n];
  const std::int64_t* const seen = call_->seen[leaves_[at[1]].place][spot.line];
  const float* const table = weights_[at[2]]->vector.data();
  const std::int64_t taps = static_cast<std::int64_t>(at.size() - 3) / 2;
  const std::int64_t channels = grid_.channels, width = buffers_[at[0]].dim / (taps * channels);
  float* out = row(at[0], n);
  for (std::size_t i = 3; i < at.size(); i += 2) {
    const std::int64_t r = spot.row + at[i], c = spot.column + at[i + 1];
    const bool inside = r >= 0 && r < grid_.height && c >= 0 && c < grid_.width;
    const std::int64_t first = inside ? (r * grid_.width + c) * channels : spot.consumed;
    for (std::int64_t k = 0; k < channels; ++k, out += width) {
      const std::int64_t symbol = first + k < spot.consumed ? seen[first + k + 1] : -1;
      if (symbol >= 0 && symbol < size_) {
        std::memcpy(out, table + (k * size_ + symbol) * width, width * 4);
      } else {
        std::memset(out, 0, width * 4);
      }
    }
  }
}

void ChainruleMachine::do_around(const ChainruleStep& each, int thread) {
  const auto& at = each.at;
  const ChainruleLeaf& leaf = leaves_[at[1]];
  const auto& grids = call_->grids[leaf.place];
  const std::int64_t dim = leaf.dim, threads = pool_.active();
  const std::int64_t begin = rows_ * thread / threads, end = rows_ * (thread + 1) / threads;
  if (at[2] >= 0) {
    for (std::int64_t n = begin; n < end; ++n) {
      const ChainruleSpot& spot = spots_[n];
      float* const own = grids[spot.line] + (spot.row * grid_.width + spot.column) * dim;
      std::memcpy(own, row(at[2], n), dim * 4);
    }
    pool_.barrier();  // the pixels beside it are another thread's
  }
  // Tap by tap: a row's values are read from one end to the other.
  for (std::size_t i = 3, place = 0; i < at.size(); i += 2, place += static_cast<std::size_t>(dim)) {
    for (std::int64_t n = begin; n < end; ++n) {
      const ChainruleSpot& spot = spots_[n];
      const std::int64_t r = spot.row + at[i], c = spot.column + at[i + 1];
      float* const out = row(at[0], n) + place;
      if (r >= 0 && r < grid_.height && c >= 0 && c < grid_.width) {
        const float* const from = grids[spot.line] + (r * grid_.width + c) * dim;
        std::memcpy(out, from, dim * 4);
        if (rows_ == 1) {  // of one picture, what the next pixel will read
          for (std::int64_t d = 0; d < dim; d += 16) __builtin_prefetch(from + dim + d);
        }
      } else {
        std::memset(out, 0, dim * 4);
      }
    }
  }
}
