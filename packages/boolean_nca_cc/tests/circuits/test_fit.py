import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.fit import FitResult, fit, fit_many
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData, get_task, split
from boolean_nca_cc.config import FitConfig, OptimizerConfig
from boolean_nca_cc.errors import ConfigError, MaskError, TaskError, WiringError
from boolean_nca_cc.reference import oracle

SPEC = CircuitSpec.default(4, 4, arity=2, hidden=2)
TASK = get_task("reverse", 4)
SGD = FitConfig(steps=7, log_every=3, optimizer=OptimizerConfig(name="sgd", learning_rate=0.05))
ADAMW = FitConfig(steps=7, log_every=3, optimizer=OptimizerConfig(learning_rate=0.3))


def bits(tree: object) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def outputs(circuit: Circuit, data: TaskData, hard: bool = False) -> np.ndarray:
    logits, wires = ([np.asarray(layer) for layer in part] for part in (circuit.logits, circuit.wires))
    return oracle.run_circuit(logits, wires, np.asarray(data.x, np.float64), hard=hard)[-1]


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    wires, logits = gen_circuit(jax.random.key(0), SPEC.layer_sizes, 2)
    rng = np.random.default_rng(0)
    return Circuit(wires, [layer + rng.normal(size=layer.shape).astype(np.float32) for layer in logits])


@pytest.fixture(scope="module")
def patterns() -> np.ndarray:
    alive = np.ones((5, SPEC.n_nodes), bool)
    rng = np.random.default_rng(1)
    for row in alive:
        row[rng.choice(SPEC.hidden_gates, 4, replace=False)] = False
    return alive


def test_a_fit_is_the_oracles_descent(circuit: Circuit, patterns: np.ndarray) -> None:
    result = fit(circuit, TASK.x, TASK.y, SGD, alive=patterns[0])
    x, y = np.asarray(TASK.x, np.float64), np.asarray(TASK.y, np.float64)
    wires, mask = [np.asarray(layer) for layer in circuit.wires], [np.asarray(m) for m in SPEC.to_layers(patterns[0])]
    params, losses, hard = [np.asarray(layer, np.float64) for layer in circuit.logits], [], []
    for step in range(8):
        if step in (0, 3, 6, 7):
            losses.append(oracle.loss(oracle.run_circuit(params, wires, x, mask)[-1], y, "l4"))
            hard.append(np.mean(oracle.run_circuit(params, wires, x, mask, hard=True)[-1] == y))
        if step < 7:
            grads = oracle.gradient(params, wires, x, y, "l4", mask)
            params = [oracle.sgd_step(p, g, 0.05) for p, g in zip(params, grads, strict=True)]
    assert result.history["step"].tolist() == [0, 3, 6, 7]
    np.testing.assert_allclose(result.history["loss"], losses, rtol=2e-5)
    np.testing.assert_allclose(result.history["hard_accuracy"], hard, atol=1e-6)
    for ours, theirs in zip(result.circuit.logits, params, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize("config", [SGD, ADAMW])
def test_dead_gates_keep_every_bit_and_the_caller_his_circuit(
    circuit: Circuit, patterns: np.ndarray, config: FitConfig
) -> None:
    dead = [
        np.asarray(m).reshape(layer.shape[:2]) == 0
        for m, layer in zip(SPEC.to_layers(patterns[0])[1:], circuit.logits, strict=True)
    ]
    poisoned = [np.asarray(layer).copy() for layer in circuit.logits]
    poisoned[0][dead[0]] = np.float32(1e-40)  # denormal: an addition would flush it
    poisoned[1][dead[1]] = np.nan
    given = Circuit(circuit.wires, [jnp.asarray(layer) for layer in poisoned])
    result = fit(given, TASK.x, TASK.y, config, alive=patterns[0])
    assert bits(given.logits) == bits(poisoned), "not consumed"
    clean = fit(circuit, TASK.x, TASK.y, config, alive=patterns[0])
    for before, after, unpoisoned, d in zip(poisoned, result.circuit.logits, clean.circuit.logits, dead, strict=True):
        assert before[d].tobytes() == np.asarray(after)[d].tobytes()
        assert np.array_equal(np.asarray(after)[~d], np.asarray(unpoisoned)[~d])
        assert (before[~d] != np.asarray(after)[~d]).any()


@pytest.mark.parametrize("masked", [False, True])
def test_a_run_in_pieces_is_the_whole_run_bit_for_bit(circuit: Circuit, patterns: np.ndarray, masked: bool) -> None:
    alive = patterns[1] if masked else None
    whole = fit(circuit, TASK.x, TASK.y, ADAMW.model_copy(update={"steps": 13}), alive=alive)
    at, state, steps, histories = circuit, None, 0, []
    for piece in (5, 1, 7):
        part = fit(
            at,
            TASK.x,
            TASK.y,
            ADAMW.model_copy(update={"steps": piece}),
            alive=alive,
            opt_state=state,
            start_step=steps,
        )
        at, state, steps = part.circuit, part.opt_state, steps + piece
        histories.append(part.history)
    assert bits(at.logits) == bits(whole.circuit.logits)
    assert bits(state) == bits(whole.opt_state)
    assert whole.history["step"].tolist() == [0, 3, 6, 9, 12, 13]
    assert [h["step"].tolist() for h in histories] == [[0, 3, 5], [6], [9, 12, 13]]
    joined = np.concatenate([h["loss"] for h in histories])
    assert np.delete(joined, 2).tobytes() == whole.history["loss"].tobytes()


def test_no_steps_is_an_evaluation(circuit: Circuit) -> None:
    result = fit(circuit, TASK.x, TASK.y, SGD.model_copy(update={"steps": 0}))
    assert result.history["step"].tolist() == [0]
    assert bits(result.circuit.logits) == bits(circuit.logits)
    expected = oracle.loss(outputs(circuit, TASK), np.asarray(TASK.y), "l4")
    np.testing.assert_allclose(result.history["loss"][0], expected, rtol=1e-5)


def test_test_cases_are_recorded_and_not_trained_on(circuit: Circuit) -> None:
    train, test = split(TASK)
    result = fit(circuit, train.x, train.y, SGD, test=test)
    alone = fit(circuit, train.x, train.y, SGD)
    for a, b in zip(result.circuit.logits, alone.circuit.logits, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    expected = oracle.loss(outputs(result.circuit, test), np.asarray(test.y), "l4")
    np.testing.assert_allclose(result.history["test_loss"][-1], expected, rtol=1e-5)
    right = np.mean(outputs(result.circuit, test, hard=True) == np.asarray(test.y))
    assert result.history["test_hard_accuracy"][-1] == pytest.approx(right)
    assert set(result.history) == {"step"} | {
        prefix + name for prefix in ("", "test_") for name in ("loss", "accuracy", "hard_loss", "hard_accuracy")
    }


def test_the_learning_rate_is_the_configs_even_when_resumed(circuit: Circuit) -> None:
    first = fit(circuit, TASK.x, TASK.y, SGD)
    still = SGD.model_copy(update={"optimizer": OptimizerConfig(name="sgd", learning_rate=1e-30)})
    second = fit(first.circuit, TASK.x, TASK.y, still, opt_state=first.opt_state, start_step=7)
    assert bits(second.circuit.logits) == bits(first.circuit.logits)


def test_a_sparsity_penalty_adds_its_gradient_at_live_gates(circuit: Circuit, patterns: np.ndarray) -> None:
    """One step of descent moves the logits by the penalty's gradient besides the loss's."""
    config = SGD.model_copy(update={"steps": 1})
    sparser = config.model_copy(update={"sparsity": "binary", "sparsity_weight": 2.0})
    plain = fit(circuit, TASK.x, TASK.y, config, alive=patterns[0])
    sparse = fit(circuit, TASK.x, TASK.y, sparser, alive=patterns[0])
    masks = SPEC.to_layers(patterns[0])[1:]
    for a, b, start, mask in zip(plain.circuit.logits, sparse.circuit.logits, circuit.logits, masks, strict=True):
        p = 1 / (1 + np.exp(-np.asarray(start, np.float64)))
        live = np.asarray(mask).reshape(*start.shape[:2], 1)
        np.testing.assert_allclose(b - a, -0.05 * 2.0 * (1 - 2 * p) * p * (1 - p) * live, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("batch", ["map", "vmap"])
def test_many_fits_are_the_single_ones(circuit: Circuit, patterns: np.ndarray, batch: str) -> None:
    many = fit_many(circuit, TASK.x, TASK.y, patterns, SGD, batch=batch)
    assert many.history["loss"].shape == (5, 4)
    for index, alive in enumerate(patterns):
        single = fit(circuit, TASK.x, TASK.y, SGD, alive=alive)
        for name in ("loss", "accuracy", "hard_loss", "hard_accuracy"):
            np.testing.assert_allclose(many.history[name][index], single.history[name], rtol=1e-5, atol=1e-6)
        for a, b in zip(many.circuit.logits, single.circuit.logits, strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-6)
    assert many.history["step"].tolist() == [0, 3, 6, 7]


def test_chunks_change_nothing_and_report(circuit: Circuit, patterns: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    whole = fit_many(circuit, TASK.x, TASK.y, patterns, SGD)
    parts = fit_many(
        circuit, TASK.x, TASK.y, patterns, SGD, chunk_size=2, on_chunk=lambda done, total: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert bits(parts) == bits(whole)


def test_a_batch_of_circuits(patterns: np.ndarray) -> None:
    circuits = [gen_circuit(jax.random.key(seed), SPEC.layer_sizes, 2) for seed in range(3)]
    batch = Circuit(*jax.tree.map(lambda *parts: jnp.stack(parts), *[(c.wires, c.logits) for c in circuits]))
    free = fit_many(batch, TASK.x, TASK.y, None, SGD, batch="map")
    masked = fit_many(batch, TASK.x, TASK.y, patterns[:3], SGD, batch="vmap")
    for index, one in enumerate(circuits):
        alone = fit(one, TASK.x, TASK.y, SGD)
        np.testing.assert_allclose(free.history["loss"][index], alone.history["loss"], rtol=1e-5)
        alone = fit(one, TASK.x, TASK.y, SGD, alive=patterns[index])
        np.testing.assert_allclose(masked.history["loss"][index], alone.history["loss"], rtol=1e-5)


def test_bad_input_is_refused(circuit: Circuit, patterns: np.ndarray) -> None:
    x, y = TASK.x, TASK.y
    with pytest.raises(TaskError, match=r"should be \(16, 4\) and is \(16, 3\)"):
        fit(circuit, x, y[:, :3], SGD)
    with pytest.raises(TaskError, match="the circuit's 4 inputs; they have 3"):
        fit(circuit, x, y, SGD, test=TaskData(x[:, :3], y, "short"))
    with pytest.raises(MaskError, match=r"has shape \(3,\)"):
        fit(circuit, x, y, SGD, alive=np.ones(3, bool))
    with pytest.raises(WiringError, match="run from 0 to 99"):
        fit(Circuit([circuit.wires[0].at[0, 0].set(99), *circuit.wires[1:]], circuit.logits), x, y, SGD)
    with pytest.raises(ConfigError, match="at least 0; it is -1"):
        fit(circuit, x, y, SGD, start_step=-1)
    with pytest.raises(ConfigError, match="chunk_size is 0"):
        fit_many(circuit, x, y, patterns, SGD, chunk_size=0)
    with pytest.raises(MaskError, match="at least one pattern; it has none"):
        fit_many(circuit, x, y, patterns[:0], SGD)
    with pytest.raises(MaskError, match="alive_batch is None"):
        fit_many(circuit, x, y, None, SGD)
    batch = Circuit([layer[None] for layer in circuit.wires], [layer[None] for layer in circuit.logits])
    with pytest.raises(MaskError, match="there are 1 circuits and 5 masks"):
        fit_many(batch, x, y, patterns, SGD)


def test_results_unpack() -> None:
    assert FitResult._fields == ("circuit", "opt_state", "history")
