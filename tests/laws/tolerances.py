"""The tolerances of CONTRIBUTING.md, by name. Nothing in the tests has one of its own."""

from __future__ import annotations

EXACT = 0.0  # symbols, bytes, and numbers that take the same code path
FLOAT64 = 1e-9  # the same maths by another path, relative
FLOAT32 = 1e-5  # the same maths by another path, relative L2
BFLOAT16 = 0.01  # the engine in bf16 beside float64, relative L2
INT8 = 0.02  # the engine in int8: activations are rounded as the weights are, relative L2
INT8_CACHE = 1e-4  # keys and values of int8 beside float64 that rounds them alike, relative L2
Q4 = 0.2  # the engine in q4 beside the weights before they were rounded, relative L2
REFERENCE64 = 1e-6  # another library, float64, relative
REFERENCE32 = 1e-4  # another library, float32, relative
PARITY_KL = 1e-9  # another library on the same weights, float32: nats of divergence a symbol
LLAMA_GELU = 0.02  # llama.cpp looks its GELU up in a table of float16: log p of a symbol
CLOSED_FORM = 0.02  # what is sampled under a fixed seed beside its closed form, relative
FALSE_ALARM = 1e-6  # a statistical test that fails so often when nothing is wrong
