"""What the accuracy table is asked to compare: frozen settings, refused when they are built."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from resu.baselines import MethodName, method_config
from resu.experiments.data import TaskName

__all__ = ["AccuracySettings", "TaskSettings"]

_Sparsity = Annotated[float, Field(gt=0, lt=1)]
_Rate = Annotated[float, Field(gt=0)]


class TaskSettings(BaseModel):
    """How a task is trained; the same for every method.

    Args:
        steps: steps of a training. A step that a method spends on its masks instead of its weights counts.
        batch: examples of a step.
        tune_seeds: trainings by which one setting is judged on the validation split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    batch: PositiveInt
    tune_seeds: PositiveInt


_TASKS: dict[TaskName, TaskSettings] = {
    "digits": TaskSettings(steps=1500, batch=64, tune_seeds=4),
    "characters": TaskSettings(steps=1200, batch=256, tune_seeds=1),
}

_VARIANTS: dict[MethodName, tuple[dict[str, Any], ...]] = {
    "rigl": tuple(
        {"interval": interval, "fraction": fraction}
        for interval in (25, 50, 100)
        for fraction in (0.3, 0.5)
        if (interval, fraction) != (50, 0.3)
    ),
    "set": ({"cosine": True},),
    "acdc": ({"final": 0.5},),
    "resu_paper": ({"changes": {"sparsity_schedule": "constant"}},),
}


class AccuracySettings(BaseModel):
    """Methods, tasks and sparsities to compare, and how each method is tuned.

    For each task, sparsity and method the learning rate is found on the validation split: from the middle of the grid
    towards whichever neighbour is better, until both neighbours are worse. At that rate the variants of the method are
    tried. Then `seeds` fresh trainings on training and validation split are scored on the test split.

    Args:
        methods: the methods.
        tasks: the tasks.
        sparsities: shares of pruned weights over all layers; "dense" is trained once a task.
        seeds: trainings that are reported.
        learning_rates: the grid, ascending.
        variants: by method, settings that are tried beside the method's own.
        task_settings: by task.
        weight_decay: of AdamW.
        backend: of `MaskedAdamW`.
        split: which digits are for testing.

    Raises:
        pydantic.ValidationError: a value out of range, an unknown field, a grid that does not ascend, or variants that
            are no settings of their method.

    >>> AccuracySettings(methods=("rigl", "shadow"), seeds=8).task_settings["digits"].steps
    1500
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[MethodName, ...] = get_args(MethodName)
    tasks: tuple[TaskName, ...] = get_args(TaskName)
    sparsities: tuple[_Sparsity, ...] = (0.9, 0.95, 0.98)
    seeds: PositiveInt = 8
    learning_rates: tuple[_Rate, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2, 0.128)
    variants: dict[MethodName, tuple[dict[str, Any], ...]] = Field(default_factory=lambda: dict(_VARIANTS))
    task_settings: dict[TaskName, TaskSettings] = Field(default_factory=lambda: dict(_TASKS))
    weight_decay: NonNegativeFloat = 0.01
    backend: Literal["auto", "eager", "compile", "triton"] = "auto"
    split: NonNegativeInt = 0

    @model_validator(mode="after")
    def _refuse_what_cannot_run(self) -> "AccuracySettings":
        if not self.learning_rates or list(self.learning_rates) != sorted(set(self.learning_rates)):
            raise ValueError(
                f"a grid of learning rates ascends, and holds one at least; got {self.learning_rates}. Sort it."
            )
        for task in self.tasks:
            if task not in self.task_settings:
                raise ValueError(f"each task has its settings; {task!r} has none. Add it to task_settings.")
        for method, variants in self.variants.items():
            for variant in variants:
                method_config(method, **variant)
        return self

    def variants_of(self, method: MethodName) -> tuple[dict[str, Any], ...]:
        """The method's own settings, as no change, and then its variants."""
        return ({}, *self.variants.get(method, ()))

    def shard(self, index: int, count: int) -> list[tuple[TaskName, float, MethodName]]:
        """Every `count`-th of the cells, from `index` on.

        Each task and sparsity begins one cell later than the one before, so that no shard has the same methods
        throughout: some cost three times as much as others.

        Args:
            index: which shard, from 0.
            count: shards in all.

        Returns:
            The shard's cells.

        >>> [method for _, _, method in AccuracySettings(methods=("set", "rigl"), tasks=("digits",)).shard(0, 2)]
        ['set', 'rigl', 'set']
        """
        cells = self.cells()
        blocks = list(dict.fromkeys((task, sparsity) for task, sparsity, _ in cells))
        found, place = [], dict.fromkeys(blocks, 0)
        for cell in cells:
            block = cell[:2]
            if (place[block] + blocks.index(block)) % count == index:
                found.append(cell)
            place[block] += 1
        return found

    def cells(self) -> list[tuple[TaskName, float, MethodName]]:
        """What the table has an entry for: task, sparsity (0 for "dense") and method."""
        found: list[tuple[TaskName, float, MethodName]] = []
        for task in self.tasks:
            found += [(task, 0.0, method) for method in self.methods if method == "dense"]
            found += [(task, s, method) for s in self.sparsities for method in self.methods if method != "dense"]
        return found
