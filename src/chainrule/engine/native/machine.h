// A Program made ready: packed weights, buffers with places, ops with numbers for names.
// Shapes: B rows, L symbols in this call, N = B·L, D width of a buffer, V alphabet size.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

enum class ChainruleOp : int {
  embed, symbol, wave, linear, bias, add, mul, norm, activate, gate, rope, attend, cross, cell,
  recent, backoff, table, near, around, place
};

struct ChainruleBuffer {
  std::int64_t dim = 0, root = 0, first = 0;  // a view of columns of `root`, or itself
  std::int64_t stride = 0, offset = 0;        // floats from row to row; floats before it, a row
};

enum class ChainruleKind : int { window, cache, fixed, symbols, grid };

inline std::int64_t chainrule_round16(std::int64_t n) { return (n + 15) / 16 * 16; }

struct ChainruleLeaf {
  ChainruleKind kind = ChainruleKind::window;
  std::int64_t dim = 0, width = 0;
  std::int64_t place = 0;  // its number among the leaves of its kind
};

struct ChainruleWeight {
  ChainruleMatrix matrix;          // where it is one
  std::vector<float> vector;       // padded to 16; an int8_row's scales
  std::vector<std::int64_t> ints;  // a table
  std::vector<double> reals;
  unsigned char* data = nullptr;  // of a matrix, once it has been given room
  std::vector<ChainruleTight> tight;  // of a tight one
  std::vector<ChainruleOdd> odd;
  std::size_t bytes = 0;
  int kind = 0;  // 0 matrix, 1 vector, 2 table of integers, 3 table of reals
};

struct ChainruleStep {
  ChainruleOp op = ChainruleOp::embed;
  std::vector<std::int64_t> at;  // as Python's engine/build.py lists them
  double real = 0;
};

// Ops that run together: for every symbol, on hidden states, for a picture's row, for a pixel.
enum ChainrulePart : int { kChainruleOps, kChainruleHead, kChainruleRows, kChainrulePixels };

struct ChainruleList {
  std::vector<ChainruleStep> ops;
  std::int64_t bytes = 0;     // of weights that a symbol is multiplied with
  std::int64_t meetings = 1;  // of the threads, a symbol
};

// Pictures of T = height · width · channels symbols; no width: none.
struct ChainruleGrid {
  std::int64_t height = 0, width = 0, channels = 0;
  std::int64_t end() const { return height * width * channels; }
};

// A pixel that a part of the ops works on: of which row of the batch, and how many symbols of its
// picture were consumed when the part began.
struct ChainruleSpot {
  std::int64_t line = 0, row = 0, column = 0, consumed = 0;
};

// One call: B rows, L symbols each. Pointers per row, so that rows may come from anywhere.
struct ChainruleCall {
  std::int64_t rows = 0, length = 0;
  bool both = false;  // all symbols but the first see those after them too
  const std::int64_t* symbols = nullptr;                   // [B][L]
  std::vector<std::int64_t> positions;                     // [B], of the first symbol
  std::vector<std::vector<unsigned char*>> caches;         // [cache][B]
  std::vector<std::vector<std::int64_t>> places;           // [cache][B]: positions filled before
  std::vector<std::int64_t> capacity;                      // [cache], in blocks of 16
  std::vector<std::vector<const float*>> windows;          // [window][B], each [w][D]
  std::vector<std::vector<float*>> new_windows;            // [window][B], each [L][D]
  std::vector<std::vector<const float*>> memory;           // [fixed][B], each [S][D]
  std::vector<std::vector<const std::uint8_t*>> memory_ok; // [fixed][B], each [S]
  std::vector<std::int64_t> memory_length;                 // [fixed]
  std::vector<std::vector<std::int64_t*>> seen;            // [symbols leaf][B], each [T + 1]
  std::vector<std::vector<float*>> grids;                  // [grid][B], each [H · W + 1][D]
  std::vector<float*> hidden;                              // [B], each [L][D]
};

using ChainruleTake = std::function<void(std::int64_t n, const float* logits, int thread)>;

class ChainruleMachine {
 public:
  // buffers [n][3]: dim, root, first; leaves [m][3]: kind, dim, width; grid: height, width and
  // channels, or nothing.
  ChainruleMachine(const std::vector<std::vector<std::int64_t>>& buffers,
                   const std::vector<std::vector<std::int64_t>>& leaves, std::int64_t hidden,
                   std::int64_t logits, std::int64_t size, int kept, int threads,
                   const std::vector<std::int64_t>& grid);

  // A matrix of zeros, and rows of it in Python's row by row layout (engine/quantize.py).
  std::int64_t add_matrix(int kind, std::int64_t rows, std::int64_t cols, std::int64_t group);
  void fill(std::int64_t index, std::int64_t first, std::int64_t count, const void* data,
            const void* scale);
  // Once all are filled: packs bf16 tighter where it is more than `bytes`. No bit changes.
  void tighten(std::int64_t bytes);
  const ChainruleWeight& weight(std::int64_t index) const { return *weights_.at(index); }
  std::int64_t weights() const { return static_cast<std::int64_t>(weights_.size()); }
  std::int64_t add_vector(const float* data, std::int64_t size);
  std::int64_t add_ints(const std::int64_t* data, std::int64_t size);
  std::int64_t add_reals(const double* data, std::int64_t size);
  void add_op(const std::string& name, std::vector<std::int64_t> at, double real, int part);

  // Consumes symbols; the caches, new windows and hidden of the call are written.
  void run(const ChainruleCall& call);
  // The head on hidden [N][D]; `take(n, logits, thread)` gets every row of logits [V], several
  // at a time; it must not throw.
  void head(const float* hidden, std::int64_t count, const ChainruleTake& take);

  const ChainruleGrid& grid() const { return grid_; }
  const std::vector<ChainruleLeaf>& leaves() const { return leaves_; }
  std::int64_t hidden_dim() const { return buffers_[hidden_].dim; }
  std::int64_t size() const { return size_; }
  std::int64_t count(ChainruleKind kind) const;
  // Bytes of one block of 16 positions of one head: its keys and its values each.
  std::int64_t block_bytes(const ChainruleLeaf& leaf) const;
  std::int64_t weight_bytes() const;
  // Bytes of weights times rows, from one meeting of the threads to the next, below which one is
  // quicker than several.
  void set_alone(std::int64_t bytes) { alone_ = bytes; }
  std::mutex& mutex() { return mutex_; }
  // What the sampler needs: what lanes bring, and room for each thread's numbers.
  std::vector<std::uint64_t>& lanes() { return lanes_; }
  std::vector<std::vector<double>>& sampling() { return sampling_; }

 private:
  static constexpr std::int64_t kMost = 128;  // positions that go through at a time

  float* row(std::int64_t buffer, std::int64_t n) const {
    const ChainruleBuffer& b = buffers_[buffer];
    return scratch_.as<float>() + b.offset * room_ + n * b.stride + b.first;
  }
  void check(const ChainruleCall& call) const;
  void settle();
  void set_grid(const std::vector<std::int64_t>& grid);
  void check_near(const std::vector<std::int64_t>& at);
  void check_around(const std::vector<std::int64_t>& at, int part);
  void check_picture(const ChainruleCall& call) const;
  void begin_symbol();
  void run_part(ChainrulePart part, std::int64_t wide);
  void do_near(const ChainruleStep& step, std::int64_t n);
  void do_around(const ChainruleStep& step, int thread);
  std::size_t tightened(ChainruleWeight& weight, unsigned char* to) const;
  void make_room(std::int64_t rows);
  void piece(const ChainruleCall& call, std::int64_t first, std::int64_t length);
  void step(const ChainruleStep& step, int thread);
  void do_linear(const ChainruleStep& step, int thread);
  void do_attend(const ChainruleStep& step, int thread);
  void do_cell(const ChainruleStep& step, int thread);
  void do_row(const ChainruleStep& step, std::int64_t n, int thread);
  void product(const ChainruleWeight& w, const float* x, std::int64_t stride_x, std::int64_t rows,
               const float* bias, float* y, std::int64_t stride_y, int thread);
  const float* angles(const ChainruleStep& step, std::int64_t position, int thread);
  float* work(std::int64_t window, std::int64_t b, std::int64_t t) const;
  [[noreturn]] void refuse(const std::string& op, const std::string& why) const;

  std::vector<ChainruleBuffer> buffers_;
  std::vector<ChainruleLeaf> leaves_;
  std::vector<std::unique_ptr<ChainruleWeight>> weights_;
  std::vector<ChainruleMemory> pieces_;  // matrices side by side: a huge page each would be wasted
  std::vector<std::int64_t> waiting_;    // matrices without room
  ChainruleList parts_[4];  // by ChainrulePart
  ChainruleGrid grid_;
  std::vector<bool> given_;  // of every leaf that is a grid: whether an op gives its values
  std::int64_t hidden_, logits_, size_, columns_ = 0, widest_ = 0, most_groups_ = 1, tight_units_ = 0;
  std::int64_t most_gates_ = 0;
  std::int64_t alone_ = 256'000;
  ChainruleKept kept_;
  ChainrulePool pool_;
  std::mutex mutex_;

  // ---- one piece of a call ----
  const ChainruleCall* call_ = nullptr;
  std::int64_t first_ = 0, length_ = 0, rows_ = 0;  // N
  std::int64_t room_ = 0;
  std::vector<std::int64_t> lines_;    // rows of the batch that begin a picture's row or a pixel
  std::vector<ChainruleSpot> spots_;   // [row of the buffers], of pictures
  ChainruleMemory scratch_, prepared_, prepared_scale_, prepared_offset_;
  std::vector<std::vector<unsigned char>> loose_;  // [thread]
  std::vector<std::uint64_t> lanes_;
  std::vector<std::vector<double>> sampling_;  // [thread]
  std::vector<std::vector<float>> work_;  // [window]: [B][w + L][D]
  std::vector<std::vector<float>> scores_, angles_;  // [thread]
  std::vector<float> gates_;                          // [row][gates]
  std::vector<std::vector<double>> laws_;
  struct Turn {
    std::int64_t width, rates;  // a weight: radians per position of each pair
    double scale;
    void make(const double* rate, std::int64_t position, float* out) const;
    std::vector<float> table;  // [position][2][width / 2]
  };
  std::vector<Turn> turns_;
};
