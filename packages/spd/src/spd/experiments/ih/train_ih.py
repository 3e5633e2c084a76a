"""Trains the two attention layers until they answer right."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from spd.config.base import Frozen
from spd.experiments.fitting import fit
from spd.experiments.ih.model import InductionBatches, InductionTransformer, induction_label

__all__ = ["IHTrainConfig", "evaluate_ih", "ih_figures", "train_ih"]


class IHTrainConfig(Frozen):
    """How a target is made.

    Args:
        vocab_size: ordinary tokens.
        d_model: width of the stream.
        n_heads: attention heads of a layer.
        n_layers: layers.
        seq_len: tokens of an example.
        prefix_window: where the first S may stand; None = anywhere.
        batch_size: examples of a step.
        steps: steps of AdamW at most.
        stop_at: training ends when so large a share of fresh examples is answered right.
        check_every: steps between two looks at that share.
        lr: the constant learning rate.
        weight_decay: its decoupled decay.
        seed: of weights and data.
    """

    vocab_size: int = 128
    d_model: int = 16
    n_heads: int = 1
    n_layers: int = 2
    seq_len: int = 64
    prefix_window: int | None = None
    batch_size: int = 1024
    steps: int = 100_000
    stop_at: float = 0.995
    check_every: int = 500
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0


def _data(config: IHTrainConfig) -> InductionBatches:
    return InductionBatches(
        config.vocab_size, config.batch_size, config.seq_len, prefix_window=config.prefix_window, seed=config.seed
    )


def evaluate_ih(model: InductionTransformer, data: InductionBatches, first: int, n: int) -> tuple[float, float]:
    """How well a network answers.

    Args:
        model: the network.
        data: where examples come from.
        first: index of the first batch.
        n: batches.

    Returns:
        The share of right answers, and the cross-entropy in nats.
    """
    right = entropy = 0.0
    with torch.no_grad():
        for i in range(n):
            tokens = data.batch(first + i)
            label = induction_label(tokens)
            logits = model(tokens)
            right += (logits.argmax(-1) == label).float().mean().item() / n
            entropy += functional.cross_entropy(logits, label).item() / n
    return right, entropy


def ih_figures(model: InductionTransformer, config: IHTrainConfig, n: int = 20) -> dict[str, float]:
    """How well a network answers on data that training never came to.

    Args:
        model: the network.
        config: how it was trained.
        n: batches.

    Returns:
        "accuracy", and "cross_entropy" in nats.
    """
    accuracy, entropy = evaluate_ih(model, _data(config), 2 * config.steps, n)
    return {"accuracy": accuracy, "cross_entropy": entropy}


def train_ih(
    config: IHTrainConfig, progress: Callable[[int, float], None] | None = None
) -> tuple[InductionTransformer, dict[str, float]]:
    """Trains a network.

    Args:
        config: how.
        progress: called now and then with the step and the loss.

    Returns:
        The network in evaluation mode, and figures: "accuracy" and "cross_entropy" (nats) over 20 fresh batches, and
        the "steps" that were taken.
    """
    model = InductionTransformer(
        config.vocab_size, config.d_model, config.n_heads, config.n_layers, config.seq_len,
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    data = _data(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)

    def loss_of(step: int) -> Tensor:
        tokens = data.batch(step)
        return functional.cross_entropy(model(tokens), induction_label(tokens))

    def done(taken: int) -> bool:
        # Batches from this index on are for looking; training never comes to them.
        looked_at = config.steps + taken - 1
        return taken % config.check_every == 0 and evaluate_ih(model, data, looked_at, 4)[0] >= config.stop_at

    taken = fit(optimizer, loss_of, config.steps, done=done, progress=progress)
    return model.eval(), ih_figures(model, config) | {"steps": float(taken)}
