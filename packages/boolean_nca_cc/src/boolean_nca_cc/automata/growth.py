"""Training an automaton to grow a picture out of anything, to keep it, and to repair it.

A training step runs the soft automaton for T steps from a few states and takes the loss between the first bit of every
cell and the picture at one of the last steps; the gradient goes back through all of them:

    L = Σ_cells loss(s_0(t), picture),    s(t + 1) = round(f(s(t))),    ∂ round(x) / ∂x := 1.

The bits are rounded between the steps and the gradient passes the rounding as if it were not there (Y. Bengio,
N. Léonard, A. Courville: Estimating or propagating gradients through stochastic neurons for conditional computation,
2013, arXiv:1308.3432): unrounded, soft bits drift to one half over the steps, and the hard automaton is another one.

A run starts from the picture with a square of it, small or as large as the grid, replaced by random bits; the other
channels are random everywhere. So growing from noise, keeping and repairing are one task from the start, where the
neural cellular automata of A. Mordvintsev, E. Randazzo, E. Niklasson and M. Levin (Growing Neural Cellular Automata,
Distill, 2020, doi:10.23915/distill.00023) need a pool of earlier states.

With a guide the other channels have targets too, a code of the cell's place (`boolean_nca_cc.automata.patterns`). Then
a run starts on the way from noise to the picture: some columns and some rows know their places, and taught is what the
next steps can tell from them. A rule that is right for every such front is right from any state, in as many steps as
the grid has cells on its longer side, and one.

P. Miotti, E. Niklasson, E. Randazzo and
A. Mordvintsev (Differentiable Logic Cellular Automata, 2025, arXiv:2506.04912) train logic gates from a fixed start.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from boolean_nca_cc.automata.cells import cell_circuit
from boolean_nca_cc.automata.grid import run_packed, step_cells
from boolean_nca_cc.automata.patterns import damage, place_code, random_state, seed_state
from boolean_nca_cc.automata.settings import GrowSettings
from boolean_nca_cc.circuits.losses import get_loss
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.optim import make_optimizer

__all__ = ["ASYNCHRONOUS", "GrowthState", "Repair", "evaluate_growth", "start_growth", "train_growth"]

ASYNCHRONOUS = 0.6
"""Share of cells that fire in an asynchronous step, as in arXiv:2506.04912."""


class GrowthState(NamedTuple):
    """What training changes; from it a run goes on bit for bit.

    Args:
        circuit: the cell's circuit; its wires stay.
        opt_state: the optimiser's state.
        step: optimiser steps done.
    """

    circuit: Circuit
    opt_state: PyTree
    step: int


class Repair(NamedTuple):
    """How the hard automaton does, as shares of the picture's cells that are right, a value for each of many grids.

    Args:
        grown: after growing: grid 0 from nothing, grid 1 from one cell, the others from random bits.
        kept: after four times as many steps more.
        damaged: right after the damage: a square of zeros in every other grid, of random bits in those between.
        repaired: after as many steps as growing takes.
    """

    grown: Float[np.ndarray, " grids"]
    kept: Float[np.ndarray, " grids"]
    damaged: Float[np.ndarray, " grids"]
    repaired: Float[np.ndarray, " grids"]

    @property
    def worst(self) -> float:
        """The least share of right cells wherever the picture should be whole."""
        return float(min(self.grown.min(), self.kept.min(), self.repaired.min()))


def start_growth(settings: GrowSettings) -> GrowthState:
    """The untrained state.

    Args:
        settings: what to do.

    Returns:
        The state.

    Raises:
        AutomatonError: a channel that no gate reads.

    >>> start_growth(GrowSettings(channels=2, update=(16,))).circuit.logits[-1].shape
    (2, 1, 16)
    """
    circuit = cell_circuit(
        jax.random.key(settings.seed), settings.channels, settings.perceive, settings.update, settings.nop_scale
    )
    return GrowthState(circuit, make_optimizer(settings.optimizer).init(circuit.logits), 0)


def train_growth(
    settings: GrowSettings, state: GrowthState, picture: Bool[np.ndarray, "height width"], steps: int
) -> tuple[GrowthState, Float[np.ndarray, " steps"]]:
    """Trains for some steps, in one compiled loop. A run in pieces is the whole run, bit for bit on the CPU.

    Args:
        settings: how to train.
        state: where to go on; not consumed.
        picture: what to grow; where a smaller grid is practised on, on that one.
        steps: optimiser steps.

    Returns:
        The new state, and the loss of each step as a mean over the batch's runs.

    >>> settings = GrowSettings(
    ...     channels=1, update=(4,), height=3, width=3, unroll=2, settle=0, damage=1, batch=2
    ... )
    >>> state, losses = train_growth(settings, start_growth(settings), np.eye(3, dtype=bool), 2)
    >>> state.step, losses.shape
    (2, (2,))
    """
    target = jnp.asarray(_target(settings, picture), jnp.float32)
    circuit, opt_state, losses = _train(
        # What does not shape the program is left out, so that it is compiled once.
        settings.model_copy(update={"train_steps": 0, "checkpoint_every": 1, "seed": 0, "steps": 1}),
        (state.circuit, state.opt_state),
        target,
        jax.random.key(settings.seed),
        state.step + jnp.arange(steps),
    )
    return GrowthState(circuit, opt_state, state.step + steps), np.asarray(losses)


@partial(jax.jit, static_argnums=0)
def _train(
    settings: GrowSettings, carry: tuple[Circuit, PyTree], target: Array, key: Array, numbers: Array
) -> tuple[Circuit, PyTree, Array]:
    opt, wires, loss = make_optimizer(settings.optimizer), carry[0].wires, get_loss(settings.loss)
    # On the CPU one grid after another: its intermediate results stay in the cache.
    lesson = _scrambled if settings.guide == "none" else _fronts
    over_grids = jax.lax.map if jax.default_backend() == "cpu" else _side_by_side

    def objective(logits: list[Array], start: Array, taught: Array, end: Array, keys: Array) -> Array:
        def step(state: Array, key: Array) -> tuple[Array, Array]:
            firing = None
            if settings.fire_rate < 1:
                firing = jax.random.bernoulli(key, settings.fire_rate, state.shape[1:])
            soft = step_cells(Circuit(wires, logits), state, "fixed", firing=firing)
            bits = soft + jax.lax.stop_gradient(jnp.round(soft) - soft)
            return bits if settings.round_states else soft, soft[: len(target)]

        bits = jax.lax.scan(step, start, keys)[1][end]
        return loss(jnp.where(taught, bits, target).reshape(len(target), -1), target.reshape(len(target), -1))

    def train(carry: tuple[Any, PyTree], number: Array) -> tuple[tuple[Any, PyTree], Array]:
        logits, opt_state = carry
        draw, end_key, fire = jax.random.split(jax.random.fold_in(key, number), 3)
        start, taught = (part.swapaxes(0, 1) for part in lesson(settings, target, draw))
        end = jax.random.randint(end_key, (), settings.unroll - settings.settle - 1, settings.unroll)
        keys = jax.random.split(fire, (settings.batch, settings.unroll))
        gradient_of = jax.value_and_grad(objective)
        values, gradients = over_grids(lambda grid: gradient_of(logits, *grid[:2], end, grid[2]), (start, taught, keys))
        gradient = jax.tree.map(lambda parts: parts.mean(axis=0), gradients)
        updates, opt_state = opt.update(gradient, opt_state, logits)
        return (optax.apply_updates(logits, updates), opt_state), values.mean()

    circuit, opt_state = carry
    (logits, opt_state), losses = jax.lax.scan(train, (circuit.logits, opt_state), numbers)
    return Circuit(wires, logits), opt_state, losses


def _scrambled(settings: GrowSettings, target: Array, key: Array) -> tuple[Array, Array]:
    """Pictures in which a square is random, and all other bits; all cells of the picture are taught."""
    free_key, noise_key, side_key, place_key = jax.random.split(key, 4)
    _, height, width = target.shape
    free = random_state(free_key, settings.channels - 1, settings.batch, height, width)
    whole = jnp.broadcast_to(target[:, None], (1, settings.batch, height, width))
    noise = random_state(noise_key, settings.channels, settings.batch, height, width)
    sides = jax.random.randint(side_key, (settings.batch,), 1, settings.largest_scramble + 1)
    start = damage(place_key, jnp.concatenate([whole, free]), sides, noise)
    return start, jnp.ones_like(start[:1], bool)


def _fronts(settings: GrowSettings, target: Array, key: Array) -> tuple[Array, Array]:
    """States on the way from noise to the picture: some columns and some rows know their places, the others do not.

    Taught is what the next step can tell: one column and one row more, and the picture where a cell knows its place.
    """
    noise_key, column_key, row_key = jax.random.split(key, 3)
    _, height, width = target.shape
    grids = settings.batch
    # Half of the time all columns know their places, and half of the time all rows: else the picture is rarely taught.
    columns = jax.random.randint(column_key, (grids, 1, 1), 0, 2 * width)
    rows = jax.random.randint(row_key, (grids, 1, 1), 0, 2 * height)
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None]
    of_column = jnp.arange(1, len(target)) <= -(-width // 2)

    def reached(news: int) -> Array:
        by_column = jnp.broadcast_to(column < columns + news, (grids, height, width))
        by_row = jnp.broadcast_to(row < rows + news, (grids, height, width))
        return jnp.where(of_column[:, None, None, None], by_column, by_row)

    knows = reached(0)
    noise = random_state(noise_key, settings.channels, grids, height, width)
    whole = jnp.where(knows, target[1:, None], noise[1 : len(target)])
    start = jnp.concatenate([noise[:1], whole, noise[len(target) :]])
    return start, jnp.concatenate([knows.all(axis=0, keepdims=True), reached(1)])


def _target(settings: GrowSettings, picture: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "bits height width"]:
    """The bits that the loss asks for: the picture, and with a guide a cell's place."""
    if settings.guide == "none":
        return picture[None]
    return np.concatenate([picture[None], place_code(*picture.shape)])


def _side_by_side(function: Callable[[Any], Any], grids: Any) -> Any:
    return jax.vmap(function)(grids)


def evaluate_growth(
    settings: GrowSettings,
    circuit: Circuit,
    picture: Bool[np.ndarray, "height width"],
    fire_rate: float = 1.0,
    grids: int = 32,
) -> Repair:
    """Grows with the hard circuit, waits, damages every grid in another place, and lets it repair.

    The random bits are others than in training.

    Args:
        settings: as in training; `steps` to grow and to repair in. Where not all cells fire, twice as many steps, over
            the rate.
        circuit: the cell's circuit.
        picture: what it should grow, of any size.
        fire_rate: share of the cells that update in a step.
        grids: how many, at least three.

    Returns:
        Shares of right cells.

    >>> settings = GrowSettings(channels=1, update=(4,), height=4, width=4, steps=2, damage=2)
    >>> evaluate_growth(settings, start_growth(settings).circuit, np.ones((4, 4), bool)).repaired.shape
    (32,)
    """
    noise_key, grow_key, keep_key, place_key, bit_key, repair_key = jax.random.split(
        jax.random.fold_in(jax.random.key(settings.seed), 1 << 30), 6
    )
    shape = (settings.channels, grids, *picture.shape)
    steps = settings.steps if fire_rate == 1 else round(2 * settings.steps / fire_rate)

    def run(key: Shaped[Array, "..."], state: Array, steps: int) -> Array:
        return run_packed(circuit, state > 0.5, steps, "fixed", fire_rate=fire_rate, key=key)

    def right(state: Array) -> Float[np.ndarray, " grids"]:
        return np.mean(np.asarray(state[0] > 0.5) == picture, axis=(-2, -1))

    start = random_state(noise_key, *shape)
    start = start.at[:, 0].set(0).at[:, 1].set(seed_state(settings.channels, *picture.shape))
    grown = run(grow_key, start, steps)
    kept = run(keep_key, grown, 4 * steps)
    filling = jax.random.bernoulli(bit_key, 0.5, shape).at[:, ::2].set(False)
    hurt = damage(place_key, kept.astype(jnp.float32), settings.damage, filling.astype(jnp.float32))
    return Repair(right(grown), right(kept), right(hurt), right(run(repair_key, hurt, steps)))
