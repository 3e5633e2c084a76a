"""A residual network that computes more functions than it has neurons.

x W_E puts n features into d dimensions along fixed random directions; each layer adds W_out relu(W_in r) to the
stream r; W_U = W_Eᵀ reads the features out again. The label is
x + relu(x) (Braun et al., *Interpretability in Parameter Space: Attribution-based Parameter Decomposition*, 2025,
arXiv:2501.14926).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from spd.errors import ConfigError

__all__ = ["MLP", "ResidMLP", "random_directions"]


def random_directions(n: int, d: int, seed: int) -> Float[Tensor, "n d"]:
    """Directions in all of space alike, the same to the last bit on any machine.

    A number is the sum of twelve uniform 16-bit integers about their mean, close to normal (Irwin and Hall, 1927); the
    integers are a raw bit stream's, and integer sums, one square root and one division round alike everywhere.

    Args:
        n: directions.
        d: dimensions.
        seed: of the bit stream, PCG64.

    Returns:
        Rows of length 1.

    >>> random_directions(3, 1000, 0).square().sum(1).sub(1).abs().max().item() < 1e-6
    True
    """
    bits = np.random.PCG64(seed).random_raw(n * d * 3)
    parts = (bits[:, None] >> np.arange(0, 64, 16, dtype=np.uint64)) & np.uint64(0xFFFF)
    # Twice the mean of a part is 65535.
    numbers = 2 * parts.astype(np.int64).reshape(n, d, 12).sum(-1) - 12 * 65_535
    lengths = np.sqrt((numbers**2).sum(1, keepdims=True).astype(np.float64))
    return torch.from_numpy((numbers / lengths).astype(np.float32))


class MLP(nn.Module):
    """W_out relu(W_in r), without biases.

    Args:
        d_embed: width of the stream.
        d_mlp: neurons.
    """

    def __init__(self, d_embed: int, d_mlp: int) -> None:
        super().__init__()
        self.mlp_in = nn.Linear(d_embed, d_mlp, bias=False)
        self.mlp_out = nn.Linear(d_mlp, d_embed, bias=False)

    def forward(self, x: Float[Tensor, "... d_embed"]) -> Float[Tensor, "... d_embed"]:
        """W_out relu(W_in r)."""
        return self.mlp_out(functional.relu(self.mlp_in(x)))  # type: ignore[no-any-return]


class ResidMLP(nn.Module):
    """The network.

    Args:
        n_features: numbers that come in and go out.
        d_embed: width of the stream.
        d_mlp: neurons of each layer.
        n_layers: layers.
        embedding_seed: of the fixed directions, see `random_directions`; None = drawn from the generator.
        generator: draws the initial weights.

    Attributes:
        W_E: (n_features, d_embed), fixed, rows of length 1.
        layers: the layers.

    Raises:
        ConfigError: sizes below 1.

    >>> ResidMLP(10, 20, 5, 2)(torch.ones(3, 10)).shape
    torch.Size([3, 10])
    """

    W_E: Tensor

    def __init__(
        self,
        n_features: int,
        d_embed: int,
        d_mlp: int,
        n_layers: int,
        *,
        embedding_seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(n_features, d_embed, d_mlp, n_layers) < 1:
            raise ConfigError(
                f"sizes are at least 1; got {n_features} features, {d_embed} dimensions, {d_mlp} neurons and "
                f"{n_layers} layers. Raise them."
            )
        if embedding_seed is None:
            directions = functional.normalize(torch.randn(n_features, d_embed, generator=generator))
        else:
            directions = random_directions(n_features, d_embed, embedding_seed)
        self.register_buffer("W_E", directions)
        self.layers = nn.ModuleList(MLP(d_embed, d_mlp) for _ in range(n_layers))
        with torch.no_grad():
            for weight in self.layers.parameters():
                weight.uniform_(-(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5, generator=generator)

    def forward(self, x: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
        """What is read out of the stream."""
        stream = x @ self.W_E
        for layer in self.layers:
            stream = stream + layer(stream)
        return stream @ self.W_E.T

    @staticmethod
    def label(x: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
        """What the network is trained to give, x + relu(x)."""
        return x + functional.relu(x)
