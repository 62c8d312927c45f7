"""Several processes that learn one model: torchrun sets RANK and WORLD_SIZE, this reads them.

Process 0 reads, writes and decides; the others do what it tells them. Every process takes its rows
of the same batch, and gradients are summed (DDP, Li et al. 2020), or weights, gradients and
optimiser are in shards too (FSDP, Zhao et al. 2023). Files are always those of one process, in
safetensors: torch.distributed.checkpoint has its own format, with pickles in it, so only
whole tensors go to a file.

Waits have no limit of their own, because saving or scoring may take long: ``Pulse`` sees to it that
none waits for a process that is gone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from chainrule.training.alive import Pulse, gone, meeting

_NO_LIMIT = timedelta(days=365)
_T = TypeVar("_T")
_M = TypeVar("_M", bound=nn.Module)
Found = tuple[dict[str, Any], dict[str, Tensor]] | None  # what stands in a checkpoint


class Alone:
    """One process: all that a trainer asks of its company is free here.

    Args:
        device: where to train; None: where the model is.
    """

    rank, size, shard = 0, 1, False

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this process reads, writes and decides."""
        return self.rank == 0

    def place(self, model: _M) -> _M:
        """The model to train: a copy where the one given has to stay as it is."""
        if self.device is None or next(model.parameters()).device == self.device:
            return model
        return copy.deepcopy(model).to(self.device)

    def wrap(self, loss: nn.Module) -> Shared:
        """A loss whose gradients are those of all processes, from the weights of process 0."""
        return Shared(loss)

    def rows(self, batch: int) -> slice:
        """The rows of a batch that are this process's.

        Raises:
            ValueError: fewer rows than processes.
        """
        if batch < self.size:
            raise ValueError(
                f"{self.size} processes share a batch of {batch} rows, and each needs one: "
                "start fewer processes, or give a larger --batch"
            )
        return slice(batch * self.rank // self.size, batch * (self.rank + 1) // self.size)

    def all_rows(self, part: Tensor, batch: int) -> Tensor:
        """The whole batch [B, …], from the part that each process has of it."""
        return part

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the processes."""
        return value

    def agree(self, number: float) -> float:
        """The number that process 0 has."""
        return number

    def threads(self, asked: int) -> int:
        """How many threads this process may take."""
        return asked

    def seed(self, seed: int, step: int) -> None:
        """Give torch's generator the stream of this process and step.

        One process alone has one stream for the whole run, which its checkpoints keep.
        """

    def spread(self, found: Found) -> Found:
        """Numbers and tensors that process 0 has read, in all processes."""
        return found

    def tell(self, order: dict[str, Any]) -> None:
        """Process 0 to all others: what to do next (JSON-able)."""


ALONE = Alone()


class Shared:
    """A loss whose gradients are those of all processes. ``root`` is what DDP or FSDP made."""

    def __init__(self, loss: nn.Module, root: nn.Module | None = None) -> None:
        self.loss, self.root = loss, root

    def __call__(self, compute: Callable[[Any], _T]) -> _T:
        """``compute(loss)``, with all weights there, and gradients shared where backward follows.

        Where weights are in shards, all processes must call it, and compute as many times.
        """
        if self.root is None:
            return compute(self.loss)
        root: Any = self.root
        found: _T = root(compute)
        if hasattr(root, "reshard") and not torch.is_grad_enabled():
            root.reshard()  # with gradients, backward does it
        return found

    def micro(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of one of several batches a step: send after the last."""
        if last or not isinstance(self.root, nn.parallel.DistributedDataParallel):
            return contextlib.nullcontext()
        return self.root.no_sync()


class _Root(nn.Module):
    """What DDP and FSDP wrap: any computation is this module's forward."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, compute: Callable[[nn.Module], Any]) -> Any:
        return compute(self.loss)


def full(value: Tensor) -> Tensor:
    """A tensor put together from its shards; all processes must call it."""
    return cast(Tensor, value.full_tensor()) if hasattr(value, "full_tensor") else value


def whole(tensors: Mapping[str, Tensor], first: bool) -> dict[str, Tensor]:
    """Copies of whole tensors in the main memory of process 0; nothing elsewhere.

    All processes must call it, with the same names.
    """
    found = {}
    for name, value in tensors.items():
        together = full(value.detach())
        if first:
            found[name] = together.to("cpu", copy=True)
    return found


def parted(value: Tensor, like: Tensor) -> Tensor:
    """This process's shard of ``value``, if ``like`` is in shards; else ``value``."""
    if not hasattr(like, "full_tensor") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    there = value.to(like.to_local().device)
    return distribute_tensor(there, like.device_mesh, like.placements, src_data_rank=None)


class Company(Alone):
    """This process among several: a context that ends with all of them."""

    def __init__(self, rank: int, size: int, number: int, shard: bool) -> None:
        import torch.distributed as dist

        super().__init__()
        self.rank, self.size, self.shard = rank, size, shard
        self.store: Any = dist.PrefixStore(f"fit/{number}", meeting())  # type: ignore[attr-defined]
        self.told, self.pulse = 0, Pulse(self.store, rank, size)

    def __enter__(self) -> Company:
        import torch.distributed as dist

        self.pulse.start()
        try:
            self.device = self._choose_device()
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            group = dist.PrefixStore("group", self.store)  # type: ignore[attr-defined]
            dist.init_process_group(
                backend, store=group, rank=self.rank, world_size=self.size, timeout=_NO_LIMIT
            )
        except BaseException as error:
            self.__exit__(None, error, None)
            raise
        return self

    def _choose_device(self) -> torch.device:
        if not torch.cuda.is_available():
            return torch.device("cpu")
        local, count = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if local >= count:
            raise ValueError(
                f"process {self.rank} has no GPU of its own: {count} are here, "
                "and as many processes can be started"
            )
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    # ---- tensors ----

    def place(self, model: _M) -> _M:
        return copy.deepcopy(model).to(self.device) if self.shard else super().place(model)

    def wrap(self, loss: nn.Module) -> Shared:
        import torch.distributed as dist

        for value in (*loss.parameters(), *loss.buffers()):
            dist.broadcast(value.detach(), 0)
        root: nn.Module = _Root(loss)
        if self.shard:
            self._shard(root)
            return Shared(loss, root)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch 2.11 has no other name yet
            ddp = nn.parallel.DistributedDataParallel
            root = ddp(root, init_sync=False, broadcast_buffers=False)
        # DDP sorts its buckets anew after the first backward, and sums of more than two depend
        # on them: a rehearsal, so that a resumed run has the same ones from its first step.
        root(lambda loss: sum(p.sum() for p in loss.parameters())).backward()
        loss.zero_grad()
        return Shared(loss, root)

    def _shard(self, root: nn.Module) -> None:
        """One group of all weights: a layer of its own would have to be called as a whole."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        assert self.device is not None
        mesh = init_device_mesh(self.device.type, (self.size,))
        fully_shard(root, mesh=mesh, reshard_after_forward=False)

    def all_rows(self, part: Tensor, batch: int) -> Tensor:
        import torch.distributed as dist

        together = part.new_zeros(batch, *part.shape[1:])
        together[self.rows(batch)] = part
        dist.all_reduce(together)
        return together

    def mean(self, value: Tensor) -> Tensor:
        import torch.distributed as dist

        mine = value.detach().to(self.device, copy=True)
        dist.all_reduce(mine)
        return mine / self.size

    def agree(self, number: float) -> float:
        import torch.distributed as dist

        mine = torch.tensor(number, dtype=torch.float64)
        dist.broadcast(mine, 0)
        return float(mine)

    def threads(self, asked: int) -> int:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        return min(asked, max(1, (os.cpu_count() or 1) // here))

    def seed(self, seed: int, step: int) -> None:
        torch.manual_seed(((seed * 1_000_003 + step) * 65_537 + self.rank) % 2**63)

    def spread(self, found: Found) -> Found:
        import torch.distributed as dist

        outline = None
        if found is not None:
            kinds = {k: [str(v.dtype)[6:], list(v.shape)] for k, v in found[1].items()}
            outline = [found[0], kinds]
        if self.first:
            self.tell({"found": outline})
        else:
            outline = self.hear()["found"]
        if outline is None:
            return None
        tensors = {} if found is None else found[1]
        for name, (kind, shape) in outline[1].items():
            if not self.first:
                tensors[name] = torch.empty(shape, dtype=getattr(torch, kind))
            dist.broadcast(tensors[name], 0)
        return outline[0], tensors

    # ---- orders ----

    def tell(self, order: dict[str, Any]) -> None:
        self.store.set(f"order/{self.told}", json.dumps(order))
        self.told += 1

    def hear(self) -> dict[str, Any]:
        """The next order of process 0, however long it takes."""
        key = f"order/{self.told}"
        while not self.store.check([key]):
            time.sleep(0.05)
        self.told += 1
        return cast(dict[str, Any], json.loads(self.store.get(key)))

    # ---- the end ----

    def __exit__(self, kind: Any, error: BaseException | None, trace: object) -> None:
        """End with all, or be the one that says why.

        Raises:
            RuntimeError: another process is gone; SystemExit: another one says why.
        """
        import torch.distributed as dist

        self.pulse.stop()
        if error is None:
            self.pulse.part()
            dist.destroy_process_group()
            return
        code = 2 if isinstance(error, ValueError) else 1
        if not self.pulse.fail(code):
            sys.exit(code)
        if type(error) is RuntimeError and "onnection" in str(error):  # gloo's
            raise RuntimeError(gone("another process")) from error


_numbers = iter(range(2**31))


def is_first() -> bool:
    """Whether this process is the one that speaks."""
    return _place()[0] == 0


def _place() -> tuple[int, int]:
    """Rank and number of processes, from the environment."""
    try:
        rank, size = (int(os.environ.get(k, v)) for k, v in (("RANK", 0), ("WORLD_SIZE", 1)))
    except ValueError:
        raise ValueError("RANK and WORLD_SIZE must be whole numbers: start with torchrun") from None
    return (rank, size) if size > 1 else (0, 1)


def all_processes(shard: bool) -> contextlib.AbstractContextManager[Alone]:
    """All processes of this launch: ``Alone``, or ``Company`` where RANK and WORLD_SIZE are set.

    Args:
        shard: weights, gradients and optimiser in shards, a part in each process.

    Raises:
        ValueError: these are no numbers, or there are fewer GPUs than processes.
        RuntimeError: not all processes came, or one of them is gone.
    """
    rank, size = _place()
    if size > 1:
        return Company(rank, size, next(_numbers), shard)
    return contextlib.nullcontext(
        Alone(torch.device("cuda", 0) if torch.cuda.is_available() else None)
    )
