"""ONNX graphs of one step of a stack of recurrent cells, for onnxruntime in bench.decode_rnn.

Inputs: x int64 [B] and the state [B, H] of every layer (h and, for the LSTM, c); outputs: logits
[B, V] and the new state. ``plain`` writes the gates out as products; ``fused`` uses ONNX's own LSTM
and GRU over a sequence of length 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, NDArray[np.float32]]
LAYERS = 2
ORDER = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}  # ONNX's gates among torch's


class Graph:
    """Nodes and weights, written as they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        """A constant."""
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], *outputs: str, **options: object) -> str:
        """One operation; returns its first output."""
        named = list(outputs) or [f"{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, inputs, named, **options))
        return named[0]

    def save(self, state: list[str], hidden: int, alphabet: int, path: Path) -> None:
        """With x and the state as inputs; the outputs have ``new_`` before the state's names."""
        vector = ["B", hidden]
        inputs = [helper.make_tensor_value_info("x", TensorProto.INT64, ["B"])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", alphabet])]
        for name in state:
            inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, vector))
            outputs.append(helper.make_tensor_value_info(f"new_{name}", TensorProto.FLOAT, vector))
        graph = helper.make_graph(self.nodes, "step", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 10
        onnx.checker.check_model(model)
        onnx.save(model, path)


def _ends(graph: Graph, weights: Weights) -> str:
    """The embedded symbol."""
    return graph.node("Gather", [graph.weight("table", weights["embedding.weight"]), "x"])


def _head(graph: Graph, weights: Weights, out: str) -> None:
    product = graph.node("MatMul", [out, graph.weight("head", weights["head.weight"].T)])
    graph.node("Add", [product, graph.weight("head_bias", weights["head.bias"])], "logits")


def plain(kind: str, weights: Weights, path: Path) -> None:
    """Products and elementwise gates, as torch's cells define them."""
    graph, state = Graph(), []
    hidden = weights["layers.0.weight_hh"].shape[1]
    out = _ends(graph, weights)
    for i in range(LAYERS):
        w = {n: weights[f"layers.{i}.{n}"] for n in ("weight_ih", "weight_hh")}
        b = {n: weights[f"layers.{i}.{n}"] for n in ("bias_ih", "bias_hh")}
        h, c, new_h, new_c = f"h{i}", f"c{i}", f"new_h{i}", f"new_c{i}"
        state += [h, c] if kind == "lstm" else [h]
        if kind == "lstm":  # one product of input and hidden state together
            both = graph.node("Concat", [out, h], axis=1)
            matrix = np.concatenate([w["weight_ih"], w["weight_hh"]], 1).T
            product = graph.node("MatMul", [both, graph.weight(f"w{i}", matrix)])
            bias = graph.weight(f"b{i}", b["bias_ih"] + b["bias_hh"])
            gates = graph.node("Add", [product, bias])
            parts = [f"{g}{i}" for g in "ifgo"]
            graph.node("Split", [gates], *parts, axis=1)
            opened = [graph.node("Sigmoid", [parts[j]]) for j in (0, 1, 3)]
            kept = graph.node("Mul", [opened[1], c])
            taken = graph.node("Mul", [opened[0], graph.node("Tanh", [parts[2]])])
            graph.node("Add", [kept, taken], new_c)
            out = graph.node("Mul", [opened[2], graph.node("Tanh", [new_c])], new_h)
            continue
        sides = []
        for side, source in (("ih", out), ("hh", h)):
            matrix = graph.weight(f"w_{side}{i}", w[f"weight_{side}"].T)
            product = graph.node("MatMul", [source, matrix])
            total = graph.node("Add", [product, graph.weight(f"b_{side}{i}", b[f"bias_{side}"])])
            sides.append([f"{g}_{side}{i}" for g in "rzn"])
            graph.node("Split", [total], *sides[-1], axis=1)
        r, z = (
            graph.node("Sigmoid", [graph.node("Add", [sides[0][j], sides[1][j]])]) for j in (0, 1)
        )
        n = graph.node(
            "Tanh", [graph.node("Add", [sides[0][2], graph.node("Mul", [r, sides[1][2]])])]
        )
        ahead = graph.node("Mul", [z, graph.node("Sub", [h, n])])
        out = graph.node("Add", [n, ahead], new_h)
    _head(graph, weights, out)
    graph.save(state, hidden, len(weights["head.bias"]), path)


def fused(kind: str, weights: Weights, path: Path) -> None:
    """ONNX's LSTM or GRU a layer."""
    graph, state = Graph(), []
    hidden = weights["layers.0.weight_hh"].shape[1]
    first = graph.weight("first", np.array([0]))
    out = graph.node("Unsqueeze", [_ends(graph, weights), first])
    for i in range(LAYERS):
        w = []
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            gates = np.split(weights[f"layers.{i}.{n}"], len(ORDER[kind]))
            w.append(np.concatenate([gates[j] for j in ORDER[kind]])[None])
        weight = [graph.weight(f"w{i}", w[0]), graph.weight(f"r{i}", w[1])]
        weight.append(graph.weight(f"b{i}", np.concatenate(w[2:], 1)))
        names = [f"h{i}", f"c{i}"] if kind == "lstm" else [f"h{i}"]
        state += names
        before = [graph.node("Unsqueeze", [n, first]) for n in names]
        after = [f"after_{n}" for n in names]
        options = {"hidden_size": hidden} | ({} if kind == "lstm" else {"linear_before_reset": 1})
        graph.node(kind.upper(), [out, *weight, "", *before], "", *after, **options)
        for n, new in zip(names, after, strict=True):
            graph.node("Squeeze", [new, first], f"new_{n}")
        out = after[0]
    _head(graph, weights, f"new_h{LAYERS - 1}")
    graph.save(state, hidden, len(weights["head.bias"]), path)
