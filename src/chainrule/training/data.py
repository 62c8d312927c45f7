"""From files to memory-mapped symbols: read once, split, encoded once, cached by content.

Below the cache folder, ``<hash of the documents>/raw`` holds their bytes and
``<hash>/<hash of the codec>/`` the symbols. All of it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import uuid
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chainrule.codecs.text import CharCodec, TextCodec
from chainrule.core.model import SequenceModel
from chainrule.core.objective import Batch
from chainrule.training.plan import TrainConfig
from chainrule.training.readers import Document, Source, TextCheck, read_documents
from chainrule.training.scoring import affordable, log_probs
from chainrule.training.shards import (
    VERSION,
    Bytes,
    Progress,
    Split,
    SymbolArray,
    SymbolFile,
    lane_starts,
    open_symbols,
    pieces,
    split,
    stream_batch,
    window_starts,
    windows,
    write_header,
)

__all__ = [
    "Collection",
    "Corpus",
    "Document",
    "cache_folder",
    "collect",
    "fit_codec",
    "prepare",
    "read_documents",
    "stream_batch",
    "windows",
]

FIT_BYTES = 2**24  # of the training part that words and BPE are fitted on, at most


@dataclass(frozen=True, eq=False)
class Collection:
    """All documents of a source, one after another in one memory-mapped file.

    Args:
        raw: their bytes [n]; ends: where each document ends; hashes: 64 bits of each content.
        name: what messages call the source; folder: its place in the cache.
        problem: why this is not text and what to do, None if it is: only a codec that takes any
            bytes can encode it otherwise.
    """

    raw: Bytes
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    name: str
    folder: Path
    problem: str | None = None

    @functools.cached_property
    def split(self) -> Split:
        """Which bytes are held out; ValueError when there is too little."""
        return split(self.raw, self.ends, self.hashes, self.name)

    def texts(
        self, part: Literal["train", "held_out", "all"] = "all", limit: int | None = None
    ) -> Iterator[bytes]:
        """The part in chunks of a megabyte at most, cut between characters.

        With a ``limit`` in bytes, chunks that are evenly spread over it and about that much.
        """
        if part == "all":
            ranges = np.stack([np.concatenate([[0], self.ends[:-1]]), self.ends], 1)
        else:
            ranges = self.split.train if part == "train" else self.split.held_out
        every = 1 if limit is None else max(1, -(-_num_bytes(ranges) // max(1, limit)))
        for number, (begin, end, _) in enumerate(pieces(self.raw, ranges)):
            if number % every == 0:
                yield self.raw[begin:end].tobytes()


@dataclass(frozen=True, eq=False)
class Corpus:
    """Symbols to train on and symbols held out, each document followed by the end symbol.

    Args:
        train, held_out: memory-mapped symbols [N] in the narrowest unsigned type.
        train_bytes, held_out_bytes: what they stand for; end symbols stand for nothing.
        description: how the held-out part was chosen, for people.
    """

    train: SymbolArray
    held_out: SymbolArray
    train_bytes: int
    held_out_bytes: int
    documents: int = 1
    description: str = ""
    source: Collection | None = None

    unit = "byte"

    @property
    def symbols_per_unit(self) -> float:
        """Symbols a byte, of the training part."""
        return len(self.train) / self.train_bytes

    @property
    def holds_out(self) -> bool:
        """Whether there is a held-out part."""
        return len(self.held_out) > 0

    def rows(self, config: TrainConfig) -> int:
        """Of a batch."""
        return min(config.batch, len(self.train))

    def batch(self, config: TrainConfig, number: int) -> tuple[Batch, bool]:
        """Windows at random, or with ``carry`` the next ones of every lane."""
        if config.carry:
            x, fresh = stream_batch(self.train, config.batch, config.length, number)
        else:
            x = windows(self.train, config.batch, config.length, config.seed, number)
            fresh = False
        return Batch(x, (x.shape[1],) * len(x)), fresh

    def origin(self, config: TrainConfig, number: int) -> str:
        """The first symbols of some rows."""
        size = len(self.train)
        if config.carry:
            starts = lane_starts(size, config.batch, config.length, number)
        else:
            starts = window_starts(size, config.batch, config.length, config.seed, number)
        begins = ", ".join(f"{s:,}" for s in starts[:4]) + (", …" if len(starts) > 4 else "")
        return f"symbols {begins} of the training part"

    def held_out_nats(self, model: SequenceModel) -> tuple[float, float]:
        """-log p of at most 64k held-out symbols, in lanes, and their bytes."""
        symbols = self.held_out[: affordable(model, 65536)]
        nats = -log_probs(model, symbols, lanes=32).sum()
        return float(nats), self.held_out_bytes * len(symbols) / len(self.held_out)

    def held_out_text(self) -> bytes:
        """The bytes of the held-out part, documents joined: what gzip and xz are given."""
        return b"" if self.source is None else b"".join(self.source.texts("held_out"))


def collect(
    source: Source,
    *,
    field: str | None = None,
    column: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Collection:
    """Read all documents once, into the cache.

    Args:
        source, field, column: as ``read_documents`` takes them.
        cache: folder; by default $CHAINRULE_CACHE, else ~/.cache/chainrule.

    Raises:
        ValueError: what can't be read, or nothing but one symbol in it.
    """
    root = cache_folder(cache)
    with partial_folder(root) as partial:
        ends, hashes, whole = array("q"), array("Q"), hashlib.blake2b(digest_size=16)
        check, seen, size, name = TextCheck(), set[int](), 0, ""
        hashed = hashlib.blake2b(digest_size=16)
        with (partial / "raw").open("wb") as raw:
            for document in read_documents(source, field=field, column=column):
                data, name = document.data, name or document.name
                raw.write(data)
                hashed.update(data)
                check.feed(document)
                size += len(data)
                if len(seen) < 2:
                    seen.update(data)
                if not document.more:
                    digest = hashed.digest()
                    whole.update(digest + size.to_bytes(8, "little"))
                    ends.append(size)
                    hashes.append(int.from_bytes(digest[:8], "little"))
                    hashed = hashlib.blake2b(digest_size=16)
                if progress is not None:
                    progress("reading", size, None)
        if len(ends) == 1:
            name = Path(name).name
        else:
            name = f"{len(source)} sources" if isinstance(source, list) else str(source)
        if len(seen) < 2:
            raise ValueError(_one_symbol(name, repr(chr(seen.pop())), size))
        folder = root / whole.hexdigest()
        folder.mkdir(exist_ok=True)
        if not _has_size(folder / "raw", size):
            with (partial / "raw").open("rb+") as raw:
                os.fsync(raw.fileno())
            (partial / "raw").replace(folder / "raw")
    mapped = np.memmap(folder / "raw", np.uint8, "r")
    return Collection(
        mapped,
        np.frombuffer(ends, np.int64),
        np.frombuffer(hashes, np.uint64),
        name,
        folder,
        check.problem,
    )


def fit_codec(kind: type[TextCodec], collection: Collection, **options: Any) -> TextCodec:
    """A codec for this text: words and BPE from the training part, up to 16 MB of it.

    Characters come from all of it, so that the held-out part has none that are unknown: what
    is learned from there is which characters there are, not how they follow each other.

    Raises:
        ValueError: not text, or options out of bounds.
    """
    if collection.problem is not None and not kind.takes_any_bytes:
        raise ValueError(collection.problem)
    if kind is CharCodec:
        return kind.fit(collection.texts("all"), **options)
    return kind.fit(collection.texts("train", FIT_BYTES), **options)


def prepare(
    source: Source | Collection,
    codec: TextCodec,
    *,
    field: str | None = None,
    column: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Encode a source, or open what was encoded before.

    Raises:
        ValueError: what can't be read or encoded, too little text, or only one symbol.
    """
    if not isinstance(source, Collection):
        source = collect(source, field=field, column=column, cache=cache, progress=progress)
    if source.problem is not None and not codec.takes_any_bytes:
        raise ValueError(source.problem)
    folder = source.folder / f"{codec.fingerprint()}-{VERSION}"
    found = open_symbols(folder)
    if found is None:
        _encode(source, codec, folder, progress)
        found = open_symbols(folder)
        if found is None:
            raise OSError(f"{folder}: the symbols just written can't be read back")
    parts = source.split
    return Corpus(
        train=found[0],
        held_out=found[1],
        train_bytes=_num_bytes(parts.train),
        held_out_bytes=_num_bytes(parts.held_out),
        documents=len(source.ends),
        description=parts.description,
        source=source,
    )


def _encode(source: Collection, codec: TextCodec, folder: Path, progress: Progress | None) -> None:
    """Write the symbols beside their place, then rename."""
    size, eos = codec.space.size, codec.space.eos
    assert size is not None, "text symbols are finite"
    done, end = 0, np.array([] if eos is None else [eos])
    with partial_folder(source.folder) as partial:
        files = {k: SymbolFile(partial / k, size) for k in ("train", "held_out")}
        for part, ranges in (("train", source.split.train), ("held_out", source.split.held_out)):
            with files[part] as file:
                for begin, stop, last in pieces(source.raw, ranges):
                    try:
                        file.write(codec.encode(source.raw[begin:stop].tobytes()).symbols)
                    except ValueError as error:
                        raise ValueError(f"{source.name}, from byte {begin} on: {error}") from None
                    if last:
                        file.write(end)
                    done += stop - begin
                    if progress is not None:
                        progress("encoding", done, len(source.raw))
        if files["train"].distinct - len(end) < 2:
            raise ValueError(_one_symbol(source.name, "one symbol", len(source.raw)))
        write_header(partial, files["train"].dtype, *(f.count for f in files.values()))
        try:
            partial.rename(folder)
        except OSError:  # a folder is there: damaged, or another process was quicker
            if open_symbols(folder) is None:
                shutil.rmtree(folder)
                partial.rename(folder)


def _num_bytes(ranges: NDArray[np.int64]) -> int:
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _one_symbol(name: str, what: str, size: int) -> str:
    return f"{name} holds nothing but {what} ({size:,} bytes): there is nothing to learn in it"


def cache_folder(cache: Path | None = None) -> Path:
    """The folder of the cache: $CHAINRULE_CACHE, else ~/.cache/chainrule, where none is named.

    Raises:
        ValueError: it can't be made.
    """
    given = cache or os.environ.get("CHAINRULE_CACHE") or Path.home() / ".cache" / "chainrule"
    folder = Path(given).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache {folder} can't be made ({error.strerror}): "
            "name another folder with CHAINRULE_CACHE"
        ) from None
    return folder


@contextlib.contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder, gone at the end unless it was renamed."""
    path = folder / f"partial-{uuid.uuid4().hex}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
