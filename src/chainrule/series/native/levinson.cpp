// Levinson-Durbin and Burg for every order at once, and the step-down test for stability.
#include <cmath>

#include "linear.h"

namespace chainrule_series {

// Levinson-Durbin backwards: stable when all reflection coefficients are below 1 in size.
bool stable(const double* phi, std::int64_t p, std::vector<double>& scratch) {
  double total = 0;
  for (std::int64_t i = 0; i < p; ++i) total += std::fabs(phi[i]);
  if (total < 1) return true;
  scratch.assign(phi, phi + p);
  double* a = scratch.data();
  for (std::int64_t m = p; m > 0; --m) {
    const double k = a[m - 1], rest = 1 - k * k;
    if (!(rest > 0)) return false;
    const double scale = 1 / rest;
    for (std::int64_t i = 0, j = m - 2; i <= j; ++i, --j) {
      const double front = a[i], back = a[j];
      a[i] = (front + k * back) * scale;
      a[j] = (back + k * front) * scale;
    }
  }
  return true;
}

double shrink(double* phi, std::int64_t p, std::vector<double>& scratch) {
  if (stable(phi, p, scratch)) return 1;
  std::vector<double> tried(p);
  const auto at = [&](double radius) {
    double power = 1;
    for (std::int64_t i = 0; i < p; ++i) tried[i] = phi[i] * (power *= radius);
  };
  double low = 0, high = 1;
  for (int step = 0; step < 40; ++step) {
    const double middle = (low + high) / 2;
    at(middle);
    (stable(tried.data(), p, scratch) ? low : high) = middle;
  }
  at(low);
  std::copy(tried.begin(), tried.end(), phi);
  return low;
}

namespace {

constexpr double kSpent = 1e-14;  // of the variance: what is left is rounding

// Row k of path from row k - 1 and the reflection coefficient.
void step_up(double* path, std::int64_t order, std::int64_t k, double reflection) {
  const double* before = path + (k - 1) * order;
  double* row = path + k * order;
  for (std::int64_t i = 0; i < k - 1; ++i) row[i] = before[i] - reflection * before[k - 2 - i];
  row[k - 1] = reflection;
}

}  // namespace

void levinson(const double* w, std::int64_t n, std::int64_t order, double* path, double* variance,
              std::vector<double>& scratch) {
  scratch.assign(order + 1, 0);
  double* r = scratch.data();
  for (std::int64_t k = 0; k <= order; ++k) {
    for (std::int64_t t = k; t < n; ++t) r[k] += w[t] * w[t - k];
    r[k] /= n;
  }
  std::fill(path, path + (order + 1) * order, 0.0);
  variance[0] = r[0];
  for (std::int64_t k = 1; k <= order; ++k) {
    double sum = r[k];
    for (std::int64_t i = 0; i < k - 1; ++i) sum -= path[(k - 1) * order + i] * r[k - 1 - i];
    const double reflection = variance[k - 1] > kSpent * r[0] ? sum / variance[k - 1] : 0;
    step_up(path, order, k, reflection);
    variance[k] = variance[k - 1] * std::max(1 - reflection * reflection, 0.0);
  }
}

void burg(const double* w, std::int64_t n, std::int64_t order, double* path, double* variance,
          std::vector<double>& scratch) {
  scratch.assign(w, w + n);
  scratch.insert(scratch.end(), w, w + n);
  double* ahead = scratch.data();
  double* back = ahead + n;
  double power = 0;
  for (std::int64_t t = 0; t < n; ++t) power += w[t] * w[t];
  std::fill(path, path + (order + 1) * order, 0.0);
  variance[0] = power / n;
  for (std::int64_t k = 1; k <= order; ++k) {
    double both = 0, size = 0;
    for (std::int64_t t = k; t < n; ++t) {
      both += ahead[t] * back[t - 1];
      size += ahead[t] * ahead[t] + back[t - 1] * back[t - 1];
    }
    const double reflection = variance[k - 1] > kSpent * variance[0] ? 2 * both / size : 0;
    step_up(path, order, k, reflection);
    variance[k] = variance[k - 1] * std::max(1 - reflection * reflection, 0.0);
    for (std::int64_t t = n - 1; t >= k; --t) {
      const double f = ahead[t], b = back[t - 1];
      ahead[t] = f - reflection * b;
      back[t] = b - reflection * f;
    }
  }
}

}  // namespace chainrule_series
