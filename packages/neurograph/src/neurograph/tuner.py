"""A search for settings by short trainings.

Fitness is the mean accuracy on samples that the training did not see: the training samples are split by class, several
times, and the test samples are never touched. How genomes are chosen stands in `neurograph.genetic_search`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor

from neurograph.config import Config
from neurograph.data import stratified_split
from neurograph.errors import ConfigError
from neurograph.genetic_search import FitnessCache, Genome, Method, SearchResult, Trial, search
from neurograph.model import Model
from neurograph.train.trainer import Trainer

__all__ = ["GENES", "ShortTrainings", "TuningResult", "configured", "integers_in", "tune"]

GENES: dict[str, tuple[Any, ...]] = {
    "width": (32, 64, 96, 128, 192, 256),
    "hidden_layers": (1, 2, 3),
    "dim": (2, 4, 8, 12),
    "phase_bins": (16, 64, 512),
    "mag_bins": (16, 64, 1024),
    "cardinality": (4, 8, 16, 32),
    "turn_rate": (0.002, 0.004, 0.008, 0.016, 0.032),
    "mag_rate": (0.0015, 0.003, 0.006, 0.012, 0.024),
    "batch_size": (16, 32, 64, 128),
    "label_smoothing": (0.0, 0.05, 0.1, 0.2),
    "scale": (6.0, 12.0, 24.0),
}
"""Values of each gene. Rates are shares of the circle, and of the magnitudes, that an update moves an index."""


# --- genomes --------------------------------------------------------------------------------------------------------


def configured(config: Config, genome: Mapping[str, Any]) -> Config:
    """Settings with a genome's values; what it has no gene for stays.

    Args:
        config: of a graph of levels.
        genome: some of the genes.

    Returns:
        Settings.

    Raises:
        ConfigError: a graph without levels, an unknown gene, or values that settings refuse.

    >>> configured(Config(), {"width": 32, "hidden_layers": 1, "turn_rate": 0.01}).graph.widths
    (64, 32, 10)
    """
    unknown = set(genome) - set(GENES)
    if unknown or config.graph.widths is None:
        raise ConfigError(
            f"the tuner knows the genes {', '.join(GENES)} of a graph with widths; got "
            f"{', '.join(sorted(unknown)) or 'a graph of blocks'}. Use those, or give graph.widths."
        )
    tree: dict[str, Any] = config.model_dump()
    first, *hidden, last = config.graph.widths
    width = genome.get("width", hidden[0] if hidden else 64)
    tree["graph"]["widths"] = (first, *[width] * genome.get("hidden_layers", max(1, len(hidden))), last)
    for group, name in (
        ("graph", "cardinality"), ("model", "dim"), ("model", "scale"), ("tables", "phase_bins"),
        ("tables", "mag_bins"), ("train", "batch_size"), ("train", "label_smoothing"),
    ):  # fmt: skip
        if name in genome:
            tree[group][name] = genome[name]
    for gene, rate, bins in (("turn_rate", "lr_phase", "phase_bins"), ("mag_rate", "lr_mag", "mag_bins")):
        if gene in genome:
            tree["train"]["optimizer"][rate] = genome[gene] * tree["tables"][bins]
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"a genome gives settings that can be run; {dict(genome)} does not: {error}. Change it."
        ) from error


def integers_in(config: Config) -> int:
    """How many integers a network of these settings trains.

    Args:
        config: settings.

    Returns:
        D phases for each node, and D magnitudes for each that is no input.

    >>> integers_in(Config())
    8864
    """
    graph = config.graph
    rest = sum(graph.widths[1:]) if graph.widths is not None else (graph.n_hidden or 0) + graph.outputs
    return config.model.dim * (graph.inputs + 2 * rest)


# --- fitness --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ShortTrainings:
    """The objective: mean accuracy on held-out shares of the training samples.

    Args:
        config: settings that genomes change.
        x: training samples.
        y: their labels.
        epochs: of each training.
        repeats: trainings, each with a split and indices of its own.
        validation_share: share that is held out.
        seed: of the first split; the others follow.

    Raises:
        ConfigError: less than one epoch or one repeat.
    """

    config: Config
    x: Float[Tensor, "S I"]
    y: Int[Tensor, " S"]
    epochs: int = 4
    repeats: int = 2
    validation_share: int | float = 0.4
    seed: int = 1000

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.repeats < 1:
            raise ConfigError(
                f"a genome is trained for an epoch or more, once or more; got {self.epochs} epochs and {self.repeats} "
                "repeats. Raise them."
            )

    def __call__(self, genome: Genome) -> float:
        """Trains.

        Args:
            genome: to be tried.

        Returns:
            Mean accuracy.

        Raises:
            ConfigError: a genome that :func:`configured` refuses.
            DataError: samples that cannot be split by class, or that a network refuses.
        """
        config = configured(self.config, genome)
        short = config.train.model_copy(update={"epochs": self.epochs})
        accuracies = []
        for seed in range(self.seed, self.seed + self.repeats):
            train, held_out = stratified_split(self.y, test_share=self.validation_share, seed=seed)
            model = Model.build(config, seed=seed)
            Trainer(model, short, seed=seed).fit(self.x[train], self.y[train])
            predicted = model.predict(self.x[held_out])
            accuracies.append(float((predicted == self.y[held_out].to(predicted.device)).double().mean()))
        return sum(accuracies) / len(accuracies)

    @property
    def fingerprint(self) -> str:
        """All that a fitness depends on beside the genome, as a SHA-256."""
        found = hashlib.sha256(self.config.model_dump_json(exclude={"threads", "device", "data"}).encode())
        found.update(f"{self.epochs} {self.repeats} {self.validation_share} {self.seed}".encode())
        for tensor in (self.x, self.y):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.cpu().numpy().tobytes())
        return found.hexdigest()


# --- search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TuningResult(SearchResult):
    """What a search for settings found.

    Args:
        config: settings with the best genome's values.
    """

    config: Config = field(repr=False)


def tune(
    config: Config,
    x: Float[Tensor, "S I"],
    y: Int[Tensor, " S"],
    *,
    budget: int = 32,
    seed: int = 0,
    method: Method = "genetic",
    population: int = 8,
    genes: Mapping[str, Sequence[Any]] = GENES,
    max_integers: int = 10_000,
    epochs: int = 4,
    repeats: int = 2,
    cache: str | Path | None = None,
    progress: Callable[[Trial], object] | None = None,
) -> TuningResult:
    """Searches for settings on training samples.

    Args:
        config: settings that genomes change.
        x: training samples in [0, 1].
        y: their labels.
        budget: genomes to try.
        seed: of the search; the trainings' seeds are the same for all genomes.
        method: genetic or random.
        population: genomes of a generation.
        genes: values of each gene.
        max_integers: larger networks are not tried.
        epochs: of each training.
        repeats: trainings of each genome.
        cache: a file of fitness that lets a killed search go on.
        progress: told of each trial.

    Returns:
        All trials, and settings with the best genome's values; their epochs are the given ones.

    Raises:
        ConfigError: settings, genes or a budget that cannot be searched.
        CheckpointError: a cache of something else.
    """
    objective = ShortTrainings(config, x, y, epochs=epochs, repeats=repeats)
    found = search(
        objective,
        budget=budget,
        seed=seed,
        method=method,
        population=population,
        genes=genes,
        allowed=lambda genome: integers_in(configured(config, genome)) <= max_integers,
        cache=FitnessCache(objective.fingerprint, cache),
        progress=progress,
    )
    return TuningResult(found.method, found.trials, configured(config, found.best.genome))
