"""What gates are worth, held to a loop over gates in NumPy."""

from collections.abc import Callable

import jax
import numpy as np
import pytest

from boolean_nca_cc.analysis import Criticality, accuracy_by_output, criticality, liveness_by_layer, worst_damage
from boolean_nca_cc.analysis.worst_damage import WorstDamage
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import MaskError, PatternError, TaskError
from boolean_nca_cc.knockout import functional_liveness, greedy_order, structural_liveness

Draw, LookUp = Callable[..., Circuit], Callable[..., tuple[np.ndarray, np.ndarray]]


def accuracies(look_up: LookUp, circuit: Circuit, x: np.ndarray, y: np.ndarray, alive: np.ndarray) -> np.ndarray:
    return (look_up(circuit, x, alive)[0][:, -y.shape[1] :] == y).mean(axis=0)


@pytest.mark.parametrize("count", [64, 33])
@pytest.mark.parametrize("dead", [(), (8, 15)])
def test_every_gate_costs_what_a_loop_over_gates_finds(
    spec: CircuitSpec, draw: Draw, look_up: LookUp, cases: np.ndarray, count: int, dead: tuple[int, ...]
) -> None:
    circuit, x = draw(1), cases[:count]
    y = np.random.default_rng(5).integers(0, 2, (count, 4)).astype(np.float32)
    alive = np.ones(spec.n_nodes, bool)
    alive[list(dead)] = False
    result = criticality(circuit, spec, x, y, alive)
    baseline = accuracies(look_up, circuit, x, y, alive)
    assert result.baseline == pytest.approx(baseline.mean(), abs=1e-12)
    for gate in range(spec.n_gates):
        without = alive.copy()
        without[spec.n_in + gate] = False
        expected = baseline - accuracies(look_up, circuit, x, y, without)
        np.testing.assert_allclose(result.lost_by_output[gate], expected, atol=1e-12)
    assert np.abs(result.lost).max() > 0
    assert all(result.lost[node - spec.n_in] == 0 for node in dead)


def test_ranking_layers_and_summary_agree(spec: CircuitSpec, draw: Draw, look_up: LookUp, cases: np.ndarray) -> None:
    circuit = draw(2)
    y = look_up(circuit, cases)[0][:, -4:].astype(np.float32)  # what it computes is what it should
    result = criticality(circuit, spec, cases, y)
    assert result.baseline == 1.0
    assert result.lost.min() >= 0
    ranked = result.lost[result.ranking - spec.n_in]
    assert (np.diff(ranked) <= 0).all()
    ties = np.flatnonzero(np.diff(ranked) == 0)
    assert (result.ranking[ties] < result.ranking[ties + 1]).all()
    assert [len(layer) for layer in result.by_layer()] == [8, 6, 4]
    np.testing.assert_array_equal(np.concatenate(result.by_layer()), result.lost)
    # An output's death costs one bit in the cases where it is 1.
    np.testing.assert_allclose(result.by_layer()[-1], y.mean(axis=0) / 4)
    # What no output depends on can be critical only if it is constantly 1, which counts as not live.
    live = functional_liveness(circuit, spec)
    constant = look_up(circuit, cases)[0].all(axis=0)
    assert not (result.lost[~live[spec.n_in :] & ~constant[spec.n_in :]]).any()
    document = result.as_dict(top=3)
    assert document["critical_gates"] == (result.lost > 0).sum()
    assert [gate["node"] for gate in document["worst"]] == result.ranking[:3].tolist()
    assert [layer["gates"] for layer in document["layers"]] == [8, 6, 4]
    assert document["lost"] == result.lost.tolist()
    assert document["layers"][1]["worst"] == result.by_layer()[1].max()


def test_worst_damage_is_the_greedy_order_with_its_curve(
    spec: CircuitSpec, draw: Draw, look_up: LookUp, cases: np.ndarray
) -> None:
    circuit = draw(2)
    y = look_up(circuit, cases)[0][:, -4:].astype(np.float32)
    result = worst_damage(jax.random.key(3), circuit, spec, cases, y, count=5, random_orders=4)
    assert result.order.tolist() == greedy_order(circuit, cases, y, 5).tolist()
    alive = np.ones(spec.n_nodes, bool)
    for dead in range(6):
        alive[result.order[:dead]] = False
        assert result.accuracy[dead] == pytest.approx(accuracies(look_up, circuit, cases, y, alive).mean(), abs=1e-12)
    # The first gate is the most critical hidden one, and random orders start whole and do no more harm with one.
    hidden = criticality(circuit, spec, cases, y).lost[: spec.hidden_gates.size]
    assert result.accuracy[1] == pytest.approx(1 - hidden.max())
    assert result.random.shape == (4, 6)
    assert (result.random[:, 0] == 1.0).all()
    assert (result.random[:, 1] >= result.accuracy[1]).all()
    assert len({tuple(curve) for curve in result.random.tolist()}) > 1
    again = worst_damage(jax.random.key(3), circuit, spec, cases, y, count=5, random_orders=4)
    np.testing.assert_array_equal(again.random, result.random)
    document = result.as_dict()
    assert document["hard_accuracy"][0] == 1.0
    assert document["random_hard_accuracy"]["worst"] == result.random.min(axis=0).tolist()


def test_worst_damage_stops_at_the_last_hidden_gate(spec: CircuitSpec, draw: Draw, cases: np.ndarray) -> None:
    y = np.zeros((64, 4), np.float32)
    result = worst_damage(jax.random.key(0), draw(0), spec, cases, y, count=99, random_orders=1)
    assert sorted(result.order.tolist()) == spec.hidden_gates.tolist()
    assert result.accuracy[-1] == result.random[0, -1]
    alone = worst_damage(jax.random.key(0), draw(0), spec, cases, y, count=1, random_orders=0)
    assert alone.random.shape == (0, 2)
    assert alone.as_dict()["random_hard_accuracy"] == {}


def test_gates_to_reach_an_accuracy() -> None:
    curve = WorstDamage(np.array([4, 5, 6]), np.array([1.0, 0.9, 0.5, 0.6]), np.empty((0, 4)))
    assert [curve.gates_to(accuracy) for accuracy in (1.0, 0.95, 0.9, 0.55, 0.2)] == [0, 1, 1, 2, None]


def test_layers_count_what_knockout_finds(spec: CircuitSpec, draw: Draw) -> None:
    circuit = draw(3)
    alive = np.ones(spec.n_nodes, bool)
    alive[[7, 8, 15]] = False
    layers = liveness_by_layer(circuit, spec, alive)
    assert [layer.nodes for layer in layers] == [6, 8, 6, 4]
    assert [layer.alive for layer in layers] == [6, 6, 5, 4]
    wired, live = structural_liveness(circuit, spec, alive), functional_liveness(circuit, spec, alive)
    assert sum(layer.wired for layer in layers) == wired.sum()
    assert [layer.live for layer in layers] == [int(live[where].sum()) for where in spec.layer_slices]
    assert all(layer.nodes >= layer.alive >= layer.wired >= layer.live for layer in layers)
    assert layers[1].as_dict() == {"layer": 1, "nodes": 8, "alive": 6, "wired": layers[1].wired, "live": layers[1].live}


def test_accuracy_is_that_of_each_mask(spec: CircuitSpec, draw: Draw, look_up: LookUp, cases: np.ndarray) -> None:
    circuit, masks = draw(4), np.random.default_rng(0).random((7, spec.n_nodes)) > 0.2
    y = np.random.default_rng(1).integers(0, 2, (64, 4)).astype(np.float32)
    found = accuracy_by_output(circuit, spec, cases, y, masks)
    np.testing.assert_allclose(found, [accuracies(look_up, circuit, cases, y, mask) for mask in masks], atol=1e-12)


def test_bad_input_is_refused(spec: CircuitSpec, draw: Draw, cases: np.ndarray) -> None:
    y = np.zeros((64, 4), np.float32)
    with pytest.raises(MaskError, match="one flat vector over all"):
        criticality(draw(0), spec, cases, y, np.ones(3, bool))
    with pytest.raises(TaskError, match="these have 6 and 3"):
        criticality(draw(0), spec, cases, y[:, :3])
    with pytest.raises(PatternError, match="random_orders is a number of orders; it is -1"):
        worst_damage(jax.random.key(0), draw(0), spec, cases, y, 1, random_orders=-1)
    with pytest.raises(PatternError, match="cannot be negative; it is -2"):
        worst_damage(jax.random.key(0), draw(0), spec, cases, y, -2)
    assert isinstance(criticality(draw(0), spec, cases, y), Criticality)
