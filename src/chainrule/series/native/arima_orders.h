// One series in scaled units: its fit of given orders, and the orders by AICc, as in
// series/arima_orders.py.
#pragma once
#include "arima_exact.h"
#include "arima_fit.h"

namespace chainrule_series {

// One thread's workspace.
class ChainruleArimaSeries {
 public:
  // x = z / scale - loc / scale, differenced; `centred`: loc is the mean of z, otherwise 0.
  void prepare(const double* z, std::int64_t length, int d, int D, int season, bool centred) {
    season_ = season;
    standardise(z, length, centred);
    raw_ = x;
    for (int times = 0; times < d + D; ++times) {
      const std::size_t lag = std::min<std::size_t>(times < D ? season : 1, raw_.size());
      for (std::size_t t = 0; t + lag < raw_.size(); ++t) raw_[t] = raw_[t + lag] - raw_[t];
      raw_.resize(raw_.size() - lag);
    }
    level_ = 0;
    for (double v : raw_) level_ += v;
    if (!raw_.empty()) level_ /= double(raw_.size());
    centred_ = raw_;
    for (double& v : centred_) v -= level_;
  }

  // The lower of the two sums of squares from Hannan and Rissanen's start and from zero.
  void fit(const ChainruleArimaOrder& order) {
    constexpr double kTolerance = 1e-11, kLower = 1 - 1e-9;
    constexpr int kMost = 100;
    const double first = minimise(order, kTolerance, kMost);
    if (order.size() == order.mean) return;
    other_.assign(order.size(), 0);
    if (work_.minimise(order, other_, kTolerance, kMost) < first * kLower) {
      at_ = other_;
    } else {
      work_.minimise(order, at_, kTolerance, 1);
    }
  }

  const ChainruleArimaPoint& here() const { return work_.here(); }

  // There is nothing to fit: no error of a bare mean, or of zero.
  bool flat(bool mean) const {
    const auto moves = [](double v) { return std::abs(v) > 1e-12; };
    const std::vector<double>& y = mean ? centred_ : raw_;
    return std::none_of(y.begin(), y.end(), moves);
  }
  int length() const { return int(raw_.size()); }
  double level() const { return level_; }
  double mean() const { return at_[0]; }  // beyond the level, of a fit that has one

  // The stepwise search of Hyndman and Khandakar (2008, "Automatic time series forecasting: the
  // forecast package for R") from `least` to `most`: orders, then whether there is a mean.
  ChainruleArimaOrder choose(const std::int64_t* least, const std::int64_t* most, bool never,
                             bool always) {
    ChainruleArimaOrder best;
    best.mean = !never;
    for (int f = 0; f < 4; ++f) best.sizes[f] = int(least[f]);
    if (flat(!never)) return best;
    int places = 2;
    for (int f = 0; f < 4; ++f) places *= int(most[f] - least[f]) + 1;
    seen_.assign(places, 0);
    double lowest = HUGE_VAL;
    const auto improves = [&](const ChainruleArimaOrder& order) {
      int place = order.mean;
      if (order.mean ? never : always) return false;
      for (int f = 0; f < 4; ++f) {
        if (order.sizes[f] < least[f] || order.sizes[f] > most[f]) return false;
        place = place * int(most[f] - least[f] + 1) + order.sizes[f] - int(least[f]);
      }
      if (seen_[place]) return false;
      seen_[place] = 1;
      const double value = criterion(order);
      if (!(value < lowest)) return false;
      lowest = value;
      best = order;
      return true;
    };
    for (const auto& start : kStarts) {
      ChainruleArimaOrder order;
      order.mean = always || (start[0] && !never);
      for (int f = 0; f < 4; ++f) {
        const std::int64_t size = start[f + 1];
        order.sizes[f] = int(std::min(std::max(size, least[f]), most[f]));
      }
      improves(order);
    }
    for (bool going = true; going;) {
      going = false;
      for (const auto& move : kMoves) {
        ChainruleArimaOrder order = best;
        order.mean ^= move[0];
        for (int f = 0; f < 4; ++f) order.sizes[f] += move[f + 1];
        if ((going = improves(order))) break;
      }
    }
    return best;
  }

  std::vector<double> x;
  double loc = 0, scale = 1;

 private:
  static constexpr double kLeast = 1e-300;  // smaller sizes stay as they are
  static constexpr int kHighest = 1020;     // so that every power of two here is finite
  // Mean, p, q, P, Q.
  static constexpr int kStarts[5][5] = {
      {1, 2, 2, 1, 1}, {1, 0, 0, 0, 0}, {1, 1, 0, 1, 0}, {1, 0, 1, 0, 1}, {0, 0, 0, 0, 0}};
  static constexpr int kMoves[17][5] = {
      {0, 0, 0, -1, 0}, {0, 0, 0, 0, -1},  {0, 0, 0, 1, 0},  {0, 0, 0, 0, 1},  {0, 0, 0, -1, -1},
      {0, 0, 0, -1, 1}, {0, 0, 0, 1, -1},  {0, 0, 0, 1, 1},  {0, -1, 0, 0, 0}, {0, 0, -1, 0, 0},
      {0, 1, 0, 0, 0},  {0, 0, 1, 0, 0},   {0, -1, -1, 0, 0}, {0, -1, 1, 0, 0}, {0, 1, -1, 0, 0},
      {0, 1, 1, 0, 0},  {1, 0, 0, 0, 0}};

  double minimise(const ChainruleArimaOrder& order, double tolerance, int most) {
    work_.data(order.mean ? centred_.data() : raw_.data(), length(), season_);
    work_.start(order, at_);
    return work_.minimise(order, at_, tolerance, most);
  }

  // AICc by the exact likelihood at the least conditional squares: all candidates are judged by
  // all points. Infinite for a root within 1 % of the unit circle, as in R.
  double criterion(const ChainruleArimaOrder& order) {
    const int n = length(), k = order.size() + 1;
    const int seen = n - order.skipped(season_);
    if (n - k - 1 <= 0 || seen < k + 1) return HUGE_VAL;
    minimise(order, 1e-6, 60);
    for (int f = 0; f < 4; ++f) {
      if (!inside(here().factor(f), f % 2)) return HUGE_VAL;
    }
    product(here().factor(0), here().factor(2), -1, phi_);
    product(here().factor(1), here().factor(3), 1, theta_);
    const double* y = order.mean ? centred_.data() : raw_.data();
    const double value = exact_(y, n, order.mean ? at_[0] : 0, phi_, theta_);
    return value + 2.0 * k * n / (n - k - 1);
  }

  // Stepping down with the roots drawn 1 % nearer.
  bool inside(const std::vector<double>& factor, bool average) {
    double power = average ? -1 : 1;
    down_ = factor;
    for (double& v : down_) v *= power *= 1.01;
    for (int j = int(down_.size()); j > 0; --j) {
      const double kappa = down_[j - 1], rest = 1 - kappa * kappa;
      if (!(rest > 0)) return false;
      less_ = down_;
      for (int i = 0; i < j - 1; ++i) down_[i] = (less_[i] + kappa * less_[j - 2 - i]) / rest;
    }
    return true;
  }

  // a(B) b(B^m), without the leading one; `sign` is that of the coefficients in the polynomials.
  void product(const std::vector<double>& a, const std::vector<double>& b, int sign,
               std::vector<double>& out) const {
    out.assign(a.size() + season_ * b.size(), 0);
    std::copy(a.begin(), a.end(), out.begin());
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t at = (j + 1) * season_;
      out[at - 1] += b[j];
      for (std::size_t i = 0; i < a.size(); ++i) out[at + i] += sign * a[i] * b[j];
    }
  }

  // Sizes become at most 1, by powers of two; twice, so that a high level costs no digits.
  void standardise(const double* z, std::int64_t length, bool centred) {
    x.assign(z, z + length);
    loc = 0;
    int power = shrink(kHighest);
    if (centred && length) {
      for (double v : x) loc += v - x[0];
      loc = x[0] + loc / double(length);
      for (double& v : x) v -= loc;
      loc = std::ldexp(loc, power);
      power += shrink(kHighest - power);
    }
    scale = std::ldexp(1.0, power);
  }

  int shrink(int highest) {
    double size = 0;
    for (double v : x) size = std::max(size, std::abs(v));
    if (!(size > kLeast)) return 0;
    int power;
    std::frexp(size, &power);
    power = std::min(power, highest);
    const double unit = std::ldexp(1.0, -power);
    for (double& v : x) v *= unit;
    return power;
  }

  int season_ = 1;
  double level_ = 0;
  std::vector<double> raw_, centred_, at_, other_, phi_, theta_, down_, less_;
  std::vector<char> seen_;
  ChainruleArima work_;
  ChainruleArimaExact exact_;
};

}  // namespace chainrule_series
