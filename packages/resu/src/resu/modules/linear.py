"""A linear layer that carries a mask and, in RESU mode, θ.

======= =================================================== =========================================
mode    COMPACT and DENSE: θ beside the weight              INPLACE: θ in the weight's pruned slots
======= =================================================== =========================================
DENSE   F.linear(x, W)                                      F.linear(x, W)
SPARSE  F.linear(x, M ⊙ W)                                  F.linear(x, W), W being 0 at P
RESU    F.linear(x, M ⊙ W + φ(θ))                           F.linear(x, W)
======= =================================================== =========================================

COMPACT and DENSE work with any optimizer, and pay for it in each forward pass. INPLACE costs what a dense layer costs
and needs an optimizer that heeds masks: `MaskedAdamW`, `MaskedSGD`, or any coordinate-wise one through `attach`. Code
that reads `weight` itself (a tied embedding, the fused path of `nn.TransformerEncoderLayer`) sees θ in INPLACE only.
"""

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from resu.config import SelectionConfig
from resu.core.mask import SparseMask
from resu.core.phases import Phase, local, sparse_state
from resu.core.reports import SparsityOptimizer
from resu.core.resurrection import Init, StorageMode, active_std
from resu.errors import ConfigError, PhaseError
from resu.modules.carrying import DEFAULT_LR, Carried, CarryingLinear, RESUMode, Stepping
from resu.modules.replacing import replace_linears

__all__ = ["RESULinear", "RESUMode", "convert_to_resu", "get_resu_modules"]


class RESULinear(CarryingLinear):
    """An `nn.Linear` whose pruned weights can train as θ and come back.

    `weight` is a plain Parameter, and its entry in the state dict loads into an `nn.Linear`. Beside it stand
    `weight_mask_bits`, the packed mask (uint8, ceil(in / 8) bytes a row), where there is one, and in RESU mode
    `weight_theta`: θ, or an empty tensor where the weight holds it.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
        device: where the parameters live.
        dtype: their type.
        storage_mode: where θ lives, see `resu.core.resurrection`.

    Attributes:
        skipped_steps: calls of `resu_step` whose gradient was not finite, and which moved nothing.

    >>> layer = RESULinear(8, 4)
    >>> layer.prune_by_magnitude(0.5)
    >>> layer.enter_resu_mode(epsilon=0.1)
    >>> optimizer = torch.optim.Adam([layer.resurrection.theta])
    >>> layer(torch.ones(1, 8)).sum().backward()
    >>> optimizer.step()
    >>> layer.exit_resu_mode(commit=True)
    >>> str(layer.mode), layer.sparsity
    ('dense', 0.0)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        storage_mode: StorageMode = StorageMode.COMPACT,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._carry(storage_mode, Carried())

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, storage_mode: StorageMode = StorageMode.COMPACT, tied: "RESULinear | None" = None
    ) -> "RESULinear":
        """Takes over a layer: the very same Parameter objects, hooks and training flag.

        Args:
            linear: an `nn.Linear` itself, not of a subclass.
            storage_mode: where θ lives.
            tied: a layer with the same weight, to share mask and θ with.

        Returns:
            The new layer; optimizers that hold the parameters stay right.

        Raises:
            PhaseError: a weight with a mask of its own, for which only INPLACE is possible.
        """
        if storage_mode is not StorageMode.INPLACE and sparse_state(linear.weight) is not None:
            raise PhaseError(
                f"a sparsified weight has its θ in its own pruned slots; {storage_mode} would be a second place. "
                "Convert with StorageMode.INPLACE, or detach the Sparsifier first."
            )
        layer = cls.__new__(cls)
        for name, value in vars(linear).items():
            layer.__dict__[name] = copy.copy(value) if isinstance(value, dict) else value
        layer._carry(storage_mode, Carried() if tied is None else tied._carried)
        return layer

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The linear map x W_effᵀ + b.

        Args:
            input: x.

        Returns:
            The output.
        """
        weight = self.weight if self.storage_mode is StorageMode.INPLACE else self.effective_weight()
        return functional.linear(input, weight, self.bias)

    # --- RESU ---------------------------------------------------------------------------------------------------------

    def enter_resu_mode(
        self,
        epsilon: float = 0.1,
        use_selective: bool = False,
        selective_config: SelectionConfig | None = None,
        lr: float | None = None,
        weight_decay: float = 0.0,
        optimizer: Optimizer | SparsityOptimizer | None = None,
        freeze_active: bool = True,
        init: Init = "normal",
        seed: int = 0,
    ) -> None:
        """Opens θ in the pruned coordinates; active weights are frozen.

        In COMPACT and DENSE θ is trained by any optimizer that is given `resurrection.theta`, or by `resu_step`. Pass
        the optimizer that holds the weight: its state of the weight, which a frozen weight has no use for, is deleted
        before θ exists, and so before θ has a state of its own. Without an optimizer there is nothing to delete, and
        that state stays alive beside θ's. In INPLACE the optimizer that holds the weight trains θ, from fresh moments.

        Args:
            epsilon: size of θ's noise over the standard deviation of the active weights.
            use_selective: let `resu_step` be that of RESU-Selective.
            selective_config: its settings; None = the published values.
            lr: learning rate of `resu_step`; None = the optimizer's for the weight, or 1e-3 without an optimizer.
            weight_decay: decoupled decay of `resu_step`.
            optimizer: the one that holds the weight.
            freeze_active: whether active weights keep every bit; else they train beside θ.
            init: θ starts at "normal" noise, at "uniform" noise, or at "zero".
            seed: of the noise, with the layer's name; give each entry another one.

        Raises:
            PhaseError: without a mask, or in RESU mode already.
            ConfigError: numbers out of range, or an unknown init.
            OptimizerError: an optimizer that does not hold the weight, or in INPLACE does not heed masks.
        """
        mask = self.mask
        if self.mode is RESUMode.RESU:
            raise PhaseError("RESU mode is entered once; the layer is in it. Call exit_resu_mode() first.")
        if mask is None:
            raise PhaseError(
                f"RESU trains pruned weights; {self.name or 'this layer'} has no mask that prunes any. Call "
                "prune_by_magnitude(sparsity) or set_mask(mask) first."
            )
        if init not in ("zero", "normal", "uniform") or not epsilon >= 0 or not (lr is None or lr >= 0):
            raise ConfigError(
                "epsilon and lr are at least 0, and init is zero, normal or uniform; got "
                f"{epsilon}, {lr} and {init!r}. Leave them out for the defaults."
            )
        self._check_optimizer(optimizer)
        selection = (selective_config or SelectionConfig()) if use_selective else None
        stepping = Stepping(self._learning_rate(lr, optimizer), weight_decay, freeze_active, selection)
        if optimizer is not None and self.storage_mode is not StorageMode.INPLACE:
            # An attachment wraps the optimizer that has the state.
            cast(Any, getattr(optimizer, "optimizer", optimizer)).state.pop(self.weight, None)
        self._settle()
        self._open(mask, stepping, optimizer)
        std = active_std(local(self.weight), mask)
        self.resurrection.initialize(epsilon, std, init, seed=seed, name=self.name)

    def _learning_rate(self, lr: float | None, optimizer: Any) -> float:
        if lr is not None or optimizer is None:
            return DEFAULT_LR if lr is None else lr
        groups = optimizer.param_groups
        return float(next(group["lr"] for group in groups if any(p is self.weight for p in group["params"])))

    def exit_resu_mode(
        self,
        commit: bool = True,
        *,
        new_mask: SparseMask | Shaped[Tensor, "out in"] | None = None,
        optimizer: Optimizer | SparsityOptimizer | None = None,
    ) -> None:
        """Ends RESU mode.

        Args:
            commit: True: θ is merged into W; who stays is `new_mask`'s business, and survivors keep their trained
                values. False: θ is dropped, pruned weights are 0, and the mask is as before.
            new_mask: with commit, the weights that stay active (of an amnesty tournament, say); None = all of them,
                so that the layer is dense until it is pruned again.
            optimizer: in INPLACE the one that holds the weight, whose moments then follow.

        Raises:
            PhaseError: outside RESU mode.
            ConfigError: a new mask without a commit.
            MaskError: a new mask of another shape.
            OptimizerError: in INPLACE, an optimizer that does not heed masks, or does not hold the weight.
        """
        embedding, old = self.resurrection, self.mask
        if new_mask is not None and not commit:
            raise ConfigError(
                "without a commit the mask stays as it was; a new one was given. Pass commit=True with it, or call "
                "set_mask(new_mask) afterwards."
            )
        if self.storage_mode is StorageMode.INPLACE:
            self._check_optimizer(optimizer)
        mask = self._own(new_mask if commit else old)
        if commit:
            embedding.commit(self.weight)
        self._take_mask(mask, optimizer if self.storage_mode is StorageMode.INPLACE else None)
        self._close(optimizer)

    def resu_step(self, grad: Float[Tensor, "out in"] | None = None) -> bool:
        """One step of θ without an optimizer: θ ← θ (1 − η λ) − η φ⁻¹(G), or that of RESU-Selective.

        Args:
            grad: G = ∂L/∂W_eff; None = the gradient that the last backward pass left, which is used up by the step.

        Returns:
            Whether θ moved: a gradient that is not finite moves nothing, and is counted in `skipped_steps`.

        Raises:
            PhaseError: outside RESU mode, without a gradient, or where a Sparsifier trains a subset only.
            MaskError: a gradient of another shape.
        """
        embedding, sparse, stepping = self.resurrection, self._inplace, self._carried.stepping
        if sparse is not None and sparse.subset is not None:
            raise PhaseError(
                "resu_step moves all of θ; a subset of it is in training here. Step the masked optimizer, or open the "
                "phase without a subset."
            )
        source = self.weight if sparse is not None else cast(nn.Parameter, self.weight_theta)
        found = source.grad if grad is None else grad
        if found is None:
            raise PhaseError("resu_step needs a gradient of θ; there is none. Call backward() first, or pass grad.")
        step = embedding.gradient_of(local(found))
        finite = bool(torch.isfinite(step).all())
        if not finite:
            self.skipped_steps += 1
        elif stepping.selective is not None:
            stepping.selective.step(step)
        else:
            embedding.update_sgd(step, stepping.lr, stepping.weight_decay)
        if grad is None:
            if sparse is not None and sparse.phase is Phase.JOINT:
                embedding.mask.apply_(local(found))  # the active weights' part is not θ's to use up
            else:
                source.grad = None
        return finite


def convert_to_resu(
    model: nn.Module,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    storage_mode: StorageMode = StorageMode.COMPACT,
) -> nn.Module:
    """Puts a `RESULinear` in the place of each `nn.Linear`, with the very same Parameters.

    Optimizers built before stay right, tied weights stay tied, and a module that stands in several places is replaced
    by one. Layers whose weights are one Parameter share mask and θ as well. Subclasses of `nn.Linear` are left alone,
    since their owners may not call them (`nn.MultiheadAttention` does not).

    Args:
        model: changed in place.
        include: patterns of module names, such as "encoder.*"; None = all.
        exclude: patterns of names to leave alone. A module of several names is converted if one of them is included and
            none is excluded.
        storage_mode: where θ lives.

    Returns:
        The model; where it is itself an `nn.Linear`, the layer that replaces it.

    Raises:
        ConfigError: a pattern that no linear layer's name matches.
        PhaseError: a weight with a mask of its own in another mode than INPLACE.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> weight = model[0].weight
    >>> sorted(get_resu_modules(convert_to_resu(model, exclude="2")))
    ['0']
    >>> model[0].weight is weight
    True
    """
    by_weight: dict[Tensor, RESULinear] = {}

    def make(linear: nn.Linear, name: str) -> RESULinear:
        layer = RESULinear.from_linear(linear, storage_mode, by_weight.get(linear.weight))
        layer.name = name
        by_weight.setdefault(linear.weight, layer)
        return layer

    return replace_linears(model, include, exclude, make)


def get_resu_modules(model: nn.Module) -> dict[str, RESULinear]:
    """The converted layers of a model.

    Args:
        model: any module.

    Returns:
        Layers by name, each once.

    >>> sorted(get_resu_modules(nn.Sequential(RESULinear(2, 2), nn.Linear(2, 2))))
    ['0']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, RESULinear)}
