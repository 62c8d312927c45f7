"""Which column of a table is what, and columns of numbers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from chainrule.series.csv_files import NULLS, first_twice
from chainrule.series.panel import Floats
from chainrule.series.stamps import Where, looks_like_time, shown

if TYPE_CHECKING:
    import pyarrow as pa

_TIME_NAMES = {
    *("ds", "date", "datetime", "date_time", "timestamp", "time", "datum", "index", "step", "t"),
    *("day", "week", "month", "quarter", "year", "period"),
}
_DEFAULTS = {"id": "unique_id", "time": "ds", "target": "y"}


@dataclass(frozen=True)
class Names:
    """The columns that were asked for; those that were not are as Nixtla's users call them.

    Args:
        one_for_all: there may be no ids, whatever they are called.
    """

    id: str = "unique_id"
    time: str = "ds"
    target: str = "y"
    known: tuple[str, ...] = ()
    one_for_all: bool = False

    def asked(self) -> list[str]:
        """Those that must be there."""
        own = {"time": self.time, "target": self.target}
        own |= {} if self.one_for_all else {"id": self.id}
        return [*(v for k, v in own.items() if v != _DEFAULTS[k]), *self.known]

    def require_distinct(self) -> None:
        """Go on only if each column is one thing; a wide table's times may be called as a target.

        Raises:
            ValueError: one is named for two.
        """
        rest = [self.id, *self.known]
        twice = first_twice([self.target, *rest]) or first_twice([self.time, *rest])
        if twice is not None:
            raise ValueError(
                f"column {twice!r} is named for two things: ids, times, targets and each regressor "
                "are columns of their own"
            )


@dataclass(frozen=True)
class Layout:
    """Which column is what.

    Args:
        kind: "long", "wide" or "one column".
        time: None for one column. id: None where there is one series.
        values: the target; of wide tables, every series. spare: columns that are left alone.
    """

    kind: str
    id: str | None
    time: str | None
    values: tuple[str, ...]
    known: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All that are read."""
        named = [n for n in (self.id, self.time) if n is not None]
        return [*named, *self.values, *self.known]


def near_to(name: str, known: Sequence[str]) -> str:
    """Advice where a name is nearly right."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def layout_of(table: pa.Table, names: Names, source: str) -> Layout:
    """Decide by names, types and the first values.

    Raises:
        ValueError: a column that was asked for is missing, or nothing tells what is what.
    """
    there = table.column_names
    twice = first_twice(there)
    if twice is not None:
        raise ValueError(f"{source}: two columns are called {twice!r}: rename one")
    names.require_distinct()
    for name in names.asked():
        if name not in there:
            raise ValueError(
                f"{source}: no column {name!r}{near_to(name, there)}; there are {_listed(there)}"
            )
    if names.target in there and names.target != names.time:
        rest = [n for n in there if n not in (names.target, names.id, *names.known)]
        time = time_column(table, names.time, rest)
        ids = names.id if names.id in there else None
        if time is None and len(there) == 1:
            return Layout("one column", None, None, (names.target,))
        if time is None:
            raise ValueError(
                f"{source}: no time column: there are {_listed(there)}; name it by --time-col, or "
                "give a file with one column, whose rows are then numbered"
            )
        spare = tuple(n for n in rest if n != time)
        return Layout("long", ids, time, (names.target,), names.known, spare)
    if names.known:
        raise ValueError(f"{source}: regressors need a long table, with a column {names.target!r}")
    if names.id in there:
        raise ValueError(
            f"{source}: no column {names.target!r}; there are {_listed(there)}; name the values by "
            "--target-col"
        )
    if len(there) == 1 and not looks_like_time(table.column(0)):
        return Layout("one column", None, None, (there[0],))
    time = time_column(table, names.time, there)
    if time is None:
        raise ValueError(
            f"{source}: no time column: there are {_listed(there)}; name it by --time-col, or give "
            "a file with one column, whose rows are then numbered"
        )
    values = tuple(n for n in there if n not in (time, "", "Unnamed: 0"))
    words = [n for n in values if _has_words(table.column(n))]
    if words or not values:
        numbers = [n for n in values if n not in words]
        ids = next((n for n in words if _tells_apart(table.column(n), table.column(time))), None)
        guess = f"--time-col {time} --target-col {numbers[0] if numbers else '…'}"
        guess = guess if ids is None else f"--id-col {ids} {guess}"
        others = f" (or {_listed(numbers[1:])})" if numbers[1:] else ""
        what = f"{words[0]!r} holds words" if words else "there are no values beside it"
        raise ValueError(
            f"{source}: {what}, so the table is not wide (a column a series); name its columns, "
            f"as in {guess}{others}"
        )
    return Layout("wide", None, time, values)


def time_column(table: pa.Table, name: str, candidates: list[str]) -> str | None:
    if name in candidates:
        return name
    by_name = [n for n in candidates if n.lower().strip() in _TIME_NAMES]
    timely = (n for n in (*by_name, *candidates) if looks_like_time(table.column(n)))
    return next(timely, next(iter(by_name), None))


def _has_words(column: pa.ChunkedArray) -> bool:
    """Whether the first values are words rather than numbers, however written."""
    import pyarrow as pa
    import pyarrow.compute as pc

    head = column.slice(0, 20)
    if pa.types.is_dictionary(head.type):
        head = head.cast(head.type.value_type)
    if not (pa.types.is_string(head.type) or pa.types.is_large_string(head.type)):
        return bool(pa.types.is_temporal(head.type))
    if pc.any(pc.match_substring_regex(head, r"[A-Za-z]{4}|^[A-Za-z]$")).as_py():
        return True
    words = [w for w in head.to_pylist() if w is not None and w.strip() not in (*NULLS, "inf")]
    # Names like S00 come again; one word among numbers is a slip.
    return len(set(words)) < len(words) and all(w.strip()[0].isalpha() for w in words)


def _tells_apart(words: pa.ChunkedArray, times: pa.ChunkedArray) -> bool:
    """Whether a column of words names series: its rows stand together, or stamps come again."""
    both = [c.slice(0, 200).to_pylist() for c in (words, times)]
    runs = 1 + sum(a != b for a, b in pairwise(both[0]))
    return runs == len(set(both[0])) < len(both[0]) or len(set(both[1])) < len(both[1])


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names[:6]))
    return f"{listed} and {len(names) - 6} more" if len(names) > 6 else listed


# ---- numbers ----


def read_numbers(column: pa.ChunkedArray, name: str, where: Where) -> Floats:
    """A column as float64, NaN where it is empty; numbers may be written with thousands marks.

    Raises:
        ValueError: a word, with its place.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = _written(column.cast(pa.string()), name, where)
    elif pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        raise ValueError(f"{where.source}: {name!r} is {kind}, not numbers")
    column = column.cast(pa.float64(), safe=False)
    if column.null_count:
        column = pc.fill_null(column, np.nan)
    out: Floats = column.to_numpy()
    return out


def with_commas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of a file with decimal commas: words like 1.234 as numbers, if all are such."""
    import pyarrow as pa

    numbers = _in_form(_cleaned(column), _GERMAN) if pa.types.is_string(column.type) else None
    return column if numbers is None else numbers


# a number, its thousands mark, its decimal mark
_ENGLISH = (r"^[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?([eE][-+]?\d+)?$", ",", ".")
_GERMAN = (r"^[-+]?(\d+|\d{1,3}([. ]\d{3})+)(,\d*)?$", "[. ]", ",")


def _written(words: pa.ChunkedArray, name: str, where: Where) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    words = _cleaned(words)
    try:
        return words.cast(pa.float64())
    except pa.ArrowInvalid:
        pass
    for form in (_ENGLISH, _GERMAN):
        numbers = _in_form(words, form)
        if numbers is not None:
            return numbers
    numbers = pc.match_substring_regex(words, f"{_ENGLISH[0]}|{_GERMAN[0]}")
    what = "not a number: correct it, or leave it empty"
    if pc.all(numbers).as_py():
        numbers = pc.match_substring_regex(words, _ENGLISH[0])
        what = "not written as the others are: use one thousands mark and one decimal mark"
    row = int(pc.index(numbers, False).as_py())
    raise ValueError(f"{where(row)}: {name!r} is {shown(words[row].as_py())}, {what}")


def _cleaned(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without spaces around them, nulls where they stand for nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = pc.replace_substring(pc.utf8_trim_whitespace(words), "\u00a0", " ")
    return pc.if_else(pc.is_in(words, pa.array(NULLS)), None, words)


def _in_form(words: pa.ChunkedArray, form: tuple[str, str, str]) -> pa.ChunkedArray | None:
    """As float64, if all are written so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pattern, mark, point = form
    if not pc.all(pc.match_substring_regex(words, pattern)).as_py():
        return None
    plain = pc.replace_substring_regex(words, mark, "")
    return pc.replace_substring(plain, point, ".").cast(pa.float64())
