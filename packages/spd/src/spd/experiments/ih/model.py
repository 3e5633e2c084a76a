"""A transformer of two attention layers that finds what followed a token the last time: an induction head.

An example is [BOS] T … T S M T … T S, and the answer is M. The first layer tells each token what stood before it, the
second one looks for the token that had S before it and copies it (Olsson et al., *In-context Learning and Induction
Heads*, 2022, arXiv:2209.11895). There are no MLPs, no norms and no biases, so that everything is in the four matrices
of each layer.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spd.data import mixed_seed
from spd.errors import ConfigError, DataError

__all__ = ["InductionBatches", "InductionTransformer", "induction_label", "sinusoids"]


def sinusoids(length: int, d: int) -> Float[Tensor, "length d"]:
    """Positions as sines and cosines: p[t, 2i] = sin(t ωᵢ), p[t, 2i + 1] = cos(t ωᵢ), ωᵢ = 10000^(−2i / d).

    Vaswani et al., *Attention Is All You Need*, 2017, arXiv:1706.03762.

    Args:
        length: positions.
        d: numbers of each, an even number.

    Returns:
        The table.

    >>> sinusoids(2, 2).tolist()[0]
    [0.0, 1.0]
    """
    rates = torch.exp(torch.arange(0, d, 2) * (-math.log(10_000.0) / d))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class Attention(nn.Module):
    """Causal attention whose queries and keys, but not values, are told the position.

    q = W_Q (x + p), k = W_K (x + p), v = W_V x, and W_O of the weighted mean (Press, Smith, Lewis, *Shortformer*, 2021,
    arXiv:2012.15832).

    Args:
        d_model: width of the stream.
        n_heads: heads, which share it.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch positions d"], where: Float[Tensor, "positions d"]
    ) -> Float[Tensor, "batch positions d"]:
        """What each position takes from itself and those before it."""
        placed = x + where
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in (self.q_proj(placed), self.k_proj(placed), self.v_proj(x))
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class InductionTransformer(nn.Module):
    """The network.

    Args:
        vocab_size: ordinary tokens, 0 … vocab_size − 1; BOS and S follow them.
        d_model: width of the stream.
        n_heads: attention heads of a layer.
        n_layers: layers.
        seq_len: longest example.
        last_only: give the logits of the last position alone, the one that the network is trained at.
        generator: draws the initial weights.

    Attributes:
        embed: of tokens.
        layers: the attention layers.
        unembed: from the stream to logits.

    Raises:
        ConfigError: sizes below 1, an odd width, or one that the heads do not share evenly.

    >>> InductionTransformer(8, 4, seq_len=6)(torch.zeros(3, 6, dtype=torch.int64)).shape
    torch.Size([3, 10])
    """

    positions: Tensor

    def __init__(
        self,
        vocab_size: int = 128,
        d_model: int = 16,
        n_heads: int = 1,
        n_layers: int = 2,
        seq_len: int = 64,
        *,
        last_only: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(vocab_size, d_model, n_heads, n_layers, seq_len) < 1 or d_model % 2 or d_model % n_heads:
            raise ConfigError(
                f"sizes are at least 1, and d_model is even and a multiple of n_heads; got vocab_size {vocab_size}, "
                f"d_model {d_model}, n_heads {n_heads}, n_layers {n_layers} and seq_len {seq_len}. Correct them."
            )
        self.last_only, self.seq_len = last_only, seq_len
        self.embed = nn.Embedding(vocab_size + 2, d_model)
        self.layers = nn.ModuleList(Attention(d_model, n_heads) for _ in range(n_layers))
        self.unembed = nn.Linear(d_model, vocab_size + 2, bias=False)
        # Made anew with each model: no part of its state.
        self.register_buffer("positions", sinusoids(seq_len, d_model), persistent=False)
        with torch.no_grad():
            for name, p in self.named_parameters():
                std = 1.0 if name.startswith("embed") else d_model**-0.5
                p.copy_(torch.randn(p.shape, generator=generator) * std)

    def forward(self, tokens: Int64[Tensor, "batch positions"]) -> Float[Tensor, "batch ... vocab"]:
        """Logits of what comes next, at the last position or at all.

        Raises:
            DataError: examples longer than the table of positions.
        """
        n = tokens.shape[1]
        if n > self.seq_len:
            raise DataError(f"an example has at most {self.seq_len} tokens; got {n}. Cut it.")
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x, self.positions[:n])
        return self.unembed(x[:, -1] if self.last_only else x)  # type: ignore[no-any-return]


class InductionBatches:
    """Examples [BOS] T … T S M T … T S; the tokens T and M are uniform, and so is the place of the first S.

    Args:
        vocab_size: ordinary tokens; BOS is the next number, S the one after it.
        batch_size: examples of a batch.
        seq_len: tokens of an example.
        prefix_window: the first S is among positions 1 … prefix_window; None = anywhere that leaves room for M.
        seed: of the stream.
        rank: which process of several, each with data of its own.

    Raises:
        DataError: examples too short for a pattern, or a window without a place in it.

    >>> tokens = InductionBatches(8, 2, seq_len=5, prefix_window=1).batch(0)
    >>> tokens[:, 0].tolist(), tokens[:, 1].tolist(), tokens[:, -1].tolist()
    ([8, 8], [9, 9], [9, 9])
    """

    def __init__(
        self,
        vocab_size: int = 128,
        batch_size: int = 1024,
        seq_len: int = 64,
        *,
        prefix_window: int | None = None,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.last = seq_len - 3 if prefix_window is None else min(prefix_window, seq_len - 3)
        if self.last < 1 or vocab_size < 1:
            raise DataError(
                f"an example is [BOS] T … S M T … S, at least 4 tokens long, and prefix_window is at least 1; got "
                f"seq_len {seq_len}, prefix_window {prefix_window} and vocab_size {vocab_size}. Raise them."
            )
        self.vocab_size, self.batch_size, self.seq_len = vocab_size, batch_size, seq_len
        self.seed, self.rank = seed, rank

    def batch(self, index: int) -> Int64[Tensor, "batch positions"]:
        """The batch with this index.

        Args:
            index: from 0.

        Returns:
            The tokens.
        """
        generator = torch.Generator().manual_seed(mixed_seed("induction", self.seed, self.rank, index))
        tokens = torch.randint(self.vocab_size, (self.batch_size, self.seq_len), generator=generator)
        first = torch.randint(1, self.last + 1, (self.batch_size, 1), generator=generator)
        tokens[:, 0] = self.vocab_size
        tokens.scatter_(1, first, self.vocab_size + 1)
        tokens[:, -1] = self.vocab_size + 1
        return tokens


def induction_label(tokens: Int64[Tensor, "batch positions"]) -> Int64[Tensor, " batch"]:
    """M of each example: what follows the first of the tokens that are equal to the last one.

    Args:
        tokens: from `InductionBatches`.

    Returns:
        The answers.

    >>> induction_label(torch.tensor([[8, 3, 9, 5, 1, 9]])).tolist()
    [5]
    """
    first = (tokens == tokens[:, -1:]).int().argmax(1, keepdim=True)
    return tokens.gather(1, first + 1).squeeze(1)
