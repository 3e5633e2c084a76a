"""RESU in a fixed number of steps: pruned weights train by turns with active ones and compete to come back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from resu.baselines.method import Method, MethodConfig, sparse_start
from resu.config import CycleConfig, Preset
from resu.core.amnesty import Amnesty
from resu.core.phases import Phase
from resu.core.reports import CommitReport
from resu.core.selective import RESUSelective
from resu.errors import OptimizerError
from resu.mask_changes import drop_states
from resu.schedules import cycle_sparsities

__all__ = ["ResuConfig", "ResuCycles", "ResuPaperConfig"]


class ResuConfig(MethodConfig):
    """Settings of `ResuCycles` as this package recommends them.

    Args:
        changes: settings of `resu.config.CycleConfig` that differ from its defaults. Length of a cycle, target and
            distribution are those of the training at hand.

    Raises:
        pydantic.ValidationError: no settings of a cycle.
    """

    name: Literal["resu"] = "resu"
    changes: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _build_the_cycle(self) -> "ResuConfig":
        self.cycle()
        return self

    def cycle(self) -> CycleConfig:
        """The settings of the cycles."""
        return self._preset("default")

    def _preset(self, name: Preset) -> CycleConfig:
        return CycleConfig.preset(name, **{"pruning": "magnitude", **self.changes})


class ResuPaperConfig(ResuConfig):
    """Settings of `ResuCycles` as published: the preset "paper" of `resu.config.CycleConfig`.

    Two of its values give way to what all methods share: layer densities are the sparsifier's, and pruning is by |w|,
    since a method sees no inputs to calibrate Wanda with.

    Args:
        changes: settings that differ from the preset.
    """

    name: Literal["resu_paper"] = "resu_paper"  # type: ignore[assignment]  # another tag, for the same class of method

    def cycle(self) -> CycleConfig:
        """The settings of the cycles."""
        return self._preset("paper")


class ResuCycles(Method[ResuConfig]):
    """Cycles of TRAIN, PRUNE, STABILIZE, RESU and COMMIT, then recovery, all within the steps of the training.

    By default the training starts with random masks like the other sparse methods (`prune_first`); otherwise dense, and
    the first PRUNE makes it sparse. A cycle in which nothing is pruned yet trains through its RESU phase.

    Attributes:
        commits: what each commit did, in order.
    """

    def _start(self) -> None:
        goal = {"target_sparsity": self.sparsifier.target, "distribution": self.sparsifier.distribution}
        self.cycle = self.config.cycle().model_copy(update=goal).for_steps(self.steps)
        self.commits: list[CommitReport] = []
        self._amnesty = Amnesty(self.cycle.amnesty_start, self.cycle.amnesty_end, self.cycle.num_cycles)
        self._sparsities = cycle_sparsities(self.cycle)
        self._selective: list[RESUSelective] = []
        if self.cycle.prune_first:
            sparse_start(self.sparsifier, self._sparsities[0])

    def before_step(self, step: int) -> None:
        """Prunes and enters RESU where it is time."""
        cycle, offset = divmod(step, self.cycle.steps_per_cycle)
        if cycle >= self.cycle.num_cycles:
            return
        phases = self.cycle.phase_steps
        if offset == phases["train"]:
            self._prune(self._sparsities[cycle])
        if offset == phases["train"] + phases["stabilize"] and self.sparsifier.sparsity > 0:
            self._enter()

    def after_backward(self, step: int) -> bool:
        """In RESU, steps θ where RESU-Selective does that, and keeps the optimizer from what stands still."""
        if self.sparsifier.phase is not Phase.RESU:
            return True
        layers = self.sparsifier.parameters.values()
        for sparse, selective in zip(layers, self._selective, strict=False):
            selective.step(cast(Any, sparse.gradient).view(sparse.mask.shape))
        if self._selective and self.cycle.freeze_others:
            return False
        if self._selective:
            for sparse in layers:
                sparse.parameter.grad = None
        elif self.cycle.freeze_others:
            held = {id(sparse.parameter) for sparse in layers}
            for group in self._param_groups():
                for parameter in group["params"]:
                    if id(parameter) not in held:
                        parameter.grad = None
        return True

    def after_step(self, step: int) -> None:
        """Commits at the end of a RESU phase."""
        cycle, offset = divmod(step, self.cycle.steps_per_cycle)
        if self.sparsifier.phase is Phase.RESU and offset == self.cycle.steps_per_cycle - 1:
            budget = self._amnesty.resurrection_budget(cycle)
            self.commits.append(self.sparsifier.commit(self.cycle.commit_strategy, budget, self.cycle.score))
            self._selective = []

    def state_dict(self) -> dict[str, Any]:
        """What each commit did, and within RESU the running means of RESU-Selective."""
        return {
            "commits": [asdict(report) for report in self.commits],
            "selective": [selective.state_dict() for selective in self._selective],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a state.

        Args:
            state: from `state_dict`.

        Raises:
            CheckpointError: a state of another method, or of other masks.
        """
        super().load_state_dict(state)
        self.commits = [_report(kept) for kept in state["commits"]]
        self._selective = self._selectives() if state["selective"] else []
        for selective, kept in zip(self._selective, state["selective"], strict=True):
            selective.load_state_dict(kept)

    def _prune(self, sparsity: float) -> None:
        if abs(self.sparsifier.sparsity - sparsity) > max(self.cycle.prune_tolerance, 1e-9):
            self.sparsifier.prune("random" if self.cycle.pruning == "random" else "magnitude", sparsity)

    def _enter(self) -> None:
        c = self.cycle
        scale = c.resu_lr_scale
        if c.resu_lr is not None and not c.use_selective:
            scale = c.resu_lr / max(float(self._param_groups()[0]["lr"]), 1e-12)
        if c.clear_state:
            drop_states(self.sparsifier.parameters, cast(Any, self.sparsifier.optimizer).state)
        self.sparsifier.enter_resu(c.resu_init, c.resu_epsilon, c.resu_subset, scale)
        if c.use_selective:
            self._selective = self._selectives()

    def _selectives(self) -> list[RESUSelective]:
        c = self.cycle
        return [
            RESUSelective(sparse.weight.view(sparse.mask.shape), sparse.mask, c.selection, lr=c.resu_lr or 1e-4)
            for sparse in self.sparsifier.parameters.values()
        ]

    def _param_groups(self) -> list[dict[str, Any]]:
        if self.sparsifier.optimizer is None:
            raise OptimizerError(
                "RESU trains pruned weights by the sparsifier's optimizer, and it has none. Build it with "
                "Sparsifier(model, sparsity, optimizer=optimizer)."
            )
        return cast(Any, self.sparsifier.optimizer).param_groups


def _report(kept: Mapping[str, Any]) -> CommitReport:
    return CommitReport(**{**kept, "layers": {name: _report(layer) for name, layer in kept["layers"].items()}})
