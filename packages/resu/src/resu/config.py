"""Settings of a cycle and of RESU-Selective: frozen, and refused when they are built rather than when they are used."""

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from resu.errors import ConfigError

__all__ = ["PRESETS", "CycleConfig", "Preset", "SelectionConfig"]

Preset = Literal["default", "paper", "aggressive", "conservative", "densification", "quick"]

_Sparsity = Annotated[float, Field(ge=0, lt=1)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Share = Annotated[float, Field(gt=0, le=1)]
_FRACTIONS_MAY_MISS_ONE_BY = 0.01


class SelectionConfig(BaseModel):
    """Which pruned weights RESU-Selective lets move in one step.

    Args:
        beta: decay of the running means of g and |g|.
        delta: added to the mean of |g| in the consistency C = |mean g| / (mean |g| + delta).
        tau: a coordinate passes with C above this.
        screen: share of θ that passes by |g|.
        select: share of θ that moves at most.
        weight_decay: decoupled decay of all of θ, times the learning rate, each step.

    Raises:
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> SelectionConfig(tau=0.8).beta
    0.9
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    delta: PositiveFloat = 1e-8
    tau: _Fraction = 0.5
    screen: _Share = 0.5
    select: _Share = 0.2
    weight_decay: NonNegativeFloat = 0.0


class CycleConfig(BaseModel):
    """How a model is trained in cycles of TRAIN, PRUNE, STABILIZE, RESU and COMMIT.

    The defaults are what was found to work: θ starts at zero, many short cycles, θ trained by the user's own optimizer,
    and a quarter of the steps left for recovery after the last commit. The values as published are the preset "paper".

    Args:
        initial_sparsity: sparsity of the first cycle, unless the schedule is constant or custom.
        target_sparsity: sparsity of the last cycle.
        sparsity_schedule: how the sparsity goes from the one to the other, see `resu.schedules`.
        sparsities: one sparsity a cycle for the schedule "custom"; the last one repeats.
        distribution: how a sparsity of the whole is shared out among layers.
        num_cycles: cycles.
        steps_per_cycle: optimizer steps of a cycle, all phases together.
        train_fraction: share of a cycle's steps in TRAIN.
        stabilize_fraction: share in STABILIZE, steps with the new mask before θ comes in.
        resu_fraction: share in RESU. The three add up to 1 ± 0.01.
        recovery_fraction: share of all steps that comes after the last commit, as plain sparse training.
        prune_first: prune to the first cycle's sparsity before the first step, and not only after the first TRAIN.
        prune_tolerance: leave masks alone whose sparsity is this near to what is asked for.
        pruning: score of PRUNE where the trainer is given no pruner of its own. "wanda" takes its calibration data
            from the loader.
        granularity: what "magnitude" prunes as one; rows are output units, columns input weights.
        calibration_batches: batches for "wanda".
        resu_init: θ's start: zero, or noise of `resu_epsilon` times the standard deviation of the active weights.
        resu_epsilon: the noise's size.
        resu_lr: θ's learning rate; None is `resu_lr_scale` times the optimizer's.
        resu_lr_scale: θ's learning rate as a multiple of the optimizer's, where `resu_lr` is None.
        resu_subset: train a random share of θ only; None trains all of it.
        use_selective: step θ by RESU-Selective (plain steps, filtered by consistency) and not by the optimizer.
        selection: settings of RESU-Selective.
        clear_state: delete the optimizer's state of the weights on entry into RESU, before θ has one.
        freeze_others: leave biases and all other parameters as they are during RESU.
        commit_strategy: "amnesty": two tournaments, with a share of the places reserved for θ; "open": one tournament;
            "merge": everything becomes active, and the next cycle prunes again; "none": nothing comes back.
        amnesty_start: share of the kept weights that is reserved for θ in the first cycle.
        amnesty_end: what that share falls to, in a straight line, over all cycles.
        score: what θ is compared by; active weights are by their size.
        base_lr: learning rate of the optimizer that the trainer makes where it is given none.
        weight_decay: its weight decay.
        warmup_steps: its linear warm-up.
        seed: of every random choice: noise, subsets, random masks.
        log_every: steps between two log lines.
        eval_every: steps between two evaluations.
        checkpoint_every: cycles between two checkpoints.
        checkpoint_steps: steps between two further ones, anywhere in a cycle; None for none.

    Raises:
        pydantic.ValidationError: a value out of range, an unknown field, or settings that contradict each other.

    >>> config = CycleConfig(num_cycles=15, steps_per_cycle=75)
    >>> config.total_steps
    1500
    >>> CycleConfig.preset("paper").phase_steps
    {'train': 600, 'stabilize': 100, 'resu': 300}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    initial_sparsity: _Sparsity = 0.0
    target_sparsity: _Sparsity = 0.7
    sparsity_schedule: Literal["constant", "linear", "quadratic", "cosine", "cubic", "custom"] = "constant"
    sparsities: tuple[_Sparsity, ...] | None = None
    distribution: Literal["erk", "uniform", "global"] = "erk"
    num_cycles: PositiveInt = 22
    steps_per_cycle: PositiveInt = 1000
    train_fraction: _Fraction = 0.9
    stabilize_fraction: _Fraction = 0.0
    resu_fraction: _Share = 0.1
    recovery_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.25
    prune_first: bool = True
    prune_tolerance: _Fraction = 0.0
    pruning: Literal["magnitude", "random", "wanda"] = "magnitude"
    granularity: Literal["element", "row", "column"] = "element"
    calibration_batches: PositiveInt = 8
    resu_init: Literal["zero", "normal", "uniform"] = "zero"
    resu_epsilon: NonNegativeFloat = 0.1
    resu_lr: PositiveFloat | None = None
    resu_lr_scale: PositiveFloat = 0.1
    resu_subset: _Share | None = None
    use_selective: bool = False
    selection: SelectionConfig = SelectionConfig()
    clear_state: bool = False
    freeze_others: bool = False
    commit_strategy: Literal["amnesty", "merge", "open", "none"] = "amnesty"
    amnesty_start: _Fraction = 0.30
    amnesty_end: _Fraction = 0.02
    score: Literal["magnitude", "momentum", "consistency", "gradient"] = "momentum"
    base_lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    warmup_steps: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    log_every: PositiveInt = 50
    eval_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 1
    checkpoint_steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> "CycleConfig":
        total = self.train_fraction + self.stabilize_fraction + self.resu_fraction
        if abs(total - 1) > _FRACTIONS_MAY_MISS_ONE_BY + 1e-12:
            raise ValueError(
                f"the fractions of a cycle add up to 1; train {self.train_fraction}, stabilize "
                f"{self.stabilize_fraction} and resu {self.resu_fraction} add up to {total:g}. Change one of them."
            )
        if (self.sparsity_schedule == "custom") != bool(self.sparsities):
            raise ValueError(
                f"a list of sparsities and the schedule 'custom' go together; sparsity_schedule is "
                f"{self.sparsity_schedule!r} and sparsities is {self.sparsities}. Give both or neither."
            )
        if self.use_selective and self.score in ("momentum", "consistency"):
            raise ValueError(
                f"the score {self.score!r} reads the optimizer's moments of θ, and RESU-Selective steps θ without the "
                "optimizer. Use score='magnitude', or use_selective=False."
            )
        if self.granularity != "element" and self.pruning != "magnitude":
            raise ValueError(
                f"whole rows and columns are pruned by magnitude; pruning is {self.pruning!r} and granularity "
                f"{self.granularity!r}. Change one of them."
            )
        if self.steps_per_cycle < 2 and self.train_fraction > 0:
            raise ValueError(
                f"a cycle has a step of TRAIN and one of RESU; steps_per_cycle is {self.steps_per_cycle}. "
                "Use at least 2."
            )
        return self

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "CycleConfig":
        """A named set of settings, with changes.

        "paper" holds the published values and does as the original meant to: θ starts as noise, RESU-Selective steps it
        at 1e-4, the weights' optimizer state is deleted on entry, everything else stands still meanwhile, and nothing
        trains after the last commit. The others change the defaults where the original's presets change its own.

        Args:
            name: one of `Preset`.
            changes: single settings, over the preset's.

        Returns:
            The settings.

        Raises:
            ConfigError: no such preset.
            pydantic.ValidationError: changes that are no settings, or contradict the preset.

        >>> CycleConfig.preset("quick", seed=3).steps_per_cycle
        100
        """
        if name not in PRESETS:
            raise ConfigError(f"a preset is one of {', '.join(PRESETS)}; {name!r} is none. Choose one of those.")
        return cls(**{**PRESETS[name], **changes})

    @property
    def phase_steps(self) -> dict[str, int]:
        """Steps of one cycle's phases; together they are `steps_per_cycle`, and RESU has at least one."""
        resu = max(1, _whole(self.resu_fraction * self.steps_per_cycle))
        stabilize = min(_whole(self.stabilize_fraction * self.steps_per_cycle), self.steps_per_cycle - resu)
        return {"train": self.steps_per_cycle - resu - stabilize, "stabilize": stabilize, "resu": resu}

    @property
    def recovery_steps(self) -> int:
        """Steps after the last commit."""
        cycles = self.num_cycles * self.steps_per_cycle
        return round(cycles * self.recovery_fraction / (1 - self.recovery_fraction))

    @property
    def total_steps(self) -> int:
        """All optimizer steps: the cycles' and the recovery's."""
        return self.num_cycles * self.steps_per_cycle + self.recovery_steps

    def for_steps(self, steps: int) -> "CycleConfig":
        """The same settings, with cycles of a length that makes the whole last so many steps.

        Args:
            steps: optimizer steps in all; what does not divide evenly goes to the recovery.

        Returns:
            Settings whose `total_steps` is `steps`.

        Raises:
            ConfigError: fewer steps than the cycles need.

        >>> CycleConfig(num_cycles=22).for_steps(1500).steps_per_cycle
        51
        """
        per_cycle = _whole(steps * (1 - self.recovery_fraction) / self.num_cycles)
        if per_cycle < 2:
            raise ConfigError(
                f"a cycle has at least 2 steps; {steps} steps over {self.num_cycles} cycles and a recovery of "
                f"{self.recovery_fraction:g} leave {max(per_cycle, 0)}. Train longer, or use fewer cycles."
            )
        recovery = 1 - per_cycle * self.num_cycles / steps
        changed = self.model_dump() | {"steps_per_cycle": per_cycle, "recovery_fraction": max(recovery, 0.0)}
        return CycleConfig(**changed)


def _whole(number: float) -> int:
    """The whole part, where 0.29 × 100 = 28.999999999999996 is 29."""
    return math.floor(number + 1e-9)


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "initial_sparsity": 0.0,
        "target_sparsity": 0.7,
        "sparsity_schedule": "linear",
        "distribution": "uniform",
        "num_cycles": 5,
        "steps_per_cycle": 1000,
        "train_fraction": 0.6,
        "stabilize_fraction": 0.1,
        "resu_fraction": 0.3,
        "recovery_fraction": 0.0,
        "prune_first": False,
        "prune_tolerance": 0.01,
        "pruning": "wanda",
        "granularity": "element",
        "resu_init": "normal",
        "resu_epsilon": 0.1,
        "resu_lr": 1e-4,
        "use_selective": True,
        "selection": SelectionConfig(),
        "clear_state": True,
        "freeze_others": True,
        "commit_strategy": "amnesty",
        "amnesty_start": 0.10,
        "amnesty_end": 0.02,
        "score": "magnitude",
        "base_lr": 1e-3,
        "weight_decay": 0.01,
        "warmup_steps": 100,
        "seed": 42,
        "log_every": 50,
        "eval_every": 200,
        "checkpoint_every": 1,
    },
    "aggressive": {
        "target_sparsity": 0.9,
        "num_cycles": 7,
        "steps_per_cycle": 2000,
        "amnesty_start": 0.15,
        "amnesty_end": 0.05,
    },
    "conservative": {
        "target_sparsity": 0.5,
        "num_cycles": 3,
        "steps_per_cycle": 500,
        "amnesty_start": 0.20,
    },
    "densification": {
        "initial_sparsity": 0.7,
        "target_sparsity": 0.0,
        "sparsity_schedule": "linear",
        "num_cycles": 5,
        "amnesty_start": 0.30,
        "amnesty_end": 0.10,
    },
    "quick": {
        "target_sparsity": 0.5,
        "num_cycles": 2,
        "steps_per_cycle": 100,
        "train_fraction": 0.5,
        "stabilize_fraction": 0.1,
        "resu_fraction": 0.4,
        "log_every": 10,
    },
}
