"""The report of a backtest: one HTML page that needs nothing else, and its opening words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from chainrule.files import write_text
from chainrule.verbs.series_charts import by_step, fan

if TYPE_CHECKING:
    from chainrule.verbs.backtest import Backtest, Scores

_FEW = 30  # forecasts
_NEAR = 20.0  # who is more percent behind is not called close, however unsure that is
_NAIVE = ("naive", "seasonal-naive")
_SURE = 0.06  # so large a doubt about a coverage leaves it open
_ROWS = 24  # of a model's table by step; more steps are put together
_LISTED = 12  # statuses and notes

_RATIO = "of naive"
_COLUMNS = (  # of a table: name, field of Scores, decimals
    ("MASE", "mase", 3),
    (_RATIO, "relative_mase", 3),
    ("sMAPE", "smape", 2),
    ("OWA", "owa", 3),
    ("WQL", "wql", 4),
    (_RATIO, "relative_wql", 3),
    ("CRPS", "crps", 3),
    ("MSIS", "msis", 2),
)

Cells = Sequence[tuple[str, str]]  # of a row or a column: text and class


def number(value: float | None, decimals: int = 3) -> str:
    """With the digits that matter, or a dash; ``decimals`` of what is below 10."""
    if value is None:
        return "–"
    if abs(value) < 10:
        return f"{value:.{decimals}f}"
    if abs(value) < 1000:
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.3g}"


def measures(m: Scores) -> list[str]:
    """MASE, sMAPE, OWA, WQL, CRPS and MSIS as every table has them."""
    every = ((name, getattr(m, key), decimals) for name, key, decimals in _COLUMNS)
    return [number(value, decimals) for name, value, decimals in every if name != _RATIO]


def seconds(value: float) -> str:
    """As exactly as clocks are worth."""
    return "< 0.01" if value < 5e-3 else number(value, 2)


def check(path: Path) -> None:
    """Raises ValueError: the name is not a page's."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{path}: the report is a web page: end its name in .html")


def write(found: Backtest, path: Path) -> Path:
    """Write the page, whole or not at all.

    Raises:
        ValueError: as ``check``.
    """
    check(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page(found))
    return path


# ---- in words ----


def verdict(found: Backtest) -> str:
    """Which model to take, and how far to believe its intervals."""
    best = found[found.best]
    said = [_take(found, best), *_rivals(found), _believe(best), *_later(best)]
    if found.forecasts < _FEW:
        one = "One forecast says little", f"{found.forecasts} forecasts are few"
        said.append(f"{one[found.forecasts > 1]}: all this is rough.")
    return " ".join(said)


def _take(found: Backtest, best: Scores) -> str:
    over = (
        f"over {_count(found.forecasts, 'forecast')} of {_count(found.horizon, 'step')} "
        f"({_count(found.series, 'series')}, {_count(found.windows, 'window')} of the past)"
    )
    if best.mase is None:
        return f"Take {best.name}: {over} no error can be scaled, as the series are constant."
    if best.name in _NAIVE:
        return f"Take {best.name}: {over} nothing had smaller errors (MASE {number(best.mase)})."
    naive, gain = _gain(found, best)
    if gain < 0.5:
        return (
            f"Take {best.name}, if any of these: {over} its errors were the least, but no smaller "
            f"than those of {naive} (MASE {number(best.mase)})."
        )
    return (
        f"Take {best.name}: {over} its errors were {gain:.{1 if gain < 10 else 0}f} % smaller than "
        f"those of {naive} (MASE {number(best.mase)})."
    )


def _gain(found: Backtest, best: Scores) -> tuple[str, float]:
    """The better naive method of those that ran, and how many percent better the best one is;
    seasonal naive where none was asked for."""
    ran = [m for m in found.models if m.name in _NAIVE and m.mase]
    if best.mase is None or not ran:
        relative = best.relative_mase
        return "seasonal naive", 0.0 if relative is None else 100 * (1 - relative)
    yard = min(ran, key=lambda m: m.mase or 0.0)
    return yard.name.replace("-", " "), 100 * (1 - best.mase / (yard.mase or 1.0))


def _rivals(found: Backtest) -> list[str]:
    """The models whose errors can't be told from the best one's, or the next one."""
    others = [m for m in found.models if m.name != found.best and m.behind is not None]
    others.sort(key=lambda m: m.behind or 0.0)
    if not others:
        return []
    close = [m for m in others if (m.behind or 0.0) < min(_NEAR, 2 * (m.behind_se or 0.0))]
    if not close:
        more = others[0].behind or 0.0
        said = f"{more:.1f} % larger" if more < 1000 else "many times as large"
        return [f"Next is {others[0].name}, whose errors are {said}."]
    named = _listed([f"{m.name} ({m.behind:.1f} ± {m.behind_se:.1f} % behind)" for m in close])
    return [f"Not surely worse: {named}."]


def _believe(best: Scores) -> str:
    """What its intervals held, and what to make of that."""
    if not best.coverage:
        return "No intervals were looked at."
    held = ", ".join(f"its {p} % intervals {100 * c:.1f} %" for p, c in best.coverage.items())
    held = held.replace("intervals", "intervals held", 1)
    off = {p: c - float(p) / 100 for p, c in best.coverage.items()}
    far = [p for p, d in off.items() if abs(d) > _room(p)]
    points = 100 * max(map(abs, off.values()))
    some = f"{'up to ' * (len(off) > 1)}{points:.1f} points"
    worst = max(abs(off[p]) / (1 - float(p) / 100) for p in off)
    degree = "a little " if worst <= 0.25 else ""
    if not far:
        sure = max(_doubt(best, p) for p in off) <= _SURE
        judged = "believe them" if sure else "nothing against them, but too few forecasts to tell"
    elif all(abs(off[p]) <= _doubt(best, p) for p in far):
        judged = f"{some} off, with too few forecasts to tell whether that is chance"
    elif all(off[p] < 0 for p in far):
        judged = f"they are {degree}too narrow, as {some} more lie outside than they say"
    elif all(off[p] > 0 for p in far):
        judged = f"they are {degree}wider than they need be ({some}), so they are safe to use"
    else:
        judged = f"they have not the right shape ({some} off): look at the level that you need"
    return f"Of what came, {held}: {judged}."


def _room(level: str) -> float:
    """How far a coverage may be from its level and still be believed: 3 points at 80 %, 2 at
    95 %."""
    return min(0.03, 0.4 * (1 - float(level) / 100)) + 1e-9


def _doubt(best: Scores, level: str) -> float:
    """How far chance may take a coverage from its level."""
    error = best.coverage_se[level]
    return 1.0 if error is None else 2 * error


def _later(best: Scores) -> list[str]:
    """Whether intervals get worse with the distance."""
    out = []
    for level, shares in list(best.coverage_by_step.items())[:1]:
        third = max(1, len(shares) // 3)
        begin, end = sum(shares[:third]) / third, sum(shares[-third:]) / third
        if begin - end > max(0.05, 2 * _doubt(best, level)):
            out.append(
                f"They wear out with the distance: of the {level} % intervals those of the first "
                f"third of the steps held {100 * begin:.0f} %, those of the last {100 * end:.0f} %."
            )
    return out


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1 and what != 'series')}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


# ---- the page ----


def page(found: Backtest) -> str:
    """The whole of it."""
    title = escape(f"Backtest of {Path(found.source).name}")
    best = found[found.best]
    highest = [max((e for e in m.mase_by_step if e is not None), default=0.0) for m in found.models]
    sane = 3 * max((e for e in best.mase_by_step if e is not None), default=0.0)
    top = max((high for high in highest if high <= sane), default=None)
    classes = {m.name: f"m{i % 7}{' again' * (i > 6)}" for i, m in enumerate(found.models)}
    strong = classes | {found.best: f"{classes[found.best]} strong"}
    errors = by_step(
        {m.name: m.mase_by_step for m in found.models}, strong, "MASE by step", top=top
    )
    beyond = [m.name for m, high in zip(found.models, highest, strict=True) if high > sane > 0]
    above = f"; {_listed(beyond)} beyond the picture" if beyond else ""
    errors = _figure(errors, f"MASE: the error, scaled{above}")
    covers = [
        _figure(
            by_step(
                {m.name: m.coverage_by_step[f"{p:g}"] for m in found.models},
                strong,
                f"coverage of {p:g} % intervals by step",
                share=True,
                nominal=p / 100,
            ),
            f"What the {p:g} % intervals held",
        )
        for p in found.level
    ]
    drawn = [
        "<h2>By step</h2>",
        _legend(classes),
        f"<div class=grid>{errors}{''.join(covers)}</div>",
    ]
    parts = [
        f"<h1>{title}</h1><p class=lead>{escape(verdict(found))}</p>",
        f"<p class=dim>{escape(_how(found))}</p>",
        "<h2>The models side by side</h2>",
        _scroll(_main_table(found)),
        "<p class=dim>Less is better; coverage is best where it says what its head says. Bold: the "
        "best of a column.</p>",
        *(drawn if found.horizon > 1 else []),
        *_examples(found, classes[found.best]),
        "<h2>Every model by step</h2>",
        "<div class=models>",
        *(_by_model(found, m, m.name == found.best) for m in found.models),
        "</div>",
        "<h2>The data</h2>",
        *_data(found),
    ]
    sheet = resources.files("chainrule") / "assets" / "backtest.html"
    text = sheet.read_text(encoding="utf-8")
    return Template(text).substitute(title=title, body="\n".join(parts))


def _how(found: Backtest) -> str:
    left = [f"{_count(found.short, 'series')} too short"] * bool(found.short)
    left += [f"{_count(found.refused, 'series')} refused"] * bool(found.refused)
    return (
        f"{_count(found.series, 'series')}, {_count(found.windows, 'window')} of the past, "
        f"{_count(found.step, 'step')} apart; {_count(found.horizon, 'step')} ahead; frequency "
        f"{found.frequency}, season {found.season}. Every model was fitted anew in every window, "
        "on what was known then" + (f"; left out: {_listed(left)}." if left else ".")
    )


def _main_table(found: Backtest) -> str:
    head = ["model", *(name for name, _, _ in _COLUMNS), *(f"{p:g} %" for p in found.level)]
    cells = []
    for _, key, decimals in _COLUMNS:
        values = [getattr(m, key) for m in found.models]
        cells.append(_bold([number(v, decimals) for v in values], values))
    for p in found.level:
        shares = [m.coverage[f"{p:g}"] for m in found.models]
        off = [abs(share - p / 100) for share in shares]
        cells.append(_bold([f"{100 * share:.1f} %" for share in shares], off))
    cells += [[(seconds(m.fit_s), "") for m in found.models]]
    cells += [[(seconds(m.forecast_s), "") for m in found.models]]
    rows = zip(
        [(m.name, "win" * (m.name == found.best)) for m in found.models], *cells, strict=True
    )
    return _table([*head, "fit, s", "forecast, s"], rows)


def _bold(texts: Sequence[str], values: Sequence[float | None]) -> Cells:
    """A column: the least of several values is in bold."""
    there = [v for v in values if v is not None]
    least = min(there) if there and min(there) < max(there) else None
    return [
        (text, "win" if v is not None and v == least else "")
        for text, v in zip(texts, values, strict=True)
    ]


def _by_model(found: Backtest, m: Scores, open_: bool) -> str:
    """One model: every step, or stretches of them where there are many."""
    size = -(-found.horizon // _ROWS)
    rows: list[Cells] = []
    for begin in range(0, found.horizon, size):
        end = min(begin + size, found.horizon)
        steps = f"{begin + 1}" if size == 1 else f"{begin + 1}–{end}"
        errors = [e for e in m.mase_by_step[begin:end] if e is not None]
        shares = [by[begin:end] for by in m.coverage_by_step.values()]
        rows.append(
            [
                (steps, ""),
                (number(sum(errors) / len(errors) if errors else None), ""),
                *((f"{100 * sum(s) / len(s):.1f} %", "") for s in shares),
            ]
        )
    behind = "" if not m.behind else f", {m.behind:.1f} % behind {found.best}"
    if m.behind and m.behind_se is not None:
        behind += f" (± {m.behind_se:.1f})"
    said = escape(f"{m.name}: MASE {number(m.mase)}{behind}")
    head = ["step", "MASE", *(f"{p:g} % held" for p in found.level)]
    opened = " open" if open_ else ""
    return f"<details{opened}><summary>{said}</summary>{_scroll(_table(head, rows))}</details>"


def _examples(found: Backtest, colour: str) -> Iterable[str]:
    if not found.examples:
        return
    yield f"<h2>Forecasts of {escape(found.best)}</h2>"
    bands = ""
    if found.level:
        said = _listed([f"{p:g} %" for p in found.level])
        bands = f"<span class=band>{said} interval{'s' * (len(found.level) > 1)}</span>"
    yield (
        f'<p class="legend {colour}"><span class=past>known</span><span>forecast</span>{bands}'
        "<span class=came>what came</span></p>"
    )
    figures = []
    for e in found.examples:
        rank = f"the {e.rank} of {found.series:,}"
        rank = "its newest window" if found.series == 1 else rank
        said = f"{e.id}: {rank}, MASE {number(e.mase)}"
        figures.append(_figure(fan(e, f"forecast of {e.id}"), said))
    yield f'<div class="grid {colour}">{"".join(figures)}</div>'


def _data(found: Backtest) -> Iterable[str]:
    yield f"<p>{escape(found.summary)}</p>"
    if found.notes:
        notes = [f"<li>{escape(note)}</li>" for note in found.notes[:_LISTED]]
        more = len(found.notes) - len(notes)
        yield f"<ul>{''.join(notes)}{f'<li>and {more:,} more</li>' * (more > 0)}</ul>"
    if found.statuses:
        listed = list(found.statuses.items())
        rows = [[(name, "word"), (f"{count:,}", "")] for name, count in listed[:_LISTED]]
        rest = sum(count for _, count in listed[_LISTED:])
        rows += [[("others", "word"), (f"{rest:,}", "")]] * bool(rest)
        yield _scroll(_table(["status", "series"], rows))


def _table(head: Sequence[str], rows: Iterable[Cells]) -> str:
    top = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr><th scope=row{_class(row[0])}>{escape(row[0][0])}</th>"
        + "".join(f"<td{_class(cell)}>{escape(cell[0])}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _class(cell: tuple[str, str]) -> str:
    return f" class={cell[1]}" if cell[1] else ""


def _scroll(table: str) -> str:
    return f"<div class=scroll>{table}</div>"


def _figure(picture: str, said: str) -> str:
    return picture and f"<figure><figcaption>{escape(said)}</figcaption>{picture}</figure>"


def _legend(classes: dict[str, str]) -> str:
    marks = (f'<span class="{colour}">{escape(name)}</span>' for name, colour in classes.items())
    nominal = "<span class=nominal>what intervals should hold</span>"
    return f"<p class=legend>{''.join(marks)}{nominal}</p>"
