"""Trains the residual network to give x + relu(x)."""

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from spd.config.base import Frozen
from spd.config.schedules import LrSchedule
from spd.data import SparseFeatures
from spd.experiments.fitting import fit, round_to_half
from spd.experiments.resid_mlp.model import MLP, ResidMLP

__all__ = ["ResidMLPTrainConfig", "folded_output", "resid_mlp_loss", "train_resid_mlp"]


class ResidMLPTrainConfig(Frozen):
    """How a target is made.

    Args:
        n_features: numbers that come in and go out.
        d_embed: width of the stream.
        d_mlp: neurons of each layer.
        n_layers: layers.
        feature_probability: chance that a feature is active.
        batch_size: vectors of a step.
        steps: steps of AdamW.
        lr: its learning rate, which falls to 0 as a quarter of a cosine.
        weight_decay: its decoupled decay.
        seed: of directions, weights and data.
    """

    n_features: int = 100
    d_embed: int = 1000
    d_mlp: int = 50
    n_layers: int = 1
    feature_probability: float = 0.01
    batch_size: int = 2048
    steps: int = 1000
    lr: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0


def _data(config: ResidMLPTrainConfig) -> SparseFeatures:
    return SparseFeatures(
        config.n_features, config.batch_size, config.feature_probability, value_range=(-1.0, 1.0), seed=config.seed
    )


def resid_mlp_loss(model: ResidMLP, config: ResidMLPTrainConfig, n: int = 100) -> float:
    """Mean squared error on data that training never came to.

    Args:
        model: the network.
        config: how it was trained.
        n: batches.

    Returns:
        The error.
    """
    data = _data(config)
    with torch.no_grad():
        fresh = (data.batch(config.steps + i) for i in range(n))
        return sum((folded_output(model, x) - model.label(x)).square().mean().item() for x in fresh) / n


def folded_output(model: ResidMLP, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """The network's output without its wide stream: the matrices that meet in it are multiplied first.

    With hᵢ the neurons of layer i they read x W_E W_inᵀ + Σ_{j<i} hⱼ W_outⱼᵀ W_inᵢᵀ, and the output is
    x W_E W_Eᵀ + Σᵢ hᵢ W_outᵢᵀ W_Eᵀ: a tenth of the work where a batch is larger than the stream is wide.

    Args:
        model: the network.
        x: its input.

    Returns:
        The same numbers as its own, up to rounding.
    """
    parts, writers = [x], [model.W_E]
    for layer in cast(Iterable[MLP], model.layers):
        parts.append(torch.relu(_read(parts, writers, layer.mlp_in.weight.T)))
        writers.append(layer.mlp_out.weight.T)
    return _read(parts, writers, model.W_E.T)


def _read(parts: Sequence[Tensor], writers: Sequence[Tensor], reader: Tensor) -> Tensor:
    """What a matrix reads of a stream into which each part was written by its own."""
    read = parts[0] @ (writers[0] @ reader)
    for part, writer in zip(parts[1:], writers[1:], strict=True):
        read = read + part @ (writer @ reader)
    return read


def train_resid_mlp(
    config: ResidMLPTrainConfig, progress: Callable[[int, float], None] | None = None
) -> tuple[ResidMLP, dict[str, float]]:
    """Trains a network.

    Args:
        config: how.
        progress: called now and then with the step and the loss.

    Returns:
        The network in evaluation mode, its weights rounded to float16's numbers, and its "loss" on fresh data.
    """
    model = ResidMLP(
        config.n_features, config.d_embed, config.d_mlp, config.n_layers, embedding_seed=config.seed,
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    data = _data(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    schedule = LrSchedule(start_val=config.lr, fn_type="quarter_cosine")

    def loss_of(step: int) -> Tensor:
        x = data.batch(step)
        return (folded_output(model, x) - model.label(x)).square().mean()

    fit(optimizer, loss_of, config.steps, schedule=schedule, progress=progress)
    exact = resid_mlp_loss(model, config)
    round_to_half(model)
    return model.eval(), {"loss": resid_mlp_loss(model, config), "loss_before_rounding": exact}
