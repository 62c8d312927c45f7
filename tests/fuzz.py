"""Broken input for every reader: refused with ValueError, or read; never a crash or a hang.

    python -m tests.fuzz gguf --seconds 600

A case is a pure function of its seed and number, so `--only N` runs one again alone. Memory is
bounded by the process's address space, time by the processor time that a case takes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import mmap
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch

from chainrule.codecs.template import ChatTemplate
from chainrule.files import TensorFile, read_tensors, tensor_shapes, write_tensors
from chainrule.formats import gguf_model
from chainrule.formats.gguf import GGUF, write_gguf
from chainrule.formats.gguf_blocks import BLOCKS, KINDS, parts
from tests import fuzz_template as generated

SECONDS = 2  # of processor time a case
PATIENCE = 60  # seconds of no news until a case counts as a hang in C
MEMORY = 2**30  # bytes a case may take beyond what the process has
INTEGERS = [0, 1, 2, 3, 7, 8, 31, 32, 33, 64, 255, 256, 2**16 - 1, 2**16, 2**22, 2**31 - 1, 2**31]
INTEGERS += [2**32 - 1, 2**32, 2**40, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]


def mutated(rng: random.Random, seeds: list[bytes], words: list[bytes]) -> bytes:
    """One of the seeds, broken in one to six places; seldom left whole."""
    data = bytearray(rng.choice(seeds))
    # Most of what can break is at the front: the header, and its lengths.
    reach = rng.choice([24, 200, 1000, len(data)])
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 6])):
        at = rng.randrange(min(reach, len(data)) + 1)
        size = rng.choice([1, 2, 4, 8, 30, 300])
        match rng.randrange(7):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                width = rng.choice([1, 2, 4, 4, 8, 8])
                number = rng.choice(INTEGERS) % 2 ** (8 * width)
                data[at : at + width] = number.to_bytes(width, "little")
            case 2:
                del data[at:]
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = rng.randbytes(size)
            case 5:
                other = rng.choice(seeds)
                begin = rng.randrange(len(other))
                data[at : at + rng.choice([0, size])] = other[begin : begin + size]
            case _:
                word = rng.choice(words)
                known = [w for w in words if w in data]
                if known and rng.random() < 0.7:
                    old = rng.choice(known)
                    data = data.replace(old, word, 1)
                else:
                    data[at : at + rng.choice([0, len(word)])] = word
    return bytes(data)


def _put(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # a file that is cut and filled anew is flushed by some systems
    path.write_bytes(data)


@contextlib.contextmanager
def _refused_well(path: Path) -> Iterator[None]:
    """A refusal names the file in one line; anything else is an accident of some library."""
    try:
        yield
    except ValueError as error:
        if isinstance(error.__context__, MemoryError):
            raise error.__context__ from error
        if not str(error).startswith(str(path)) or "\n" in str(error):
            raise AssertionError(f"an unclear refusal: {error!r}") from error
        raise


def gguf(rng: random.Random, folder: Path) -> None:
    """A GGUF file, with all that is ever asked of one."""
    path = folder / "case.gguf"
    _put(path, mutated(rng, *_gguf_seeds(folder)))
    with _refused_well(path):
        file = GGUF(path)
        for name, entry in file.tensors.items():
            assert file.floats(name).shape == entry.shape
            file.floats(name, entry.rows // 2, 1)
            if entry.kind in ("Q8_0", "Q4_0", "Q4_1"):
                parts(entry.kind, file.raw(name), entry.columns)


@functools.cache
def _gguf_seeds(folder: Path) -> tuple[list[bytes], list[bytes]]:
    facts = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 1,
        "llama.rope.freq_base": 1e4,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": ["<|end|>", "a", "Ġb", "ß"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.0, -3.0],
    }
    rng = random.Random(0)
    blocks = {
        kind: torch.frombuffer(bytearray(rng.randbytes(3 * 256 // block * size)), dtype=torch.uint8)
        for kind, (block, size) in BLOCKS.items()
    }
    path, found = folder / "seed.gguf", []
    for kinds in ([], ["F32"], ["Q8_0", "Q4_K"], list(BLOCKS)):
        tensors = [(f"blk.0.{k}", (3, 256), k, blocks[k].view(3, -1)) for k in kinds]
        write_gguf(path, facts, [*tensors, ("norm", (5,), "F32", torch.ones(5))])
        found.append(path.read_bytes())
    write_gguf(path, {}, [("x", (2, 1, 2, 2), "F16", torch.ones(4, 2))])
    words = [*found[0][24:80].split(b"\0"), b"GGUF", b"norm", b"blk.0.F32", b"\xff\xfe"]
    words += [n.to_bytes(4, "little") for n in [*range(14), *KINDS]]
    words += [n.to_bytes(8, "little") for n in INTEGERS]
    return [*found, path.read_bytes()], [w for w in words if w]


def safetensors(rng: random.Random, folder: Path) -> None:
    """A safetensors file, read whole and row by row."""
    path = folder / "case.safetensors"
    seeds, words = _safetensors_seeds(folder)
    if rng.random() < 0.3:
        data = mutated(rng, seeds, words)
    else:  # a broken header whose length is right, so that more than its length is looked at
        seed = rng.choice(seeds)
        length = int.from_bytes(seed[:8], "little")
        header = seed[8 : 8 + length]
        spots = [m.span() for m in re.finditer(rb'\d+|"[A-Z]+\d*"|"[^"]*"|[][{},:]', header)]
        for begin, end in sorted(rng.sample(spots, rng.choice([0, 1, 1, 2])), reverse=True):
            header = header[:begin] + rng.choice(words) + header[end:]
        if rng.random() < 0.3:
            header = mutated(rng, [header], words)
        data = len(header).to_bytes(8, "little") + header + seed[8 + length :]
    _put(path, data)
    with _refused_well(path):
        shapes = tensor_shapes(path)
        tensors, _ = read_tensors(path)
        assert {k: tuple(v.shape) for k, v in tensors.items()} == shapes
        file = TensorFile(path)
        for name, tensor in tensors.items():
            again = file.tensor(name)
            assert again.dtype == tensor.dtype and again.shape == tensor.shape
            assert again.view(torch.uint8).equal(tensor.view(torch.uint8)) if again.dim() else True


@functools.cache
def _safetensors_seeds(folder: Path) -> tuple[list[bytes], list[bytes]]:
    path, found = folder / "seed.safetensors", []
    types = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.int64]
    for count in (1, 3, 6):
        tensors = {f"layers.{i}.weight": torch.ones(2, i + 1, dtype=types[i]) for i in range(count)}
        write_tensors(path, tensors, {"format": "pt"} if count == 3 else {})
        found.append(path.read_bytes())
    write_tensors(path, {"empty": torch.ones(0, 3), "number": torch.ones(())})
    found.append(path.read_bytes())
    names = "F4 F6_E2M3 F8_E4M3 F8_E5M2 F8_E8M0 I16 U16 U32 U64 F64 C64 F32 BF16 F16 BOOL"
    texts = [f'"{name}"' for name in names.split()]
    texts += ['"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"layers.0.weight"', "null"]
    texts += ["[", "]", "{", "}", ",", ":", '"', "\\ud800", "\\u0000", "[2,1]", "[0,8]", "[]"]
    texts += ["-1", "1e3", "0.5", "NaN", "true", *map(str, INTEGERS)]
    return found, [*(text.encode() for text in texts), b"\xff", b"\xef\xbb\xbf"]


def template(rng: random.Random, folder: Path) -> None:
    """A chat template, and a conversation that may be anything."""
    source = rng.choice(generated.TEMPLATES)
    if rng.random() < 0.3:
        source = mutated(rng, generated.TEMPLATES, [*map(str.encode, generated.WORDS.split())])
    for _ in range(rng.choice([0, 1, 1, 3])):
        at = rng.choice([0, *(m.end() for m in re.finditer(rb"[%}]}", source))])
        more = generated.statement(rng, 3) if rng.random() < 0.6 else generated.growth(rng)
        source = source[:at] + more.encode() + source[at:]
    contents = ["hello", "<|im_end|>{{ 7 * 7 }}", "", None, 3, [{"type": "text", "text": "x"}]]
    roles = rng.choices(["system", "user", "assistant", "tool", ""], k=rng.randrange(5))
    messages = [{"role": role, "content": rng.choice(contents)} for role in roles]
    specials = ["<|im_end|>", "<s>", *(f"<{'x' * (i % 99)}{i}" for i in range(3000))]
    specials = specials[: rng.choice([0, 1, 2, 9, 9, 3000])]
    with _refused_well(folder / "t"):
        made = ChatTemplate(source.decode(errors="replace"), str(folder / "t"))
        for text, special in made.split(messages, specials, bos_token="<s>", eos_token="</s>"):
            assert text in specials if special else text


def tokenizer(rng: random.Random, folder: Path) -> None:
    """A tokenizer.json, or the tokens of a GGUF file, and short texts."""
    from tests import fuzz_tokens

    path = folder / "tokenizer.json"
    with _refused_well(path):
        made = fuzz_tokens.opened(rng, path)
    fuzz_tokens.used(made, rng)


def model(rng: random.Random, folder: Path) -> None:
    """What a GGUF file says of the model in it."""
    from tests import fuzz_tokens

    file = fuzz_tokens.model_of(rng, folder)
    with _refused_well(file.path):
        gguf_model.read(file)


# name: one case. It raises ValueError where it is refused; any other exception is a finding.
CASES: dict[str, Callable[[random.Random, Path], None]] = {
    "gguf": gguf,
    "safetensors": safetensors,
    "template": template,
    "tokenizer": tokenizer,
    "model": model,
}


class Hang(BaseException):
    """A case took too long."""


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """Bounds memory, and makes SIGPROF a Hang."""

    def stop(signum: int, frame: object) -> None:
        raise Hang(f"more than {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, stop)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, memory[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.signal(signal.SIGPROF, handler)


class Counts(Counter[str]):
    """How many were read, how many refused; of the slowest, its seconds and its number."""

    slowest = (0.0, 0)


def fuzz(name: str, numbers: Iterator[int] | range, seed: int = 0) -> Counts:
    """Run the cases of these numbers.

    Raises:
        RuntimeError: a case neither came through nor was refused; it names the case.
    """
    counts = Counts()
    with tempfile.TemporaryDirectory() as folder, _limits():
        for number in numbers:
            begin = time.process_time()
            try:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                CASES[name](random.Random(f"{name} {seed} {number}"), Path(folder))
                counts["read"] += 1
            except ValueError:
                counts["refused"] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                again = f"python -m tests.fuzz {name} --seed {seed} --only {number}"
                raise RuntimeError(f"{type(error).__name__}: {error}; again: {again}") from error
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            counts.slowest = max(counts.slowest, (time.process_time() - begin, number))
    return counts


def main() -> None:
    """Until the time is over, or until something is found: then exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=CASES)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case")
    asked = parser.parse_args()
    numbers = itertools.count() if asked.only is None else range(asked.only, asked.only + 1)
    # What ends the whole process, or never comes back from C, is found from outside of it.
    at = mmap.mmap(-1, 8)
    child = os.fork()
    if not child:
        _child(asked, numbers, at)
        return
    last, since = b"", time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.1)
        if at[:] != last:
            last, since = at[:], time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(ended[1])
    if code < 0:
        number = int.from_bytes(at[:], "little")
        sys.exit(f"signal {-code} in case {number}: --seed {asked.seed} --only {number}")
    sys.exit(code)


def _child(asked: argparse.Namespace, numbers: Iterable[int], at: mmap.mmap) -> None:
    end = time.monotonic() + asked.seconds

    def shown() -> Iterator[int]:
        for number in itertools.takewhile(lambda _: time.monotonic() < end, numbers):
            at[:] = number.to_bytes(8, "little")
            yield number

    counts = fuzz(asked.what, shown(), asked.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    seconds, number = counts.slowest
    print(
        f"{asked.what}: {counts.total():,} cases in {asked.seconds:g} s, {counts['read']:,} read, "
        f"{counts['refused']:,} refused, nothing else; {peak} MiB at most, "
        f"{seconds:.2f} s at most (case {number})"
    )


if __name__ == "__main__":
    sys.exit(main())
