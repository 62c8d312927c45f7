#include "least_squares.h"

#include <cmath>

namespace chainrule_series {

void LeastSquares::columns(const double* w, const std::vector<std::int64_t>& base,
                           const std::vector<const double*>& regressors, std::int64_t nested,
                           bool constant) {
  w_ = w;
  nested_ = nested;
  constant_ = constant;
  lag_ = base;
  lag_.insert(lag_.end(), regressors.size(), 0);
  for (std::int64_t a = 1; a <= nested; ++a) {
    if (std::find(base.begin(), base.end(), a) == base.end()) lag_.push_back(a);
  }
  width_ = static_cast<std::int64_t>(lag_.size());
  lag_.push_back(0);  // the target is its own lag 0
  at_.resize(width_ + 1);
  for (std::int64_t c = 0; c <= width_; ++c) at_[c] = w - lag_[c];
  std::copy(regressors.begin(), regressors.end(), at_.begin() + base.size());
  stride_ = rounded_up(width_ + 1, 4);
}

// The Gram matrix and the sums of the lags 0 .. nested, stride nested + 1.
void LeastSquares::short_lags() {
  const std::int64_t p = nested_, stride = p + 1, rows = rounded_up(end_ - first_, 8);
  short_.resize(stride * stride + stride);
  double* g = short_.data();
  const double* y = r_.data();  // the target, zero behind the last row
  std::int64_t b = 0;
  for (; b + 1 <= p; b += 2) {
    const double* __restrict x = w_ + first_ - b - 1;
    double s[8] = {0, 0, 0, 0, 0, 0, 0, 0}, r[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (std::int64_t t = 0; t < rows; t += 8) {
      for (int l = 0; l < 8; ++l) {
        s[l] += y[t + l] * x[t + l + 1];
        r[l] += y[t + l] * x[t + l];
      }
    }
    g[b] = lanes_sum(s);
    g[b + 1] = lanes_sum(r);
  }
  if (b == p) g[b] = dot(y, w_ + first_ - b, rows);
  double* sums = g + stride * stride;
  double s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (std::int64_t t = 0; t < rows; t += 8) {
    for (int l = 0; l < 8; ++l) s[l] += y[t + l];
  }
  sums[0] = lanes_sum(s);
  const double* in = w_ + first_ - 1;
  const double* out = w_ + end_ - 1;
  for (std::int64_t i = 0; i < p; ++i) {
    const double* row = g + i * stride;
    double* next = g + (i + 1) * stride + 1;
    const double enters = in[-i], leaves = out[-i];
    sums[i + 1] = sums[i] + enters - leaves;
    for (std::int64_t j = i; j < p; ++j) next[j] = row[j] + enters * in[-j] - leaves * out[-j];
  }
}

double LeastSquares::gram(std::int64_t i, std::int64_t j) const {
  const std::int64_t rows = rounded_up(end_ - first_, 8);
  const bool target = j == width_;
  const auto near = [&](std::int64_t c) {
    return c == width_ || (lag_[c] > 0 && lag_[c] <= nested_);
  };
  if (near(i) && near(j)) {
    const std::int64_t a = std::min(lag_[i], lag_[j]), b = std::max(lag_[i], lag_[j]);
    return short_[a * (nested_ + 1) + b];
  }
  if (target) return dot(r_.data(), at_[i] + first_, rows);
  double sum = dot(at_[i] + first_, at_[j] + first_, rows - 8);
  for (std::int64_t t = first_ + rows - 8; t < end_; ++t) sum += at_[i][t] * at_[j][t];
  return sum;
}

void LeastSquares::eliminate(std::int64_t first, std::int64_t end) {
  first_ = first;
  end_ = end;
  const std::int64_t rows = end - first, n = width_ + 1;
  r_.assign(rounded_up(rows, 8), 0);
  std::copy(w_ + first, w_ + end, r_.begin());
  short_lags();
  raw_.resize(n * stride_);
  sums_.resize(n);
  size_.resize(n);
  const bool plain = width_ == nested_ && (width_ == 0 || lag_[0] == 1);  // no base, no regressors
  const double* sums = short_.data() + (nested_ + 1) * (nested_ + 1);
  for (std::int64_t i = 0; i < n; ++i) {
    const bool near = i == width_ || (lag_[i] > 0 && lag_[i] <= nested_);
    double sum = near ? sums[lag_[i]] : 0;
    for (std::int64_t t = first; !near && t < end; ++t) sum += at_[i][t];
    sums_[i] = sum;
    double* row = raw_.data() + i * stride_;
    if (plain && i < width_) {
      const double* from = short_.data() + (i + 1) * (nested_ + 1) + 1;
      std::copy(from + i, from + width_, row + i);
      row[width_] = short_[i + 1];
    } else {
      for (std::int64_t j = i; j < n; ++j) row[j] = gram(i, j);
    }
    size_[i] = row[i];
  }
  if (constant_) {
    for (std::int64_t i = 0; i < n; ++i) {
      const double mean = sums_[i] / double(rows);
      for (std::int64_t j = i; j < n; ++j) raw_[i * stride_ + j] -= mean * sums_[j];
    }
  }
  factor(0);
}

// Gauss without exchanges on the upper triangle; columns that depend on those before are left out.
void LeastSquares::factor(double penalty) {
  const std::int64_t n = width_ + 1;
  u_ = raw_;
  inverse_.assign(n, 0);
  left_.resize(n);
  least_ = 1;
  for (std::int64_t j = 0; j < width_; ++j) u_[j * stride_ + j] *= 1 + penalty;
  double* target = u_.data() + width_ * stride_ + width_;
  for (std::int64_t j = 0; j < width_; ++j) {
    left_[j] = *target;
    const double* __restrict row = u_.data() + j * stride_;
    const double pivot = row[j];
    if (!(pivot > kDependent * size_[j])) {
      least_ = 0;
      continue;
    }
    inverse_[j] = 1 / pivot;
    least_ = std::min(least_, pivot / size_[j]);
    for (std::int64_t i = j + 1; i < n; ++i) {
      const double part = row[i] * inverse_[j];
      double* __restrict below = u_.data() + i * stride_;
      for (std::int64_t k = i; k < n; ++k) below[k] -= part * row[k];
    }
  }
  left_[width_] = *target;
  if (size_[width_] > 0) least_ = std::min(least_, *target / size_[width_]);
}

void LeastSquares::solve(std::int64_t used, double* b) const {
  std::fill(b, b + width_, 0.0);
  for (std::int64_t j = used - 1; j >= 0; --j) {
    const double* row = u_.data() + j * stride_;
    double sum = row[width_];
    for (std::int64_t i = j + 1; i < used; ++i) sum -= row[i] * b[i];
    b[j] = sum * inverse_[j];
  }
}

// b from any right side s [width], which is lost.
void LeastSquares::substitute(double* s, double* b) const {
  for (std::int64_t j = 0; j < width_; ++j) {
    const double part = s[j] * inverse_[j];
    for (std::int64_t i = j + 1; i < width_; ++i) s[i] -= u_[j * stride_ + i] * part;
  }
  for (std::int64_t j = width_ - 1; j >= 0; --j) {
    double sum = s[j];
    for (std::int64_t i = j + 1; i < width_; ++i) sum -= u_[j * stride_ + i] * b[i];
    b[j] = sum * inverse_[j];
  }
}

double LeastSquares::mean(const double* b) const {
  if (!constant_) return 0;
  double sum = sums_[width_];
  for (std::int64_t c = 0; c < width_; ++c) sum -= b[c] * sums_[c];
  return sum / double(rows());
}

void LeastSquares::residuals(const double* b, double* constant, double* squares) {
  const std::int64_t rows = end_ - first_;
  double* __restrict r = r_.data();
  std::copy(w_ + first_, w_ + end_, r);
  for (std::int64_t c = 0; c < width_; ++c) {
    const double* __restrict x = at_[c] + first_;
    const double weight = b[c];
    for (std::int64_t t = 0; t < rows; ++t) r[t] -= weight * x[t];
  }
  double mean = 0, sum = 0;
  if (constant_) {
    for (std::int64_t t = 0; t < rows; ++t) mean += r[t];
    mean /= double(rows);
    for (std::int64_t t = 0; t < rows; ++t) r[t] -= mean;
  }
  for (std::int64_t t = 0; t < rows; ++t) sum += r[t] * r[t];
  *constant = mean;
  *squares = sum;
}

void LeastSquares::refine(double* b) {
  const std::int64_t padded = rounded_up(end_ - first_, 8);
  s_.resize(width_);
  step_.resize(width_);
  double before = HUGE_VAL, constant, squares;
  for (int round = 0; round < 8; ++round) {
    residuals(b, &constant, &squares);
    for (std::int64_t c = 0; c < width_; ++c) s_[c] = dot(r_.data(), at_[c] + first_, padded);
    substitute(s_.data(), step_.data());
    double moved = 0, size = 0;
    for (std::int64_t c = 0; c < width_; ++c) {
      moved = std::max(moved, step_[c] * step_[c] * size_[c]);
      size = std::max(size, b[c] * b[c] * size_[c]);
    }
    if (!(moved < before)) return;
    for (std::int64_t c = 0; c < width_; ++c) b[c] += step_[c];
    if (moved <= 1e-28 * size) return;
    before = moved;
  }
}

void LeastSquares::ridge(double* b) {
  const double free = double(rows() - width_) - 1;
  double size = 0, squares, constant;
  solve(width_, b);
  if (lossy()) refine(b);
  residuals(b, &constant, &squares);
  for (std::int64_t c = 0; c < width_; ++c) size += b[c] * b[c] * raw_[c * stride_ + c];
  if (!(size > 0) || free < 1) return;
  factor(double(width_) * (squares / free) / size);
  solve(width_, b);
}

}  // namespace chainrule_series
