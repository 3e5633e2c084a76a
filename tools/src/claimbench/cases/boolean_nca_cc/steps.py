"""What a user feels: whole training steps, the mask in them, many patterns at once, and packed evaluation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from boolean_nca_cc.circuits.fit import fit, fit_many
from boolean_nca_cc.circuits.kernels import evaluate_packed, pack_cases, unpack_cases
from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.knockout import shotgun
from boolean_nca_cc.reference import original
from claimbench.case import Case, Tolerance, Work, Workload
from claimbench.cases.boolean_nca_cc.circuits import (
    Problem,
    fit_config,
    make_optimizer,
    problem,
    sizes_and_optimizers,
)
from claimbench.record import Params

__all__ = ["CASES"]

STEPS = {"small": 100, "medium": 10, "large": 3}
MASK_STEPS = {"medium": 20, "large": 3}
PATTERNS, PATTERN_DEAD, PATTERN_STEPS = 16, 20, 5

UNLIKE = Tolerance(absolute=float("inf"), reason="without a mask dead gates take part; only its time is used")


def _inputs(p: Problem) -> dict[str, Any]:
    return {"circuit": p.circuit, "x": p.x, "y": p.y, "alive": p.alive, "mask": p.gate_mask}


def _loss(p: Problem) -> Any:
    """The loss of a result: what trajectories of Adam have in common.

    Adam divides by the root of a mean square: an entry whose gradient is nothing but rounding moves by a whole
    learning rate, and mathematically equal programs part. Gradients agree, and so does where training gets to.
    """

    def compare(logits: Any) -> dict[str, Any]:
        return {"loss": jax.jit(original.loss_f_l4)(list(logits), p.circuit.wires, p.x, p.y, p.gate_mask)[0]}

    return compare


def _eager(optimizer: Any, steps: int, masked: bool) -> Any:
    """The original's loop: one compiled gradient with everything in it, one eager update, `steps` times."""

    def call(inputs: dict[str, Any]) -> list[jax.Array]:
        wires, logits = inputs["circuit"]
        state = original.TrainState(list(logits), optimizer.init(list(logits)))
        for _ in range(steps):
            _, _, state = original.train_step(
                state, optimizer, wires, inputs["x"], inputs["y"], gate_mask=inputs["mask"] if masked else None
            )
        return list(state.params)

    return call


def _flops(p: Problem) -> float:
    """Multiplications and additions of one step's contractions: forward, and twice as many backward."""
    return 3.0 * 2.0 * p.spec.n_logits * p.x.shape[0]


def _scanned(config: Any, masked: bool) -> Any:
    def call(inputs: dict[str, Any]) -> list[jax.Array]:
        alive = inputs["alive"] if masked else None
        return list(fit(inputs["circuit"], inputs["x"], inputs["y"], config, alive=alive).circuit.logits)

    return call


def _step(params: Params) -> Workload:
    size, name = str(params["size"]), str(params["optimizer"])
    p, steps = problem(size), STEPS[size]
    optimizer, config = make_optimizer(name), fit_config(name, steps)
    sgd = Tolerance(relative=1e-4, absolute=1e-4, reason=f"float32 sums in another order, {steps} steps")
    adam = Tolerance(
        relative=2e-2, reason="trajectories of Adam part where gradients are rounding; losses are compared"
    )
    return Workload(
        inputs=lambda seed: _inputs(problem(size, seed)),
        variants={
            "none": _eager(optimizer, steps, masked=False),
            "before": _eager(optimizer, steps, masked=True),
            "best": _scanned(config, masked=True),
        },
        tolerance=sgd if name == "sgd" else adam,
        tolerances={"none": UNLIKE},
        compare=None if name == "sgd" else _loss(p),
        work={"best": Work(flops=_flops(p) * steps)},
        units=steps,
    )


def _mask(params: Params) -> Workload:
    size, name = str(params["size"]), str(params["optimizer"])
    config = fit_config(name, MASK_STEPS[size])
    return Workload(
        inputs=lambda seed: _inputs(problem(size, seed)),
        variants={"none": _scanned(config, masked=False), "best": _scanned(config, masked=True)},
        tolerances={"best": UNLIKE},
        units=MASK_STEPS[size],
    )


def _patterns(_params: Params) -> Workload:
    p = problem("medium")
    optimizer, config = make_optimizer("adamw"), fit_config("adamw", PATTERN_STEPS)
    loop = _eager(optimizer, PATTERN_STEPS, masked=True)

    def inputs(seed: int) -> dict[str, Any]:
        keys = jax.random.split(jax.random.key(seed), PATTERNS)
        return _inputs(p) | {"alive": jax.vmap(lambda key: shotgun(key, p.spec, PATTERN_DEAD))(keys)}

    def one_by_one(given: dict[str, Any]) -> list[jax.Array]:
        results = [loop(given | {"mask": p.spec.to_layers(alive)}) for alive in given["alive"]]
        return [jnp.stack(layer) for layer in zip(*results, strict=True)]

    def at_once(given: dict[str, Any]) -> list[jax.Array]:
        return list(fit_many(given["circuit"], given["x"], given["y"], given["alive"], config).circuit.logits)

    def compare(logits: Any) -> dict[str, Any]:
        masks = jax.vmap(p.spec.to_layers)(inputs(0)["alive"])
        loss = jax.vmap(lambda layers, mask: original.loss_f_l4(layers, p.circuit.wires, p.x, p.y, mask)[0])
        return {"loss": loss(list(logits), masks)}

    return Workload(
        inputs=inputs,
        variants={"before": one_by_one, "best": at_once},
        tolerance=Tolerance(
            relative=2e-2, reason="trajectories of Adam part where gradients are rounding; losses are compared"
        ),
        compare=compare,
        units=PATTERNS * PATTERN_STEPS,
    )


def _packed(params: Params) -> Workload:
    p = problem(str(params["size"]))
    cases = p.x.shape[0]
    by_floats = jax.jit(lambda logits, wires, x: run_circuit(logits, wires, x, hard=True)[-1])

    def compare(outputs: Any) -> Any:
        return unpack_cases(outputs, cases) if outputs.dtype == jnp.uint32 else outputs > 0.5

    return Workload(
        inputs=lambda _seed: {"circuit": p.circuit, "x": p.x, "words": pack_cases(p.x)},
        variants={
            "strong": lambda given: by_floats(given["circuit"].logits, given["circuit"].wires, given["x"]),
            "best": lambda given: evaluate_packed(Circuit(*given["circuit"]), given["words"]),
        },
        compare=compare,
    )


MEDIUM: Params = {"optimizer": "adamw", "size": "medium"}

CASES = (
    Case(
        "boolean.step",
        "whole training steps: eager as published, scanned as ours",
        "jax",
        _step,
        # The large circuit once: the optimizer is a small share of its step, the original's compilation a long one.
        grid=(*sizes_and_optimizers("small", "medium"), {"optimizer": "adamw", "size": "large"}),
        variants=("none", "before", "best"),
        compile_grid=(MEDIUM,),
        compile_variants=("before", "best"),
        original=(original.train_step, original.loss_f_l4, original.run_circuit),
        quick_grid=({"optimizer": "adamw", "size": "small"}, MEDIUM),
        budget=11.0,
        precision=0.01,
        slow_grid=({"optimizer": "adamw", "size": "large"},),
    ),
    Case(
        "boolean.mask",
        "our scanned training steps with and without a mask",
        "jax",
        _mask,
        grid=sizes_and_optimizers("medium", "large"),
        variants=("none", "best"),
        control="none",
        original=(fit,),
        quick_grid=(MEDIUM,),
        budget=20.0,
    ),
    Case(
        "boolean.patterns",
        "16 knockout patterns of 20 dead gates",
        "jax",
        _patterns,
        grid=(MEDIUM,),
        variants=("before", "best"),
        original=(original.train_step,),
        budget=5.0,
        precision=0.01,
        slow_grid=(MEDIUM,),
    ),
    Case(
        "boolean.packed",
        "hard evaluation of all cases, packed against floats",
        "jax",
        _packed,
        grid=({"size": "medium"}, {"size": "large"}),
        variants=("strong", "best"),
        control="strong",
        original=(run_circuit,),
        budget=1.5,
        precision=0.01,
    ),
)
