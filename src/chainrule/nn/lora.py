"""Low-rank adapters: a frozen matrix W, and beside it a small B A that learns.

W' = W + (alpha / rank) B A, with B = 0 at the start (Hu et al. 2021, "LoRA"). An adapter is put
onto a copy of a model that shares all of its tensors, so that one base can carry many of them.
Shapes: N places, I inputs, O outputs, R rank.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.core.config import bounded

_Model = TypeVar("_Model", bound=nn.Module)
Pair = tuple[Tensor, ...]  # A [R, I] and B [O, R], scaled; or nothing


class Weighted(nn.Module):
    """A module that reads its parameters through ``weights``, where an adapter may change them."""

    def weights(self) -> list[Tensor]:
        """All of its own parameters, in their order, with what is added to them."""
        return [effective(self, name) for name in self._parameters]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        _changed(self, destination, prefix)


class Factors(nn.Module):
    """What is added to one matrix [O, I]: A [R, I] and B [O, R]."""

    def __init__(self, shape: tuple[int, ...], rank: int, scale: float, dice: torch.Generator):
        super().__init__()
        outputs, inputs = shape
        bound = 1 / math.sqrt(inputs)
        values = torch.empty(rank, inputs).uniform_(-bound, bound, generator=dice)
        self.A, self.B = nn.Parameter(values), nn.Parameter(torch.zeros(outputs, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O], without making the product B A."""
        return F.linear(F.linear(x, self.A), self.B * self.scale)

    def added(self, weight: Tensor, first: int = 0) -> Tensor:
        """Rows of W' from the same rows of W, which begin at ``first``."""
        b, a = self.B[first : first + len(weight)].to(weight.dtype), self.A.to(weight.dtype)
        with torch.autocast(weight.device.type, enabled=False):  # a sum is no place to be narrow
            return torch.addmm(weight, b, a, alpha=self.scale)


class LoRA(nn.Module):
    """Factors for the matrices of a model; its tensors are named as these, with .A and .B.

    Args:
        shapes: of the matrices [O, I], as ``targets`` finds them; rank: R; alpha: what the product
            is scaled with, over the rank; None: twice the rank. seed: of the A at the start.

    Raises:
        ValueError: rank or alpha out of bounds, or no matrix.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        rank: int,
        alpha: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        bounded("rank", rank, 1, 1024)
        if not shapes:
            raise ValueError("an adapter needs linear layers, and this model has none")
        self.rank, self.alpha = rank, 2.0 * rank if alpha is None else alpha
        bounded("alpha", self.alpha, 1e-6, 1e6)
        dice = torch.Generator().manual_seed(seed)
        self.pairs: dict[str, Factors] = {}
        for name, shape in shapes.items():
            self.pairs[name] = Factors(shape, rank, self.alpha / rank, dice)
            *path, last = name.split(".")
            at: nn.Module = self
            for part in path:
                if part not in at._modules:
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.add_module(last, self.pairs[name])

    @staticmethod
    def sizes(shapes: Mapping[str, tuple[int, ...]], rank: int) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the tensors that such an adapter has."""
        found: dict[str, tuple[int, ...]] = {}
        for name, (outputs, inputs) in shapes.items():
            found |= {f"{name}.A": (rank, inputs), f"{name}.B": (outputs, rank)}
        return found

    def onto(self, base: _Model) -> _Model:
        """A copy of ``base`` that shares its tensors, frozen, and computes with these factors."""
        memo: dict[int, object] = {}
        for p in base.parameters():
            memo[id(p)] = nn.Parameter(p.detach(), requires_grad=False)
        for b in base.buffers():
            memo[id(b)] = b
        model = copy.deepcopy(base, memo)
        for path, module in _adaptable(model):
            inside = {k: f for k in module._parameters if (f := self.pairs.get(f"{path}.{k}"))}
            if inside:  # not as a module: the names of the model's tensors stay the base's
                module.__dict__["factors"] = inside
                if isinstance(module, nn.Linear):
                    module.__class__ = _Linear
        return model


def begun(model: nn.Module, rank: int, seed: int) -> LoRA:
    """An adapter for a model, where its tensors are; as long as B is 0 it changes nothing."""
    first = next(model.parameters())
    return LoRA(targets(model), rank, seed=seed).to(first.device, first.dtype)


def targets(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes [O, I] of the matrices of all linear and recurrent layers."""
    return {
        f"{path}.{name}": tuple(p.shape)
        for path, module in _adaptable(model)
        for name, p in module._parameters.items()
        if p is not None and p.ndim == 2
    }


def effective(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module, with what an adapter adds to it."""
    value = module._parameters[name]
    assert value is not None
    factors: dict[str, Factors] = module.__dict__.get("factors", {})
    return factors[name].added(value) if name in factors else value


def _changed(module: nn.Module, destination: dict[str, Tensor], prefix: str) -> None:
    """A state dict is that of a plain model with the changed weights."""
    for name in module.__dict__.get("factors", {}):
        destination[prefix + name] = effective(module, name).detach()


def learns(linear: nn.Linear) -> bool:
    """Whether its weight gets a gradient, or its factors do."""
    return "factors" in linear.__dict__ or linear.weight.requires_grad


def learning(part: nn.Module) -> tuple[Tensor, Pair]:
    """The weight that computes, and A and B where it learns through these and has no gradient."""
    factors: Factors | None = part.__dict__.get("factors", {}).get("weight")
    if factors is None:
        weight: Tensor = part.weight  # type: ignore[assignment]
        return weight, ()
    with torch.no_grad():
        changed = effective(part, "weight")
    return changed, (factors.A, factors.B * factors.scale)


class _Linear(nn.Linear):
    """A linear layer with an adapter. Its own parameter stays the frozen W; ``weight`` is W'."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return effective(self, "weight")

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        _changed(self, destination, prefix)

    def forward(self, x: Tensor) -> Tensor:
        own, factors = self._parameters["weight"], self.__dict__["factors"]["weight"]
        assert own is not None
        out: Tensor = F.linear(x, own, self.bias) + factors(x)
        return out


def _adaptable(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((k, m) for k, m in model.named_modules() if isinstance(m, nn.Linear | Weighted))
