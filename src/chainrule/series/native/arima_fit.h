// Conditional least squares of one seasonal ARMA: series/arima_fit.py, the same steps.
#pragma once
#include "arima_css.h"

namespace chainrule_series {

// One thread's workspace.
class ChainruleArima {
 public:
  void data(const double* y, int n, int season) { y_ = y, n_ = n, season_ = season; }
  const ChainruleArimaPoint& here() const { return here_; }

  // Levenberg and Marquardt's steps over J'J, to which the curvature that it leaves out is added as
  // the steps tell it (Dennis, Gay and Welsch 1981, "An adaptive nonlinear least-squares
  // algorithm"). What stands at an edge of the box and would leave it, stays.
  double minimise(const ChainruleArimaOrder& order, std::vector<double>& at, double tolerance,
                  int most) {
    const int size = order.size();
    double damping = 1e-3;
    bool curved = false;
    here_.evaluate(y_, n_, season_, order, at);
    second_.assign(size * size, 0);
    for (int tried = 1; tried < most && here_.sum > 0 && damping < 1e9;) {
      choose_free(order, at);
      double gain = curved ? solve(size, damping, true) : -1;
      if (gain < 0) curved = false, gain = solve(size, damping, false);
      if (gain < 0) {
        damping = std::max(damping * 10, 1e-6);
        continue;
      }
      if (!(gain > tolerance * here_.sum)) break;
      next_ = at;
      for (int i = 0; i < size; ++i) {
        next_[i] += step_[i];
        if (i >= order.mean) next_[i] = std::min(std::max(next_[i], -kArimaEdge), kArimaEdge);
        step_[i] = next_[i] - at[i];
      }
      there_.evaluate(y_, n_, season_, order, next_);
      ++tried;
      if (there_.sum < here_.sum) {
        curved = learn(size);
        at = next_;
        std::swap(here_, there_);
        damping = std::max(damping * 0.1, 1e-12);
      } else {
        curved = false;
        damping = std::max(damping * 10, 1e-6);
      }
    }
    return here_.sum;
  }

  // Hannan and Rissanen (1982): the errors of a long autoregression stand in for the unseen ones.
  // All zeros where there are too few points for it.
  void start(const ChainruleArimaOrder& order, std::vector<double>& at) {
    const int n = n_, size = order.size(), mean = order.mean, k = size - mean;
    const int *of = order.sizes, m = season_;
    at.assign(size, 0);
    if (k == 0) return;
    int lags = 0;
    const double* e = y_;
    if (of[1] + of[3]) {
      const int reach = std::max(of[0], of[1]) + m * std::max(of[2], of[3]) + 2;
      lags = std::min(n / 3, std::max(reach, int(5 * std::log10(double(n)))));
      burg(lags);
      e = forward_.data();
    }
    const int seen = lags + std::max(of[1], m * of[3]);
    const int from = std::max(order.skipped(m), of[1] + of[3] ? seen : 0);
    if (n - from < 2 * k + 2) return;
    columns_.resize(std::size_t(k + 1) * n);
    double* x = columns_.data();
    const auto put = [&](const double* v, int lag) {
      for (int t = from; t < n; ++t) x[t] = v[t - lag];
      x += n;
    };
    put(y_, 0);
    for (int f = 0; f < 4; ++f) {
      for (int i = 1; i <= of[f]; ++i) put(f % 2 ? e : y_, i * (f < 2 ? 1 : m));
    }
    here_.normal.resize(k * k);
    here_.slope.resize(k);
    x = columns_.data();
    free_.clear();
    for (int i = 0; i < k; ++i) {
      const double* own = x + std::ptrdiff_t(i + 1) * n;
      for (int j = 0; j <= i; ++j) {
        here_.normal[i * k + j] = here_.normal[j * k + i] =
            chainrule_dot(own, x + std::ptrdiff_t(j + 1) * n, from, n);
      }
      here_.slope[i] = -chainrule_dot(own, x, from, n);
      if (here_.normal[i * k + i] > 0) free_.push_back(i);
    }
    if (solve(k, 1e-6, false) < 0) return;
    const double* a = step_.data();
    double* out = at.data() + mean;
    for (int f = 0; f < 4; a += of[f], out += of[f], ++f) partials(a, of[f], f % 2, out);
  }

 private:
  void choose_free(const ChainruleArimaOrder& order, const std::vector<double>& at) {
    const int size = order.size();
    free_.clear();
    for (int i = 0; i < size; ++i) {
      const double s = here_.slope[i];
      const bool stuck = i >= order.mean && ((at[i] >= kArimaEdge && s < 0) ||
                                             (at[i] <= -kArimaEdge && s > 0));
      if (!stuck && here_.normal[i * size + i] > 0) free_.push_back(i);
    }
  }

  // (H + damping diag J'J) step = -slope on what is free. Returns the decrease that the step
  // promises, or -1 where the matrix isn't positive.
  double solve(int size, double damping, bool curved) {
    const int k = int(free_.size());
    step_.assign(size, 0);
    root_.resize(k * k);
    z_.resize(k);
    for (int a = 0; a < k; ++a) {
      const int row = free_[a] * size;
      const double own = here_.normal[row + free_[a]];
      double z = -here_.slope[free_[a]];
      for (int b = 0; b <= a; ++b) {
        double sum = here_.normal[row + free_[b]];
        if (curved) sum += second_[row + free_[b]];
        if (a == b) sum += damping * own;
        for (int i = 0; i < b; ++i) sum -= root_[a * k + i] * root_[b * k + i];
        if (b == a) {
          if (!(sum > 1e-13 * own)) return -1;
          root_[a * k + a] = std::sqrt(sum);
        } else {
          root_[a * k + b] = sum / root_[b * k + b];
          z -= root_[a * k + b] * z_[b];
        }
      }
      z_[a] = z / root_[a * k + a];
    }
    double gain = 0;
    for (int a = k - 1; a >= 0; --a) {
      const int i = free_[a];
      double sum = z_[a];
      for (int b = a + 1; b < k; ++b) sum -= root_[b * k + a] * step_[free_[b]];
      step_[i] = sum / root_[a * k + a];
      gain += step_[i] * (damping * here_.normal[i * size + i] * step_[i] - here_.slope[i]);
    }
    return gain;
  }

  // After a step from here to there: the curvature beyond J'J, and whether it told more than it
  // hid.
  bool learn(int size) {
    double plain = 0, curve = 0, told = 0, seen = 0;
    here_.slope_with(there_, left_);
    for (int i = 0; i < size; ++i) {
      plain += 2 * step_[i] * here_.slope[i];
      for (int j = 0; j < size; ++j) {
        plain += step_[i] * step_[j] * here_.normal[i * size + j];
        curve += step_[i] * step_[j] * second_[i * size + j];
      }
      told += step_[i] * (there_.slope[i] - left_[i]);
      seen += step_[i] * (there_.slope[i] - here_.slope[i]);
    }
    const double actual = there_.sum - here_.sum;
    const bool better = curve == 0 || std::abs(actual - plain - curve) < std::abs(actual - plain);
    const double shrink = curve == 0 ? 1 : std::min(1.0, std::abs(told / curve));
    for (double& v : second_) v *= shrink;
    if (!(seen > 0)) return better;
    double along = 0;
    for (int i = 0; i < size; ++i) {
      left_[i] = there_.slope[i] - left_[i];
      for (int j = 0; j < size; ++j) left_[i] -= second_[i * size + j] * step_[j];
      along += left_[i] * step_[i];
    }
    for (int i = 0; i < size; ++i) {
      const double y = (there_.slope[i] - here_.slope[i]) / seen;
      for (int j = 0; j < size; ++j) {
        const double w = (there_.slope[j] - here_.slope[j]) / seen;
        second_[i * size + j] += left_[i] * w + y * left_[j] - along * y * w;
      }
    }
    return better;
  }

  void burg(int lags) {
    const int n = n_;
    forward_.assign(y_, y_ + n);
    backward_.assign(y_, y_ + n);
    double *f = forward_.data(), *b = backward_.data();
    for (int k = 1; k <= lags; ++k) {
      const double both = chainrule_dot(f + 1, b, k - 1, n - 1);
      const double own = chainrule_dot(f, f, k, n) + chainrule_dot(b, b, k - 1, n - 1);
      const double kappa = own > 0 ? 2 * both / own : 0;
      for (int t = n - 1; t >= k; --t) {
        const double old = f[t];
        f[t] = old - kappa * b[t - 1];
        b[t] = b[t - 1] - kappa * old;
      }
    }
  }

  // A factor's partial autocorrelations by stepping down, none above 0.9 in size.
  void partials(const double* a, int k, bool average, double* out) {
    left_.assign(a, a + k);
    if (average) {
      for (double& v : left_) v = -v;
    }
    for (int j = k; j > 0; --j) {
      const double kappa = std::min(std::max(left_[j - 1], -0.9), 0.9);
      out[j - 1] = kappa;
      z_ = left_;
      for (int i = 0; i < j - 1; ++i) {
        left_[i] = (z_[i] + kappa * z_[j - 2 - i]) / (1 - kappa * kappa);
      }
    }
  }

  const double* y_ = nullptr;
  int n_ = 0, season_ = 1;
  ChainruleArimaPoint here_, there_;
  std::vector<double> second_, step_, next_, root_, z_, left_, columns_, forward_, backward_;
  std::vector<int> free_;
};

}  // namespace chainrule_series
