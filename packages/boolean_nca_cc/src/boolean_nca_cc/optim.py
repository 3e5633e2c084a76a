"""Optimisers that leave dead gates alone.

The gradient of a dead gate is exactly zero, because the mask multiplies its output. That alone does not keep its
parameters: weight decay, momentum from before the knockout and penalties on the tables move them still. Which optimiser
needs what, on gradients of the masked loss:

============  ==============================  =================================================================
optimiser     moves a dead gate by itself     a dead gate's share in what live gates do
============  ==============================  =================================================================
SGD           no                              none
SGD+momentum  yes: the old momentum           none
Adam          yes: the old first moment       none
AdamW, Lion   yes: moments and weight decay   none
RMSprop       only with momentum              none
Adafactor     only with weight decay          its parameters and updates count in the layer's root mean squares:
                                              a NaN there would reach every live gate
clip by norm  no                              none while its gradient is zero; a gradient from elsewhere counts
============  ==============================  =================================================================

`preserve_dead` zeroes the update of dead gates, whatever the optimiser. As a wrapper it also sees the state and the
optimiser's inputs: it applies the state policy, and hides NaN and infinity of dead gates from the optimiser.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Shaped

from boolean_nca_cc.config import OptimizerConfig, StatePolicy
from boolean_nca_cc.errors import ConfigError, MaskError

__all__ = ["make_optimizer", "preserve_dead"]


def preserve_dead(
    inner: optax.GradientTransformation | None = None, state: StatePolicy = "keep"
) -> optax.GradientTransformationExtraArgs:
    """Zeroes the updates of dead gates; the mask is an argument of `update`, so another mask compiles nothing.

    `update(updates, opt_state, params, gate_mask=...)` takes the note's layered mask, the input layer included; dead is
    exactly 0. Without a mask nothing is changed. Use it as the last link of `optax.chain`, or around an optimiser,
    whose state it then hands on as its own.

    The zero is a negative one: `p + -0.0` has the bits of p for every normal p, also for `p = -0.0`. XLA on the CPU
    flushes denormal numbers in an addition, so that code which must keep every bit selects the old value besides, as
    `boolean_nca_cc.circuits.train.update_params` does.

    Args:
        inner: the optimiser to wrap; None makes a link for the end of a chain.
        state: what happens to dead entries of state arrays that have the parameters' shape: "keep" lets moments go on
            decaying, "freeze" leaves them untouched, "reset" makes them zero. Counters, and statistics that Adafactor
            shares among gates, are never touched.

    Returns:
        The transformation.

    Raises:
        ConfigError: a state policy without an optimiser to apply it to, or an unknown one.
        MaskError: at the update, a mask that does not fit the parameters.

    >>> opt = preserve_dead(optax.sgd(1.0))
    >>> logits = [jnp.zeros((2, 1, 2))]
    >>> mask = [jnp.ones(3), jnp.array([0, 1])]
    >>> updates, _ = opt.update([jnp.ones((2, 1, 2))], opt.init(logits), logits, gate_mask=mask)
    >>> updates[0].tolist()
    [[[-0.0, -0.0]], [[-1.0, -1.0]]]
    """
    if state not in ("keep", "freeze", "reset"):
        raise ConfigError(f"the state policy is keep, freeze or reset; it is {state!r}.")
    if inner is None and state != "keep":
        raise ConfigError(
            f"the state policy {state!r} needs the optimiser whose state it governs; preserve_dead got none. "
            "Write preserve_dead(optimiser, state) instead of ending a chain with it."
        )
    wrapped = optax.with_extra_args_support(inner if inner is not None else optax.identity())

    def update(
        updates: optax.Updates,
        opt_state: optax.OptState,
        params: optax.Params | None = None,
        *,
        gate_mask: Sequence[Shaped[Array | np.ndarray, " _"]] | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if gate_mask is None:
            return wrapped.update(updates, opt_state, params, **extra_args)
        dead = _dead_gates(updates, gate_mask)
        shown = jax.tree.map(_without_nonfinite, updates, dead)
        shown_params = None if params is None else jax.tree.map(_without_nonfinite, params, dead)
        new_updates, new_state = wrapped.update(shown, opt_state, shown_params, gate_mask=gate_mask, **extra_args)
        new_updates = jax.tree.map(lambda u, d: jnp.where(d, jnp.asarray(-0.0, u.dtype), u), new_updates, dead)
        return new_updates, _apply_policy(state, dead, updates, opt_state, new_state)

    return optax.GradientTransformationExtraArgs(wrapped.init, update)


def _dead_gates(updates: optax.Updates, gate_mask: Sequence[Shaped[Array | np.ndarray, " _"]]) -> optax.Updates:
    """For each layer of parameters, `(groups, size, 1)`: is the gate dead."""
    layers, structure = jax.tree.flatten(updates)
    if len(gate_mask) != len(layers) + 1:
        raise MaskError(
            f"gate_mask has one vector a layer, the input included: {len(layers) + 1} for {len(layers)} layers of "
            f"gates; it has {len(gate_mask)}. Convert a flat mask with spec.to_layers(alive)."
        )
    dead = []
    for index, (layer, mask) in enumerate(zip(layers, gate_mask[1:], strict=True), start=1):
        gates = layer.shape[0] * layer.shape[1]
        if mask.shape != (gates,):
            raise MaskError(
                f"gate_mask[{index}] has one value for each of the layer's {gates} gates; its "
                f"shape is {mask.shape}. Convert a flat mask with spec.to_layers(alive)."
            )
        dead.append((jnp.asarray(mask) == 0).reshape(*layer.shape[:2], 1))
    return jax.tree.unflatten(structure, dead)


def _without_nonfinite(value: Array, dead: Array) -> Array:
    """Zero in place of a dead gate's NaN or infinity; finite values pass, since Adafactor reads them."""
    return jnp.where(dead & ~jnp.isfinite(value), 0, value)


def _apply_policy(
    policy: StatePolicy, dead: optax.Updates, params: optax.Params, old: optax.OptState, new: optax.OptState
) -> optax.OptState:
    """Applies the policy to every part of the state that is a tree of arrays like the parameters."""
    if policy == "keep":
        return new
    structure: Any = jax.tree.structure(params)

    def like_params(part: Any) -> bool:
        return bool(jax.tree.structure(part) == structure)

    def restore(part_old: Any, part_new: Any) -> Any:
        if not like_params(part_new):
            return part_new
        return jax.tree.map(
            lambda d, p, o, n: n if n.shape != p.shape else jnp.where(d, o if policy == "freeze" else 0, n),
            dead,
            params,
            part_old,
            part_new,
        )

    return jax.tree.map(restore, old, new, is_leaf=like_params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """The optimiser that a config describes, with the learning rate kept in its state.

    Args:
        config: which one.

    Returns:
        An `optax.inject_hyperparams` transformation; its state's `hyperparams["learning_rate"]` may be replaced at any
        time without a compilation.

    >>> opt = make_optimizer(OptimizerConfig(name="sgd", learning_rate=0.5))
    >>> float(opt.init([jnp.zeros((1, 1, 2))]).hyperparams["learning_rate"])
    0.5
    """

    def build(learning_rate: float | Array) -> optax.GradientTransformation:
        core = _core(config, learning_rate)
        return core if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), core)

    return optax.inject_hyperparams(build)(learning_rate=config.learning_rate)


def _core(config: OptimizerConfig, learning_rate: float | Array) -> optax.GradientTransformation:
    match config.name:
        case "sgd":
            return optax.sgd(learning_rate, momentum=config.momentum or None)
        case "adam":
            return optax.adam(learning_rate, b1=config.b1, b2=config.b2)
        case "adamw":
            return optax.adamw(learning_rate, b1=config.b1, b2=config.b2, weight_decay=config.decay)
        case "rmsprop":
            return optax.rmsprop(learning_rate, decay=config.b2, momentum=config.momentum or None)
        case "lion":
            return optax.lion(learning_rate, b1=config.b1, b2=config.b2, weight_decay=config.decay)
        case "adafactor":
            return optax.adafactor(learning_rate, weight_decay_rate=config.decay or None)
