"""What must hold exactly: dead gates' gradients and parameters, live gates' updates, equality of before and after."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from boolean_nca_cc.circuits.train import loss_f_bce, loss_f_l4
from boolean_nca_cc.reference import original
from claimbench.case import Case, Counted
from claimbench.cases.boolean_nca_cc.circuits import OPTIMIZERS, SIZES, Problem, make_optimizer, not_timed, problem
from claimbench.record import Params
from claimbench.runtimes.base import flatten

__all__ = ["CASES"]

STEPS = 20
LOSSES = {"l4": loss_f_l4, "bce": loss_f_bce}


@partial(jax.jit, static_argnums=0)
def _compiled_gradient(
    loss: str, logits: list[jax.Array], wires: Any, x: jax.Array, y: jax.Array, mask: list[jax.Array] | None
) -> list[jax.Array]:
    return jax.grad(lambda values: LOSSES[loss](values, wires, x, y, mask)[0])(logits)


def _gradient(p: Problem, loss: str = "l4", masked: bool = True) -> list[jax.Array]:
    mask = p.gate_mask if masked else None
    return list(_compiled_gradient(loss, list(p.circuit.logits), p.circuit.wires, p.x, p.y, mask))


def _dead(p: Problem) -> list[np.ndarray]:
    """For each layer of gates, which gates are dead, shape (groups, size)."""
    return [
        np.asarray(mask).reshape(layer.shape[:2]) == 0
        for mask, layer in zip(p.gate_mask[1:], p.circuit.logits, strict=True)
    ]


def _zero_gradient(params: Params) -> Iterable[Counted]:
    p = problem(str(params["size"]), dead=20)
    for loss in LOSSES:
        gradient = _gradient(p, loss)
        largest = max(
            float(np.abs(np.asarray(layer)[dead]).max()) if dead.any() else 0.0
            for layer, dead in zip(gradient, _dead(p), strict=True)
        )
        dead_gates = int(sum(dead.sum() for dead in _dead(p)))
        yield Counted("largest_dead_gradient", largest, detail=f"{loss}, {dead_gates} dead gates")


def _trained(p: Problem, optimizer: Any, update: Any) -> tuple[list[jax.Array], list[jax.Array], float]:
    """Logits at the knockout and after `STEPS` updates, and the largest odd move of a live gate.

    The optimizer has seen three steps without a mask, so that every gate carries momentum into the knockout.
    """
    logits: list[jax.Array] = list(p.circuit.logits)
    state = optimizer.init(logits)
    for _ in range(3):
        gradient = _gradient(p._replace(circuit=p.circuit._replace(logits=logits)), masked=False)
        moved, state = original.update_params_none(gradient, state, optimizer, logits)
        logits = list(moved)
    start, odd = logits, 0.0
    for _ in range(STEPS):
        gradient = _gradient(p._replace(circuit=p.circuit._replace(logits=logits)))
        usual, _ = original.update_params_none(gradient, state, optimizer, logits)
        logits, state = update(gradient, state, optimizer, logits, p.gate_mask)
        for new, free, dead in zip(logits, usual, _dead(p), strict=True):
            odd = max(odd, float(np.abs(np.asarray(new) - np.asarray(free))[~dead].max()))
    return start, logits, odd


def _preserved(params: Params) -> Iterable[Counted]:
    p = problem("medium", dead=20)
    start, end, odd = _trained(p, make_optimizer(str(params["optimizer"])), original.update_params_after)
    same = [
        np.asarray(a)[dead].view(np.int32) == np.asarray(b)[dead].view(np.int32)
        for a, b, dead in zip(start, end, _dead(p), strict=True)
    ]
    share = 100.0 * float(np.mean(np.concatenate([part.ravel() for part in same])))
    detail = f"{STEPS} updates, 20 dead gates, momentum from before the knockout"
    yield Counted("preserved", share, "after", "%", detail)
    yield Counted("live_update_difference", odd, "after", "", detail)


SIZE_GRID: tuple[Params, ...] = tuple({"size": size} for size in SIZES)
OPTIMIZER_GRID: tuple[Params, ...] = tuple({"optimizer": name} for name in (*OPTIMIZERS, "rmsprop"))


def _knockout(params: Params) -> Iterable[Counted]:
    return _zero_gradient(params) if "size" in params else _preserved(params)


def _identical(params: Params) -> Iterable[Counted]:
    """Largest difference of before and after over all sizes and optimizers, one row a source of gradients and part."""
    largest = {"parameters": 0.0, "optimizer state": 0.0}
    for size in SIZES:
        p = problem(size)
        elsewhere = params["gradients"] != "of the masked loss"
        gradient = [jnp.ones_like(layer) for layer in p.circuit.logits] if elsewhere else _gradient(p)
        for name in OPTIMIZERS:
            optimizer = make_optimizer(name)
            logits = list(p.circuit.logits)
            _, state = original.update_params_none(
                _gradient(p, masked=False), optimizer.init(logits), optimizer, logits
            )
            results = [
                update(gradient, state, optimizer, logits, p.gate_mask)
                for update in (original.update_params_before, original.update_params_after)
            ]
            for part, index in (("parameters", 0), ("optimizer state", 1)):
                before, after = (flatten(result[index]) for result in results)
                for leaf in before:
                    gap = np.abs(np.asarray(before[leaf], np.float64) - np.asarray(after[leaf], np.float64))
                    largest[part] = max(largest[part], float(gap.max(initial=0.0)))
    yield Counted(
        "largest_difference", largest[str(params["compared"])], detail="before against after, one eager update each"
    )


CASES = (
    Case(
        "boolean.knockout",
        "dead gates stay exactly as they are",
        "jax",
        not_timed,
        values=_knockout,
        original=(original.update_params_after,),
        values_grid=SIZE_GRID + OPTIMIZER_GRID,
    ),
    Case(
        "boolean.identical",
        "before and after give the same result",
        "jax",
        not_timed,
        values=_identical,
        original=(original.update_params_before, original.update_params_after),
        values_grid=tuple(
            {"gradients": source, "compared": part}
            for source in ("of the masked loss", "all ones")
            for part in ("parameters", "optimizer state")
        ),
    ),
)
