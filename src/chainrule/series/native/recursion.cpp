// Forecasts of linear recursions, and new points taken in: series/recursion.py.
#include "linear.h"

namespace chainrule_series {
namespace {

using Rows = Array<const double, 2>;

// Fields of batch.py's Recursions, of one shape: N series, P lags, Q errors.
struct Held {
  Reals constant;
  Rows phi, theta;
  Reals sigma2;
  Rows past, errors;

  void check() const {
    const std::size_t n = constant.size();
    require(phi.shape(0) == n && theta.shape(0) == n && sigma2.size() == n && past.shape(0) == n &&
                errors.shape(0) == n && past.shape(1) == phi.shape(1) &&
                errors.shape(1) == theta.shape(1),
            "series: the parts of the recursions differ in shape");
  }
};

// ahead[h + 1 + i] += weights[i] * x. Four at a time: both arrays have slack.
void spread(double* __restrict ahead, const double* __restrict weights, std::int64_t count,
            double x) {
  for (std::int64_t i = 0; i < count; i += 4) {
    for (int l = 0; l < 4; ++l) ahead[i + l] += weights[i + l] * x;
  }
}

struct Work {
  std::vector<double> phi, ahead, psi;

  void forecast(const Held& r, std::int64_t i, const double* known, std::int64_t horizon,
                double* mean, double* variance) {
    const auto lags = static_cast<std::int64_t>(r.phi.shape(1));
    const auto errors = static_cast<std::int64_t>(r.theta.shape(1));
    const double* past = r.past.data() + i * lags;
    const double* theta = r.theta.data() + i * errors;
    const double* error = r.errors.data() + i * errors;
    const std::int64_t blocks = rounded_up(lags, 4), room = horizon + blocks + 8;
    phi.assign(blocks + 4, 0);
    std::copy(r.phi.data() + i * lags, r.phi.data() + (i + 1) * lags, phi.begin());
    ahead.assign(room, r.constant.data()[i]);
    psi.assign(room, 0);
    if (known) {
      for (std::int64_t h = 0; h < horizon; ++h) ahead[h] += known[h];
    }
    for (std::int64_t a = 0; a < lags; ++a) {  // what each remembered value does to what comes
      const double x = past[lags - 1 - a];
      const std::int64_t reach = std::min(lags - a, horizon);
      for (std::int64_t h = 0; h < reach; ++h) ahead[h] += phi[a + h] * x;
    }
    for (std::int64_t a = 0; a < errors; ++a) {
      const std::int64_t reach = std::min(errors - a, horizon);
      for (std::int64_t h = 0; h < reach; ++h) ahead[h] += theta[a + h] * error[errors - 1 - a];
    }
    psi[0] = 1;
    for (std::int64_t j = 0; j < std::min(errors, horizon - 1); ++j) psi[j + 1] = theta[j];
    double sum = 0;
    const double sigma2 = r.sigma2.data()[i];
    for (std::int64_t h = 0; h < horizon; ++h) {
      const double z = held(ahead[h]), p = held(psi[h]);
      const std::int64_t reach = std::min(blocks, rounded_up(horizon - h, 4));
      spread(ahead.data() + h + 1, phi.data(), reach, z);
      spread(psi.data() + h + 1, phi.data(), reach, p);
      mean[h] = z;
      sum = std::min(sum + p * p, kFar * kFar);
      variance[h] = std::min(sigma2 * sum, kFar * kFar);
    }
  }

  // Takes in count points at y with known[t] beside them; writes one-step means, and what is
  // remembered afterwards.
  void filter(const Held& r, std::int64_t i, const double* y, const double* known,
              std::int64_t count, double* means, double* past, double* errors) {
    const auto lags = static_cast<std::int64_t>(r.phi.shape(1));
    const auto memory = static_cast<std::int64_t>(r.theta.shape(1));
    const double* theta = r.theta.data() + i * memory;
    const double* weights = r.phi.data() + i * lags;
    phi.assign(weights, weights + lags);
    ahead.assign(r.past.data() + i * lags, r.past.data() + (i + 1) * lags);
    psi.assign(r.errors.data() + i * memory, r.errors.data() + (i + 1) * memory);
    std::reverse(phi.begin(), phi.end());
    for (std::int64_t t = 0; t < count; ++t) {
      double mean = r.constant.data()[i] + (known ? known[t] : 0);
      for (std::int64_t j = 0; j < lags; ++j) mean += phi[j] * ahead[t + j];
      for (std::int64_t j = 0; j < memory; ++j) mean += theta[memory - 1 - j] * psi[t + j];
      means[t] = held(mean);
      ahead.push_back(y[t]);
      psi.push_back(held(y[t] - means[t]));
    }
    std::copy(ahead.end() - lags, ahead.end(), past + i * lags);
    std::copy(psi.end() - memory, psi.end(), errors + i * memory);
  }
};

void bound_forecast(Reals constant, Rows phi, Rows theta, Reals sigma2, Rows past, Rows errors,
                    Rows known, OutRows mean, OutRows variance, int threads) {
  const Held r{constant, phi, theta, sigma2, past, errors};
  r.check();
  const auto count = static_cast<std::int64_t>(constant.size());
  const auto horizon = static_cast<std::int64_t>(mean.shape(1));
  require(mean.shape(0) == constant.size() && variance.shape(0) == constant.size() &&
              variance.shape(1) == mean.shape(1) &&
              (known.shape(1) == 0 ||
               (known.shape(0) == constant.size() && known.shape(1) == mean.shape(1))),
          "series: mean, variance and known differ in shape");
  nanobind::gil_scoped_release release;
  over_series(count, threads, [&](std::int64_t i) {
    thread_local Work work;
    const double* beside = known.shape(1) ? known.data() + i * horizon : nullptr;
    work.forecast(r, i, beside, horizon, mean.data() + i * horizon, variance.data() + i * horizon);
  });
}

void bound_filter(Reals constant, Rows phi, Rows theta, Reals sigma2, Rows past, Rows errors,
                  Reals values, Ints begin, Ints end, Reals known, OutReals means, OutRows new_past,
                  OutRows new_errors, int threads) {
  const Held r{constant, phi, theta, sigma2, past, errors};
  r.check();
  require_ragged(values, begin, end);
  require(begin.size() == constant.size() && means.size() == values.size() &&
              new_past.shape(0) == past.shape(0) && new_past.shape(1) == past.shape(1) &&
              new_errors.shape(0) == errors.shape(0) && new_errors.shape(1) == errors.shape(1) &&
              (known.size() == 0 || known.size() == values.size()),
          "series: the points and the recursions differ in shape");
  for (std::size_t i = 1; i < begin.size(); ++i) {
    require(begin.data()[i] >= end.data()[i - 1], "series: two of them share points");
  }
  nanobind::gil_scoped_release release;
  over_series(constant.size(), threads, [&](std::int64_t i) {
    thread_local Work work;
    const std::int64_t from = begin.data()[i];
    work.filter(r, i, values.data() + from, known.size() ? known.data() + from : nullptr,
                end.data()[i] - from, means.data() + from, new_past.data(), new_errors.data());
  });
}

}  // namespace
}  // namespace chainrule_series

void chainrule_bind_recursion(nanobind::module_& m) {
  using namespace chainrule_series;
  define(m, "chainrule_series_forecast", &bound_forecast,
         "constant, phi, theta, sigma2, past, errors, known [N, H or 0], mean and variance [N, H], "
         "threads.");
  define(m, "chainrule_series_filter", &bound_filter,
         "constant, …, errors, values, begin, end, known, means, past and errors [N, .] afterwards, "
         "threads.");
}
