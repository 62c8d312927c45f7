"""What this machine can do at most: reading memory, and multiplying matrices.

Reading: a loop of C++ over an array that fits the second cache, the third, or none, by one core
and by both, in plain pages and in huge ones where the system gives them. Products: square ones of
torch (oneDNN) in float32, bf16 and int8, as a proxy of the arithmetic's peak. The tables of
decode_gpt2 and prefill are read against these.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.common import interleaved, save, summary, table

# Bytes of each thread; a quarter is no round number, for four streams at equal places of their
# pages halve the speed.
SIZES = {"second cache": 417_792, "third cache": 10_000_384, "memory": 500_170_752}
ROUNDS = 5
EDGE = 1536  # of the square matrices
SOURCE = r"""
#include <sched.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

typedef std::int64_t Wide __attribute__((vector_size(64)));

int main(int, char** given) {
  const std::size_t bytes = std::strtoull(given[1], nullptr, 10);
  const int threads = std::atoi(given[2]), huge = std::atoi(given[3]);
  const long turns = static_cast<long>((std::size_t(4) << 30) / bytes);
  std::vector<double> speeds(threads);
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      cpu_set_t core;
      CPU_ZERO(&core);
      CPU_SET(t, &core);
      sched_setaffinity(0, sizeof core, &core);
      const std::size_t room = (bytes + (1 << 21) - 1) >> 21 << 21;
      auto* data = static_cast<Wide*>(std::aligned_alloc(1 << 21, room));
      madvise(data, room, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
      std::memset(data, 1, room);
      Wide a{}, b{}, c{}, d{};
      const auto since = std::chrono::steady_clock::now();
      for (long i = 0; i < turns; ++i) {
        // Four streams: one alone doesn't keep enough lines on their way.
        const std::size_t quarter = bytes / sizeof(Wide) / 4;
        for (std::size_t k = 0; k < quarter; ++k) {
          a ^= data[k];
          b ^= data[k + quarter];
          c ^= data[k + 2 * quarter];
          d ^= data[k + 3 * quarter];
        }
        asm volatile("" : "+m"(a), "+m"(b), "+m"(c), "+m"(d));
      }
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - since;
      speeds[t] = double(turns) * double(bytes) / took.count() / 1e9;
    });
  }
  double total = 0;
  for (auto& t : pool) t.join();
  for (double s : speeds) total += s;
  std::printf("%f\n", total);
}
"""


def main(data: Path | None) -> None:
    """Both tables, stored."""
    del data
    save("engine_limits", {"GB_per_second": reading(), "GFLOP_per_second": products()})


def reading() -> dict[str, Any]:
    """Of one core and two; empty where no compiler is."""
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        print("skipped: reading (no C++ compiler)")
        return {}
    folder = Path("build") / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    source, program = folder / "reading.cpp", folder / "reading"
    source.write_text(SOURCE)
    flags = ["-std=c++17", "-O3", "-march=native", "-pthread"]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)

    def once(size: int, threads: int, huge: int) -> float:
        asked = [str(program.resolve()), str(size), str(threads), str(huge)]
        return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)

    contenders: dict[str, Callable[[], float]] = {
        f"{place}, threads: {threads}, {'huge' if huge else 'plain'} pages": (
            lambda size=size, threads=threads, huge=huge: once(size, threads, huge)
        )
        for place, size in SIZES.items()
        for threads in (1, 2)
        for huge in (0, 1)
    }
    return _shown(interleaved(contenders, ROUNDS), "GB/s")


def products() -> dict[str, Any]:
    """Of one core and two, each in a process that is pinned."""
    out: dict[str, Any] = {}
    for threads in (1, 2):
        asked = [sys.executable, "-m", "bench.engine_limits", str(threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        said = subprocess.run(asked, check=True, capture_output=True, text=True, env=env).stdout
        out |= json.loads(said)
    return _shown(out, "GFLOP/s")


def _products(threads: int) -> dict[str, list[float]]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    x = torch.randn(EDGE, EDGE)
    y, small = x.bfloat16(), x.mul(10).to(torch.int8)

    def speed(product: Callable[[], torch.Tensor]) -> float:
        since = time.perf_counter()
        product()
        return 2 * EDGE**3 / (time.perf_counter() - since) / 1e9

    contenders: dict[str, Callable[[], float]] = {
        f"f32, threads: {threads}": lambda: speed(lambda: x @ x.T),
        f"bf16, threads: {threads}": lambda: speed(lambda: y @ y.T),
        f"int8, threads: {threads}": lambda: speed(lambda: torch._int_mm(small, small.T)),
    }
    return interleaved(contenders, ROUNDS)


def _shown(figures: dict[str, list[float]], unit: str) -> dict[str, Any]:
    found = {name: summary(f) for name, f in figures.items()}
    table(["what", unit, "least", "most"], [[n, *s.values()] for n, s in found.items()])
    return found


if __name__ == "__main__":
    print(json.dumps(_products(int(sys.argv[1]))))
