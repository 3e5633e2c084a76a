"""One training step, and its parts, under the names that "Gate Knockout Performance Optimization" gives them.

A step is one compiled function: loss, gradient, optimiser and metrics; the metrics (hard run included) stand outside
the gradient. Many steps at once are `boolean_nca_cc.circuits.fit`.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree, Shaped

from boolean_nca_cc.circuits.kernels import forward
from boolean_nca_cc.circuits.losses import get_loss
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import TaskError
from boolean_nca_cc.optim import preserve_dead

__all__ = [
    "StepMetrics",
    "TrainState",
    "compute_accuracy",
    "loss_f_bce",
    "loss_f_l4",
    "train_step",
    "unpack",
    "update_params",
]

_Logits = Sequence[Float[Array | np.ndarray, "_ _ entries"]]
_Wires = Sequence[Int[Array | np.ndarray, "arity _"]]
_GateMask = Sequence[Shaped[Array | np.ndarray, " _"]] | None


class TrainState(NamedTuple):
    """What a step changes.

    Args:
        params: logits, one array a layer of gates.
        opt_state: the optimiser's state.
    """

    params: Sequence[Float[Array, "_ _ entries"]]
    opt_state: PyTree


class StepMetrics(NamedTuple):
    """What a loss tells besides its value.

    Args:
        hard_loss: the loss of the hard circuit (tables rounded).
        accuracy: share of right output bits after rounding the soft outputs.
        hard_accuracy: share of right output bits of the hard circuit.
        activations: every layer's soft activations, cases first; None unless asked for.
    """

    hard_loss: Float[Array, ""]
    accuracy: Float[Array, ""]
    hard_accuracy: Float[Array, ""]
    activations: list[Float[Array, "cases _"]] | None = None


def unpack(x: Int[Array | np.ndarray, "*batch"], bit_n: int) -> Float[Array, "*batch bit_n"]:
    """The low bits of integers as floats, least significant first: bit b is (x >> b) & 1.

    Args:
        x: integers.
        bit_n: how many bits.

    Returns:
        Zeros and ones.

    >>> unpack(jnp.array([6]), 4).tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    """
    return (jnp.asarray(x)[..., None] >> jnp.arange(bit_n) & 1).astype(jnp.float32)


def compute_accuracy(
    y: Float[Array | np.ndarray, "*shape"], y0: Float[Array | np.ndarray, "*shape"]
) -> Float[Array, ""]:
    """Mean over all bits of round(y) == y0.

    Args:
        y: outputs.
        y0: targets, zeros and ones.

    Returns:
        From 0 to 1.

    >>> float(compute_accuracy(jnp.array([0.9, 0.4]), jnp.array([1.0, 1.0])))
    0.5
    """
    return jnp.mean(jnp.round(jnp.asarray(y)) == y0)


def loss_f_l4(
    logits: _Logits,
    wires: _Wires,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "cases n_out"],
    gate_mask: _GateMask = None,
    *,
    with_activations: bool = False,
) -> tuple[Float[Array, ""], StepMetrics]:
    """The l4 loss of a circuit, sum (y - y0)^4, and its metrics.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        gate_mask: the layered mask (see `CircuitSpec.to_layers`).
        with_activations: return the soft activations too.

    Returns:
        Loss and metrics; the metrics take no part in a gradient.

    Raises:
        MaskError: a mask that does not fit.
        TaskError: targets that do not fit the inputs or the circuit.

    >>> from boolean_nca_cc.circuits.model import make_nops
    >>> x = jnp.array([[0.0], [1.0]])
    >>> loss, metrics = loss_f_l4([make_nops(1, 1, 1)], [jnp.array([[0]])], x, x)
    >>> round(float(loss), 7), float(metrics.hard_accuracy)
    (1.01e-05, 1.0)
    """
    return _loss("l4", logits, wires, x, y0, gate_mask, with_activations)


def loss_f_bce(
    logits: _Logits,
    wires: _Wires,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "cases n_out"],
    gate_mask: _GateMask = None,
    *,
    with_activations: bool = False,
) -> tuple[Float[Array, ""], StepMetrics]:
    """The binary cross-entropy of a circuit and its metrics; see `boolean_nca_cc.circuits.losses`.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        gate_mask: the layered mask (see `CircuitSpec.to_layers`).
        with_activations: return the soft activations too.

    Returns:
        Loss and metrics; the metrics take no part in a gradient.

    Raises:
        MaskError: a mask that does not fit.
        TaskError: targets that do not fit the inputs or the circuit.

    >>> from boolean_nca_cc.circuits.model import make_nops
    >>> loss, _ = loss_f_bce([make_nops(1, 1, 1)], [jnp.array([[0]])], jnp.array([[0.0]]), jnp.array([[0.0]]))
    >>> round(float(loss), 5)
    0.04859
    """
    return _loss("bce", logits, wires, x, y0, gate_mask, with_activations)


def _loss(
    loss_type: str,
    logits: _Logits,
    wires: _Wires,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "cases n_out"],
    gate_mask: _GateMask,
    with_activations: bool,
) -> tuple[Array, StepMetrics]:
    check_fit(logits, x, y0, gate_mask)
    x_t, y0_t = jnp.asarray(x).T, jnp.asarray(y0).T
    soft = forward(logits, wires, x_t, gate_mask)
    metrics = step_metrics(loss_type, logits, wires, x_t, y0_t, gate_mask, soft[-1])
    return get_loss(loss_type)(soft[-1], y0_t), metrics._replace(
        activations=[layer.T for layer in soft] if with_activations else None
    )


def step_metrics(
    loss_type: str,
    logits: _Logits,
    wires: _Wires,
    x: Float[Array, "n_in cases"],
    y0: Float[Array, "n_out cases"],
    gate_mask: _GateMask,
    soft: Float[Array, "n_out cases"],
) -> StepMetrics:
    """Metrics of given soft outputs, cases last; runs the hard circuit, and stops every gradient."""
    soft, fixed = jax.lax.stop_gradient((soft, list(logits)))
    hard = forward(fixed, wires, x, gate_mask, hard=True)[-1]
    return StepMetrics(get_loss(loss_type)(hard, y0), compute_accuracy(soft, y0), compute_accuracy(hard, y0))


def check_fit(
    logits: _Logits,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "_ n_out"],
    gate_mask: _GateMask,
) -> CircuitSpec:
    """Refuses data or a mask that does not fit the circuit; returns its spec."""
    spec = CircuitSpec.from_logits(logits, x.shape[1])
    if y0.shape != (x.shape[0], spec.n_out):
        raise TaskError(
            "targets have one row a case and one column an output: their shape should be "
            f"{(x.shape[0], spec.n_out)} and is {y0.shape}. Choose the task's n_out to match the circuit."
        )
    if gate_mask is not None:
        spec.check_layers(gate_mask)
    return spec


@jax.jit
def _preserve_knocked_out_params(
    updated_logits: Sequence[Float[Array, "_ _ entries"]],
    original_logits: Sequence[Float[Array, "_ _ entries"]],
    gate_masks: Sequence[Shaped[Array, " _"]],
) -> list[Float[Array, "_ _ entries"]]:
    """Puts the original values of dead gates back, bit for bit; `gate_masks` is without the input layer."""
    return [
        jnp.where(jnp.reshape(mask, (*original.shape[:2], 1)) == 0, original, updated)
        for updated, original, mask in zip(updated_logits, original_logits, gate_masks, strict=True)
    ]


def update_params(
    grad: _Logits,
    opt_state: PyTree,
    opt: optax.GradientTransformation,
    logits: _Logits,
    gate_mask: _GateMask = None,
) -> tuple[list[Float[Array, "_ _ entries"]], PyTree]:
    """One optimiser step that leaves dead gates bit for bit as they are, compiled as a whole.

    The optimiser runs inside `boolean_nca_cc.optim.preserve_dead`, which zeroes dead updates; the parameters are
    selected besides, since an addition, even of zero, flushes denormal numbers. For a policy on the optimiser's state,
    pass `preserve_dead(opt, state=...)` as `opt`.

    On gradients of the masked loss this is the note's "after" (and its "before") within the rounding of compiled
    arithmetic. On gradients that are not zero at dead gates, "before" masks them and this does not, as "after" does
    not: moments of dead gates then differ, and with an optimiser that couples gates (clipping by global norm,
    Adafactor) the live gates do too.

    Args:
        grad: gradients, one array a layer of gates.
        opt_state: the optimiser's state.
        opt: the optimiser; the compiled function is kept for this very object, so make it once.
        logits: parameters.
        gate_mask: the layered mask, the input included; a gate is dead where it is exactly 0.

    Returns:
        New parameters and new optimiser state.

    Raises:
        MaskError: a mask that does not fit.

    >>> opt = optax.adamw(0.1)
    >>> logits, mask = [jnp.ones((2, 1, 2))], [jnp.ones(1), jnp.array([0.0, 1.0])]
    >>> new, _ = update_params([jnp.zeros((2, 1, 2))], opt.init(logits), opt, logits, mask)
    >>> new[0][0].tolist(), bool((new[0][1] < 1).all())
    ([[1.0, 1.0]], True)
    """
    return _update_params(opt, list(grad), opt_state, list(logits), _plain_mask(gate_mask))


@partial(jax.jit, static_argnums=0)
def _update_params(
    opt: optax.GradientTransformation,
    grad: list[Array],
    opt_state: PyTree,
    logits: list[Array],
    gate_mask: list[Array] | None,
) -> tuple[list[Array], PyTree]:
    updates, new_state = preserve_dead(opt).update(grad, opt_state, logits, gate_mask=gate_mask)
    new_logits = optax.apply_updates(logits, updates)
    if gate_mask is not None:
        new_logits = _preserve_knocked_out_params(new_logits, logits, gate_mask[1:])
    return new_logits, new_state


def _plain_mask(gate_mask: _GateMask) -> list[Array] | None:
    """A list of float32 arrays, whatever the caller's kind of sequence: one kind, one compilation."""
    return None if gate_mask is None else [jnp.asarray(mask, jnp.float32) for mask in gate_mask]


def train_step(
    state: TrainState,
    opt: optax.GradientTransformation,
    wires: _Wires,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "cases n_out"],
    loss_type: str = "l4",
    do_train: bool = True,
    gate_mask: _GateMask = None,
    *,
    with_activations: bool = False,
) -> tuple[Float[Array, ""], StepMetrics, TrainState]:
    """One step of training, compiled as a whole: loss and gradient, metrics, `update_params`.

    Another mask, other data of the same shape, another learning rate in an `optax.inject_hyperparams` state compile
    nothing. Loss and metrics are those before the update.

    Args:
        state: parameters and optimiser state; not consumed.
        opt: the optimiser; the compiled function is kept for this very object, so make it once.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        loss_type: "l4" or "bce".
        do_train: update; False only evaluates.
        gate_mask: the layered mask (see `CircuitSpec.to_layers`).
        with_activations: return the soft activations in the metrics.

    Returns:
        Loss, metrics, new state.

    Raises:
        LossError: an unknown loss.
        MaskError: a mask that does not fit.
        TaskError: targets that do not fit the inputs or the circuit.

    >>> from boolean_nca_cc.circuits.model import make_nops
    >>> logits, opt = [make_nops(1, 1, 1)], optax.sgd(1.0)
    >>> state = TrainState(logits, opt.init(logits))
    >>> x = jnp.array([[0.0], [1.0]])
    >>> loss, metrics, new_state = train_step(state, opt, [jnp.array([[0]])], x, x)
    >>> float(metrics.hard_accuracy), bool(loss > train_step(new_state, opt, [jnp.array([[0]])], x, x)[0])
    (1.0, True)
    """
    get_loss(loss_type)
    check_fit(state.params, x, y0, gate_mask)
    mask = _plain_mask(gate_mask)
    return _train_step(opt, loss_type, do_train, with_activations, state, list(wires), x, y0, mask)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _train_step(
    opt: optax.GradientTransformation,
    loss_type: str,
    do_train: bool,
    with_activations: bool,
    state: TrainState,
    wires: list[Array],
    x: Array,
    y0: Array,
    gate_mask: list[Array] | None,
) -> tuple[Array, StepMetrics, TrainState]:
    logits = list(state.params)

    def soft_loss(logits: list[Array]) -> tuple[Array, list[Array]]:
        activations = forward(logits, wires, x.T, gate_mask)
        return get_loss(loss_type)(activations[-1], y0.T), activations

    if do_train:
        (loss, soft), grad = jax.value_and_grad(soft_loss, has_aux=True)(logits)
        new_state = TrainState(*_update_params(opt, grad, state.opt_state, logits, gate_mask))
    else:
        loss, soft = soft_loss(logits)
        new_state = state
    metrics = step_metrics(loss_type, logits, wires, x.T, y0.T, gate_mask, soft[-1])
    if with_activations:
        metrics = metrics._replace(activations=[layer.T for layer in soft])
    return loss, metrics, new_state
