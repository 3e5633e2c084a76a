"""The training loop: components and causal-importance functions of a frozen target."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from spd.config.losses import PersistentPGDReconLoss
from spd.config.run import Config
from spd.config.schedules import learning_rate
from spd.errors import DivergenceError
from spd.losses import LossContext, compute_losses, deltas_for, sources_of, total_loss
from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.pgd_utils import PersistentSources
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.models.identity_insertion import insert_identities
from spd.sampling import SourceSampler

__all__ = ["StepLosses", "StepResult", "Trainer", "build_model", "faithfulness_warmup"]


@dataclass(frozen=True)
class StepResult:
    """What a step computed; tensors stay on the device until somebody reads them.

    Args:
        losses: by name, means over microbatches.
        total: Σ coefficient · loss.
        importances: g of the last microbatch, by site.
    """

    losses: dict[str, Float[Tensor, ""]]
    total: Float[Tensor, ""]
    importances: dict[str, Float[Tensor, "... _"]]


def build_model(target: nn.Module, config: Config) -> ComponentModel:
    """Decomposes a target as settings say.

    Args:
        target: the trained network; identities are inserted into it where the settings ask for them.
        config: the settings.

    Returns:
        The decomposed network, its parameters drawn from the settings' seed.

    Raises:
        TargetError: patterns that cannot be meant, or modules that cannot be decomposed.
    """
    insert_identities(target, config.identity_module_patterns)
    return ComponentModel(
        target, config.module_info, config.ci, sigmoid_type=config.sigmoid_type, tied_weights=config.tied_weights,
        perf=config.perf, generator=torch.Generator().manual_seed(config.seed),
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
        self.persistent: dict[int, PersistentSources] = {}
        self._inert: bool | None = None if config.perf.row_dedup else False

    def forward(
        self, batch: Shaped[Tensor, "..."], fraction: float
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]], dict[str, Float[Tensor, "... _"]]]:
        """The losses.

        Args:
            batch: the target's input.
            fraction: of training done.

        Returns:
            Σ coefficient · loss, the losses by name, and g by site.
        """
        config, model = self.config, self.model
        positions, dropped = None, None
        if self._inert is None:
            self._inert = self._zero_is_inert(batch)
        if self._inert:
            kept = batch.any(-1)
            positions, batch = batch.shape[0], batch[kept]
            dropped = self._at_zero(positions - batch.shape[0])
        run = TargetRun.of(model, batch, config.output_loss_type, positions=positions)
        ci = model.calc_causal_importances(run.acts, config.sampling, sampler=self.sampler, known=run.known)
        deltas = deltas_for(config.perf.delta_mode, config.use_delta_component, model.calc_weight_deltas)
        context = LossContext(
            run, ci, self.sampler, config.sampling, deltas,
            (lambda: deltas) if isinstance(deltas, Mapping) else model.calc_weight_deltas,
            n_mask_samples=config.n_mask_samples, fraction=fraction,
            detach_pgd=config.perf.pgd_detach, persistent=self.persistent, dropped=dropped,
            world_size=self.world_size, reduce=self.reduce,
        )  # fmt: skip
        values = compute_losses(config.loss_metrics, context)
        return total_loss(config.loss_metrics, values), values, ci.lower_leaky

    def _zero_is_inert(self, batch: Tensor) -> bool:
        """Whether an input of zeros reaches every site as zeros: masks then change nothing there."""
        if not batch.is_floating_point() or batch.dim() != 2:
            return False
        run = TargetRun.of(self.model, torch.zeros_like(batch[:1]), self.config.output_loss_type)
        return all(not bool(x.any()) for x in run.acts.values())

    def _at_zero(self, n: int) -> dict[str, tuple[Tensor, int]]:
        zeros = {
            name: torch.zeros(1, components.V.shape[0], device=components.V.device, dtype=components.V.dtype)
            for name, components in self.model.components.items()
        }
        ci = self.model.calc_causal_importances(zeros)
        return {name: (g[0], n) for name, g in ci.upper_leaky.items()}


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
        losses: all losses of a microbatch; whatever stands in for it is called with the same arguments.
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
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=config.lr_schedule.start_val, weight_decay=0.0,
            **how[config.perf.optimizer],
        )  # type: ignore[arg-type]  # fmt: skip

    @property
    def persistent(self) -> dict[int, PersistentSources]:
        """Sources that are kept between steps, by the place of their loss."""
        return self.own_losses.persistent

    def step(self, batches: Iterator[Shaped[Tensor, "..."]]) -> StepResult:
        """One step over as many microbatches as the settings say.

        Args:
            batches: where they come from.

        Returns:
            What it computed.
        """
        config, parts = self.config, self.config.gradient_accumulation_steps
        rate = learning_rate(config.lr_schedule, self.step_count, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        total: Tensor | None = None
        importances: dict[str, Tensor] = {}
        for _ in range(parts):
            one, values, g = self.losses(next(batches), self.step_count / config.steps)
            one = one / parts
            one.backward()  # type: ignore[no-untyped-call]
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / parts
            total = one.detach() if total is None else total + one.detach()
            importances = {name: one_g.detach() for name, one_g in g.items()}
        for parameters, limit in (
            (self._component_parameters, config.grad_clip_norm_components),
            (self._ci_parameters, config.grad_clip_norm_ci_fns),
        ):
            if limit is not None:
                nn.utils.clip_grad_norm_(parameters, limit)
        self.optimizer.step()
        self.step_count += 1
        return StepResult(sums, cast(Tensor, total), importances)

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

    def check(self, result: StepResult) -> None:
        """Refuses to go on where a loss is not finite.

        Args:
            result: of a step.

        Raises:
            DivergenceError: names the losses.
        """
        broken = [name for name, value in result.losses.items() if not bool(value.isfinite())]
        if broken:
            raise DivergenceError(
                f"a loss is a finite number; at step {self.step_count - 1} {', '.join(broken)} is not. The last "
                "checkpoint is whole: go on from it with a smaller learning rate, or with gradients clipped."
            )
