"""Phases: a statement about which coordinates of a weight an optimizer may write.

θ, the parameters that pruned weights are resurrected from, live in the pruned slots of W itself. The effective weight
is then W, the forward pass is that of a dense layer, and everything else is a matter of who may be written:

======= ==================================== ======================================================
phase   the optimizer writes                 and
======= ==================================== ======================================================
TRAIN   active weights                       pruned ones are 0
RESU    pruned ones (or a subset of them)    active weights keep every bit
JOINT   all
SHADOW  active weights                       pruned ones are 0; their free moments gather statistics of
                                             the gradient
======= ==================================== ======================================================

The statement hangs on the parameter, where `MaskedAdamW` and `attach` find it, whenever they were built. No module is
swapped, and no compiled code depends on it.
"""

from enum import StrEnum
from typing import cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.errors import MaskError

__all__ = ["Phase", "SparseParameter", "local", "release", "sparse_state", "sparsify"]

_ATTRIBUTE = "_resu_sparse_parameter"


class Phase(StrEnum):
    """Which coordinates may be written; see the module."""

    TRAIN = "train"
    RESU = "resu"
    JOINT = "joint"
    SHADOW = "shadow"


def local(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """This rank's rows of a sharded tensor; any other tensor itself.

    Args:
        tensor: perhaps a DTensor.

    Returns:
        A plain tensor that shares its storage.
    """
    return cast(Tensor, tensor.to_local()) if hasattr(tensor, "to_local") else tensor


class SparseParameter:
    """A parameter with its mask and its phase.

    Args:
        parameter: the weight.
        mask: over the rows that this rank holds.
        name: for messages and reports.

    Attributes:
        phase: which coordinates may be written.
        subset: in RESU only these of the pruned coordinates may be written; None = all.
        beta: decay of the gradient statistics in SHADOW.
        pruned_lr_scale: learning rate of pruned coordinates over the group's.

    Raises:
        MaskError: a mask of another shape.

    >>> import torch
    >>> weight = nn.Parameter(torch.ones(2, 3))
    >>> state = sparsify(weight, SparseMask(torch.tensor([[1, 0, 1], [1, 1, 0]])), "weight")
    >>> state.phase, state.writable().n_active
    (<Phase.TRAIN: 'train'>, 4)
    """

    def __init__(self, parameter: nn.Parameter, mask: SparseMask, name: str = "") -> None:
        self.parameter, self.name = parameter, name or "weight"
        mask.check_shape(local(parameter).shape, f"parameter {self.name}")
        self.mask = mask
        self.phase = Phase.TRAIN
        self.subset: SparseMask | None = None
        self.beta = 0.98
        self.pruned_lr_scale = 1.0

    @property
    def weight(self) -> Float[Tensor, "rows cols"]:
        """The weight as it is packed: a view without gradient."""
        return self._rows(local(self.parameter.detach()), "weight")

    @property
    def gradient(self) -> Float[Tensor, "rows cols"] | None:
        """The gradient in the same form; a copy where it is not contiguous, since kernels read by storage order."""
        if self.parameter.grad is None:
            return None
        return self._packed(local(self.parameter.grad).contiguous())

    def _rows(self, tensor: Tensor, what: str) -> Tensor:
        if not tensor.is_contiguous():
            raise MaskError(
                f"a sparse parameter is stored contiguously, row by row; the {what} of {self.name} is not. Make it so "
                "before it is sparsified: parameter.data = parameter.data.contiguous()."
            )
        return self._packed(tensor)

    def _packed(self, tensor: Tensor) -> Tensor:
        """A matrix as it is: a view costs more than the look at its shape."""
        shape = (self.mask.rows, self.mask.cols)
        return tensor if tensor.shape == shape else tensor.view(shape)

    def writable(self) -> SparseMask:
        """The coordinates that the optimizer may write in this phase."""
        if self.phase is Phase.JOINT:
            return SparseMask.ones(self.mask.shape, self.mask.device)
        if self.phase is Phase.RESU:
            return ~self.mask if self.subset is None else self.subset
        return self.mask

    def __repr__(self) -> str:
        return f"SparseParameter({self.name}, {self.phase}, {self.mask!r})"


def sparsify(parameter: nn.Parameter, mask: SparseMask, name: str = "") -> SparseParameter:
    """Puts a mask on a parameter: from now on masked and attached optimizers heed it.

    Args:
        parameter: the weight; the same object stays in the module and in the optimizer.
        mask: over the rows that this rank holds.
        name: for messages and reports.

    Returns:
        The statement, in phase TRAIN.

    Raises:
        MaskError: a mask of another shape.
        MaskError: a parameter that has one already.
    """
    if sparse_state(parameter) is not None:
        raise MaskError(
            f"a parameter has one mask; {name or 'this one'} has one already. Change that one, or call "
            "resu.core.phases.release(parameter) first."
        )
    state = SparseParameter(parameter, mask, name)
    setattr(parameter, _ATTRIBUTE, state)
    return state


def sparse_state(parameter: Shaped[Tensor, "..."]) -> SparseParameter | None:
    """The statement on a parameter, or None where it has none.

    Args:
        parameter: any parameter.

    Returns:
        What `sparsify` put there.
    """
    return cast("SparseParameter | None", getattr(parameter, _ATTRIBUTE, None))


def release(parameter: Shaped[Tensor, "..."]) -> None:
    """Takes the mask off a parameter: it is an ordinary one again.

    Args:
        parameter: any parameter.
    """
    if sparse_state(parameter) is not None:
        delattr(parameter, _ATTRIBUTE)
