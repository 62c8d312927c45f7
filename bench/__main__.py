"""``python -m bench [NAME …] [--data FOLDER]``: run benches, write bench/results/*.json."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

NAMES = (
    "identity",
    "strategies_identity",
    "strategies",
    "coupling",
    "hybrid_cost",
    "loop_overhead",
    "lstm_training",
    "transformer_training",
    "time_to_quality",
    "long_stream",
    "defaults",
    "demo_bits",
    "faults",
    "constraints",
    "engine_limits",
    "decode_gpt2",
    "decode_small",
    "decode_rnn",
    "prefill",
    "same_bits",
    "engine_quality",
    "engine_memory",
    "next_words",
    "smollm2",
    "smollm2_bits",
    "smollm2_parity",
    "series_accuracy",
    "series_ar",
    "series_arima",
    "series_smoothing",
    "series_regression",
    "series_neural",
    "series_robust",
    "series_million",
    "pixel_training",
    "pixel_sampling",
    "pixel_likelihood",
    "pixel_infill",
)


def main() -> None:
    """Run the named benches, or all."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("CHAINRULE_DATA"), help="benchmark data"
    )
    args = parser.parse_args()
    for name in args.names or NAMES:
        if name not in NAMES:
            parser.error(f"no bench {name!r}; there are {', '.join(NAMES)}")
        print(f"== {name}")
        importlib.import_module(f"bench.{name}").main(args.data)


if __name__ == "__main__":
    main()
