"""A genetic search for settings, and random search to compare it with.

A genome gives each gene one of its values. Its fitness is the mean accuracy of short trainings on samples that the
training did not see: the training samples are split by class, several times, and the test samples are never touched.
The search keeps the better half of a population; children take each gene from a second parent with probability 0.3,
and each of their genes is drawn anew with probability 0.2. A genome that was tried is not tried again, so that both
searches spend their budget on as many different genomes.

Fitness is looked up in a file of JSON lines by the SHA-256 of all that it depends on, so that a search that was killed
goes on where it stood.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor

from neurograph.config import Config
from neurograph.data import stratified_split
from neurograph.errors import ConfigError
from neurograph.json_lines import append_line, read_lines
from neurograph.model import Model
from neurograph.train.trainer import Trainer

__all__ = [
    "GENES", "FitnessCache", "Genome", "Objective", "ShortTrainings", "Trial", "TuningResult", "configured",
    "integers_in", "search", "tune",
]  # fmt: skip

Genome = dict[str, Any]
Objective = Callable[[Genome], float]
Method = Literal["genetic", "random"]

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

_CROSSOVER, _MUTATION, _ELITE = 0.3, 0.2, 0.5
_TRIES = 1000


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
    """

    config: Config
    x: Float[Tensor, "S I"]
    y: Int[Tensor, " S"]
    epochs: int = 4
    repeats: int = 2
    validation_share: int | float = 0.4
    seed: int = 1000

    def __call__(self, genome: Genome) -> float:
        """Trains.

        Args:
            genome: to be tried.

        Returns:
            Mean accuracy.
        """
        config = configured(self.config, genome)
        short = config.train.model_copy(update={"epochs": self.epochs})
        accuracies = []
        for seed in range(self.seed, self.seed + self.repeats):
            train, held_out = stratified_split(self.y, test_share=self.validation_share, seed=seed)
            model = Model.build(config, seed=seed)
            Trainer(model, short, seed=seed).fit(self.x[train], self.y[train])
            accuracies.append(float((model.predict(self.x[held_out]) == self.y[held_out]).double().mean()))
        return sum(accuracies) / len(accuracies)

    @property
    def fingerprint(self) -> str:
        """All that a fitness depends on beside the genome."""
        found = hashlib.sha256(self.config.model_dump_json(exclude={"threads", "device", "data"}).encode())
        found.update(f"{self.epochs} {self.repeats} {self.validation_share} {self.seed}".encode())
        for tensor in (self.x, self.y):
            found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.cpu().numpy().tobytes())
        return found.hexdigest()


class FitnessCache:
    """Fitness by genome, in memory and in a file of JSON lines.

    A line that was cut short by a killed process is dropped; any other line that cannot be read is refused.

    Args:
        fingerprint: of the objective.
        path: the file; None = memory alone.

    Raises:
        CheckpointError: a file of something else.
    """

    def __init__(self, fingerprint: str = "", path: str | Path | None = None) -> None:
        self.fingerprint, self.path = fingerprint, None if path is None else Path(path)
        rows = [] if self.path is None else read_lines(self.path, "key", "fitness")
        self._found = {str(row["key"]): float(row["fitness"]) for row in rows}

    def __len__(self) -> int:
        return len(self._found)

    def key(self, genome: Genome) -> str:
        """SHA-256 of objective and genome.

        Args:
            genome: which.

        Returns:
            In hexadecimal.
        """
        return hashlib.sha256(f"{self.fingerprint}\n{json.dumps(genome, sort_keys=True)}".encode()).hexdigest()

    def fitness(self, genome: Genome, objective: Objective) -> float:
        """The fitness, measured where it is not known yet.

        Args:
            genome: which.
            objective: measures it.

        Returns:
            Fitness.
        """
        key = self.key(genome)
        if key not in self._found:
            self._found[key] = value = float(objective(genome))
            if self.path is not None:
                append_line(self.path, {"key": key, "fitness": value, "genome": genome})
        return self._found[key]


# --- search ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One genome that was tried.

    Args:
        number: from 1.
        generation: from 0.
        fitness: its.
        genome: it.
    """

    number: int
    generation: int
    fitness: float
    genome: Genome


@dataclass(frozen=True)
class TuningResult:
    """What a search found.

    Args:
        method: genetic or random.
        trials: in the order in which they were tried.
        config: settings with the best genome's values; None for a search without settings.
    """

    method: Method
    trials: tuple[Trial, ...]
    config: Config | None = field(default=None, repr=False)

    @property
    def best(self) -> Trial:
        """The fittest; the first of equals."""
        return max(self.trials, key=lambda trial: (trial.fitness, -trial.number))

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """The highest fitness after each trial."""
        found: list[float] = []
        for trial in self.trials:
            found.append(max(trial.fitness, found[-1] if found else trial.fitness))
        return tuple(found)

    def to_frame(self) -> pd.DataFrame:
        """One row a trial."""
        return pd.DataFrame(
            [
                {"trial": t.number, "generation": t.generation, "fitness": t.fitness, "best": best, **t.genome}
                for t, best in zip(self.trials, self.best_so_far, strict=True)
            ]
        )


def search(
    objective: Objective,
    *,
    budget: int,
    seed: int = 0,
    method: Method = "genetic",
    population: int = 8,
    genes: Mapping[str, Sequence[Any]] = GENES,
    allowed: Callable[[Genome], bool] = lambda _: True,
    cache: FitnessCache | None = None,
    progress: Callable[[Trial], object] | None = None,
) -> TuningResult:
    """Searches for the genome of the highest fitness.

    Args:
        objective: fitness of a genome.
        budget: genomes to try, all different.
        seed: of the draws.
        method: genetic, or random: every genome is drawn.
        population: genomes of a generation.
        genes: values of each gene.
        allowed: refuses genomes before they are tried.
        cache: of fitness; what it knows counts as tried. None = one in memory.
        progress: told of each trial.

    Returns:
        All trials; fewer than the budget where there are no more genomes.

    Raises:
        ConfigError: a budget or population too small, or genes without values.

    >>> found = search(lambda g: -abs(g["a"] - 7), budget=12, genes={"a": range(100)}, seed=1)
    >>> len(found.trials), found.best.fitness == found.best_so_far[-1]
    (12, True)
    """
    if budget < 1 or population < 2 or method not in ("genetic", "random"):
        raise ConfigError(
            "a search has a budget of 1 or more, a population of 2 or more, and is genetic or random; got "
            f"{budget}, {population} and {method!r}. Correct them."
        )
    if not genes or not all(len(values) for values in genes.values()):
        raise ConfigError(f"each gene has a value at least; got {dict(genes)}. Give some.")
    draw, cache = random.Random(seed), FitnessCache() if cache is None else cache
    trials: list[Trial] = []
    tried: set[str] = set()
    survivors: list[Trial] = []
    while len(trials) < budget:
        generation, place = divmod(len(trials), population)
        if method == "genetic" and generation and place == 0:
            rivals = survivors + trials[-population:]
            survivors = sorted(rivals, key=lambda t: (-t.fitness, t.number))[: max(2, int(population * _ELITE))]
        genome = _new_genome(draw, survivors, genes, allowed, tried)
        if genome is None:
            break
        tried.add(json.dumps(genome, sort_keys=True))
        trial = Trial(len(trials) + 1, generation, cache.fitness(genome, objective), genome)
        trials.append(trial)
        if progress is not None:
            progress(trial)
    if not trials:
        raise ConfigError(
            "at least one genome is allowed; all that were drawn were refused. Widen the genes or limits."
        )
    return TuningResult(method, tuple(trials))


def _new_genome(
    draw: random.Random,
    parents: Sequence[Trial],
    genes: Mapping[str, Sequence[Any]],
    allowed: Callable[[Genome], bool],
    tried: set[str],
) -> Genome | None:
    """One that was not tried; None where many draws find none."""
    for attempt in range(_TRIES):
        # A population that has become one genome has no new children: strangers come in then.
        if parents and attempt < _TRIES // 2:
            first, second = draw.sample(list(parents), 2)
            genome = {
                name: draw.choice(values)
                if draw.random() < _MUTATION
                else (second if draw.random() < _CROSSOVER else first).genome[name]
                for name, values in genes.items()
            }
        else:
            genome = {name: draw.choice(values) for name, values in genes.items()}
        if json.dumps(genome, sort_keys=True) not in tried and allowed(genome):
            return genome
    return None


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
