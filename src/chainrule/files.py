"""Files that are whole or not there: write beside, fsync, rename. And a lock for folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HEADER_LIMIT = 100 * 2**20  # bytes of a safetensors header
_PARTIAL = ".partial"  # how the names of temporary folders end


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside the file, for a new one that takes its place when the block ends well.

    It is in a temporary folder, because writers (safetensors) make temporary files of their own.

    Raises:
        OSError: the disk is full or the folder can't be written; the old file is untouched.
    """
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_PARTIAL, dir=path.parent))
    beside = aside / path.name
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        beside.chmod(0o666 & ~umask)  # some writers' 0600 would shut other users out
        beside.replace(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target, which takes its name when the block ends well.

    Raises:
        ValueError: the target exists.
        OSError: it can't be written; nothing is left behind.
    """
    if target.exists():
        raise ValueError(f"{target} exists: choose another -o")
    above = [parent for parent in target.parents if not parent.exists()]  # the nearest first
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent))
    try:
        yield aside
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)
        aside.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for parent in above:
            with contextlib.suppress(OSError):  # not empty: what was meant to be there, is
                parent.rmdir()


def named(folder: Path) -> Path:
    """The same folder by a path that ends in its name, as ``.`` and ``..`` do not."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def remove_partial(folder: Path) -> None:
    """Remove what writers left behind that were killed. For who holds the folder's lock."""
    for aside in folder.glob(f".*{_PARTIAL}"):
        shutil.rmtree(aside, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system has folders that can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace a text file whole (UTF-8)."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        ValueError: it is missing or not JSON, with the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Replace a safetensors file whole.

    Raises:
        OSError: it can't be written, with the number of bytes; the old file is untouched.
    """
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    try:
        with replacing(path) as beside:
            save_file(plain, beside, dict(metadata or {}))
    except (OSError, SafetensorError) as error:
        size = sum(v.numel() * v.element_size() for v in plain.values())
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        raise OSError(f"{path}: its {size:,} bytes could not be written ({reason})") from None


def stream_tensors(
    path: Path,
    outline: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    make: Callable[[str], Tensor],
) -> None:
    """Replace a safetensors file whole, one tensor in memory at a time.

    Args:
        outline: the type and shape of every tensor. make: a tensor by its name.

    Raises:
        OSError: it can't be written; the old file is untouched.
    """
    names = {kind: name for name, kind in _TYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in outline.items():
        begin, end = end, end + math.prod(shape) * kind.itemsize
        header[name] = {"dtype": names[kind], "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    try:
        with replacing(path) as beside, beside.open("wb") as file:
            file.write(len(data).to_bytes(8, "little") + data)
            for name, (kind, shape) in outline.items():
                t = make(name).detach().cpu().contiguous()
                assert (t.dtype, tuple(t.shape)) == (kind, shape), name
                file.write(t.reshape(-1).view(torch.uint8).numpy().data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path}: its {end:,} bytes could not be written ({reason})") from None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file, without reading the weights.

    Raises:
        ValueError: missing, truncated or foreign.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: missing, truncated or foreign.
    """
    with _opened(path) as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118


class TensorFile:
    """Rows of the tensors of a safetensors file, read when they are asked for and never mapped.

    What a process maps counts as its memory once it has been looked at; what it reads does not.

    Raises:
        ValueError: missing, truncated or foreign, or a type that no fitted artifact has.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.shapes = path, tensor_shapes(path)
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length))
        self._begin = 8 + length
        self._at = {name: header[name]["data_offsets"][0] for name in self.shapes}
        self.types = {}
        for name in self.shapes:
            kind = header[name]["dtype"]
            if kind not in _TYPES:
                raise ValueError(f"{path}: tensor {name!r} is {kind}, which nothing here reads")
            self.types[name] = _TYPES[kind]

    def tensor(self, name: str) -> Tensor:
        """The whole of one."""
        shape = self.shapes[name]
        return self.rows(name, 0, shape[0] if shape else 1).view(shape)

    def rows(self, name: str, first: int, count: int) -> Tensor:
        """Rows ``first`` to ``first + count`` of a tensor.

        Raises:
            OSError: the file can't be read, or is shorter than it was.
        """
        shape, kind = self.shapes[name], self.types[name]
        width = math.prod(shape[1:]) * kind.itemsize
        out = bytearray(count * width)
        with self.path.open("rb", buffering=0) as raw:
            raw.seek(self._begin + self._at[name] + first * width)
            done = 0
            while done < len(out):
                step = raw.readinto(memoryview(out)[done:])
                if not step:
                    raise OSError(f"{self.path}: it ends in the middle of tensor {name!r}")
                done += step
        return torch.from_numpy(np.frombuffer(out, np.uint8)).view(kind).view(count, *shape[1:])


_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not os.path.isfile(path):  # pathlib's raises where a name is too long
        raise ValueError(f"{path}: no such file")
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
    if length > HEADER_LIMIT or length + 8 > path.stat().st_size:
        raise ValueError(f"{path}: truncated, or not a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                shape = file.get_slice(name).get_shape()
                # Beside a 0 any number passes for the format, but not for torch.
                if math.prod(max(n, 1) for n in shape) >= 2**48:
                    raise ValueError(f"{path}: tensor {name!r} is {shape}, which can't be")
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated, or not a safetensors file ({error})") from None


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy weights in; names and shapes must be the module's own.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or of another shape.
    """
    expected = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    match_shapes(expected, {k: tuple(v.shape) for k, v in tensors.items()}, where)
    module.load_state_dict(dict(tensors))


def match_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: Path
) -> None:
    """Compare two lists of tensors.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or of another shape.
    """
    for name, shape in expected.items():
        if name not in found:
            raise ValueError(f"{where}: tensor {name!r} is missing; is this another model's file?")
        if found[name] != shape:
            raise ValueError(
                f"{where}: tensor {name!r} is {list(found[name])}, config.json says {list(shape)}"
            )
    for name in found:
        if name not in expected:
            raise ValueError(f"{where}: unknown tensor {name!r}; is this another model's file?")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the system frees the lock when a process dies.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # no flock on this system: the lock is advisory anyway
            pass
        except OSError:
            raise ValueError(
                f"{folder}: another fit is writing here; wait for it or choose another -o"
            ) from None
        yield
