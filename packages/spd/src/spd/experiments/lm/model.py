"""A small decoder-only transformer for language: RMS norms, rotary positions, plain linear layers.

Each block is r += W_O attention(norm(r)), r += W_down gelu(W_fc norm(r)), with the names that larger models of this
form have, so that the same patterns choose its modules. Norms: Zhang & Sennrich, *Root Mean Square Layer
Normalization*, 2019, arXiv:1910.07467. Positions: Su et al., *RoFormer*, 2021, arXiv:2104.09864.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from spd.errors import ConfigError

__all__ = ["SimpleLM", "rotated"]


def rotated(x: Float[Tensor, "batch heads positions d"]) -> Float[Tensor, "batch heads positions d"]:
    """Turns number i and number i + d/2 of each vector by the angle t · 10000^(−2i / d) at position t.

    Args:
        x: queries or keys, of even length.

    Returns:
        The same vectors, turned: the product of two depends on how far apart they are.
    """
    half = x.shape[-1] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32).unsqueeze(1) * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    one, other = x[..., :half], x[..., half:]
    return torch.cat((one * cos - other * sin, one * sin + other * cos), dim=-1)


class Attention(nn.Module):
    """Causal attention.

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

    def forward(self, x: Float[Tensor, "batch positions d"]) -> Float[Tensor, "batch positions d"]:
        """What each position takes from itself and those before it."""
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        mixed = functional.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """W_down gelu(W_fc x).

    Args:
        d_model: width of the stream.
        d_mlp: neurons.
    """

    def __init__(self, d_model: int, d_mlp: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, d_mlp, bias=False)
        self.down_proj = nn.Linear(d_mlp, d_model, bias=False)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """W_down gelu(W_fc x)."""
        return self.down_proj(functional.gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then an MLP, each on a norm of the stream and added to it.

    Args:
        d_model: width of the stream.
        n_heads: heads.
        d_mlp: neurons.
    """

    def __init__(self, d_model: int, n_heads: int, d_mlp: int) -> None:
        super().__init__()
        self.rms_1 = nn.RMSNorm(d_model, eps=1e-6)
        self.attn = Attention(d_model, n_heads)
        self.rms_2 = nn.RMSNorm(d_model, eps=1e-6)
        self.mlp = MLP(d_model, d_mlp)

    def forward(self, x: Float[Tensor, "batch positions d"]) -> Float[Tensor, "batch positions d"]:
        """The stream after this block."""
        x = x + self.attn(self.rms_1(x))
        return x + self.mlp(self.rms_2(x))  # type: ignore[no-any-return]


class SimpleLM(nn.Module):
    """The network.

    Args:
        vocab_size: tokens.
        d_model: width of the stream.
        n_heads: attention heads; d_model is a multiple of twice their number.
        d_mlp: neurons of a block.
        n_layers: blocks.
        generator: draws the initial weights: N(0, 0.02²), for what is added to the stream over √(2 · n_layers).

    Attributes:
        wte: embedding of tokens.
        h: the blocks, with `attn.q_proj`, `attn.k_proj`, `attn.v_proj`, `attn.o_proj`, `mlp.c_fc`, `mlp.down_proj`.
        rms_f: the last norm.
        lm_head: from the stream to logits; not tied to the embedding.

    Raises:
        ConfigError: sizes below 1, or heads that do not share the stream in even parts.

    >>> model = SimpleLM(vocab_size=11, d_model=8, n_heads=2, d_mlp=16, n_layers=2)
    >>> model(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 5, 11])
    >>> sum(isinstance(module, nn.Linear) for module in model.h.modules())
    12
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 48,
        n_heads: int = 4,
        d_mlp: int = 96,
        n_layers: int = 2,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(vocab_size, d_model, n_heads, d_mlp, n_layers) < 1 or d_model % (2 * n_heads):
            raise ConfigError(
                f"sizes are at least 1, and d_model is a multiple of 2 · n_heads; got vocab_size {vocab_size}, d_model "
                f"{d_model}, n_heads {n_heads}, d_mlp {d_mlp} and n_layers {n_layers}. Correct them."
            )
        self.wte = nn.Embedding(vocab_size, d_model)
        self.h = nn.ModuleList(Block(d_model, n_heads, d_mlp) for _ in range(n_layers))
        self.rms_f = nn.RMSNorm(d_model, eps=1e-6)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p.dim() == 2:
                    added = name.endswith(("o_proj.weight", "down_proj.weight"))
                    std = 0.02 * (2 * n_layers) ** -0.5 if added else 0.02
                    p.copy_(torch.randn(p.shape, generator=generator) * std)

    def forward(self, tokens: Int64[Tensor, "batch positions"]) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the token after each position."""
        x = self.wte(tokens)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.rms_f(x))  # type: ignore[no-any-return]
