// The machine as Python sees it: engine/compiled.py is its only caller. All shapes are checked.
#include "bind.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "dispatch.h"
#include "rollout.h"

namespace nb = nanobind;

namespace {

using Bytes = nb::ndarray<nb::c_contig, nb::device::cpu>;
using ConstBytes = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Sizes = std::vector<std::int64_t>;

constexpr std::int64_t kFarthest = std::int64_t{1} << 40;

void need(bool fine, const char* message) {
  if (!fine) throw std::invalid_argument(message);
}

template <class A>
std::int64_t extent(const A& a, int axis) {
  return static_cast<std::int64_t>(a.shape(static_cast<std::size_t>(axis)));
}

void fill(ChainruleMachine& m, std::int64_t index, std::int64_t first, std::int64_t count,
          const ConstBytes& data, const ConstBytes& scale) {
  need(index >= 0 && index < m.weights(), "no weight of this number");
  need(count > 0, "a matrix needs rows");
  const ChainruleMatrix& w = m.weight(index).matrix;
  const bool grouped = chainrule_grouped(w.type);
  const std::int64_t row = chainrule_row_bytes(w);
  const std::int64_t scales = grouped                              ? w.groups * 2 * (1 + w.least)
                              : w.type == ChainruleType::int8_row ? 4
                                                                  : 0;
  need(static_cast<std::int64_t>(data.nbytes()) / count == row &&
           static_cast<std::int64_t>(data.nbytes()) % count == 0,
       "a matrix whose rows have another size");
  need(static_cast<std::int64_t>(scale.nbytes()) >= scales * count, "scales that don't fit");
  m.fill(index, first, count, data.data(), scale.data());
}

// What both a run and a rollout are given of a state.
struct State {
  // One a leaf that grows: caches [B, G, 2, blocks, bytes of a block], symbols [B, T + 1] and
  // grids [B, H · W + 1, D].
  std::vector<Bytes> caches;
  std::vector<Sizes> places;         // [B] each
  std::vector<Array<const float, 3>> memory;          // [B, S, D]
  std::vector<Array<const std::uint8_t, 2>> ok;       // [B, S]
};

// The rows of what is kept of pictures: `count` entries of `dim` numbers, and one behind them.
template <class T>
std::vector<T*> picture(const Bytes& slab, std::int64_t rows, std::int64_t count,
                        std::int64_t dim) {
  const std::int64_t each = (count + 1) * dim;
  need(slab.dtype() == nb::dtype<T>() && slab.ndim() > 1 && extent(slab, 0) == rows &&
           extent(slab, 1) == count + 1 &&
           static_cast<std::int64_t>(slab.nbytes()) ==
               rows * each * static_cast<std::int64_t>(sizeof(T)),
       "a picture of another shape");
  std::vector<T*> out;
  for (std::int64_t b = 0; b < rows; ++b) out.push_back(static_cast<T*>(slab.data()) + b * each);
  return out;
}

void read_state(const ChainruleMachine& m, const State& state, std::int64_t rows,
                ChainruleCall& call) {
  need(static_cast<std::int64_t>(state.caches.size()) ==
               m.count(ChainruleKind::cache) + m.count(ChainruleKind::symbols) +
                   m.count(ChainruleKind::grid) &&
           state.places.size() == state.caches.size(),
       "a wrong number of caches");
  std::size_t grown = 0;
  need(static_cast<std::int64_t>(state.memory.size()) == m.count(ChainruleKind::fixed) &&
           state.ok.size() == state.memory.size(),
       "a wrong number of memories");
  for (const ChainruleLeaf& leaf : m.leaves()) {
    if (leaf.kind == ChainruleKind::cache) {
      const Bytes& slab = state.caches[grown];
      const std::int64_t groups = leaf.dim / leaf.width, block = m.block_bytes(leaf);
      need(slab.ndim() == 5 && extent(slab, 0) == rows && extent(slab, 1) == groups &&
               extent(slab, 2) == 2 && extent(slab, 3) > 0 && extent(slab, 4) > 0 &&
               static_cast<std::int64_t>(slab.nbytes()) == rows * groups * 2 * extent(slab, 3) * block,
           "a cache of another shape");
      need(static_cast<std::int64_t>(state.places[grown].size()) == rows, "a place a row");
      call.capacity.push_back(extent(slab, 3));
      std::vector<unsigned char*> each;
      for (std::int64_t b = 0; b < rows; ++b) {
        each.push_back(static_cast<unsigned char*>(slab.data()) + b * (slab.nbytes() / rows));
      }
      call.caches.push_back(each);
      call.places.push_back(state.places[grown++]);
    } else if (leaf.kind == ChainruleKind::symbols) {
      call.seen.push_back(picture<std::int64_t>(state.caches[grown++], rows, m.grid().end(), 1));
    } else if (leaf.kind == ChainruleKind::grid) {
      const std::int64_t pixels = m.grid().height * m.grid().width;
      call.grids.push_back(picture<float>(state.caches[grown++], rows, pixels, leaf.dim));
    } else if (leaf.kind == ChainruleKind::fixed) {
      const auto& memory = state.memory[leaf.place];
      const auto& ok = state.ok[leaf.place];
      need(extent(memory, 0) == rows && extent(memory, 2) == leaf.dim && extent(ok, 0) == rows &&
               extent(ok, 1) == extent(memory, 1),
           "a memory of another shape");
      call.memory_length.push_back(extent(memory, 1));
      std::vector<const float*> each;
      std::vector<const std::uint8_t*> good;
      for (std::int64_t b = 0; b < rows; ++b) {
        each.push_back(memory.data() + b * extent(memory, 1) * leaf.dim);
        good.push_back(ok.data() + b * extent(memory, 1));
      }
      call.memory.push_back(each), call.memory_ok.push_back(good);
    }
  }
}

void run(ChainruleMachine& m, const Array<const std::int64_t, 2>& x, const Sizes& positions,
         const std::vector<Bytes>& caches, const std::vector<Sizes>& places,
         const std::vector<Array<const float, 3>>& windows,
         const std::vector<Array<float, 3>>& fresh,
         const std::vector<Array<const float, 3>>& memory,
         const std::vector<Array<const std::uint8_t, 2>>& ok, const Array<float, 3>& hidden,
         bool both) {
  ChainruleCall call;
  call.both = both;
  call.rows = extent(x, 0), call.length = extent(x, 1), call.symbols = x.data();
  call.positions = positions;
  need(static_cast<std::int64_t>(positions.size()) == call.rows, "a position a row");
  read_state(m, {caches, places, memory, ok}, call.rows, call);
  need(static_cast<std::int64_t>(windows.size()) == m.count(ChainruleKind::window) &&
           fresh.size() == windows.size(),
       "a wrong number of windows");
  for (const ChainruleLeaf& leaf : m.leaves()) {
    if (leaf.kind != ChainruleKind::window) continue;
    const auto& old = windows[leaf.place];
    const auto& made = fresh[leaf.place];
    need(extent(old, 0) == call.rows && extent(old, 1) == leaf.width && extent(old, 2) == leaf.dim &&
             extent(made, 0) == call.rows && extent(made, 1) == call.length &&
             extent(made, 2) == leaf.dim,
         "a window of another shape");
    call.windows.emplace_back(), call.new_windows.emplace_back();
    for (std::int64_t b = 0; b < call.rows; ++b) {
      call.windows.back().push_back(old.data() + b * leaf.width * leaf.dim);
      call.new_windows.back().push_back(made.data() + b * call.length * leaf.dim);
    }
  }
  need(extent(hidden, 0) == call.rows && extent(hidden, 1) == call.length &&
           extent(hidden, 2) == m.hidden_dim(),
       "a hidden of another shape");
  for (std::int64_t b = 0; b < call.rows; ++b) {
    call.hidden.push_back(hidden.data() + b * call.length * m.hidden_dim());
  }
  const nb::gil_scoped_release free;
  const std::lock_guard<std::mutex> lock(m.mutex());
  m.run(call);
}

// The laws of hidden [N, D]: `out` [N, V] as logits or log-probabilities, or [N] of symbols x.
void logits(ChainruleMachine& m, const Array<const float, 2>& hidden, const Array<float, 2>& out) {
  need(extent(hidden, 1) == m.hidden_dim() && extent(out, 0) == extent(hidden, 0) &&
           extent(out, 1) == m.size(),
       "hidden is [N, D] and out [N, V]");
  const nb::gil_scoped_release free;
  const std::lock_guard<std::mutex> lock(m.mutex());
  m.head(hidden.data(), extent(hidden, 0), [&](std::int64_t n, const float* row, int) {
    std::copy(row, row + m.size(), out.data() + n * m.size());
  });
}

void log_probs(ChainruleMachine& m, const Array<const float, 2>& hidden,
               const Array<double, 2>& out) {
  need(extent(hidden, 1) == m.hidden_dim() && extent(out, 0) == extent(hidden, 0) &&
           extent(out, 1) == m.size(),
       "hidden is [N, D] and out [N, V]");
  const nb::gil_scoped_release free;
  const std::lock_guard<std::mutex> lock(m.mutex());
  m.head(hidden.data(), extent(hidden, 0), [&](std::int64_t n, const float* row, int) {
    chainrule_kernels().log_softmax(row, m.size(), out.data() + n * m.size());
  });
}

void log_prob(ChainruleMachine& m, const Array<const float, 2>& hidden,
              const Array<const std::int64_t, 1>& x, const Array<double, 1>& out) {
  need(extent(hidden, 1) == m.hidden_dim() && extent(x, 0) == extent(hidden, 0) &&
           extent(out, 0) == extent(hidden, 0),
       "hidden is [N, D], x and out [N]");
  for (std::int64_t n = 0; n < extent(x, 0); ++n) {
    need(x.data()[n] >= 0 && x.data()[n] < m.size(), "a symbol outside the alphabet");
  }
  const nb::gil_scoped_release free;
  const std::lock_guard<std::mutex> lock(m.mutex());
  m.head(hidden.data(), extent(hidden, 0), [&](std::int64_t n, const float* row, int) {
    out.data()[n] = chainrule_kernels().log_prob(row, m.size(), x.data()[n]);
  });
}

// warps: temperature, top_k, top_p, min_p, typical of every row.
void rollout(ChainruleMachine& m, const Sizes& last, const Sizes& positions, const Sizes& numbers,
             const Array<const std::int64_t, 1>& keys, const Array<const double, 2>& warps,
             std::int64_t stop, const std::vector<Bytes>& caches, const std::vector<Sizes>& places,
             const std::vector<Array<float, 3>>& windows,
             const std::vector<Array<float, 3>>& fresh,
             const std::vector<Array<const float, 3>>& memory,
             const std::vector<Array<const std::uint8_t, 2>>& ok, const Array<float, 3>& hidden,
             const Array<std::int64_t, 2>& symbols, const Array<double, 2>& log_p,
             const Array<std::int64_t, 1>& count) {
  ChainruleRollout job;
  job.rows = extent(symbols, 0), job.most = extent(symbols, 1), job.kept = extent(hidden, 1);
  const auto rows = static_cast<std::size_t>(job.rows);
  need(last.size() == rows && positions.size() == rows && numbers.size() == rows &&
           keys.shape(0) == rows && warps.shape(0) == rows && warps.shape(1) == 5 &&
           hidden.shape(0) == rows && (job.kept == job.most || job.kept == 1) &&
           extent(hidden, 2) == m.hidden_dim() &&
           log_p.shape(0) == rows && extent(log_p, 1) == job.most && count.shape(0) == rows,
       "the rows of a rollout don't fit together");
  job.last = last, job.position = positions, job.number = numbers, job.stop = stop;
  for (std::size_t b = 0; b < rows; ++b) {
    job.key.push_back(static_cast<std::uint64_t>(keys.data()[b]));
    const double* const w = warps.data() + b * 5;
    need(w[0] >= 0 && w[1] >= 0 && w[1] < 4e18 && w[2] > 0 && w[2] <= 1 && w[3] >= 0 &&
             w[3] <= 1 && w[4] > 0 && w[4] <= 1,
         "a setting out of its bounds");
    need(numbers[b] >= 0 && numbers[b] < kFarthest, "a number out of range");
    job.warp.push_back({w[0], static_cast<std::int64_t>(w[1]), w[2], w[3], w[4]});
  }
  read_state(m, {caches, places, memory, ok}, job.rows, job.state);
  need(static_cast<std::int64_t>(windows.size()) == m.count(ChainruleKind::window) &&
           fresh.size() == windows.size(),
       "a wrong number of windows");
  for (const ChainruleLeaf& leaf : m.leaves()) {
    if (leaf.kind != ChainruleKind::window) continue;
    const auto& window = windows[leaf.place];
    need(extent(window, 0) == job.rows && extent(window, 1) == leaf.width &&
             extent(window, 2) == leaf.dim && extent(fresh[leaf.place], 0) == job.rows &&
             extent(fresh[leaf.place], 1) == job.kept && extent(fresh[leaf.place], 2) == leaf.dim,
         "a window of another shape");
    job.windows.push_back(window.data()), job.fresh.push_back(fresh[leaf.place].data());
  }
  job.hidden = hidden.data(), job.symbols = symbols.data(), job.log_prob = log_p.data();
  job.count = count.data();
  const nb::gil_scoped_release free;
  const std::lock_guard<std::mutex> lock(m.mutex());
  chainrule_rollout(m, job);
}

}  // namespace

void chainrule_bind_machine(nb::module_& m) {
  nb::class_<ChainruleMachine>(m, "ChainruleMachine", "A Program made ready to run.")
      .def(nb::init<const std::vector<Sizes>&, const std::vector<Sizes>&, std::int64_t,
                    std::int64_t, std::int64_t, int, int, const Sizes&>(),
           nb::arg("buffers"), nb::arg("leaves"), nb::arg("hidden"), nb::arg("logits"),
           nb::arg("size"), nb::arg("kept"), nb::arg("threads"), nb::arg("grid") = Sizes{})
      .def("add_matrix", &ChainruleMachine::add_matrix)
      .def("fill", &fill)
      .def("tighten", &ChainruleMachine::tighten)
      .def("add_vector",
           [](ChainruleMachine& self, const Array<const float, 1>& v) {
             return self.add_vector(v.data(), extent(v, 0));
           })
      .def("add_ints",
           [](ChainruleMachine& self, const Array<const std::int64_t, 1>& v) {
             return self.add_ints(v.data(), extent(v, 0));
           })
      .def("add_reals",
           [](ChainruleMachine& self, const Array<const double, 1>& v) {
             return self.add_reals(v.data(), extent(v, 0));
           })
      .def("add_op", &ChainruleMachine::add_op)
      .def("weight_bytes", &ChainruleMachine::weight_bytes)
      .def("set_alone", &ChainruleMachine::set_alone)
      .def("run", &run)
      .def("logits", &logits)
      .def("log_probs", &log_probs)
      .def("log_prob", &log_prob)
      .def("rollout", &rollout);
}
