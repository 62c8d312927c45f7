"""Recurrent layers over a block of symbols.

Shapes: B rows, L block, D input width, H hidden width, S width of the layer's state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(nn.Module, ABC):
    """One recurrent layer. Its state [B, S] ends with the hidden state [B, H]."""

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

    def weights(self) -> tuple[Tensor, ...]:
        """In the order of torch's own recurrent functions."""
        p = self._parameters  # a plain dict: attribute look-up of a Module costs more than a step
        return p["weight_ih"], p["weight_hh"], p["bias_ih"], p["bias_hh"]  # type: ignore[return-value]

    @abstractmethod
    def step(self, x_BD: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One symbol: the new parts [B, H] of the state, the hidden state last."""


class Tanh(Layer):
    """h = tanh(W x + U h) (Elman 1990)."""

    gates = 1

    def step(self, x_BD: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (torch.rnn_tanh_cell(x_BD, state[0], *self.weights()),)

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        w = self.weights()
        out, _ = torch.rnn_tanh(
            x_BLD, state_BS[None].contiguous(), w, True, 1, 0.0, False, False, True
        )
        return out, out[:, out.shape[1] - keep :]


class GRU(Layer):
    """Gated recurrent unit (Cho et al. 2014), gates in torch's order: reset, update, new."""

    gates = 3

    def step(self, x_BD: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (torch.gru_cell(x_BD, state[0], *self.weights()),)

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        w = self.weights()
        out, _ = torch.gru(x_BLD, state_BS[None].contiguous(), w, True, 1, 0.0, False, False, True)
        return out, out[:, out.shape[1] - keep :]


class LSTM(Layer):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); its state is cell, then hidden."""

    gates = 4
    parts = 2

    def step(self, x_BD: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        h, c = torch.lstm_cell(x_BD, (state[1], state[0]), *self.weights())
        return c, h

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        w = self.weights()
        c, h = state_BS.chunk(2, -1)
        early = x_BLD.shape[1] - keep + 1
        hx = [h[None].contiguous(), c[None].contiguous()]
        out, hn, cn = torch.lstm(x_BLD[:, :early], hx, w, True, 1, 0.0, False, False, True)
        h, c = hn[0], cn[0]
        outs, states = [out], [torch.cat([c, h], -1)]
        for t in range(early, x_BLD.shape[1]):
            h, c = torch.lstm_cell(x_BLD[:, t], [h, c], *w)
            outs.append(h[:, None])
            states.append(torch.cat([c, h], -1))
        return torch.cat(outs, 1), torch.stack(states, 1)


class MinGRU(Layer):
    """z = σ(W_z x), g = g(W_h x), h_t = (1 - z) h_{t-1} + z g (Feng et al. 2024)."""

    gates = 2

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden)
        del self.weight_hh, self.bias_hh

    def step(self, x_BD: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        gate, new = F.linear(x_BD, self.weight_ih, self.bias_ih).chunk(2, -1)
        return (torch.lerp(state[0], new, torch.sigmoid(gate)),)

    def forward(self, x_BLD: Tensor, state_BS: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        gate, new = F.linear(x_BLD, self.weight_ih, self.bias_ih).chunk(2, -1)
        z = torch.sigmoid(gate)
        g = new
        h, outs = state_BS, []
        for t in range(x_BLD.shape[1]):
            h = h + z[:, t] * (g[:, t] - h)
            outs.append(h)
        out = torch.stack(outs, 1)
        return out, out[:, out.shape[1] - keep :]


LAYERS: dict[str, type[Layer]] = {"tanh": Tanh, "lstm": LSTM, "gru": GRU, "mingru": MinGRU}
