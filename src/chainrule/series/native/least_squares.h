// Least squares on lags of a series and on regressors, for every nested order at once.
//
// The Gram matrix of lags follows from its first row, G[i+1][j+1] = G[i][j] + two products (the
// covariance method). One elimination leaves the residual sum of squares of every order behind.
#pragma once
#include "linear.h"

namespace chainrule_series {

// A pivot below this part of its column's size: the column is a sum of those before it.
constexpr double kDependent = 1e-13;
// Less than this part of a sum of squares is rounding.
constexpr double kNothing = 1e-14;

class LeastSquares {
 public:
  // Columns: `base` lags, then regressors, then the lags 1 .. nested that base lacks. w is zero
  // for eight places behind its end, and so is every regressor.
  void columns(const double* w, const std::vector<std::int64_t>& base,
               const std::vector<const double*>& regressors, std::int64_t nested, bool constant);
  // Over the rows first .. end - 1.
  void eliminate(std::int64_t first, std::int64_t end);
  // Coefficients b [width] from the factors, columns from `used` on left out.
  void solve(std::int64_t used, double* b) const;
  // The same over again with true residuals, until it no longer moves. Only where the elimination
  // has lost digits.
  void refine(double* b);
  // The penalty of Hoerl, Kennard and Baldwin (1975) on columns of equal size.
  void ridge(double* b);
  // Residuals of b over the rows; the constant that makes them mean zero (or 0) and their squares.
  void residuals(const double* b, double* constant, double* squares);

  std::int64_t width() const { return width_; }
  std::int64_t rows() const { return end_ - first_; }
  std::int64_t lag(std::int64_t column) const { return lag_[column]; }  // 0: a regressor
  const double* column(std::int64_t c) const { return at_[c]; }
  // Sums of squares that columns 0 .. used - 1 leave, but for what is rounding.
  double left(std::int64_t used) const { return std::max(left_[used], kNothing * size_[width_]); }
  // The constant beside b.
  double mean(const double* b) const;
  bool lossy() const { return least_ < kSafe; }

 private:
  static constexpr double kSafe = 1e-4;  // pivots above it cost four digits at most
  double gram(std::int64_t i, std::int64_t j) const;
  void short_lags();
  void factor(double penalty);
  void substitute(double* s, double* b) const;

  const double* w_ = nullptr;
  std::int64_t nested_ = 0, width_ = 0, stride_ = 0, first_ = 0, end_ = 0;
  bool constant_ = true;
  double least_ = 1;
  std::vector<std::int64_t> lag_;
  std::vector<const double*> at_;
  std::vector<double> short_, sums_, raw_, u_, size_, inverse_, left_, r_, s_, step_;
};

}  // namespace chainrule_series
