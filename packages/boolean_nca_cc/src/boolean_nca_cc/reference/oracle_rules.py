"""One step of the learned rules, node by node and wire by wire, in float64 NumPy.

Nothing here is shared with the networks. Weights come as a plain dict of arrays, by the path of each in the network
("reading.place.kernel"); a linear map is `x @ kernel + bias`. Layer norms are those of Ba, Kiros and Hinton, "Layer
Normalization", 2016, arXiv:1607.06450, with 1e-6 under the root; GELU is the tanh form of Hendrycks and Gimpel,
"Gaussian Error Linear Units", 2016, arXiv:1606.08415.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

__all__ = ["Scene", "attention_step", "gnn_step", "place_code"]

_Weights = Mapping[str, Shaped[np.ndarray, "..."]]
_CODE_CHANNELS = 16


class Scene(NamedTuple):
    """A circuit in the eyes of a rule.

    Args:
        layers: nodes of each layer, the inputs first.
        sources: which nodes each gate reads, one row a gate.
        alive: True = alive, over all nodes.
        logits: of the gates.
        hidden: of the gates.
        residual: of the outputs.
    """

    layers: Sequence[int]
    sources: Int[np.ndarray, "gates arity"]
    alive: Bool[np.ndarray, " nodes"]
    logits: Float[np.ndarray, "gates entries"]
    hidden: Float[np.ndarray, "gates channels"]
    residual: Float[np.ndarray, " outputs"]


def place_code(layers: Sequence[int], node: int, channels: int) -> list[float]:
    """Sines and cosines of a node's layer and of its number in the layer, from their definition.

    Args:
        layers: nodes of each layer, the inputs first.
        node: its flat id.
        channels: of each of the two codes.

    Returns:
        sin and cos of `position * base^(-2 i / channels)` in turn for i = 0, 1, ...; first the layer's, base the number
        of layers, then the node's within the layer, base the layer's width.

    >>> [round(v, 2) for v in place_code([2, 1], 1, channels=2)]
    [0.0, 1.0, 0.84, 0.54]
    """
    layer, number = 0, node
    while number >= layers[layer]:
        number -= layers[layer]
        layer += 1
    code = []
    for position, base in ((layer, len(layers)), (number, layers[layer])):
        for pair in range(channels // 2):
            angle = position / base ** (2 * pair / channels)
            code += [float(np.sin(angle)), float(np.cos(angle))]
    return code


def attention_step(
    weights: _Weights, scene: Scene, heads: int
) -> tuple[Float[np.ndarray, "gates entries"], Float[np.ndarray, "gates channels"]]:
    """One step of attention along the wires.

    softmax over the live neighbours j of a live node i, and i itself, of `q_i . k_j / sqrt(width / heads)` plus one
    learned number for each way in which they are wired; after it a perceptron. Both are added to what was there.

    Args:
        weights: of the rule.
        scene: the circuit.
        heads: of the attention.

    Returns:
        Logits and hidden channels afterwards.

    >>> nothing = Scene([1, 1], np.zeros((1, 1), int), np.zeros(2, bool), *np.zeros((2, 1, 2)), np.zeros(1))
    >>> attention_step({}, nothing, heads=1)[0].tolist()
    [[0.0, 0.0]]
    """
    n, arity = sum(scene.layers), scene.sources.shape[1]
    x = {node: _read(weights, scene, node) for node in range(n) if scene.alive[node]}
    for block in _parts(weights, "blocks"):
        normed = {node: _layer_norm(weights, f"{block}.before_attention", row) for node, row in x.items()}
        thirds = {
            node: np.split(row @ weights[f"{block}.queries_keys_values.kernel"], 3) for node, row in normed.items()
        }
        after = {}
        for i, row in x.items():
            heard = []
            for head in range(heads):
                size = len(row) // heads
                part = slice(head * size, (head + 1) * size)
                scores, values = [], []
                for j in x:
                    kinds = _kinds(scene, i, j, arity)
                    if kinds:
                        bias = sum(float(weights[f"{block}.kind"][kind, head]) for kind in kinds)
                        scores.append(thirds[i][0][part] @ thirds[j][1][part] / np.sqrt(size) + bias)
                        values.append(thirds[j][2][part])
                shares = np.exp(np.array(scores) - max(scores))
                heard.append(sum(s * v for s, v in zip(shares / shares.sum(), values, strict=True)))
            row = row + _linear(weights, f"{block}.mixed", np.concatenate(heard))
            wide = _linear(weights, f"{block}.wide", _layer_norm(weights, f"{block}.before_perceptron", row))
            gelu = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
            after[i] = row + _linear(weights, f"{block}.narrow", gelu)
        x = after
    return _written(weights, scene, x)


def gnn_step(
    weights: _Weights, scene: Scene, aggregate: str
) -> tuple[Float[np.ndarray, "gates entries"], Float[np.ndarray, "gates channels"]]:
    """One step of messages along the wires, both ways.

    A message is `W relu(S x_sender + kind of the wire) + b`. A node takes the sum of its messages, or their mean under
    a softmax of `query(sum) . message / sqrt(width)`.

    Args:
        weights: of the rule.
        scene: the circuit.
        aggregate: "sum" or "attention".

    Returns:
        Logits and hidden channels afterwards.

    >>> nothing = Scene([1, 1], np.zeros((1, 1), int), np.zeros(2, bool), *np.zeros((2, 1, 2)), np.zeros(1))
    >>> gnn_step({}, nothing, "sum")[1].tolist()
    [[0.0, 0.0]]
    """
    n, arity = sum(scene.layers), scene.sources.shape[1]
    x = {node: _read(weights, scene, node) for node in range(n) if scene.alive[node]}
    for one in _parts(weights, "rounds"):
        normed = {node: _layer_norm(weights, f"{one}.before", row) for node, row in x.items()}
        inbox: dict[int, list[np.ndarray]] = {node: [] for node in x}
        for gate, row in enumerate(scene.sources):
            reader = scene.layers[0] + gate
            for slot, source in enumerate(row.tolist()):
                if reader in x and source in x:
                    for sender, receiver, kind in ((source, reader, slot), (reader, source, arity + slot)):
                        raw = _linear(weights, f"{one}.sent", normed[sender]) + weights[f"{one}.kind"][kind]
                        inbox[receiver].append(_linear(weights, f"{one}.message", np.maximum(raw, 0)))
        for node, messages in inbox.items():
            width = len(x[node])
            received = sum(messages, np.zeros(width))
            if messages and aggregate == "attention":
                query = _linear(weights, f"{one}.query", received)
                shares = np.exp([query @ message / np.sqrt(width) for message in messages])
                received = sum(s * m for s, m in zip(shares / shares.sum(), messages, strict=True))
            x[node] = x[node] + _perceptron(weights, f"{one}.update", np.concatenate([normed[node], received]))
    return _written(weights, scene, x)


def _kinds(scene: Scene, i: int, j: int, arity: int) -> list[int]:
    """0 if i is j; 1 + a if i reads j as its input a; 1 + arity + a if j reads i as its input a."""
    kinds = [0] if i == j else []
    for reader, source, first in ((i, j, 1), (j, i, 1 + arity)):
        if reader >= scene.layers[0]:
            row = scene.sources[reader - scene.layers[0]]
            kinds += [first + slot for slot in range(arity) if row[slot] == source]
    return kinds


def _read(weights: _Weights, scene: Scene, node: int) -> np.ndarray:
    """Place, and for a gate its table, memory and residual."""
    row = _linear(weights, "reading.place", np.array(place_code(scene.layers, node, _CODE_CHANNELS)))
    gate, first_output = node - scene.layers[0], sum(scene.layers) - scene.layers[-1]
    if gate < 0:
        return row
    residual = float(scene.residual[node - first_output]) if node >= first_output else 0.0
    memory = _layer_norm(weights, "reading.norm", np.asarray(scene.hidden[gate], np.float64))
    table = np.tanh(np.asarray(scene.logits[gate], np.float64) / 4)
    return row + _linear(weights, "reading.gate", np.concatenate([table, memory, [4 * residual]]))


def _written(weights: _Weights, scene: Scene, x: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Increments of live gates, each times its scale."""
    logits, hidden = np.array(scene.logits, np.float64), np.array(scene.hidden, np.float64)
    for node, row in x.items():
        gate = node - scene.layers[0]
        if gate >= 0:
            row = _layer_norm(weights, "increments.norm", row)
            logits[gate] += float(weights["increments.logits_scale"]) * _linear(weights, "increments.to_logits", row)
            hidden[gate] += float(weights["increments.hidden_scale"]) * _linear(weights, "increments.to_hidden", row)
    return logits, hidden


def _parts(weights: _Weights, name: str) -> list[str]:
    numbers = {int(path.split(".")[1]) for path in weights if path.startswith(f"{name}.")}
    return [f"{name}.{number}" for number in sorted(numbers)]


def _linear(weights: _Weights, name: str, x: np.ndarray) -> np.ndarray:
    return x @ np.asarray(weights[f"{name}.kernel"], np.float64) + weights[f"{name}.bias"]


def _layer_norm(weights: _Weights, name: str, x: np.ndarray) -> np.ndarray:
    normed = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-6)
    return normed * weights[f"{name}.scale"] + weights[f"{name}.bias"]


def _perceptron(weights: _Weights, name: str, x: np.ndarray) -> np.ndarray:
    return _linear(
        weights,
        f"{name}.second",
        np.maximum(_layer_norm(weights, f"{name}.norm", _linear(weights, f"{name}.first", x)), 0),
    )
