"""Trains the toy model of superposition to give |x| for its features."""

from collections.abc import Callable

import torch
from torch import Tensor

from spd.config.base import Frozen
from spd.data import SparseFeatures
from spd.experiments.fitting import fit
from spd.experiments.tms.model import TMSModel

__all__ = ["TMSTrainConfig", "tms_loss", "train_tms"]


class TMSTrainConfig(Frozen):
    """How a target is made.

    Args:
        n_features: numbers that come in and go out.
        n_hidden: dimensions between.
        n_hidden_layers: frozen identities in the middle.
        zero_bias: start the output's bias at 0. The published model of five features did not; with some seeds an output
            then starts below 0 for every input and never learns.
        feature_probability: chance that a feature is active.
        batch_size: vectors of a step.
        steps: steps of AdamW.
        lr: its constant learning rate.
        weight_decay: its decoupled decay.
        seed: of weights and data.
    """

    n_features: int = 5
    n_hidden: int = 2
    n_hidden_layers: int = 0
    zero_bias: bool = False
    feature_probability: float = 0.05
    batch_size: int = 1024
    steps: int = 10_000
    lr: float = 5e-3
    weight_decay: float = 0.01
    seed: int = 0


def tms_loss(model: TMSModel, config: TMSTrainConfig, n: int = 100) -> float:
    """Mean squared error on data that training never came to.

    Args:
        model: the model, in evaluation mode.
        config: how it was trained.
        n: batches.

    Returns:
        The error.
    """
    data = SparseFeatures(config.n_features, config.batch_size, config.feature_probability, seed=config.seed)
    with torch.no_grad():
        fresh = (data.batch(config.steps + i) for i in range(n))
        return sum((model(x) - x.abs()).square().mean().item() for x in fresh) / n


def train_tms(config: TMSTrainConfig, progress: Callable[[int, float], None] | None = None) -> tuple[TMSModel, float]:
    """Trains a model.

    Args:
        config: how.
        progress: called now and then with the step and the loss.

    Returns:
        The model in evaluation mode, and its mean squared error on fresh data.
    """
    model = TMSModel(
        config.n_features, config.n_hidden, n_hidden_layers=config.n_hidden_layers, zero_bias=config.zero_bias,
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    data = SparseFeatures(config.n_features, config.batch_size, config.feature_probability, seed=config.seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    model.train()

    def loss_of(step: int) -> Tensor:
        x = data.batch(step)
        return (model(x) - x.abs()).square().mean()

    fit(optimizer, loss_of, config.steps, progress=progress)
    model.eval()
    return model, tms_loss(model, config)
