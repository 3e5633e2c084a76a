"""The search spends its budget on different genomes, improves on its parents, and goes on after it was killed."""

import inspect
import json
import math
from pathlib import Path

import pytest

from neurograph.errors import CheckpointError, ConfigError
from neurograph.genetic_search import FitnessCache, Genome, search

LETTERS = {f"g{i}": tuple(range(8)) for i in range(6)}


def _sum(genome: Genome) -> float:
    return float(sum(genome.values()))


@pytest.mark.parametrize("method", ["genetic", "random"])
def test_a_budget_is_spent_on_different_genomes(method: str) -> None:
    seen: list[Genome] = []

    def objective(genome: Genome) -> float:
        seen.append(genome)
        return _sum(genome)

    found = search(objective, budget=45, method=method, genes=LETTERS, seed=3)  # type: ignore[arg-type]
    assert len(seen) == len({json.dumps(genome, sort_keys=True) for genome in seen}) == 45
    assert [trial.genome for trial in found.trials] == seen
    assert [trial.generation for trial in found.trials] == [i // 8 for i in range(45)]
    assert found.best.fitness == max(map(_sum, seen)) == found.best_so_far[-1]
    assert list(found.best_so_far) == sorted(found.best_so_far)
    frame = found.to_frame()
    assert list(frame.columns) == ["trial", "generation", "fitness", "best", *LETTERS]
    assert frame["best"].tolist() == list(found.best_so_far)


def test_the_genetic_search_beats_random_search_where_genes_add_up() -> None:
    def mean(method: str) -> float:
        runs = [search(_sum, budget=64, method=method, genes=LETTERS, seed=s) for s in range(10)]  # type: ignore[arg-type]
        return sum(run.best.fitness for run in runs) / len(runs)

    assert mean("genetic") > mean("random") + 2


def test_children_have_the_genes_of_survivors_or_new_ones() -> None:
    found = search(_sum, budget=16, genes={f"g{i}": range(10**6) for i in range(200)}, seed=0)
    first, second = found.trials[:8], found.trials[8:]
    best = sorted(first, key=lambda t: -t.fitness)[:4]
    for child in second:
        shares = sorted((sum(child.genome[g] == t.genome[g] for g in child.genome) / 200 for t in first), reverse=True)
        # One parent gives 0.8 · 0.7 of the genes and the other 0.8 · 0.3; 0.2 are drawn.
        assert abs(shares[0] - 0.56) < 0.12
        assert abs(shares[1] - 0.24) < 0.12
        assert shares[2] == 0
        parents = [t for t in first if any(child.genome[g] == t.genome[g] for g in child.genome)]
        assert all(parent in best for parent in parents)


def test_the_same_seed_is_the_same_search_with_and_without_a_cache(tmp_path: Path) -> None:
    plain = search(_sum, budget=30, genes=LETTERS, seed=5)
    path = tmp_path / "deep/fitness.jsonl"
    for _ in range(2):
        assert search(_sum, budget=30, genes=LETTERS, seed=5, cache=FitnessCache("f", path)) == plain
    assert search(_sum, budget=30, genes=LETTERS, seed=6) != plain


def test_a_small_space_is_tried_whole() -> None:
    found = search(_sum, budget=50, genes={"a": (0, 1, 2), "b": (0, 1)}, population=4)
    assert len(found.trials) == 6
    assert found.best.genome == {"a": 2, "b": 1}


def test_genomes_that_are_not_allowed_are_not_tried() -> None:
    found = search(_sum, budget=30, genes=LETTERS, allowed=lambda genome: genome["g0"] < 3)
    assert {trial.genome["g0"] for trial in found.trials} <= {0, 1, 2}
    with pytest.raises(ConfigError, match="at least one genome is allowed"):
        search(_sum, budget=3, genes=LETTERS, allowed=lambda _: False)


@pytest.mark.parametrize(
    "wrong", [{"budget": 0}, {"population": 1}, {"method": "annealing"}, {"genes": {"a": ()}}, {"genes": {}}]
)
def test_searches_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    # Unwrapped: the type checker of these tests would refuse a method that does not exist before the function does.
    with pytest.raises(ConfigError):
        inspect.unwrap(search)(_sum, **({"budget": 4, "genes": LETTERS} | wrong))  # type: ignore[arg-type]


# --- cache ----------------------------------------------------------------------------------------------------------


def test_a_killed_search_goes_on_where_it_stood(tmp_path: Path) -> None:
    path, count = tmp_path / "fitness.jsonl", 0

    def objective(genome: Genome) -> float:
        nonlocal count
        count += 1
        if count == 13:
            raise KeyboardInterrupt
        return _sum(genome)

    with pytest.raises(KeyboardInterrupt):
        search(objective, budget=20, genes=LETTERS, cache=FitnessCache("f", path))
    with path.open("a") as file:
        file.write('{"key": "ab')  # cut short
    found = search(objective, budget=20, genes=LETTERS, cache=FitnessCache("f", path))
    assert count == 21
    assert found == search(_sum, budget=20, genes=LETTERS)
    assert len(FitnessCache("f", path)) == len(path.read_text().splitlines()) == 20


def test_fitness_is_looked_up_by_genome_and_objective(tmp_path: Path) -> None:
    path = tmp_path / "fitness.jsonl"
    cache = FitnessCache("one", path)
    assert cache.fitness({"a": 1, "b": 2}, _sum) == 3
    assert FitnessCache("one", path).fitness({"b": 2, "a": 1}, lambda _: 99) == 3
    assert FitnessCache("two", path).fitness({"a": 1, "b": 2}, lambda _: 99) == 99
    assert len(cache.key({})) == 64


@pytest.mark.parametrize("content", ["no json\n", "[1]\n", '{"key": "a"}\n', '{"key": "a", "fitness": 1}\n3\n'])
def test_a_cache_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(content)
    with pytest.raises(CheckpointError, match="JSON object with key, fitness"):
        FitnessCache("f", tmp_path / "f")


def test_a_fitness_in_a_file_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"key": "a", "fitness": "high"}\n')
    with pytest.raises(CheckpointError, match=r"a fitness is a number; .* holds 'high'"):
        FitnessCache("f", tmp_path / "f")


def test_an_objective_that_gives_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fitness.jsonl"
    with pytest.raises(ConfigError, match="got nan for"):
        search(lambda _: math.nan, budget=4, genes=LETTERS, cache=FitnessCache("f", path))
    assert not path.exists()
    # What cannot be run at all may be as bad as can be.
    found = search(lambda g: -math.inf if g["a"] else 1.0, budget=2, genes={"a": (0, 1)})
    assert found.best.genome == {"a": 0}
