"""Training through time: gradients against differences, runs in pieces, and pictures that are grown and repaired."""

from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from boolean_nca_cc.automata.cells import cell_circuit
from boolean_nca_cc.automata.grid import step_cells
from boolean_nca_cc.automata.growth import evaluate_growth, start_growth, train_growth
from boolean_nca_cc.automata.patterns import draw_pattern, place_code
from boolean_nca_cc.automata.settings import GrowSettings
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.config import OptimizerConfig
from boolean_nca_cc.experiments.growth_run import grow_settings, run_growth

TINY = GrowSettings(
    **{"height": 6, "width": 6, "scale": 1, "channels": 2, "perceive": (12,), "update": ()},
    **{"steps": 4, "unroll": 4, "settle": 1, "damage": 2, "batch": 2},
)


def keeping(channels: int) -> Circuit:
    """A cell that keeps every bit."""
    wires = (9 * jnp.arange(channels) + 4)[None].repeat(4, axis=0)
    table = jnp.where(jnp.arange(16) % 2 == 1, 9.0, -9.0)
    return Circuit([wires], [jnp.broadcast_to(table, (channels, 1, 16))])


def test_the_gradient_through_time_is_that_of_differences() -> None:
    wires, logits = cell_circuit(jax.random.key(0), 2, (12,), (8,), nop_scale=1.0)
    rng = np.random.default_rng(0)
    start = jnp.asarray(rng.random((2, 4, 5)), jnp.float32)
    logits = [layer + jnp.asarray(rng.normal(size=layer.shape), jnp.float32) for layer in logits]

    def value(shift: jax.Array) -> jax.Array:
        state = start
        for _ in range(2):
            state = step_cells(Circuit(wires, [logits[0], logits[1] + shift, logits[2]]), state, "torus")
        return jnp.sum(jnp.square(state[0]))

    gradient = np.asarray(jax.jit(jax.grad(value))(jnp.zeros_like(logits[1]))).ravel()
    value = jax.jit(value)
    for entry in np.argsort(-np.abs(gradient))[:5]:
        shift = jnp.zeros(gradient.size).at[entry].set(0.05).reshape(logits[1].shape)
        difference = float(value(shift) - value(-shift)) / 0.1
        assert abs(difference - gradient[entry]) < 0.02 * abs(gradient[entry]) + 1e-4


def test_training_in_pieces_is_training_at_once() -> None:
    settings = TINY.model_copy(update={"fire_rate": 0.6})
    picture = draw_pattern("checkerboard", 6, 6, 1)
    whole, losses = train_growth(settings, start_growth(settings), picture, 4)
    part, first = train_growth(settings, start_growth(settings), picture, 2)
    part, second = train_growth(settings, part, picture, 2)
    assert whole.step == part.step == 4
    assert np.array_equal(losses, np.concatenate([first, second]))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(part), strict=True):
        assert np.array_equal(one, other)
    for trained, fresh in zip(whole.circuit.logits, start_growth(settings).circuit.logits, strict=True):
        assert (trained != fresh).any()


def test_a_run_starts_from_the_picture_but_for_a_random_square() -> None:
    """With a cell that keeps every bit, and squares of one cell, one cell is wrong at most."""
    picture = draw_pattern("checkerboard", 6, 6, 1)
    changes = {"perceive": (), "update": (), "scramble": 1, "unroll": 1, "settle": 0, "batch": 1, "loss": "l4"}
    settings = GrowSettings.model_validate(TINY.model_dump() | changes)
    state = start_growth(settings)._replace(circuit=keeping(2))
    _, losses = train_growth(settings, state, picture, 16)
    assert np.allclose(losses, losses.round(), atol=0.1)
    assert set(losses.round().tolist()) == {0.0, 1.0}


def test_a_guide_teaches_what_the_next_step_can_tell() -> None:
    """A cell made by hand, that counts its column and its row from the neighbours and shows a bit of them, is right."""
    copy, opposite = np.where(np.arange(16) % 2 == 1, 9.0, -9.0), np.where(np.arange(16) % 2 == 1, -9.0, 9.0)
    north, west, own = 1, 3, 4
    sources = [
        9 * 2 + own,
        *(9 * channel + west for channel in (3, 1, 2)),
        *(9 * channel + north for channel in (6, 4, 5)),
    ]
    tables = [copy, opposite, copy, copy, opposite, copy, copy]
    by_hand = Circuit([jnp.array([sources] * 4)], [jnp.asarray(np.array(tables)[:, None], jnp.float32)])
    picture = place_code(6, 5)[1]  # the second bit of the column, which is channel 2
    changes = {"width": 5, "guide": "place", "channels": 7, "perceive": (), "update": (), "unroll": 1, "settle": 0}
    settings = GrowSettings.model_validate(TINY.model_dump() | changes | {"batch": 4, "steps": 7})
    assert settings.guided == 7
    for circuit, least, most in ((by_hand, 0.0, 0.1), (keeping(7), 1.0, 1e6)):
        _, losses = train_growth(settings, start_growth(settings)._replace(circuit=circuit), picture, 1)
        assert least <= losses[0] <= most
    assert evaluate_growth(settings, by_hand, picture, grids=5).worst == 1.0


def test_a_cell_learns_to_fill_the_grid_and_to_close_holes() -> None:
    picture = np.ones((6, 6), bool)
    changes = {"channels": 1, "perceive": (), "update": (4,), "optimizer": OptimizerConfig(name="adam")}
    settings = GrowSettings.model_validate(TINY.model_dump() | changes)
    state, losses = train_growth(settings, start_growth(settings), picture, 40)
    assert losses[-10:].mean() < losses[:10].mean() / 4
    repair = evaluate_growth(settings, state.circuit, picture, grids=4)
    assert repair.worst == 1.0
    assert repair.grown.tolist() == repair.kept.tolist() == repair.repaired.tolist() == [1.0] * 4
    assert repair.damaged[::2].tolist() == [1 - 4 / 36] * 2  # squares of zeros; those between are of random bits


@pytest.mark.parametrize("fire_rate", [1.0, 0.5])
def test_what_never_changes_is_not_called_grown(fire_rate: float) -> None:
    picture = draw_pattern("T", 7, 6, 1)
    repair = evaluate_growth(TINY, keeping(2), picture, fire_rate, grids=5)
    seed = np.zeros((7, 6), bool)
    seed[3, 3] = True
    assert repair.grown[0] == (~picture).mean()
    assert repair.grown[1] == (seed == picture).mean()
    assert np.array_equal(repair.kept, repair.grown)
    assert np.array_equal(repair.repaired, repair.damaged)
    assert (np.abs(repair.damaged - repair.kept) <= 4 / 42 + 1e-12).all()
    assert repair.worst == min(repair.grown.min(), repair.repaired.min()) < 1


@pytest.mark.slow
def test_rounding_between_steps_changes_what_is_learned() -> None:
    picture = draw_pattern("checkerboard", 6, 6, 1)
    rounded, soft = (
        train_growth(settings, start_growth(settings), picture, 2)[0].circuit.logits
        for settings in (TINY, TINY.model_copy(update={"round_states": False}))
    )
    fresh = start_growth(TINY).circuit.logits
    for results in zip(rounded, soft, fresh, strict=True):
        for one, other in pairwise(results):
            assert (one != other).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 2}, "height"),
        ({"channels": 0}, "channels"),
        ({"damage": 9, "height": 8}, "damage is the side of a square inside the grid; it is 9"),
        ({"scramble": 17}, "scramble is the side of a square inside the grid; it is 17, the grid 16 × 16"),
        ({"settle": 20}, "settle is 20, a run has 20 steps. Use at most 19"),
        ({"guide": "place"}, "places on 16 × 16 cells take 17 bits a cell; channels is 8. Use at least 17"),
        ({"guide": "place", "channels": 17, "scramble": 4}, "scramble is 4. Leave it out"),
        ({"update": (30, 8)}, "update is"),
        ({"fire_rate": 0.0}, "fire_rate"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GrowSettings.model_validate(changes)


@pytest.mark.slow
def test_a_lizard_is_grown_from_anything_and_repaired(tmp_path: Path) -> None:
    outcome = run_growth(grow_settings("lizard", seed=1), tmp_path)
    assert outcome.hard_accuracy == 1.0
    assert outcome.asynchronous.worst == 1.0
    assert outcome.synchronous.damaged.max() < 1
