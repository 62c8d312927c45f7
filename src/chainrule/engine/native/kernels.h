// The inner loops, compiled once for every instruction set; which one runs is chosen at run time.
// The .inc files hold them. They use no templates of the standard library: a weak symbol compiled
// for one processor must never be what the linker keeps for another.
#pragma once
#include <cstdint>

#include "packed.h"

struct ChainruleKernels {
  const char* name;

  // ---- linear.inc, prepare.inc: y[n][m] = Σ_k w[m][k] x[n][k] + bias[m], by blocks of m ----
  void (*linear)(const ChainruleMatrix& w, const ChainruleInput& x, std::int64_t first_block,
                 std::int64_t end_block, const float* bias, float* y, std::int64_t stride_y);
  // Rows first to end of x in the form that `linear` reads for this weight.
  void (*prepare)(const ChainruleMatrix& w, const float* x, std::int64_t stride_x,
                  std::int64_t first, std::int64_t end, const ChainruleInput& out);
  // Whether tight weights are quicker from memory, and how their clumps are made (tight.inc).
  bool tight;
  bool (*tighten)(const unsigned char* const* from, const unsigned char* table, unsigned char* to);
  // Of several scales for each 32 of w [groups][32], the one with the least squared error, bf16.
  void (*q4_scales)(const float* w, std::int64_t groups, int tries, std::uint16_t* out);
  // One row of the weight as floats [cols].
  void (*embed)(const ChainruleMatrix& w, std::int64_t row, float* out);

  // ---- point.inc: one row ----
  void (*norm)(bool rms, const float* x, std::int64_t dim, const float* weight, const float* bias,
               float epsilon, float* out);
  void (*activate)(int function, const float* x, std::int64_t dim, float* out);
  void (*gate)(int function, const float* x, std::int64_t dim, float* out);
  void (*add)(const float* a, const float* b, std::int64_t dim, float* out);
  void (*mul)(const float* a, const float* b, std::int64_t dim, float* out);
  void (*rope)(const float* x, std::int64_t dim, std::int64_t width, const float* cos,
               const float* sin, float* out);
  void (*cell)(int kind, const float* x, const float* r, const float* before, std::int64_t first,
               std::int64_t end, std::int64_t dim, float* after);

  // ---- attend.inc ----
  void (*attend)(const ChainruleAttend& job);
  void (*remember)(const float* k, const float* v, std::int64_t width, std::int64_t padded,
                   ChainruleKept kept, std::int64_t place, unsigned char* keys,
                   unsigned char* values);
  void (*cross)(const ChainruleCross& job);

  // ---- sample.inc, draw.inc: laws, warps and noise, in float64 ----
  // Standard Gumbel noise of one position: the bits of core/noise.py, out [lanes].
  void (*gumbel)(std::uint64_t key, std::int64_t pos, std::int64_t stream, std::int64_t lanes,
                 float* out);
  // Log-probabilities in nats of logits [size], summed in one fixed order.
  void (*log_softmax)(const float* logits, std::int64_t size, double* out);
  // The same of one symbol alone, bit for bit.
  double (*log_prob)(const float* logits, std::int64_t size, std::int64_t symbol);
  // What decoding/warps.py makes of log-probabilities [size]: scores whose Gumbel-max is drawn.
  void (*warp)(const ChainruleWarp& warp, const double* log_p, std::int64_t size, double* scratch,
               double* out);
  // The first place where scores + noise is greatest.
  std::int64_t (*pick)(const double* scores, const float* noise, std::int64_t size);
  // What every lane of stream 0 brings to `draw`: out [size], with 8 more behind.
  void (*lane_table)(std::int64_t size, std::uint64_t* out);
  // `pick` with the `gumbel` noise of one position and stream 0, bit for bit.
  std::int64_t (*draw)(const double* scores, std::int64_t size, const std::uint64_t* lanes,
                       std::uint64_t key, std::int64_t pos);
  // `log_softmax`, then `draw`, and the log-probability of what was drawn.
  std::int64_t (*draw_plain)(const float* logits, std::int64_t size, const std::uint64_t* lanes,
                             std::uint64_t key, std::int64_t pos, double* log_p);
};

const ChainruleKernels* chainrule_portable();
#ifdef CHAINRULE_X86
const ChainruleKernels* chainrule_avx2();    // needs avx2, fma and f16c
const ChainruleKernels* chainrule_avx512();  // needs avx512f, bw, dq, vl, vnni and bf16
#endif
