"""The target of the language cases: the plainest transformer in GPT-2's form, which the note's settings name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PlainGPT"]


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.o_proj, self.c_fc, self.down_proj = (
            nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        read = self.ln_1(x)
        q, k, v = (
            site(read).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for site in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(mixed.transpose(1, 2).flatten(2))
        return x + self.down_proj(functional.gelu(self.c_fc(self.ln_2(x))))  # type: ignore[no-any-return]


class PlainGPT(nn.Module):
    """Six linear layers a block, learned positions, layer norms.

    Args:
        vocabulary: Tokens.
        positions: Longest sequence.
        width: Of the stream.
        layers: Blocks.
        heads: Of attention.
        generator: Draws all matrices from N(0, 0.02²); biases are 0.
    """

    def __init__(
        self, vocabulary: int, positions: int, width: int, layers: int, heads: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.h = nn.ModuleList(_Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
                elif name.endswith("bias"):
                    parameter.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))  # type: ignore[no-any-return]
