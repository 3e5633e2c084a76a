"""How the published code trained a circuit: a reconstruction, defects included, for comparison only.

What is rebuilt here is described in "Gate Knockout Performance Optimization" (the note) and visible in the original's
source, with one exception: no commit of the original contains the slow `update_params` that the note calls "before".
`update_params_before` is therefore a reconstruction from the note's own sketch and its words ("complex gradient masking
operations", "mask reshaping and broadcasting"), and a figure measured against it is a figure against a reconstruction.
How many operations the lost code dispatched for each layer is unknown; it decides the overhead of an eager update. Of
the plain ways to write it, the one here (reshape, a new axis by indexing, broadcast, compare, select) carries the
overheads that the note measured; with a reshape and a product instead, they came out at about half.

Defects kept on purpose, because they are what the figures are about:

- the optimiser runs eagerly, one dispatch for each arithmetic operation, outside the compiled function;
- every gradient call also runs the hard circuit, keeps both lists of activations and computes every metric;
- a layer folds its table k times for each gate, although the products of inputs are the same for a whole group;
- an unknown loss name silently trains with the l4 loss;
- a NaN in a dead gate's table makes the whole loss NaN, since masking multiplies it by zero;
- `update_params_none` lets a weight decay or an old momentum move dead gates.

Only tests and measurements import this module.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jp
import optax
from jaxtyping import Array, Float, Int, Shaped

__all__ = [
    "TrainState",
    "loss_f_bce",
    "loss_f_l4",
    "run_circuit",
    "run_layer",
    "train_step",
    "update_params_after",
    "update_params_before",
    "update_params_none",
]

Logits = Sequence[Float[Array, "_ _ entries"]]
Wires = Sequence[Int[Array, "arity _"]]
GateMask = Sequence[Shaped[Array, " _"]] | None


class TrainState(NamedTuple):
    """Parameters and optimiser state.

    Args:
        params: logits, one array a layer of gates.
        opt_state: whatever the optimiser keeps.
    """

    params: Logits
    opt_state: Any


@jax.jit
def run_layer(
    lut: Float[Array, "groups size entries"], inputs: Float[Array, "arity cases groups"]
) -> Float[Array, "cases gates"]:
    """One layer by folding every gate's table, cases first: `lut <- (1 - x_j) lut[even] + x_j lut[odd]`.

    Args:
        lut: tables after the sigmoid.
        inputs: the groups' inputs.

    Returns:
        The gates' outputs.
    """
    for x in inputs:
        weight = x[..., None, None]
        lut = (1.0 - weight) * lut[..., ::2] + weight * lut[..., 1::2]
    return lut.reshape(*lut.shape[:-3], -1)


def run_circuit(
    logits: Logits, wires: Wires, x: Float[Array, "cases n_in"], gate_mask: GateMask = None, hard: bool = False
) -> list[Float[Array, "cases _"]]:
    """All activations; each layer's are multiplied by its mask, the input's too.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        gate_mask: one vector a layer, the input included.
        hard: round the tables.

    Returns:
        One array a layer.
    """
    if gate_mask is None:
        gate_mask = [jp.ones(x.shape[-1])] + [jp.ones(layer.shape[0] * layer.shape[1]) for layer in logits]
    x = x * gate_mask[0]
    activations = [x]
    for layer_wires, layer_logits, mask in zip(wires, logits, gate_mask[1:], strict=True):
        lut = jax.nn.sigmoid(layer_logits)
        if hard:
            lut = jp.round(lut)
        x = run_layer(lut, jp.moveaxis(x[..., layer_wires], -2, 0)) * mask
        activations.append(x)
    return activations


def _aux(
    activations: list[Array],
    hard_activations: list[Array],
    y0: Array,
    residual: Array,
    hard_residual: Array,
    hard_loss: Array,
) -> dict[str, Any]:
    return {
        "act": activations,
        "accuracy": jp.mean(jp.round(activations[-1]) == y0),
        "hard_loss": hard_loss,
        "hard_accuracy": jp.mean(jp.round(hard_activations[-1]) == y0),
        "hard_act": hard_activations,
        "res": residual,
        "hard_res": hard_residual,
    }


def loss_f_l4(
    logits: Logits,
    wires: Wires,
    x: Float[Array, "cases n_in"],
    y0: Float[Array, "cases n_out"],
    gate_mask: GateMask = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Sum of the fourth powers of the residuals, with the hard run and all metrics inside.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        gate_mask: one vector a layer, the input included.

    Returns:
        Loss and a dictionary of metrics and activations.
    """
    soft = run_circuit(logits, wires, x, gate_mask)
    hard = run_circuit(logits, wires, x, gate_mask, hard=True)
    residual, hard_residual = soft[-1] - y0, hard[-1] - y0
    return (residual**4).sum(), _aux(soft, hard, y0, residual, hard_residual, (hard_residual**4).sum())


def _binary_cross_entropy(y: Array, y0: Array) -> Array:
    z = jp.log(jp.maximum(y, 1e-7) / jp.maximum(1.0 - y, 1e-7))
    return jp.sum(jax.nn.softplus(z) - y0 * z)


def loss_f_bce(
    logits: Logits,
    wires: Wires,
    x: Float[Array, "cases n_in"],
    y0: Float[Array, "cases n_out"],
    gate_mask: GateMask = None,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Binary cross-entropy from clipped outputs, with the hard run and all metrics inside.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        gate_mask: one vector a layer, the input included.

    Returns:
        Loss and a dictionary of metrics and activations.
    """
    soft = run_circuit(logits, wires, x, gate_mask)
    hard = run_circuit(logits, wires, x, gate_mask, hard=True)
    aux = _aux(soft, hard, y0, soft[-1] - y0, hard[-1] - y0, _binary_cross_entropy(hard[-1], y0))
    return _binary_cross_entropy(soft[-1], y0), aux


_grad_loss_f_l4 = jax.jit(jax.value_and_grad(loss_f_l4, has_aux=True))
_grad_loss_f_bce = jax.jit(jax.value_and_grad(loss_f_bce, has_aux=True))


def update_params_none(
    grad: Logits, opt_state: Any, opt: optax.GradientTransformation, logits: Logits, gate_mask: GateMask = None
) -> tuple[Logits, Any]:
    """The update as it is without a mask, eagerly; the mask is taken and ignored.

    Args:
        grad: gradients.
        opt_state: the optimiser's state.
        opt: the optimiser.
        logits: parameters.
        gate_mask: ignored.

    Returns:
        New parameters, new optimiser state.
    """
    upd, new_opt_state = opt.update(grad, opt_state, logits)
    return optax.apply_updates(logits, upd), new_opt_state


def update_params_before(
    grad: Logits, opt_state: Any, opt: optax.GradientTransformation, logits: Logits, gate_mask: GateMask = None
) -> tuple[Logits, Any]:
    """The note's "before", reconstructed: masks gradients layer by layer, updates, restores layer by layer, eagerly.

    Args:
        grad: gradients.
        opt_state: the optimiser's state.
        opt: the optimiser.
        logits: parameters.
        gate_mask: one vector a layer, the input included.

    Returns:
        New parameters, new optimiser state.
    """
    if gate_mask is not None:
        masked_grad = []
        for layer_idx, layer_grad in enumerate(grad):
            layer_mask = gate_mask[layer_idx + 1]
            group_n, group_size, lut_size = layer_grad.shape
            mask_expanded = layer_mask.reshape(group_n, group_size)[:, :, None]
            mask_broadcast = jp.broadcast_to(mask_expanded, (group_n, group_size, lut_size))
            masked_grad.append(jp.where(mask_broadcast == 0.0, 0.0, layer_grad))
    else:
        masked_grad = list(grad)

    upd, new_opt_state = opt.update(masked_grad, opt_state, logits)
    updated_logits = optax.apply_updates(logits, upd)

    if gate_mask is None:
        return updated_logits, new_opt_state
    new_logits = []
    for layer_idx, (updated_layer, original_layer) in enumerate(zip(updated_logits, logits, strict=True)):
        layer_mask = gate_mask[layer_idx + 1]
        group_n, group_size, lut_size = updated_layer.shape
        mask_expanded = layer_mask.reshape(group_n, group_size)[:, :, None]
        mask_broadcast = jp.broadcast_to(mask_expanded, (group_n, group_size, lut_size))
        new_logits.append(jp.where(mask_broadcast == 0.0, original_layer, updated_layer))
    return new_logits, new_opt_state


@jax.jit
def _preserve_knocked_out_params(
    updated_logits: Logits, original_logits: Logits, gate_masks: Sequence[Shaped[Array, " _"]]
) -> list[Array]:
    preserved_logits = []
    for updated_layer, original_layer, layer_mask in zip(updated_logits, original_logits, gate_masks, strict=True):
        group_n, group_size, _ = updated_layer.shape
        mask_broadcast = layer_mask.reshape(group_n, group_size, 1)
        mask_broadcast = jp.broadcast_to(mask_broadcast, updated_layer.shape)
        preserved_logits.append(jp.where(mask_broadcast == 0.0, original_layer, updated_layer))
    return preserved_logits


def update_params_after(
    grad: Logits, opt_state: Any, opt: optax.GradientTransformation, logits: Logits, gate_mask: GateMask = None
) -> tuple[Logits, Any]:
    """The note's "after", as it prints it: an eager update of the raw gradients, then one compiled restoration.

    Args:
        grad: gradients.
        opt_state: the optimiser's state.
        opt: the optimiser.
        logits: parameters.
        gate_mask: one vector a layer, the input included.

    Returns:
        New parameters, new optimiser state.
    """
    upd, new_opt_state = opt.update(grad, opt_state, logits)
    updated_logits = optax.apply_updates(logits, upd)
    if gate_mask is not None:
        return _preserve_knocked_out_params(updated_logits, logits, list(gate_mask[1:])), new_opt_state
    return updated_logits, new_opt_state


def train_step(
    state: TrainState,
    opt: optax.GradientTransformation,
    wires: Wires,
    x: Float[Array, "cases n_in"],
    y0: Float[Array, "cases n_out"],
    loss_type: str = "l4",
    do_train: bool = True,
    gate_mask: GateMask = None,
) -> tuple[Float[Array, ""], dict[str, Any], TrainState]:
    """One step: compiled loss, metrics and gradient; then the note's "after" update, outside the compiled function.

    Args:
        state: parameters and optimiser state.
        opt: the optimiser.
        wires: one array a layer of gates.
        x: inputs.
        y0: targets.
        loss_type: "bce", or anything else for l4.
        do_train: update the parameters.
        gate_mask: one vector a layer, the input included.

    Returns:
        Loss, metrics and activations, new state.
    """
    logits, opt_state = state
    grad_loss = _grad_loss_f_bce if loss_type == "bce" else _grad_loss_f_l4
    (loss, aux), grad = grad_loss(logits, wires, x, y0, gate_mask)
    if do_train:
        logits, opt_state = update_params_after(grad, opt_state, opt, logits, gate_mask)
    return loss, aux, TrainState(logits, opt_state)
