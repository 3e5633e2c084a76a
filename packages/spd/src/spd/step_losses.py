"""All losses of one microbatch, from a batch and random numbers to their weighted sum."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from spd.config.losses import FaithfulnessLoss, ImportanceMinimalityLoss, LossConfig
from spd.config.run import Config
from spd.drawing import PlannedCall
from spd.losses import LossContext, compute_losses, deltas_for, total_loss
from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.importance_minimality import annealed_p, importance_minimality_loss
from spd.metrics.pgd_utils import PersistentSources
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.perf.compiling import compile_methods, compile_modules, compiled
from spd.perf.precision import Precision
from spd.sampling import SourceSampler
from spd.traced import SEARCHING, traced_loss

__all__ = ["StepLosses"]

_ROW_BLOCK = 64
"""Rows of a compiled step come in multiples of this where rows of zeros are left out."""


class StepLosses(nn.Module):
    """All losses of one microbatch, as a module of its own: it can be compiled, or shared among processes, as a whole.

    Args:
        model: the decomposed network.
        config: how.
        sampler: draws all masks.
        world_size: processes, whose batches are of one size.
        reduce: combines the gradients of shared sources over processes; None on one.

    Attributes:
        persistent: sources that are kept between steps, by the place of their loss.
        broadcast: makes shared sources what the first process drew; None on one.
        at_zero: of the last microbatch, see `StepResult`.
        phase: a context around each part of the work, for a profiler; None = nobody looks.

    Raises:
        ConfigError: a precision that the device does not have.
    """

    def __init__(
        self,
        model: ComponentModel,
        config: Config,
        sampler: SourceSampler,
        *,
        world_size: int = 1,
        reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.config, self.sampler = model, config, sampler
        self.world_size, self.reduce = world_size, reduce
        self.broadcast: Callable[[Tensor], Tensor] | None = None
        self.persistent: dict[int, PersistentSources] = {}
        self.at_zero: dict[str, tuple[Tensor, int]] = {}
        self.phase: Callable[[str], AbstractContextManager[object]] | None = None
        self.precision = Precision(config.perf.amp, sampler.device)
        self._inert: bool | None = None if config.perf.row_dedup else False
        self._names = _names_of(config.loss_metrics)
        self._alone: dict[int, Callable[..., Tensor]] = {}
        self._planned: PlannedCall | None = None
        self._compile()

    def forward(
        self, batch: Shaped[Tensor, "..."], fraction: float
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], dict[str, Float[Tensor, "... _"]]]:
        """The losses.

        Args:
            batch: the target's input.
            fraction: of training done.

        Returns:
            Σ coefficient · loss; without gradients the losses by name, and g by site.
        """
        positions = None
        if self._inert is None:
            self._inert = self._zero_is_inert(batch)
        if self._inert:
            positions, batch = batch.shape[0], self._without_zeros(batch)
        if self._planned is None:
            total, values, g, at_zero = self._everything(self.sampler, batch, fraction, positions, self.persistent, {})
        else:
            started = sum(bool(kept.sources) for kept in self.persistent.values())
            at = fraction if self.config.perf.pgd_schedule is not None else 0.0
            total, values, g, at_zero = self._planned(
                (tuple(batch.shape), started), self.sampler, batch, at, positions, self.persistent,
                self._powers(fraction),
            )  # fmt: skip
        n = 0 if positions is None else positions - batch.shape[0]
        self.at_zero = {name: (row, n) for name, row in at_zero.items()}
        return total, values, g

    def _everything(
        self,
        sampler: SourceSampler,
        batch: Tensor,
        fraction: float,
        positions: int | None,
        persistent: dict[int, PersistentSources],
        powers: Mapping[int, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """What is compiled for `compile_step`: all from a batch and random numbers to the losses.

        Numbers that change from step to step come as arguments, powers as tensors: of numbers that a module holds, a
        compiler takes each value for a program of its own.
        """
        config, model = self.config, self.model
        with self.precision.reduced():
            with self._within("target"):
                run = TargetRun.of(model, batch, config.output_loss_type, positions=positions)
            with self._within("importances"):
                inert = positions is not None
                ci = model.calc_causal_importances(
                    run.acts, config.sampling, sampler=sampler, known=run.known, at_zero=inert
                )
                n = 0 if positions is None else positions - batch.shape[0]
                dropped = {name: (row, n) for name, (_, row) in ci.at_zero.items()} if inert else None
                at_zero = {name: row.detach() for name, (row, _) in ci.at_zero.items()}
            with self._within("deltas"):
                deltas = deltas_for(config.perf.delta_mode, config.use_delta_component, self._weight_deltas)
            context = LossContext(
                run, ci, sampler, config.sampling, deltas,
                (lambda: deltas) if isinstance(deltas, Mapping) else self._weight_deltas,
                n_mask_samples=config.n_mask_samples, fraction=fraction,
                detach_pgd=config.perf.pgd_detach, pgd_schedule=config.perf.pgd_schedule,
                pgd_batch_fraction=config.perf.pgd_batch_fraction, persistent=persistent, dropped=dropped,
                world_size=self.world_size, reduce=self.reduce, broadcast=self.broadcast,
            )  # fmt: skip
            values = self._values(context, powers)
            total = total_loss(config.loss_metrics, values)
        # Only the total leads back to the parameters: what is shared among processes waits for all that an output
        # leads to.
        found = {name: value.detach() for name, value in values.items()}
        return total, found, {name: g.detach() for name, g in ci.lower_leaky.items()}, at_zero

    def _weight_deltas(self) -> Mapping[str, Tensor]:
        """Differences of nearly equal numbers, which 16 bits cannot tell apart."""
        with self.precision.full():
            return self.model.calc_weight_deltas()

    def _within(self, name: str) -> AbstractContextManager[object]:
        return nullcontext() if self.phase is None or torch.compiler.is_compiling() else self.phase(name)

    # --- one loss at a time -------------------------------------------------------------------------------------------

    def _values(self, context: LossContext, powers: Mapping[int, Tensor]) -> dict[str, Tensor]:
        losses = self.config.loss_metrics
        if self.phase is None and not self._alone:
            return compute_losses(losses, context)
        found = {}
        for index, name in enumerate(self._names):
            with self._within(name):
                found[name] = self._value(index, context, powers.get(index))
        return found

    def _value(self, index: int, context: LossContext, power: Tensor | None) -> Tensor:
        if index in self._alone:
            return self._alone[index](context, power)
        persistent = context.persistent
        kept = {0: persistent[index]} if index in persistent else {}
        (value,) = compute_losses((self.config.loss_metrics[index],), replace(context, persistent=kept)).values()
        if kept:
            persistent[index] = kept[0]
        return value

    # --- rows of zeros ------------------------------------------------------------------------------------------------

    def _without_zeros(self, batch: Tensor) -> Tensor:
        """The rows that are not all zeros. For a compiled step some zeros stay, so that few shapes occur."""
        kept = batch.any(-1)
        if self._planned is None:
            return batch[kept]
        rows = min(batch.shape[0], -(-int(kept.sum()) // _ROW_BLOCK) * _ROW_BLOCK)
        return batch[kept.logical_not().argsort(stable=True)[:rows]]

    def _zero_is_inert(self, batch: Tensor) -> bool:
        """Whether an input of zeros reaches every site as zeros: masks then change nothing there."""
        if not batch.is_floating_point() or batch.dim() != 2:
            return False
        run = TargetRun.of(self.model, torch.zeros_like(batch[:1]), self.config.output_loss_type)
        return all(not bool(x.any()) for x in run.acts.values())

    # --- compilation --------------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        perf, model, losses = self.config.perf, self.model, self.config.loss_metrics
        if perf.compile_step:
            for index, loss in enumerate(losses):
                if isinstance(loss, SEARCHING) and perf.pgd_batch_fraction == 1:
                    self._alone[index] = partial(_searching, loss, index)
                elif isinstance(loss, ImportanceMinimalityLoss) and loss.p_anneal_final_p is not None:
                    self._alone[index] = partial(_minimality, loss, importance_minimality_loss)
            self._planned = PlannedCall(self._everything, perf.compile_mode)
            return
        if perf.compile_ci_fns:
            compile_modules(model.ci_fns.values(), perf.compile_mode)
        if perf.compile_components:
            parts = model.components.values()
            compile_modules(parts, perf.compile_mode)
            compile_methods(parts, ("get_inner_acts", "from_inner_acts", "folded", "unmasked"), perf.compile_mode)
        if perf.compile_target:
            compile_modules([model.target_model], perf.compile_mode)
        if perf.compile_losses:
            for index, loss in enumerate(losses):
                if isinstance(loss, FaithfulnessLoss):
                    self._alone[index] = partial(_faithfulness, compiled(faithfulness_loss, perf.compile_mode))
                elif isinstance(loss, ImportanceMinimalityLoss):
                    minimality = compiled(importance_minimality_loss, perf.compile_mode)
                    self._alone[index] = partial(_minimality, loss, minimality)

    @property
    def changes(self) -> bool:
        """Whether a loss depends on how far training has come."""
        return self.config.perf.pgd_schedule is not None or bool(self._powers(0.0))

    def _powers(self, fraction: float) -> dict[int, Tensor]:
        """The powers that change as training goes on, on the device."""
        return {
            index: torch.full((), _power(loss, fraction), device=self.sampler.device)
            for index, loss in enumerate(self.config.loss_metrics)
            if isinstance(loss, ImportanceMinimalityLoss) and loss.p_anneal_final_p is not None
        }


def _power(loss: ImportanceMinimalityLoss, fraction: float) -> float:
    return annealed_p(
        fraction, loss.pnorm, start_frac=loss.p_anneal_start_frac, final_p=loss.p_anneal_final_p,
        end_frac=loss.p_anneal_end_frac,
    )  # fmt: skip


def _searching(loss: LossConfig, index: int, at: LossContext, power: Tensor | None) -> Tensor:
    return traced_loss(loss, index, at)


def _faithfulness(function: Callable[..., Tensor], at: LossContext, power: Tensor | None) -> Tensor:
    return function(at.weight_deltas())


def _minimality(
    loss: ImportanceMinimalityLoss, function: Callable[..., Tensor], at: LossContext, power: Tensor | None
) -> Tensor:
    return function(
        at.ci.upper_leaky, _power(loss, at.fraction) if power is None else power, eps=loss.eps, beta=loss.beta,
        world_size=at.world_size, dropped=at.dropped,
    )  # fmt: skip


def _names_of(losses: Sequence[LossConfig]) -> list[str]:
    """As `compute_losses` names them."""
    kinds = [str(loss.classname) for loss in losses]
    counts = [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]
    return [kind if count == 1 else f"{kind}_{count}" for kind, count in zip(kinds, counts, strict=True)]
