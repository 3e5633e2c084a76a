"""Training in one compiled loop: one circuit, or one circuit under many knockout patterns at once.

The loop is a scan over records of a loop over steps. How many steps stand between two records is data, so that a longer
run, another mask, other targets of the same shape or another learning rate compile nothing; the optimiser's other
numbers, the loss, and more than twice the records do. Metrics are computed at the records only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from boolean_nca_cc.circuits.kernels import forward
from boolean_nca_cc.circuits.losses import get_loss, sparsity_penalty
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.circuits.tasks import TaskData
from boolean_nca_cc.circuits.train import check_fit, step_metrics
from boolean_nca_cc.circuits.wiring import check_wires
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.errors import ConfigError, MaskError, TaskError
from boolean_nca_cc.optim import make_optimizer, preserve_dead
from boolean_nca_cc.sharding import PATTERNS, replicate, shard_cases, shard_patterns

__all__ = ["FitResult", "fit", "fit_many"]

_Data = tuple[Array, Array]
_FEWEST_RECORDS = 8


class FitResult(NamedTuple):
    """A trained circuit and how it got there; from `fit_many` everything but `step` has a leading axis of patterns.

    Args:
        circuit: wires as given, logits as trained.
        opt_state: the optimiser's state, to go on with.
        history: arrays by name: `step` (steps done), `loss`, `accuracy`, `hard_loss`, `hard_accuracy`, and the same
            with `test_` before them where test data were given.
    """

    circuit: Circuit
    opt_state: PyTree
    history: dict[str, np.ndarray]


def fit(
    circuit: Circuit,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "cases n_out"],
    config: FitConfig,
    *,
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
    test: TaskData | None = None,
    opt_state: PyTree = None,
    start_step: int = 0,
    mesh: Mesh | None = None,
) -> FitResult:
    """Trains a circuit for `config.steps` steps.

    A run in pieces gives the whole run's parameters and history bit for bit on the CPU: pass the piece's `circuit` and
    `opt_state` on, and the number of steps done as `start_step`. Records stand at multiples of `log_every` and at the
    end; a run from step 0 has one at step 0 as well.

    Args:
        circuit: where to start; not consumed.
        x: inputs.
        y0: targets.
        config: how to train.
        alive: True = alive; None = all.
        test: further cases to record metrics on.
        opt_state: the optimiser's state to go on with; its learning rate is replaced by the config's.
        start_step: steps done before.
        mesh: spread the cases over its "cases" axis.

    Returns:
        The trained circuit, optimiser state and history.

    Raises:
        ConfigError: a negative start, or cases that do not divide over the mesh.
        MaskError: a mask that does not fit.
        TaskError: data that do not fit the circuit.
        WiringError: wires that do not fit the circuit.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> from boolean_nca_cc.circuits.tasks import get_task
    >>> task = get_task("reverse", 2)
    >>> circuit = gen_circuit(jax.random.key(0), CircuitSpec.default(2, 2, arity=2).layer_sizes, arity=2)
    >>> result = fit(circuit, task.x, task.y, FitConfig(steps=20))
    >>> result.history["step"].tolist(), float(result.history["hard_accuracy"][-1])
    ([0, 10, 20], 1.0)
    """
    spec = _check(circuit, x, y0, test)
    if start_step < 0:
        raise ConfigError(f"start_step is the number of steps done before, at least 0; it is {start_step}.")
    masks = None if alive is None else spec.to_layers(alive)
    counts = _steps_between_records(config, start_step)
    data = [(x, y0)] if test is None else [(x, y0), (test.x, test.y)]
    placed = tuple((_place(cases, mesh), _place(targets, mesh)) for cases, targets in data)
    # The compiled loop consumes its state, so it gets a copy: the caller's circuit stays whole.
    logits = jax.tree.map(jnp.array, list(circuit.logits))
    state = jax.tree.map(jnp.array, opt_state)
    if state is None:
        state = make_optimizer(config.optimizer).init(logits)
    state = _with_learning_rate(state, jnp.float32(config.optimizer.learning_rate))
    if mesh is not None:
        logits, state, masks = replicate((logits, state, masks), mesh)
    logits, state, records = _train_one(
        _compiled_part(config), list(circuit.wires), logits, state, placed, masks, counts
    )
    return FitResult(Circuit(circuit.wires, logits), state, _history(records, counts, start_step))


def fit_many(
    circuit: Circuit,
    x: Float[Array | np.ndarray, "cases n_in"],
    y0: Float[Array | np.ndarray, "cases n_out"],
    alive_batch: Bool[Array | np.ndarray, "patterns nodes"] | None,
    config: FitConfig,
    *,
    batch: Literal["auto", "map", "vmap"] = "auto",
    mesh: Mesh | None = None,
    chunk_size: int | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Trains one circuit under many knockout patterns, or many circuits, each from its own start.

    On the CPU the patterns run one after another inside one compiled function ("map": one pattern's data stay in the
    cache), on accelerators side by side ("vmap").

    Args:
        circuit: where every pattern starts; or a batch, wires and logits with a leading axis.
        x: inputs.
        y0: targets.
        alive_batch: one mask a pattern; None = all alive, for a batch of circuits.
        config: how to train.
        batch: "map", "vmap", or the device's own.
        mesh: spread the patterns over its "patterns" axis and the cases over its "cases" axis.
        chunk_size: patterns in one call of the compiled function; None = all. The last chunk is filled up by repeating
            a pattern, so that it compiles nothing.
        on_chunk: called after each chunk with the patterns done and the patterns in all.

    Returns:
        Circuits, optimiser states and histories, with a leading axis of patterns.

    Raises:
        ConfigError: no patterns, a chunk size below one, or shares that do not divide over the mesh.
        MaskError: masks that do not fit, or as many as there are circuits.
        TaskError: data that do not fit the circuit.
        WiringError: wires that do not fit the circuit.

    >>> from boolean_nca_cc.circuits.model import gen_circuit
    >>> from boolean_nca_cc.circuits.tasks import get_task
    >>> task, spec = get_task("reverse", 2), CircuitSpec.default(2, 2, arity=2)
    >>> circuit = gen_circuit(jax.random.key(0), spec.layer_sizes, arity=2)
    >>> alive = np.ones((3, spec.n_nodes), bool)
    >>> alive[1, 4] = alive[2, 5] = False
    >>> fit_many(circuit, task.x, task.y, alive, FitConfig(steps=20)).history["hard_accuracy"].shape
    (3, 3)
    """
    batched = circuit.logits[0].ndim == 4
    one = Circuit([layer[0] for layer in circuit.wires], [layer[0] for layer in circuit.logits]) if batched else circuit
    spec = _check(one, x, y0, None)
    total = _count_patterns(circuit, alive_batch, spec, batched)
    devices = 1 if mesh is None else mesh.shape[PATTERNS]
    size = _chunk_size(chunk_size, total, devices)
    mode = ("map" if jax.default_backend() == "cpu" else "vmap") if batch == "auto" else batch
    counts = _steps_between_records(config, 0)
    data = (_place(x, mesh), _place(y0, mesh))
    shared = None if batched else (list(circuit.wires), list(circuit.logits))
    if mesh is not None:
        shared = replicate(shared, mesh)

    chunks = []
    for start in range(0, total, size):
        rows = np.minimum(np.arange(start, start + size), total - 1)
        own = ([layer[rows] for layer in circuit.wires], [layer[rows] for layer in circuit.logits]) if batched else None
        masks = None if alive_batch is None else _to_layers_batch(alive_batch[rows], spec)
        if mesh is not None:
            own, masks = shard_patterns((own, masks), mesh)
        rate = jnp.float32(config.optimizer.learning_rate)
        out = _train_many(_compiled_part(config), mode, devices, shared, own, masks, data, counts, rate)
        done = min(start + size, total)
        chunks.append(jax.tree.map(lambda array, kept=done - start: array[:kept], out))
        if on_chunk is not None:
            jax.block_until_ready(out)
            on_chunk(done, total)
    logits, state, records = jax.tree.map(lambda *parts: jnp.concatenate(parts), *chunks)
    return FitResult(Circuit(circuit.wires, logits), state, _history(records, counts, 0))


@partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
def _train_one(
    config: FitConfig,
    wires: list[Array],
    logits: list[Array],
    opt_state: PyTree,
    data: tuple[_Data, ...],
    masks: list[Array] | None,
    counts: Array | np.ndarray,
) -> tuple[list[Array], PyTree, dict[str, Array]]:
    return _train(config, wires, logits, opt_state, data, masks, counts)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train_many(
    config: FitConfig,
    mode: str,
    devices: int,
    shared: tuple[list[Array], list[Array]] | None,
    own: tuple[list[Array], list[Array]] | None,
    masks: list[Array] | None,
    data: _Data,
    counts: Array | np.ndarray,
    learning_rate: Array,
) -> tuple[list[Array], PyTree, dict[str, Array]]:
    def one(item: tuple[tuple[list[Array], list[Array]] | None, list[Array] | None]) -> tuple[Any, Any, Any]:
        item_own, item_masks = item
        wires, logits = item_own if item_own is not None else shared  # type: ignore[misc]  # one of them is given
        state = make_optimizer(config.optimizer).init(logits)
        state = _with_learning_rate(state, learning_rate)
        return _train(config, wires, logits, state, (data,), item_masks, counts)

    if mode == "vmap":
        return jax.vmap(one)((own, masks))
    if devices == 1:
        return jax.lax.map(one, (own, masks))
    # A map is a loop, which no device can share; one loop a device can be, side by side.
    split = jax.tree.map(lambda array: array.reshape(devices, -1, *array.shape[1:]), (own, masks))
    out = jax.vmap(partial(jax.lax.map, one))(split)
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), out)


def _train(
    config: FitConfig,
    wires: list[Array],
    logits: list[Array],
    opt_state: PyTree,
    data: tuple[_Data, ...],
    masks: list[Array] | None,
    counts: Array | np.ndarray,
) -> tuple[list[Array], PyTree, dict[str, Array]]:
    """The loop itself; `data` is the training cases and perhaps the test cases.

    A dead gate's table is put to rest before the loop, at logits of minus infinity: its output is exactly 0 and so is
    its gradient, and the loop's forward and backward runs need no mask. The optimiser is shown the resting gate's own
    values, and they are put back afterwards.
    """
    opt = preserve_dead(make_optimizer(config.optimizer), config.state_policy)
    loss = get_loss(config.loss)
    cases_last = [(x.T, y0.T) for x, y0 in data]
    initial, dead = logits, None
    if masks is not None:
        cases_last = [(jnp.where(masks[0][:, None] == 0, 0, x), y0) for x, y0 in cases_last]
        dead = [mask.reshape(*layer.shape[:2], 1) == 0 for mask, layer in zip(masks[1:], logits, strict=True)]
        logits = _where(dead, -jnp.inf, logits)

    def objective(logits: list[Array]) -> Array:
        value = loss(forward(logits, wires, cases_last[0][0])[-1], cases_last[0][1])
        if config.sparsity != "none":
            value += config.sparsity_weight * sparsity_penalty(logits, config.sparsity, masks)
        return value

    def step(_: Array, carry: tuple[list[Array], PyTree]) -> tuple[list[Array], PyTree]:
        logits, state = carry
        shown = logits if dead is None else _where(dead, initial, logits)
        updates, state = opt.update(jax.grad(objective)(logits), state, shown, gate_mask=masks)
        return optax.apply_updates(logits, updates), state

    def record(logits: list[Array]) -> dict[str, Array]:
        values = {}
        for prefix, (x, y0) in zip(("", "test_"), cases_last, strict=False):
            soft = forward(logits, wires, x)[-1]
            metrics = step_metrics(config.loss, logits, wires, x, y0, None, soft)
            values[f"{prefix}loss"] = loss(soft, y0)
            values |= {f"{prefix}{name}": getattr(metrics, name) for name in ("accuracy", "hard_loss", "hard_accuracy")}
        return values

    def until_record(
        carry: tuple[list[Array], PyTree], count: Any
    ) -> tuple[tuple[list[Array], PyTree], dict[str, Array]]:
        carry = jax.lax.fori_loop(0, count, step, carry)
        nothing = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(record, carry[0]))
        return carry, jax.lax.cond(count >= 0, record, lambda _: nothing, carry[0])

    (logits, opt_state), records = jax.lax.scan(until_record, (logits, opt_state), counts)
    return logits if dead is None else _where(dead, initial, logits), opt_state, records


def _where(dead: list[Array], values: list[Array] | float, logits: list[Array]) -> list[Array]:
    """The values at dead gates, the logits elsewhere."""
    chosen = values if isinstance(values, list) else [jnp.float32(values)] * len(logits)
    return [jnp.where(d, value, layer) for d, value, layer in zip(dead, chosen, logits, strict=True)]


def _compiled_part(config: FitConfig) -> FitConfig:
    """The config without what is data to the compiled loop: equal results share one compilation."""
    optimizer = config.optimizer.model_copy(update={"learning_rate": 1.0})
    return config.model_copy(update={"optimizer": optimizer, "steps": 0, "log_every": 1})


def _with_learning_rate(state: PyTree, learning_rate: Array) -> PyTree:
    return state._replace(hyperparams={**state.hyperparams, "learning_rate": learning_rate})


def _steps_between_records(config: FitConfig, start_step: int) -> np.ndarray:
    """Steps before each record, filled up with -1, which is no record, to a power of two.

    Records stand at multiples of `log_every` and at the end. A run that goes on leaves out the record of its start, the
    last one of the run before. Filled up, runs of about equal length share one compilation.
    """
    end = start_step + config.steps
    marks = [*range(start_step + config.log_every - start_step % config.log_every, end, config.log_every), end]
    steps = np.diff([start_step, *(marks if config.steps else [])])
    counts = [*([] if start_step else [0]), *steps]
    size = max(_FEWEST_RECORDS, 1 << (len(counts) - 1).bit_length())
    return np.array(counts + [-1] * (size - len(counts)), np.int32)


def _history(records: dict[str, Array], counts: np.ndarray, start_step: int) -> dict[str, np.ndarray]:
    """Arrays by name, without the filling."""
    kept = counts[counts >= 0]
    values = {name: np.asarray(value)[..., : kept.size] for name, value in records.items()}
    return {"step": start_step + np.cumsum(kept), **values}


def _check(circuit: Circuit, x: Array | np.ndarray, y0: Array | np.ndarray, test: TaskData | None) -> CircuitSpec:
    spec = check_fit(circuit.logits, x, y0, None)
    check_wires(circuit.wires, spec)
    if test is not None:
        check_fit(circuit.logits, test.x, test.y, None)
        if test.x.shape[1] != spec.n_in:
            raise TaskError(f"test cases have the circuit's {spec.n_in} inputs; they have {test.x.shape[1]}.")
    return spec


def _count_patterns(circuit: Circuit, alive_batch: Array | np.ndarray | None, spec: CircuitSpec, batched: bool) -> int:
    if alive_batch is None:
        if not batched:
            raise MaskError(
                "one circuit needs masks to be many; alive_batch is None. Pass a mask a pattern, or use fit."
            )
        return int(circuit.logits[0].shape[0])
    if not alive_batch.shape[0]:
        raise MaskError("alive_batch has at least one pattern; it has none.")
    spec.check_alive(alive_batch[0])
    if batched and alive_batch.shape[0] != circuit.logits[0].shape[0]:
        raise MaskError(
            f"a batch of circuits takes one mask each; there are {circuit.logits[0].shape[0]} circuits and "
            f"{alive_batch.shape[0]} masks. Repeat the circuits or the masks."
        )
    return int(alive_batch.shape[0])


def _chunk_size(chunk_size: int | None, total: int, devices: int) -> int:
    if chunk_size is not None and chunk_size < 1:
        raise ConfigError(
            f"a chunk has at least one pattern; chunk_size is {chunk_size}. Leave it out for all at once."
        )
    size = total if chunk_size is None else min(chunk_size, total)
    return size + -size % devices


def _place(array: Array | np.ndarray, mesh: Mesh | None) -> Array:
    return jnp.asarray(array) if mesh is None else shard_cases(array, mesh)


def _to_layers_batch(alive: Array | np.ndarray, spec: CircuitSpec) -> list[Array]:
    return [jnp.asarray(alive[:, where], jnp.float32) for where in spec.layer_slices]
