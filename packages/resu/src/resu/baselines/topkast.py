"""Top-KAST: the forward pass sees the largest weights, the backward pass also reaches the next largest."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from resu.baselines.method import Method, MethodConfig, set_masks, top_masks
from resu.core.mask import SparseMask
from resu.core.phases import SparseParameter, local

__all__ = ["TopKAST", "TopKASTConfig"]


class TopKASTConfig(MethodConfig):
    """Settings of `TopKAST`.

    Args:
        interval: steps from one choice of the two sets to the next.
        extra: density of the backward set less that of the forward set.
        regularisation: λ of the exploration penalty.
        end: share of the training after which the forward set alone trains; 1 explores to the end.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.
    """

    name: Literal["topkast"] = "topkast"
    interval: PositiveInt = 25
    extra: Annotated[float, Field(ge=0, lt=1)] = 0.1
    regularisation: NonNegativeFloat = 1e-4
    end: Annotated[float, Field(gt=0, le=1)] = 1.0


class _Layer:
    """A layer's dense weights θ, its forward set A and its backward set B ⊇ A, which is the sparsifier's mask."""

    def __init__(self, sparse: SparseParameter) -> None:
        self.sparse = sparse
        self.dense: Float[Tensor, "rows cols"] = sparse.weight.clone()
        self.forward: Bool[Tensor, "rows cols"] = torch.ones_like(self.dense, dtype=torch.bool)
        self.backward: Bool[Tensor, "rows cols"] = self.forward
        self._zero = torch.zeros((), dtype=self.dense.dtype, device=self.dense.device)

    def show(self, flags: Tensor) -> None:
        """Puts θ into the weight where the flags are, zero elsewhere."""
        torch.where(flags, self.dense, self._zero, out=self.sparse.weight)

    def choose(self, forward: SparseMask, backward: SparseMask, strength: float) -> None:
        """Takes other sets; λ is the strength of the penalty."""
        self.forward, self.backward = (mask.row_bool(slice(None)) for mask in (forward, backward))
        self._penalty = torch.where(self.forward, strength, self.backward * (strength / forward.density))
        self.show(self.forward)

    def penalise(self) -> None:
        """Adds λ θ on A and λ θ / D on B ∖ A to the gradient."""
        gradient = self.sparse.parameter.grad
        if gradient is not None:
            rows = local(gradient)
            rows.addcmul_(self._penalty.view(rows.shape), self.dense.view(rows.shape))

    def state_dict(self) -> dict[str, Tensor]:
        """θ, A and B, and the penalty's λ at each weight, which outlives the B that it was made for."""
        return {"dense": self.dense, "forward": self.forward, "backward": self.backward, "penalty": self._penalty}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copies θ, which steps write to; the others are replaced as wholes."""
        self.dense.copy_(state["dense"])
        self.forward, self.backward, self._penalty = (
            state[name].to(self.dense.device) for name in ("forward", "backward", "penalty")
        )


class TopKAST(Method[TopKASTConfig]):
    """Top-KAST (Jayakumar, Pascanu, Rae, Osindero, Elsen, 2020, arXiv:2106.03517).

    Dense weights θ are kept aside. The forward set A holds each layer's largest |θ| up to the density D, the backward
    set B the largest up to D + `extra`. The forward pass sees θ on A and zeros elsewhere; its gradient, taken there,
    updates θ on B. A penalty λ/2 θ², divided by D on B ∖ A, lets weights of A be overtaken only by ones that earn it.
    After each step the model holds θ on A alone; at the end that is all that is left.
    """

    def _start(self) -> None:
        self._layers = {name: _Layer(sparse) for name, sparse in self.sparsifier.parameters.items()}
        self._counts = self.sparsifier.counts()
        self._backward_counts = self.sparsifier.counts(max(0.0, self.sparsifier.target - self.config.extra))
        self._choose()
        for layer in self._layers.values():
            # Keeping the largest of normal weights, so that units keep the variance of their input.
            kept = layer.sparse.weight.square().sum()
            if kept > 0:
                layer.dense.mul_((layer.dense.square().sum() / kept).sqrt())
            layer.show(layer.forward)

    def forward_masks(self) -> dict[str, SparseMask]:
        """The set A of each layer."""
        return {name: SparseMask(layer.forward.view(layer.sparse.mask.shape)) for name, layer in self._layers.items()}

    def after_backward(self, step: int) -> bool:
        """Shows the optimizer θ on B, and adds the penalty to its gradient."""
        for layer in self._layers.values():
            layer.penalise()
            layer.show(layer.backward)
        return True

    def after_step(self, step: int) -> None:
        """Takes θ on B back from the weight, chooses the sets when it is time, and shows θ on A."""
        for layer in self._layers.values():
            torch.where(layer.backward, layer.sparse.weight, layer.dense, out=layer.dense)
        if (step + 1) % self.config.interval == 0 and self._explores(step):
            self._choose()
        for layer in self._layers.values():
            layer.show(layer.forward)
        if not self._explores(step + 1):
            self._settle()

    def state_dict(self) -> dict[str, Any]:
        """θ and both sets of each layer, by name."""
        return {"layers": {name: layer.state_dict() for name, layer in self._layers.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a state.

        Args:
            state: from `state_dict`.

        Raises:
            CheckpointError: a state of another method.
        """
        super().load_state_dict(state)
        for name, layer in self._layers.items():
            layer.load_state_dict(state["layers"][name])

    def _explores(self, step: int) -> bool:
        return step < self.config.end * self.steps

    def _choose(self) -> None:
        """A and B by |θ|; the sparsifier's masks become B."""
        for layer in self._layers.values():
            layer.sparse.weight.copy_(layer.dense)
        forward = top_masks(self.sparsifier, self._counts)
        backward = top_masks(self.sparsifier, self._backward_counts)
        set_masks(self.sparsifier, backward)
        for name, layer in self._layers.items():
            layer.choose(forward[name], backward[name], self.config.regularisation)

    def _settle(self) -> None:
        """From now on A is all that there is."""
        forward = self.forward_masks()
        if any(layer.sparse.mask != forward[name] for name, layer in self._layers.items()):
            set_masks(self.sparsifier, forward)
        for layer in self._layers.values():
            layer.backward = layer.forward
