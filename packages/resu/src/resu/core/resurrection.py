"""θ, one parameter for each pruned weight, and the three places where it may live.

COMPACT and DENSE give θ a storage of its own, beside a weight that any optimizer may have trained: as a vector of the
p pruned coordinates, or as a matrix of the weight's shape that is 0 at the active ones. INPLACE keeps θ in the pruned
slots of the weight itself, at no cost, and needs an optimizer that heeds phases.

======== =================================== ===================== =================================
mode     θ                                   beside W, in |W|      its optimizer
======== =================================== ===================== =================================
COMPACT  a Parameter of shape (p,)           2 s (θ and its place) any, given θ
DENSE    a Parameter of W's shape            1                     any that moves each coordinate by
                                                                   itself, given θ
INPLACE  W's pruned slots                    0                     MaskedAdamW, MaskedSGD or attach,
                                                                   given W
======== =================================== ===================== =================================
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from resu.core.mask import SparseMask, chunk_rows
from resu.core.noise import NOISES
from resu.core.phases import SparseParameter, local, sparse_state
from resu.errors import ConfigError, MaskError, OptimizerError, PhaseError
from resu.kernels.embedding import (
    phi_inverse_gather,
    phi_scatter,
    phi_scatter_grad,
    resu_update_indexed,
    resu_update_with_momentum,
)

__all__ = ["GatheredTheta", "Init", "ResurrectionEmbedding", "StorageMode", "active_std"]

Init = Literal["zero", "normal", "uniform"]
_INT32_REACH = 1 << 31
_ASSIGNING = {"add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"}
_READ_ONLY = (
    "in INPLACE θ is the pruned slots of the weight, and this is a copy of them, to be read: whatever changes it "
    "changes nothing else. Give the model's own parameters to resu.optim.masked.MaskedAdamW, or pass your optimizer to "
    "resu.optim.stock.attach(model, optimizer); or use StorageMode.COMPACT, whose θ is a Parameter."
)


class StorageMode(StrEnum):
    """Where θ lives; see the module."""

    COMPACT = "compact"
    DENSE = "dense"
    INPLACE = "inplace"


def active_std(weight: Float[Tensor, "..."], mask: SparseMask) -> float:
    """σ_A, the unbiased standard deviation of the active weights; 1 where there are fewer than two.

    Args:
        weight: W.
        mask: which coordinates are active.

    Returns:
        σ_A.

    >>> active_std(torch.tensor([1.0, 3.0, 9.0]), SparseMask(torch.tensor([True, True, False]))) == math.sqrt(2)
    True
    """
    if mask.n_active < 2:
        return 1.0
    rows = weight.detach().reshape(mask.rows, mask.cols)

    def total(term: Callable[[Tensor], Tensor]) -> float:
        parts = (torch.where(mask.row_bool(part), term(rows[part].double()), 0) for part in mask.chunks())
        return math.fsum(float(part.sum()) for part in parts)

    mean = total(lambda x: x) / mask.n_active
    return math.sqrt(total(lambda x: (x - mean).square()) / (mask.n_active - 1))


class GatheredTheta(Tensor):
    """θ of INPLACE as it was when it was asked for: a copy of the weight's pruned slots, to be read.

    Its `grad` is gathered from the weight's gradient, anew each time. An optimizer that is given it would train the
    copy, and W would never hear of it; so every optimizer of torch refuses it, and operations in place are refused too.

    >>> from resu.core.phases import sparsify
    >>> weight = nn.Parameter(torch.tensor([[1.0, 2.0]]))
    >>> _ = sparsify(weight, SparseMask(torch.tensor([[True, False]])))
    >>> weight.square().sum().backward()
    >>> theta = GatheredTheta.of(weight)
    >>> theta.tolist(), theta.grad.tolist()
    ([2.0], [4.0])
    """

    _parameter: nn.Parameter

    @staticmethod
    def of(parameter: nn.Parameter) -> "GatheredTheta":
        """Gathers θ from a sparsified weight.

        Args:
            parameter: the weight.

        Returns:
            The copy.
        """
        sparse = cast(SparseParameter, sparse_state(parameter))
        theta = phi_inverse_gather(sparse.weight, sparse.mask.pruned_indices).as_subclass(GatheredTheta)
        theta._parameter = parameter
        return theta

    @property
    def grad(self) -> Float[Tensor, " pruned"] | None:  # type: ignore[override]
        """φ⁻¹ of the weight's gradient as it is now; None before the first backward pass."""
        sparse = cast(SparseParameter, sparse_state(self._parameter))
        gradient = sparse.gradient
        return None if gradient is None else phi_inverse_gather(gradient, sparse.mask.pruned_indices)

    @property
    def is_leaf(self) -> bool:  # type: ignore[override]
        """What every optimizer of torch asks of a parameter: an error that says who trains θ.

        Raises:
            OptimizerError: always.
        """
        raise OptimizerError(_READ_ONLY)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """A plain copy."""
        return self.as_subclass(Tensor).clone()

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Refuses what would write to the copy; everything else gives plain tensors."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        in_place = name.endswith("_") and not name.endswith("__")
        assigning = name == "__setitem__" or (name.startswith("__i") and name.rstrip("_")[3:] in _ASSIGNING)
        if in_place or assigning or isinstance(kwargs.get("out"), GatheredTheta):
            raise OptimizerError(_READ_ONLY)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


class ResurrectionEmbedding:
    """θ with φ, which puts it into a matrix, and φ⁻¹, which takes it out.

    Args:
        mask: which coordinates are active.
        storage_mode: where θ lives.
        weight: for INPLACE, the weight: it must be sparsified (`resu.core.phases.sparsify`), and its own mask counts.
        dtype: θ's, for the other two.

    Raises:
        MaskError: INPLACE without a sparsified weight.

    >>> mask = SparseMask(torch.tensor([[True, False], [False, True]]))
    >>> embedding = ResurrectionEmbedding(mask).initialize(init="normal", std=1.0)
    >>> torch.equal(embedding.phi_inverse(embedding.phi()), embedding.theta)
    True
    """

    def __init__(
        self,
        mask: SparseMask,
        storage_mode: StorageMode = StorageMode.COMPACT,
        *,
        weight: nn.Parameter | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.storage_mode = storage_mode
        self._mask, self._weight = mask, weight
        self._indices: Tensor | None = None
        self._theta: nn.Parameter | None = None
        self._state: dict[str, Any] = {}
        if storage_mode is StorageMode.INPLACE:
            self._sparse()
        elif storage_mode is StorageMode.DENSE:
            self._theta = nn.Parameter(torch.zeros(mask.shape, dtype=dtype, device=mask.device))
        else:
            self._theta = nn.Parameter(torch.zeros(mask.n_pruned, dtype=dtype, device=mask.device))
            # Kept while θ lives: finding it anew costs several times what the scatter does. int32 is half of int64.
            self._indices = _narrow(mask)

    # --- reading ------------------------------------------------------------------------------------------------------

    def _sparse(self) -> SparseParameter:
        sparse = None if self._weight is None else sparse_state(self._weight)
        if sparse is None:
            raise MaskError(
                "in INPLACE θ lives in the pruned slots of a sparsified weight; none was given. Call "
                "resu.core.phases.sparsify(weight, mask) and pass the weight, or use COMPACT or DENSE."
            )
        return sparse

    @property
    def mask(self) -> SparseMask:
        """Which coordinates are active; in INPLACE that of the weight, as it is now."""
        return self._sparse().mask if self.storage_mode is StorageMode.INPLACE else self._mask

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's shape."""
        return self.mask.shape

    @property
    def indices(self) -> Int[Tensor, " pruned"]:
        """Flat indices of P, ascending: int32 and kept in COMPACT, made anew elsewhere."""
        return self.mask.pruned_indices if self._indices is None else self._indices

    @property
    def theta(self) -> nn.Parameter | GatheredTheta:
        """θ: a Parameter to give to an optimizer; in INPLACE a copy to read, see `GatheredTheta`."""
        if self._theta is None:
            return GatheredTheta.of(cast(nn.Parameter, self._weight))
        return self._theta

    def values(self) -> Float[Tensor, " pruned"]:
        """θ as a vector without gradient; in COMPACT it shares θ's storage."""
        if self.storage_mode is StorageMode.COMPACT:
            return cast(Tensor, self._theta).detach()
        return phi_inverse_gather(self.home(), self.indices)

    def home(self) -> Float[Tensor, "..."]:
        """Where θ is written, without gradient: its vector in COMPACT, else the matrix whose pruned slots it is."""
        return local(cast(Tensor, self._weight if self._theta is None else self._theta).detach())

    # --- φ and φ⁻¹ ----------------------------------------------------------------------------------------------------

    def phi(self) -> Float[Tensor, "..."]:
        """φ(θ): a new matrix, 0 at A; its gradient flows to θ, in INPLACE to the weight that holds it."""
        if self.storage_mode is StorageMode.COMPACT:
            # Now uses gradient-enabled version, as the note has it.
            return phi_scatter_grad(cast(Tensor, self._theta), self.indices, self.shape)
        return self.mask.apply_inverse(local(cast(Tensor, self._weight if self._theta is None else self._theta)))

    def phi_inverse(self, dense: Float[Tensor, "..."]) -> Float[Tensor, " pruned"]:
        """φ⁻¹: what a matrix holds at P.

        Args:
            dense: of the weight's shape.

        Returns:
            One value a pruned coordinate, without gradient.

        Raises:
            MaskError: another shape.
        """
        self.mask.check_shape(dense.shape)
        return phi_inverse_gather(dense.detach(), self.indices)

    # --- writing ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def assign(self, values: Float[Tensor, " pruned"]) -> None:
        """Writes θ.

        Args:
            values: one value a pruned coordinate.

        Raises:
            MaskError: another number of values.
        """
        if values.shape != (self.mask.n_pruned,):
            raise MaskError(
                f"θ has one value a pruned coordinate, {self.mask.n_pruned} here; got shape {tuple(values.shape)}. "
                "Take them with phi_inverse."
            )
        home = self.home()
        values = values.to(home.dtype)
        if self.storage_mode is StorageMode.COMPACT:
            home.copy_(values)
        else:
            home.view(-1).scatter_(0, self.indices.long(), values)

    def initialize(
        self, epsilon: float = 0.1, std: float = 1.0, init: Init = "normal", *, seed: int = 0, name: str = ""
    ) -> "ResurrectionEmbedding":
        """Starts θ: N(0, (ε σ)²), ε σ U(−1, 1), or 0.

        Args:
            epsilon: ε, at least 0; 0.05 to 0.2 is usual.
            std: σ, the standard deviation of the active weights: see `active_std`.
            init: which of them.
            seed: of the noise, which is a hash of seed, name and coordinate, the same on every device.
            name: the layer's.

        Returns:
            Itself.

        Raises:
            ConfigError: an unknown init, or a negative ε.
        """
        if init not in ("zero", *NOISES):
            raise ConfigError(f"θ starts at zero, normal or uniform; got {init!r}. Choose one of them.")
        if not epsilon >= 0:
            raise ConfigError(f"epsilon is at least 0; got {epsilon}. 0 is the same as init='zero'.")
        mask = self.mask
        if init == "zero" or not epsilon:
            self.assign(torch.zeros(mask.n_pruned, device=mask.device))
            return self
        parts = [
            NOISES[init](seed, name, part, mask.cols, device=mask.device)[~mask.row_bool(part)]
            for part in chunk_rows(mask.rows, mask.cols)
        ]
        self.assign(torch.cat(parts).mul_(epsilon * std))
        return self

    @torch.no_grad()
    def commit(self, weight: Float[Tensor, "..."]) -> None:
        """Writes θ into the pruned slots of a weight; in INPLACE it is there already.

        Args:
            weight: W, contiguous.

        Raises:
            MaskError: another shape.
        """
        self.mask.check_shape(weight.shape, "weight")
        if self.storage_mode is not StorageMode.INPLACE:
            weight.detach().view(-1).scatter_(0, self.indices.long(), self.values().to(weight.dtype))

    def change_mask(self, mask: SparseMask) -> None:
        """Takes another mask: θ keeps its value where it was pruned before, and is 0 where it was not.

        θ becomes a new Parameter: give it to the optimizer anew.

        Args:
            mask: of the same shape.

        Raises:
            MaskError: another shape.
            PhaseError: in INPLACE, where the mask is the weight's: commit first.
        """
        if self.storage_mode is StorageMode.INPLACE:
            raise PhaseError(
                "in INPLACE θ and the active weights share the weight, so that another mask would mix them up. End the "
                "phase with a commit; it chooses the mask."
            )
        self._mask.check_shape(mask.shape, "new mask")
        theta = cast(nn.Parameter, self._theta)
        dense = phi_scatter(self.values(), self.indices, self.shape)
        self._mask, self._state = mask, {}
        if self.storage_mode is StorageMode.COMPACT:
            self._indices = _narrow(mask)
            self._theta = nn.Parameter(phi_inverse_gather(dense, self._indices), theta.requires_grad)
        else:
            self._theta = nn.Parameter(mask.apply_(dense, inverse=True), theta.requires_grad)

    def follow(self, home: nn.Parameter) -> None:
        """Goes on with another Parameter in the place of θ (in INPLACE: of the weight), and to its device.

        Args:
            home: of the same shape.
        """
        if self.storage_mode is StorageMode.INPLACE:
            self._weight = home
        else:
            self._theta = home
        self._mask = self._mask.to(home.device)
        self._indices = None if self._indices is None else self._indices.to(home.device)
        self._state = {k: v.to(home.device) if isinstance(v, Tensor) else v for k, v in self._state.items()}

    # --- steps --------------------------------------------------------------------------------------------------------

    def gradient_of(self, grad: Float[Tensor, "..."]) -> Float[Tensor, " pruned"]:
        """φ⁻¹(G), where G may have been gathered already.

        Args:
            grad: G = ∂L/∂W_eff of the weight's shape, or its vector of the pruned coordinates.

        Returns:
            One value a pruned coordinate.

        Raises:
            MaskError: another shape.
        """
        if grad.shape == (self.mask.n_pruned,) and grad.shape != torch.Size(self.shape):
            return grad.detach()
        return self.phi_inverse(grad)

    @torch.no_grad()
    def update_sgd(self, grad: Float[Tensor, "..."], lr: float, weight_decay: float = 0.0) -> None:
        """One plain step with decoupled decay, θ ← θ (1 − η λ) − η φ⁻¹(G).

        Args:
            grad: G, or φ⁻¹(G).
            lr: η.
            weight_decay: λ.

        Raises:
            MaskError: a gradient of another shape.
        """
        if self.storage_mode is StorageMode.COMPACT and not weight_decay and grad.shape == torch.Size(self.shape):
            resu_update_indexed(self.home(), grad.detach(), self.indices, lr)
            return
        step = self.gradient_of(grad)
        values = self.values()
        self.assign(values.mul_(1 - lr * weight_decay).sub_(step.to(values.dtype), alpha=lr))

    @torch.no_grad()
    def update_momentum(self, grad: Float[Tensor, "..."], lr: float, beta: float = 0.9) -> None:
        """One step along a running mean, m ← β m + (1 − β) φ⁻¹(G), θ ← θ − η m.

        Args:
            grad: G, of the weight's shape.
            lr: η.
            beta: β.

        Raises:
            MaskError: a gradient of another shape.
        """
        self.mask.check_shape(grad.shape, "gradient")
        momentum = self._moment("momentum")
        resu_update_with_momentum(self.home(), grad.detach(), momentum, self.indices, lr, beta)

    @torch.no_grad()
    def update_adam(
        self,
        grad: Float[Tensor, "..."],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """One step of AdamW (Loshchilov & Hutter, 2017, arXiv:1711.05101) on θ.

        Args:
            grad: G, or φ⁻¹(G).
            lr: η.
            betas: decays of the moments.
            eps: added to the root of the second moment.
            weight_decay: decoupled decay λ.

        Raises:
            MaskError: a gradient of another shape.
        """
        step = self.gradient_of(grad).float()
        first, second = self._moment("exp_avg"), self._moment("exp_avg_sq")
        self._state["step"] = t = self._state.get("step", 0) + 1
        first.lerp_(step, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(step, step, value=1 - betas[1])
        root = second.sqrt().div_(math.sqrt(1 - betas[1] ** t)).add_(eps)
        values = self.values()
        move = first.div(root).mul_(lr / (1 - betas[0] ** t))
        self.assign(values.mul_(1 - lr * weight_decay).sub_(move.to(values.dtype)))

    def _moment(self, name: str) -> Float[Tensor, " pruned"]:
        size = self.mask.n_pruned
        if name not in self._state or self._state[name].numel() != size:
            self._state[name] = torch.zeros(size, dtype=torch.float32, device=self.mask.device)
        return cast(Tensor, self._state[name])


def _narrow(mask: SparseMask) -> Int[Tensor, " pruned"]:
    """Flat indices of P, in four bytes each where that is enough."""
    indices = mask.pruned_indices
    return indices.int() if mask.numel <= _INT32_REACH else indices
