// The exact Gaussian likelihood of an ARMA in O(n r): series/arima_orders.py, the same.
#pragma once
#include "arima_css.h"

namespace chainrule_series {

// Morf, Sidhu and Kailath 1974, "Some new algorithms for recursive estimation in constant linear
// discrete-time systems": the filter's covariance moves by one dyad a step.
class ChainruleArimaExact {
 public:
  // -2 log likelihood of centred y at its best variance, up to n (1 + log 2 pi); infinite where
  // rounding left no stationary law. phi and theta are those of the whole polynomials.
  double operator()(const double* y, int n, double mean, const std::vector<double>& phi,
                    const std::vector<double>& theta) {
    const int p = int(phi.size()), q = int(theta.size()), r = std::max(p, q + 1);
    if (!covariances(phi, theta, r)) return HUGE_VAL;
    phi_.assign(phi.begin(), phi.end());
    phi_.resize(r, 0);
    gain_.assign(r, 0);
    // T P e_1, from the first column of the stationary covariance P.
    for (int i = 0; i < r; ++i) {
      double sum = phi_[i] * y_[0];
      for (int j = i + 1; j < r; ++j) {
        sum += phi_[j] * y_[j - i];
        if (j <= q) sum += theta[j - 1] * psi_[j - i - 1];
      }
      gain_[i] = sum;
    }
    double F = y_[0], M = -1 / F, squares = 0, logs = 0;
    moved_ = gain_;
    moved_.resize(r + 1, 0);
    state_.assign(r + 1, 0);
    const double* __restrict lag = phi_.data();
    double *__restrict state = state_.data(), *__restrict gain = gain_.data();
    double* __restrict moved = moved_.data();
    for (int t = 0; t < n; ++t) {
      const double error = y[t] - mean - state[0], w = moved[0], s = state[0];
      squares += error * error / F;
      logs += std::log(F);
      const double along = M * w, next = F + along * w, share = error / F, cut = w / next;
      for (int i = 0; i < r; ++i) {
        const double turned = lag[i] * w + moved[i + 1];
        state[i] = lag[i] * s + state[i + 1] + gain[i] * share;
        gain[i] += along * turned;
        moved[i] = turned - gain[i] * cut;
      }
      M += along * along / F;
      F = next;
    }
    if (!(squares >= 0) || !std::isfinite(logs)) return HUGE_VAL;
    return n * std::log(squares / n) + logs;
  }

 private:
  // Places of the rows 1 .. k - 1 of a triangle.
  static std::ptrdiff_t before(std::ptrdiff_t k) { return k * (k - 1) / 2; }

  // y_[k], k < r + 1: autocovariances for errors of variance 1; psi_[k], k < r: the weights of past
  // errors. The autoregression's own come from its partial autocorrelations.
  bool covariances(const std::vector<double>& phi, const std::vector<double>& theta, int r) {
    const int p = int(phi.size()), q = int(theta.size()), most = r + q + 1;
    rows_.resize(before(p + 1) + 1);
    double* row = rows_.data() + before(p);
    std::copy(phi.begin(), phi.end(), row);
    double variance = 1;
    for (int k = p; k > 0; --k, row -= k) {
      const double kappa = row[k - 1], rest = 1 - kappa * kappa;
      if (!(rest > 0)) return false;
      variance /= rest;
      double* less = row - (k - 1);
      for (int i = 0; i < k - 1; ++i) less[i] = (row[i] + kappa * row[k - 2 - i]) / rest;
    }
    u_.assign(most, 0);
    u_[0] = variance;
    row = rows_.data();
    for (int k = 1; k < most; ++k) {
      const int taken = std::min(k, p);
      if (p) row = rows_.data() + before(taken);
      double sum = 0;
      for (int i = 1; i <= taken; ++i) sum += row[i - 1] * u_[std::abs(k - i)];
      u_[k] = sum;
    }
    pairs_.assign(q + 1, 0);
    for (int l = 0; l <= q; ++l) {
      double sum = l ? theta[l - 1] : 1;
      for (int i = 1; i + l <= q; ++i) sum += theta[i - 1] * theta[i + l - 1];
      pairs_[l] = sum;
    }
    y_.assign(r + 1, 0);
    psi_.assign(r, 0);
    for (int k = 0; k <= r; ++k) {
      double sum = pairs_[0] * u_[k];
      for (int l = 1; l <= q; ++l) sum += pairs_[l] * (u_[std::abs(k - l)] + u_[k + l]);
      y_[k] = sum;
    }
    psi_[0] = 1;
    for (int k = 1; k < r; ++k) {
      double sum = k <= q ? theta[k - 1] : 0;
      for (int i = 1; i <= std::min(k, p); ++i) sum += phi[i - 1] * psi_[k - i];
      psi_[k] = sum;
    }
    return true;
  }

  std::vector<double> phi_, gain_, moved_, state_, rows_, u_, pairs_, y_, psi_;
};

}  // namespace chainrule_series
