"""Compiled: a Program run by the native machine, with the same bits whatever the batch.

Shapes: B rows, L symbols in this call, R undoable tail, N = B·(R + 1) laws, D width of a buffer,
G key-value heads, K head width (P padded to 16), V alphabet size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from chainrule.core.model import Rolled, SequenceModel
from chainrule.core.noise import Noise, Positions
from chainrule.core.state import Grow, Leaf, Slab, State, Window
from chainrule.engine.build import Rows, build, rows_of
from chainrule.engine.law import EngineLaw
from chainrule.engine.lowered import FIRST, Lowered, Windows, load
from chainrule.engine.program import Program
from chainrule.engine.quantize import BLOCKS, CACHES, DTYPES, Cache, DType, Kept, Precision
from chainrule.native import _native

LANES = 16  # positions of a cache that lie side by side
STORED = {"f32": torch.float32, "bf16": torch.int16, "int8": torch.uint8}  # numpy has no bf16
_STRETCH = 2**30  # multiplications between two looks at what a rollout has made, at the least


class Compiled(Lowered):
    """``model``'s step in the compiled engine.

    Args:
        model: what is run; its weights are not kept.
        dtype: of the weights, or of each tensor that is in blocks of GGUF; activations are float32,
            and int8 in groups where weights are.
        cache: keys and values: int8, with a scale for each head and position, or auto: f32 where
            the weights are, else bf16. int8 takes 0.53 of bf16's bytes with heads of 64, and
            changes the bits per byte of Tiny Shakespeare, on two byte and character models, by
            less than 0.0003.
        threads: that a step may use; None: as torch has them.
        rows: where the weights come from; None: the model's own tensors.

    Raises:
        ValueError: no compiled part here, a model that doesn't lower, or an unknown dtype or cache.
    """

    def __init__(
        self,
        model: SequenceModel,
        dtype: Precision = "bf16",
        threads: int | None = None,
        rows: Rows | None = None,
        cache: Cache = "auto",
    ) -> None:
        if _native is None:
            raise ValueError("the compiled engine was not built: no C++17 compiler at install time")
        own, known = ({dtype}, DTYPES) if isinstance(dtype, str) else ({*dtype.values()}, BLOCKS)
        if own - {*known}:
            raise ValueError(f"dtype {min(own - {*known})!r} is not one of {', '.join(known)}")
        if cache not in CACHES:
            raise ValueError(f"cache {cache!r} is not one of {', '.join(CACHES)}")
        program = model.lower()
        if not isinstance(program, Program):
            raise ValueError(f"{type(model).__name__} has no program for the compiled engine")
        super().__init__(model, program)
        self.precision: DType = dtype if isinstance(dtype, str) else "gguf"
        self.threads = threads or torch.get_num_threads()
        usual: Kept = "f32" if dtype == "f32" else "bf16"
        self.kept_as: Kept = usual if cache == "auto" else cache
        self.backend = f"engine {self.precision}" + (f", {cache} cache" if cache != "auto" else "")
        macs = sum(w.shape[0] * w.shape[1] for w in program.weights.values() if w.kind == "matrix")
        most = 128 if self.end is None else self.end
        self.stretch_length = max(1, min(most, _STRETCH // max(1, macs)))
        self.grown = [k for k in program.leaves if k in self.attends or k in self.grids]
        if rows is None:
            load(program, model.state_dict())  # refuses what doesn't fit, before it is packed
            rows = rows_of(model.state_dict())
        self._machine = build(program, dtype, self.threads, rows, self.kept_as)

    @property
    def weight_bytes(self) -> int:
        """Memory that the packed weights take."""
        return int(self._machine.weight_bytes())

    # ---- a Program's runner ----

    def cache(self, name: str, rows: int) -> Grow:
        leaf = self.program.leaves[name]
        padded = -(-leaf.width // LANES) * LANES
        behind = 4 if self.kept_as == "int8" else 0  # bytes of a scale
        shape = (rows, leaf.dim // leaf.width, 2, FIRST // LANES, LANES * (padded + behind))
        return Grow.empty(torch.zeros(shape, dtype=STORED[self.kept_as]), 3, LANES)

    def compact(self, name: str, cache: Grow, first: int, newest: int) -> Grow:
        old = cache.slab.tensor
        fresh, lens = torch.zeros_like(old), []
        padded = -(-self.program.leaves[name].width // LANES) * LANES
        pair = 4 // old.element_size()
        # How a block lies: keys, values, and of both what is behind them.
        keys, values, scales = (-1, LANES, pair), (1, LANES, padded), (1, LANES, 4)
        parts = [(slice(0, 1), slice(0, LANES * padded), keys)]
        parts += [(slice(1, 2), slice(0, LANES * padded), values)]
        if self.kept_as == "int8":
            parts += [(slice(0, 2), slice(LANES * padded, None), scales)]
        for row, n in enumerate(cache.lens):
            kept = torch.tensor([*range(min(first, n)), *range(max(first, n - newest), n)])
            now = torch.arange(len(kept))
            lens.append(len(kept))
            for which, where, shape in parts:
                source, target = (
                    slab[row, :, which, :, where].unflatten(-1, shape) for slab in (old, fresh)
                )
                moved = source[:, :, kept // LANES, :, kept % LANES]
                target[:, :, now // LANES, :, now % LANES] = moved
        return Grow(Slab(fresh), tuple(lens), 3, LANES)

    def run(
        self,
        x: Tensor,
        pos: Sequence[int],
        caches: Mapping[str, Grow],
        windows: Windows,
        fixed: Windows,
        both: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        rows, length = x.shape
        every = partial(torch.empty, dtype=torch.float32)  # all of it is written
        hidden = every(rows, length, self.program.buffers[self.program.hidden].dim)
        fresh = {k: every(rows, length, self.program.leaves[k].dim) for k in self.windows}
        self._machine.run(
            x.contiguous().numpy(),
            list(pos),
            *self._cached(caches, length),
            [windows[k].contiguous().numpy() for k in self.windows],
            [fresh[k].numpy() for k in self.windows],
            *self._remembered(fixed),
            hidden.numpy(),
            both,
        )
        return hidden, fresh

    def law(self, hidden: Tensor) -> EngineLaw:
        return EngineLaw(hidden.float(), self._machine, self.program.size)

    @property
    def guesses_blocks(self) -> bool:
        return self.program.blank is not None

    def guess_block(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> Tensor | None:
        blank = self.program.blank
        if blank is None:
            return None
        room = min(self.rooms(state))
        if not self.program.context:  # half of a window that slides stays before the block
            wide = min(op.window + op.sinks for op in self.attends.values())
            room = min(max(wide // 2, wide - 1 - k) for k in state.lens)
        n = min(n, room - 1)
        if n < 1:
            return last[:, :0]
        x = torch.cat([last, torch.full((len(last), n), blank)], 1)
        caches = self.claim(state, n + 1)
        windows, fixed = self.kept(state.leaves)
        hidden, _ = self.run(x, self.positions(state), caches, windows, fixed, both=True)
        law = self.law(torch.cat([hidden[:, :1], hidden[:, 2:]], 1))
        begin = Positions(tuple([k + 1 for k in state.lens]), n)
        guess: Tensor = warp(law).sample(noise.at(begin))
        return guess

    def walk(self, root: State) -> Walk:
        """The laws along the branches behind a state of one row."""
        return Walk(self, root)

    # ---- stretches ----

    def rollout(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any
    ) -> tuple[State, Tensor] | None:
        made = self._roll(state, last, n, noise, warp, -1, every=True)
        if made is None or len(set(made[3])) > 1 or made[3][0] < n:
            return None
        caches, hidden, new, _, symbols, _ = made
        values: dict[str, Tensor | Leaf] = {**caches, **new, "hidden": hidden}
        if self.program.context:
            values["symbols"] = torch.cat([last, symbols[:, :-1]], 1)
        return state.push(n, n - 1, **values), symbols

    def stretch(self, state: State, last: Tensor, n: int, noise: Noise, warp: Any) -> Rolled | None:
        stop = -1 if self.space.eos is None else self.space.eos
        made = self._roll(state.trim(), last, n, noise, warp, stop, every=False)
        if made is None:
            return None
        caches, hidden, new, count, symbols, log_prob = made
        leaves: dict[str, Leaf] = {
            k: v for k, v in state.leaves.items() if k.removesuffix("_ok") in self.fixed
        }
        for name, cache in caches.items():
            lens = tuple(c - n + k for c, k in zip(cache.lens, count, strict=True))
            leaves[name] = Grow(cache.slab, lens, cache.axis, cache.block)
        for name, values in new.items():
            leaves[name] = Window(values, values.shape[1])
        leaves["hidden"] = Window(hidden, 1)
        if self.program.context:
            consumed = torch.cat([last, symbols[:, :-1]], 1)
            leaves["symbols"] = _moved(state.leaves["symbols"], consumed, count)
        lens = tuple(a + b for a, b in zip(state.lens, count, strict=True))
        return Rolled(State(lens, leaves, 0, state.backend), symbols, count, log_prob)

    def _roll(
        self, state: State, last: Tensor, n: int, noise: Noise, warp: Any, stop: int, every: bool
    ) -> tuple[dict[str, Grow], Tensor, dict[str, Tensor], list[int], Tensor, Tensor] | None:
        """With hidden and new values of ``every`` step; else the last hidden and whole windows."""
        settings = getattr(warp, "settings", None)
        n = min([n, *self.rooms(state)])
        if settings is None or n < 1 or noise.key.device.type != "cpu":
            return None
        rows, dim = len(last), self.program.buffers[self.program.hidden].dim
        positions, caches = self.positions(state), self.claim(state, n)
        kept = n if every else 1
        hidden, fresh, windows = self._floats(rows, kept, dim), {}, {}
        for name in self.windows:
            leaf = state.leaves[name]
            assert isinstance(leaf, Window)
            windows[name] = leaf.t[:, leaf.t.shape[1] - leaf.w :].contiguous().clone()
            fresh[name] = self._floats(rows, kept, leaf.t.shape[2])
        symbols = torch.zeros(rows, n, dtype=torch.int64)
        log_prob = torch.zeros(rows, n, dtype=torch.float64)
        count = torch.zeros(rows, dtype=torch.int64)
        self._machine.rollout(
            last[:, 0].tolist(),
            positions,
            [k + 1 for k in state.lens],
            noise.key.numpy(),
            settings.numpy(),
            stop,
            *self._cached(caches, n),
            [windows[k].numpy() for k in self.windows],
            [fresh[k].numpy() for k in self.windows],
            *self._remembered({k: v.t for k, v in state.leaves.items() if hasattr(v, "t")}),
            hidden.numpy(),
            symbols.numpy(),
            log_prob.numpy(),
            count.numpy(),
        )
        new = fresh if every else windows
        return caches, hidden, new, count.tolist(), symbols, log_prob

    def _floats(self, *shape: int) -> Tensor:
        """What is not written, behind a row's end symbol, is 0."""
        return torch.zeros(shape, dtype=torch.float32)

    def _cached(self, caches: Mapping[str, Grow], length: int) -> tuple[list[Any], list[Any]]:
        """Slabs of what grows, and how much of every row was there before ``length`` positions."""
        slabs = [caches[k].slab.tensor.numpy() for k in self.grown]
        return slabs, [[n - length for n in caches[k].lens] for k in self.grown]

    def _remembered(self, fixed: Windows) -> tuple[list[Any], list[Any]]:
        return (
            [fixed[k].detach().float().contiguous().numpy() for k in self.fixed],
            [fixed[f"{k}_ok"].to(torch.uint8).contiguous().numpy() for k in self.fixed],
        )


class Walk:
    """The laws behind a state of one row, path by path, with no state for each of them.

    To the bit those of ``extend`` and ``predict``. The last path stays in the caches and windows:
    the next one costs what it has more than they have in common.
    """

    def __init__(self, model: Compiled, root: State) -> None:
        self._model, self._root = model, root
        self._most = model.rooms(root)[0]
        self._begin(16)

    def _begin(self, room: int) -> None:
        """At the root, with room for paths of so many symbols."""
        model, root = self._model, self._root
        self._room = room = min(room, self._most)
        self._path: Sequence[int] = ()
        self._caches: Mapping[str, Grow] = {}  # while they are held, nobody else writes there
        self._caches = model.claim(root, room)
        self._slabs, places = model._cached(self._caches, room)
        self._places, self._position = [place for (place,) in places], model.positions(root)[0]
        self._dim = model.program.buffers[model.program.hidden].dim
        windows, fixed = model.kept(root.leaves)
        self._memory = model._remembered(fixed)
        self._windows: list[tuple[NDArray[np.float32], int]] = []
        for values in windows.values():
            more = torch.empty(1, room, values.shape[2])
            self._windows.append((torch.cat([values, more], 1).numpy(), values.shape[1]))

    def law(self, path: Sequence[int]) -> NDArray[np.float64] | None:
        """p(next | root, path) in nats [V]; None where positions have come to an end."""
        model, stop = self._model, len(path)
        if stop > self._most:
            return None
        law: NDArray[np.float64] = np.empty(model.program.size)
        if not path:
            hidden = self._root.window("hidden").numpy()
        else:
            if stop > self._room:
                self._begin(2 * stop)
            done = 0  # symbols that stand there already; the last one's hidden doesn't
            while done < min(len(self._path), stop - 1) and self._path[done] == path[done]:
                done += 1
            self._path = path
            hidden = np.empty((1, stop - done, self._dim), np.float32)
            model._machine.run(
                np.array([path[done:]], np.int64),
                [self._position + done],
                self._slabs,
                [[place + done] for place in self._places],
                [values[:, done : done + w] for values, w in self._windows],
                [values[:, done + w : stop + w] for values, w in self._windows],
                *self._memory,
                hidden,
                False,
            )
        model._machine.log_probs(hidden[0, -1:], law[None])
        return law


def _moved(leaf: Leaf, values: Tensor, count: Sequence[int]) -> Window:
    """A window after count[b] of the values [B, n, …] of every row."""
    assert isinstance(leaf, Window)
    every = torch.cat([leaf.t[:, leaf.t.shape[1] - leaf.w :], values], 1)
    return Window(_picked(every, [range(k, k + leaf.w) for k in count]), leaf.w)


def _picked(x: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """Places [B][n] of x [B, T, …]; numpy's, for torch wakes threads that then spin beside ours."""
    index = np.array(places, dtype=np.intp)
    return torch.from_numpy(x.numpy()[np.arange(len(index))[:, None], index])
