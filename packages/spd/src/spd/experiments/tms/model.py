"""The toy model of superposition: more features than dimensions, packed as far apart as they go.

out = relu(W2 (…) W1 x + b) with W2 = W1ᵀ (Elhage et al., *Toy Models of Superposition*, 2022, arXiv:2209.10652). With
five features in two dimensions the columns of W1 form a regular pentagon. Frozen identities may be put between the two
layers, whose weight then holds all directions equally.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from spd.errors import ConfigError

__all__ = ["TMSModel"]


class TMSModel(nn.Module):
    """The model.

    Args:
        n_features: numbers that come in and go out.
        n_hidden: dimensions between.
        n_hidden_layers: square layers in the middle, frozen identities.
        zero_bias: start the output's bias at 0; else U(−1/√n_hidden, 1/√n_hidden).
        generator: draws the initial parameters.

    Attributes:
        linear1: W1, without bias.
        linear2: W2 = W1ᵀ, which shares W1's storage, and the bias. While the model trains, gradients of both uses reach
            W1; in evaluation mode linear2 runs as a layer of its own, which can be decomposed.
        hidden_layers: the square layers.

    Raises:
        ConfigError: sizes below 1.

    >>> TMSModel(5, 2)(torch.ones(3, 5)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        n_features: int,
        n_hidden: int,
        *,
        n_hidden_layers: int = 0,
        zero_bias: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(n_features, n_hidden) < 1 or n_hidden_layers < 0:
            raise ConfigError(
                f"a model has at least one feature and one dimension; got {n_features}, {n_hidden} and "
                f"{n_hidden_layers} hidden layers. Raise them."
            )
        self.linear1 = nn.Linear(n_features, n_hidden, bias=False)
        self.linear2 = nn.Linear(n_hidden, n_features)
        self.hidden_layers = nn.ModuleList(nn.Linear(n_hidden, n_hidden, bias=False) for _ in range(n_hidden_layers))
        with torch.no_grad():
            # As torch starts a linear layer: U(±1/√fan-in).
            self.linear1.weight.uniform_(-(n_features**-0.5), n_features**-0.5, generator=generator)
            self.linear2.bias.uniform_(-(n_hidden**-0.5), n_hidden**-0.5, generator=generator)
            if zero_bias:
                self.linear2.bias.zero_()
            for layer in self.hidden_layers:
                layer.weight.copy_(torch.eye(n_hidden))  # type: ignore[operator]
        self.hidden_layers.requires_grad_(False)
        self.tie()

    def tie(self) -> None:
        """Makes W2 a view of W1ᵀ, which follows it; to be called again after the model was moved or loaded."""
        self.linear2.weight = nn.Parameter(self.linear1.weight.detach().T, requires_grad=False)

    def forward(self, x: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
        """relu(W2 (…) W1 x + b)."""
        h = self.linear1(x)
        for layer in self.hidden_layers:
            h = layer(h)
        if self.training:
            return torch.relu(functional.linear(h, self.linear1.weight.T, self.linear2.bias))
        return torch.relu(self.linear2(h))
