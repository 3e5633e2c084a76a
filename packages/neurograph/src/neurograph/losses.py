"""Scores of classes, their loss, and its gradient in closed form.

A network's answer is compared with one code per class by the cosine; the cosines, scaled, are the logits of a softmax.
Two forms of it are here. The *read-out* form takes all output nodes as one long vector against long codes. The
*per-node* form, the original's, takes the mean over the output nodes of each node's cosine with a short class vector.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

from neurograph.errors import ConfigError, DataError

__all__ = [
    "NORM_FLOOR",
    "AdaptiveTemperature",
    "check_labels",
    "classification_loss",
    "cosine_logits",
    "mean_cosine_logits",
    "output_gradient",
    "readout_gradient",
    "soft_targets",
    "top_k_accuracy",
]

# A vector that is no longer than this has no direction: its cosine with anything is 0, and so is its gradient. (A blank
# sample gives a read-out of zeros; a gradient that grows as 1 / |r| would drown the rest of its batch.)
NORM_FLOOR = 1e-6


def check_labels(labels: Int[Tensor, "batch"], n_classes: int) -> None:
    """Refuses labels that name no class.

    Args:
        labels: class numbers.
        n_classes: C; the classes are 0 … C − 1.

    Raises:
        DataError: no labels, or one outside.

    >>> check_labels(torch.tensor([0, 9]), 10)
    """
    _check_some(labels)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise DataError(
            f"labels are class numbers from 0 to {n_classes - 1}; got {wrong}. Number the classes from 0, "
            f"or build the network for more classes."
        )


def cosine_logits(
    readout: Float[Tensor, "batch length"], codes: Float[Tensor, "classes length"], scale: int | float = 12.0
) -> Float[Tensor, "batch classes"]:
    """Logits s · cos(r, c_k) of a read-out r with each class's code c_k.

    Args:
        readout: r, the output nodes' real parts in one row a sample.
        codes: c_k, one row a class.
        scale: s, how sharp the softmax may become: the logits lie in [−s, s].

    Returns:
        The logits.

    >>> cosine_logits(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.0]]), scale=10).round(decimals=3)
    tensor([[  7.0710, -10.0000]])
    """
    return (_unit(readout)[0] @ _unit(codes)[0].T.to(readout)) * scale


def mean_cosine_logits(
    outputs: Float[Tensor, "batch nodes dim"],
    codes: Float[Tensor, "classes dim"],
    scale: int | float = 1.0,
    weights: Float[Tensor, " weights"] | None = None,
) -> Float[Tensor, "batch classes"]:
    """The original's logits: s · Σ_n a_n cos(u_n, v_k) / Σ_n a_n over the output nodes n.

    Args:
        outputs: u_n, one signal vector a node.
        codes: v_k, one signal vector a class.
        scale: s.
        weights: a_n, how much each node counts; all alike where not given.

    Returns:
        The logits.

    Raises:
        ConfigError: weights that are negative, all zero, or not one a node.
    """
    shares = _shares(outputs, weights)
    return torch.einsum("bnd,kd,n->bk", _unit(outputs)[0], _unit(codes)[0].to(outputs), shares) * scale


def soft_targets(
    labels: Int[Tensor, "batch"], n_classes: int, label_smoothing: int | float = 0.0, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "batch classes"]:
    """Target probabilities (1 − ε)·1[k = y] + ε / C.

    Args:
        labels: y.
        n_classes: C.
        label_smoothing: ε.
        dtype: of the probabilities.

    Returns:
        One row a sample, its sum one.

    Raises:
        ConfigError: a smoothing outside [0, 1).
        DataError: no labels, or one that names no class.

    >>> soft_targets(torch.tensor([1]), 2, 0.2)
    tensor([[0.1000, 0.9000]])
    """
    _check_softness(1.0, label_smoothing)
    check_labels(labels, n_classes)
    hard = F.one_hot(labels.long(), n_classes).to(dtype)
    return hard * (1 - label_smoothing) + label_smoothing / n_classes


def classification_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, "batch"],
    *,
    temperature: int | float = 1.0,
    label_smoothing: int | float = 0.0,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of softmax(logits / T) with the smoothed labels.

    Args:
        logits: one row a sample.
        labels: class numbers.
        temperature: T > 0.
        label_smoothing: ε in [0, 1): this share of the target is spread over all classes.

    Returns:
        The loss. Labels are taken as they are; :func:`check_labels` says whether they name classes.

    Raises:
        ConfigError: a temperature that is not positive, or a smoothing outside [0, 1).
        DataError: no labels.

    >>> round(float(classification_loss(torch.zeros(1, 10), torch.tensor([3]))), 4)  # ln 10
    2.3026
    """
    _check_softness(temperature, label_smoothing)
    _check_some(labels)
    return F.cross_entropy(logits / temperature, labels.long(), label_smoothing=float(label_smoothing))


def output_gradient(
    outputs: Float[Tensor, "batch nodes dim"],
    codes: Float[Tensor, "classes dim"],
    labels: Int[Tensor, "batch"],
    *,
    scale: int | float = 1.0,
    temperature: int | float = 1.0,
    label_smoothing: int | float = 0.0,
    weights: Float[Tensor, " weights"] | None = None,
) -> Float[Tensor, "batch nodes dim"]:
    """Gradient of the mean loss with respect to the output nodes' signals, in closed form.

    With q = softmax(logits / T), t the target probabilities, B samples and a_n the nodes' shares::

        w_k     = (q_k − t_k) · s · a_n / (T · B)
        dL/du_n = Σ_k w_k · ( v_k / (|u_n| |v_k|)  −  u_n (u_n · v_k) / (|u_n|³ |v_k|) )

    The original put the constant 1 / C in the place of w_k. That drops both the label and the prediction, so that its
    gradient could not tell one class from another.

    Args:
        outputs: u_n.
        codes: v_k.
        labels: y.
        scale: s.
        temperature: T.
        label_smoothing: ε.
        weights: a_n before they are divided by their sum.

    Returns:
        dL/du.

    Raises:
        ConfigError: a temperature or smoothing that :func:`classification_loss` refuses, or weights that
            :func:`mean_cosine_logits` does.
        DataError: no labels, or one that names no class.
    """
    _check_some(labels)
    _check_softness(temperature, label_smoothing)
    shares = _shares(outputs, weights)
    unit, inverse = _unit(outputs)
    directions = _unit(codes)[0].to(outputs)
    cosines = torch.einsum("bnd,kd->bnk", unit, directions)
    logits = torch.einsum("bnk,n->bk", cosines, shares) * scale
    targets = soft_targets(labels, len(codes), label_smoothing, logits.dtype)
    wanting = (torch.softmax(logits / temperature, dim=1) - targets) * (scale / (temperature * len(labels)))
    towards = (wanting @ directions)[:, None, :]
    along = torch.einsum("bk,bnk->bn", wanting, cosines)[..., None] * unit
    return (towards - along) * inverse * shares[:, None]


def readout_gradient(
    readout: Float[Tensor, "batch length"],
    codes: Float[Tensor, "classes length"],
    labels: Int[Tensor, "batch"],
    *,
    scale: int | float = 12.0,
    temperature: int | float = 1.0,
    label_smoothing: int | float = 0.0,
) -> Float[Tensor, "batch length"]:
    """:func:`output_gradient` of the read-out form: all output nodes are one long vector.

    Args:
        readout: r.
        codes: c_k.
        labels: y.
        scale: s.
        temperature: T.
        label_smoothing: ε.

    Returns:
        dL/dr.

    Raises:
        ConfigError: a temperature or smoothing that :func:`classification_loss` refuses.
        DataError: no labels, or one that names no class.
    """
    return output_gradient(
        readout[:, None, :], codes, labels, scale=scale, temperature=temperature, label_smoothing=label_smoothing
    )[:, 0]


def top_k_accuracy(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], k: int = 1) -> float:
    """Share of the samples whose class is among the k largest logits.

    Args:
        logits: one row a sample.
        labels: class numbers.
        k: from 1 to C.

    Returns:
        From 0 to 1.

    Raises:
        ConfigError: k outside 1 … C.
        DataError: no labels.

    >>> top_k_accuracy(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([2, 0]), k=1)
    0.5
    """
    if not 1 <= k <= logits.shape[1]:
        raise ConfigError(f"k is from 1 to the {logits.shape[1]} classes; got {k}. Give 1 for plain accuracy.")
    _check_some(labels)
    best = logits.topk(k, dim=1).indices
    return float((best == labels[:, None]).any(dim=1).double().mean())


@dataclass
class AdaptiveTemperature:
    """A temperature that holds the mean confidence near a target.

    After each batch log T moves by rate · (mean_b max_k q_k − target): too sure, and T rises.

    Attributes:
        target: the mean largest probability that is wanted.
        rate: how fast.
        low: smallest T.
        high: largest T.
        value: T now.

    Raises:
        ConfigError: a target outside (0, 1), a rate that is not positive, or temperatures that are not
            0 < low ≤ value ≤ high.

    >>> temperature = AdaptiveTemperature(target=0.5, rate=1.0)
    >>> temperature.update(torch.tensor([[100.0, 0.0]])) > 1  # as sure as can be
    True
    """

    target: float = 0.9
    rate: float = 0.05
    low: float = 0.1
    high: float = 10.0
    value: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.target < 1 and self.rate > 0 and 0 < self.low <= self.value <= self.high < math.inf):
            raise ConfigError(
                f"a temperature adapts at a positive rate to a confidence between 0 and 1, within 0 < low ≤ value ≤ "
                f"high; got {self}. Correct it."
            )

    def update(self, logits: Float[Tensor, "batch classes"]) -> float:
        """Moves the temperature by what a batch shows.

        Args:
            logits: of the batch, before any temperature.

        Returns:
            The new T.
        """
        confidence = float(torch.softmax(logits.detach() / self.value, dim=1).amax(dim=1).mean())
        moved = self.value * math.exp(self.rate * (confidence - self.target))
        self.value = min(max(moved, self.low), self.high)
        return self.value


def _check_some(labels: Tensor) -> None:
    if labels.numel() == 0:
        raise DataError("at least one label is needed; got none. Give one class number for each sample.")


def _unit(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors of length one (or zero), and what they were multiplied by."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    inverse = torch.where(norms > NORM_FLOOR, 1 / norms.clamp_min(NORM_FLOOR), 0)
    return vectors * inverse, inverse


def _check_softness(temperature: int | float, label_smoothing: int | float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"the temperature is a positive number; got {temperature}. Give 1.0 for none.")
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"label smoothing is from 0 to below 1; got {label_smoothing}. Give 0.0 for none.")


def _shares(outputs: Tensor, weights: Tensor | None) -> Tensor:
    n = outputs.shape[1]
    if weights is None:
        return outputs.new_full((n,), 1 / n)
    if len(weights) != n or bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise ConfigError(
            f"each of {n} output nodes has a weight, none is negative and not all are zero; got {weights.tolist()}. "
            f"Give ones to count all nodes alike."
        )
    return (weights / weights.sum()).to(outputs)
