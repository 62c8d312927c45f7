// Least squares over the windows of every series, an equation a step: series/equations.py, the
// same numbers. Columns are pointers into the series itself wherever they can be.
#include <cmath>

#include "linear.h"

namespace chainrule_series {
namespace {

using Flags = Array<const std::uint8_t, 2>;
using InRows = Array<const double, 2>;
using OutBlocks = Array<double, 3>;
using Index = std::int64_t;

constexpr double kLoad = 1e-12;  // of every pivot: what is collinear stays solvable

// In eight lanes, in one order on every processor.
double product(const double* __restrict a, const double* __restrict b, Index n) {
  double s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  Index t = 0;
  for (; t + 8 <= n; t += 8) {
    for (int l = 0; l < 8; ++l) s[l] += a[t + l] * b[t + l];
  }
  for (int l = 0; t < n; ++t, ++l) s[l] += a[t] * b[t];
  return lanes_sum(s);
}

void add(double* __restrict out, const double* __restrict a, double factor, Index n) {
  for (Index t = 0; t < n; ++t) out[t] += factor * a[t];
}

struct Shape {
  const Index* lags;
  Index num_lags, known, steps;
  double ridge;
  bool common;

  Index width() const { return 1 + num_lags + known; }  // a constant first
};

class Equations {
 public:
  explicit Equations(const Shape& shape) : shape_(shape) {}

  // v, u [n], known [n, F], psi [H], use [K]; writes coefficients [H, K] and squares [H].
  void run(const double* v, const double* u, const double* known, Index n, const double* psi,
           const std::uint8_t* use, Index reach, double* coefficients, double* squares) {
    const Index steps = shape_.steps, width = shape_.width();
    std::fill(coefficients, coefficients + steps * width, 0.0);
    std::fill(squares, squares + steps, 0.0);
    const Index longest = n - reach;  // rows of the first step
    if (longest < 1) return;
    columns(v, use, reach, longest);
    const Index count = static_cast<Index>(column_.size());
    if (!count) return;
    gram_.assign(count * count, 0);
    Index have = 0;
    for (Index h = steps; h > 0; --h) {
      const Index rows = longest - (shape_.common ? steps : h) + 1;
      if (rows < 1) continue;
      filtered(u + reach, 1, psi, h, rows, target_);
      for (Index f = 0; f < shape_.known; ++f) {
        filtered(known + reach * shape_.known + f, shape_.known, psi, h, rows, beside_[f]);
      }
      extend(have, rows);
      if (have != rows || shape_.known || !factored_) factor(rows);
      have = rows;
      solve(rows, coefficients + (h - 1) * width, squares + h - 1);
    }
  }

 private:
  void columns(const double* v, const std::uint8_t* use, Index reach, Index longest) {
    ones_.assign(longest, 1);
    column_.clear();
    place_.clear();
    factored_ = false;
    beside_.resize(shape_.known);
    for (auto& b : beside_) b.resize(longest);
    for (Index k = 0; k < shape_.width(); ++k) {
      if (!use[k]) continue;
      const double* at = ones_.data();
      if (changing(k)) {
        at = beside_[k - 1 - shape_.num_lags].data();
      } else if (k > 0) {
        at = v + reach - shape_.lags[k - 1];
      }
      column_.push_back(at);
      place_.push_back(k);
    }
  }

  // out[s] = Σ_{j < h} psi[h - 1 - j] x[s + j]: what x does to the h-th step.
  void filtered(const double* x, Index stride, const double* psi, Index h, Index rows,
                std::vector<double>& out) {
    out.resize(std::max<std::size_t>(out.size(), rows));
    std::fill(out.begin(), out.begin() + rows, 0.0);
    for (Index j = 0; j < h; ++j) {
      const double weight = psi[h - 1 - j];
      if (weight == 0) continue;
      for (Index s = 0; s < rows; ++s) out[s] += weight * x[(s + j) * stride];
    }
  }

  // Regressors beside the target: other ones at every step.
  bool changing(Index k) const { return k > shape_.num_lags; }

  // The products of all columns over so many rows; those of the rows before are kept.
  void extend(Index from, Index rows) {
    const Index count = static_cast<Index>(column_.size());
    for (Index a = 0; a < count; ++a) {
      for (Index b = 0; b <= a; ++b) {
        double& sum = gram_[a * count + b];
        if (changing(place_[a])) {
          sum = product(column_[a], column_[b], rows);
        } else {
          sum += product(column_[a] + from, column_[b] + from, rows - from);
        }
      }
    }
  }

  double penalty(Index c, Index rows) const {
    return place_[c] > 0 ? shape_.ridge * double(rows) : 0.0;
  }

  // Cholesky, row by row.
  void factor(Index rows) {
    const Index count = static_cast<Index>(column_.size());
    factored_ = true;
    lower_ = gram_;
    for (Index a = 0; a < count; ++a) {
      double* row = lower_.data() + a * count;
      for (Index b = 0; b < a; ++b) {
        const double* other = lower_.data() + b * count;
        double sum = row[b];
        for (Index k = 0; k < b; ++k) sum -= row[k] * other[k];
        row[b] = sum * other[b];
      }
      double pivot = row[a] * (1 + kLoad) + penalty(a, rows);
      if (!(pivot > 0)) pivot = 1;
      const double whole = pivot;
      for (Index k = 0; k < a; ++k) pivot -= row[k] * row[k];
      row[a] = 1 / std::sqrt(std::max(pivot, kLoad * whole / 16));  // its inverse
    }
  }

  // x = (L L')^-1 x
  void back(std::vector<double>& x) const {
    const Index count = static_cast<Index>(column_.size());
    for (Index a = 0; a < count; ++a) {
      const double* row = lower_.data() + a * count;
      for (Index k = 0; k < a; ++k) x[a] -= row[k] * x[k];
      x[a] *= row[a];
    }
    for (Index a = count; a-- > 0;) {
      const double* row = lower_.data() + a * count;
      x[a] *= row[a];
      for (Index k = 0; k < a; ++k) x[k] -= row[k] * x[a];
    }
  }

  // The normal equations, then one step of refinement on the residuals themselves.
  void solve(Index rows, double* out, double* squares) {
    const Index count = static_cast<Index>(column_.size());
    found_.assign(count, 0);
    left_.assign(target_.begin(), target_.begin() + rows);
    for (int twice = 0; twice < 2; ++twice) {
      step_.resize(count);
      for (Index c = 0; c < count; ++c) {
        step_[c] = product(column_[c], left_.data(), rows) - penalty(c, rows) * found_[c];
      }
      back(step_);
      for (Index c = 0; c < count; ++c) {
        found_[c] += step_[c];
        add(left_.data(), column_[c], -step_[c], rows);
      }
    }
    for (Index c = 0; c < count; ++c) out[place_[c]] = found_[c];
    *squares = product(left_.data(), left_.data(), rows);
  }

  Shape shape_;
  bool factored_ = false;
  std::vector<const double*> column_;
  std::vector<Index> place_;
  std::vector<std::vector<double>> beside_;
  std::vector<double> ones_, gram_, lower_, target_, left_, found_, step_;
};

void bound_equations(Reals values, Reals targets, InRows known, Ints begin, Ints end, InRows psi,
                     Ints lags, Flags use, Ints reach, double ridge, bool common,
                     OutBlocks coefficients, OutRows squares, int threads) {
  require_ragged(values, begin, end);
  const Index count = static_cast<Index>(begin.size());
  const Shape shape{lags.data(),
                    static_cast<Index>(lags.size()),
                    static_cast<Index>(known.shape(1)),
                    static_cast<Index>(psi.shape(1)),
                    ridge,
                    common};
  const auto rows = [count](const auto& a) { return static_cast<Index>(a.shape(0)) == count; };
  const auto wide = [&shape](const auto& a, int axis) {
    return static_cast<Index>(a.shape(axis)) == shape.width();
  };
  require(targets.size() == values.size() &&
              (shape.known == 0 || known.shape(0) == values.size()) && rows(psi) && rows(use) &&
              rows(reach) && rows(coefficients) && rows(squares) && wide(use, 1) &&
              wide(coefficients, 2) && coefficients.shape(1) == psi.shape(1) &&
              squares.shape(1) == psi.shape(1),
          "series: the parts of the equations differ in shape");
  for (Index i = 0; i < count; ++i) {
    require(reach.data()[i] >= 0, "series: a window reaches into the future");
    for (Index l = 0; l < shape.num_lags; ++l) {
      require(lags.data()[l] > 0 && (!use.data()[i * shape.width() + 1 + l] ||
                                     lags.data()[l] <= reach.data()[i]),
              "series: a lag lies outside its window");
    }
  }
  nanobind::gil_scoped_release release;
  over_series(count, threads, [&](Index i) {
    Equations equations(shape);
    const Index from = begin.data()[i], wide = shape.width();
    equations.run(values.data() + from, targets.data() + from, known.data() + from * shape.known,
                  end.data()[i] - from, psi.data() + i * shape.steps, use.data() + i * wide,
                  reach.data()[i], coefficients.data() + i * shape.steps * wide,
                  squares.data() + i * shape.steps);
  });
}

}  // namespace
}  // namespace chainrule_series

void chainrule_bind_regression(nanobind::module_& m) {
  using namespace chainrule_series;
  define(m, "chainrule_series_equations", &bound_equations,
         "values and targets, known [points, F], begin, end, psi [N, H], lags, use [N, K], reach, "
         "ridge, common, coefficients [N, H, K], squares [N, H], threads.");
}
