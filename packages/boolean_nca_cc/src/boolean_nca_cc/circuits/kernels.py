"""How a layer of look-up tables is computed: cases last, products of inputs shared by a group.

A gate's output is the multilinear interpolation of its table p over its k inputs x,

    out[g, s] = sum_m p[g, s, m] * prod_j (x_j if bit j of m else 1 - x_j),

and the 2^k products depend on the group g only. So they are computed once a group, with the cases as the last axis,
where they vectorise, and contracted with the tables of all the group's gates at once. Both steps of a layer, the
reading of wires and the contraction, carry their own derivative: the automatic one scatters row by row and recomputes
products. (Reverse mode only: `jax.jacfwd` through them is refused by JAX.)

Hard circuits on boolean inputs need no floats: `evaluate_packed` runs 32 cases a machine word.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import TaskError

__all__ = [
    "evaluate_packed",
    "fold_layer",
    "forward",
    "gather",
    "minterm_layer",
    "pack_cases",
    "tables",
    "unpack_cases",
    "wrong_bits",
]

_ALL_CASES = np.uint32(0xFFFFFFFF)


@jax.custom_vjp
def gather(nodes: Float[Array, "nodes cases"], wires: Int[Array, "arity groups"]) -> Float[Array, "arity groups cases"]:
    """Reads the wires: `nodes[wires]`, with a derivative that adds up readers instead of scattering.

    Args:
        nodes: the previous layer's activations.
        wires: which of them each group reads.

    Returns:
        The groups' inputs.

    >>> gather(jnp.array([[0.0], [1.0]]), jnp.array([[1, 0]])).tolist()
    [[[1.0], [0.0]]]
    """
    return nodes[wires]


def _gather_forward(nodes: Array, wires: Array) -> tuple[Array, tuple[Array, Array]]:
    # An array without elements carries the number of nodes, which is static, to the derivative.
    return nodes[wires], (jnp.zeros((nodes.shape[0], 0), nodes.dtype), wires)


def _gather_backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, None]:
    n_nodes, sources = residuals[0].shape[0], residuals[1].ravel()
    readers = cotangent.reshape(sources.size, -1)
    summed = jax.lax.platform_dependent(readers, sources, cpu=_sum_by_table(n_nodes), default=_sum_by_scatter(n_nodes))
    return summed, None


def _sum_by_scatter(n_nodes: int) -> Callable[[Array, Array], Array]:
    def add_up(readers: Array, sources: Array) -> Array:
        return jnp.zeros((n_nodes, readers.shape[-1]), readers.dtype).at[sources].add(readers)

    return add_up


def _sum_by_table(n_nodes: int) -> Callable[[Array, Array], Array]:
    """Sums through a table of each node's readers; balanced wires fit it, others fall back to the scatter.

    A scatter on the CPU is a loop over rows, and was a third of a training step. Balanced wiring reads no node more
    than `ceil(E / n_nodes)` times, which bounds the table's width without looking at values.
    """

    def add_up(readers: Array, sources: Array) -> Array:
        edges = sources.size
        width = -(-edges // n_nodes)
        fan_out = jnp.sum(sources[:, None] == jnp.arange(n_nodes), axis=0)
        end = jnp.cumsum(fan_out)
        slots = (end - fan_out)[:, None] + jnp.arange(width)
        used = slots < end[:, None]
        table = jnp.argsort(sources)[jnp.minimum(slots, edges - 1)]
        return jax.lax.cond(
            jnp.max(fan_out) <= width,
            lambda: jnp.where(used[..., None], readers[table], 0).sum(1),
            lambda: _sum_by_scatter(n_nodes)(readers, sources),
        )

    return add_up


gather.defvjp(_gather_forward, _gather_backward)


def _minterms(x: Float[Array, "arity groups cases"]) -> Float[Array, "groups entries cases"]:
    """The 2^k products of the inputs and their complements; input 0 is the lowest bit of the entry's index."""
    products = jnp.ones((x.shape[1], 1, x.shape[2]), x.dtype)
    for bit in x:
        products = jnp.concatenate([products * (1 - bit)[:, None], products * bit[:, None]], axis=1)
    return products


@jax.custom_vjp
def minterm_layer(
    table: Float[Array, "groups size entries"], x: Float[Array, "arity groups cases"]
) -> Float[Array, "gates cases"]:
    """One layer as a batched contraction of tables with the groups' products of inputs.

    Args:
        table: the gates' tables, values in [0, 1].
        x: the groups' inputs, values in [0, 1].

    Returns:
        The gates' outputs, gate = group * size + position.

    >>> exclusive_or = jnp.array([[[0.0, 1.0, 1.0, 0.0]]])
    >>> minterm_layer(exclusive_or, jnp.array([[[0.0, 1.0, 1.0]], [[1.0, 1.0, 0.5]]])).tolist()
    [[1.0, 0.0, 0.5]]
    """
    return _minterm_forward(table, x)[0]


def _minterm_forward(table: Array, x: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    products = _minterms(x)
    out = jnp.einsum("gsm,gmc->gsc", table, products)
    return out.reshape(-1, out.shape[-1]), (table, x, products)


def _minterm_backward(residuals: tuple[Array, Array, Array], cotangent: Array) -> tuple[Array, Array]:
    table, x, products = residuals
    d_out = cotangent.reshape(*table.shape[:2], -1)
    d_table = jnp.einsum("gsc,gmc->gsm", d_out, products)
    # The gates' tables, weighted by the cotangent, are one table a group. Its inputs' derivatives come off from the
    # highest bit down: difference of the halves for the derivative, interpolation of the halves to go on.
    folded = jnp.einsum("gsm,gsc->gmc", table, d_out)
    d_x = []
    for j in reversed(range(x.shape[0])):
        low, high = folded[:, : 1 << j], folded[:, 1 << j :]
        difference = high - low
        d_x.append(jnp.sum(difference * _minterms(x[:j]) if j else difference, axis=1))
        folded = low + x[j][:, None] * difference
    return d_table, jnp.stack(d_x[::-1])


minterm_layer.defvjp(_minterm_forward, _minterm_backward)


def fold_layer(
    table: Float[Array, "groups size entries"], x: Float[Array, "arity groups cases"]
) -> Float[Array, "gates cases"]:
    """The same layer by folding the table k times: `table <- (1 - x_j) * table[even] + x_j * table[odd]`.

    Args:
        table: the gates' tables, values in [0, 1].
        x: the groups' inputs, values in [0, 1].

    Returns:
        The gates' outputs, gate = group * size + position.

    >>> exclusive_or = jnp.array([[[0.0, 1.0, 1.0, 0.0]]])
    >>> fold_layer(exclusive_or, jnp.array([[[0.0, 1.0, 1.0]], [[1.0, 1.0, 0.5]]])).tolist()
    [[1.0, 0.0, 0.5]]
    """
    folded = table[..., None]
    for bit in x:
        folded = (1 - bit)[:, None, None] * folded[:, :, ::2] + bit[:, None, None] * folded[:, :, 1::2]
    return folded.reshape(-1, x.shape[-1])


def tables(
    logits: Float[Array | np.ndarray, "groups size entries"],
    mask: Shaped[Array | np.ndarray, " gates"] | None,
    hard: bool,
) -> Float[Array, "groups size entries"]:
    """A layer's tables from its logits: sigmoid, or 1 where the logit is above 0; those of dead gates are 0.

    A dead gate's logits are replaced *before* the sigmoid as well as masked after it. Masking alone would be enough for
    finite logits; NaN or infinity times zero is NaN, forwards and backwards.

    Args:
        logits: the layer's logits.
        mask: one value a gate: 1 alive, 0 dead, fractions attenuate; None = all alive.
        hard: round to 0 and 1.

    Returns:
        The tables.

    >>> tables(jnp.array([[[jnp.nan, 3.0]], [[-1.0, 0.0]]]), jnp.array([0.0, 1.0]), hard=True).tolist()
    [[[0.0, 0.0]], [[0.0, 0.0]]]
    """
    weight = None if mask is None else jnp.asarray(mask).reshape(*logits.shape[:2], 1)
    safe = jnp.asarray(logits) if weight is None else jnp.where(weight == 0, 0, logits)
    values = (safe > 0).astype(safe.dtype) if hard else jax.nn.sigmoid(safe)
    return values if weight is None else values * weight.astype(values.dtype)


def forward(
    logits: Sequence[Float[Array | np.ndarray, "_ _ entries"]],
    wires: Sequence[Int[Array | np.ndarray, "arity _"]],
    x: Float[Array, "n_in cases"],
    gate_mask: Sequence[Shaped[Array | np.ndarray, " _"]] | None = None,
    hard: bool = False,
) -> list[Float[Array, "_ cases"]]:
    """All activations of a circuit, cases last.

    Args:
        logits: one array a layer of gates.
        wires: one array a layer of gates.
        x: inputs.
        gate_mask: one vector a layer, the input included; None = all alive.
        hard: round the tables to 0 and 1.

    Returns:
        One array a layer, the input first and masked too.

    >>> copy = jnp.array([[[-9.0, 9.0]]])
    >>> [layer.tolist() for layer in forward([copy], [jnp.array([[1]])], jnp.array([[0.0], [1.0]]), hard=True)]
    [[[0.0], [1.0]], [[1.0]]]
    """
    masks = [None] * (len(logits) + 1) if gate_mask is None else list(gate_mask)
    if masks[0] is not None:
        weight = jnp.asarray(masks[0], x.dtype)[:, None]
        x = jnp.where(weight == 0, 0, x * weight)
    activations = [x]
    for layer_logits, layer_wires, mask in zip(logits, wires, masks[1:], strict=True):
        inputs = gather(activations[-1], jnp.asarray(layer_wires))
        activations.append(minterm_layer(tables(layer_logits, mask, hard), inputs))
    return activations


def pack_cases(bits: Shaped[Array | np.ndarray, "cases nodes"]) -> UInt32[Array, "nodes words"]:
    """Packs 32 cases into a word: bit c % 32 of word c // 32 is case c; the last word is padded with zeros.

    Args:
        bits: values above one half count as 1.

    Returns:
        One row of words a node.

    Raises:
        TaskError: no cases.

    >>> pack_cases(np.array([[1, 0], [1, 1], [0, 1]])).tolist()
    [[3], [6]]
    """
    if not bits.shape[0]:
        raise TaskError(
            "there must be at least one case to pack; bits has none. Pass an array of shape (cases, nodes)."
        )
    return _pack(bits)


@jax.jit
def _pack(bits: Array | np.ndarray) -> Array:
    flags = bits.T > 0.5
    flags = jnp.pad(flags, ((0, 0), (0, -flags.shape[1] % 32)))
    places = flags.reshape(flags.shape[0], -1, 32).astype(jnp.uint32) << jnp.arange(32, dtype=jnp.uint32)
    return places.sum(-1, dtype=jnp.uint32)


def unpack_cases(words: UInt32[Array, "nodes words"], cases: int) -> Bool[Array, "cases nodes"]:
    """The inverse of `pack_cases`.

    Args:
        words: one row of words a node.
        cases: how many of the words' bits are cases.

    Returns:
        The bits.

    Raises:
        TaskError: more cases than the words hold, or fewer than one.

    >>> unpack_cases(jnp.array([[3], [6]], jnp.uint32), cases=3).astype(int).tolist()
    [[1, 0], [1, 1], [0, 1]]
    """
    if not 1 <= cases <= 32 * words.shape[1]:
        raise TaskError(
            f"cases must be from 1 to the {32 * words.shape[1]} that {words.shape[1]} word(s) hold; it is {cases}."
        )
    return _unpack(words, cases)


@partial(jax.jit, static_argnums=1)
def _unpack(words: Array, cases: int) -> Array:
    bits = words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return bits.reshape(words.shape[0], -1)[:, :cases].T.astype(jnp.bool_)


def evaluate_packed(
    circuit: tuple[
        Sequence[Int[Array | np.ndarray, "arity _"]],
        Sequence[Float[Array | np.ndarray, "_ _ entries"]],
    ],
    words: UInt32[Array, "n_in words"],
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
) -> UInt32[Array, "n_out words"]:
    """Runs the hard circuit on packed cases: every table is 2^k - 1 multiplexers of whole words.

    A multiplexer is `low ^ ((low ^ high) & x)`; an entry is 1 where its logit is above 0, as in the hard run, and dead
    gates are 0.

    Args:
        circuit: wires and logits, as `gen_circuit` returns them.
        words: inputs from `pack_cases`.
        alive: True = alive; None = all.

    Returns:
        The outputs; bits beyond the last case are those of padding, see `unpack_cases`.

    Raises:
        MaskError: a mask that does not fit.

    >>> exclusive_or = ([jnp.array([[0], [1]])], [jnp.array([[[-1.0, 1.0, 1.0, -1.0]]])])
    >>> evaluate_packed(exclusive_or, jnp.array([[0b0011], [0b0101]], jnp.uint32)).tolist()
    [[6]]
    """
    wires, logits = circuit
    spec = CircuitSpec.from_logits(logits, words.shape[0])
    masks = None if alive is None else spec.to_layers(alive)
    return _evaluate_packed(list(wires), list(logits), words, masks)


@jax.jit
def _evaluate_packed(wires: list[Array], logits: list[Array], words: Array, masks: list[Array] | None) -> Array:
    if masks is not None:
        words = jnp.where(masks[0][:, None] == 0, 0, words)
    for index, (layer_wires, layer_logits) in enumerate(zip(wires, logits, strict=True)):
        ones = tables(layer_logits, None if masks is None else masks[index + 1], hard=True) > 0
        folded = jnp.where(ones, _ALL_CASES, np.uint32(0))[..., None]
        for x in words[layer_wires][::-1]:
            half = folded.shape[2] // 2
            low, high = folded[:, :, :half], folded[:, :, half:]
            folded = low ^ ((low ^ high) & x[:, None, None])
        words = folded.reshape(-1, words.shape[-1])
    return words


def wrong_bits(
    circuit: tuple[
        Sequence[Int[Array | np.ndarray, "arity _"]],
        Sequence[Float[Array | np.ndarray, "_ _ entries"]],
    ],
    words: UInt32[Array, "n_in words"],
    targets: UInt32[Array, "n_out words"],
    cases: int,
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
) -> Int[Array, " n_out"]:
    """Counts the cases in which each output of the hard circuit is wrong.

    Args:
        circuit: wires and logits, as `gen_circuit` returns them.
        words: inputs from `pack_cases`.
        targets: outputs as they should be, from `pack_cases`.
        cases: how many there are; what a circuit answers to the padding of the last word does not count.
        alive: True = alive; None = all.

    Returns:
        One count an output.

    Raises:
        MaskError: a mask that does not fit.

    >>> exclusive_or = ([jnp.array([[0], [1]])], [jnp.array([[[-1.0, 1.0, 1.0, -1.0]]])])
    >>> inputs = pack_cases(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]))
    >>> wrong_bits(exclusive_or, inputs, pack_cases(np.array([[0], [1], [1], [1]])), 4).tolist()
    [1]
    """
    wrong = (evaluate_packed(circuit, words, alive) ^ targets) & pack_cases(np.ones((cases, 1)))
    return jax.lax.population_count(wrong).astype(jnp.int32).sum(axis=1)
