"""Pictures of forecasts: what they show, their axis of time, and how they are written."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from chainrule.series import frames
from chainrule.verbs import series_pictures
from chainrule.verbs.series_pictures import forecast_picture, history, span, ticks

# ---- the axis of time ----


def panel_of(freq: str, length: int, start: str = "2024-01-01", count: int = 1, season=None):
    ds = pd.date_range(start, periods=length, freq=freq)
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"unique_id": f"s{i}", "ds": ds, "y": rng.normal(0, 1, length).cumsum()})
        for i in range(count)
    ]
    return frames.read(pd.concat(parts), season=season)[0]


@pytest.mark.parametrize(
    ("freq", "start", "length", "labels"),
    [
        ("MS", "1949-01-01", 30, ["Jul\n1949", "Jan\n1950", "Jul", "Jan\n1951"]),
        ("MS", "2023-10-01", 8, ["Nov\n2023", "Dec", "Jan\n2024", "Feb", "Mar", "Apr", "May"]),
        ("QE", "1992-03-31", 12, ["Sep\n1992", "Mar\n1993", "Sep", "Mar\n1994"]),
        ("YE", "1960-12-31", 12, ["1962", "1964", "1966", "1968", "1970"]),
        ("D", "2024-01-25", 12, ["27 Jan\n2024", "29 Jan", "31 Jan", "2 Feb", "4 Feb"]),
        ("D", "2024-01-01", 30, ["8 Jan\n2024", "15 Jan", "22 Jan", "29 Jan"]),
        ("h", "2024-02-29", 30, ["06:00\n29 Feb", "12:00", "18:00", "00:00\n1 Mar"]),
        ("15min", "2024-02-29 22:00", 20, ["23:00\n29 Feb", "00:00\n1 Mar", "01:00", "02:00"]),
        ("100ms", "2024-01-01", 12, ["00:00:00.2\n1 Jan", "00:00:00.4", "00:00:00.6"]),
    ],
)
def test_dates_as_people_read_them(freq, start, length, labels):
    panel = panel_of(freq, length, start)
    found = ticks(panel.calendar, panel.first[0] + np.arange(length))
    assert [said for _, said in found][: len(labels)] == labels
    assert len(found) <= 7
    stamps = pd.date_range(start, periods=length, freq=freq)
    for i, said in found:  # the label is that of the stamp
        day, clock = f"{stamps[i].day} {stamps[i]:%b}", f"{stamps[i]:%H:%M}"
        assert said.split("\n")[0].startswith((day, clock, f"{stamps[i]:%b}", f"{stamps[i]:%Y}"))


def test_numbers_of_steps_are_round():
    panel = frames.read(np.arange(1000.0))[0]
    assert [said for _, said in ticks(panel.calendar, np.arange(990, 1015))] == [
        "995", "1,000", "1,005", "1,010"
    ]  # fmt: skip


def test_clocks_are_those_on_the_wall():
    ds = pd.date_range("2024-06-01 00:00", periods=24, freq="h", tz="Asia/Tokyo")
    panel = frames.read(pd.DataFrame({"ds": ds, "y": np.arange(24.0)}))[0]
    assert ticks(panel.calendar, panel.first[0] + np.arange(24))[0] == (3, "03:00\n1 Jun")


# ---- pictures of forecasts ----


def columns_of(panel, models, horizon, level=(80, 95)):
    out = {}
    for k, name in enumerate(models):
        out[name] = np.tile(np.arange(horizon) + k, (len(panel), 1)).astype(float)
        for p in level:
            out[f"{name}-lo-{p:g}"], out[f"{name}-hi-{p:g}"] = out[name] - p, out[name] + p
    return out


def test_a_picture_shows_what_it_was_given():
    panel = panel_of("MS", 100, count=3)
    columns = columns_of(panel, ["theta", "ar"], 12)
    figure = series_pictures._draw(panel, columns, ["theta", "ar"], [0, 2])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["s0", "s2"]
    lines = {line.get_label(): line for line in shown[1].get_lines()}
    assert list(lines["history"].get_ydata()) == panel.values[-48:].tolist()
    assert list(lines["ar"].get_xdata()) == list(range(13))
    assert list(lines["ar"].get_ydata()) == [panel.values[-1], *columns["ar"][2]]
    bands = {c.get_label(): c.get_datalim(shown[1].transData) for c in shown[1].collections}
    assert set(bands) == {"80 % interval of theta", "95 % interval of theta"}
    widest = bands["95 % interval of theta"]
    assert (widest.x0, widest.y0, widest.y1) == (0, -95, 11 + 95)
    labels = [label.get_text() for label in shown[0].get_xticklabels()]
    assert labels == ["2029", "2030", "2031", "2032", "2033"]


def test_both_kinds_of_files_and_never_half_a_one(tmp_path):
    panel = panel_of("D", 40, count=2)
    for horizon, name in ((1, "new/out.PNG"), (7, "out.svg")):
        columns = columns_of(panel, ["ar"], horizon)
        path = forecast_picture(panel, columns, ["ar"], tmp_path / name)
        begin = b"<?xml" if name.endswith("svg") else b"\x89PNG\r\n"
        before = path.read_bytes()
        assert before.startswith(begin)
        forecast_picture(panel, columns, ["ar"], path)
        assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "out.svg"]
    with pytest.raises(KeyError):
        forecast_picture(panel, {}, ["ar"], tmp_path / "bad.png")
    assert not (tmp_path / "bad.png").exists()


def test_six_series_at_most_and_none_that_was_refused():
    panel = panel_of("D", 40, count=9)
    assert series_pictures._chosen(panel, None) == [0, 1, 2, 3, 4, 5]
    assert series_pictures._chosen(panel, ["s8", "s1"]) == [8, 1]
    rows = [np.full(30, np.nan), np.arange(30.0)]
    mixed = frames.read(rows)[0]
    assert series_pictures._chosen(mixed, None) == [1]
    with pytest.raises(ValueError, match="can't draw '0': refused"):
        series_pictures._chosen(mixed, ["0"])
    with pytest.raises(ValueError, match="can't draw 'x': there is no such series"):
        series_pictures._chosen(mixed, ["x"])


def test_ids_are_no_mathematics_and_fonts_may_lack_them(tmp_path):
    ds = pd.date_range("2024-01-01", periods=30, freq="D")
    for name in (r"$\frac{日本$", "x" * 100):
        odd = pd.DataFrame({"unique_id": name, "ds": ds, "y": np.arange(30.0)})
        panel = frames.read(odd)[0]
        columns = columns_of(panel, ["ar"], 3)
        figure = series_pictures._draw(panel, columns, ["ar"], [0])
        assert len(figure.axes[0].get_title(loc="left")) == min(60, len(name))
        forecast_picture(panel, columns, ["ar"], tmp_path / "odd.png")


def test_what_can_not_be_drawn(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"end its name in \.png or \.svg"):
        series_pictures.check(tmp_path / "out.pdf")
    monkeypatch.setattr(series_pictures, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'chainrule\[plot\]'"):
        series_pictures.check(tmp_path / "out.png")


@pytest.mark.parametrize(
    ("season", "horizon", "points", "shown"),
    [
        (12, 12, 500, 48),
        (12, 24, 500, 60),
        (1, 6, 500, 20),
        (1440, 60, 9000, 240),
        (12, 12, 30, 30),
    ],
)
def test_how_much_of_the_past_is_shown(season, horizon, points, shown):
    assert history(season, horizon, points) == shown


def test_intervals_and_models_are_told_apart_in_the_legend():
    """Each interval is darker than the wider one; the eighth model's line is no first one."""
    panel, models = panel_of("MS", 40), [f"m{i}" for i in range(8)]
    columns = {name: np.full((1, 3), float(i)) for i, name in enumerate(models)}
    for reach, level in ((1, 50), (2, 80), (3, 95)):
        columns |= {
            f"m0-lo-{level}": columns["m0"] - reach,
            f"m0-hi-{level}": columns["m0"] + reach,
        }
    figure = series_pictures._draw(panel, columns, models, [0])
    marks, said = figure.axes[0].get_legend_handles_labels()
    shades = [m.get_facecolor()[0] for m, s in zip(marks, said, strict=True) if "interval" in s]
    light = [sum(shade[:3]) for shade in shades]
    assert len(set(light)) == 3 and light == sorted(light, reverse=True)
    lines = {
        s: (m.get_color(), m.get_linestyle())
        for m, s in zip(marks, said, strict=True)
        if s in models
    }
    assert len(set(lines.values())) == 8


def test_the_legend_names_no_model_where_there_is_one():
    panel = panel_of("MS", 40)
    figure = series_pictures._draw(panel, columns_of(panel, ["ar"], 4), ["ar"], [0])
    said = figure.axes[0].get_legend_handles_labels()[1]
    assert set(said) == {"history", "95 % interval", "80 % interval", "ar"}
    columns = columns_of(panel, ["ar"], 1)
    (axes,) = series_pictures._draw(panel, columns, ["ar"], [0]).axes
    assert [bar.get_x() + bar.get_width() / 2 for bar in axes.patches] == [1, 1]


@pytest.mark.parametrize(
    ("lines", "bands", "ends"),
    [
        ([0.0, 10.0], [], (-0.5, 10.5)),
        ([0.0, 10.0], [-3.0, 7.0, 15.0], (-3.9, 15.9)),
        ([0.0, 10.0], [-1e9, 1e9], (-22.5, 32.5)),  # cut off: the line would be flat
        ([100.0, 100.0], [], (95.0, 105.0)),
        ([0.0, 0.0], [], (-1.0, 1.0)),
        ([0.0, 0.0], [0.0, 0.0], (-1.0, 1.0)),
    ],
)
def test_the_axis_holds_lines_and_intervals_but_not_endless_ones(lines, bands, ends):
    assert span(np.array(lines), np.array(bands)) == pytest.approx(ends)
