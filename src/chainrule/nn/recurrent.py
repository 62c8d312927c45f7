"""Recurrent layers over a block of symbols, and over one symbol.

Shapes: B rows, L block, D input width, H hidden width, S width of the layer's state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chainrule.nn.lora import Weighted
from chainrule.nn.precision import product_type
from chainrule.nn.scan import GRUScan, MixScan, TanhScan


class Layer(Weighted, ABC):
    """One recurrent layer. Its state [B, S] is ``parts`` vectors, the hidden one [B, H] last.

    Weights lie as in torch's own recurrent modules: [gates · H, D] and [gates · H, H].
    """

    gates: int
    parts = 1

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden, self.state_width = hidden, self.parts * hidden
        self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden, dim))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * hidden, hidden))
        self.bias_ih = nn.Parameter(torch.zeros(self.gates * hidden))
        self.bias_hh = nn.Parameter(torch.zeros(self.gates * hidden))
        bound = 1 / math.sqrt(hidden)
        for p in self.parameters():
            nn.init.uniform_(p, -bound, bound)

    @abstractmethod
    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Outputs [B, L, H] and the states [B, keep, S] after the last ``keep`` symbols."""

    @staticmethod
    @abstractmethod
    def step(
        x_BD: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """One symbol: the new parts [B, H] of the state; weights as ``weights`` has them."""


def _last(h_LBH: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    out = h_LBH.transpose(0, 1)
    return out, out[:, out.shape[1] - keep :]


class Tanh(Layer):
    """h = tanh(W x + U h) (Elman 1990)."""

    gates = 1

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        x = x_BLD.transpose(0, 1).contiguous()
        return _last(TanhScan.apply(x, state_BS, *self.weights(), product_type(x)), keep)

    @staticmethod
    def step(
        x_BD: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return (torch.rnn_tanh_cell(x_BD, state[0], *weights),)


class GRU(Layer):
    """Gated recurrent unit (Cho et al. 2014), gates in torch's order: reset, update, new."""

    gates = 3

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        x = x_BLD.transpose(0, 1).contiguous()
        return _last(GRUScan.apply(x, state_BS, *self.weights(), product_type(x)), keep)

    @staticmethod
    def step(
        x_BD: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return (torch.gru_cell(x_BD, state[0], *weights),)


class LSTM(Layer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); its state is cell, then hidden."""

    gates = 4
    parts = 2

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden)
        with torch.no_grad():  # remember by default (Jozefowicz et al. 2015)
            self.bias_ih[hidden : 2 * hidden] = 1

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        # torch's own runs all steps in one oneDNN call, but tells only the last cell state.
        kind, weights = product_type(x_BLD), self.weights()
        early = x_BLD.shape[1] - keep + 1
        typed = [w.to(kind) for w in weights]
        c, h = (t[None].to(kind).contiguous() for t in state_BS.chunk(2, -1))
        learns = torch.is_grad_enabled()
        out, h, c = torch.lstm(
            x_BLD[:, :early].to(kind), (h, c), typed, True, 1, 0.0, learns, False, True
        )
        outs, h, c = [out.to(x_BLD.dtype)], h[0].to(x_BLD.dtype), c[0].to(x_BLD.dtype)
        states = [torch.cat([c, h], -1)]
        for t in range(early, x_BLD.shape[1]):
            c, h = self.step(x_BLD[:, t], (c, h), weights)
            outs.append(h[:, None])
            states.append(torch.cat([c, h], -1))
        return torch.cat(outs, 1), torch.stack(states, 1)

    @staticmethod
    def step(
        x_BD: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        h, c = torch.lstm_cell(x_BD, (state[1], state[0]), *weights)
        return c, h


class MinGRU(Layer):
    """h_t = (1 - z) h_{t-1} + z n; z = σ(W_z x), n = W_n x (Feng et al. 2024, alg. 3)."""

    gates = 2

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden)
        del self.weight_hh, self.bias_hh

    @staticmethod
    def _gates(x: Tensor, weights: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        gate, new = F.linear(x, *weights).chunk(2, -1)
        return torch.sigmoid(gate), new

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        z, n = self._gates(x_BLD.transpose(0, 1), self.weights())
        return _last(MixScan.apply(1 - z, z * n, state_BS), keep)

    @staticmethod
    def step(
        x_BD: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        z, n = MinGRU._gates(x_BD, weights)
        return (torch.lerp(state[0], n, z),)


LAYERS: dict[str, type[Layer]] = {"tanh": Tanh, "lstm": LSTM, "gru": GRU, "mingru": MinGRU}
