// chainrule._native: what the processor can do, asked at run time; loops that torch is slow at.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>
#include <thread>

#include "../../series/native/series.h"
#include "bind.h"
#include "dispatch.h"
#include "ngram.h"
#include "sample.h"

namespace nb = nanobind;

namespace {

nb::dict chainrule_features() {
  nb::dict out;
  const ChainruleFeatures has = chainrule_ask_processor();
  if (!has.known) return out;
  out["avx2"] = has.avx2;
  out["avx512f"] = has.avx512f;
  out["avx512_vnni"] = has.avx512_vnni;
  out["avx512_bf16"] = has.avx512_bf16;
  out["amx_tile"] = has.amx_tile;
  return out;
}

unsigned chainrule_num_cores() { return std::thread::hardware_concurrency(); }

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Ints = Array<const std::int64_t, 1>;
using Reals = Array<const double, 1>;

void chainrule_rollout(const Ints& contexts, const Ints& grams, const Reals& values,
                       const Reals& backoff, const Array<const std::int64_t, 2>& past,
                       const Reals& temperature, const Array<const float, 3>& gumbel,
                       const Array<std::int64_t, 2>& out) {
  const auto rows = static_cast<std::int64_t>(gumbel.shape(0));
  const auto count = static_cast<std::int64_t>(gumbel.shape(1));
  ChainruleTables tables{contexts.data(), static_cast<std::int64_t>(contexts.size()),
                         grams.data(),    static_cast<std::int64_t>(grams.size()),
                         values.data(),   backoff.data(),
                         static_cast<std::int64_t>(gumbel.shape(2)),
                         static_cast<std::int64_t>(past.shape(1)) + 1};
  if (values.size() != grams.size() || backoff.size() != contexts.size() + 1 ||
      tables.num_grams <= tables.size || past.shape(0) != gumbel.shape(0) ||
      temperature.size() != gumbel.shape(0) || out.shape(0) != gumbel.shape(0) ||
      out.shape(1) != gumbel.shape(1)) {
    throw std::invalid_argument("the tables and rows of an n-gram rollout don't fit together");
  }
  chainrule_ngram_rollout(tables, past.data(), rows, count, temperature.data(), gumbel.data(),
                          out.data());
}

using Rows = Array<double, 2>;
using ConstRows = Array<const double, 2>;
using ConstFloats = Array<const float, 2>;
using Symbols = Array<std::int64_t, 1>;

template <class A>
std::int64_t extent(const A& array, int axis) {
  return static_cast<std::int64_t>(array.shape(static_cast<std::size_t>(axis)));
}

void require(bool fine, const char* message) {
  if (!fine) throw std::invalid_argument(message);
}

template <class A, class C>
void require_alike(const A& a, const C& b) {
  require(a.shape(0) == b.shape(0) && a.shape(1) == b.shape(1), "the arrays differ in shape");
  require(a.shape(1) > 0, "an alphabet has at least one symbol");
}

void chainrule_gumbel(const Ints& keys, const Ints& starts, std::int64_t length,
                      std::int64_t stream, std::int64_t lanes, const Array<float, 3>& out) {
  require(starts.size() == keys.size() && extent(out, 0) == extent(keys, 0) &&
              extent(out, 1) == length && extent(out, 2) == lanes,
          "gumbel: out is [B, length, lanes] for keys and starts [B]");
  chainrule_gumbel_block(chainrule_kernels(), keys.data(), starts.data(), extent(keys, 0), length,
                         stream, lanes, out.data());
}

void chainrule_log_softmax(const ConstFloats& logits, const Rows& out) {
  require_alike(logits, out);
  chainrule_log_softmax_block(chainrule_kernels(), logits.data(), extent(logits, 0),
                              extent(logits, 1), out.data());
}

void chainrule_log_prob(const ConstFloats& logits, const Ints& x, const Array<double, 1>& out) {
  require(x.size() == logits.shape(0) && out.size() == x.size(),
          "log_prob: symbols and out are [N] for logits [N, V]");
  require(chainrule_log_prob_block(chainrule_kernels(), logits.data(), x.data(), extent(x, 0),
                                   extent(logits, 1), out.data()),
          "log_prob: a symbol is outside the alphabet");
}

void chainrule_warp(const ConstRows& log_p, const Reals& temperature, const Ints& top_k,
                    const Reals& top_p, const Reals& min_p, const Reals& typical,
                    const Rows& out) {
  require_alike(log_p, out);
  const auto rows = log_p.shape(0);
  require(temperature.size() == rows && top_k.size() == rows && top_p.size() == rows &&
              min_p.size() == rows && typical.size() == rows,
          "warp: every setting is [N] for log-probabilities [N, V]");
  require(log_p.data() != out.data(), "warp: out can't be its input");
  const ChainruleWarps warps{temperature.data(), top_k.data(), top_p.data(), min_p.data(),
                             typical.data()};
  require(warps.valid(extent(log_p, 0)), "warp: a setting is out of its bounds");
  chainrule_warp_block(chainrule_kernels(), warps, log_p.data(), extent(log_p, 0),
                       extent(log_p, 1), out.data());
}

void chainrule_pick(const ConstRows& scores, const ConstFloats& noise, const Symbols& out) {
  require_alike(scores, noise);
  require(out.size() == scores.shape(0), "pick: out is [N] for scores [N, V]");
  chainrule_pick_block(chainrule_kernels(), scores.data(), noise.data(), extent(scores, 0),
                       extent(scores, 1), out.data());
}

void chainrule_q4_scales(const ConstFloats& w, int tries, const Array<std::int16_t, 1>& out) {
  require(w.shape(1) == 32 && out.size() == w.shape(0), "q4_scales: w is [N, 32] and out [N]");
  chainrule_kernels().q4_scales(w.data(), extent(w, 0), tries,
                                reinterpret_cast<std::uint16_t*>(out.data()));
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "What the processor can do, and loops that torch is slow at.";
  m.def("chainrule_features", &chainrule_features,
        "Instruction sets that can be used here, by name; empty on an unknown processor.");
  m.def("chainrule_ngram_rollout", &chainrule_rollout,
        "contexts, grams, values, backoff, past [B, n-1], temperature [B], gumbel [B, L, V], out "
        "[B, L]: ancestral symbols of an n-gram.");
  const auto freely = nb::call_guard<nb::gil_scoped_release>();
  m.def("chainrule_gumbel", &chainrule_gumbel, freely,
        "keys, starts [B], length, stream, lanes, out [B, L, lanes]: core/noise.py's noise.");
  m.def("chainrule_log_softmax", &chainrule_log_softmax, freely,
        "logits [N, V], out [N, V]: log-probabilities in nats.");
  m.def("chainrule_log_prob", &chainrule_log_prob, freely,
        "logits [N, V], symbols [N], out [N]: the same of one symbol a row, bit for bit.");
  m.def("chainrule_warp", &chainrule_warp, freely,
        "log_p [N, V], temperature, top_k, top_p, min_p, typical [N], out [N, V]: scores whose "
        "Gumbel-max is drawn, as decoding/warps.py has it.");
  m.def("chainrule_pick", &chainrule_pick, freely,
        "scores, noise [N, V], out [N]: the first place where their sum is greatest.");
  m.def("chainrule_q4_scales", &chainrule_q4_scales, freely,
        "w [N, 32], tries, out [N]: the bits of engine/quantize.py's scales for q4.");
  chainrule_bind_machine(m);
  chainrule_bind_ar(m);
  chainrule_bind_arima(m);
  chainrule_bind_regression(m);
  chainrule_bind_smoothing(m);
  m.def("chainrule_use", &chainrule_use, "name: portable, avx2 or avx512 from now on.");
  m.def("chainrule_used", [] { return chainrule_kernels().name; }, "The kernels in use, by name.");
  m.def("chainrule_num_cores", &chainrule_num_cores, "Cores this process may use; 0 if unknown.");
}
