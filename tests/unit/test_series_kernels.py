"""The compiled loops of series/native called directly: a wrong call raises, a great one ends.

Shapes: N series, T points, P lags, K columns, H steps, m season length.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from chainrule import native

compiled: Any = native._native
pytestmark = pytest.mark.skipif(compiled is None, reason="installed without a compiler")

Call = dict[str, Any]
HUGE = 2**62
NOISE = np.random.default_rng(0).normal(size=50)
KERNELS = (
    *("ar_fit", "arima_fit", "arima_orders", "series_ndiffs", "series_strength"),
    *("series_season", "series_smooth", "series_forecast", "series_filter", "series_equations"),
)


def real(*shape: int) -> NDArray[np.float64]:
    return np.zeros(shape)


def whole(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


def call(kernel: str) -> Call:
    """A right call for one series of 50 points, by the names of the arguments, in order."""
    ragged: Call = {"values": NOISE.cumsum(), "begin": whole(0), "end": whole(50)}
    zero, one = whole(0), whole(1)
    parts: Call = {"constant": real(1), "phi": real(1, 2) + 0.3, "theta": real(1, 1) + 0.2}
    parts |= {"sigma2": real(1) + 1, "past": real(1, 2) + 1, "errors": real(1, 1)}
    calls: dict[str, Call] = {
        "ar_fit": {
            **(ragged | {"known": real(50, 0), "d": zero, "D": zero, "order": whole(2)}),
            "seasonal": zero,
            "constant": one,
            "regressed": zero,
            "method": 0,
            "criterion": 1,
            "season": 1,
            "validated": 5,
            "stable": True,
            "phi": real(1, 8),
            "beta": real(1, 0),
            "past": real(1, 8),
            "found": real(1, 5),
            "orders": whole(0),
        },
        "arima_fit": {
            **(ragged | {"orders": whole(1, 1, 1, 0, 0, 0, 0)[None], "season": 1}),
            "widths": whole(1, 1, 0, 0),
            "coefs": real(1, 3),
            "found": real(1, 4),
            "past": real(1, 3),
            "errors": real(1, 3),
        },
        "arima_orders": {
            **(ragged | {"d": zero, "D": zero, "means": whole(2), "season": 1}),
            "least": whole(0, 0, 0, 0),
            "most": whole(2, 2, 1, 1),
            "orders": whole(*[0] * 5)[None],
        },
        "series_ndiffs": ragged | {"D": zero, "season": 1, "most": 2, "out": whole(0)},
        "series_strength": ragged | {"season": 4, "out": real(1)},
        "series_season": ragged | {"steps": True, "table": real(1, 4), "ratio": whole(1)},
        "series_smooth": {
            **(ragged | {"grid": np.full((9, 4), 0.5), "moves": np.full((3, 4), 0.1)}),
            "step": real(4) + 0.1,
            "rounds": 3,
            "shrink": 0.5,
            "prior": 80.0,
            "box": np.array([0.01, 1, 0.8, 0.98]),
            "bounds": np.array([-np.inf, np.inf]),
            "drift": 0,
            "season": 4,
            "least": 3,
            "out": real(1, 6),
            "errors": real(1, 3),
        },
        "series_forecast": parts
        | {"known": real(1, 0), "mean": real(1, 5), "variance": real(1, 5)},
        "series_filter": {
            **(parts | ragged | {"known": real(0), "means": real(50)}),
            "new_past": real(1, 2),
            "new_errors": real(1, 1),
        },
        "series_equations": {
            "values": NOISE.cumsum(),
            "targets": NOISE.cumsum(),
            "known": real(50, 0),
            "begin": zero,
            "end": whole(50),
            "psi": real(1, 3) + 1,
            "lags": whole(1, 2),
            "use": np.ones((1, 3), np.uint8),
            "reach": whole(2),
            "ridge": 0.0,
            "common": False,
            "coefficients": real(1, 3, 3),
            "squares": real(1, 3),
        },
    }
    return calls[kernel]


def run(kernel: str, given: Call, threads: int = 1) -> None:
    getattr(compiled, f"chainrule_{kernel}")(*given.values(), threads)


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_array_is_converted_so_no_result_is_lost(kernel):
    run(kernel, call(kernel))
    for name, value in call(kernel).items():
        if not isinstance(value, np.ndarray):
            continue
        other = np.int64 if value.dtype == np.float64 else np.float64
        wrong = [np.zeros(value.shape, other), np.zeros(value.shape, np.float32)]
        wrong += [value.tolist(), value[None]]
        if value.shape[-1] > 1:
            wrong.append(np.repeat(value, 2, axis=-1)[..., ::2])
        for each in wrong:
            with pytest.raises(TypeError):
                run(kernel, call(kernel) | {name: each})


WRONG: tuple[tuple[str, Call], ...] = (
    *((k, {"begin": whole(-1)}) for k in KERNELS if k != "series_forecast"),
    *((k, {"end": whole(51)}) for k in KERNELS if k != "series_forecast"),
    *((k, {"begin": whole(9), "end": whole(5)}) for k in KERNELS if k != "series_forecast"),
    *((k, {"begin": whole(0, 0)}) for k in KERNELS if k != "series_forecast"),
    ("ar_fit", {"order": whole(-1)}),
    ("ar_fit", {"order": whole(9)}),
    ("ar_fit", {"order": whole(50), "phi": real(1, 60), "past": real(1, 60)}),
    ("ar_fit", {"d": whole(8), "end": whole(5), "order": whole(0)}),
    ("ar_fit", {"D": whole(HUGE), "season": 4}),
    ("ar_fit", {"D": whole(4), "season": HUGE}),
    ("ar_fit", {"seasonal": whole(4), "season": HUGE}),
    ("ar_fit", {"order": whole(8), "end": whole(9), "criterion": 3}),
    ("ar_fit", {"season": 0}),
    ("arima_fit", {"orders": whole(1, -1, 1, 0, 0, 0, 0)[None]}),
    ("arima_fit", {"orders": whole(1, 2, 1, 0, 0, 0, 0)[None]}),
    ("arima_fit", {"orders": whole(1, 1, 1, 0, 1, 0, 0)[None]}),
    ("arima_fit", {"orders": whole(7, 1, 1, 0, 0, 0, 0)[None]}),
    ("arima_fit", {"orders": whole(1, 1, 1, 0, 0, 50, 0)[None]}),
    ("arima_fit", {"orders": whole(1, 1, 1, 0, 0, 0, HUGE)[None], "season": 4}),
    ("arima_fit", {"widths": whole(4, -1, -1, 0)}),
    ("arima_fit", {"widths": whole(47_000, 1, 0, 0), "coefs": real(1, 47_002)}),
    ("arima_orders", {"least": whole(-3, 0, 0, 0)}),
    ("arima_orders", {"least": whole(3, 0, 0, 0)}),
    ("arima_orders", {"most": whole(9999, 9999, 9999, 9999)}),
    ("arima_orders", {"most": whole(2**31, 2, 1, 1)}),
    ("arima_orders", {"d": whole(-3)}),
    ("arima_orders", {"D": whole(13), "season": 4}),
    ("series_ndiffs", {"season": 0}),
    ("series_strength", {"season": 1}),
    ("series_season", {"table": real(1, 0)}),
    ("series_smooth", {"season": 0}),
    ("series_smooth", {"least": 0}),
    ("series_forecast", {"variance": real(1, 6)}),
    ("series_forecast", {"known": real(1, 4)}),
    ("series_filter", {"means": real(3)}),
    ("series_filter", {"known": real(3)}),
    ("series_equations", {"reach": whole(1)}),
    ("series_equations", {"reach": whole(-1)}),
    ("series_equations", {"lags": whole(0, 1)}),
)


@pytest.mark.parametrize(("kernel", "change"), WRONG)
def test_what_does_not_fit_is_refused(kernel, change):
    with pytest.raises(ValueError, match=r"^(series|arima|smooth|season): "):
        run(kernel, call(kernel) | change)


def test_series_that_share_points_are_refused_where_points_are_written():
    given = call("series_filter")
    for name in ("constant", "phi", "theta", "sigma2", "past", "errors", "new_past", "new_errors"):
        given[name] = np.repeat(given[name], 2, axis=0)
    run("series_filter", given | {"begin": whole(0, 30), "end": whole(30, 50)})
    with pytest.raises(ValueError, match="share points"):
        run("series_filter", given | {"begin": whole(0, 29), "end": whole(30, 50)})


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308, 1e-320, 0.0, 7.0])
def test_no_value_hangs_or_crashes(kernel, value):
    given = call(kernel)
    changed = "past" if kernel == "series_forecast" else "values"
    run(kernel, given | {changed: np.full_like(given[changed], value)})


@pytest.mark.parametrize("season", [60, 2**31, HUGE])
def test_a_season_beyond_the_series_is_a_season_beyond_the_series(season):
    found = []
    for m in (51, season):
        orders = call("arima_orders") | {"season": m}
        fit = call("arima_fit") | {"season": m, "orders": whole(1, 1, 0, 0, 1, 0, 0)[None]}
        fit |= {"widths": whole(1, 0, 0, 1)}
        smooth, strength = (call(k) | {"season": m} for k in ("series_smooth", "series_strength"))
        run("arima_orders", orders)
        run("arima_fit", fit)
        run("series_smooth", smooth)
        run("series_strength", strength)
        outs = orders["orders"], fit["coefs"], fit["found"], smooth["out"], strength["out"]
        found.append(outs)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def _alone(code: str) -> str:
    """What the lines print in a process of their own, which no sanitizer watches."""
    quiet = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    lines = "import resource\nimport numpy as np\nfrom chainrule.native import _native\n" + code
    done = subprocess.run(
        [sys.executable, "-c", lines], env=quiet, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="limits and units of memory are Linux's")
def test_what_a_thread_throws_is_raised():
    code = """
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
N, P = 300, 20_000
zero, values = np.zeros(N, np.int64), np.random.default_rng(0).normal(size=2 * P + 50)
given = values, zero, zero + len(values), np.zeros((len(values), 0)), zero, zero, zero + P
rest = np.zeros((N, P)), np.zeros((N, 0)), np.zeros((N, P)), np.zeros((N, 5)), zero.copy(), 3
try:
    _native.chainrule_ar_fit(*given, zero, zero + 1, zero, 0, 0, 1, 5, True, *rest)
except MemoryError:
    print("raised")
"""
    assert _alone(code) == "raised\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits and units of memory are Linux's")
def test_many_lengths_of_a_long_season_take_little_memory():
    code = """
lens = 800 + np.arange(100)
end, values = lens.cumsum(), np.random.default_rng(0).normal(size=lens.sum())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_native.chainrule_series_strength(values, end - lens, end, 365, np.zeros(100), 1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    assert int(_alone(code)) < 100
