"""Whether the genetic search finds better settings than random search with as many trials."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from neurograph.config import Config, load_config
from neurograph.data import load_dataset
from neurograph.errors import ConfigError
from neurograph.experiments.results import Rows
from neurograph.experiments.splits import TUNING_SEEDS
from neurograph.genetic_search import Method, Trial
from neurograph.model import Model
from neurograph.train.trainer import Trainer
from neurograph.tuner import tune

__all__ = ["METHODS", "TunerComparison", "compare_tuners"]

METHODS: tuple[Method, ...] = ("genetic", "random")


@dataclass(frozen=True)
class TunerComparison:
    """Both searches on each split.

    Args:
        rows: method, seed, budget, fitness (the best mean accuracy on held-out training samples) and accuracy (on test
            samples, of a whole training with the best settings), as shares.
        curves: best fitness after each trial, by method and seed.
    """

    rows: tuple[dict[str, Any], ...]
    curves: dict[tuple[str, int], tuple[float, ...]]

    @property
    def gain(self) -> float:
        """Mean best fitness of the genetic search above random search, in percentage points."""
        return self._difference("fitness")

    @property
    def test_gain(self) -> float:
        """The same of accuracy on test samples."""
        return self._difference("accuracy")

    @property
    def winner(self) -> str:
        """Who found the higher fitness in the mean over the splits; "tie" where both are equal."""
        return "tie" if self.gain == 0 else METHODS[0] if self.gain > 0 else METHODS[1]

    def to_frame(self) -> pd.DataFrame:
        """One row a method and split."""
        return pd.DataFrame(list(self.rows))

    def to_markdown(self) -> str:
        """A table, and who won."""
        lines = ["| method | seed | trials | held out, % | test, % |", "|---|---|---|---|---|"]
        lines += [
            f"| {row['method']} | {row['seed']} | {row['budget']} | {100 * row['fitness']:.2f} "
            f"| {100 * row['accuracy']:.2f} |"
            for row in self.rows
        ]
        lines += ["", f"Genetic above random: {self.gain:+.2f} points held out, {self.test_gain:+.2f} on test samples."]
        return "\n".join(lines) + "\n"

    def _difference(self, name: str) -> float:
        means = self.to_frame().groupby("method")[name].mean()
        return 100 * float(means[METHODS[0]] - means[METHODS[1]])


def compare_tuners(
    seeds: Sequence[int] = TUNING_SEEDS,
    *,
    budget: int = 32,
    population: int = 8,
    epochs: int = 4,
    repeats: int = 2,
    full_epochs: int = 20,
    config: Config | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str, int, Trial], object] | None = None,
) -> TunerComparison:
    """Runs both on digits.

    Args:
        seeds: of the splits and of the searches.
        budget: trials of each search.
        population: genomes of a generation.
        epochs: of each short training.
        repeats: short trainings of each genome.
        full_epochs: of the training with the best settings.
        config: settings that genomes change; None = the shipped ones.
        folder: for fitness and results, from which a killed run goes on; None = none.
        progress: told of method, seed and trial.

    Returns:
        The comparison.

    Raises:
        ConfigError: no splits, or a search or training that cannot be.
        CheckpointError: a folder with files of something else.
    """
    if not seeds or full_epochs < 1:
        raise ConfigError(
            f"a comparison has splits, and trains for an epoch or more; got {list(seeds)} and {full_epochs}. Give both."
        )
    config = load_config("digits") if config is None else config
    root = None if folder is None else Path(folder)
    rows = Rows(None if root is None else root / "results.jsonl")
    found: list[dict[str, Any]] = []
    curves: dict[tuple[str, int], tuple[float, ...]] = {}
    for seed in seeds:
        data = load_dataset("digits", seed=seed).to(config.device)
        for method in METHODS:

            def tell(trial: Trial, method: str = method, seed: int = seed) -> None:
                if progress is not None:
                    progress(method, seed, trial)

            result = tune(
                config,
                data.train_x,
                data.train_y,
                budget=budget,
                seed=seed,
                method=method,
                population=population,
                epochs=epochs,
                repeats=repeats,
                cache=None if root is None else root / f"fitness-{seed}.jsonl",
                progress=tell,
            )
            curves[method, seed] = result.best_so_far
            train = result.config.train.model_copy(update={"epochs": full_epochs})
            best = result.config.model_copy(update={"train": train})
            key = {"settings": best.model_dump(mode="json", exclude={"threads"}), "seed": seed}
            row = rows.find(key)
            if row is None:
                model = Model.build(best, seed=seed)
                Trainer(model, best.train, seed=seed).fit(data.train_x, data.train_y)
                row = {"accuracy": float((model.predict(data.test_x) == data.test_y).double().mean())}
                rows.add(key, row)
            found.append({"method": method, "seed": seed, "budget": budget, "fitness": result.best.fitness, **row})
    return TunerComparison(tuple(found), curves)
