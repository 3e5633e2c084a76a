"""The target's own pass over a batch, which every reconstruction is compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spd.metrics.output_loss import OutputLossType, SumAndCount, divergence, output_loss
from spd.models.component_model import ComponentModel, OutputWithCache
from spd.models.masks import ComponentsMaskInfo, Interpolated, Mask
from spd.models.sites import Known, KnownSites

__all__ = ["TargetRun"]


_FEW_MASKS = 1 << 20
"""Numbers in a pass's masks below which `free_intermediates` lets nothing go: it would cost more than it gives back."""


@dataclass(frozen=True)
class TargetRun:
    """A batch, and what the target makes of it.

    Args:
        model: the decomposed network.
        batch: its input.
        output: the target's output.
        acts: what each site read.
        kind: how outputs are compared.
        known: for masked passes, see `ComponentModel.known_sites`.
        positions: how many positions the batch stands for, where some that add nothing to a reconstruction were left
            out; None = all are here.
        log_p: for "kl", logarithms of the target's probabilities; None = computed for each comparison.
    """

    model: ComponentModel
    batch: Shaped[Tensor, "..."]
    output: Float[Tensor, "..."]
    acts: Mapping[str, Shaped[Tensor, "..."]]
    kind: OutputLossType
    known: Mapping[str, Known] = field(default_factory=dict)
    positions: int | None = None
    log_p: Float[Tensor, "..."] | None = None

    @classmethod
    def of(
        cls, model: ComponentModel, batch: Shaped[Tensor, "..."], kind: OutputLossType, *, positions: int | None = None
    ) -> "TargetRun":
        """Runs the target.

        Args:
            model: the decomposed network.
            batch: its input.
            kind: how outputs are compared.
            positions: how many positions the batch stands for.

        Returns:
            What it showed.
        """
        with torch.no_grad():
            run = model(batch, cache_type="input")
            assert isinstance(run, OutputWithCache)
            known = kind == "kl" and model.perf.reuse_prefix and model.by_hand
            log_p = torch.log_softmax(run.output.float(), dim=-1) if known else None
        return cls(model, batch, run.output, run.cache, kind, model.known_sites(run), positions, log_p)

    def part(self, n: int) -> "TargetRun":
        """The first examples of the batch.

        Args:
            n: how many.

        Returns:
            The target's pass over these.
        """
        known = KnownSites()
        for name, one in self.known.items():
            if one.holds:  # the parts share their counts of changes with the whole
                known[name] = replace(one, x=one.x[:n], out=one.out[:n], h=None if one.h is None else one.h[:n])
        positions = self.positions
        if positions is not None:
            positions = max(n, round(positions * n / self.batch.shape[0]))
        return TargetRun(
            self.model, self.batch[:n], self.output[:n], {name: x[:n] for name, x in self.acts.items()}, self.kind,
            known, positions, None if self.log_p is None else self.log_p[:n],
        )  # fmt: skip

    def masked(self, mask_infos: Mapping[str, ComponentsMaskInfo], *, searching: bool = False) -> SumAndCount:
        """One pass with masks, and how far its output is from the target's.

        With `free_intermediates` the gradients of a large pass are taken at once, and its activations let go: what
        remains until the backward pass are gradients of importances, inner activations and parameters.

        Args:
            mask_infos: masks by site.
            searching: an adversary takes the gradients of its sources, and no others.

        Returns:
            Sum and divisor.
        """
        if self._lets_go(mask_infos) and not searching:
            return self._settled(mask_infos)
        return self._compared(mask_infos, self.known)

    def _lets_go(self, mask_infos: Mapping[str, ComponentsMaskInfo]) -> bool:
        perf = self.model.perf
        # Scaled losses exist because gradients of unscaled ones are too small for 16 bits.
        if not perf.free_intermediates or perf.amp == "fp16" or not self.model.by_hand or not torch.is_grad_enabled():
            return False
        positions = self.acts[next(iter(mask_infos))].shape
        positions = positions if self.output.dim() == len(positions) + 1 else positions[:-1]
        return math.prod(positions) * sum(self.model.module_to_c[name] for name in mask_infos) >= _FEW_MASKS

    def _compared(self, mask_infos: Mapping[str, ComponentsMaskInfo], known: Mapping[str, Known]) -> SumAndCount:
        def run() -> Tensor:
            return cast(Tensor, self.model(self.batch, mask_infos=mask_infos, known=known))

        if self.model.perf.grad_checkpointing and torch.is_grad_enabled():
            # Masks were drawn before: nothing in the pass is random.
            out = checkpoint(run, use_reentrant=False, preserve_rng_state=False)
        else:
            out = run()
        if self.log_p is not None:
            return divergence(out, self.log_p, positions=self.positions)
        return output_loss(out, self.output, self.kind, positions=self.positions)

    def _settled(self, mask_infos: Mapping[str, ComponentsMaskInfo]) -> SumAndCount:
        cuts = _Cuts()
        infos = {name: cuts.info(info) for name, info in mask_infos.items()}
        known = {
            name: replace(one, h=cuts.cut(one.h)) if name in mask_infos else one for name, one in self.known.items()
        }
        stretches = self.known.stretches if isinstance(self.known, KnownSites) else None
        found = self._compared(infos, KnownSites(known, stretches))
        if not found.total.requires_grad:
            return found
        trained = self.model.parameters_of(mask_infos)
        gradients = torch.autograd.grad(found.total, [*cuts.inner, *trained], allow_unused=True)
        used = [(t, grad) for t, grad in zip([*cuts.outer, *trained], gradients, strict=True) if grad is not None]
        total = _Settled.apply(found.total.detach(), [grad for _, grad in used], *[t for t, _ in used])
        return SumAndCount(cast(Tensor, total), found.count)


class _Cuts:
    """Tensors that a pass reads, and stand-ins at which its gradients end."""

    def __init__(self) -> None:
        self.outer: list[Tensor] = []
        self.inner: list[Tensor] = []

    def cut(self, tensor: Any) -> Any:
        if tensor is None or not tensor.requires_grad:
            return tensor
        for outer, inner in zip(self.outer, self.inner, strict=True):
            if outer is tensor:
                return inner
        self.outer.append(tensor)
        self.inner.append(tensor.detach().requires_grad_())
        return self.inner[-1]

    def info(self, info: ComponentsMaskInfo) -> ComponentsMaskInfo:
        mask, delta = info.component_mask, info.weight_delta_and_mask
        cut: Mask = (
            Interpolated(self.cut(mask.importance), self.cut(mask.sources))
            if isinstance(mask, Interpolated)
            else self.cut(mask)
        )
        return ComponentsMaskInfo(
            cut, info.routing_mask, None if delta is None else (self.cut(delta[0]), self.cut(delta[1]))
        )


class _Settled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(gradients[0] * gradient for gradient in ctx.gradients)
