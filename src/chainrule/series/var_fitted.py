"""What a vector autoregression knows after its fit: forecasts, sample paths, new points.

Shapes: N series, in G systems of K each; P lags, H horizon, S paths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chainrule.core.noise import Noise, Positions
from chainrule.series.batch import Fitted, Ragged, Rows
from chainrule.series.recursion import NormalForecast, left_aligned

_FAR = 1e150  # no step in scaled units goes further
_MOST = torch.finfo(torch.float64).max
_OF_SYSTEMS = ("seen", "order", "radius")


@dataclass(frozen=True, eq=False)
class VARForecast(NormalForecast):
    """Beside each series' own law, how the K of a system hang together at each step.

    Args:
        covariance: [G, H, K, K].
    """

    covariance: Tensor | None = None


@dataclass(frozen=True, eq=False)
class VARFitted(Rows, Fitted):
    """G systems over x = (series - loc) / scale.

    Args:
        constant [G, K]; A [G, P, K, K], lag 1 first: row i is series i's equation.
        sigma [G, K, K]: covariance of the errors. past [G, P, K]: the newest LAST.
        loc, scale: [G, K]. seen: int64 [G] on the host, points so far.
        order, radius: [G] on the host.
    """

    constant: Tensor
    A: Tensor
    sigma: Tensor
    past: Tensor
    loc: Tensor
    scale: Tensor
    seen: Tensor
    order: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return self.loc.numel()

    @property
    def info(self) -> dict[str, Tensor]:
        """Of every series [N], by name."""
        width = self.loc.shape[1]
        return {
            "order": self.order.repeat_interleave(width),
            "radius": self.radius.repeat_interleave(width),
        }

    def psi(self, horizon: int) -> Tensor:
        """What an error does now and in the steps after it: [G, H, K, K], 1 first."""
        count, lags, width = self.A.shape[:3]
        eye = torch.eye(width, dtype=self.A.dtype, device=self.A.device)
        made = [eye.expand(count, -1, -1)]
        for h in range(1, horizon):
            near = range(1, min(h, lags) + 1)
            sums = [self.A[:, i - 1] @ made[h - i] for i in near]
            made.append(sum(sums, torch.zeros_like(made[0])).clamp(-_FAR, _FAR))
        return (
            torch.stack(made[:horizon], 1) if horizon else self.A.new_zeros(count, 0, width, width)
        )

    def means(self, horizon: int) -> Tensor:
        """Of the next steps in units of x: [G, H, K]."""
        lags, steps = self.A.shape[1], [*self.past.unbind(1)]
        for _ in range(horizon):
            mean = self.constant
            for i in range(lags):
                mean = mean + (self.A[:, i] @ steps[-1 - i][..., None])[..., 0]
            steps.append(mean.clamp(-_FAR, _FAR))
        return (
            torch.stack(steps[lags:], 1)
            if horizon
            else self.past.new_zeros(len(self.past), 0, self.past.shape[2])
        )

    def covariances(self, horizon: int) -> Tensor:
        """Of the errors of the next steps in units of x: Σ_i Psi_i sigma Psi_i', [G, H, K, K]."""
        psi = self.psi(horizon)
        return (psi @ self.sigma[:, None] @ psi.mT).cumsum(1).clamp(-_FAR, _FAR)

    def forecast(self, horizon: int, future: Tensor | None = None) -> VARForecast:
        """The next H steps. Raises ValueError for regressors."""
        if future is not None and future.shape[-1]:
            raise ValueError("a VAR has no regressors: leave the future ones out")
        own = self.covariances(horizon)
        deviation = own.diagonal(dim1=2, dim2=3).clamp_min(0).sqrt()
        unit = self.scale[:, None, :, None] * self.scale[:, None, None]
        return VARForecast(
            self._series(self._level(self.means(horizon))),
            self._series((deviation * self.scale[:, None]).clamp_max(_MOST)),
            None,
            (own * unit).clamp(-_MOST, _MOST),
        )

    def simulate(
        self, horizon: int, num: int, noise: Noise, future: Tensor | None = None
    ) -> Tensor:
        """Sample paths [N, S, H]. Step h of a series is keyed by its own row of ``noise`` at the
        position of that step, and path s by its lane."""
        del future
        mean, width = self.means(horizon), self.loc.shape[1]
        if horizon == 0:
            return self._series(mean)[:, None].expand(-1, num, -1)
        start = self.seen.repeat_interleave(width).tolist()
        dice = noise.to(mean.device).at(Positions(tuple(start), horizon)).uniform(num)
        z = torch.special.ndtri(dice).unflatten(0, (-1, width))  # [G, K, H, S]
        values, vectors = torch.linalg.eigh(self.sigma)
        root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
        errors, psi = torch.einsum("gij,gjhs->gshi", root, z), self.psi(horizon)
        paths = mean[:, None].repeat(1, num, 1, 1)  # [G, S, H, K]
        for h in range(horizon):
            paths[:, :, h:] += torch.einsum(
                "ghij,gsj->gshi", psi[:, : horizon - h], errors[:, :, h]
            )
        return self._level(paths).permute(0, 3, 1, 2).flatten(0, 1)

    def update(self, data: Ragged) -> tuple[VARFitted, Tensor, Tensor]:
        """Take in new points, as many for each series of a system. Raises ValueError otherwise."""
        width, lags = self.loc.shape[1], self.A.shape[1]
        data, lens = data.packed(), data.lens.view(-1, width)
        if bool((lens != lens[:, :1]).any()):
            raise ValueError(
                "the series of a VAR are one system: give as many new points for each, and where "
                "one has none yet, wait until it has"
            )
        there = left_aligned(data.lens).to(self.loc.device)
        y = self.loc.new_zeros(there.shape)
        y[there] = data.values
        x = self._scaled(y.unflatten(0, (-1, width)).mT)
        long = torch.cat([self.past, x], 1)
        mean = self.constant[:, None].expand_as(x)
        for i in range(lags):
            mean = mean + long[:, lags - 1 - i : long.shape[1] - 1 - i] @ self.A[:, i].mT
        level = self._series(self._level(mean.clamp(-_FAR, _FAR)))[there]
        one = self.sigma.diagonal(dim1=1, dim2=2).sqrt() * self.scale
        spread = one.clamp_max(_MOST).flatten()[:, None].expand_as(y)[there]
        place = lens[:, :1].to(x.device) + torch.arange(lags, device=x.device)
        past = long.gather(1, place[..., None].expand(-1, -1, width))
        return replace(self, past=past, seen=self.seen + lens[:, 0]), level, spread

    def restart(self, data: Ragged, back: Tensor) -> VARFitted:
        """With the memory of points that end ``back`` steps before; as many for a whole system."""
        first = back.view(-1, self.loc.shape[1])[:, 0]
        return replace(self, past=self.newest(data), seen=self.seen - first)

    def select(self, rows: Tensor) -> VARFitted:
        """Systems by all their series. Raises ValueError where a part is missing."""
        width = self.loc.shape[1]
        rows = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        systems = rows[::width] // width
        whole = systems[:, None] * width + torch.arange(width, device=rows.device)
        if not torch.equal(whole.flatten(), rows):
            raise ValueError(f"the {width} series of a VAR are selected together")
        return super().select(systems)

    def tensors(self) -> dict[str, Tensor]:
        """All that is held, by name, to be saved: of every series [N, ...], the K of a system one
        after the other."""
        width = self.loc.shape[1]
        held = {k: x for k, x in self._tensors().items() if k not in _OF_SYSTEMS}
        held |= {"A": self.A.transpose(1, 2), "past": self.past.mT}
        made = {k: x.flatten(0, 1) for k, x in held.items()}
        return made | {k: getattr(self, k).repeat_interleave(width) for k in _OF_SYSTEMS}

    @staticmethod
    def from_tensors(held: Mapping[str, Tensor]) -> VARFitted:
        """What ``tensors`` gave. Raises ValueError where a part is missing."""
        try:
            width = held["sigma"].shape[1]
            made = {k: x.unflatten(0, (-1, width)) for k, x in held.items()}
            made |= {k: made[k][:, 0] for k in _OF_SYSTEMS}
            made |= {"A": made["A"].transpose(1, 2), "past": made["past"].mT}
            return VARFitted(**made)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"not a fitted VAR: {error}; fit it anew") from None

    def newest(self, data: Ragged) -> Tensor:
        """The last P points of x, [G, P, K]; what lies before the first is the mean."""
        lags, width = self.A.shape[1], self.loc.shape[1]
        y, there = data.last(lags).padded()
        short = (lags - y.shape[1], 0)
        y, there = torch.nn.functional.pad(y, short), torch.nn.functional.pad(there, short)
        x = self._scaled(y.unflatten(0, (-1, width)).mT)
        return torch.where(there.unflatten(0, (-1, width)).mT, x, 0.0)

    def _scaled(self, y: Tensor) -> Tensor:
        """[G, T, K] in units of x."""
        scale = self.scale[:, None]
        return (y / scale - self.loc[:, None] / scale).clamp(-_FAR, _FAR)

    def _level(self, x: Tensor) -> Tensor:
        """[G, ..., K] in units of the series."""
        wide = (slice(None), *[None] * (x.ndim - 2))
        return (self.loc[wide] + self.scale[wide] * x).clamp(-_MOST, _MOST)

    def _series(self, x: Tensor) -> Tensor:
        """[G, H, K] as [N, H]."""
        return x.mT.flatten(0, 1)
