"""What the defaults reach, on ten wirings: hard accuracy over all 256 cases of 8-bit tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from boolean_nca_cc.circuits.fit import fit_many
from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.config import FitConfig

WIRINGS = 10


def ten_wirings(spec: CircuitSpec) -> Circuit:
    circuits = [gen_circuit(jax.random.key(seed), spec.layer_sizes, spec.arity) for seed in range(WIRINGS)]
    return Circuit(*jax.tree.map(lambda *parts: jnp.stack(parts), *[(c.wires, c.logits) for c in circuits]))


def exact_wirings(spec: CircuitSpec, task: str, steps: int) -> int:
    data = get_task(task, 8, 8)
    result = fit_many(ten_wirings(spec), data.x, data.y, None, FitConfig(steps=steps, log_every=steps))
    assert result.history["step"].tolist() == [0, steps]
    assert (result.history["hard_accuracy"][:, 0] < 1).all() or task == "copy", "nothing to learn"
    return int(np.sum(result.history["hard_accuracy"][:, -1] == 1.0))


@pytest.mark.parametrize("task", ["copy", "reverse", "and", "xor", "gray", "add"])
def test_the_default_circuit_is_exact_within_a_hundred_steps_on_every_wiring(task: str) -> None:
    assert exact_wirings(CircuitSpec.default(8, 8), task, 100) == WIRINGS


def test_multiplication_is_exact_within_two_hundred_steps_on_nine_wirings_of_ten() -> None:
    assert exact_wirings(CircuitSpec.default(8, 8, hidden=4, width=4), "multiply", 200) >= 9
