"""Trains the small transformer on characters."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from spd.config.base import Frozen
from spd.config.schedules import LrSchedule
from spd.experiments.fitting import fit, round_to_half
from spd.experiments.lm.model import SimpleLM
from spd.experiments.lm.text import VOCAB_SIZE, Split, TextBatches, python_text

__all__ = ["TextTrainConfig", "bits_per_character", "next_token_loss", "text_figures", "train_text", "unigram_bits"]


class TextTrainConfig(Frozen):
    """How a target is made.

    Args:
        d_model: width of the stream.
        n_heads: attention heads.
        d_mlp: neurons of a block.
        n_layers: blocks.
        seq_len: characters of an example.
        batch_size: examples of a step.
        steps: steps of AdamW.
        lr: its learning rate, which rises over a fiftieth of the steps and falls to 0 as half a cosine.
        weight_decay: its decoupled decay.
        seed: of weights and data.
    """

    d_model: int = 48
    n_heads: int = 4
    d_mlp: int = 96
    n_layers: int = 2
    seq_len: int = 128
    batch_size: int = 16
    steps: int = 5_000
    lr: float = 5e-3
    weight_decay: float = 0.01
    seed: int = 0


def next_token_loss(model: SimpleLM, tokens: Tensor) -> Float[Tensor, ""]:
    """Mean cross-entropy of each token after the first, in nats.

    Args:
        model: the network.
        tokens: examples.

    Returns:
        The loss.
    """
    logits = model(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def bits_per_character(model: SimpleLM, seq_len: int, split: Split = "held_out") -> float:
    """Mean cross-entropy over a whole part of the text, cut into examples, in bits.

    Args:
        model: the network.
        seq_len: characters of an example; the first of each is not predicted.
        split: which part.

    Returns:
        Bits for each character.
    """
    text = python_text(split)
    rows = text[: len(text) // seq_len * seq_len].unflatten(0, (-1, seq_len))
    with torch.no_grad():
        nats = [next_token_loss(model, part).item() * len(part) for part in rows.split(64)]
    return sum(nats) / len(rows) / math.log(2)


def unigram_bits() -> float:
    """What a model without context would need: held-out cross-entropy of the training text's frequencies, in bits.

    Each character counts once more than it occurs, so that none has no chance at all.
    """
    counts = torch.bincount(python_text("train"), minlength=VOCAB_SIZE).double() + 1
    return -(counts / counts.sum()).log2()[python_text("held_out")].mean().item()


def text_figures(model: SimpleLM, config: TextTrainConfig) -> dict[str, float]:
    """How well a network foretells the held-out text.

    Args:
        model: the network.
        config: how it was trained.

    Returns:
        "bits_per_character", and "unigram_bits" to compare with.
    """
    return {"bits_per_character": bits_per_character(model, config.seq_len), "unigram_bits": unigram_bits()}


def train_text(
    config: TextTrainConfig, progress: Callable[[int, float], None] | None = None
) -> tuple[SimpleLM, dict[str, float]]:
    """Trains a network.

    Args:
        config: how.
        progress: called now and then with the step and the loss.

    Returns:
        The network in evaluation mode, its weights rounded to float16's numbers, and figures on the held-out text:
        "bits_per_character", and "unigram_bits" to compare with.
    """
    model = SimpleLM(
        VOCAB_SIZE, config.d_model, config.n_heads, config.d_mlp, config.n_layers,
        generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip
    data = TextBatches(config.batch_size, config.seq_len, seed=config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99), fused=True
    )
    schedule = LrSchedule(start_val=config.lr, warmup_pct=0.02, fn_type="cosine")
    fit(
        optimizer, lambda step: next_token_loss(model, data.batch(step)), config.steps, schedule=schedule, clip=1.0,
        progress=progress,
    )  # fmt: skip
    model.eval()
    round_to_half(model)
    return model, text_figures(model, config)
