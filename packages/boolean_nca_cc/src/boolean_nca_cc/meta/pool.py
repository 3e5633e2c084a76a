"""The pool: circuits in all stages of configuration and damage, on which a rule is trained.

A rule must hold a circuit as well as reach it, so training goes on with states that the rule itself has made: circuits
are drawn from a pool, updated, and put back, after Mordvintsev et al., "Growing Neural Cellular Automata", Distill,
2020, doi:10.23915/distill.00023. Now and then some are replaced by fresh ones, and some are damaged. All functions run
under jit; how many circuits they touch is static.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from boolean_nca_cc.circuits.model import Circuit, gen_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.wiring import mutate_wires
from boolean_nca_cc.errors import ConfigError, PatternError, SpecError
from boolean_nca_cc.knockout import faulty_logits, seu_flips, shotgun
from boolean_nca_cc.meta.settings import DamageConfig
from boolean_nca_cc.models.graph import NodeState, joined, split_tables, start_state

__all__ = ["Pool", "fresh_pool", "put_back", "replace", "sample", "strike", "wire_diversity"]

ResetBy = Literal["uniform", "steps", "loss", "mixed"]


class Pool(NamedTuple):
    """Circuits, one a row of every array; wires have no rows where all circuits share one wiring.

    Args:
        wires: which nodes each group reads, one array a layer of gates.
        state: tables, what gates remember, and the residuals.
        alive: True = alive, over all nodes.
        steps: of the rule since the circuit was fresh.
        loss: when it was last put back; infinite before.
    """

    wires: list[Int[Array, "*circuits arity _"]]
    state: NodeState
    alive: Bool[Array, "circuits nodes"]
    steps: Int[Array, " circuits"]
    loss: Float[Array, " circuits"]

    @property
    def size(self) -> int:
        """Circuits."""
        return int(self.alive.shape[0])

    @property
    def shares_wires(self) -> bool:
        """Whether there is one wiring for all."""
        return self.wires[0].ndim == 2


def fresh_pool(
    key: Shaped[Array, ""],
    spec: CircuitSpec,
    size: int,
    channels: int,
    wiring: Literal["fixed", "random"] = "fixed",
    start: Circuit | None = None,
) -> Pool:
    """A pool of circuits that nothing has happened to.

    Args:
        key: random key of the wires.
        spec: the circuits' layers.
        size: circuits.
        channels: hidden channels of a gate.
        wiring: "fixed" is one wiring for all, "random" one each.
        start: begin with copies of this circuit instead of pass-through tables, for a rule that shall only repair; its
            wiring is everybody's.

    Returns:
        The pool.

    Raises:
        ConfigError: no circuits, or random wires for the copies of one circuit.
        SpecError: a circuit to copy that has other layers.

    >>> pool = fresh_pool(jax.random.key(0), CircuitSpec.default(4, 2, arity=2), size=3, channels=5)
    >>> pool.size, pool.shares_wires, pool.state.hidden.shape
    (3, True, (3, 38, 5))
    """
    if size < 1:
        raise ConfigError(f"a pool has at least one circuit; size is {size}.")
    if start is not None and wiring == "random":
        raise ConfigError(
            "a pool of copies of one circuit has its wiring; wiring is 'random'. Use wiring='fixed', or give no start."
        )
    if start is not None and CircuitSpec.from_logits(start.logits, spec.n_in) != spec:
        raise SpecError(
            f"a pool's circuits have the layers {spec.layer_sizes}; the tables of the one to copy have the shapes "
            f"{[layer.shape for layer in start.logits]}. Give its own spec."
        )
    if wiring == "random":
        wires, logits = jax.vmap(lambda one: gen_circuit(one, spec.layer_sizes, spec.arity))(
            jax.random.split(key, size)
        )
        state = start_state(logits, spec, channels)
    else:
        wires, logits = gen_circuit(key, spec.layer_sizes, spec.arity) if start is None else start
        one = start_state(logits, spec, channels)
        state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), one)
    return Pool(
        list(wires), state, jnp.ones((size, spec.n_nodes), bool), jnp.zeros(size, jnp.int32), jnp.full(size, jnp.inf)
    )


def sample(key: Shaped[Array, ""], pool: Pool, batch: int) -> tuple[Int[Array, " batch"], Pool]:
    """Draws circuits without replacement.

    Args:
        key: random key.
        pool: the pool.
        batch: how many; static.

    Returns:
        Their rows, and a pool of them alone.

    Raises:
        ConfigError: more than there are, or fewer than one.

    >>> pool = fresh_pool(jax.random.key(0), CircuitSpec.default(4, 2, arity=2), size=3, channels=5)
    >>> rows, drawn = sample(jax.random.key(1), pool, 3)
    >>> sorted(rows.tolist()), drawn.size
    ([0, 1, 2], 3)
    """
    if not 1 <= batch <= pool.size:
        raise ConfigError(
            f"a batch is drawn without replacement, from 1 to the pool's {pool.size} circuits; it is {batch}. "
            "Use a larger pool or a smaller batch."
        )
    rows = jax.random.permutation(key, pool.size)[:batch]
    return rows, _rows_of(pool, rows)


def put_back(pool: Pool, rows: Int[Array, " batch"], part: Pool) -> Pool:
    """Writes circuits into rows of the pool.

    Args:
        pool: the pool.
        rows: which, each once.
        part: as many circuits.

    Returns:
        The new pool; shared wires stay the pool's.

    >>> pool = fresh_pool(jax.random.key(0), CircuitSpec.default(4, 2, arity=2), size=3, channels=5)
    >>> rows, drawn = sample(jax.random.key(1), pool, 2)
    >>> put_back(pool, rows, drawn._replace(steps=drawn.steps + 5)).steps.sum().tolist()
    10
    """
    wires = pool.wires if pool.shares_wires else jax.tree.map(lambda a, b: a.at[rows].set(b), pool.wires, part.wires)
    rest = jax.tree.map(lambda a, b: a.at[rows].set(b), pool[1:], part[1:])
    return Pool(wires, *rest)


def replace(
    key: Shaped[Array, ""], pool: Pool, fresh: Pool, count: int, by: ResetBy = "uniform", genetic: int = 0
) -> Pool:
    """Replaces circuits by fresh ones: undamaged, unconfigured, nothing remembered.

    Args:
        key: random key.
        pool: the pool.
        fresh: a pool of at least `count` fresh circuits; its first rows are used.
        count: how many are replaced; static.
        by: "uniform"; "steps" and "loss" with probabilities that are proportional to these (an infinite loss counts as
            the highest finite one); "mixed" with the mean of both.
        genetic: where circuits have their own wires, the new wires are those of a random member with this many pairs
            swapped in each layer; 0 takes those of `fresh`.

    Returns:
        The new pool.

    Raises:
        ConfigError: more than there are.

    >>> pool = fresh_pool(jax.random.key(0), CircuitSpec.default(4, 2, arity=2), size=3, channels=5)
    >>> worn = pool._replace(steps=pool.steps + 5)
    >>> replace(jax.random.key(1), worn, pool, count=2).steps.sum().tolist()
    5
    """
    if not 0 <= count <= min(pool.size, fresh.size):
        raise ConfigError(
            f"from 0 to all {min(pool.size, fresh.size)} circuits can be replaced; count is {count}. Use a smaller one."
        )
    choose_key, parent_key, swap_key = jax.random.split(key, 3)
    steps, loss = _share(pool.steps.astype(jnp.float32)), _share(_finite(pool.loss))
    chances = {"uniform": jnp.full(pool.size, 1 / pool.size), "steps": steps, "loss": loss, "mixed": (steps + loss) / 2}
    rows = jax.random.choice(choose_key, pool.size, (count,), replace=False, p=chances[by])
    new = _rows_of(fresh, jnp.arange(count))
    if genetic and not pool.shares_wires:
        parents = jax.random.randint(parent_key, (count,), 0, pool.size)
        wires = [
            jax.vmap(lambda one, layer: mutate_wires(one, layer, swaps=genetic))(
                jax.random.split(layer_key, count), layer[parents]
            )
            for layer_key, layer in zip(jax.random.split(swap_key, len(pool.wires)), pool.wires, strict=True)
        ]
        new = new._replace(wires=wires)
    return put_back(pool, rows, new)


def strike(
    key: Shaped[Array, ""],
    pool: Pool,
    spec: CircuitSpec,
    count: int,
    damage: DamageConfig,
    vocabulary: Bool[Array, "patterns nodes"] | None = None,
) -> Pool:
    """Damages circuits, the better they work the more likely, so that the rule learns to repair and not to begin.

    Chances are proportional to one over (loss + the pool's mean loss); circuits never put back come after all others.

    Args:
        key: random key.
        pool: the pool.
        spec: the circuits' layers.
        count: how many are struck; static.
        damage: what happens to them. A permanent damage takes the place of an earlier one.
        vocabulary: patterns to draw from; None draws each anew.

    Returns:
        The new pool.

    Raises:
        ConfigError: more circuits than there are.
        PatternError: more dead gates than hidden ones.

    >>> spec = CircuitSpec.default(4, 2, arity=2)
    >>> pool = fresh_pool(jax.random.key(0), spec, size=3, channels=5)
    >>> hit = strike(jax.random.key(1), pool._replace(loss=jnp.ones(3)), spec, 2, DamageConfig(dead=4))
    >>> sorted((~hit.alive).sum(axis=1).tolist())
    [0, 4, 4]
    """
    if not 0 <= count <= pool.size:
        raise ConfigError(f"from 0 to all {pool.size} circuits can be struck; count is {count}. Use a smaller one.")
    if damage.dead > spec.hidden_gates.size:
        raise PatternError(
            f"damage takes hidden gates, of which there are {spec.hidden_gates.size}; it asks for {damage.dead}. "
            "Use fewer, or a larger circuit."
        )
    choose_key, pattern_key, flip_key = jax.random.split(key, 3)
    seen = jnp.isfinite(pool.loss)
    mean = jnp.sum(jnp.where(seen, pool.loss, 0)) / jnp.maximum(jnp.sum(seen), 1)
    chance = jnp.where(seen, 1 / (pool.loss + mean + 1e-9), 1e-9)
    rows = jax.random.choice(choose_key, pool.size, (count,), replace=False, p=chance / jnp.sum(chance))
    if vocabulary is None:
        patterns = jax.vmap(lambda one: shotgun(one, spec, damage.dead))(jax.random.split(pattern_key, count))
    else:
        patterns = vocabulary[jax.random.randint(pattern_key, (count,), 0, vocabulary.shape[0])]
    if damage.kind == "permanent":
        return pool._replace(alive=pool.alive.at[rows].set(patterns))
    tables = split_tables(pool.state.logits[rows], spec)
    if damage.kind == "reversible":
        struck = jax.vmap(lambda logits, alive: faulty_logits(Circuit([], logits), alive, spec).logits)(
            tables, patterns
        )
    else:
        struck = jax.vmap(lambda one, logits, alive: seu_flips(one, Circuit([], logits), alive, spec).logits)(
            jax.random.split(flip_key, count), tables, patterns
        )
    return pool._replace(state=pool.state._replace(logits=pool.state.logits.at[rows].set(joined(struck))))


def wire_diversity(pool: Pool, spec: CircuitSpec) -> Float[Array, ""]:
    """How different the wirings are: the entropy of each connection's source over the pool, as a share of the highest.

    The highest is the logarithm of the number of sources or of circuits, whichever is smaller.

    Args:
        pool: the pool.
        spec: the circuits' layers.

    Returns:
        The mean over all connections: 0 where all are wired alike.

    >>> spec = CircuitSpec.default(4, 2, arity=2)
    >>> float(wire_diversity(fresh_pool(jax.random.key(0), spec, size=3, channels=5), spec))
    0.0
    """
    if pool.shares_wires or pool.size == 1:
        return jnp.zeros(())
    entropies = []
    for layer, (sources, _) in zip(pool.wires, spec.layer_sizes[:-1], strict=True):
        share = jnp.mean(jax.nn.one_hot(layer.reshape(pool.size, -1), sources), axis=0)
        entropy = jnp.sum(jax.scipy.special.entr(share), axis=-1)
        # Where there is one source only, there is nothing to share out, and the entropy is zero.
        entropies.append(entropy / max(math.log(min(pool.size, sources)), 1e-9))
    return jnp.mean(jnp.concatenate(entropies))


def _rows_of(pool: Pool, rows: Array) -> Pool:
    wires = pool.wires if pool.shares_wires else [layer[rows] for layer in pool.wires]
    return Pool(wires, *jax.tree.map(lambda leaf: leaf[rows], pool[1:]))


def _finite(loss: Array) -> Array:
    """An infinite loss, that of a circuit never run, counts as the highest finite one."""
    known = jnp.isfinite(loss)
    return jnp.where(known, loss, jnp.max(jnp.where(known, loss, 0)))


def _share(weights: Array) -> Array:
    """Shares of the sum; equal ones where there is none."""
    total = jnp.sum(weights)
    return jnp.where(total > 0, weights / jnp.maximum(total, 1e-30), 1 / weights.shape[0])
