"""series-check: what is wrong with series, and what is done about it."""

from __future__ import annotations

from typing import Any

from chainrule.series.check import Check, Policy, merged
from chainrule.series.frames import read_chunks


def series_check(
    source: Any,
    *,
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    freq: str | None = None,
    season: int | None = None,
    policy: Policy = "fill",
) -> Check:
    """Look through a file, a frame or an array as ``forecast`` would; nothing is written.

    Raises:
        ValueError: it can't be read: one line with place and remedy. A bad series is a finding.
    """
    parts = read_chunks(
        source,
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
        freq=freq,
        season=season,
        policy=policy,
    )
    return merged([check for _, check in parts if check is not None])
