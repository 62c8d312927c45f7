"""The names that the command line offers, and the arguments that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

# Held against the registry by a test: reading it would import torch.
ModelName = Literal[
    "transformer", "gpt2", "lstm", "gru", "mingru", "rnn", "ngram", "pixelcnn", "pixelrnn", "made",
    "anyorder",
]  # fmt: skip
SizeName = Literal["tiny", "small", "base"]
CodecName = Literal["bytes", "chars", "words", "bpe", "pixels"]
ColourName = Literal["grey", "rgb", "luma", "palette"]
OrderName = Literal["raster", "reverse", "columns", "snake", "planes", "coarse", "random"]
StrategyName = Literal[
    "auto", "ancestral", "lookup", "draft", "heads", "jacobi", "hybrid", "block", "parallel"
]
ObjectiveName = Literal["nll", "scheduled", "noise", "hybrid", "any-order"]
UtilityName = Literal["chrf", "match"]
ForecasterName = Literal[
    "auto", "ar", "arima", "regression", "var", "theta", "holt-winters", "damped", "holt", "ses",
    "seasonal-naive", "naive", "drift", "mean", "lstm", "gru", "transformer",
]  # fmt: skip
MethodName = Literal["exact", "clamp", "smc"]
BackendName = Literal["auto", "torch", "engine"]
AdapterName = Literal["lora"]
CacheName = Literal["auto", "int8"]
DTypeName = Literal["f32", "bf16", "int8", "int8-row", "q4"]

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by chainrule fit.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Backend = Annotated[BackendName, typer.Option(help="What computes it.")]
DType = Annotated[
    DTypeName | None, typer.Option(help="Of the weights; the engine can do with narrower ones.")
]
Rope = Annotated[
    str | None, typer.Option(metavar="KIND:FACTOR", help="Stretch positions, as in yarn:2.")
]
Cache = Annotated[
    CacheName, typer.Option(help="Keys and values; int8 takes half of bf16's memory.")
]
Field = Annotated[
    str | None, typer.Option(help="Field of .jsonl lines that holds the text; array of an .npz.")
]
Column = Annotated[str | None, typer.Option(help="Column of .csv or .parquet that holds it.")]
