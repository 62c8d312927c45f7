// What the files behind series/recursion.py, series/ar.py and series/differencing.py share.
#pragma once
#include "series.h"

namespace chainrule_series {

// No step of a recursion in scaled units goes further: squares and sums of it stay finite.
constexpr double kFar = 1e150;

inline double held(double x) { return std::min(std::max(x, -kFar), kFar); }

// Sums in eight lanes, in one order on every processor. `rows` is a multiple of 8.
inline double lanes_sum(const double* s) {
  return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

inline double dot(const double* __restrict a, const double* __restrict b, std::int64_t rows) {
  double s[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  for (std::int64_t t = 0; t < rows; t += 8) {
    for (int l = 0; l < 8; ++l) s[l] += a[t + l] * b[t + l];
  }
  return lanes_sum(s);
}

inline std::int64_t rounded_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

// Levinson-Durbin, Burg and the step-down test: levinson.cpp.
bool stable(const double* phi, std::int64_t p, std::vector<double>& scratch);
// Multiplies phi_i by radius^i so that the largest root is just inside; returns radius.
double shrink(double* phi, std::int64_t p, std::vector<double>& scratch);
// path [order + 1, order], variance [order + 1]: the coefficients and the error of every order.
void levinson(const double* w, std::int64_t n, std::int64_t order, double* path, double* variance,
              std::vector<double>& scratch);
void burg(const double* w, std::int64_t n, std::int64_t order, double* path, double* variance,
          std::vector<double>& scratch);

}  // namespace chainrule_series

void chainrule_bind_differencing(nanobind::module_& m);
void chainrule_bind_recursion(nanobind::module_& m);
