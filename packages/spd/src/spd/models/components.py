"""Rank-one subcomponents of a weight, and the small networks that say how important each is for an input.

A weight W of shape (d_out, d_in) gets C subcomponents: column c of V (d_in, C) times row c of U (C, d_out). With input
a and masks m in [0, 1]^C the layer's output becomes

    y = ((a V) ⊙ m) U + d (a Δᵀ) + b,    Δ = W − (V U)ᵀ,

where what the components do not explain is one more component with a mask d of its own; gradients reach V and U
through it as well (Bushnaq, Braun, Sharkey, *Stochastic Parameter Decomposition*, 2025, arXiv:2506.20790). The second
term equals d (a Wᵀ) − d ((a V) U), so that

    y = ((a V) ⊙ (m − d)) U + d (a Wᵀ) + b

needs no matrix Δ and, where the layer's own output is known, no product with W: the *folded* form.

A causal-importance function makes z, one number for each component and position, from the components' inner activations
h = a V or from a itself. Its hidden layers end in GELU in the exact form. Shapes: N stands for any number of leading
axes of positions.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from spd.errors import ConfigError
from spd.kernels.ci_mlp import CiKernel, scalar_mlp, vector_mlp
from spd.models.layers import ParallelLinear, SharedLinear, gains, widths

__all__ = [
    "Components",
    "EmbeddingComponents",
    "Identity",
    "LinearComponents",
    "MLPCiFn",
    "TiedComponents",
    "VectorMLPCiFn",
    "VectorSharedMLPCiFn",
]


class Components(nn.Module):
    """Subcomponents of one weight.

    Args:
        rows: d_in, or for an embedding the vocabulary.
        columns: d_out.
        c: how many, C.
        bias: the layer's bias, which is copied, frozen and added unmasked.
        generator: draws V ~ N(0, 1/rows) and U ~ N(0, 1/C).

    Attributes:
        V: (rows, C).
        U: (C, columns).

    Raises:
        ConfigError: C below 1.
    """

    bias: Tensor | None

    def __init__(
        self,
        rows: int,
        columns: int,
        c: int,
        *,
        bias: Float[Tensor, " columns"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if c < 1:
            raise ConfigError(f"a weight is decomposed into at least one component; got C = {c}. Raise C.")
        self.C = c
        self.V = nn.Parameter(torch.randn(rows, c, generator=generator) / math.sqrt(rows))
        self.U = nn.Parameter(torch.randn(c, columns, generator=generator) / math.sqrt(c))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    @abstractmethod
    def weight(self) -> Float[Tensor, "..."]:
        """What all components add up to, in the form of the target's weight."""

    @abstractmethod
    def get_inner_acts(self, x: Shaped[Tensor, "..."]) -> Float[Tensor, "... C"]:
        """The inner activations h.

        Args:
            x: the layer's input.

        Returns:
            One number for each component and position.
        """

    @abstractmethod
    def fused_is_cheaper(self, x: Shaped[Tensor, "..."]) -> bool:
        """Whether `unmasked` takes fewer multiplications than the inner activations and then U.

        Args:
            x: the layer's input.

        Returns:
            The answer.
        """

    @abstractmethod
    def unmasked(self, x: Shaped[Tensor, "..."]) -> Float[Tensor, "... d_out"]:
        """The output with all masks 1 and without Δ, bias included.

        Args:
            x: the layer's input.

        Returns:
            The output.
        """

    @abstractmethod
    def delta_output(self, x: Shaped[Tensor, "..."], weight_delta: Float[Tensor, "..."]) -> Float[Tensor, "... d_out"]:
        """What Δ makes of an input.

        Args:
            x: the layer's input.
            weight_delta: Δ, in the form of the target's weight.

        Returns:
            a Δᵀ.
        """

    def from_inner_acts(
        self, h: Float[Tensor, "... C"], mask: Float[Tensor, "... C"] | None = None
    ) -> Float[Tensor, "... d_out"]:
        """(h ⊙ m) U, without the bias.

        Args:
            h: inner activations.
            mask: m; None = all ones.

        Returns:
            The components' part of the output.
        """
        return (h if mask is None else h * mask) @ self.U

    def forward(
        self,
        x: Shaped[Tensor, "..."],
        mask: Float[Tensor, "... C"] | None = None,
        weight_delta_and_mask: tuple[Float[Tensor, "..."], Float[Tensor, "..."]] | None = None,
    ) -> Float[Tensor, "... d_out"]:
        """The masked output, with Δ as a matrix of its own.

        Args:
            x: the layer's input.
            mask: m; None = all ones.
            weight_delta_and_mask: Δ and its mask d, one number a position; None leaves Δ out.

        Returns:
            y, bias included.
        """
        out = self.from_inner_acts(self.get_inner_acts(x), mask)
        if weight_delta_and_mask is not None:
            delta, delta_mask = weight_delta_and_mask
            out = out + delta_mask.unsqueeze(-1) * self.delta_output(x, delta)
        return out if self.bias is None else out + self.bias

    def folded(
        self,
        h: Float[Tensor, "... C"],
        mask: Float[Tensor, "... C"] | None,
        delta_mask: Float[Tensor, "..."],
        target_out: Float[Tensor, "... d_out"],
    ) -> Float[Tensor, "... d_out"]:
        """The same output from the target layer's own: (h ⊙ (m − d)) U + d (y₀ − b) + b, y₀ = a Wᵀ + b.

        Args:
            h: inner activations.
            mask: m; None = all ones.
            delta_mask: d.
            target_out: y₀, through which no gradient reaches V and U.

        Returns:
            y, bias included.
        """
        d = delta_mask.unsqueeze(-1)
        out = self.from_inner_acts(h, (1 if mask is None else mask) - d)
        if self.bias is None:
            return torch.addcmul(out, d.expand_as(out), target_out)
        return torch.addcmul(out + self.bias, d, target_out - self.bias)


class LinearComponents(Components):
    """Of a linear layer, whose weight is (d_out, d_in), or of a transposed one, whose weight is (d_in, d_out).

    Args:
        d_in: inputs.
        d_out: outputs.
        c: components.
        bias: the layer's bias.
        transposed: as in Hugging Face's `Conv1D`.
        generator: draws V and U.

    >>> components = LinearComponents(3, 2, 4, generator=torch.Generator().manual_seed(0))
    >>> x = torch.ones(5, 3)
    >>> torch.allclose(components(x), x @ components.weight.T)
    True
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        c: int,
        *,
        bias: Float[Tensor, " d_out"] | None = None,
        transposed: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(d_in, d_out, c, bias=bias, generator=generator)
        self.transposed = transposed

    @property
    def weight(self) -> Float[Tensor, "..."]:
        """(V U)ᵀ, or V U for a transposed layer."""
        product = self.V @ self.U
        return product if self.transposed else product.T

    def get_inner_acts(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... C"]:
        """Inner activations h = a V."""
        return x @ self.V

    def fused_is_cheaper(self, x: Float[Tensor, "... d_in"]) -> bool:
        """Whether a (V U) takes fewer multiplications than (a V) U for these N positions.

        That is where d_in d_out (C + N) < N C (d_in + d_out).

        >>> LinearComponents(5, 2, 20).fused_is_cheaper(torch.ones(4096, 5))
        True
        """
        (d_in, c), d_out = self.V.shape, self.U.shape[1]
        positions = x.numel() // d_in
        return d_in * d_out * (c + positions) < positions * c * (d_in + d_out)

    def unmasked(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """What all components make of an input, as one product with it: a (V U) + b."""
        return functional.linear(x, (self.V @ self.U).T, self.bias)

    def delta_output(self, x: Float[Tensor, "... d_in"], weight_delta: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What Δ makes of the input: a Δᵀ, or a Δ for a transposed layer."""
        return x @ (weight_delta if self.transposed else weight_delta.T)


class TiedComponents(LinearComponents):
    """Of a linear layer whose weight is another one's transpose: U is the other's Vᵀ, and V its Uᵀ.

    Args:
        other: whose parameters these are; they stay its own.
        bias: the layer's bias.

    >>> one = LinearComponents(5, 2, 3)
    >>> torch.equal(TiedComponents(one).weight, one.weight.T)
    True
    """

    def __init__(self, other: LinearComponents, *, bias: Float[Tensor, " d_out"] | None = None) -> None:
        nn.Module.__init__(self)
        self.C, self.transposed = other.C, other.transposed
        self._other = (other,)  # in a tuple, so that its parameters are counted once
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def V(self) -> Tensor:  # type: ignore[override]  # noqa: N802
        """(d_in, C)."""
        return self._other[0].U.T

    @property
    def U(self) -> Tensor:  # type: ignore[override]  # noqa: N802
        """(C, d_out)."""
        return self._other[0].V.T


class EmbeddingComponents(Components):
    """Of an embedding: h is a row of V, looked up by the token.

    Args:
        vocabulary: tokens.
        d_embedding: width.
        c: components.
        generator: draws V and U.

    >>> components = EmbeddingComponents(10, 4, 3)
    >>> tokens = torch.tensor([[1, 9]])
    >>> torch.allclose(components(tokens), components.weight[tokens])
    True
    """

    def __init__(self, vocabulary: int, d_embedding: int, c: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__(vocabulary, d_embedding, c, generator=generator)

    @property
    def weight(self) -> Float[Tensor, "vocabulary d_embedding"]:
        """V U."""
        return self.V @ self.U

    def fused_is_cheaper(self, x: Int[Tensor, "..."]) -> bool:
        """Never: a look-up of C numbers costs less than any product with the vocabulary."""
        return False

    def unmasked(self, x: Int[Tensor, "..."]) -> Float[Tensor, "... d_embedding"]:
        """What all components make of tokens."""
        return self.get_inner_acts(x) @ self.U

    def get_inner_acts(self, x: Int[Tensor, "..."]) -> Float[Tensor, "... C"]:
        """Inner activations h = V[token]."""
        return functional.embedding(x, self.V)

    def delta_output(
        self, x: Int[Tensor, "..."], weight_delta: Float[Tensor, "vocabulary d_embedding"]
    ) -> Float[Tensor, "... d_embedding"]:
        """Δ[token]."""
        return functional.embedding(x, weight_delta)


class Identity(nn.Module):
    """An operation that does nothing, with the weight that says so: it can be put before a module and decomposed.

    Args:
        d: width.

    >>> torch.equal(Identity(3)(torch.ones(2, 3)), torch.ones(2, 3))
    True
    """

    weight: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d
        self.register_buffer("weight", torch.eye(d), persistent=False)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The input itself."""
        return x


# --- causal importances -----------------------------------------------------------------------------------------------


class _CiFn(nn.Module):
    """Layers with GELU between them."""

    layers: nn.ModuleList

    def _run(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = functional.gelu(layer(x))
        return cast(Tensor, self.layers[-1](x))


class MLPCiFn(_CiFn):
    """A network for each component, which reads the component's inner activation alone.

    z_c = w2_c · gelu(w1_c h_c + b1_c) + b2_c for one hidden layer.

    Args:
        c: components.
        hidden_dims: widths of the hidden layers, at least one.
        kernel: how one hidden layer is computed, see `spd.kernels.ci_mlp`; more layers are always contracted.
        generator: draws the weights.

    Raises:
        ConfigError: no hidden layer, or one without units.

    >>> MLPCiFn(5, [8])(torch.ones(2, 5)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        c: int,
        hidden_dims: Sequence[int],
        *,
        kernel: CiKernel = "einsum",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_hidden(hidden_dims)
        self.kernel: CiKernel = kernel
        self.layers = nn.ModuleList(
            ParallelLinear(c, d_in, d_out, gain, generator)
            for (d_in, d_out), gain in zip(widths(1, hidden_dims, 1), gains(hidden_dims), strict=True)
        )

    def forward(self, x: Float[Tensor, "... C"]) -> Float[Tensor, "... C"]:
        """From inner activations h to z."""
        if self.kernel == "einsum" or len(self.layers) > 2:
            return self._run(x.unsqueeze(-1)).squeeze(-1)
        first, last = (cast(ParallelLinear, layer) for layer in self.layers)
        return scalar_mlp(x, first.W, first.b, last.W, last.b, self.kernel)


class VectorMLPCiFn(_CiFn):
    """A network for each component, which reads the layer's whole input.

    Args:
        c: components.
        input_dim: width of the layer's input.
        hidden_dims: widths of the hidden layers, at least one.
        kernel: "einsum" contracts as the original does; all others compute one hidden layer with all components side by
            side, see `spd.kernels.ci_mlp.vector_mlp`. More layers are always contracted.
        generator: draws the weights.

    Raises:
        ConfigError: no hidden layer, or one without units.

    >>> VectorMLPCiFn(5, 3, [8])(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        c: int,
        input_dim: int,
        hidden_dims: Sequence[int],
        *,
        kernel: CiKernel = "einsum",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_hidden(hidden_dims)
        self.kernel: CiKernel = kernel
        self.layers = nn.ModuleList(
            ParallelLinear(c, d_in, d_out, gain, generator)
            for (d_in, d_out), gain in zip(widths(input_dim, hidden_dims, 1), gains(hidden_dims), strict=True)
        )

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... C"]:
        """From the layer's input to z."""
        if self.kernel == "einsum" or len(self.layers) > 2:
            return self._run(x.unsqueeze(-2)).squeeze(-1)
        first, last = (cast(ParallelLinear, layer) for layer in self.layers)
        return vector_mlp(x, first.W, first.b, last.W, last.b)


class VectorSharedMLPCiFn(_CiFn):
    """One network with C outputs, which reads the layer's whole input.

    Args:
        c: components.
        input_dim: width of the layer's input.
        hidden_dims: widths of the hidden layers; none makes it one affine map.
        generator: draws the weights.

    Raises:
        ConfigError: a hidden layer without units.

    >>> VectorSharedMLPCiFn(5, 3, [])(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self, c: int, input_dim: int, hidden_dims: Sequence[int], *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SharedLinear(d_in, d_out, gain, generator)
            for (d_in, d_out), gain in zip(widths(input_dim, hidden_dims, c), gains(hidden_dims), strict=True)
        )

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... C"]:
        """From the layer's input to z."""
        return self._run(x)


def _check_hidden(hidden_dims: Sequence[int]) -> None:
    if not hidden_dims:
        raise ConfigError(
            "a network for each component has a hidden layer, since without one its importance would be a line in one "
            "number; hidden_dims is empty. Give a width, 16 for example, or use the shared kind."
        )
