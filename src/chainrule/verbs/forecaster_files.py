"""A Forecaster on disk: ``config.json``, ``series.parquet`` (which series there are, and their
last points) and ``state.safetensors``. Nothing is pickled.

Tensors that are alike are kept once, a tensor whose rows are all alike as one row, and all of them
deflated: a series takes little more than what tells it apart. Shapes: N series, F regressors.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from chainrule.artifact import load_artifact
from chainrule.core.config import from_dict, to_dict
from chainrule.core.noise import Noise
from chainrule.files import new_folder, read_json, read_tensors, write_json, write_tensors
from chainrule.series.auto import AutoFitted
from chainrule.series.baselines import DriftFitted
from chainrule.series.batch import Fitted
from chainrule.series.calendar import Calendar
from chainrule.series.check import Policy
from chainrule.series.panel import Origin, Panel
from chainrule.series.recursion import LinearFitted
from chainrule.series.regression import RegressionFitted
from chainrule.series.stamps import write_times
from chainrule.series.var_fitted import VARFitted
from chainrule.verbs.learned import Learned
from chainrule.verbs.neural_models import Neural, NeuralFitted, restored

if TYPE_CHECKING:
    from chainrule.verbs.forecaster import Forecaster

FORMAT = 1
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (AutoFitted, DriftFitted, LinearFitted, RegressionFitted, VARFitted)
}
_CONFIG, _SERIES, _STATE = "config.json", "series.parquet", "state.safetensors"
_USUAL, _ONCE = "usual", "once."  # of all series together: a view of one row, see AutoFitted
_FRAMES = ("file", "array", "arrow", "pandas", "polars", "pyarrow", "modin", "cudf")
_WIDEST = 2**20  # numbers that one series may have in one tensor
_ROOM = 2**30  # bytes that any folder may unpack to; large ones to a hundred times their own
_NAMES: dict[Any, Any] = {torch.float64: "F64", torch.int64: "I64", torch.bool: "BOOL"}
_TYPES = {name: kind for kind, name in _NAMES.items()}


@dataclass(frozen=True)
class _Column:
    """Where a tensor is: under which name in the file, deflated, its type and the shape of a row;
    ``shared``: its one row is everybody's."""

    stored: str
    shared: bool
    dtype: Literal["F64", "I64", "BOOL"]
    row: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of a row."""
        return math.prod(self.row) * int(_TYPES[self.dtype].itemsize)


@dataclass(frozen=True)
class _Reading:
    """What ``Forecaster`` was asked for and doesn't stand elsewhere."""

    policy: Policy
    season: int | None
    freq: str | None


@dataclass(frozen=True)
class _Entry:
    """A fitted model: its registry name, its config and what its tensors are."""

    model: str
    config: dict[str, Any]
    kind: str
    tensors: dict[str, Any]


@dataclass(frozen=True)
class _File:
    """All of ``config.json``."""

    format: int
    models: tuple[_Entry, ...]
    horizon: int | None
    reading: _Reading
    calendar: Calendar
    kind: str
    single: bool
    columns: tuple[str, str, str]
    known: tuple[str, ...]


def save(forecaster: Forecaster, learned: Learned, folder: Path) -> Path:
    """Write a new folder. Raises: see ``Forecaster.save``."""
    if folder.exists():
        raise ValueError(f"{folder} exists: choose another folder")
    stored: dict[str, Tensor] = {}
    entries, now = [], learned.now
    for name, fitted in learned.fitted.items():
        index = _pack(fitted.tensors(), stored)
        config = to_dict(forecaster.models[name])
        entries.append(_Entry(name, config, type(fitted).__name__, index))
    if len(learned.fitted) == 1:
        sizes = learned.calibrated().sizes
        stored[_USUAL] = torch.zeros(0, dtype=torch.float64) if sizes is None else sizes
    origin = now.origin
    file = _File(
        FORMAT,
        tuple(entries),
        forecaster.horizon,
        _Reading(*(forecaster.reading[f.name] for f in fields(_Reading))),
        now.calendar,
        origin.kind,
        origin.single,
        (origin.id_col, origin.time_col, origin.target_col),
        now.names,
    )
    with new_folder(folder) as aside:
        for name, fitted in learned.fitted.items():
            if isinstance(fitted, NeuralFitted):
                (aside / name).mkdir()
                fitted.artifact.save_config(aside / name)
                fitted.artifact.save_weights(aside / name)
        write_tensors(aside / _STATE, stored)
        _write_series(now, aside / _SERIES)
        write_json(aside / _CONFIG, to_dict(file))
    return folder


def load(folder: Path) -> Forecaster:
    """Read it back. Raises: see ``Forecaster.load``."""
    from chainrule.verbs.forecaster import MODELS, Forecaster

    where = folder / _CONFIG
    data = read_json(where)
    if not isinstance(data, dict) or "models" not in data:
        raise ValueError(f"{where}: not a Forecaster's: only what Forecaster.save wrote is read")
    if data.get("format") != FORMAT:
        raise ValueError(f"{where}: format {data.get('format')!r}; this version reads {FORMAT}")
    file = from_dict(_File, data, str(where))
    if file.kind not in _FRAMES:
        raise ValueError(f"{where}: kind: {file.kind!r} is not one of {', '.join(_FRAMES)}")
    now = _read_series(file, folder / _SERIES)
    state = folder / _STATE
    tensors, _ = read_tensors(state)
    id_col, time_col, target_col = file.columns
    out = Forecaster(
        [e.model for e in file.models],
        horizon=file.horizon,
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
        known=file.known,
        **asdict(file.reading),
    )
    columns = [_columns(entry, f"{state}") for entry in file.models]
    count, room = int(now.ok.sum()), state.stat().st_size + (folder / _SERIES).stat().st_size
    size = sum(
        c.size * (1 if _is_view(name, c) else count) for each in columns for name, c in each.items()
    )
    if size > _ROOM + 100 * room:
        raise ValueError(f"{state}: {size:,} bytes are said to be in {room:,}, which can't be")
    fitted: dict[str, Fitted] = {}
    for entry, places in zip(file.models, columns, strict=True):
        model = from_dict(MODELS[entry.model], entry.config, str(where))
        out.models[entry.model] = model
        network = load_artifact(folder / entry.model) if isinstance(model, Neural) else None
        if network is None and entry.kind not in _KINDS:
            raise ValueError(f"{where}: unknown kind of state {entry.kind!r}")
        held = _unpack(places, tensors, count, state)
        try:
            if network is not None and isinstance(model, Neural):
                made: Fitted = restored(network, held, model.samples)
            else:
                made = _KINDS[entry.kind].from_tensors(held)
            _try(made, now)
        except Exception as error:  # whatever numbers and shapes that don't fit together raise
            why = " ".join(str(error).split())[:200]
            raise ValueError(f"{state}: parts that don't fit together: {why}") from None
        fitted[entry.model] = made
    sizes = tensors.get(_USUAL, torch.zeros(0).double())
    if sizes.dtype != torch.float64 or sizes.ndim != 1 or not bool((sizes >= 0).all()):
        raise ValueError(f"{state}: {_USUAL!r} is no list of sizes")
    out.learned = Learned(fitted, now, None, sizes)
    return out


def _try(fitted: Fitted, now: Panel) -> None:
    """Use it once: what is damaged is found here, and not in the middle of something."""
    rows = int(now.ok.sum())
    if not isinstance(fitted, NeuralFitted):
        known = torch.from_numpy(now.known)[:, None] if now.names else None
        if not bool(fitted.forecast(1, known).point.isfinite().all()):
            raise ValueError("it forecasts what is no number")
    if not isinstance(fitted, VARFitted):  # whose series can't be parted
        rows = min(rows, 2)
        fitted = fitted.select(torch.arange(rows))
    last = now.select(now.ok).select(np.arange(rows)).ragged()
    known = None if last.known is None else last.known[:, None]
    law = fitted.forecast(1, known)
    assert law.point.shape == (rows, 1) and law.quantile([0.1, 0.9]).shape == (rows, 1, 2)
    assert fitted.simulate(1, 2, Noise.seeded(0, range(rows)), known).shape == (rows, 2, 1)
    after, *laws = fitted.update(last)
    assert [x.shape for x in (after.forecast(1, known).point, *laws)] == [
        (rows, 1),
        (rows,),
        (rows,),
    ]


def _columns(entry: _Entry, where: str) -> dict[str, _Column]:
    """Raises ValueError: rows that can't be."""
    out = {}
    for name, place in entry.tensors.items():
        out[name] = column = from_dict(_Column, place, f"{where}: {name}")
        if any(n < 0 for n in column.row) or not 0 <= column.size <= 8 * _WIDEST:
            raise ValueError(f"{where}: {name} has rows of {list(column.row)}, which can't be")
    return out


def _pack(tensors: Mapping[str, Tensor], stored: dict[str, Tensor]) -> dict[str, Any]:
    """Put tensors among the stored ones; where each of them is, as JSON."""
    index = {}
    for name, tensor in tensors.items():
        shared = len(tensor) > 1 and (
            name.startswith(_ONCE) or bool((tensor[1:] == tensor[:1]).all())
        )
        t = (tensor[:1] if shared else tensor).detach().cpu().contiguous()
        data = t.numpy().tobytes()
        name_there = hashlib.blake2b(data, digest_size=12).hexdigest()
        if name_there not in stored:
            deflated = zlib.compress(data, 1)
            stored[name_there] = torch.frombuffer(bytearray(deflated), dtype=torch.uint8)
        index[name] = to_dict(_Column(name_there, shared, _NAMES[t.dtype], tuple(t.shape[1:])))
    return index


def _unpack(
    places: Mapping[str, _Column], tensors: Mapping[str, Tensor], count: int, where: Path
) -> dict[str, Tensor]:
    """Tensors of ``count`` rows by name.

    Raises:
        ValueError: one that is missing or damaged, or of another number of rows.
    """
    out = {}
    for name, column in places.items():
        if column.stored not in tensors:
            raise ValueError(f"{where}: tensor {column.stored!r} is missing")
        rows, kind = 1 if column.shared else count, _TYPES[column.dtype]
        size = rows * column.size
        data = _inflated(tensors[column.stored], size, f"{where}: {name}")
        t = (data != 0 if kind is torch.bool else data.view(kind)).view(rows, *column.row)
        if column.shared:
            t = t.expand(count, *column.row)
        out[name] = t if _is_view(name, column) else t.contiguous()
    return out


def _is_view(name: str, column: _Column) -> bool:
    """Whether a tensor stays one row, which stands for those of all series."""
    return column.shared and name.startswith(_ONCE)


def _inflated(t: Tensor, size: int, where: str) -> Tensor:
    """So many bytes, and not one more, whatever was deflated."""
    if t.dtype != torch.uint8 or t.ndim != 1:
        raise ValueError(f"{where}: {t.dtype}{list(t.shape)} are no deflated bytes")
    engine = zlib.decompressobj()
    try:
        data = engine.decompress(t.numpy().tobytes(), size + 1)
    except zlib.error as error:
        raise ValueError(f"{where}: damaged ({error})") from None
    if len(data) != size or not engine.eof:
        raise ValueError(f"{where}: it is not of {size:,} bytes")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if size else t[:0]


def _write_series(now: Panel, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    last = (now.first + now.lens - 1) if len(now) else now.first
    value = np.full(len(now), np.nan)
    value[now.ok] = now.values
    table = {
        "id": now.ids,
        "time": write_times(now.calendar.stamps(last), now.origin.time),
        "period": pa.array(last),
        "ok": pa.array(now.ok),
        "last": pa.array(value),
        "status": now.status.cast(pa.string()),
    }
    parquet.write_table(pa.table(table), path)


def _read_series(file: _File, path: Path) -> Panel:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        meta = parquet.read_metadata(path)
        groups = (meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
        if max(meta.num_rows, sum(groups) // 32) > path.stat().st_size:
            raise ValueError("more is said to be in it than can be")
        table = parquet.read_table(path).combine_chunks()
        columns = {name: table.column(name) for name in ("id", "time", "period", "ok", "last")}
        if any(columns[name].null_count for name in ("id", "period", "ok")):
            raise ValueError("there is no value where one must be")
        status = table.column("status").combine_chunks().dictionary_encode()
        period = np.array(columns["period"].to_numpy(), np.int64)
        ok = np.array(columns["ok"].to_numpy(zero_copy_only=False), np.bool_)
        last = np.array(columns["last"].to_numpy(), np.float64)
        ids, time = columns["id"].combine_chunks(), columns["time"].type
        stamps = write_times(file.calendar.stamps(period), time)
        if not columns["time"].combine_chunks().equals(stamps):
            raise ValueError(f"its times are not those of the calendar of {_CONFIG}")
        if not ok.any() or not np.isfinite(last[ok]).all():
            raise ValueError("no series is left, or one without a last value")
    except Exception as error:  # Arrow, the calendar and the system have many kinds
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: missing, damaged or foreign ({why})") from None
    offsets = np.append(0, np.cumsum(ok)).astype(np.int64)
    id_col, time_col, target_col = file.columns
    return Panel(
        ids=ids if isinstance(ids, pa.Array) else ids.chunk(0),
        values=last[ok],
        offsets=offsets,
        first=np.where(ok, period, period + 1),
        status=status if isinstance(status, pa.Array) else status.chunk(0),
        calendar=file.calendar,
        origin=Origin(file.kind, "a saved one", id_col, time_col, target_col, time, file.single),
        known=np.zeros((int(offsets[-1]), len(file.known))),
        names=tuple(file.known),
    )
