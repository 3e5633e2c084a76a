"""The same mathematics, slowly, in float64 NumPy: what the fast forms are held against.

Nothing here is shared with them. A gate is evaluated by folding its table, case by case in float64; gradients are
written out by hand from the multilinear form; hard circuits look their tables up by integer address.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped

__all__ = ["adam_step", "evaluate_by_address", "gradient", "loss", "run_circuit", "sgd_step", "sparsity"]

_Layers = Sequence[Shaped[np.ndarray, "..."]]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.where(logits >= 0, 1, np.exp(-np.abs(logits))) / (1 + np.exp(-np.abs(logits)))


def _tables(logits: np.ndarray, hard: bool) -> np.ndarray:
    wide = np.asarray(logits, np.float64)
    return (wide > 0).astype(np.float64) if hard else _sigmoid(wide)


def _all_alive(logits: _Layers, n_in: int) -> list[np.ndarray]:
    return [np.ones(n_in), *(np.ones(layer.shape[0] * layer.shape[1]) for layer in logits)]


def run_circuit(
    logits: _Layers,
    wires: _Layers,
    x: Float[np.ndarray, "cases n_in"],
    gate_mask: _Layers | None = None,
    hard: bool = False,
) -> list[Float[np.ndarray, "cases _"]]:
    """All activations, by folding each gate's table over its inputs; a dead gate is 0 whatever its logits.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        gate_mask: one vector a layer, the input included.
        hard: round the tables.

    Returns:
        One array a layer.

    >>> identity = np.array([[[-1.0, 1.0]]])
    >>> run_circuit([identity], [np.array([[0]])], np.array([[1.0]]), hard=True)[-1].tolist()
    [[1.0]]
    """
    masks = _all_alive(logits, x.shape[1]) if gate_mask is None else [np.asarray(m, np.float64) for m in gate_mask]
    activations = [np.where(masks[0] == 0, 0, x * masks[0])]
    for layer, layer_wires, mask in zip(logits, wires, masks[1:], strict=True):
        groups, size, _ = layer.shape
        table = _tables(layer, hard)
        out = np.zeros((x.shape[0], groups * size))
        for gate in range(groups * size):
            if mask[gate] == 0:
                continue
            group, position = divmod(gate, size)
            folded = np.broadcast_to(table[group, position], (x.shape[0], table.shape[-1]))
            for source in layer_wires[:, group]:
                weight = activations[-1][:, source, None]
                folded = (1 - weight) * folded[:, ::2] + weight * folded[:, 1::2]
            out[:, gate] = folded[:, 0] * mask[gate]
        activations.append(out)
    return activations


def loss(y: Float[np.ndarray, "cases n_out"], y0: Float[np.ndarray, "cases n_out"], kind: str) -> float:
    """The l4 loss or the binary cross-entropy, from their definitions.

    Args:
        y: outputs.
        y0: targets.
        kind: "l4" or "bce".

    Returns:
        The loss.

    >>> loss(np.array([[0.5]]), np.array([[1.0]]), "l4")
    0.0625
    """
    if kind == "l4":
        return float(np.sum(np.abs(y - y0) ** 4))
    z = np.log(np.maximum(y, 1e-7)) - np.log(np.maximum(1 - y, 1e-7))
    return float(np.sum(np.logaddexp(0, z) - y0 * z))


def _loss_slope(y: np.ndarray, y0: np.ndarray, kind: str) -> np.ndarray:
    if kind == "l4":
        return 4 * (y - y0) ** 3
    upper, lower = y > 1e-7, 1 - y > 1e-7
    z = np.log(np.maximum(y, 1e-7)) - np.log(np.maximum(1 - y, 1e-7))
    dz = np.where(upper, 1 / np.maximum(y, 1e-7), 0) + np.where(lower, 1 / np.maximum(1 - y, 1e-7), 0)
    return (_sigmoid(z) - y0) * dz


def gradient(
    logits: _Layers,
    wires: _Layers,
    x: Float[np.ndarray, "cases n_in"],
    y0: Float[np.ndarray, "cases n_out"],
    kind: str,
    gate_mask: _Layers | None = None,
) -> list[Float[np.ndarray, "_ _ entries"]]:
    """The gradient with respect to every logit, written out from out = sum_m p_m prod_j (x_j or 1 - x_j).

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        kind: "l4" or "bce".
        gate_mask: one vector a layer, the input included.

    Returns:
        One array a layer of gates; exactly 0 at dead gates.

    >>> gradient([np.zeros((1, 1, 2))], [np.array([[0]])], np.array([[1.0]]), np.array([[0.0]]), "l4")[0].tolist()
    [[[0.0, 0.125]]]
    """
    masks = _all_alive(logits, x.shape[1]) if gate_mask is None else [np.asarray(m, np.float64) for m in gate_mask]
    activations = run_circuit(logits, wires, x, masks)
    slope = _loss_slope(activations[-1], y0, kind)
    gradients = []
    for index in reversed(range(len(logits))):
        groups, size, entries = logits[index].shape
        table, sources = _tables(logits[index], hard=False), wires[index]
        d_logits = np.zeros((groups, size, entries))
        d_before = np.zeros_like(activations[index])
        for gate in range(groups * size):
            weight = masks[index + 1][gate]
            if weight == 0:
                continue
            group, position = divmod(gate, size)
            p = table[group, position]
            inputs = activations[index][:, sources[:, group]]
            d_out = slope[:, gate] * weight
            for m in range(entries):
                bits = m >> np.arange(inputs.shape[1]) & 1
                factors = np.where(bits == 1, inputs, 1 - inputs)
                d_logits[group, position, m] = np.sum(d_out * factors.prod(1)) * p[m] * (1 - p[m])
                for j, source in enumerate(sources[:, group]):
                    others = np.delete(factors, j, axis=1).prod(1)
                    d_before[:, source] += d_out * p[m] * others * (1 if bits[j] else -1)
        gradients.append(d_logits)
        slope = d_before
    return gradients[::-1]


def evaluate_by_address(
    logits: _Layers, wires: _Layers, x: Bool[np.ndarray, "cases n_in"], alive: Bool[np.ndarray, " nodes"] | None = None
) -> Bool[np.ndarray, "cases n_out"]:
    """The hard circuit as table look-ups: the address is the inputs' bits, input 0 the lowest.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        alive: True = alive, input nodes first.

    Returns:
        The outputs.

    >>> evaluate_by_address([np.array([[[1.0, -1.0]]])], [np.array([[0]])], np.array([[False]])).tolist()
    [[True]]
    """
    start = x.shape[1]
    values = x if alive is None else x & alive[:start]
    for layer, layer_wires in zip(logits, wires, strict=True):
        groups, size, _ = layer.shape
        bits = values[:, layer_wires].astype(np.int64)
        address = np.sum(bits << np.arange(layer_wires.shape[0])[:, None], axis=1)
        out = np.stack([layer[g, :, address[:, g]] > 0 for g in range(groups)], axis=1).reshape(len(x), groups * size)
        values = out if alive is None else out & alive[start : start + groups * size]
        start += groups * size
    return values


def sparsity(logits: _Layers, kind: str) -> float:
    """How far table entries are from 0 and 1: "l1", "binary" or "entropy".

    Args:
        logits: one array a layer of gates.
        kind: which penalty.

    Returns:
        The sum over all entries.

    >>> sparsity([np.zeros((1, 1, 2))], "l1")
    1.0
    """
    p = np.concatenate([_sigmoid(np.asarray(layer, np.float64)).ravel() for layer in logits])
    if kind == "l1":
        return float(np.minimum(p, 1 - p).sum())
    if kind == "binary":
        return float((p * (1 - p)).sum())
    return float(-(p * np.log(p + 1e-7) + (1 - p) * np.log(1 - p + 1e-7)).sum())


def sgd_step(params: np.ndarray, grad: np.ndarray, learning_rate: float) -> np.ndarray:
    """One step of plain gradient descent.

    Args:
        params: parameters.
        grad: their gradient.
        learning_rate: step size.

    Returns:
        New parameters.

    >>> sgd_step(np.ones(1), np.ones(1), 0.5).tolist()
    [0.5]
    """
    return params - learning_rate * grad


def adam_step(
    params: np.ndarray,
    grad: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    step: int,
    learning_rate: float,
    b1: float,
    b2: float,
    weight_decay: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of Adam, or of AdamW (Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101).

    Args:
        params: parameters.
        grad: their gradient.
        first: first moment before.
        second: second moment before.
        step: number of this step, from 1.
        learning_rate: step size.
        b1: decay of the first moment.
        b2: decay of the second moment.
        weight_decay: decoupled decay.

    Returns:
        New parameters and moments.

    >>> [float(v[0]) for v in adam_step(np.ones(1), np.ones(1), np.zeros(1), np.zeros(1), 1, 0.5, 0.5, 0.5)[1:]]
    [0.5, 0.5]
    """
    first = b1 * first + (1 - b1) * grad
    second = b2 * second + (1 - b2) * grad**2
    direction = (first / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + 1e-8)
    return params - learning_rate * (direction + weight_decay * params), first, second
