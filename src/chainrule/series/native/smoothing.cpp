// Exponential smoothing of many series. series/smoothing.py runs the same sums in the same order
// in torch: the bits agree.
#include <cmath>
#include <limits>

#include "series.h"

namespace {

using chainrule_series::Array;
using chainrule_series::Ints;
using chainrule_series::OutInts;
using chainrule_series::OutRows;
using chainrule_series::Reals;
using chainrule_series::require;
using Rows = Array<const double, 2>;

constexpr int kLanes = 8;        // candidates that run side by side
constexpr int kSides = 4;        // of the cube of candidates
constexpr int kFigures = 6;      // of a series in `out`
constexpr double kTwin = 1e-10;  // of the determinant: below, the two starts can't be told apart
constexpr double kWild = 1e3;    // squares of what a start of 1 leads to: it grows instead of fading
constexpr double kCritical = 1.6448536269514722;  // as in transform.py
constexpr double kFlat = 1e-24;                   // as in transform.py
constexpr double kLeastIndex = 0.01;              // as in transform.py

struct ChainruleGains {
  double alpha, beta, phi, gamma;
};

// A point of the unit cube as parameters: beta is a part of alpha, gamma of what alpha leaves, and
// small parts lie dense. box: the least and the greatest alpha and phi.
ChainruleGains chainrule_gains(const double* at, const double* box) {
  const double alpha = box[0] + at[0] * (box[1] - box[0]);
  return {alpha, alpha * (at[1] * at[1]), box[2] + at[2] * (box[3] - box[2]),
          (1 - alpha) * (at[3] * at[3])};
}

struct ChainruleStart {
  double loss, level, slope;
};

// The best start from the sums over a series, its slope within [low, high].
ChainruleStart chainrule_start(double ee, double e1, double e2, double g11, double g12, double g22,
                               double low, double high) {
  const double det = g11 * g22 - g12 * g12;
  double slope = det > kTwin * (g11 * g22) ? (e2 * g11 - e1 * g12) / det : 0.0;
  slope = std::min(std::max(slope, low), high);
  const double level = (e1 - slope * g12) / g11;
  const double explained = level * (e1 + e1 - level * g11) +
                           slope * (e2 + e2 - slope * g22 - (level + level) * g12);
  const double loss = g11 < kWild ? ee - explained : std::numeric_limits<double>::infinity();
  return {loss, level, slope};
}

// One series: y [n], and what a drift adds before each step (nothing where the slope is a state).
struct ChainruleSeries {
  const double *y, *drift;
  std::int64_t n;
  double trend;  // 1: the slope is a state, 0: it is a weight of the drift
};

// kLanes candidates over one series: their losses where level and slope start at their best.
// Errors are linear in the start, so three filters run: from nothing, from a level, from a slope.
template <bool kSlope, bool kSeason>
void chainrule_lanes(const ChainruleSeries& of, std::int64_t m, const ChainruleGains* gains,
                     double low, double high, std::vector<double>& rings, ChainruleStart* out) {
  double a[kLanes], b[kLanes], f[kLanes], g[kLanes], l[kLanes], s[kLanes] = {0};
  double l1[kLanes], s1[kLanes] = {0}, l2[kLanes] = {0}, s2[kLanes];
  double ee[kLanes] = {0}, e1[kLanes] = {0}, e2[kLanes] = {0};
  double g11[kLanes] = {0}, g12[kLanes] = {0}, g22[kLanes] = {0};
  for (int j = 0; j < kLanes; ++j) {
    a[j] = gains[j].alpha, b[j] = gains[j].beta, f[j] = gains[j].phi, g[j] = gains[j].gamma;
    l[j] = of.y[0], l1[j] = 1, s2[j] = of.trend;
  }
  if (kSeason) std::fill(rings.begin(), rings.end(), 0.0);
  double* ring = rings.data();
  for (std::int64_t t = 0; t < of.n; ++t) {
    const double now = of.y[t], pull = of.drift[t];
    for (int j = 0; j < kLanes; ++j) {
      if (!kSlope) {
        const double e = now - l[j], q1 = l1[j];
        l[j] += a[j] * e, l1[j] -= a[j] * q1;
        ee[j] += e * e, e1[j] += e * q1, g11[j] += q1 * q1;
        continue;
      }
      const double p = f[j] * s[j], base = l[j] + p;
      const double p1 = f[j] * s1[j], base1 = l1[j] + p1;
      const double p2 = f[j] * s2[j] + pull, base2 = l2[j] + p2;
      const double e = now - (kSeason ? base + ring[j] : base);
      const double q1 = kSeason ? base1 + ring[kLanes + j] : base1;
      const double q2 = kSeason ? base2 + ring[2 * kLanes + j] : base2;
      l[j] = base + a[j] * e, s[j] = p + b[j] * e;
      l1[j] = base1 - a[j] * q1, s1[j] = p1 - b[j] * q1;
      l2[j] = base2 - a[j] * q2, s2[j] = p2 - b[j] * q2;
      if (kSeason) {
        ring[j] += g[j] * e;
        ring[kLanes + j] -= g[j] * q1;
        ring[2 * kLanes + j] -= g[j] * q2;
      }
      ee[j] += e * e, e1[j] += e * q1, e2[j] += e * q2;
      g11[j] += q1 * q1, g12[j] += q1 * q2, g22[j] += q2 * q2;
    }
    if (kSeason) ring = t % m == m - 1 ? rings.data() : ring + 3 * kLanes;
  }
  for (int j = 0; j < kLanes; ++j) {
    out[j] = chainrule_start(ee[j], e1[j], e2[j], g11[j], g12[j], g22[j], low, high);
  }
}

// slopes[t]: of the straight line through the first t points, t = 0 … n; 0 through fewer than 2.
void chainrule_slopes(const double* y, std::int64_t n, double* slopes) {
  double sum = 0, moment = 0;
  slopes[0] = 0;
  for (std::int64_t t = 1; t <= n; ++t) {
    const double away = y[t - 1] - y[0], k = static_cast<double>(t);
    sum += away, moment += k * away;
    slopes[t] = t > 1 ? (moment - (k + 1) * 0.5 * sum) / (k * (k * k - 1) / 12) : 0.0;
  }
}

struct ChainruleSearch {
  const double* grid;
  std::int64_t num_grid;
  const double* moves;
  std::int64_t num_moves;
  const double* step;  // along each side, at first
  int rounds;
  double shrink, prior;
  const double *box, *bounds;  // bounds: of the start's slope, or of the drift's weight
  int drift;                   // 0: the slope is a state; 1: one drift, 2: what was known before
  std::int64_t season, least;  // a series with fewer points than `least` is not searched
};

struct ChainruleScratch {
  std::vector<double> points, slopes, drift, rings;
};

// Filters a series: out = alpha, beta, phi, gamma, drift, sum of squares; errors: the last Q.
void chainrule_filter(const ChainruleSeries& of, std::int64_t m, ChainruleGains p, double level,
                      double slope, double last, std::vector<double>& ring, double* out,
                      double* errors, std::int64_t num_errors) {
  const double weight = of.trend > 0 ? 0.0 : slope;
  double squares = 0, moved = of.trend > 0 ? slope : 0.0;
  std::fill(ring.begin(), ring.end(), 0.0);
  for (std::int64_t t = 0; t < of.n; ++t) {
    const double step = p.phi * moved + weight * of.drift[t], base = level + step;
    double& season = ring[t % m];
    const double e = of.y[t] - (base + season);
    level = base + p.alpha * e, moved = p.phi * moved + p.beta * e, season += p.gamma * e;
    squares += e * e;
    if (of.n - t <= num_errors) errors[num_errors - (of.n - t)] = e;
  }
  const double row[kFigures] = {p.alpha, p.beta, p.phi, p.gamma, weight * last, squares};
  std::copy(row, row + kFigures, out);
}

void chainrule_smooth_one(const double* y, std::int64_t n, const ChainruleSearch& how,
                          ChainruleScratch& own, double* out, double* errors,
                          std::int64_t num_errors) {
  constexpr double kNone = std::numeric_limits<double>::infinity();
  own.slopes.resize(n + 1);
  own.drift.assign(n, 0.0);
  const std::int64_t m = std::clamp<std::int64_t>(n, 1, how.season);  // a ring is no longer than n
  own.rings.resize(3 * kLanes * m);
  if (n) chainrule_slopes(y, n, own.slopes.data());
  if (how.drift == 1) std::fill(own.drift.begin(), own.drift.end(), own.slopes[n]);
  if (how.drift == 2) std::copy(own.slopes.begin(), own.slopes.end() - 1, own.drift.begin());
  const ChainruleSeries of{y, own.drift.data(), n, how.drift ? 0.0 : 1.0};
  const double open = n > how.season ? 1.0 : 0.0;  // is there anything to learn a season from?
  const bool level_only = how.drift && how.bounds[0] == 0 && how.bounds[1] == 0;
  double best[kSides] = {0}, step[kSides];
  std::copy(how.step, how.step + kSides, step);
  ChainruleStart found{kNone, 0, 0}, starts[kLanes];
  for (int round = 0; round <= how.rounds && n >= how.least; ++round) {
    const std::int64_t count = round ? how.num_moves : how.num_grid;
    const double* from = round ? how.moves : how.grid;
    for (std::int64_t k = 0; k < count * kSides; ++k) {
      const int side = k % kSides;
      const double at = round ? best[side] + from[k] * step[side] : from[k];
      own.points[k] = std::min(std::max(at, 0.0), side == 3 ? open : 1.0);
    }
    for (std::int64_t k = 0; k < count; k += kLanes) {
      ChainruleGains gains[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        const std::int64_t at = std::min<std::int64_t>(k + j, count - 1);
        gains[j] = chainrule_gains(&own.points[at * kSides], how.box);
      }
      const auto lanes = how.season > 1 ? chainrule_lanes<true, true>
                         : level_only   ? chainrule_lanes<false, false>
                                        : chainrule_lanes<true, false>;
      lanes(of, m, gains, how.bounds[0], how.bounds[1], own.rings, starts);
      for (int j = 0; j < kLanes && k + j < count; ++j) {
        const double* at = &own.points[(k + j) * kSides];
        starts[j].loss *= 1 + how.prior * (at[1] * at[1]) / n;
        if (!(starts[j].loss < found.loss)) continue;
        found = starts[j];
        std::copy(at, at + kSides, best);
      }
    }
    if (round) for (double& width : step) width *= how.shrink;
  }
  const bool any = found.loss < kNone;
  const ChainruleGains still{1, 0, how.box[2], 0};
  const ChainruleGains gains = any ? chainrule_gains(best, how.box) : still;
  own.rings.resize(m);
  chainrule_filter(of, m, gains, n ? y[0] + found.level : 0.0, any ? found.slope : 0.0,
                   own.slopes[n], own.rings, out, errors, num_errors);
}

void chainrule_smooth(Reals values, Ints begin, Ints end, Rows grid, Rows moves, Reals step,
                      int rounds, double shrink, double prior, Reals box, Reals bounds, int drift,
                      std::int64_t season, std::int64_t least, OutRows out, OutRows errors,
                      int threads) {
  chainrule_series::require_ragged(values, begin, end);
  require(grid.shape(1) == kSides && moves.shape(1) == kSides && step.size() == kSides &&
              box.size() == 4 && bounds.size() == 2,
          "smooth: a part of the search has another size");
  require(out.shape(0) == begin.size() && out.shape(1) == kFigures &&
              errors.shape(0) == begin.size(),
          "smooth: out or errors has another size");
  require(least >= 1 && season >= 1, "smooth: a season of no length");
  const auto num_grid = static_cast<std::int64_t>(grid.shape(0));
  const auto num_moves = static_cast<std::int64_t>(moves.shape(0));
  const auto num_errors = static_cast<std::int64_t>(errors.shape(1));
  const ChainruleSearch how{grid.data(), num_grid, moves.data(), num_moves, step.data(),
                            rounds,      shrink,   prior,        box.data(), bounds.data(),
                            drift,       season,   least};
  const nanobind::gil_scoped_release release;
  chainrule_series::over_series(begin.size(), threads, [&](std::int64_t i) {
    thread_local ChainruleScratch own;
    own.points.resize(kSides * std::max(num_grid, num_moves));
    const std::int64_t first = begin.data()[i];
    chainrule_smooth_one(values.data() + first, end.data()[i] - first, how, own,
                         out.data() + i * kFigures, errors.data() + i * num_errors, num_errors);
  });
}

// The autocorrelation at lag m lies beyond its 90 % limit (transform.py: has_season).
bool chainrule_has_season(const double* z, std::int64_t n, std::int64_t m) {
  if (n < 3 * m) return false;
  double mean = 0, all = 0, own = 0, others = 0, last = 0;
  for (std::int64_t t = 0; t < n; ++t) mean += z[t], all += z[t] * z[t];
  mean /= n;
  for (std::int64_t t = 0; t < n; ++t) own += (z[t] - mean) * (z[t] - mean);
  if (!(own > kFlat * all)) return false;
  for (std::int64_t lag = 1; lag <= m; ++lag) {
    double sum = 0;
    for (std::int64_t t = lag; t < n; ++t) sum += (z[t] - mean) * (z[t - lag] - mean);
    others += last * last, last = sum / own;
  }
  return std::abs(last) > kCritical * std::sqrt((1 + 2 * others) / n);
}

// Seasonal indices of a classical decomposition; the first belongs to the next step. False: one is
// too small to divide by.
bool chainrule_indices(const double* z, std::int64_t n, std::int64_t m, bool ratio, double* index,
                       std::vector<double>& count) {
  const std::int64_t half = m / 2;
  count.assign(m, 0.0);
  std::fill(index, index + m, 0.0);
  for (std::int64_t t = half; t + half < n; ++t) {
    double sum = 0;
    for (std::int64_t k = t - half; k <= t + half; ++k) sum += z[k];
    const double ends = m % 2 == 0 ? (z[t - half] + z[t + half]) / 2 : 0.0;
    const double trend = (sum - ends) / m;
    const std::int64_t phase = m - 1 - (n - 1 - t) % m;
    index[phase] += ratio ? z[t] / (trend == 0 ? 1.0 : trend) : z[t] - trend;
    count[phase] += 1;
  }
  double mean = 0, least = kLeastIndex;
  for (std::int64_t k = 0; k < m; ++k) mean += (index[k] /= std::max(count[k], 1.0));
  mean /= m;
  for (std::int64_t k = 0; k < m; ++k) {
    index[k] = ratio ? index[k] / (mean == 0 ? 1.0 : mean) : index[k] - mean;
    least = std::min(least, index[k]);
  }
  return !(least < kLeastIndex);
}

void chainrule_season(Reals values, Ints begin, Ints end, bool steps, OutRows table,
                      OutInts ratio, int threads) {
  chainrule_series::require_ragged(values, begin, end);
  require(table.shape(0) == begin.size() && ratio.size() == begin.size() && table.shape(1) > 0,
          "season: an output has another size");
  const auto m = static_cast<std::int64_t>(table.shape(1));
  const nanobind::gil_scoped_release release;
  chainrule_series::over_series(begin.size(), threads, [&](std::int64_t i) {
    thread_local std::vector<double> count, moves;
    const double *z = values.data() + begin.data()[i], *stop = values.data() + end.data()[i];
    double* index = table.data() + i * m;
    std::fill(index, index + m, 0.0);
    const bool may = ratio.data()[i] && std::all_of(z, stop, [](double x) { return x > 0; });
    ratio.data()[i] = 0;
    bool found = chainrule_has_season(z, stop - z, m);
    if (!found && steps && stop - z > 1) {
      moves.resize(stop - z - 1);
      for (std::int64_t t = 1; t < stop - z; ++t) moves[t - 1] = z[t] - z[t - 1];
      found = chainrule_has_season(moves.data(), stop - z - 1, m);
    }
    if (!found) return;
    ratio.data()[i] = may && chainrule_indices(z, stop - z, m, true, index, count);
    if (!ratio.data()[i]) chainrule_indices(z, stop - z, m, false, index, count);
  });
}

}  // namespace

void chainrule_bind_smoothing(nanobind::module_& m) {
  using chainrule_series::define;
  define(m, "chainrule_series_smooth", &chainrule_smooth,
         "values, begin, end, grid [G, 4], moves [M, 4], step [4], rounds, shrink, prior, box [4], "
         "bounds [2], drift, season, least, out [N, 6], errors [N, Q], threads: the search of "
         "series/smoothing.py. `errors` comes in as zeros.");
  define(m, "chainrule_series_season", &chainrule_season,
         "values, begin, end, steps, table [N, m], ratio int64 [N] (1: may be, then: is), "
         "threads: the seasonal indices of series/transform.py.");
}
