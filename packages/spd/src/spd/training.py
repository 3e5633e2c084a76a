"""The training loop: components and causal-importance functions of a frozen target."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from spd.config.losses import PersistentPGDReconLoss
from spd.config.run import Config
from spd.config.schedules import learning_rate
from spd.errors import DivergenceError
from spd.losses import sources_of
from spd.metrics.alive import AlivenessTracker
from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.pgd_utils import PersistentSources
from spd.models.component_model import ComponentModel
from spd.models.identity_insertion import insert_identities
from spd.perf.cuda_graph import RecordedStep, refuse_what_cannot_be_recorded
from spd.perf.memory import MemoryPolicy
from spd.sampling import SourceSampler
from spd.step_losses import StepLosses

__all__ = ["StepResult", "Trainer", "build_model", "faithfulness_warmup"]


@dataclass(frozen=True)
class StepResult:
    """What a step computed; tensors stay on the device until somebody reads them.

    Args:
        losses: by name, means over microbatches.
        total: Σ coefficient · loss.
        importances: g of the last microbatch, by site.
        at_zero: by site, g of a row of zeros and how many such rows were left out of the importances.
        peaks: by site, the largest g of each component in each microbatch.
        read: figures that were read already, see `Trainer.figures`.
    """

    losses: dict[str, Float[Tensor, ""]]
    total: Float[Tensor, ""]
    importances: dict[str, Float[Tensor, "... _"]]
    at_zero: dict[str, tuple[Float[Tensor, " _"], int]] = field(default_factory=dict)
    peaks: dict[str, Float[Tensor, "parts _"]] = field(default_factory=dict)
    read: dict[str, float] = field(default_factory=dict)


def build_model(target: nn.Module, config: Config, *, output_attr: str | None = None) -> ComponentModel:
    """Decomposes a target as settings say.

    Args:
        target: the trained network; identities are inserted into it where the settings ask for them.
        config: the settings.
        output_attr: of what the target returns: None = itself, an attribute's name, or "idx_0" for an element.

    Returns:
        The decomposed network, its parameters drawn from the settings' seed.

    Raises:
        TargetError: patterns that cannot be meant, or modules that cannot be decomposed.
    """
    insert_identities(target, config.identity_module_patterns)
    perf = config.perf
    if perf.compile_step and perf.ci_kernel in {"recompute", "triton"}:
        # A compiler cannot look into those, and makes the same of the plain form that it fuses best.
        perf = perf.model_copy(update={"ci_kernel": "broadcast"})
    return ComponentModel(
        target, config.module_info, config.ci, sigmoid_type=config.sigmoid_type, tied_weights=config.tied_weights,
        output_attr=output_attr, perf=perf, generator=torch.Generator().manual_seed(config.seed),
    )  # fmt: skip


def faithfulness_warmup(model: ComponentModel, config: Config) -> None:
    """Trains the components to add up to the weights, before anything else and with an AdamW of its own.

    Args:
        model: the decomposed network.
        config: steps, learning rate and weight decay.
    """
    if not config.faithfulness_warmup_steps:
        return
    parameters = list(model._components.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.faithfulness_warmup_lr, weight_decay=config.faithfulness_warmup_weight_decay
    )
    for _ in range(config.faithfulness_warmup_steps):
        optimizer.zero_grad()
        faithfulness_loss(model.calc_weight_deltas()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


class Trainer:
    """Steps of training.

    Args:
        model: the decomposed network.
        config: how.
        sampler: draws all masks.
        world_size: processes, whose batches are of one size.
        reduce: combines the gradients of shared sources over processes; None on one.

    Attributes:
        step_count: steps taken.
        losses: all losses of a microbatch; whatever stands in for it is called with the same arguments, and, where it
            has a context `no_sync`, within it for all microbatches of a step but the last.
        optimizer: AdamW, for components and causal-importance functions.
        memory: gives memory back.
        alive: which components are still in use. Among several processes it needs a `reduce`.

    Raises:
        ConfigError: switches that contradict each other, or that the device does not have.
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
        self.model, self.config, self.sampler = model, config, sampler
        self.step_count = 0
        self.own_losses = StepLosses(model, config, sampler, world_size=world_size, reduce=reduce)
        self.losses: Callable[..., Any] = self.own_losses
        self.precision = self.own_losses.precision
        self.memory = MemoryPolicy(config.perf, sampler.device)
        self.alive = AlivenessTracker(
            model.module_to_c, config.n_examples_until_dead, config.ci_alive_threshold, config.batch_size
        )
        self._component_parameters = list(model._components.parameters())
        self._ci_parameters = list(model._ci_fns.parameters())
        tied = model.tied_parameters
        own = [p for p in self._component_parameters if id(p) not in tied]
        groups = [
            {"params": own + self._ci_parameters, "factor": 1.0},
            {"params": [p for p in self._component_parameters if id(p) in tied], "factor": config.tied_lr_factor},
        ]
        how: dict[str, dict[str, Any]] = {
            "loop": {"foreach": False},
            "foreach": {"foreach": True},
            "fused": {"fused": True},
        }
        if config.perf.cuda_graph:
            refuse_what_cannot_be_recorded(
                config.perf, sampler.device, accumulates=config.gradient_accumulation_steps > 1,
                changes=self.own_losses.changes,
                keeps_sources=any(isinstance(loss, PersistentPGDReconLoss) for loss in config.loss_metrics),
                ranks=world_size,
            )  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=config.lr_schedule.start_val, weight_decay=0.0,
            capturable=config.perf.cuda_graph, **how[config.perf.optimizer],
        )  # type: ignore[arg-type]  # fmt: skip
        self._recorded: tuple[int, RecordedStep] | None = None

    @property
    def persistent(self) -> dict[int, PersistentSources]:
        """Sources that are kept between steps, by the place of their loss."""
        return self.own_losses.persistent

    def step(self, batches: Iterator[Shaped[Tensor, "..."]], *, log: bool = False) -> StepResult:
        """One step over as many microbatches as the settings say.

        Without `lazy_metrics` all figures are read from the device at every step, one by one, as the original does;
        with it they are read when they are to be logged, at once.

        Args:
            batches: where they come from.
            log: figures of this step will be logged.

        Returns:
            What it computed.

        Raises:
            torch.OutOfMemoryError: also after memory was given back, where the settings say "on_oom".
        """
        rate = learning_rate(self.config.lr_schedule, self.step_count, self.config.steps)
        self._set_rate(rate)
        if self.config.perf.cuda_graph:
            result = self._replayed(batches)
        else:
            retries = self.memory.retries and self.own_losses.world_size == 1
            result = self._twice_if_needed(batches) if retries else self._gradients(batches)
            self._update()
        self.step_count += 1
        self.alive.watch(result.peaks)
        if not self.config.perf.lazy_metrics:
            result.read.update({name: value.item() for name, value in self._scalars(result).items()})
        elif log:
            self.figures(result)
        return result

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if not self.config.perf.cuda_graph:
                group["lr"] = rate * group["factor"]
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * group["factor"])
            else:
                group["lr"] = torch.full((), rate * group["factor"], device=self.sampler.device)

    def _replayed(self, batches: Iterator[Tensor]) -> StepResult:
        """A step from a recording, which is made anew where training went on from elsewhere."""

        def step(batch: Tensor) -> StepResult:
            result = self._gradients(iter([batch]))
            self._update()
            return result

        if self._recorded is None or self._recorded[0] != self.step_count:
            self._recorded = (self.step_count, RecordedStep(step, self.sampler.generator))
        recorded = self._recorded[1]
        found: StepResult = recorded(next(batches))
        self._recorded = (self.step_count + 1, recorded)
        # Copies: the next replay writes to the same places.
        return replace(
            found, total=found.total.clone(), read={}, losses=_copies(found.losses), peaks=_copies(found.peaks),
            importances=_copies(found.importances),
        )  # fmt: skip

    def _gradients(self, batches: Iterator[Tensor]) -> StepResult:
        parts, fraction = self.config.gradient_accumulation_steps, self.step_count / self.config.steps
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        total: Tensor | None = None
        importances: dict[str, Tensor] = {}
        found: list[dict[str, Tensor]] = []
        alone = getattr(self.losses, "no_sync", nullcontext)
        for part in range(parts):
            with nullcontext() if part == parts - 1 else alone():
                one, values, importances = self.losses(next(batches), fraction)
                one = one / parts
                with self.own_losses._within("backward"):
                    self.precision.backward(one)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value / parts
            total = one.detach() if total is None else total + one.detach()
            found.append(_peaks(importances, self.own_losses.at_zero))
        peaks = {name: torch.stack([one[name] for one in found]) for name in importances}
        return StepResult(sums, cast(Tensor, total), importances, self.own_losses.at_zero, peaks)

    def _twice_if_needed(self, batches: Iterator[Tensor]) -> StepResult:
        """Once more with the same batches and random numbers where memory ran out, after what there is was collected.

        Among several processes this would leave the others waiting; there the error goes on at once.
        """
        seen: list[Tensor] = []
        state = self.sampler.state_dict()
        kept = {index: sources.state_dict() for index, sources in self.persistent.items()}
        try:
            return self._gradients(_noted(batches, seen))
        except torch.OutOfMemoryError:
            pass
        # Only here is the error, with the frames and tensors that it holds, let go.
        self.optimizer.zero_grad()
        self.memory.give_back()
        self.sampler.load_state_dict(state)
        for index in list(self.persistent):
            if index in kept:
                self.persistent[index].load_state_dict(kept[index])
            else:
                del self.persistent[index]
        return self._gradients(chain(seen, batches))

    def _update(self) -> None:
        with self.own_losses._within("optimizer"):
            self.precision.unscale(self.optimizer)
            for parameters, limit in (
                (self._component_parameters, self.config.grad_clip_norm_components),
                (self._ci_parameters, self.config.grad_clip_norm_ci_fns),
            ):
                if limit is not None:
                    nn.utils.clip_grad_norm_(parameters, limit)
            self.precision.step(self.optimizer)

    def _scalars(self, result: StepResult) -> dict[str, Tensor]:
        """Figures of a step, on the device."""
        found = {f"loss/{name}": value for name, value in result.losses.items()}
        found["loss/total"] = result.total
        threshold = self.config.ci_alive_threshold
        for name, g in result.importances.items():
            active, rows = (g > threshold).sum(), g[..., 0].numel()
            if name in result.at_zero:
                row, n = result.at_zero[name]
                active, rows = active + n * (row > threshold).sum(), rows + n
            found[f"L0/{name}"] = active / rows
        return found

    def figures(self, result: StepResult) -> dict[str, float]:
        """Figures of a step, for a log: losses, and L0, the mean number of components above the threshold, by site.

        Args:
            result: of the step.

        Returns:
            By name: "loss/…", "loss/total", "L0/…", "alive/…" (components that are in use, after the last step) and
            "lr". What was not read before is read from the device in one transfer.
        """
        if "lr" not in result.read:
            scalars = {} if result.read else self._scalars(result)
            scalars |= {f"alive/{name}": n for name, n in self.alive.n_alive().items()}
            numbers = torch.stack([value.double() for value in scalars.values()]).tolist()
            result.read.update(zip(scalars, numbers, strict=True))
            result.read["lr"] = float(self.optimizer.param_groups[0]["lr"])
        return dict(result.read)

    def persistent_sources(self, index: int) -> PersistentSources:
        """Sources for a loss of the settings, to be filled.

        Args:
            index: the loss's place.

        Returns:
            The sources.
        """
        loss = self.config.loss_metrics[index]
        assert isinstance(loss, PersistentPGDReconLoss)
        return sources_of(loss)

    def check(self, figures: Mapping[str, float]) -> None:
        """Refuses to go on where a loss is not finite.

        Args:
            figures: of a step, see `figures`.

        Raises:
            DivergenceError: names the losses.
        """
        losses = {name.removeprefix("loss/"): value for name, value in figures.items() if name.startswith("loss/")}
        broken = [name for name, value in losses.items() if name != "total" and not math.isfinite(value)]
        if broken:
            raise DivergenceError(
                f"a loss is a finite number; at step {self.step_count - 1} {', '.join(broken)} is not. The last "
                "checkpoint is whole: go on from it with a smaller learning rate, or with gradients clipped."
            )

    def check_parameters(self) -> None:
        """Refuses to go on where a parameter is not finite, so that no checkpoint holds one.

        Raises:
            DivergenceError: names the first.
        """
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        finite = torch.stack([p.detach().isfinite().all() for _, p in named]).tolist()
        broken = [name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite]
        if broken:
            raise DivergenceError(
                f"a parameter is finite; after step {self.step_count - 1} {broken[0]} is not. The last checkpoint is "
                "whole: go on from it with a smaller learning rate, or with gradients clipped."
            )


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def _peaks(importances: Mapping[str, Tensor], at_zero: Mapping[str, tuple[Tensor, int]]) -> dict[str, Tensor]:
    """The largest importance of each component, rows that were left out included."""
    found = {}
    for name, g in importances.items():
        rows = g.flatten(0, -2)
        if name in at_zero and at_zero[name][1]:
            rows = torch.cat([rows, at_zero[name][0].unsqueeze(0)])
        found[name] = rows.amax(0)
    return found


def _noted(batches: Iterator[Tensor], seen: list[Tensor]) -> Iterator[Tensor]:
    for batch in batches:
        seen.append(batch)
        yield batch
