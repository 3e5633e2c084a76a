"""Cycles: train sparse, prune, let pruned weights learn, and let them compete to come back.

One cycle, at a sparsity s_c that the schedule gives:

========== ====== ==================================================================================================
phase      steps
========== ====== ==================================================================================================
TRAIN      60 %   active weights train (shares as published; the defaults are others)
PRUNE             down to s_c, where the weights are not as sparse as that already
STABILIZE  10 %   active weights train with the new mask
RESU       30 %   θ, the pruned weights, train; active ones keep every bit
COMMIT            who is active from now on: a tournament of θ among itself for a reserved share of the places
========== ====== ==================================================================================================

After the last commit active weights train on: what was pruned last needs time to be made up for.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from resu.config import CycleConfig
from resu.core.amnesty import Amnesty
from resu.core.reports import CommitReport
from resu.errors import CheckpointError, ConfigError, OptimizerError
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.optim.stock import Attachment, attach
from resu.schedules import cycle_sparsities
from resu.sparsifier import Sparsifier
from resu.training.prune import Calibration, Pruner, Stabilizer, prune_to
from resu.training.stats import CyclePhase, CycleStats
from resu.training.stepping import ThetaStepping

__all__ = ["RESUCycle", "heed_masks", "stepped"]

_MAY_CHANGE = ("log_every", "eval_every", "checkpoint_every", "checkpoint_steps")


class RESUCycle:
    """The clock of the phases: told of each optimizer step, it does what is due between two steps.

    It neither runs the model nor the optimizer, so it fits into any training loop; `RESUTrainer` is one, the callbacks
    under `resu.integrations` sit in others.

    Args:
        sparsifier: whose masks and phases it drives.
        config: the settings.
        optimizer: what the loop steps: `MaskedAdamW`, `MaskedSGD`, or what `attach` returned.
        pruner: gives the masks of PRUNE; None prunes by `config.pruning`.
        stabilizer: called after each PRUNE, before the steps of STABILIZE; may give better masks.
        calibration: gives the statistics that `config.pruning = "wanda"` needs, by name of parameter.

    Raises:
        ConfigError: a sparsifier with another optimizer, or pruning by "wanda" without inputs.
        OptimizerError: an optimizer that does not keep what the score reads.

    Attributes:
        cycle: the present cycle; the number of cycles during the recovery.
        phase: the present phase.
        step: optimizer steps done.
        done: whether all steps are done.
        history: the cycles that are over.

    >>> model = nn.Linear(8, 8)
    >>> optimizer = MaskedAdamW(model.parameters(), backend="eager")
    >>> config = CycleConfig.preset("quick", steps_per_cycle=10, num_cycles=1, recovery_fraction=0)
    >>> cycle = RESUCycle(Sparsifier(model, 0.5, optimizer=optimizer), config, optimizer)
    >>> cycle.start()
    >>> while not cycle.done:
    ...     optimizer.zero_grad()
    ...     model(torch.ones(1, 8)).sum().backward()
    ...     optimizer.step()
    ...     stats = cycle.advance()
    >>> stats.sparsity, stats.steps
    (0.5, {'train': 5, 'stabilize': 1, 'resu': 4})
    """

    def __init__(
        self,
        sparsifier: Sparsifier,
        config: CycleConfig,
        optimizer: MaskedAdamW | MaskedSGD | Attachment,
        *,
        pruner: Pruner | None = None,
        stabilizer: Stabilizer | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        if config.pruning == "wanda" and pruner is None and calibration is None:
            raise ConfigError(
                "pruning by 'wanda' looks at a layer's inputs; neither a pruner nor calibration was given. Give one, "
                "train with RESUTrainer, which takes them from its loader, or set pruning='magnitude'."
            )
        if sparsifier.optimizer is not optimizer:
            raise ConfigError(
                "a cycle's sparsifier prepares the moments of the optimizer that the loop steps; this one was built "
                f"with {_shown(sparsifier.optimizer)} and the loop steps {_shown(optimizer)}. Give Sparsifier "
                "optimizer=optimizer."
            )
        _check_score(config, optimizer)
        self.sparsifier, self.config, self.optimizer = sparsifier, config, optimizer
        self.pruner, self.stabilizer, self.calibration = pruner, stabilizer, calibration
        self.sparsities = cycle_sparsities(config)
        self.stepping = ThetaStepping(sparsifier, stepped(optimizer), config)
        self.cycle = self.step = 0
        self.phase = CyclePhase.TRAIN
        self.done = False
        self.history: list[CycleStats] = []
        self._started = False
        self._stage = ""  # train, stabilize, resu or recovery: what the steps are counted against
        self._steps_in_stage = 0
        self._begin_counts()

    @property
    def skipped_steps(self) -> int:
        """Steps that were left out because a gradient was not finite, so far."""
        return self.optimizer.skipped_steps + self.stepping.skipped_steps

    def close(self) -> None:
        """Takes the cycle's hooks off the optimizer."""
        self.stepping.close()

    # --- the clock ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """To be called before the first step; further calls do nothing."""
        if self._started:
            return
        self._started = True
        if self.config.prune_first:
            self._prune()
        self._enter("train")
        self._pass_on()

    def advance(self, loss: Float[Tensor, ""] | float | None = None) -> CycleStats | None:
        """To be called after each optimizer step, while gradients are still there.

        Args:
            loss: of that step, for the statistics.

        Returns:
            What became of a cycle, where one has ended.
        """
        self.start()
        if self.done:
            return None
        if loss is not None:
            self._count_loss(loss)
        self.step += 1
        self._steps_in_stage += 1
        self._steps[self.phase] = self._steps.get(self.phase, 0) + 1
        finished = len(self.history)
        self._pass_on()
        return self.history[-1] if len(self.history) > finished else None

    def finish(self) -> None:
        """Ends the training wherever it stands: θ of a RESU phase that is still on competes now."""
        if self.phase is CyclePhase.RESU and not self.done:
            self._commit()
            self.cycle += 1
            self._enter("recovery")
        self.done = True

    def _length(self) -> int:
        if self._stage == "recovery":
            return self.config.recovery_steps
        return self.config.phase_steps[self._stage]

    def _pass_on(self) -> None:
        while not self.done and self._steps_in_stage >= self._length():
            if self._stage == "train":
                self._prune()
                self._enter("stabilize")
            elif self._stage == "stabilize":
                self._enter("resu")
            elif self._stage == "resu":
                self._commit()
                self.cycle += 1
                self._enter("train" if self.cycle < self.config.num_cycles else "recovery")
            else:
                self.done = True

    def _enter(self, stage: str) -> None:
        self._stage, self._steps_in_stage = stage, 0
        if stage == "resu" and self.sparsifier.sparsity > 0:
            self.phase = CyclePhase.RESU
            self.stepping.enter()
            return
        # Where nothing is pruned there is no θ, and the steps of RESU are spent on the weights.
        self.phase = CyclePhase.STABILIZE if stage == "stabilize" else CyclePhase.TRAIN
        self.sparsifier.train()

    # --- between steps ------------------------------------------------------------------------------------------------

    def _prune(self) -> None:
        self.phase = CyclePhase.PRUNE
        pruned = prune_to(self.sparsifier, self.sparsities[self.cycle], self.config, self.pruner, self.calibration)
        if self.stabilizer is not None and pruned:
            masks = self.stabilizer(self.sparsifier)
            if masks is not None:
                self.sparsifier.set_masks(masks)

    def _commit(self) -> None:
        config, was_resu = self.config, self.phase is CyclePhase.RESU
        self.phase = CyclePhase.COMMIT
        budget = Amnesty(config.amnesty_start, config.amnesty_end, config.num_cycles).resurrection_budget(self.cycle)
        report = None
        if was_resu:
            self.stepping.leave()
            report = self.sparsifier.commit(
                config.commit_strategy, budget=budget, score=config.score, sparsity=self.sparsities[self.cycle]
            )
        self.history.append(self._stats(budget, report))
        self._begin_counts()

    # --- statistics ---------------------------------------------------------------------------------------------------

    def _begin_counts(self) -> None:
        self._steps: dict[str, int] = {}
        self._losses: dict[str, tuple[Tensor, Tensor]] = {}
        self._before = (self.skipped_steps, self.stepping.cleared_states)

    def _count_loss(self, loss: Tensor | float) -> None:
        """Sums stay on the loss's device: reading one out would wait for it at every step."""
        value = torch.as_tensor(loss).detach().float()
        finite = value.isfinite()
        total, count = self._losses.get(self.phase, (torch.zeros_like(value), torch.zeros_like(value)))
        self._losses[self.phase] = (total + torch.where(finite, value, 0.0), count + finite)

    def _stats(self, budget: float, report: CommitReport | None) -> CycleStats:
        active = sum(sparse.mask.n_active for sparse in self.sparsifier.parameters.values())
        skipped, cleared = self._before
        return CycleStats(
            cycle=self.cycle,
            target_sparsity=self.sparsities[self.cycle],
            sparsity=self.sparsifier.sparsity,
            budget=budget,
            kept_active=active if report is None else report.n_active - report.resurrected,
            resurrected=0 if report is None else report.resurrected,
            lost=0 if report is None else report.lost,
            resurrection_rate=0.0 if report is None else report.resurrection_rate,
            churn=0.0 if report is None else report.churn,
            jaccard=1.0 if report is None else report.jaccard,
            steps={str(phase): steps for phase, steps in self._steps.items()},
            losses={str(p): float(total / count) for p, (total, count) in self._losses.items() if count > 0},
            skipped_steps=self.skipped_steps - skipped,
            cleared_states=self.stepping.cleared_states - cleared,
        )

    # --- keeping ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position, the history and the settings; masks are the sparsifier's."""
        return {
            "config": self.config.model_dump(mode="json"),
            "cycle": self.cycle,
            "phase": str(self.phase),
            "stage": self._stage,
            "step": self.step,
            "steps_in_stage": self._steps_in_stage,
            "started": self._started,
            "done": self.done,
            "history": [asdict(stats) for stats in self.history],
            "steps": {str(phase): steps for phase, steps in self._steps.items()},
            "losses": {str(p): [float(total), float(count)] for p, (total, count) in self._losses.items()},
            "before": list(self._before),
            "skipped_by_optimizer": self.optimizer.skipped_steps,
            "stepping": self.stepping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a position; the sparsifier's state has been loaded already.

        Args:
            state: from `state_dict`.

        Raises:
            CheckpointError: a position under other settings.
        """
        self.check_settings(state["config"])
        self.cycle, self.step, self.done = state["cycle"], state["step"], state["done"]
        self.phase, self._stage = CyclePhase(state["phase"]), state["stage"]
        self._steps_in_stage, self._started = state["steps_in_stage"], state["started"]
        self.history = [CycleStats(**stats) for stats in state["history"]]
        self._steps = dict(state["steps"])
        self._losses = {p: (torch.tensor(total), torch.tensor(count)) for p, (total, count) in state["losses"].items()}
        skipped, cleared = state["before"]
        self._before = (skipped, cleared)
        self.optimizer.skipped_steps = state["skipped_by_optimizer"]
        self.stepping.load_state_dict(state["stepping"])

    def check_settings(self, theirs: Mapping[str, Any]) -> None:
        """Refuses to go on under other settings than a training began with.

        Args:
            theirs: the settings of that training, as JSON.

        Raises:
            CheckpointError: settings that differ in more than how often something is logged or saved.
        """
        ours = self.config.model_dump(mode="json")
        for name in sorted(theirs.keys() | ours.keys()):
            if name not in _MAY_CHANGE and theirs.get(name) != ours.get(name):
                raise CheckpointError(
                    f"a training goes on with the settings that it began with; {name} was {theirs.get(name)!r} and is "
                    f"{ours.get(name)!r}. Resume with the same settings, or start a new training elsewhere."
                )


def heed_masks(
    model: nn.Module, optimizer: Optimizer | Attachment | MaskedAdamW | MaskedSGD
) -> MaskedAdamW | MaskedSGD | Attachment:
    """An optimizer that heeds masks: itself where it does already, a stock one attached.

    Args:
        model: what it trains.
        optimizer: a masked or a stock optimizer, or an attachment.

    Returns:
        What a `Sparsifier` takes as its optimizer.

    Raises:
        OptimizerError: an optimizer that cannot be attached.
    """
    if isinstance(optimizer, MaskedAdamW | MaskedSGD | Attachment):
        return optimizer
    return attach(model, optimizer)


def stepped(optimizer: MaskedAdamW | MaskedSGD | Attachment) -> Optimizer:
    """The torch optimizer whose `step` a loop calls.

    Args:
        optimizer: one that heeds masks.

    Returns:
        Itself, or the one that is attached.
    """
    return optimizer.optimizer if isinstance(optimizer, Attachment) else optimizer


def _shown(optimizer: object) -> str:
    return "none" if optimizer is None else f"a {type(optimizer).__name__}"


def _check_score(config: CycleConfig, optimizer: MaskedAdamW | MaskedSGD | Attachment) -> None:
    """Refuses now a score that could not be had at the first commit, perhaps hours later."""
    inner = stepped(optimizer)
    needs = {"momentum": "the mean of the gradient", "consistency": "the mean of the gradient and that of its square"}
    if config.score not in needs or config.commit_strategy != "amnesty":
        return
    keeps_both = isinstance(inner, MaskedAdamW | Adam | AdamW | NAdam | RAdam)
    if isinstance(inner, MaskedAdamW) and inner.layout == "compact":
        keeps_both = False
    keeps_mean = keeps_both or isinstance(inner, Adamax)
    if isinstance(inner, MaskedSGD | SGD):
        keeps_mean = all(group["momentum"] for group in inner.param_groups)
    if not (keeps_mean if config.score == "momentum" else keeps_both):
        raise OptimizerError(
            f"the score {config.score!r} reads {needs[config.score]} of pruned weights from the optimizer; "
            f"{type(inner).__name__} as it is set up does not keep that. Use MaskedAdamW with layout 'dense' or "
            "'signbit', or the score 'magnitude'."
        )
