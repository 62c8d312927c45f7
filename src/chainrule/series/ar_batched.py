"""The numbers of native/ar.cpp in torch: no loop over series, on any device.

Shapes: N series, T points of the longest, C columns (seasonal lags, regressors, lags), P lags.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chainrule.series.ar_plan import VALIDATED, Found, Plan
from chainrule.series.batch import Ragged
from chainrule.series.differencing import expand
from chainrule.series.least_squares import Squares
from chainrule.series.levinson import burg, levinson, shrunk

_NOTHING = 1e-14  # less than this part of a variance is rounding
_CHUNK = 2**26  # numbers in the largest tensor


def fit_batched(data: Ragged, plan: Plan) -> Found:
    """See ``AR``."""
    longest = int(data.lens.max()) if len(data) else 0
    width = 0 if data.known is None else data.known.shape[1]
    reach = int(plan.order.max()) + int(plan.seasonal.max()) + width + 1 if len(data) else 1
    rows = max(1, _CHUNK // max(1, longest * reach))
    if len(data) <= rows:
        return _fit(data, plan)
    spans = torch.arange(len(data)).split(rows)
    parts = [_fit(data.select(span), plan.select(span)) for span in spans]
    return Found.concat(parts)


def _fit(data: Ragged, plan: Plan) -> Found:
    device = data.values.device
    centred = (plan.constant | (plan.d + plan.D > 0)).to(device)
    padded, there = data.padded()
    if padded.shape[1] == 0:
        padded, there = padded.new_zeros(len(data), 1), there.new_zeros(len(data), 1)
    x, loc, scale = _standardised(padded, there, centred)
    w, inside = _differenced(x, there, plan)
    known, centres, sizes = _regressors(data, plan, centred)
    lens = inside.sum(1)
    if plan.method in ("ols", "ridge"):
        out = _regress(w, inside, known, plan)
    else:
        out = _recurse(w, inside, lens, plan)
    constant, phi, beta, sigma2, order, radius = out
    beta = beta / sizes
    still = (plan.d + plan.D == 0).to(device)
    constant = constant - torch.where(still, (beta * centres).sum(1), 0.0)
    some = lens > 0
    phi = expand(torch.where(some[:, None], phi, 0.0), plan.d, plan.D, plan.season)
    order = torch.where(some, order, 0).cpu()
    used = plan.used(order)
    phi = torch.nn.functional.pad(phi, (0, max(0, used - phi.shape[1])))[:, :used]
    past = torch.nn.functional.pad(x, (max(0, used - x.shape[1]), 0))
    past = past[:, past.shape[1] - used :]
    zero = torch.zeros_like(constant)
    return Found(
        torch.where(some, constant, zero),
        phi,
        torch.where(some[:, None], beta, 0.0),
        torch.where(some, sigma2, zero),
        past,
        loc,
        scale,
        order,
        torch.where(some, radius, 1.0),
    )


def _power_of_two(size: Tensor) -> Tensor:
    _, exponent = torch.frexp(torch.where(size > 0, size, 0.5))
    return torch.ldexp(torch.ones_like(size), exponent.clamp(-1020, 1020))


def _standardised(y: Tensor, there: Tensor, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Right-aligned x = (y - loc) / scale [N, T], at most about 1; scale is a power of two."""
    whole = _power_of_two(y.abs().amax(1))
    x = y * (1 / whole)[:, None]
    lens = there.sum(1)
    first = x.gather(1, (x.shape[1] - lens.clamp_min(1))[:, None])
    mean = first[:, 0] + torch.where(there, x - first, 0.0).sum(1) / lens.clamp_min(1)
    mean = torch.where(centred & (lens > 0), mean, 0.0)
    x = torch.where(there, x - mean[:, None], 0.0)
    most = x.abs().amax(1)
    fine = torch.where(most * whole > 2.0**-1000, _power_of_two(most), 1.0)
    fine = torch.minimum(fine, 2.0**1023 / whole)
    return x * (1 / fine)[:, None], mean * whole, fine * whole


def _differenced(x: Tensor, there: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    behind = torch.arange(x.shape[1], device=x.device)
    for times, lag in ((plan.D, plan.season), (plan.d, 1)):
        for step in range(int(times.max()) if len(x) else 0):
            on = (step < times).to(x.device)[:, None]
            left = there & there.roll(lag, 1) & (behind >= lag)
            x = torch.where(on, torch.where(left, x - x.roll(lag, 1), 0.0), x)
            there = torch.where(on, left, there)
    return x, there


def _regressors(data: Ragged, plan: Plan, centred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N, T, F] as the series is, and the centres and sizes [N, F] of its columns."""
    count, device = len(data), data.values.device
    width = 0 if data.known is None else data.known.shape[1]
    columns, centres, sizes = [], [], []
    for f in range(width):
        assert data.known is not None
        column, there = Ragged(data.known[:, f], data.begin, data.end).padded()
        x, loc, scale = _standardised(column, there, centred)
        w, _ = _differenced(x, there, plan)
        columns.append(torch.where(plan.regressed.to(device)[:, None], w, 0.0))
        centres.append(loc)
        sizes.append(scale)
    if not columns:
        none = data.values.new_zeros(count, 0)
        return none[:, None].expand(-1, 1, -1), none, none
    return torch.stack(columns, 2), torch.stack(centres, 1), torch.stack(sizes, 1)


_Parts = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _regress(w: Tensor, inside: Tensor, known: Tensor, plan: Plan) -> _Parts:
    """constant, phi, beta, sigma2, order, radius."""
    count, width = w.shape
    device, features = w.device, known.shape[2]
    most, season = int(plan.order.max()) if count else 0, plan.season
    seasons = int(plan.seasonal.max()) if count else 0
    multiples = season * torch.arange(1, seasons + 1)
    short = torch.arange(1, most + 1)
    lag = torch.cat([multiples, torch.zeros(features, dtype=torch.int64), short]).to(device)
    seasonal, order, constant = (x.to(device) for x in (plan.seasonal, plan.order, plan.constant))
    multiples, short = multiples.to(device), short.to(device)
    with_seasons = multiples <= (seasonal * season)[:, None]
    with_known = plan.regressed.to(device)[:, None].expand(-1, features)
    doubled = (short[:, None] % season == 0) & (short[:, None] // season <= seasonal[:, None, None])
    single = ~doubled[..., 0]
    lens, far = inside.sum(1), seasonal * season
    place = torch.arange(width, device=device) - (width - lens)[:, None]  # 0: the oldest point

    def squares(order: Tensor, held: Tensor) -> Squares:
        active = torch.cat([with_seasons, with_known, single & (short <= order[:, None])], 1)
        first = torch.maximum(order, far)
        rows = (place >= first[:, None]) & (place < (lens - held)[:, None])
        return Squares(w, known, lag, active, constant, rows)

    none = torch.zeros_like(lens)
    if plan.criterion != "fixed":
        held = (lens // VALIDATED).clamp_min(1) if plan.criterion == "validation" else none
        trial = squares(order, held)
        scores = []
        for k in range(most + 1):
            used = trial.active & torch.cat(
                [
                    torch.ones_like(with_seasons),
                    torch.ones_like(with_known),
                    (short <= k).expand(count, -1),
                ],
                1,
            )
            if plan.criterion == "validation":
                b = trial.solve(used)
                e = w - trial.mean(b)[:, None] - (trial.all @ b[..., None])[..., 0]
                scores.append(torch.where(place >= (lens - held)[:, None], e * e, 0.0).sum(1))
            else:
                left = trial.left[:, seasons + features + k]
                rows = trial.count.double()
                parameters = used.sum(1) + constant.long() + 1
                scores.append(_penalised(plan.criterion, left / rows, rows, parameters))
        score = torch.stack(scores, 1)
        beyond = torch.arange(most + 1, device=device) > order[:, None]
        order = torch.where(beyond, torch.inf, score.nan_to_num(torch.inf)).argmin(1)
    fit = squares(order, none)
    if plan.method == "ridge":
        b = fit.ridge()
        exact = torch.zeros_like(fit.lossy)
    else:
        b = fit.refine(fit.solve(fit.active))
        exact = ~fit.lossy
    phi = w.new_zeros(count, max(most, seasons * season))
    phi[:, :most] = b[:, seasons + features :]
    phi[:, multiples - 1] += b[:, :seasons]
    radius = torch.ones_like(w[:, 0])
    if plan.stable:
        phi, radius = shrunk(phi)
        power = radius[:, None] ** lag
        b = torch.where(((radius < 1)[:, None]) & (lag > 0), b * power, b)
    _, mean, total = fit.residuals(b)
    exact = exact & (radius == 1)
    mean = torch.where(exact, fit.mean(b), mean)
    total = torch.where(exact, fit.left[:, -1], total)
    beta = b[:, seasons : seasons + features]
    spare = (fit.count - fit.active.sum(1) - constant.long()).clamp_min(1)
    return mean, phi, beta, total / spare, order, radius


def _penalised(criterion: str, variance: Tensor, rows: Tensor, parameters: Tensor) -> Tensor:
    fit = rows * variance.log()
    if criterion == "bic":
        return fit + parameters * rows.log()
    room = rows - parameters - 1
    more = 2 * parameters + 2 * parameters * (parameters + 1) / room.clamp_min(1)
    return torch.where(room > 0, fit + more, torch.inf)


def _recurse(w: Tensor, inside: Tensor, lens: Tensor, plan: Plan) -> _Parts:
    """Yule-Walker and Burg."""
    device = w.device
    order, constant = plan.order.to(device), plan.constant.to(device)
    most = int(order.max()) if len(w) else 0
    place = torch.arange(w.shape[1], device=device) - (w.shape[1] - lens)[:, None]
    run = burg if plan.method == "burg" else levinson

    def paths(held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = inside & (place < (lens - held)[:, None])
        count = rows.sum(1).clamp_min(1)
        mean = torch.where(constant, torch.where(rows, w, 0.0).sum(1) / count, 0.0)
        path, variance = run(torch.where(rows, w - mean[:, None], 0.0), rows, count, most)
        return mean, path, variance

    none = torch.zeros_like(lens)
    orders = torch.arange(most + 1, device=device)
    if plan.criterion != "fixed":
        if plan.criterion == "validation":
            held = (lens // VALIDATED).clamp_min(1)
            mean, path, _ = paths(held)
            away = torch.where(inside, w - mean[:, None], 0.0)
            lagged = torch.stack([away.roll(i + 1, 1) for i in range(most)], 1)
            e = away[:, None] - path @ lagged if most else away[:, None]
            late = (place >= (lens - held)[:, None])[:, None]
            score = torch.where(late, e * e, 0.0).sum(2)
        else:
            _, _, variance = paths(none)
            left = torch.maximum(variance, _NOTHING * variance[:, :1])
            parameters = orders + constant.long()[:, None] + 1
            score = _penalised(plan.criterion, left, lens.double()[:, None], parameters)
        beyond = orders > order[:, None]
        order = torch.where(beyond, torch.inf, score.nan_to_num(torch.inf)).argmin(1)
    mean, path, variance = paths(none)
    phi = path.gather(1, order[:, None, None].expand(-1, 1, most))[:, 0]
    spare = (lens - order - constant.long()).clamp_min(1)
    sigma2 = variance.gather(1, order[:, None])[:, 0] * lens / spare
    radius = torch.ones_like(mean)
    if plan.stable:
        phi, radius = shrunk(phi)
    return mean * (1 - phi.sum(1)), phi, w.new_zeros(len(w), 0), sigma2, order, radius
