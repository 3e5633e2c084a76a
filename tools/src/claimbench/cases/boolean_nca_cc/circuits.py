"""The circuits that all cases share: sizes, optimizers, dead gates, all fixed by a key."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import get_task
from boolean_nca_cc.config import FitConfig, OptimizerConfig
from boolean_nca_cc.knockout import shotgun
from claimbench.case import Workload
from claimbench.errors import CaseError
from claimbench.record import Params

__all__ = [
    "DEAD_GATES",
    "OPTIMIZERS",
    "SIZES",
    "Problem",
    "fit_config",
    "make_optimizer",
    "not_timed",
    "problem",
    "sizes_and_optimizers",
]

SIZES = {
    # name: inputs, outputs, arity, hidden layers, width factor; 48, 168 and 530 gates
    "small": (6, 3, 3, 2, 2),
    "medium": (8, 8, 4, 3, 2),
    "large": (10, 10, 4, 4, 4),
}

OPTIMIZERS = ("sgd", "adam", "adamw")

DEAD_GATES = 5
"""Gates knocked out in every case, as in the note."""

KEY = 2025
LEARNING_RATE, B1, B2, WEIGHT_DECAY = 0.1, 0.9, 0.999, 0.1


class Problem(NamedTuple):
    """A circuit in the middle of training, with some gates dead.

    Attributes:
        spec: Its shape.
        circuit: Wires and logits; the logits are drawn, so that no gradient is zero by construction.
        x: All cases.
        y: Their targets.
        alive: Flat, True is alive.
        gate_mask: The same as one float vector a layer.
    """

    spec: CircuitSpec
    circuit: Circuit
    x: jax.Array
    y: jax.Array
    alive: jax.Array
    gate_mask: list[jax.Array]


@cache
def problem(size: str, seed: int = 0, dead: int = DEAD_GATES) -> Problem:
    """The problem of a size: count ones with the small circuit, reverse the bits with the others.

    Args:
        size: `small`, `medium` or `large`.
        seed: Seed of wiring, logits and dead gates.
        dead: Gates to knock out.

    Returns:
        The problem.
    """
    n_in, n_out, arity, hidden, width = SIZES[size]
    spec = CircuitSpec.default(n_in, n_out, arity=arity, hidden=hidden, width=width)
    wiring, drawn, killed = jax.random.split(jax.random.key(KEY + seed), 3)
    circuit = gen_circuit(wiring, spec.layer_sizes, arity=arity)
    keys = jax.random.split(drawn, len(circuit.logits))
    logits = [layer + jax.random.normal(key, layer.shape) for key, layer in zip(keys, circuit.logits, strict=True)]
    data = get_task("popcount" if n_out < n_in else "reverse", n_in, n_out)
    alive = shotgun(killed, spec, dead)
    return Problem(
        spec, Circuit(circuit.wires, logits), jnp.asarray(data.x), jnp.asarray(data.y), alive, spec.to_layers(alive)
    )


def make_optimizer(name: str) -> Any:
    """The optimizers of the note, at one learning rate.

    Args:
        name: `sgd`, `adam`, `adamw` or `rmsprop`.
    """
    return {
        "sgd": optax.sgd(LEARNING_RATE),
        "adam": optax.adam(LEARNING_RATE, b1=B1, b2=B2),
        "adamw": optax.adamw(LEARNING_RATE, b1=B1, b2=B2, weight_decay=WEIGHT_DECAY),
        "rmsprop": optax.rmsprop(LEARNING_RATE, momentum=0.9),
    }[name]


def fit_config(name: str, steps: int) -> FitConfig:
    """The same optimizer for the package's own training loop.

    Args:
        name: `sgd`, `adam` or `adamw`.
        steps: Steps of one call; metrics are recorded every ten, or once where there are fewer.
    """
    moments = {} if name == "sgd" else {"b1": B1, "b2": B2}
    decay = {"weight_decay": WEIGHT_DECAY} if name == "adamw" else {}
    optimizer = OptimizerConfig.model_validate({"name": name, "learning_rate": LEARNING_RATE} | moments | decay)
    return FitConfig(steps=steps, optimizer=optimizer, log_every=min(10, steps))


def sizes_and_optimizers(*sizes: str) -> tuple[dict[str, str | int | float], ...]:
    """The grid of sizes and the note's three optimizers."""
    return tuple({"optimizer": name, "size": size} for size in sizes for name in OPTIMIZERS)


def not_timed(params: Params) -> Workload:
    """The set-up of a case that counts or checks.

    Args:
        params: The point.

    Raises:
        CaseError: Always.
    """
    raise CaseError(f"this case is checked, not timed; got {params}")
