"""Slow and plain forms in float64, position by position and component by component.

Nothing here knows of the library: arguments are NumPy arrays, results are too. Tests compare every fast form with
these.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

__all__ = [
    "divergence",
    "faithfulness",
    "g_of",
    "g_slope",
    "importance_minimality",
    "penalised_of",
    "scalar_network",
    "site_output",
    "squared_error",
]


def scalar_network(
    h: Float[ndarray, "N C"],
    w1: Float[ndarray, "C H"],
    b1: Float[ndarray, "C H"],
    w2: Float[ndarray, "C H"],
    b2: Float[ndarray, " C"],
) -> Float[ndarray, "N C"]:
    """z_c = w2_c · gelu(w1_c h_c + b1_c) + b2_c with gelu(x) = x Φ(x).

    Args:
        h: inner activations.
        w1: weights to the hidden layer.
        b1: its biases.
        w2: weights to z.
        b2: biases of z.

    Returns:
        z.
    """
    z = np.zeros(h.shape)
    for n, c in np.ndindex(*h.shape):
        z[n, c] = float(b2[c])
        for unit in range(w1.shape[1]):
            x = float(w1[c, unit]) * float(h[n, c]) + float(b1[c, unit])
            z[n, c] += float(w2[c, unit]) * x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    return z


def g_of(z: float) -> float:
    """The importance for masks, clamp(z, 0, 1).

    Args:
        z: output of a causal-importance function.

    Returns:
        g.
    """
    return min(max(z, 0.0), 1.0)


def g_slope(z: float, gradient: float, alpha: float = 0.01) -> float:
    """What the gradient of g becomes before the clamp: it leaks below 0 where it asks for a larger g.

    Args:
        z: output of a causal-importance function.
        gradient: of g.
        alpha: the leak's slope.

    Returns:
        The gradient of z.
    """
    if z > 1:
        return 0.0
    if z > 0:
        return gradient
    return alpha * gradient if gradient < 0 else 0.0


def penalised_of(z: float, alpha: float = 0.01) -> float:
    """The importance that is penalised: 0, z, 1 + α (z − 1) below 0, up to 1, above 1.

    Args:
        z: output of a causal-importance function.
        alpha: the leak's slope.

    Returns:
        ḡ.
    """
    return 0.0 if z < 0 else z if z <= 1 else 1 + alpha * (z - 1)


def site_output(
    a: Float[ndarray, "N d_in"],
    w: Float[ndarray, "d_out d_in"],
    b: Float[ndarray, " d_out"] | None,
    v: Float[ndarray, "d_in C"],
    u: Float[ndarray, "C d_out"],
    g: Float[ndarray, "N C"],
    r: Float[ndarray, "N C"],
    d: Float[ndarray, " N"] | None = None,
    routed: Float[ndarray, " N"] | None = None,
) -> Float[ndarray, "N d_out"]:
    """A masked site's output: each component by itself, Δ = W − (V U)ᵀ as one more, the layer where it is not routed.

    Args:
        a: the site's input.
        w: W.
        b: its bias.
        v: V.
        u: U.
        g: importances.
        r: sources.
        d: the mask of Δ; None leaves Δ out.
        routed: 1 at positions where the components stand in, else 0; None = everywhere.

    Returns:
        The output.
    """
    positions, components = g.shape
    out = np.zeros((positions, w.shape[0]))
    delta = w - (v @ u).T
    for n in range(positions):
        if routed is not None and not routed[n]:
            out[n] = w @ a[n]
        else:
            for c in range(components):
                mask = g[n, c] + (1 - g[n, c]) * r[n, c]
                out[n] += mask * (a[n] @ v[:, c]) * u[c]
            if d is not None:
                out[n] += d[n] * (delta @ a[n])
        if b is not None:
            out[n] += b
    return out


def squared_error(pred: Float[ndarray, "N d"], target: Float[ndarray, "N d"]) -> float:
    """Mean of (pred − target)² over all numbers.

    Args:
        pred: an output.
        target: the target's own.

    Returns:
        The loss.
    """
    total = 0.0
    for at in np.ndindex(*pred.shape):
        total += float(pred[at] - target[at]) ** 2
    return total / pred.size


def divergence(pred: Float[ndarray, "N d"], target: Float[ndarray, "N d"]) -> float:
    """Mean over positions of Σ p log(p / q), p = softmax(target), q = softmax(pred).

    Args:
        pred: logits.
        target: the target's own.

    Returns:
        The loss.
    """
    total = 0.0
    for one, other in zip(pred, target, strict=True):
        q, p = (np.exp(row - row.max()) / np.exp(row - row.max()).sum() for row in (one, other))
        total += float(sum(p[i] * math.log(p[i] / q[i]) for i in range(len(p))))
    return total / len(pred)


def importance_minimality(
    penalised: Mapping[str, Float[ndarray, "N C"]], p: float, eps: float = 1e-12, beta: float = 0.0, world_size: int = 1
) -> float:
    """Σ_sites Σ_c μ_c (1 + β log2(1 + S_c · world size)), S_c = Σ_positions (ḡ + ε)^p, μ_c = S_c / N.

    Args:
        penalised: ḡ by site.
        p: the power.
        eps: ε.
        beta: β.
        world_size: ranks.

    Returns:
        The loss.
    """
    total = 0.0
    for values in penalised.values():
        for c in range(values.shape[1]):
            s = sum((float(value) + eps) ** p for value in values[:, c])
            total += s / len(values) * (1 + beta * math.log2(1 + s * world_size))
    return total


def faithfulness(weights: Mapping[str, tuple[Float[ndarray, "..."], ...]]) -> float:
    """Σ_sites ‖W − (V U)ᵀ‖²_F over the number of entries of all weights.

    Args:
        weights: W, V and U by site.

    Returns:
        The loss.
    """
    total, count = 0.0, 0
    for w, v, u in weights.values():
        for i, j in np.ndindex(*w.shape):
            total += (float(w[i, j]) - sum(float(v[j, c] * u[c, i]) for c in range(v.shape[1]))) ** 2
            count += 1
    return total / count
