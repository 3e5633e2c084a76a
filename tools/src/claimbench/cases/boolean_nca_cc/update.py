"""One parameter update alone, as the note measured it: eager, with and without a mask."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from boolean_nca_cc.circuits.train import loss_f_l4, update_params
from boolean_nca_cc.reference import original
from claimbench.case import Case, Counted, Tolerance, Workload
from claimbench.cases.boolean_nca_cc.circuits import DEAD_GATES, Problem, make_optimizer, problem, sizes_and_optimizers
from claimbench.record import Params

__all__ = ["CASES"]

FORMS = {
    "none": original.update_params_none,
    "before": original.update_params_before,
    "after": original.update_params_after,
    "best": update_params,
}

MASKED = ("before", "after", "best")

LARGE_LAYER = (1 << 17, 4, 16)
"""Groups, group size and table entries of the layer for the memory runs: 32 MiB of logits."""


@jax.jit
def _compiled_gradient(logits: Any, wires: Any, x: jax.Array, y: jax.Array, mask: Any) -> Any:
    return jax.grad(lambda values: loss_f_l4(values, wires, x, y, mask)[0])(logits)


def _gradient(logits: Any, p: Problem, mask: Any) -> Any:
    return _compiled_gradient(list(logits), p.circuit.wires, p.x, p.y, mask)


@cache
def _inputs_of(size: str, optimizer_name: str, seed: int) -> dict[str, Any]:
    """Gradients of the masked loss, a used optimizer state and the mask, made once: arrays are immutable."""
    p = problem(size, seed)
    optimizer = make_optimizer(optimizer_name)
    # One step without a mask first, so that dead gates carry momentum from before the knockout.
    unmasked = _gradient(p.circuit.logits, p, None)
    _, state = optimizer.update(unmasked, optimizer.init(p.circuit.logits), p.circuit.logits)
    grad = _gradient(p.circuit.logits, p, p.gate_mask)
    return {"grad": grad, "state": state, "logits": list(p.circuit.logits), "mask": p.gate_mask}


def _inputs(params: Params, seed: int) -> dict[str, Any]:
    return dict(_inputs_of(str(params["size"]), str(params["optimizer"]), seed))


def _variants(optimizer: Any) -> dict[str, Any]:
    def form(update: Any, masked: bool) -> Any:
        def call(inputs: dict[str, Any]) -> Any:
            mask = inputs["mask"] if masked else None
            return update(inputs["grad"], inputs["state"], optimizer, inputs["logits"], mask)

        return call

    return {name: form(update, name in MASKED) for name, update in FORMS.items()}


def _setup(params: Params) -> Workload:
    optimizer = make_optimizer(str(params["optimizer"]))
    variants = _variants(optimizer)

    def live_only(inputs: dict[str, Any]) -> Any:
        # Without a mask the live gates move alike; dead ones are put back for the comparison alone.
        logits, state = variants["none"](inputs)
        restored = [
            jnp.where(mask.reshape(new.shape[0], new.shape[1], 1) == 0, old, new)
            for new, old, mask in zip(logits, inputs["logits"], inputs["mask"][1:], strict=True)
        ]
        return restored, state

    return Workload(
        inputs=lambda seed: _inputs(params, seed),
        variants=variants,
        oracle=live_only,
        compare=lambda outputs: list(outputs[0]),
        tolerances={
            "none": Tolerance(absolute=float("inf"), reason="without a mask dead gates move; only its time is used"),
            "best": Tolerance(
                relative=1e-6, absolute=1e-7, reason="compiled as a whole, where products are contracted"
            ),
        },
    )


def _count(params: Params) -> Iterable[Counted]:
    """Dispatched operations: equations at the top level of the traced update, each one dispatch when run eagerly."""
    inputs = _inputs(params, 0)
    for name, call in _variants(make_optimizer(str(params["optimizer"]))).items():
        equations = jax.make_jaxpr(call)(inputs).jaxpr.eqns
        yield Counted("dispatched_operations", len(equations), name, "dispatches", "top-level equations of the update")


def _large_inputs(optimizer: Any, seed: int) -> dict[str, Any]:
    groups, size, entries = LARGE_LAYER
    key, other = jax.random.split(jax.random.key(seed))
    logits = [jax.random.normal(key, (groups, size, entries))]
    mask = jnp.ones(groups * size).at[:DEAD_GATES].set(0.0)
    grad = [jax.random.normal(other, logits[0].shape) * mask.reshape(groups, size, 1)]
    return {"grad": grad, "state": optimizer.init(logits), "logits": logits, "mask": [jnp.ones(8), mask]}


def _large(params: Params) -> Workload:
    optimizer = make_optimizer(str(params["optimizer"]))
    return Workload(inputs=lambda seed: _large_inputs(optimizer, seed), variants=_variants(optimizer))


CASES = (
    Case(
        "boolean.update",
        "one parameter update with dead gates, eager",
        "jax",
        _setup,
        grid=sizes_and_optimizers("small", "medium", "large"),
        variants=("none", "before", "after", "best"),
        values=_count,
        memory_grid=({"optimizer": "adam", "size": "32 MiB of logits"},),
        memory_setup=_large,
        memory_variants=("none", "before", "after", "best"),
        compile_grid=({"optimizer": "adam", "size": "medium"},),
        compile_variants=("before", "after", "best"),
        original=(original.update_params_none, original.update_params_before),
        quick_grid=sizes_and_optimizers("small", "medium"),
        budget=8.0,
    ),
)
