"""How often things compile, counted in a process of its own without the shape checker."""

import json
import os
import subprocess
import sys

import pytest

PREPARATION = """
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from boolean_nca_cc.circuits import fit as fit_module
from boolean_nca_cc.circuits import train
from boolean_nca_cc.circuits.model import gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.config import FitConfig, OptimizerConfig

compiled = 0


def count(event, duration, **_):
    global compiled
    compiled += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(count)
spec = CircuitSpec.default(4, 4, arity=2, hidden=2)
circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, 2)
tasks = [get_task(name, 4) for name in ("reverse", "gray")]
masks = [np.random.default_rng(seed).random(spec.n_nodes) > 0.2 for seed in range(100)]
layers = [spec.to_layers(mask) for mask in masks]
found = {}
"""

STEPS = """
opt = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)
state = train.TrainState(circuit.logits, opt.init(circuit.logits))
rates = [jnp.float32(0.1 / (1 + step)) for step in range(100)]
_, _, state = train.train_step(state, opt, circuit.wires, tasks[0].x, tasks[0].y, gate_mask=layers[0])
before = compiled
for step in range(1, 100):
    task = tasks[step % 2]
    state.opt_state.hyperparams["learning_rate"] = rates[step]
    kind = tuple if step % 3 else list
    _, _, state = train.train_step(state, opt, circuit.wires, task.x, task.y, gate_mask=kind(layers[step]))
found["step functions"] = train._train_step._cache_size()
found["added by steps"] = compiled - before
found["parameters moved"] = bool(not np.array_equal(state.params[0], circuit.logits[0]))
"""

UPDATES = """
opt = optax.adam(0.1)
params, state = circuit.logits, opt.init(circuit.logits)
for step in range(100):
    params, state = train.update_params(params, state, opt, params, layers[step])
found["update functions"] = train._update_params._cache_size()
"""

FITS = """
def run(rate, steps, alive, task):
    config = FitConfig(steps=steps, log_every=10, optimizer=OptimizerConfig(learning_rate=rate))
    return fit_module.fit(circuit, task.x, task.y, config, alive=alive)


def run_many(rate, steps, alive):
    config = FitConfig(steps=steps, log_every=10, optimizer=OptimizerConfig(learning_rate=rate))
    return fit_module.fit_many(circuit, tasks[0].x, tasks[0].y, np.array(alive), config)


run(0.1, 70, masks[0], tasks[0])
run_many(0.1, 70, masks[:3])
before = compiled
for index in range(1, 5):
    run(0.1 * index, 70 - 13 * index, masks[index], tasks[index % 2])
    run_many(0.1 * index, 70 - 13 * index, masks[index : index + 3])
found["fit functions"] = fit_module._train_one._cache_size()
found["fit_many functions"] = fit_module._train_many._cache_size()
found["added by fits"] = compiled - before
"""

COUNTER = """
before = compiled
jax.jit(lambda v: v * 3 + 1)(jnp.ones(7))
found["counter"] = compiled - before
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    """What the pieces found, one after the other in one fresh process."""
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", PREPARATION + STEPS + UPDATES + FITS + COUNTER + "print(json.dumps(found))"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_hundred_steps_compile_once_whatever_masks_data_and_rates(found: dict[str, object]) -> None:
    assert (found["step functions"], found["added by steps"]) == (1, 0)
    assert found["parameters moved"]


def test_a_hundred_updates_compile_once(found: dict[str, object]) -> None:
    assert found["update functions"] == 1


def test_fits_compile_once_whatever_masks_data_rates_and_lengths(found: dict[str, object]) -> None:
    assert (found["fit functions"], found["fit_many functions"], found["added by fits"]) == (1, 1, 0)


def test_the_counter_counts(found: dict[str, object]) -> None:
    """The proof that the zeros above could be otherwise."""
    assert found["counter"] >= 1
