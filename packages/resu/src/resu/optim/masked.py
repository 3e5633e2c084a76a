"""AdamW and SGD that write only the coordinates that a parameter's phase allows.

Drop-in optimizers: a parameter without a mask is stepped as torch's own fused kernel does; one with a mask
(`resu.core.phases.sparsify`, which `Sparsifier` and `RESULinear` call) by `resu.kernels.masked_adam`. Frozen weights
keep every bit, whatever weight decay and momentum.

Layouts of AdamW's moments beside a weight of N coordinates, of which n may be written in the present phase:

======== ======================= ==================================================================================
layout   moments                 the mask
======== ======================= ==================================================================================
dense    2 N                     N bits; moments of both sets stand side by side, so no phase has to clear any
signbit  2 N                     none: it is the sign of the second moment
compact  2 n                     N bits; moments are made anew at each phase
======== ======================= ==================================================================================
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from resu.core.phases import Phase, SparseParameter, local, sparse_state
from resu.core.signs import SignBitMask
from resu.distributed import any_rank
from resu.errors import OptimizerError
from resu.kernels.backend import Backend, resolve
from resu.kernels.masked_adam import AdamStep, block_offsets, masked_adamw, masked_adamw_compact, masked_sgd

__all__ = ["Layout", "MaskedAdamW", "MaskedSGD"]

Layout = Literal["auto", "dense", "signbit", "compact"]


class _Masked(Optimizer):
    """What both have in common: a whole step or none, and where moments are kept."""

    _moment_names: tuple[str, ...] = ()

    def __init__(self, params: Any, defaults: dict[str, Any], layout: str, backend: str) -> None:
        self.layout, self.backend = layout, backend
        self.skipped_steps = 0
        self._backends: dict[tuple[torch.device, torch.dtype], Backend] = {}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]  # losses are tensors too
        """One step; none at all, and one more in `skipped_steps`, where a gradient is not finite.

        Args:
            closure: computes the loss and the gradients.

        Returns:
            The closure's loss.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any_rank(not _all_finite(cast(Tensor, p.grad) for p in moving), moving):
            self.skipped_steps += 1
            return loss
        for group in self.param_groups:
            plain = [p for p in group["params"] if p.grad is not None and sparse_state(p) is None]
            if plain:
                self._step_plain(group, plain)
            for p in group["params"]:
                sparse = sparse_state(p)
                if sparse is not None and p.grad is not None:
                    self._step_sparse(group, sparse)
        return loss

    def _step_plain(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        raise NotImplementedError

    def _step_sparse(self, group: dict[str, Any], sparse: SparseParameter) -> None:
        raise NotImplementedError

    def _backend_for(self, weight: Tensor) -> Backend:
        kind = (weight.device, weight.dtype)
        if kind not in self._backends:
            self._backends[kind] = resolve(self.backend, device=weight.device, dtype=weight.dtype)
        return self._backends[kind]

    def before_phase(self, sparse: SparseParameter, phase: Phase) -> None:
        """Prepares the moments for another phase: pruned coordinates start it with none.

        Args:
            sparse: the parameter, still in its present phase.
            phase: the phase to come.

        Raises:
            OptimizerError: a phase that this layout cannot do.
        """
        state = self._state_of(sparse)
        if not state:
            return
        state["step_pruned"] = 0
        for moment in self._dense_moments(sparse):
            for part in sparse.mask.chunks():
                active = sparse.mask.row_bool(part)
                # Through the sign as well: −0 stays −0 where the sign is the mask.
                moment[part] *= active

    def commit_rows(
        self, sparse: SparseParameter, part: slice, was: Bool[Tensor, "part cols"], now: Bool[Tensor, "part cols"]
    ) -> None:
        """Fits the moments of some rows to a new mask, before the mask itself changes.

        What was resurrected after steps of its own takes its moments along, their bias corrected for the active set's
        step count. What left the active set loses them; so does what stays pruned, but for the statistics of SHADOW.

        Args:
            sparse: the parameter, still in the phase that ends.
            part: which rows.
            was: active before.
            now: active from now on.
        """
        state = self._state_of(sparse)
        if not state:
            return
        grown = now & ~was
        kept = now | ~was if sparse.phase is Phase.SHADOW else now
        for moment, factor in zip(self._dense_moments(sparse), self._carried(sparse, state), strict=True):
            moment[part] *= torch.where(grown, factor, 1.0) * kept

    def after_commit(self, sparse: SparseParameter) -> None:
        """Called when all rows of a parameter have their new mask.

        Args:
            sparse: the parameter, its mask already the new one.
        """

    def _carried(self, sparse: SparseParameter, state: dict[str, Any]) -> tuple[float, ...]:
        raise NotImplementedError

    def _state_of(self, sparse: SparseParameter) -> dict[str, Any]:
        """The state of a masked parameter, empty before its first step."""
        return self.state.get(sparse.parameter) or {}

    def _dense_moments(self, sparse: SparseParameter) -> list[Tensor]:
        state = self._state_of(sparse)
        shape = (sparse.mask.rows, sparse.mask.cols)
        return [local(state[name]).view(shape) for name in self._moment_names if state.get(name) is not None]

    def moments_rows(
        self, parameter: Tensor, part: slice
    ) -> tuple[Float[Tensor, "part cols"], Float[Tensor, "part cols"] | None] | None:
        """Some rows of a sparse parameter's moments.

        Args:
            parameter: the weight.
            part: which rows.

        Returns:
            First and second moments (None where there is no second), or None before the first step.

        Raises:
            OptimizerError: the compact layout, which has no place for coordinates that are not written.
        """
        sparse = sparse_state(parameter)
        if sparse is None or not self._state_of(sparse):
            return None
        found = self._dense_moments(sparse)
        if not found:
            return None
        return found[0][part], found[1][part].abs() if len(found) > 1 else None


def _all_finite(gradients: Iterable[Tensor]) -> bool:
    """Whether no gradient holds NaN or infinity.

    A sum is finite only where all its terms are, and costs one quick pass; a sum that is not may only have overflowed.
    """
    return all(
        math.isfinite(g.sum()) or all(bool(torch.isfinite(rows).all()) for rows in g.split(64))
        for g in map(local, gradients)
        if g.numel()
    )


class MaskedAdamW(_Masked):
    """AdamW (Loshchilov & Hutter, 2017, arXiv:1711.05101) with coordinates that may be frozen, bit for bit.

    Args:
        params: parameters or groups, as for `torch.optim.AdamW`.
        lr: learning rate η.
        betas: decays of the first and second moment.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay λ.
        layout: how moments of masked parameters are kept; auto = dense.
        backend: triton, compile, eager, or auto: see `resu.kernels.backend`.

    Raises:
        OptimizerError: numbers out of range, or an unknown layout.

    >>> from resu.core.mask import SparseMask
    >>> from resu.core.phases import sparsify
    >>> weight = torch.nn.Parameter(torch.ones(2, 2))
    >>> _ = sparsify(weight, SparseMask(torch.tensor([[1, 0], [1, 1]])))
    >>> optimizer = MaskedAdamW([weight], lr=0.5, backend="eager")
    >>> weight.sum().backward()
    >>> optimizer.step()
    >>> weight[0, 1].item(), weight[0, 0].item() < 1
    (1.0, True)
    """

    _moment_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float | int = 1e-2,
        *,
        layout: Layout | str = "auto",
        backend: str = "auto",
    ) -> None:
        _check_range("lr", lr)
        _check_range("weight_decay", weight_decay)
        _check_range("eps", eps)
        for index, beta in enumerate(betas):
            _check_range(f"betas[{index}]", beta, 1.0)
        if layout not in ("auto", "dense", "signbit", "compact"):
            raise OptimizerError(f"a layout is auto, dense, signbit or compact; got {layout!r}. Choose one of them.")
        chosen = "dense" if layout == "auto" else layout
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, chosen, backend)

    def _step_plain(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=local(p).device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in parameters]
        adamw(
            parameters, [cast(Tensor, p.grad) for p in parameters], [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states], [], [s["step"] for s in states], fused=True, amsgrad=False,
            beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"],
            eps=group["eps"], maximize=False,
        )  # fmt: skip

    def _step_sparse(self, group: dict[str, Any], sparse: SparseParameter) -> None:
        state = self._state_of(sparse)
        if not state:
            state = self.state[sparse.parameter]
            state["step"] = state["step_pruned"] = 0
        if self.layout == "compact":
            self._check_compact(sparse.phase)
        if "exp_avg" not in state:
            self._allocate(sparse, state)
        state["step"] += sparse.phase is not Phase.RESU
        state["step_pruned"] += sparse.phase is not Phase.TRAIN
        beta1, beta2 = group["betas"]
        step = AdamStep(
            phase=sparse.phase, lr=float(group["lr"]), lr_pruned=float(group["lr"]) * sparse.pruned_lr_scale,
            beta1=beta1, beta2=beta2, eps=group["eps"], weight_decay=group["weight_decay"], step_active=state["step"],
            step_pruned=state["step_pruned"], shadow_beta=sparse.beta,
        )  # fmt: skip
        weight, gradient = sparse.weight, cast(Tensor, sparse.gradient)
        backend = self._backend_for(weight)
        if self.layout == "compact":
            masked_adamw_compact(
                weight, gradient, state["exp_avg"], state["exp_avg_sq"], sparse.writable().bits, step,
                backend=backend, block_offsets=state.get("block_offsets"),
            )  # fmt: skip
            return
        shape = weight.shape
        masked_adamw(
            weight, gradient, local(state["exp_avg"]).view(shape), local(state["exp_avg_sq"]).view(shape),
            None if isinstance(sparse.mask, SignBitMask) else sparse.mask.bits, step, backend=backend,
            subset=None if sparse.subset is None else sparse.subset.bits,
        )  # fmt: skip

    def _allocate(self, sparse: SparseParameter, state: dict[str, Any]) -> None:
        weight = local(sparse.parameter.detach())
        if self.layout == "compact":
            written = sparse.writable()
            for name in self._moment_names:
                state[name] = torch.zeros(written.n_active, dtype=weight.dtype, device=weight.device)
            if self._backend_for(weight) == "triton":
                state["block_offsets"] = block_offsets(written)
            return
        for name in self._moment_names:  # sharded where the parameter is, so that they are saved as such
            state[name] = torch.zeros_like(sparse.parameter.detach())
        if self.layout == "signbit":
            self._carry_mask(sparse, state)

    def _state_of(self, sparse: SparseParameter) -> dict[str, Any]:
        """The state of a masked parameter; one from before it had a mask is taken over."""
        state = super()._state_of(sparse)
        if not state or "step_pruned" in state:
            return state
        state["step"], state["step_pruned"] = int(state["step"]), 0
        if self.layout == "signbit":
            self._carry_mask(sparse, state)
        elif self.layout == "compact":
            shape, written = (sparse.mask.rows, sparse.mask.cols), sparse.writable()
            for name in self._moment_names:
                rows = local(state[name]).view(shape)
                state[name] = torch.cat([rows[part][written.row_bool(part)] for part in written.chunks()])
            if self._backend_for(sparse.weight) == "triton":
                state["block_offsets"] = block_offsets(written)
        return state

    @staticmethod
    def _carry_mask(sparse: SparseParameter, state: dict[str, Any]) -> None:
        """Moves the mask into the signs of the second moment."""
        carrier = local(state["exp_avg_sq"]).view(sparse.mask.rows, sparse.mask.cols)
        mask = SignBitMask(carrier, sparse.mask.shape)
        mask.update_inplace(sparse.mask)
        sparse.mask = mask

    def _check_compact(self, phase: Phase) -> None:
        if phase is Phase.SHADOW:
            raise OptimizerError(
                "SHADOW gathers statistics in the moments of pruned coordinates, which the compact layout does not "
                "have. Use layout='dense' or 'signbit', or regrow by the gradient of one step."
            )

    def before_phase(self, sparse: SparseParameter, phase: Phase) -> None:
        """As for every masked optimizer; the compact layout drops its moments, and makes new ones at the next step."""
        if self.layout == "compact":
            self._check_compact(phase)
            self.state.pop(sparse.parameter, None)
            return
        super().before_phase(sparse, phase)

    def commit_rows(
        self, sparse: SparseParameter, part: slice, was: Bool[Tensor, "part cols"], now: Bool[Tensor, "part cols"]
    ) -> None:
        """As for every masked optimizer; the compact layout makes new moments at the next step.

        After SHADOW a resurrected coordinate has no steps, but its mean |g|: the square of that is its second moment,
        without which the first steps would be about three times too long.
        """
        if self.layout == "compact":
            return
        state = self._state_of(sparse)
        if state and sparse.phase is Phase.SHADOW and state["step_pruned"]:
            second = local(state["exp_avg_sq"]).view(sparse.mask.rows, sparse.mask.cols)[part]
            start = 1 - sparse.beta ** state["step_pruned"]
            second.copy_(torch.where(now & ~was, (second / start).square(), second))
        super().commit_rows(sparse, part, was, now)

    def after_commit(self, sparse: SparseParameter) -> None:
        """The compact layout drops its moments: they belong to the old mask."""
        if self.layout == "compact":
            self.state.pop(sparse.parameter, None)

    def _carried(self, sparse: SparseParameter, state: dict[str, Any]) -> tuple[float, ...]:
        if sparse.phase is Phase.SHADOW:
            return 0.0, 1.0
        pruned, active = state["step_pruned"], state["step"]
        if not pruned:
            return 0.0, 0.0
        betas = next(g["betas"] for g in self.param_groups if any(p is sparse.parameter for p in g["params"]))
        return tuple((1 - beta**active) / (1 - beta**pruned) for beta in betas)

    def _dense_moments(self, sparse: SparseParameter) -> list[Tensor]:
        if self.layout == "compact":
            raise OptimizerError(
                "the compact layout keeps moments of written coordinates only. Use layout='dense' or 'signbit' for "
                "scores by momentum or consistency."
            )
        return super()._dense_moments(sparse)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; masks that ride on signs follow the loaded moments.

        Args:
            state_dict: from `state_dict()` of an optimizer of the same layout.
        """
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for p in group["params"]:
                sparse, state = sparse_state(p), self.state.get(p)
                if sparse is None or not state or "exp_avg_sq" not in state:
                    continue
                if self.layout == "signbit":
                    carrier = local(state["exp_avg_sq"]).view(sparse.mask.rows, sparse.mask.cols)
                    sparse.mask = SignBitMask(carrier, sparse.mask.shape)
                elif state.get("block_offsets") is not None:  # torch casts what it loads to the weight's type
                    state["block_offsets"] = state["block_offsets"].to(torch.int32)


class MaskedSGD(_Masked):
    """SGD with coordinates that may be frozen, bit for bit.

    Args:
        params: parameters or groups, as for `torch.optim.SGD`.
        lr: learning rate η.
        momentum: decay μ of the momentum.
        weight_decay: coupled decay λ.
        nesterov: whether the step looks ahead (Sutskever et al., 2013).
        layout: auto or dense; momentum has a sign of its own, and is one array only.
        backend: triton, compile, eager, or auto: see `resu.kernels.backend`; compile runs as eager does.

    Raises:
        OptimizerError: numbers out of range, or another layout.

    >>> from resu.core.mask import SparseMask
    >>> from resu.core.phases import sparsify
    >>> weight = torch.nn.Parameter(torch.ones(1, 2))
    >>> _ = sparsify(weight, SparseMask(torch.tensor([[1, 0]])))
    >>> weight.sum().backward()
    >>> MaskedSGD([weight], lr=0.5, weight_decay=0.1).step()
    >>> [round(x, 4) for x in weight.tolist()[0]]
    [0.45, 1.0]
    """

    _moment_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float | int = 1e-3,
        momentum: float | int = 0.0,
        weight_decay: float | int = 0.0,
        nesterov: bool = False,
        *,
        layout: Layout | str = "auto",
        backend: str = "auto",
    ) -> None:
        _check_range("lr", lr)
        _check_range("weight_decay", weight_decay)
        _check_range("momentum", momentum, 1.0)
        if layout not in ("auto", "dense"):
            raise OptimizerError(
                f"MaskedSGD keeps its momentum dense; got layout {layout!r}. Leave layout out, or use MaskedAdamW."
            )
        if nesterov and not momentum:
            raise OptimizerError("Nesterov's step looks ahead along the momentum; momentum is 0. Give one, say 0.9.")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults, "dense", backend)

    def _step_plain(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        buffers = [self.state[p].get("momentum_buffer") for p in parameters]
        sgd(
            parameters, [cast(Tensor, p.grad) for p in parameters], buffers, weight_decay=group["weight_decay"],
            momentum=group["momentum"], lr=group["lr"], dampening=0.0, nesterov=group["nesterov"], maximize=False,
        )  # fmt: skip
        if group["momentum"]:
            for p, buffer in zip(parameters, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer

    def _step_sparse(self, group: dict[str, Any], sparse: SparseParameter) -> None:
        state = self.state[sparse.parameter]
        if "step_pruned" not in state:
            state["step"] = state["step_pruned"] = 0
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(sparse.parameter.detach()) if group["momentum"] else None
        state["step"] += sparse.phase is not Phase.RESU
        state["step_pruned"] += sparse.phase is not Phase.TRAIN
        buffer = state["momentum_buffer"]
        masked_sgd(
            sparse.weight, cast(Tensor, sparse.gradient),
            None if buffer is None else local(buffer).view(sparse.weight.shape), sparse.mask.bits, sparse.phase,
            lr=float(group["lr"]), lr_pruned=float(group["lr"]) * sparse.pruned_lr_scale, momentum=group["momentum"],
            weight_decay=group["weight_decay"], nesterov=group["nesterov"], first=False,
            backend=self._backend_for(sparse.weight), subset=None if sparse.subset is None else sparse.subset.bits,
            shadow_beta=sparse.beta,
        )  # fmt: skip

    def _state_of(self, sparse: SparseParameter) -> dict[str, Any]:
        """The state of a masked parameter; one from before it had a mask lacks the step counts only."""
        state = super()._state_of(sparse)
        if state and "step_pruned" not in state:
            state["step"] = state["step_pruned"] = 0
        return state

    def _carried(self, sparse: SparseParameter, state: dict[str, Any]) -> tuple[float, ...]:
        if state.get("momentum_buffer") is None:
            return ()
        return (0.0 if sparse.phase in (Phase.SHADOW, Phase.TRAIN) else 1.0,)


def _check_range(name: str, value: float | int, below: float | None = None) -> None:
    if not (value >= 0 and (below is None or value < below)):
        bound = "at least 0" if below is None else f"at least 0 and below {below:g}"
        raise OptimizerError(f"{name} is {bound}; got {value}. Give a number in that range.")
