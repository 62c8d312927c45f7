"""Columns of time, as files and frames have them, to stamps (see ``calendar``), and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from chainrule.series.calendar import DAY, HOUR, MINUTE, SECOND, Bools, Calendar, Ints

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Where:
    """Names the place of a row in messages: ``unit`` (line, row) and the number of the first."""

    source: str
    unit: str = "row"
    first: int = 0

    def line(self, row: int) -> str:
        """As in "line 17"."""
        return f"{self.unit} {self.first + row:,}"

    def __call__(self, row: int) -> str:
        return f"{self.source}, {self.line(row)}"


def shown(value: object) -> str:
    """A value in a message: on one line, and not longer than one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}… ({len(text):,} characters)"


_CLOCK = (
    r"(?:[T ,]+(?P<H>\d{1,2}):(?P<M>\d{2})(?::(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)?"
    r"(?: ?(?P<p>[AaPp])\.?[Mm]\.?)?)?(?: ?(?P<z>Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?$"
)
_MONTH = r"(?P<n>(?i:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*)\.?"
_FORMS = (
    r"^(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})" + _CLOCK,
    r"^(?P<a>\d{1,2})(?P<by>[-/. ])(?P<b>\d{1,2})[-/. ](?P<y>\d{4}|\d{2})" + _CLOCK,
    r"^(?P<y>\d{4})[-/. ]?[M ]?(?P<m>\d{1,2})$",
    r"^(?P<m>\d{1,2})[-/.](?P<y>\d{4})$",
    r"^(?P<y>\d{4})[-/. ]?[Qq](?P<q>[1-4])$",
    r"^[Qq](?P<q>[1-4])[-/. ]?(?P<y>\d{4})$",
    r"^(?P<y>\d{4})[-/. ]?W(?P<w>\d{1,2})$",
    rf"^(?P<d>\d{{1,2}})[-/. ]+{_MONTH}[-/., ]+(?P<y>\d{{4}}|\d{{2}})" + _CLOCK,
    rf"^{_MONTH}[ ]+(?P<d>\d{{1,2}}),? +(?P<y>\d{{4}})" + _CLOCK,
    rf"^{_MONTH}[-/. ,]*(?P<y>\d{{4}}|\d{{2}})$",
    rf"^(?P<y>\d{{4}})[-/. ]*{_MONTH}$",
)
_NO_TIME = "no date or time like 2024-01-31 12:00; is it the right column? --time-col names it"
_EMPTY = "is empty: every row needs a stamp; fill it in or drop the row"
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


@dataclass(frozen=True)
class Times:
    """A column of time.

    Args:
        stamps: int64 [rows]. zone: where they are aware.
        kind: the Arrow type that forecasts' stamps get; an integer's where stamps are numbers.
        note: how they were read, where that was a choice.
    """

    stamps: Ints
    kind: pa.DataType
    zone: str | None = None
    note: str | None = None

    @property
    def numbered(self) -> bool:
        """The stamps are plain numbers."""
        import pyarrow as pa

        return bool(pa.types.is_integer(self.kind))


def looks_like_time(column: pa.ChunkedArray) -> bool:
    """Whether the first values can be read as dates or times; numbers alone can't tell."""
    import pyarrow as pa

    kind = _plain(column.type)
    if pa.types.is_temporal(kind):
        return True
    head = column.slice(0, 20).drop_null()
    if not is_text(kind) or not len(head):
        return False
    words = head.cast(pa.string()).combine_chunks()
    return any(_match(words, form) is not None for form in _FORMS)


def read_times(column: pa.ChunkedArray, name: str, where: Where) -> Times:
    """The stamps of a column.

    Raises:
        ValueError: a value that is no stamp, several zones, days and months that can't be told
            apart: one line with place and remedy.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        row = int(pc.index(pc.is_null(column), True).as_py())
        raise ValueError(f"{where(row)}: {name!r} {_EMPTY}")
    kind = _plain(column.type)
    if is_text(kind):
        return _of_text(column, name, where)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        whole = pa.types.is_integer(kind)
        numbers = _to_numpy(column.cast(kind if whole else pa.float64()))
        right = (numbers > -(2**62)) & (numbers < 2**62) & (whole or numbers == np.round(numbers))
        if not right.all():
            row = int(np.argmin(right))
            raise ValueError(
                f"{where(row)}: {name!r} is {numbers[row]:g}: stamps are dates, times or whole "
                "numbers below 2^62; is it the right column? --time-col names it"
            )
        return _of_numbers(numbers.astype(np.int64), kind if whole else pa.int64())
    if pa.types.is_date(kind):
        days = _to_numpy(column.cast(pa.date32()).cast(pa.int32())) * np.int64(DAY)
        return Times(_within(days, kind, name, where), kind)
    if not pa.types.is_timestamp(kind):
        raise ValueError(
            f"{where(0)}: {name!r} is {kind}, which is no time: convert it to dates or times "
            "(a pandas Period by .dt.to_timestamp())"
        )
    try:
        micro = column.cast(pa.timestamp("us", kind.tz))
    except pa.ArrowInvalid:
        what = "times finer than a microsecond: round them" if kind.unit == "ns" else _FAR
        raise ValueError(f"{where.source}: {name!r} has {what}, or number the steps") from None
    return Times(_within(_to_numpy(micro.cast(pa.int64())), kind, name, where), kind, kind.tz)


_FAR = "times that are not within the years 1 to 9999: correct them"
_FIRST, _LAST = -719162 * DAY, 2932897 * DAY  # 0001-01-01 and 10000-01-01


def _far(stamps: Ints, kind: pa.DataType) -> Bools:
    """Which stamps are beyond the years that can be written, wherever the zone is, or beyond what
    nanoseconds can hold."""
    import pyarrow as pa

    times = pa.types.is_timestamp(kind)
    margin = DAY if times and kind.tz else 0
    low, high = _FIRST + margin, _LAST - margin
    if times and kind.unit == "ns":
        low, high = -(2**63) // 1000 + 1, 2**63 // 1000
    return (stamps < low) | (stamps >= high)


def _within(stamps: Ints, kind: pa.DataType, name: str, where: Where) -> Ints:
    far = _far(stamps, kind)
    if far.any():
        raise ValueError(f"{where(int(np.argmax(far)))}: {name!r} has {_FAR}")
    return stamps


def kind_for(kind: pa.DataType, calendar: Calendar) -> pa.DataType:
    """The kind of stamps itself, or microseconds where it is too coarse (dates of half days)."""
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return kind
    ticks = gcd(calendar.count, calendar.phase) if calendar.unit == "us" else calendar.clock
    date = pa.types.is_date(kind)
    size = DAY if date else {"s": SECOND, "ms": 1000}.get(kind.unit, 1)
    return pa.timestamp("us", None if date else kind.tz) if ticks % size else kind


def sort_of(kind: pa.DataType) -> str:
    """What stamps of this type can be compared with."""
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "numbers"
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    return "times without a zone" if zone is None else "times with a zone"


def write_times(stamps: Ints, kind: pa.DataType) -> pa.Array:
    """Stamps as Arrow values of the kind that they were read as; numbers that are too large for
    it as 64 bits, and null where it ends."""
    import pyarrow as pa

    flat = stamps.reshape(-1)
    if pa.types.is_integer(kind):
        try:
            return pa.array(flat, kind)
        except pa.ArrowInvalid:
            return pa.array(flat)
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    return pa.array(flat, mask=_far(flat, kind)).cast(pa.timestamp("us", zone)).cast(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _to_numpy(column: pa.ChunkedArray) -> Ints:
    out: Ints = column.to_numpy()
    return out


def _of_numbers(values: Ints, kind: pa.DataType) -> Times:
    """Numbers, or dates that are written as one: 20240131, 202401."""
    import pyarrow as pa

    for low, high, scale in ((19000101, 21001231, 1), (190001, 210012, 100)):
        if len(values) and values.min() >= low and values.max() <= high:
            written = values if scale == 1 else values * 100 + 1
            year, month, day = written // 10000, written // 100 % 100, written % 100
            days, right = _days(year, month, day)
            if right.all():
                note = f"numbers like {values[0]} are read as dates"
                return Times(days * DAY, pa.date32(), note=note)
    return Times(values.astype(np.int64), kind)


# ---- text ----


def _of_text(column: pa.ChunkedArray, name: str, where: Where) -> Times:
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    coded = coded.combine_chunks()
    codes = coded.indices.to_numpy()
    words = pc.utf8_trim_whitespace(coded.dictionary.cast(pa.string()))

    def complain(which: Any, what: str) -> ValueError:
        """About the first row that has one of these words (bool [words])."""
        row = int(np.argmax(np.asarray(which)[codes]))
        word = words[codes[row]].as_py()
        said = f"is {shown(word)}: {what}" if word else _EMPTY
        return ValueError(f"{where(row)}: {name!r} {said}")

    numbers = pc.match_substring_regex(words, r"^[+-]?\d{1,18}$")
    if pc.all(numbers).as_py():
        found = _of_numbers(pc.cast(words, pa.int64()).to_numpy(), pa.int64())
    else:
        found = _of_words(words, complain)
    return Times(found.stamps[codes], found.kind, found.zone, found.note)


def _of_words(words: pa.Array, complain: Callable[[Any, str], ValueError]) -> Times:
    import pyarrow as pa
    import pyarrow.compute as pc

    matches = [pc.match_substring_regex(words, form).to_numpy(False) for form in _FORMS]
    best = max(range(len(_FORMS)), key=lambda i: int(matches[i].sum()))
    if not matches[best].all():
        if not matches[best].any():
            raise complain(~matches[best], _NO_TIME)
        like = words[int(np.argmax(matches[best]))].as_py()
        what = f"not in the form of the others, as {like!r}: write all stamps in one form"
        raise complain(~matches[best], what)
    part = _match(words, _FORMS[best])
    assert part is not None
    year = _number(part, "y")
    year += np.where(year < 69, 2000, np.where(year < 100, 1900, 0))
    note = None
    one = np.ones(len(words), np.int64)
    if "w" in part:
        week = _number(part, "w")
        january4, of = _days(year, one, 4 * one)[0], (year - 1970).astype("datetime64[Y]")
        days = january4 - (january4 + 3) % 7 + 7 * (week - 1)
        right = (week >= 1) & ((days + 3).astype("datetime64[D]").astype("datetime64[Y]") == of)
    elif "a" in part:
        days, right, note = _either_order(part, year, complain)
    else:
        month = 3 * _number(part, "q") - 2 if "q" in part else _month(part)
        days, right = _days(year, month, _number(part, "d") if "d" in part else one)
    stamps, zone = days * DAY, None
    if "H" in part:
        hour = _number(part, "H")
        half = pc.utf8_lower(part["p"]).to_numpy(False)
        hour = np.where(half == "", hour, hour % 12 + 12 * (half == "p"))
        minute, second = _number(part, "M"), _number(part, "S")
        right &= (hour < 24) & (minute < 60) & (second < 60)
        fraction = pc.utf8_rpad(pc.utf8_slice_codeunits(part["f"], 0, 6), 6, "0")
        micro = pc.cast(fraction, pa.int64()).to_numpy()
        stamps = stamps + hour * HOUR + minute * MINUTE + second * 10**6 + micro
        stamps, zone = _in_zone(stamps, part["z"], complain)
    if not right.all():
        raise complain(~right, "no such date or time")
    clock = "H" in part and bool((stamps % DAY).any() or zone)
    fine = "us" if bool((stamps % 10**6).any()) else "s"
    return Times(stamps, pa.timestamp(fine, zone) if clock else pa.date32(), zone, note)


def _match(words: pa.Array, form: str) -> dict[str, pa.Array] | None:
    """The named parts, if all words have the form."""
    import pyarrow.compute as pc

    found = pc.extract_regex(words, form)
    if found.null_count:
        return None
    return dict(zip((f.name for f in found.type), found.flatten(), strict=True))


def _number(part: dict[str, pa.Array], name: str) -> Ints:
    """Digits as numbers; none are 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    out: Ints = pc.cast(pc.utf8_lpad(part[name], 1, "0"), pa.int64()).to_numpy().copy()
    return out


def _month(part: dict[str, pa.Array]) -> Ints:
    import pyarrow as pa
    import pyarrow.compute as pc

    if "m" in part:
        return _number(part, "m")
    short = pc.utf8_lower(pc.utf8_slice_codeunits(part["n"], 0, 3))
    out: Ints = pc.index_in(short, pa.array(_NAMES)).to_numpy().astype(np.int64) + 1
    return out


def _days(year: Ints, month: Ints, day: Ints) -> tuple[Ints, Bools]:
    """Days since 1970, and whether there is such a day."""
    right = (month >= 1) & (month <= 12) & (day >= 1)
    months = ((year - 1970) * 12 + np.clip(month, 1, 12) - 1).astype("datetime64[M]")
    first, end = (m.astype("datetime64[D]").astype(np.int64) for m in (months, months + 1))
    return first + day - 1, right & (first + day <= end)


def _either_order(
    part: dict[str, pa.Array], year: Ints, complain: Callable[[Any, str], ValueError]
) -> tuple[Ints, Bools, str]:
    """Day and month in the order that can be; if both can, in the one that is the more even."""
    a, b = _number(part, "a"), _number(part, "b")
    dots = bool((part["by"].to_numpy(False) == ".").all())
    if dots or (a > 12).any():
        return *_days(year, b, a), "dates are read as day, month, year"
    if (b > 12).any():
        return *_days(year, a, b), "dates are read as month, day, year"
    (first, right), (second, _) = _days(year, b, a), _days(year, a, b)
    kinds = [_kinds_of_steps(days) for days in (first, second)]
    if kinds[0] == kinds[1] and (first != second).any():
        raise complain(first != second, "day or month first? Write dates as 2024-01-31")
    if kinds[0] <= kinds[1]:
        return first, right, "dates are read as day, month, year: so they are evenly spaced"
    return second, right, "dates are read as month, day, year: so they are evenly spaced"


def _kinds_of_steps(days: Ints) -> int:
    """How many different steps there are from one day to the next, or from one month."""
    months = np.unique(days).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    by_day = len(np.unique(np.diff(np.unique(days))))
    if len(np.unique(months)) < len(months):
        return by_day
    return min(by_day, len(np.unique(np.diff(months))))


def _in_zone(
    stamps: Ints, zones: pa.Array, complain: Callable[[Any, str], ValueError]
) -> tuple[Ints, str | None]:
    """Stamps in UTC, and their one zone, if they have one."""
    import pyarrow.compute as pc

    names = pc.replace_substring_regex(zones, r"^(Z|GMT|[+-]00(:?00)?)$", "UTC").to_numpy(False)
    kinds = sorted(set(names.tolist()))
    if len(kinds) > 1:
        found = " and ".join(k or "none" for k in kinds[:2])
        raise complain(
            names != names[0],
            f"several time zones ({found}): write all stamps in UTC, as 2024-01-31T12:00Z, or all "
            "without a zone",
        )
    if kinds == [""]:
        return stamps, None
    if kinds == ["UTC"]:
        return stamps, "UTC"
    sign, digits = kinds[0][0], kinds[0][1:].replace(":", "").ljust(4, "0")
    offset = int(digits[:2]) * HOUR + int(digits[2:]) * MINUTE
    return stamps - (offset if sign == "+" else -offset), f"{sign}{digits[:2]}:{digits[2:]}"
