"""A genetic search over a grid of values, and random search to compare it with.

A genome gives each gene one of its values. The search keeps the better half of all that has survived so far and of the
last generation, by as many as half a population; children take each gene from a second parent with probability 0.3, and
each of their genes is drawn anew with probability 0.2. A genome that was tried is not tried again, so that both
searches spend their budget on as many different genomes.

Fitness is looked up in a file of JSON lines by the SHA-256 of all that it depends on, so that a search that was killed
goes on where it stood.
"""

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from neurograph.errors import CheckpointError, ConfigError
from neurograph.json_lines import append_line, read_lines

__all__ = ["FitnessCache", "Genome", "Method", "Objective", "SearchResult", "Trial", "search"]

Genome = dict[str, Any]
Objective = Callable[[Genome], float]
Method = Literal["genetic", "random"]

_CROSSOVER, _MUTATION, _ELITE = 0.3, 0.2, 0.5
_TRIES = 1000


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
        self._found: dict[str, float] = {}
        for row in rows:
            if not isinstance(row["fitness"], int | float):
                raise CheckpointError(
                    f"a fitness is a number; {self.path} holds {row['fitness']!r}. Move the file away."
                )
            self._found[str(row["key"])] = float(row["fitness"])

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

        Raises:
            ConfigError: an objective that gives no number.
        """
        key = self.key(genome)
        if key not in self._found:
            value = float(objective(genome))
            if math.isnan(value):
                raise ConfigError(f"a fitness is a number; got nan for {genome}. Correct the objective, or the genes.")
            self._found[key] = value
            if self.path is not None:
                append_line(self.path, {"key": key, "fitness": value, "genome": genome})
        return self._found[key]


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
class SearchResult:
    """What a search found.

    Args:
        method: genetic or random.
        trials: in the order in which they were tried; one at least.
    """

    method: Method
    trials: tuple[Trial, ...]

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
    genes: Mapping[str, Sequence[Any]],
    budget: int,
    seed: int = 0,
    method: Method = "genetic",
    population: int = 8,
    allowed: Callable[[Genome], bool] = lambda _: True,
    cache: FitnessCache | None = None,
    progress: Callable[[Trial], object] | None = None,
) -> SearchResult:
    """Searches for the genome of the highest fitness.

    Args:
        objective: fitness of a genome.
        genes: values of each gene, as JSON has them.
        budget: genomes to try, all different.
        seed: of the draws.
        method: genetic, or random: every genome is drawn.
        population: genomes of a generation.
        allowed: refuses genomes before they are tried.
        cache: of fitness; what it knows counts as tried. None = one in memory.
        progress: told of each trial.

    Returns:
        All trials; fewer than the budget where there are no more genomes.

    Raises:
        ConfigError: a budget or population too small, genes without values, none that is allowed, or a fitness that is
            no number.

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
    return SearchResult(method, tuple(trials))


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
