"""Four virtual devices share cases or patterns, and the results are those of one."""

import jax
import numpy as np
import pytest

from boolean_nca_cc.circuits.fit import fit, fit_many
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData, get_task
from boolean_nca_cc.circuits.train import loss_f_l4
from boolean_nca_cc.config import FitConfig, OptimizerConfig
from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.sharding import make_mesh, replicate, shard_cases, shard_patterns

SPEC = CircuitSpec.default(4, 4, arity=2, hidden=2)
CONFIG = FitConfig(steps=6, log_every=3, optimizer=OptimizerConfig(name="sgd", learning_rate=0.05))


@pytest.fixture(scope="module")
def task() -> TaskData:
    return get_task("gray", 4)


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return gen_circuit(jax.random.key(0), SPEC.layer_sizes, 2)


@pytest.fixture(scope="module")
def patterns() -> np.ndarray:
    alive = np.ones((8, SPEC.n_nodes), bool)
    for row, gate in zip(alive, SPEC.hidden_gates, strict=False):
        row[gate] = False
    return alive


def test_there_are_four_devices() -> None:
    assert len(jax.devices()) == 4


def test_a_gradient_over_shared_cases(circuit: Circuit, task: TaskData) -> None:
    mesh = make_mesh(cases=4)
    x, y = shard_cases(task.x, mesh), shard_cases(task.y, mesh)
    assert len(x.sharding.device_set) == 4
    gradient = jax.jit(jax.value_and_grad(lambda v, x, y: loss_f_l4(v, circuit.wires, x, y)[0]))
    (shared, shared_grad), (one, one_grad) = (
        gradient(replicate(circuit.logits, mesh), x, y),
        gradient(circuit.logits, task.x, task.y),
    )
    np.testing.assert_allclose(shared, one, rtol=1e-6)
    for a, b in zip(shared_grad, one_grad, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_a_fit_over_shared_cases(circuit: Circuit, task: TaskData) -> None:
    shared = fit(circuit, task.x, task.y, CONFIG, mesh=make_mesh(cases=4))
    one = fit(circuit, task.x, task.y, CONFIG)
    np.testing.assert_allclose(shared.history["loss"], one.history["loss"], rtol=1e-5)
    for a, b in zip(shared.circuit.logits, one.circuit.logits, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch", "shape"), [("map", (4, 1)), ("map", (2, 2)), ("vmap", (2, 2))])
def test_many_fits_over_shared_patterns(
    circuit: Circuit, task: TaskData, patterns: np.ndarray, batch: str, shape: tuple[int, int]
) -> None:
    """Six patterns on four or two devices: the last share is filled up, and the filling is dropped."""
    mesh = make_mesh(patterns=shape[0], cases=shape[1])
    shared = fit_many(circuit, task.x, task.y, patterns[:6], CONFIG, batch=batch, mesh=mesh)
    one = fit_many(circuit, task.x, task.y, patterns[:6], CONFIG)
    assert shared.history["loss"].shape == (6, 3)
    np.testing.assert_allclose(shared.history["loss"], one.history["loss"], rtol=1e-5)
    for a, b in zip(shared.circuit.logits, one.circuit.logits, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_each_device_works_on_its_own_patterns(circuit: Circuit, task: TaskData, patterns: np.ndarray) -> None:
    result = fit_many(circuit, task.x, task.y, patterns, CONFIG, mesh=make_mesh(patterns=4))
    assert len(result.circuit.logits[0].sharding.device_set) == 4


def test_what_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"asked for 2 \* 4 and there are 4"):
        make_mesh(patterns=2, cases=4)
    with pytest.raises(ConfigError, match=r"asked for 0 \* 1"):
        make_mesh(patterns=0)
    with pytest.raises(ConfigError, match=r"there are 6 for 4 devices\. Use a mesh with cases=2"):
        shard_cases(np.zeros((6, 2)), make_mesh(cases=4))
    with pytest.raises(ConfigError, match=r"there are 3 for 4 devices\. Use a mesh with patterns=1"):
        shard_patterns([np.zeros((3, 2))], make_mesh(patterns=4))
