"""Causal-importance functions that read the inputs of all sites at once and give the importances of all."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from spd.errors import ConfigError
from spd.models.components import VectorSharedMLPCiFn
from spd.models.layers import SharedLinear

__all__ = ["GlobalSharedMLPCiFn", "GlobalSharedTransformerCiFn"]

_EPS = 1e-6
_ROPE_BASE = 10_000.0


class GlobalSharedMLPCiFn(nn.Module):
    """All inputs side by side, in the order of the sites' names, through one network; its outputs split by site.

    Args:
        input_dims: width of each site's input, by name.
        cs: components of each site, by name.
        hidden_dims: widths of the hidden layers; none makes it one affine map.
        generator: draws the weights.

    >>> fn = GlobalSharedMLPCiFn({"a": 3, "b": 2}, {"a": 5, "b": 7}, [8])
    >>> {name: z.shape[-1] for name, z in fn({"a": torch.ones(4, 3), "b": torch.ones(4, 2)}).items()}
    {'a': 5, 'b': 7}
    """

    def __init__(
        self,
        input_dims: Mapping[str, int],
        cs: Mapping[str, int],
        hidden_dims: Sequence[int],
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.sites = tuple(sorted(cs))
        self.cs = [cs[name] for name in self.sites]
        width = sum(input_dims[name] for name in self.sites)
        self.mlp = VectorSharedMLPCiFn(sum(self.cs), width, hidden_dims, generator=generator)

    def forward(self, inputs: Mapping[str, Float[Tensor, "... _"]]) -> dict[str, Float[Tensor, "... _"]]:
        """From the inputs of all sites to z of all sites."""
        z = self.mlp(torch.cat([inputs[name] for name in self.sites], dim=-1))
        return dict(zip(self.sites, z.split(self.cs, dim=-1), strict=True))


class GlobalSharedTransformerCiFn(nn.Module):
    """A transformer over positions that looks both ways.

    Each site's input is divided by its root mean square; side by side they are mapped to d_model; blocks of
    x + attention(rms(x)) and x + MLP(rms(x)) follow, with rotary positions (Su et al., *RoFormer*, 2021,
    arXiv:2104.09864); a last map gives z of all sites. Inputs without an axis of positions get one of length 1.

    Args:
        input_dims: width of each site's input, by name.
        cs: components of each site, by name.
        d_model: width of the residual stream.
        n_blocks: blocks.
        n_heads: attention heads.
        d_mlp: width of the MLPs.
        generator: draws the weights.

    Raises:
        ConfigError: heads whose width is odd, or that do not divide d_model.

    >>> fn = GlobalSharedTransformerCiFn({"a": 3}, {"a": 5}, d_model=8, n_blocks=1, n_heads=2, d_mlp=16)
    >>> fn({"a": torch.ones(2, 6, 3)})["a"].shape, fn({"a": torch.ones(2, 3)})["a"].shape
    (torch.Size([2, 6, 5]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        input_dims: Mapping[str, int],
        cs: Mapping[str, int],
        *,
        d_model: int,
        n_blocks: int,
        n_heads: int,
        d_mlp: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise ConfigError(
                f"rotary positions turn pairs of numbers within a head: d_model is a multiple of 2 n_heads; got "
                f"{d_model} and {n_heads}. Choose another width or number of heads."
            )
        self.sites = tuple(sorted(cs))
        self.cs = [cs[name] for name in self.sites]
        width = sum(input_dims[name] for name in self.sites)
        self.read = SharedLinear(width, d_model, 1.0, generator)
        self.blocks = nn.ModuleList(_Block(d_model, n_heads, d_mlp, generator) for _ in range(n_blocks))
        self.write = SharedLinear(d_model, sum(self.cs), 1.0, generator)

    def forward(self, inputs: Mapping[str, Float[Tensor, "... _"]]) -> dict[str, Float[Tensor, "... _"]]:
        """From the inputs of all sites to z of all sites."""
        whole = torch.cat([_rms(inputs[name]) for name in self.sites], dim=-1)
        x = self.read(whole.unsqueeze(-2) if whole.dim() == 2 else whole)
        for block in self.blocks:
            x = block(x)
        z = self.write(x)
        z = z.squeeze(-2) if whole.dim() == 2 else z
        return dict(zip(self.sites, z.split(self.cs, dim=-1), strict=True))


class _Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_mlp: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = SharedLinear(d_model, 3 * d_model, 1.0, generator)
        self.out = SharedLinear(d_model, d_model, 1.0, generator)
        self.up = SharedLinear(d_model, d_mlp, 2**0.5, generator)
        self.down = SharedLinear(d_mlp, d_model, 1.0, generator)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(-2, -3) for part in self.qkv(_rms(x)).chunk(3, dim=-1)
        )
        seen = functional.scaled_dot_product_attention(_turned(q), _turned(k), v)
        x = x + self.out(seen.transpose(-2, -3).flatten(-2))
        return x + self.down(functional.gelu(self.up(_rms(x))))  # type: ignore[no-any-return]


def _rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPS)


def _turned(x: Tensor) -> Tensor:
    """Pairs (i, i + d/2) of each head turned by the position times a frequency of their own."""
    positions, half = x.shape[-2], x.shape[-1] // 2
    frequency = _ROPE_BASE ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angle = torch.arange(positions, device=x.device, dtype=x.dtype).unsqueeze(-1) * frequency
    a, b = x.split(half, dim=-1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
