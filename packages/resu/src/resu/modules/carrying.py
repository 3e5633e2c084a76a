"""What a linear layer carries beside its weight: mask, mode and θ, and how they are saved, copied and moved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.optim import Optimizer

from resu.config import SelectionConfig
from resu.core.effective import effective_weight, effective_weight_dense
from resu.core.mask import SparseMask, check_sparsity
from resu.core.phases import Phase, SparseParameter, local, sparse_state
from resu.core.reports import SparsityOptimizer
from resu.core.resurrection import ResurrectionEmbedding, StorageMode
from resu.core.select import Candidate, select_top
from resu.core.selective import RESUSelective
from resu.errors import PhaseError
from resu.modules.inplace import change_mask, check_optimizer, enter, rehang
from resu.modules.saved import fit_theta, saved_mask

__all__ = ["DEFAULT_LR", "Carried", "CarryingLinear", "Stepping"]

DEFAULT_LR = 1e-3
"""Learning rate of `resu_step` where none is given."""


class RESUMode(StrEnum):
    """What a layer is doing; see the module."""

    DENSE = "dense"
    SPARSE = "sparse"
    RESU = "resu"


@dataclass
class Stepping:
    """How `resu_step` moves θ."""

    lr: float = DEFAULT_LR
    weight_decay: float = 0.0
    freeze_active: bool = True
    selection: SelectionConfig | None = None
    selective: RESUSelective | None = None


@dataclass
class Carried:
    """What layers that share a weight share besides; in INPLACE mask and phase hang on the weight instead."""

    layers: list["CarryingLinear"] = field(default_factory=list)
    mask: SparseMask | None = None
    embedding: ResurrectionEmbedding | None = None
    stepping: Stepping = field(default_factory=Stepping)
    required_grad: bool = True


class CarryingLinear(nn.Linear):
    """The base of `resu.modules.linear.RESULinear`, which says what there is to know of it.

    Attributes:
        storage_mode: where θ lives.
        name: the layer's, for noise and messages.
        skipped_steps: steps of θ whose gradient was not finite, and which moved nothing.
    """

    weight: nn.Parameter
    weight_theta: nn.Parameter | None

    def _carry(self, storage_mode: StorageMode, carried: Carried) -> None:
        self.storage_mode = StorageMode(storage_mode)
        self.name = ""
        self.skipped_steps = 0
        self._carried = carried
        carried.layers.append(self)
        self.register_parameter("weight_theta", None)

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def _inplace(self) -> SparseParameter | None:
        return sparse_state(self.weight) if self.storage_mode is StorageMode.INPLACE else None

    @property
    def mask(self) -> SparseMask | None:
        """Which weights are active; None where nothing is pruned."""
        sparse = self._inplace
        mask = self._carried.mask if sparse is None else sparse.mask
        return None if mask is None or not mask.n_pruned else mask

    @property
    def sparsity(self) -> float:
        """Share of pruned weights."""
        mask = self.mask
        return 0.0 if mask is None else mask.sparsity

    @property
    def mode(self) -> RESUMode:
        """What the layer is doing."""
        if self.storage_mode is StorageMode.INPLACE:
            sparse = self._inplace
            in_resu = sparse is not None and sparse.phase in (Phase.RESU, Phase.JOINT)
        else:
            in_resu = self._carried.embedding is not None
        if in_resu:
            return RESUMode.RESU
        return RESUMode.DENSE if self.mask is None else RESUMode.SPARSE

    @property
    def resurrection(self) -> ResurrectionEmbedding:
        """θ and its embedding.

        Raises:
            PhaseError: outside RESU mode.
        """
        if self.mode is not RESUMode.RESU:
            raise PhaseError(f"there is θ in RESU mode only; the mode is {self.mode}. Call enter_resu_mode() first.")
        carried, sparse = self._carried, self._inplace
        if sparse is not None and carried.embedding is None:  # a Sparsifier has opened the phase
            carried.embedding = ResurrectionEmbedding(sparse.mask, StorageMode.INPLACE, weight=self.weight)
        return cast(ResurrectionEmbedding, carried.embedding)

    def effective_weight(self) -> Float[Tensor, "out in"]:
        """The weight of the forward pass, differentiable in W and θ; W itself where nothing has to be computed."""
        carried = self._carried
        if self.storage_mode is StorageMode.INPLACE or carried.mask is None:
            return self.weight
        if carried.embedding is None:
            return carried.mask.apply(self.weight)
        theta, frozen = cast(nn.Parameter, self.weight_theta), carried.stepping.freeze_active
        if self.storage_mode is StorageMode.DENSE:
            return effective_weight_dense(self.weight, theta, carried.mask, frozen, disjoint=frozen)
        indices = carried.embedding.indices
        return effective_weight(self.weight, theta, carried.mask, freeze_active=frozen, indices=indices)

    def extra_repr(self) -> str:
        """Sizes, storage mode, mode and sparsity."""
        return f"{super().extra_repr()}, {self.storage_mode}, {self.mode}, sparsity={self.sparsity:.4f}"

    # --- masks --------------------------------------------------------------------------------------------------------

    def set_mask(
        self,
        mask: SparseMask | Shaped[Tensor, "out in"] | None,
        *,
        optimizer: Optimizer | SparsityOptimizer | None = None,
    ) -> None:
        """Takes a mask, and makes pruned weights 0; weights that were pruned before start at 0.

        Args:
            mask: packed, or dense with nonzero = active; it is copied. None, or one that prunes nothing, is no mask.
            optimizer: in INPLACE the one that holds the weight, whose moments then follow the mask.

        Raises:
            MaskError: a mask of another shape.
            PhaseError: in RESU mode: leave it first.
            OptimizerError: in INPLACE, an optimizer that does not heed masks, or does not hold the weight.
        """
        if self.mode is RESUMode.RESU:
            raise PhaseError(
                "in RESU mode pruned slots are θ, and another mask would mix them up; set_mask was called. Call "
                "exit_resu_mode() first; it takes a new_mask."
            )
        self._check_optimizer(optimizer)
        self._settle()
        self._take_mask(self._own(mask), optimizer)

    def prune_by_magnitude(self, sparsity: float, *, optimizer: Optimizer | SparsityOptimizer | None = None) -> None:
        """Prunes exactly `round(sparsity * numel)` weights, those of the smallest |w|.

        Args:
            sparsity: share of pruned weights, in [0, 1).
            optimizer: as for `set_mask`.

        Raises:
            MaskError: a sparsity outside [0, 1), or a weight that is NaN.
            PhaseError: in RESU mode.
        """
        check_sparsity(sparsity)
        if self.mode is not RESUMode.RESU:
            self._settle()
        rows = self.weight.detach()
        candidate = Candidate(lambda part: rows[part].float().abs(), tuple(rows.shape), rows.device)
        (mask,) = select_top([candidate], rows.numel() - round(sparsity * rows.numel()))
        self.set_mask(mask, optimizer=optimizer)

    def _own(self, mask: SparseMask | Tensor | None) -> SparseMask:
        """A copy on the weight's device, of the weight's shape."""
        shape, device = local(self.weight).shape, self.weight.device
        if mask is None:
            return SparseMask.ones(shape, device)
        mask = mask.clone() if isinstance(mask, SparseMask) else SparseMask(mask)
        mask.check_shape(shape, "weight")
        return mask.to(device)

    def _settle(self) -> None:
        """Makes W 0 at P, where momentum from before the mask may have moved it out of sight."""
        mask = self.mask
        if mask is not None and not (self.storage_mode is StorageMode.INPLACE and self.mode is RESUMode.RESU):
            mask.apply_(local(self.weight.detach()))

    def _take_mask(self, mask: SparseMask, optimizer: Any = None) -> None:
        """The mask, and W = 0 at P; in INPLACE moments, mask and weight go by slices of rows."""
        if self.storage_mode is not StorageMode.INPLACE:
            self._carried.mask = mask if mask.n_pruned else None
            mask.apply_(local(self.weight.detach()))
            return
        change_mask(self.weight, mask, self.name, optimizer)

    def _check_optimizer(self, optimizer: Any) -> None:
        heeds = self.storage_mode is StorageMode.INPLACE
        check_optimizer(optimizer, self.weight, self.name, heeds_masks=heeds)

    # --- θ's storage --------------------------------------------------------------------------------------------------

    def _open(self, mask: SparseMask, stepping: Stepping, optimizer: Any = None) -> None:
        """θ with its storage and the statement of who is written; θ's values are the caller's business."""
        carried, sparse = self._carried, self._inplace
        carried.stepping, weight = stepping, self.weight
        if sparse is not None:
            enter(sparse, Phase.RESU if stepping.freeze_active else Phase.JOINT, optimizer)
            carried.embedding = ResurrectionEmbedding(mask, StorageMode.INPLACE, weight=weight)
        else:
            carried.embedding = ResurrectionEmbedding(mask, self.storage_mode, dtype=weight.dtype)
            carried.required_grad, weight.grad = weight.requires_grad, None
            weight.requires_grad_(weight.requires_grad and not stepping.freeze_active)
            for layer in carried.layers:
                layer.weight_theta = cast(nn.Parameter, carried.embedding.theta)
        self._begin_selection()

    def _begin_selection(self) -> None:
        stepping, embedding = self._carried.stepping, cast(ResurrectionEmbedding, self._carried.embedding)
        if stepping.selection is not None:
            stepping.selective = RESUSelective(
                embedding.home(), embedding.mask, stepping.selection, stepping.lr, stepping.weight_decay or None
            )

    def _close(self, optimizer: Any = None) -> None:
        carried, sparse = self._carried, self._inplace
        if sparse is not None:
            enter(sparse, Phase.TRAIN, optimizer)
        else:
            self.weight.grad = None
            self.weight.requires_grad_(carried.required_grad)
        for layer in carried.layers:
            layer.weight_theta = None
        carried.embedding, carried.stepping = None, Stepping()

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> "CarryingLinear":
        hanging = self._inplace
        super()._apply(fn, recurse)
        device = self.weight.device
        if hanging is not None and hanging.mask.device != device:
            hanging.mask = hanging.mask.to(device)
        if self._carried.mask is not None:
            self._carried.mask = self._carried.mask.to(device)
        self._rebind(hanging)
        return self

    def _rebind(self, hanging: SparseParameter | None) -> None:
        """Puts right what refers to a Parameter that may have been replaced or moved."""
        rehang(self.weight, hanging)
        embedding, stepping = self._carried.embedding, self._carried.stepping
        if embedding is not None and self.mode is RESUMode.RESU:
            embedding.follow(self.weight if self.weight_theta is None else self.weight_theta)
            kept = stepping.selective
            self._begin_selection()
            if kept is not None and stepping.selective is not None:
                stepping.selective.load_state_dict(kept.state_dict())

    def __getstate__(self) -> dict[str, Any]:
        """What hangs on the weight goes along: a copy of a Parameter loses it."""
        return {**self.__dict__, "_hanging": self._inplace}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        hanging = state.pop("_hanging", None)
        super().__setstate__(state)
        self._rebind(hanging)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        mask, name = self.mask, f"{prefix}weight"
        if mask is None:
            return
        destination[f"{name}_mask_bits"] = mask.state_dict()["bits"]
        if self.mode is not RESUMode.RESU:
            settled = mask.apply(local(self.weight.detach()))
            if not keep_vars and not torch.equal(settled, local(self.weight)):
                destination[name] = settled
            return
        if self.storage_mode is StorageMode.INPLACE:
            destination[f"{name}_theta"] = self.weight.detach().new_empty(0)
        selective = self._carried.stepping.selective
        if selective is not None:
            destination[f"{name}_theta_mean"] = selective.m.clone()
            destination[f"{name}_theta_mean_abs"] = selective.v.clone()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        bits, theta, mean, mean_abs = state_dict.pop(f"{name}_mask_bits", None), None, None, None
        if bits is not None:
            endings = ("_theta", "_theta_mean", "_theta_mean_abs")
            theta, mean, mean_abs = (state_dict.pop(name + ending, None) for ending in endings)
            mask = saved_mask(bits, tuple(local(self.weight).shape), name).to(self.weight.device)
            if theta is not None:
                fit_theta(state_dict, name, theta, mask, self.storage_mode)
            self._restore(mask, in_resu=theta is not None)
        elif self.mask is not None:
            missing_keys.append(f"{name}_mask_bits")
        hanging = self._inplace
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if mean is not None and mean_abs is not None and self._carried.stepping.selection is None:
            self._carried.stepping.selection = SelectionConfig()
        self._rebind(hanging)
        selective = self._carried.stepping.selective
        if selective is not None and mean is not None and mean_abs is not None:
            selective.load_state_dict({"m": mean, "v": mean_abs, "step_count": 0, "skipped_steps": 0})
        self._settle()

    def _restore(self, mask: SparseMask, in_resu: bool) -> None:
        """Brings mask and mode to what was saved; θ stays the same Parameter where it fits."""
        now = self.mask
        if self.mode is RESUMode.RESU:
            if in_resu and now == mask:
                return
            stepping = self._carried.stepping
            self._close()
        else:
            stepping = Stepping()
        self._take_mask(mask)
        if in_resu:
            self._open(mask, stepping)
