"""Calendars: which period a stamp is in, and the stamp of a period, for many at once.

A stamp is an int64: microseconds since 1970 (in UTC where there is a zone, else as the clock on the
wall shows it), or a plain number where steps are only numbered. A period is an int64 too; the one
after p is p + 1. Shapes: S stamps, C cycles.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["step", "us", "day", "business", "month"]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

SECOND, MINUTE, HOUR, DAY = 10**6, 60 * 10**6, 3600 * 10**6, 86400 * 10**6
_MONTH_END, _BUSINESS_END = 31, 0  # values of Calendar.day
_WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_TICKS = {"h": HOUR, "min": MINUTE, "s": SECOND, "ms": 1000, "us": 1}


@dataclass(frozen=True)
class Calendar:
    """Periods of one length and their stamps.

    Args:
        unit: "step" (numbers), "us" (a fixed time: hours go on when clocks are changed), "day",
            "business" (Monday to Friday) and "month" of the clock on the wall.
        count: units a period. phase: of period 0, in units since 1970, 0 ≤ phase < count.
        clock: microseconds after midnight, of days and months.
        day: of the month, 1…31, or the last where a month is shorter; 0: its last business day.
        zone: of aware stamps. season: periods a season, 1: none.
    """

    unit: Unit
    count: int = 1
    phase: int = 0
    clock: int = 0
    day: int = 1
    zone: str | None = None
    season: int = 1

    def locate(self, stamps: Ints) -> tuple[Ints, Bools]:
        """The period that every stamp [S] lies in, and whether it is the stamp of that period."""
        if self.unit in ("step", "us"):
            periods = (stamps - self.phase) // self.count
            return periods, periods * self.count + self.phase == stamps
        if not len(stamps):
            return stamps, np.zeros(0, np.bool_)
        days, clock = wall(stamps, self.zone)
        first = int(days.min())
        # Days repeat themselves in every series: look them up.
        number = self._of_days(np.arange(first, int(days.max()) + 1))
        periods = number[days - first]
        if self.zone is not None:  # the clock may have skipped a midnight
            return periods, self.stamps(periods) == stamps
        on = self._days(number) == np.arange(first, first + len(number))
        return periods, on[days - first] & (clock == self.clock)

    def stamps(self, periods: Ints) -> Ints:
        """The stamp of every period, any shape."""
        if self.unit in ("step", "us"):
            return periods * self.count + self.phase
        return _aware(self._days(periods) * DAY + self.clock, self.zone)

    def _of_days(self, days: Ints) -> Ints:
        if self.unit == "business":  # 1970 began on a Thursday; weekends are with their Friday
            week, weekday = np.divmod(days + 3, 7)
            return week * 5 + np.minimum(weekday, 4)
        if self.unit == "month":
            days = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
        return (days - self.phase) // self.count

    def _days(self, periods: Ints) -> Ints:
        """The day since 1970 of every period's stamp."""
        if self.unit == "business":
            week, weekday = np.divmod(periods, 5)
            return week * 7 + weekday - 3
        at = periods * self.count + self.phase
        if self.unit == "day":
            return at
        last = _first_day(at + 1) - 1
        if self.day == _BUSINESS_END:
            return last - np.maximum((last + 3) % 7 - 4, 0)
        return np.minimum(_first_day(at) + self.day - 1, last)

    @property
    def alias(self) -> str:
        """As pandas would write it: "h", "15min", "W-SUN", "MS", "QE", …; a number for steps."""
        n, anchor = self.count, ""
        if self.unit == "step":
            return str(n)
        if self.unit == "us":
            name, size = next((k, v) for k, v in _TICKS.items() if n % v == 0)
            n //= size
        elif self.unit == "business":
            name = "B"
        elif self.unit == "day":
            name, n = ("W", n // 7) if n % 7 == 0 else ("D", n)
            anchor = f"-{_WEEKDAYS[(self.phase + 3) % 7]}" if name == "W" else ""
        else:
            size = next(k for k in (12, 3, 1) if n % k == 0)
            ends = self.day in (_MONTH_END, _BUSINESS_END)
            name = ("B" if self.day == _BUSINESS_END else "") + {12: "Y", 3: "Q", 1: "M"}[size]
            name += "E" if ends else "S" if self.day == 1 else ""
            usual = size - 1 if ends else 0
            anchor = "" if self.phase % size == usual else f"-{_MONTHS[self.phase % size]}"
            n //= size
        return f"{n if n > 1 else ''}{name}{anchor}"

    @property
    def cycles(self) -> tuple[str, ...]:
        """What ``steps`` tells the place in: those of minute, hour, day, week, month and year that
        are longer than a period."""
        if self.unit == "step":
            return ()
        if self.unit == "us":
            lengths = {"minute": MINUTE, "hour": HOUR, "day": DAY, "week": 7 * DAY}
            return (*(k for k, v in lengths.items() if self.count < v), "year")
        if self.unit == "month":
            return ("year",) if self.count % 12 else ()
        return (*(("week",) if self.count % 7 else ()), "month", "year")

    def steps(self, periods: Ints) -> NDArray[np.float64]:
        """Calendar features [..., 2 C]: cosine and sine of the place in each of ``cycles``."""
        if not self.cycles:
            return np.zeros((*periods.shape, 0))
        days, clock = wall(self.stamps(periods), self.zone)
        dates = days.astype("datetime64[D]")
        month, year = dates.astype("datetime64[M]"), dates.astype("datetime64[Y]")
        time = clock / DAY
        place = {
            "minute": clock / MINUTE,
            "hour": clock / HOUR,
            "day": time,
            "week": ((days + 3) % 7 + time) / 7,
            "month": _share(days + time, month),
            "year": _share(days + time, year),
        }
        angles = 2 * np.pi * np.stack([place[k] for k in self.cycles], -1)
        both = np.stack([np.cos(angles), np.sin(angles)], -1)
        return both.reshape(*periods.shape, 2 * len(self.cycles))


def wall(stamps: Ints, zone: str | None) -> tuple[Ints, Ints]:
    """Days since 1970 and microseconds after midnight, as clocks in the zone show them."""
    offset = _offset(zone)
    if offset is not None:
        stamps = stamps + offset if offset else stamps
    else:
        import pyarrow as pa
        import pyarrow.compute as pc

        aware = pa.array(stamps.reshape(-1)).cast(pa.timestamp("us", zone))
        local = pc.local_timestamp(aware).cast(pa.int64()).to_numpy()
        stamps = local.reshape(stamps.shape)
    days = stamps.view("datetime64[us]").astype("datetime64[D]").view(np.int64)
    return days, stamps - days * DAY


def _offset(zone: str | None) -> int | None:
    """Microseconds that the wall's clock is always ahead of UTC; None where that changes."""
    found = re.fullmatch(r"([+-])(\d\d):?(\d\d)", zone or "+00:00")
    if found is None:
        return 0 if zone in ("UTC", "Etc/UTC", "GMT", "Z") else None
    return int(f"{found[1]}1") * (int(found[2]) * HOUR + int(found[3]) * MINUTE)


def _aware(local: Ints, zone: str | None) -> Ints:
    """The stamps of times on the wall; the first one of two, the next one of none."""
    offset = _offset(zone)
    if offset is not None:
        return local - offset
    import pyarrow as pa
    import pyarrow.compute as pc

    naive = pa.array(local.reshape(-1)).cast(pa.timestamp("us"))
    aware = pc.assume_timezone(naive, zone, ambiguous="earliest", nonexistent="latest")
    out: Ints = aware.cast(pa.int64()).to_numpy()
    return out.reshape(local.shape)


def _first_day(months: Ints) -> Ints:
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)


def _share(days: NDArray[np.float64], within: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """How much of a month or a year is over."""
    first, end = (d.astype("datetime64[D]").astype(np.int64) for d in (within, within + 1))
    return (days - first) / (end - first)


# ---- what frequency is it ----


def usual_season(calendar: Calendar) -> int:
    """Periods of the season that people expect: of a day below an hour's count and up to it, of a
    week for days, of a year for weeks, months and quarters; of an hour below a minute."""
    n = calendar.count
    if calendar.unit == "us":
        cycle = DAY if n >= MINUTE else HOUR if n >= SECOND else 0
    elif calendar.unit == "day":
        cycle = 7 if n % 7 else 364
    else:
        cycle = {"step": 0, "business": 5, "month": 12}[calendar.unit]
    return max(1, cycle // n) if cycle % n == 0 else 1


def _mode(values: Ints) -> int:
    """The most common value, the smallest of several."""
    kinds, counts = np.unique(values, return_counts=True)
    return int(kinds[counts.argmax()])


def infer(stamps: Ints, same: Bools, numbered: bool, zone: str | None) -> Calendar:
    """The calendar that most stamps are on.

    Args:
        stamps: [S] of all series, each in order. same: [S-1], whether a stamp and the next one are
            of one series. numbered: the stamps are plain numbers.

    Raises:
        ValueError: no series has two stamps.
    """
    near = np.diff(stamps)[same]
    near = near[near > 0]
    if not len(near):
        raise ValueError(
            "one stamp a series doesn't tell how far apart they are: "
            "name the frequency, as in --freq D"
        )
    step = _mode(near)
    if numbered:
        return Calendar("step", step, _mode(stamps % step))
    days, clock = wall(stamps, zone)
    guesses = [*_of_days(days, _mode(clock), same), _ticks(stamps, step)]
    guesses = [replace(g, zone=zone) for g in guesses]
    shares = [float(g.locate(stamps)[1].mean()) for g in guesses]
    # Every business day is a day too: some strays must not make holes of all weekends.
    shares = [s + _FEW * (g.unit == "business") for g, s in zip(guesses, shares, strict=True)]
    best = guesses[shares.index(max(shares))]
    return replace(best, season=usual_season(best))


_FEW = 0.05  # of the stamps of business days may be on weekends


def _ticks(stamps: Ints, step: int) -> Calendar:
    return Calendar("us", step, _mode(stamps % step))


def _of_days(days: Ints, clock: int, same: Bools) -> list[Calendar]:
    """What calendars of days or months there may be, the likeliest first."""
    apart = np.diff(days)[same]
    there = apart > 0
    if not there.any():
        return []
    step = _mode(apart[there])
    guesses: list[Calendar] = []
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    later = np.diff(months)[same]
    if step >= 28 and (later > 0).any():
        count = _mode(later[later > 0])
        phase = _mode(months % count)
        guesses += [Calendar("month", count, phase, day=d) for d in _month_days(days)]
    elif step == 1 and ((days + 3) % 7 > 4).mean() < _FEW:
        friday = (days[:-1] + 3) % 7 + np.diff(days) > 6  # Saturday lies between
        guesses += [Calendar("business")] if (friday & same).any() else []
    guesses.append(Calendar("day", step, _mode(days % step)))
    return [replace(g, clock=clock) for g in guesses]


def coarser(stamps: Ints, calendar: Calendar) -> str:
    """The name of steps that are as long as most of what lies between stamps."""
    apart = np.diff(stamps)
    apart = apart[apart > 0]  # from one series to the next is mostly back
    usual = float(np.median(apart)) if len(apart) else 1.0
    if calendar.unit == "step":
        return str(int(usual))
    return next((name for name, size in _LENGTHS.items() if size >= 0.9 * usual), "YS")


_LENGTHS = {
    "s": SECOND,
    "min": MINUTE,
    "5min": 5 * MINUTE,
    "15min": 15 * MINUTE,
    "h": HOUR,
    "D": DAY,
    "W": 7 * DAY,
    "MS": 31 * DAY,
    "QS": 92 * DAY,
}
_UNITS: dict[str, tuple[Unit, int, int | None]] = {  # unit, count, day of the month
    **{k: ("us", v, None) for k, v in _TICKS.items()},
    **dict.fromkeys(("S", "second", "seconds"), ("us", SECOND, None)),
    **dict.fromkeys(("m", "T", "minute", "minutes"), ("us", MINUTE, None)),
    **dict.fromkeys(("H", "hour", "hours", "hourly"), ("us", HOUR, None)),
    **dict.fromkeys(("D", "d", "day", "days", "daily"), ("day", 1, None)),
    **dict.fromkeys(("W", "w", "week", "weeks", "weekly"), ("day", 7, None)),
    "B": ("business", 1, None),
    **dict.fromkeys(("mo", "month", "months", "monthly"), ("month", 1, None)),
    **dict.fromkeys(("q", "quarter", "quarters", "quarterly"), ("month", 3, None)),
    **dict.fromkeys(("y", "year", "years", "yearly"), ("month", 12, None)),
    **{
        name: ("month", n, day)
        for base, n in (("M", 1), ("Q", 3), ("Y", 12), ("A", 12))
        for name, day in (
            (base, None),
            (f"{base}S", 1),
            (f"{base}E", _MONTH_END),
            (f"B{base}E", _BUSINESS_END),
        )
    },
}
_LONGEST = {"us": 36525 * DAY, "day": 36525, "business": 1, "month": 1200}
_MONDAY = 4  # 5 January 1970


def named(text: str, stamps: Ints, numbered: bool, zone: str | None) -> Calendar:
    """The calendar of a name as pandas and polars write it (see ``Calendar.alias``), or a word.

    What the name leaves open (the weekday, the day of the month, the hour) is as in the stamps
    where nine of ten agree; else periods begin where people expect it.

    Raises:
        ValueError: an unknown name, or one that doesn't fit such stamps.
    """
    found = re.fullmatch(r"(\d{0,18}) ?([A-Za-z]*)(?:-([A-Z]{3}))?", text.strip())
    count, name, at = found.groups() if found else ("", "", None)
    if (numbered and (name or not count)) or (not numbered and name not in _UNITS):
        wanted = (
            "a whole number, as the stamps are" if numbered else "one like h, 15min, D, W or MS"
        )
        raise ValueError(f"--freq {text}: not a frequency here; name {wanted}")
    times = int(count or 1)
    if times < 1:
        raise ValueError(f"--freq {text}: periods are one unit long at least")
    if numbered:
        return Calendar("step", times, _agreed(stamps % times, 0))
    unit, size, day = _UNITS[name]
    anchors = {7: _WEEKDAYS, 3: _MONTHS, 12: _MONTHS}.get(size, ())
    if (unit == "business" and times > 1) or (at and at not in anchors):
        raise ValueError(f"--freq {text}: not a frequency here; name one like B, W-SUN or QS-FEB")
    if size * times > _LONGEST[unit]:
        raise ValueError(f"--freq {text}: periods are a hundred years long at most")
    out = Calendar(unit, size * times, zone=zone)
    if unit == "us":
        out = replace(out, phase=_agreed(stamps % out.count, 0))
        return replace(out, season=usual_season(out))
    days, clock = wall(stamps, zone)
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    if unit == "month":
        if day is None:
            guesses = [replace(out, count=1, day=d, zone=None) for d in _month_days(days)]
            shares = [float(g.locate(days * DAY)[1].mean()) for g in guesses]
            day = guesses[shares.index(max(shares))].day if max(shares) >= 0.9 else 1
        anchor = _MONTHS.index(at) % size if at else None
        out = replace(out, day=day, phase=_phase(months, out.count, size, anchor, 0))
    elif unit == "day":
        anchor = (_WEEKDAYS.index(at) - 3) % 7 if at else None
        usual = _MONDAY if out.count % 7 == 0 else 0
        out = replace(out, phase=_phase(days, out.count, size, anchor, usual))
    out = replace(out, clock=_agreed(clock, 0))
    return replace(out, season=usual_season(out))


def _phase(units: Ints, count: int, size: int, anchor: int | None, otherwise: int) -> int:
    """Where periods of ``count`` units begin: as the stamps, if the name's anchor allows it."""
    found = _agreed(units % count, otherwise if anchor is None else anchor)
    return found if anchor is None or found % size == anchor else anchor


def _month_days(days: Ints) -> tuple[int, ...]:
    """What may be the rule for the day of the month, the likeliest first."""
    months = days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    number = days - _first_day(months) + 1
    return _MONTH_END, 1, _BUSINESS_END, _mode(number), int(number.max())


def _agreed(values: Ints, otherwise: int) -> int:
    """What nine of ten say."""
    value = _mode(values)
    return value if (values == value).mean() >= 0.9 else otherwise
