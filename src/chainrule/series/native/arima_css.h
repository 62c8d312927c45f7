// The conditional sum of squares of one seasonal ARMA and its slopes: series/arima_fit.py, the
// same numbers.
#pragma once
#include "series.h"

#include <cmath>

namespace chainrule_series {

constexpr double kArimaEdge = 0.9999;  // the greatest partial autocorrelation

// z's mean, phi, theta, Phi and Theta, in this order wherever parameters stand in a row.
struct ChainruleArimaOrder {
  int mean, sizes[4];
  int size() const { return mean + sizes[0] + sizes[1] + sizes[2] + sizes[3]; }
  int skipped(int season) const { return sizes[0] + season * sizes[2]; }
};

inline double chainrule_dot(const double* a, const double* b, int from, int to) {
  double sum[4] = {0, 0, 0, 0};
  int t = from;
  for (; t + 4 <= to; t += 4) {
    for (int k = 0; k < 4; ++k) sum[k] += a[t + k] * b[t + k];
  }
  for (; t < to; ++t) sum[0] += a[t] * b[t];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// What the sum of squares is near a point: the errors, their derivatives, and the products of both.
class ChainruleArimaPoint {
 public:
  // Everything at a point of the box: a mean, and partial autocorrelations of the four factors.
  void evaluate(const double* y, int n, int season, const ChainruleArimaOrder& order,
                const std::vector<double>& at) {
    order_ = order, n_ = n, season_ = season;
    expand(at);
    from_ = order.skipped(season);
    derive(y, order.mean ? at[0] : 0);
    const int size = order.size();
    normal.resize(size * size);
    slope.resize(size);
    for (int i = 0; i < size; ++i) {
      for (int j = 0; j <= i; ++j) {
        normal[i * size + j] = normal[j * size + i] =
            chainrule_dot(column(i + 1), column(j + 1), from_, n);
      }
      slope[i] = chainrule_dot(column(i + 1), column(0), from_, n);
    }
    for (int i = 0; i < size; ++i) turn(&normal[i], size);
    for (int i = 0; i < size; ++i) turn(&normal[i * size], 1);
    turn(slope.data(), 1);
    sum = chainrule_dot(column(0), column(0), from_, n);
  }

  // The slope that the derivatives of this point have with the errors of another.
  void slope_with(const ChainruleArimaPoint& other, std::vector<double>& out) {
    out.resize(order_.size());
    for (int i = 0; i < order_.size(); ++i) {
      out[i] = chainrule_dot(column(i + 1), other.column(0), from_, n_);
    }
    turn(out.data(), 1);
  }

  const std::vector<double>& factor(int f) const { return factor_[f]; }
  const double* errors() const { return column(0); }  // [n], from `from()` on
  int from() const { return from_; }

  double sum;
  std::vector<double> normal, slope;

 private:
  const double* column(int c) const { return columns_.data() + std::ptrdiff_t(c) * n_; }
  double* column(int c) { return columns_.data() + std::ptrdiff_t(c) * n_; }

  // Durbin and Levinson: coefficients of the factors, and their derivatives.
  void expand(const std::vector<double>& at) {
    const double* kappa = at.data() + order_.mean;
    for (int f = 0; f < 4; ++f) {
      const int k = order_.sizes[f];
      std::vector<double>&a = factor_[f], &D = jacobian_[f];
      a.assign(k, 0);
      D.assign(k * k, 0);
      for (int j = 0; j < k; ++j, ++kappa) {
        old_ = a;
        old_jacobian_ = D;
        for (int i = 0; i < j; ++i) {
          a[i] = old_[i] - *kappa * old_[j - 1 - i];
          for (int l = 0; l < j; ++l) {
            D[i * k + l] = old_jacobian_[i * k + l] - *kappa * old_jacobian_[(j - 1 - i) * k + l];
          }
          D[i * k + j] = -old_[j - 1 - i];
        }
        a[j] = *kappa;
        D[j * k + j] = 1;
      }
      if (f % 2) {  // moving averages are written with a plus
        for (double& v : a) v = -v;
        for (double& v : D) v = -v;
      }
    }
  }

  // A row of derivatives by coefficients becomes one by partial autocorrelations.
  void turn(double* row, int stride) {
    row += order_.mean * stride;
    for (int f = 0; f < 4; ++f) {
      const int k = order_.sizes[f];
      old_.resize(k);
      for (int l = 0; l < k; ++l) {
        double sum = 0;
        for (int j = 0; j < k; ++j) sum += row[j * stride] * jacobian_[f][j * k + l];
        old_[l] = sum;
      }
      for (int l = 0; l < k; ++l) row[l * stride] = old_[l];
      row += k * stride;
    }
  }

  // out_t = x_t - sum_i a_i x_{t - i lag}
  static void reduce(const std::vector<double>& a, int lag, const double* x, double* out, int from,
                     int n) {
    std::copy(x + from, x + n, out + from);
    for (int i = 1; i <= int(a.size()); ++i) {
      const double value = a[i - 1];
      const int back = i * lag;
      for (int t = from; t < n; ++t) out[t] -= value * x[t - back];
    }
  }

  // Column 0 is e, column 1 + i its derivative by coefficient i. All are filtered by the inverse
  // of theta(B) Theta(B^m); a derivative by theta_j is that by theta_1, j - 1 steps later.
  void derive(const double* y, double mean) {
    const int n = n_, m = season_, from = from_, p = order_.sizes[0], q = order_.sizes[1];
    const int P = order_.sizes[2], Q = order_.sizes[3];
    columns_.resize(std::size_t(order_.size() + 1) * n);
    centred_.resize(3 * n);
    double *c = centred_.data(), *a = c, *b = c;
    for (int t = 0; t < n; ++t) c[t] = y[t] - mean;
    if (P) reduce(factor_[2], m, c, a = c + n, m * P, n);
    if (P && p) reduce(factor_[0], 1, c, b = c + 2 * n, p, n);
    moved_.clear();
    int at = 0;
    const auto add = [&](const double* x, int lag) {
      double* out = column(at++);
      for (int t = from; t < n; ++t) out[t] = -x[t - lag];
      moved_.push_back(out);
    };
    reduce(factor_[0], 1, a, column(at), from, n);
    moved_.push_back(column(at++));
    if (order_.mean) {
      double one = 1, all = 1;
      for (double v : factor_[0]) one -= v;
      for (double v : factor_[2]) all -= v;
      std::fill(column(at) + from, column(at) + n, -one * all);
      moved_.push_back(column(at++));
    }
    for (int i = 1; i <= p; ++i) add(a, i);
    const int first = at;
    at += q;
    for (int i = 1; i <= P; ++i) add(b, i * m);
    for (double* x : moved_) seasonal(factor_[3], m, x, from, n);
    inverse(factor_[1], moved_, from, n);
    if (q) follow(first, q, 1);
    if (Q) follow(at, Q, m);
  }

  void follow(int first, int count, int lag) {
    const double* e = column(0);
    double* x = column(first);
    for (int t = from_; t < n_; ++t) x[t] = t - lag < from_ ? 0 : -e[t - lag];
    moved_.assign(1, x);
    if (lag == 1) inverse(factor_[1], moved_, from_, n_);
    if (lag != 1) seasonal(factor_[3], lag, x, from_, n_);
    for (int j = 1; j < count; ++j) {
      double* out = column(first + j);
      const int begin = std::min(from_ + j * lag, n_);
      std::fill(out + from_, out + begin, 0.0);
      std::copy(x + from_, x + from_ + (n_ - begin), out + begin);
    }
  }

  static void seasonal(const std::vector<double>& Theta, int m, double* x, int from, int n) {
    const int Q = int(Theta.size());
    for (int at = from + m; Q && at < n; at += m) {
      const int end = std::min(at + m, n);
      for (int j = std::min(Q, (at - from) / m); j > 0; --j) {
        const double value = Theta[j - 1];
        const int back = j * m;
        for (int t = at; t < end; ++t) x[t] -= value * x[t - back];
      }
    }
  }

  // Columns side by side, so that one need not wait for the step before of another.
  static void inverse(const std::vector<double>& theta, const std::vector<double*>& x, int from,
                      int n) {
    const int q = int(theta.size()), count = int(x.size());
    if (!q) return;
    for (int c = 0; c < count; c += 4) {
      switch (std::min(4, count - c)) {
        case 1: by_order<1>(theta.data(), q, &x[c], from, n); break;
        case 2: by_order<2>(theta.data(), q, &x[c], from, n); break;
        case 3: by_order<3>(theta.data(), q, &x[c], from, n); break;
        default: by_order<4>(theta.data(), q, &x[c], from, n);
      }
    }
  }
  template <int C>
  static void by_order(const double* theta, int q, double* const* x, int from, int n) {
    if (q == 1) return filter<C, 1>(theta, x, from, n);
    if (q == 2) return filter<C, 2>(theta, x, from, n);
    if (q == 3) return filter<C, 3>(theta, x, from, n);
    for (int t = from; t < n; ++t) {
      for (int j = std::min(q, t - from); j > 0; --j) {
        for (int c = 0; c < C; ++c) x[c][t] -= theta[j - 1] * x[c][t - j];
      }
    }
  }
  template <int C, int Q>
  static void filter(const double* theta, double* const* list, int from, int n) {
    double* x[C];
    double past[C][Q] = {}, factor[Q];
    for (int c = 0; c < C; ++c) x[c] = list[c];
    for (int j = 0; j < Q; ++j) factor[j] = theta[j];
    for (int t = from; t < n; ++t) {
      for (int c = 0; c < C; ++c) {
        double value = x[c][t];
        for (int j = Q; j > 0; --j) value -= factor[j - 1] * past[c][j - 1];
        for (int j = Q - 1; j > 0; --j) past[c][j] = past[c][j - 1];
        x[c][t] = past[c][0] = value;
      }
    }
  }

  ChainruleArimaOrder order_;
  int n_ = 0, season_ = 1, from_ = 0;
  std::vector<double> factor_[4], jacobian_[4], old_, old_jacobian_, columns_, centred_;
  std::vector<double*> moved_;
};

}  // namespace chainrule_series
