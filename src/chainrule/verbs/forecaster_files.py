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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from chainrule.artifact import load_artifact
from chainrule.core.config import from_dict, to_dict
from chainrule.files import new_folder, read_json, read_tensors, write_json, write_tensors
from chainrule.series.auto import AutoFitted
from chainrule.series.baselines import DriftFitted
from chainrule.series.batch import Fitted
from chainrule.series.calendar import Calendar
from chainrule.series.panel import Origin, Panel
from chainrule.series.recursion import LinearFitted
from chainrule.series.regression import RegressionFitted
from chainrule.series.stamps import write_times
from chainrule.series.var_fitted import VARFitted
from chainrule.verbs.neural_models import Neural, NeuralFitted, restored

if TYPE_CHECKING:
    from chainrule.verbs.forecaster import Forecaster

FORMAT = 1
_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (AutoFitted, DriftFitted, LinearFitted, RegressionFitted, VARFitted)
}
_CONFIG, _SERIES, _STATE = "config.json", "series.parquet", "state.safetensors"
_USUAL = "usual"
_WIDEST = 2**20  # numbers that one series may have in one tensor
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
    reading: dict[str, Any]
    calendar: Calendar
    kind: str
    single: bool
    columns: tuple[str, str, str]
    known: tuple[str, ...]


def save(forecaster: Forecaster, now: Panel, folder: Path) -> Path:
    """Write a new folder. Raises: see ``Forecaster.save``."""
    stored: dict[str, Tensor] = {}
    entries = []
    for name, fitted in forecaster.fitted.items():
        index = _pack(fitted.tensors(), stored)
        config = to_dict(forecaster.models[name])
        entries.append(_Entry(name, config, type(fitted).__name__, index))
    if len(forecaster.fitted) == 1:
        stored[_USUAL] = forecaster.usual()
    origin = now.origin
    file = _File(
        FORMAT,
        tuple(entries),
        forecaster.horizon,
        {k: v for k, v in forecaster.reading.items() if k in ("policy", "season", "freq")},
        now.calendar,
        origin.kind,
        origin.single,
        (origin.id_col, origin.time_col, origin.target_col),
        now.names,
    )
    with new_folder(folder) as aside:
        for name, fitted in forecaster.fitted.items():
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
    now = _read_series(file, folder / _SERIES)
    tensors, _ = read_tensors(folder / _STATE)
    count = int(now.ok.sum())
    id_col, time_col, target_col = file.columns
    out = Forecaster(
        [e.model for e in file.models],
        horizon=file.horizon,
        id_col=id_col,
        time_col=time_col,
        target_col=target_col,
        known=file.known,
        **file.reading,
    )
    for entry in file.models:
        out.models[entry.model] = from_dict(MODELS[entry.model], entry.config, str(where))
        held = _unpack(entry.tensors, tensors, count, folder / _STATE)
        model = out.models[entry.model]
        if isinstance(model, Neural):
            network = load_artifact(folder / entry.model)
            fitted: Fitted = restored(network, held, model.samples)
        elif entry.kind in _KINDS:
            fitted = _KINDS[entry.kind].from_tensors(held)
        else:
            raise ValueError(f"{where}: unknown kind of state {entry.kind!r}")
        try:
            fitted.forecast(1, _no_regressors(file, count))
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(f"{folder / _STATE}: parts that don't fit together: {error}") from None
        out.fitted[entry.model] = fitted
    usual = tensors.get(_USUAL, torch.zeros(0, dtype=torch.float64))
    out.restore(now, usual)
    return out


def _no_regressors(file: _File, count: int) -> Tensor | None:
    return torch.zeros(count, 1, len(file.known)).double() if file.known else None


def _pack(tensors: Mapping[str, Tensor], stored: dict[str, Tensor]) -> dict[str, Any]:
    """Put tensors among the stored ones; where each of them is, as JSON."""
    index = {}
    for name, tensor in tensors.items():
        t = tensor.detach().cpu()
        shared = len(t) > 1 and bool((t[1:] == t[:1]).all())
        t = (t[:1] if shared else t).contiguous()
        data = t.numpy().tobytes()
        name_there = hashlib.blake2b(data, digest_size=12).hexdigest()
        if name_there not in stored:
            deflated = zlib.compress(data, 1)
            stored[name_there] = torch.frombuffer(bytearray(deflated), dtype=torch.uint8)
        index[name] = to_dict(_Column(name_there, shared, _NAMES[t.dtype], tuple(t.shape[1:])))
    return index


def _unpack(
    index: Mapping[str, Any], tensors: Mapping[str, Tensor], count: int, where: Path
) -> dict[str, Tensor]:
    """Tensors of ``count`` rows by name.

    Raises:
        ValueError: one that is missing or damaged, or of another number of rows.
    """
    out = {}
    for name, place in index.items():
        column = from_dict(_Column, place, f"{where}: {name}")
        if column.stored not in tensors:
            raise ValueError(f"{where}: tensor {column.stored!r} is missing")
        rows, kind = 1 if column.shared else count, _TYPES[column.dtype]
        if any(n < 0 for n in column.row) or math.prod(column.row) > _WIDEST:
            raise ValueError(f"{where}: {name} has rows of {list(column.row)}, which can't be")
        size = rows * math.prod(column.row) * kind.itemsize
        data = _inflated(tensors[column.stored], size, f"{where}: {name}")
        t = (data != 0 if kind is torch.bool else data.view(kind)).view(rows, *column.row)
        out[name] = t.expand(count, *column.row).contiguous() if column.shared else t
    return out


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
        table = parquet.read_table(path).combine_chunks()
        columns = {name: table.column(name) for name in ("id", "time", "period", "ok", "last")}
        status = table.column("status").combine_chunks().dictionary_encode()
        period = np.array(columns["period"].to_numpy(), np.int64)
        ok = np.array(columns["ok"].to_numpy(zero_copy_only=False), np.bool_)
        last = np.array(columns["last"].to_numpy(), np.float64)
        ids, time = columns["id"].combine_chunks(), columns["time"].type
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: missing, damaged or foreign ({error})") from None
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
