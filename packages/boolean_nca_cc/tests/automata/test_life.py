"""The rule against a set of living cells in plain Python, a well-known pattern, and a circuit that learns it."""

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from boolean_nca_cc.automata.grid import run_hard, run_packed
from boolean_nca_cc.automata.life import compare_on_soups, life_circuit, life_generation, life_task
from boolean_nca_cc.automata.settings import LifeSettings
from boolean_nca_cc.circuits.fit import fit
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.errors import AutomatonError

AROUND = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]


def by_sets(grid: np.ndarray, boundary: str) -> np.ndarray:
    """Conway's rule over a set of living cells."""
    height, width = grid.shape
    living = {(int(row), int(column)) for row, column in zip(*np.nonzero(grid), strict=True)}
    new = np.zeros_like(grid)
    for row in range(height):
        for column in range(width):
            near = [(row + up, column + left) for up, left in AROUND]
            if boundary == "torus":
                near = [(r % height, c % width) for r, c in near]
            count = sum(cell in living for cell in near)
            new[row, column] = count == 3 or (count == 2 and (row, column) in living)
    return new


@pytest.fixture(scope="module")
def rule() -> Circuit:
    """A circuit that has learned the rule."""
    task = life_task()
    _, circuit = life_circuit(LifeSettings())
    result = fit(circuit, task.x, task.y, FitConfig(steps=150))
    assert result.history["hard_accuracy"][-1] == 1.0
    return result.circuit


@pytest.mark.parametrize("boundary", ["torus", "fixed"])
def test_counting_is_the_rule_on_sets(boundary: str) -> None:
    grid = np.random.default_rng(0).random((9, 7)) < 0.4
    for _ in range(10):
        new = life_generation(grid, boundary)
        assert np.array_equal(new, by_sets(grid, boundary))
        grid = new


def test_the_512_cases_are_the_rule_on_sets() -> None:
    task = life_task()
    assert task.y.shape == (512, 1)
    # C(8,3) cases of birth and of survival with three, C(8,2) of survival with two.
    assert int(task.y.sum()) == 56 + 56 + 28
    for case in range(512):
        grid = np.array([case >> p & 1 for p in range(9)], bool).reshape(3, 3)
        assert bool(task.y[case, 0]) == by_sets(grid, "fixed")[1, 1]
        assert np.array_equal(task.x[case], grid.ravel())


def test_a_glider_comes_round_a_torus(rule: Circuit) -> None:
    grid = np.zeros((8, 8), bool)
    grid[[0, 1, 2, 2, 2], [1, 2, 0, 1, 2]] = True
    states = np.asarray(run_hard(rule, grid[None], 32, "torus"))[:, 0]
    assert np.array_equal(states[4], np.roll(grid, (1, 1), (0, 1)))  # one cell down and right in four generations
    assert np.array_equal(states[32], grid)
    assert not np.array_equal(states[16], grid)


@pytest.mark.parametrize("boundary", ["torus", "fixed"])
def test_soups_run_by_the_circuit_are_those_of_the_rule(rule: Circuit, boundary: str) -> None:
    settings = LifeSettings(soups=40, height=24, width=33, generations=300, boundary=boundary)
    comparison = compare_on_soups(rule, settings, points=10)
    assert comparison.generations.tolist() == list(range(0, 301, 30))
    assert comparison.differing.tolist() == [0] * 11
    assert comparison.alive[-1] > 0
    soup = np.random.default_rng(settings.seed).random((40, 24, 33)) < settings.density
    assert comparison.alive[0] == soup.mean()
    ours = np.asarray(run_packed(rule, soup[None], 1, boundary))[0]
    assert np.array_equal(ours[39], by_sets(soup[39], boundary))


def test_a_wrong_circuit_is_found_out() -> None:
    settings = LifeSettings(soups=2, height=16, width=16, generations=20)
    forgetful = Circuit([jnp.array([[4]])], [jnp.array([[[-9.0, 9.0]]])])  # every cell stays as it is
    comparison = compare_on_soups(forgetful, settings)
    assert comparison.differing[0] == 0
    assert (comparison.differing[1:] > 0).all()


def test_short_lists_of_layers_are_circuits_too() -> None:
    assert life_circuit(LifeSettings(layers=(8,)))[0].layer_sizes == ((9, 1), (8, 1), (1, 1))
    assert life_circuit(LifeSettings(layers=(16, 8)))[0].layer_sizes == ((9, 1), (16, 2), (8, 1), (1, 1))


def test_settings_that_cannot_be_are_refused() -> None:
    for name, value in (("width", 2), ("density", 1.5), ("layers", ()), ("gate", 3), ("boundary", "mirror")):
        with pytest.raises(ValidationError, match=name):
            LifeSettings.model_validate({name: value})
    with pytest.raises(ValidationError, match="multiple of log_every"):
        LifeSettings(checkpoint_every=15)
    with pytest.raises(AutomatonError, match="a cell of 1 bit"):
        compare_on_soups(Circuit([jnp.array([[12]])], [jnp.array([[[-9.0, 9.0]]])]), LifeSettings())


@pytest.mark.slow
def test_the_rule_is_learned_exactly_on_nine_of_ten_wirings() -> None:
    task, exact = life_task(), 0
    for seed in range(10):
        spec, circuit = life_circuit(LifeSettings(seed=seed))
        assert spec.n_gates < 100
        exact += fit(circuit, task.x, task.y, FitConfig(steps=500)).history["hard_accuracy"].max() == 1.0
    assert exact >= 9
