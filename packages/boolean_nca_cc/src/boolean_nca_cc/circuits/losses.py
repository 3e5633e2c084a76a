"""Losses on the outputs, penalties on the tables, and the metrics that go with them.

Nothing here cares whether cases come first or last: every loss is a sum over all cases and output bits.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from boolean_nca_cc.errors import LossError

__all__ = ["LOSSES", "binary_cross_entropy", "fourth_power", "get_loss", "sparsity_penalty"]

_CLIP = 1e-7


def fourth_power(y: Float[Array, "rows columns"], y0: Float[Array, "rows columns"]) -> Float[Array, ""]:
    """The l4 loss, sum (y - y0)^4 over all cases and output bits (a sum, not a mean).

    Args:
        y: outputs.
        y0: targets.

    Returns:
        The loss.

    >>> float(fourth_power(jnp.array([[0.5, 1.0]]), jnp.array([[0.0, 0.0]])))
    1.0625
    """
    square = jnp.square(y - y0)
    return jnp.sum(square * square)  # two products; a general power costs several times that


def binary_cross_entropy(y: Float[Array, "rows columns"], y0: Float[Array, "rows columns"]) -> Float[Array, ""]:
    """Binary cross-entropy, sum softplus(z) - y0 z with z = log(max(y, 1e-7) / max(1 - y, 1e-7)).

    Args:
        y: outputs, probabilities of a 1.
        y0: targets.

    Returns:
        The loss.

    >>> round(float(binary_cross_entropy(jnp.array([[0.5]]), jnp.array([[1.0]]))), 6)
    0.693147
    """
    z = jnp.log(jnp.maximum(y, _CLIP) / jnp.maximum(1 - y, _CLIP))
    return jnp.sum(jax.nn.softplus(z) - y0 * z)


LOSSES: Mapping[str, Callable[[Array, Array], Array]] = MappingProxyType(
    {"l4": fourth_power, "bce": binary_cross_entropy}
)


def get_loss(name: str) -> Callable[[Array, Array], Array]:
    """The loss of that name.

    Args:
        name: "l4" or "bce".

    Returns:
        A function of outputs and targets.

    Raises:
        LossError: there is no such loss.

    >>> get_loss("l5")
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.LossError: the loss is one of l4, bce; it is 'l5'.
    """
    if name not in LOSSES:
        raise LossError(f"the loss is one of {', '.join(LOSSES)}; it is {name!r}.")
    return LOSSES[name]


def sparsity_penalty(
    logits: Sequence[Float[Array | np.ndarray, "_ _ entries"]],
    kind: str,
    gate_mask: Sequence[Shaped[Array | np.ndarray, " _"]] | None = None,
) -> Float[Array, ""]:
    """How far the table entries p of live gates are from 0 and 1.

    "l1" is sum min(p, 1 - p); "binary" is sum p (1 - p); "entropy" is -sum p log(p + 1e-7) + (1 - p) log(1 - p + 1e-7).

    Args:
        logits: one array a layer of gates.
        kind: "l1", "binary" or "entropy".
        gate_mask: the layered mask; dead gates do not count.

    Returns:
        The penalty, unweighted.

    Raises:
        LossError: there is no such penalty.

    >>> float(sparsity_penalty([jnp.zeros((1, 1, 4))], "binary"))
    1.0
    """
    if kind not in _PENALTIES:
        raise LossError(f"the penalty is one of {', '.join(_PENALTIES)}; it is {kind!r}.")
    total = jnp.zeros(())
    for index, layer in enumerate(logits, start=1):
        alive = True if gate_mask is None else jnp.asarray(gate_mask[index]).reshape(*layer.shape[:2], 1) != 0
        # Replaced before and after, so that a dead gate's NaN reaches neither the value nor a gradient.
        entries = _PENALTIES[kind](jax.nn.sigmoid(jnp.where(alive, layer, 0)))
        total += jnp.sum(jnp.where(alive, entries, 0))
    return total


def _entropy(p: Array) -> Array:
    return -p * jnp.log(p + _CLIP) - (1 - p) * jnp.log(1 - p + _CLIP)


_PENALTIES: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {"l1": lambda p: jnp.minimum(p, 1 - p), "binary": lambda p: p * (1 - p), "entropy": _entropy}
)
