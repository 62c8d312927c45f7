// Autoregressions of many series in one call: series/ar.py, which also decides the orders that are
// possible. Everything is fitted on a series of size about 1, so nothing overflows.
#include <cmath>
#include <limits>

#include "least_squares.h"

namespace chainrule_series {
namespace {

enum Method { kLeastSquares, kRidge, kYuleWalker, kBurg };
enum Criterion { kFixed, kAicc, kBic, kValidation };

struct Task {
  Method method;
  Criterion criterion;
  std::int64_t season, validated;  // one of `validated` points is held out
  bool stable;
};

// What is known of one series before, and where its results go.
struct Job {
  const double* y;
  std::int64_t n, d, D, order, seasonal;
  bool constant;
  std::vector<const double*> known;  // columns [n] of regressors, of size about 1 and centred
};

struct Found {
  double constant = 0, sigma2 = 0, loc = 0, scale = 1, radius = 1;
  std::int64_t order = 0;
};

double power_of_two(double size) {
  if (!(size > 0)) return 1;
  int exponent;
  std::frexp(size, &exponent);
  return std::ldexp(1.0, std::min(std::max(exponent, -1020), 1020));
}

// x = y / scale - loc / scale, at most about 1 in size; scale is a power of two.
void standardise(const double* y, std::int64_t stride, std::int64_t n, bool centred, double* x,
                 double* loc, double* scale) {
  double size = 0;
  for (std::int64_t t = 0; t < n; ++t) size = std::max(size, std::fabs(y[t * stride]));
  const double whole = power_of_two(size), down = 1 / whole;
  double mean = 0, most = 0;
  for (std::int64_t t = 0; t < n; ++t) x[t] = y[t * stride] * down;
  if (centred) {
    for (std::int64_t t = 1; t < n; ++t) mean += x[t] - x[0];
    mean = x[0] + mean / double(n);
  }
  for (std::int64_t t = 0; t < n; ++t) {
    x[t] -= mean;
    most = std::max(most, std::fabs(x[t]));
  }
  // A spread that vanishes beside the level keeps the level's unit: sizes stay in range.
  double fine = most * whole > std::ldexp(1.0, -1000) ? power_of_two(most) : 1;
  fine = std::min(fine, std::ldexp(1.0, 1023) / whole);
  const double up = 1 / fine;
  for (std::int64_t t = 0; t < n; ++t) x[t] *= up;
  *loc = mean * whole;
  *scale = fine * whole;
}

void difference(double* w, std::int64_t* n, std::int64_t times, std::int64_t lag) {
  for (std::int64_t step = 0; step < times; ++step) {
    *n -= lag;
    for (std::int64_t t = 0; t < *n; ++t) w[t] = w[t + lag] - w[t];
  }
}

double penalised(Criterion criterion, double variance, double rows, double parameters) {
  const double fit = rows * std::log(variance);
  if (criterion == kBic) return fit + parameters * std::log(rows);
  const double room = rows - parameters - 1;
  if (room <= 0) return HUGE_VAL;
  return fit + 2 * parameters + 2 * parameters * (parameters + 1) / room;
}

std::int64_t held_out(std::int64_t n, std::int64_t validated) {
  return std::max<std::int64_t>(1, n / validated);
}

// The least criterion; the shortest order among equals.
std::int64_t best(const std::vector<double>& score) {
  return std::min_element(score.begin(), score.end()) - score.begin();
}

class Fitter {
 public:
  Task task;

  // phi [room] comes zeroed; beta [F]; past [room].
  Found fit(Job& job, double* phi, double* beta, double* past, std::int64_t room) {
    Found found;
    const std::int64_t n = job.n;
    if (n == 0) return found;
    w_.assign(n + 8, 0);
    standardise(job.y, 1, n, job.constant || job.d + job.D > 0, w_.data(), &found.loc,
                &found.scale);
    const std::int64_t kept = std::min(n, room);
    std::copy(w_.begin() + (n - kept), w_.begin() + n, past + room - kept);
    std::int64_t left = n;
    difference(w_.data(), &left, job.D, task.season);
    difference(w_.data(), &left, job.d, 1);
    std::fill(w_.begin() + left, w_.end(), 0.0);
    if (left < 1) return found;
    if (task.method == kLeastSquares || task.method == kRidge) {
      regress(job, left, phi, beta, &found);
    } else {
      recurse(job, left, phi, &found);
    }
    expand(phi, room, job.d, 1);
    expand(phi, room, job.D, task.season);
    return found;
  }

 private:
  void regress(const Job& job, std::int64_t n, double* phi, double* beta, Found* found) {
    base_.clear();
    for (std::int64_t k = 1; k <= job.seasonal; ++k) base_.push_back(k * task.season);
    const auto fixed = static_cast<std::int64_t>(base_.size() + job.known.size());
    const std::int64_t far = base_.empty() ? 0 : base_.back();
    std::int64_t order = job.order;
    squares_.columns(w_.data(), base_, job.known, order, job.constant);
    if (task.criterion != kFixed && order > 0) {
      order = chosen(job, n, fixed, far);
      squares_.columns(w_.data(), base_, job.known, order, job.constant);
    }
    squares_.eliminate(std::max(order, far), n);
    const std::int64_t width = squares_.width();
    b_.resize(width + 1);
    bool exact = true;
    if (task.method == kRidge) {
      squares_.ridge(b_.data());
    } else {
      squares_.solve(width, b_.data());
      if (squares_.lossy()) squares_.refine(b_.data());
      exact = !squares_.lossy();
    }
    for (std::int64_t c = 0; c < width; ++c) {
      if (squares_.lag(c)) phi[squares_.lag(c) - 1] = b_[c];
    }
    if (task.stable) {
      found->radius = shrink(phi, std::max(order, far), scratch_);
      for (std::int64_t c = 0; found->radius < 1 && c < width; ++c) {
        if (squares_.lag(c)) b_[c] = phi[squares_.lag(c) - 1];
      }
    }
    double sum = squares_.left(width);
    if (exact && found->radius == 1 && task.method == kLeastSquares) {
      found->constant = squares_.mean(b_.data());
    } else {
      squares_.residuals(b_.data(), &found->constant, &sum);
    }
    const std::int64_t spare = squares_.rows() - width - job.constant;
    found->sigma2 = sum / double(std::max<std::int64_t>(spare, 1));
    found->order = order;
    std::copy_n(b_.begin() + static_cast<std::int64_t>(base_.size()), job.known.size(), beta);
  }

  std::int64_t chosen(const Job& job, std::int64_t n, std::int64_t fixed, std::int64_t far) {
    const std::int64_t first = std::max(job.order, far);
    const bool validating = task.criterion == kValidation;
    const std::int64_t held = validating ? held_out(n, task.validated) : 0;
    squares_.eliminate(first, n - held);
    const std::int64_t width = squares_.width();
    score_.clear();
    lags_.clear();
    b_.resize(width + 1);
    for (std::int64_t k = 0; k <= job.order; ++k) {
      std::int64_t used = fixed;
      while (used < width && squares_.lag(used) <= k) ++used;
      if (validating) {
        squares_.solve(used, b_.data());
        score_.push_back(error(n - held, n));
      } else {
        const double rows = double(squares_.rows());
        score_.push_back(penalised(task.criterion, squares_.left(used) / rows, rows,
                                   double(used) + job.constant + 1));
      }
      lags_.push_back(k);
      if (used == width) break;  // what is longer adds nothing
    }
    return lags_[best(score_)];
  }

  // Squared one-step errors of b_ over the rows from .. to - 1.
  double error(std::int64_t from, std::int64_t to) const {
    const double constant = squares_.mean(b_.data());
    double sum = 0;
    for (std::int64_t t = from; t < to; ++t) {
      double e = w_[t] - constant;
      for (std::int64_t c = 0; c < squares_.width(); ++c) e -= b_[c] * squares_.column(c)[t];
      sum += e * e;
    }
    return sum;
  }

  // Yule-Walker and Burg.
  void recurse(const Job& job, std::int64_t n, double* phi, Found* found) {
    const std::int64_t order = job.order;
    std::int64_t k = order;
    if (task.criterion != kFixed && order > 0) {
      const std::int64_t held = task.criterion == kValidation ? held_out(n, task.validated) : 0;
      const double mean = run(job, n - held);
      score_.assign(order + 1, 0);
      for (std::int64_t q = 0; q <= order; ++q) {
        if (held) {
          for (std::int64_t t = n - held; t < n; ++t) {
            double e = w_[t] - mean;
            for (std::int64_t i = 0; i < q; ++i) e -= path_[q * order + i] * (w_[t - 1 - i] - mean);
            score_[q] += e * e;
          }
        } else {
          const double rest = std::max(variance_[q], variance_[0] * kNothing);
          score_[q] = penalised(task.criterion, rest, double(n), double(q) + job.constant + 1);
        }
      }
      k = best(score_);
    }
    const double mean = run(job, n);
    double total = 0;
    for (std::int64_t i = 0; i < k; ++i) total += phi[i] = path_[k * order + i];
    found->constant = mean * (1 - total);
    const std::int64_t spare = n - k - job.constant;
    found->sigma2 = variance_[k] * double(n) / double(std::max<std::int64_t>(spare, 1));
    found->order = k;
    if (task.stable) {
      found->radius = shrink(phi, k, scratch_);
      if (found->radius < 1) {
        found->constant = mean;
        for (std::int64_t i = 0; i < k; ++i) found->constant -= mean * phi[i];
      }
    }
  }

  // All orders on the first n points around their mean, which is returned.
  double run(const Job& job, std::int64_t n) {
    double mean = 0;
    for (std::int64_t t = 0; job.constant && t < n; ++t) mean += w_[t];
    mean /= double(n);
    centred_.resize(n);
    for (std::int64_t t = 0; t < n; ++t) centred_[t] = w_[t] - mean;
    path_.resize((job.order + 1) * job.order);
    variance_.resize(job.order + 1);
    const auto method = task.method == kBurg ? burg : levinson;
    method(centred_.data(), n, job.order, path_.data(), variance_.data(), scratch_);
    return mean;
  }

  // phi of (1 - phi(B)) (1 - B^lag)^times, in place.
  static void expand(double* phi, std::int64_t room, std::int64_t times, std::int64_t lag) {
    for (std::int64_t step = 0; step < times; ++step) {
      for (std::int64_t i = room - 1; i >= lag; --i) phi[i] -= phi[i - lag];
      phi[lag - 1] += 1;
    }
  }

  LeastSquares squares_;
  std::vector<std::int64_t> base_, lags_;
  std::vector<double> w_, b_, scratch_, score_, centred_, path_, variance_;
};

// Regressor columns of one series, centred, scaled and differenced as the series is.
struct Regressors {
  std::vector<std::vector<double>> columns;
  std::vector<double> loc, scale;

  void read(const double* rows, std::int64_t n, std::int64_t count, bool centred, std::int64_t d,
            std::int64_t D, std::int64_t season, std::vector<const double*>* out) {
    columns.resize(count);
    loc.resize(count);
    scale.resize(count);
    out->clear();
    for (std::int64_t f = 0; f < count; ++f) {
      auto& x = columns[f];
      x.assign(n + 8, 0);
      standardise(rows + f, count, n, centred, x.data(), &loc[f], &scale[f]);
      std::int64_t left = n;
      difference(x.data(), &left, D, season);
      difference(x.data(), &left, d, 1);
      std::fill(x.begin() + left, x.end(), 0.0);
      out->push_back(x.data());
    }
  }
};

using Rows = Array<const double, 2>;

void bound_fit(Reals values, Ints begin, Ints end, Rows known, Ints d, Ints D, Ints order,
               Ints seasonal, Ints constant, Ints regressed, int method, int criterion,
               std::int64_t season, std::int64_t validated, bool stable, OutRows phi, OutRows beta,
               OutRows past, OutRows found, OutInts orders, int threads) {
  require_ragged(values, begin, end);
  const std::size_t count = begin.size();
  const auto room = static_cast<std::int64_t>(phi.shape(1));
  const auto width = static_cast<std::int64_t>(known.shape(1));
  require(width == 0 || known.shape(0) == values.size(), "series: a row of known for every value");
  for (const Ints* each : {&d, &D, &order, &seasonal, &constant, &regressed}) {
    require(each->size() == count, "series: the orders differ in length from the series");
  }
  require(phi.shape(0) == count && past.shape(0) == count && past.shape(1) == phi.shape(1) &&
              beta.shape(0) == count && beta.shape(1) == known.shape(1) &&
              found.shape(0) == count && found.shape(1) == 5 && orders.size() == count,
          "series: the results differ in shape");
  require(season >= 1 && validated >= 1 && 0 <= method && method <= kBurg && 0 <= criterion &&
              criterion <= kValidation,
          "series: unknown method, criterion or season");
  const auto fits = [room](std::int64_t times, std::int64_t lag) {
    return 0 <= times && times <= room / lag;
  };
  for (std::size_t i = 0; i < count; ++i) {
    constexpr const char* kLong = "series: an order is longer than its series or than phi";
    const std::int64_t p = order.data()[i], n = end.data()[i] - begin.data()[i];
    require(fits(p, 1) && fits(d.data()[i], 1) && fits(D.data()[i], season) &&
                fits(seasonal.data()[i], season),
            kLong);
    const std::int64_t reach = std::max(p, seasonal.data()[i] * season);
    const std::int64_t gone = d.data()[i] + D.data()[i] * season, left = n - gone;
    const bool validating = criterion == kValidation && p > 0;
    require(reach + gone <= room && (gone == 0 || left > 0) &&
                reach < std::max<std::int64_t>(left, 1) -
                            (validating ? held_out(left, validated) : 0),
            kLong);
  }
  const Task task{static_cast<Method>(method), static_cast<Criterion>(criterion), season, validated,
                  stable};
  nanobind::gil_scoped_release release;
  over_series(count, threads, [&](std::int64_t i) {
    thread_local Regressors regressors;
    thread_local Fitter fitter;
    fitter.task = task;
    const std::int64_t from = begin.data()[i], n = end.data()[i] - from;
    Job job{values.data() + from, n, d.data()[i], D.data()[i], order.data()[i], seasonal.data()[i],
            constant.data()[i] != 0, {}};
    const bool with = width > 0 && regressed.data()[i] && n > job.d + job.D * season;
    if (with) {
      regressors.read(known.data() + from * width, n, width, job.constant || job.d + job.D > 0,
                      job.d, job.D, season, &job.known);
    }
    double* weights = beta.data() + i * width;
    Found out = fitter.fit(job, phi.data() + i * room, weights, past.data() + i * room, room);
    for (std::int64_t f = 0; with && f < width; ++f) {
      weights[f] /= regressors.scale[f];
      if (job.d + job.D == 0) out.constant -= weights[f] * regressors.loc[f];
    }
    double* row = found.data() + i * 5;
    row[0] = out.constant, row[1] = out.sigma2, row[2] = out.loc, row[3] = out.scale;
    row[4] = out.radius;
    orders.data()[i] = out.order;
  });
}

}  // namespace
}  // namespace chainrule_series

void chainrule_bind_ar(nanobind::module_& m) {
  using namespace chainrule_series;
  chainrule_bind_differencing(m);
  chainrule_bind_recursion(m);
  define(m, "chainrule_ar_fit", &bound_fit,
         "values, begin, end, known [points, F], then [N] each: d, D, order, seasonal, constant, "
         "regressed; method, criterion, season, validated, stable; out: phi and past [N, P], "
         "beta [N, F], found [N, 5] (constant, sigma2, loc, scale, radius), orders [N]; threads.");
}
