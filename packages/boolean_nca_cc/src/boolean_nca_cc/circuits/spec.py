"""The shape of a circuit, and the one place where masks change their form.

Inside the package there is one mask: `alive`, a flat boolean vector over all nodes (input nodes first, then every
layer's gates in order), True = alive. The functions that carry the names of "Gate Knockout Performance Optimization"
take that note's form instead: `gate_mask`, one float vector per layer including the input, 1 = alive, 0 = dead,
anything between attenuates. `CircuitSpec.to_layers` and `CircuitSpec.from_layers` are the edge between the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from boolean_nca_cc.errors import MaskError, SpecError

__all__ = ["CircuitSpec"]

_MAX_ARITY = 12  # 2^12 table entries a gate: anything larger is a slip, and its products would not fit in memory


@dataclass(frozen=True)
class CircuitSpec:
    """Layer sizes and arity of a layered circuit of look-up tables; frozen, hashable, valid once it exists.

    A layer is a pair (node count n, group size s) with s | n: the s gates of a group read the same `arity` wires. Gate
    number `group * s + position` of its layer. Layer 0 is the input and has groups of one.

    Args:
        layer_sizes: pairs (node count, group size), the input layer first.
        arity: inputs of every gate; a gate's table has 2^arity entries.

    Raises:
        SpecError: fewer than two layers, a count below one, a width that its group size does not divide, an input layer
            in groups, an arity below one or beyond twelve.

    >>> spec = CircuitSpec(layer_sizes=((2, 1), (4, 2), (1, 1)), arity=2)
    >>> spec.n_nodes, spec.n_gates, spec.n_logits, spec.offsets
    (7, 5, 20, (0, 2, 6))
    """

    layer_sizes: tuple[tuple[int, int], ...]
    arity: int

    def __post_init__(self) -> None:
        sizes = tuple((int(n), int(s)) for n, s in self.layer_sizes)
        object.__setattr__(self, "layer_sizes", sizes)
        if not 1 <= self.arity <= _MAX_ARITY:
            raise SpecError(f"arity must be from 1 to {_MAX_ARITY}; it is {self.arity}. Most circuits use 2 to 4.")
        if len(sizes) < 2:
            raise SpecError(
                f"a circuit needs an input layer and at least one layer of gates; layer_sizes has {len(sizes)} "
                "layer(s). Give a pair (node count, group size) for each."
            )
        for index, (n, s) in enumerate(sizes):
            if n < 1 or s < 1:
                raise SpecError(
                    f"node count and group size must be at least 1; layer {index} is ({n}, {s}). "
                    "Drop the layer or widen it."
                )
            if n % s:
                raise SpecError(
                    f"a layer's group size must divide its node count; layer {index} has {n} nodes in groups of {s}. "
                    f"Use {n - n % s or s} or {n + s - n % s} nodes, or a group size that divides {n}."
                )
        if sizes[0][1] != 1:
            raise SpecError(f"input nodes come in groups of 1; layer 0 is {sizes[0]}. Write ({sizes[0][0]}, 1).")

    @classmethod
    def default(cls, n_in: int, n_out: int, arity: int = 4, hidden: int = 3, width: int = 2) -> "CircuitSpec":
        """The usual circuit: `hidden - 1` wide layers, one of `n_out * arity` gates, and the output.

        Wide layers are `(n_in * arity * width, arity)`, the last hidden layer `(n_out * arity, arity // 2 or 1)`.

        Args:
            n_in: input bits.
            n_out: output bits.
            arity: inputs of every gate.
            hidden: hidden layers, at least one.
            width: factor of the wide layers.

        Returns:
            The spec of that circuit.

        Raises:
            SpecError: a count below one, or a last hidden layer whose width its group size does not divide.

        >>> spec = CircuitSpec.default(8, 8)
        >>> spec.layer_sizes
        ((8, 1), (64, 4), (64, 4), (32, 2), (8, 1))
        >>> spec.n_gates, spec.n_logits
        (168, 2688)
        """
        for name, value in (("n_in", n_in), ("n_out", n_out), ("arity", arity), ("hidden", hidden), ("width", width)):
            if value < 1:
                raise SpecError(f"{name} must be at least 1; it is {value}.")
        wide = [(n_in * arity * width, arity)] * (hidden - 1)
        return cls(((n_in, 1), *wide, (n_out * arity, arity // 2 or 1), (n_out, 1)), arity)

    @classmethod
    def from_logits(cls, logits: Sequence[Shaped[Array | np.ndarray, "..."]], n_in: int) -> "CircuitSpec":
        """The spec of existing tables: their shapes `(groups, size, 2^arity)` say all but the input width.

        Args:
            logits: one array a layer of gates; only their last three axes are read, so batches pass.
            n_in: input bits.

        Returns:
            The spec that the tables have.

        Raises:
            SpecError: no layers, or a table length that is not the same power of two everywhere.

        >>> CircuitSpec.from_logits([jnp.zeros((2, 3, 4))], n_in=5).layer_sizes
        ((5, 1), (6, 3))
        """
        lengths = {layer.shape[-1] for layer in logits}
        if len(lengths) != 1 or (length := lengths.pop()) & (length - 1) or length < 2:
            raise SpecError(
                f"all tables of a circuit have the same length, a power of two; the last axes are "
                f"{[layer.shape[-1] for layer in logits]}. Build logits with make_nops or gen_circuit."
            )
        layers = tuple((layer.shape[-3] * layer.shape[-2], layer.shape[-2]) for layer in logits)
        return cls(((n_in, 1), *layers), length.bit_length() - 1)

    @property
    def n_in(self) -> int:
        """Input bits."""
        return self.layer_sizes[0][0]

    @property
    def n_out(self) -> int:
        """Output bits."""
        return self.layer_sizes[-1][0]

    @property
    def n_layers(self) -> int:
        """Layers of gates: hidden ones and the output, without the input."""
        return len(self.layer_sizes) - 1

    @property
    def n_nodes(self) -> int:
        """Input nodes and gates together: the length of `alive`."""
        return sum(n for n, _ in self.layer_sizes)

    @property
    def n_gates(self) -> int:
        """Gates: all nodes but the input's."""
        return self.n_nodes - self.n_in

    @property
    def n_logits(self) -> int:
        """Table entries of all gates: the number of parameters."""
        return self.n_gates << self.arity

    @property
    def offsets(self) -> tuple[int, ...]:
        """Flat index of each layer's first node, the input layer (0) included."""
        return tuple(accumulate((n for n, _ in self.layer_sizes[:-1]), initial=0))

    @property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where each layer stands in a flat vector of nodes, the input layer included."""
        return tuple(slice(start, start + n) for start, (n, _) in zip(self.offsets, self.layer_sizes, strict=True))

    @property
    def hidden_gates(self) -> Int[np.ndarray, " hidden"]:
        """Flat ids of the gates that are neither input nor output: those that knockout may choose."""
        return np.arange(self.n_in, self.n_nodes - self.n_out)

    def check_alive(self, alive: Shaped[Array | np.ndarray, "..."]) -> None:
        """Refuses a mask that is not a flat boolean vector over this circuit's nodes.

        Args:
            alive: the mask; True = alive.

        Raises:
            MaskError: wrong number of axes, wrong length, or not boolean.

        >>> CircuitSpec(((2, 1), (4, 2), (1, 1)), 2).check_alive(jnp.ones(3, bool))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        boolean_nca_cc.errors.MaskError: alive is one flat vector over all 7 nodes (2 input + 5 gates); it has shape ...
        """
        if alive.shape != (self.n_nodes,):
            raise MaskError(
                f"alive is one flat vector over all {self.n_nodes} nodes ({self.n_in} input + {self.n_gates} gates); "
                f"it has shape {alive.shape}. Start from jnp.ones({self.n_nodes}, bool)."
            )
        if alive.dtype != jnp.bool_:
            raise MaskError(
                f"alive is boolean, True = alive; its dtype is {alive.dtype}. Compare first (alive > 0), or pass "
                "fractions as the layered gate_mask."
            )

    def to_layers(self, alive: Bool[Array | np.ndarray, " nodes"]) -> list[Float[Array, " _"]]:
        """From the flat mask to the note's layered form: one float vector a layer, the input included.

        Args:
            alive: True = alive.

        Returns:
            `n_layers + 1` float32 vectors, 1 = alive, 0 = dead.

        Raises:
            MaskError: as `check_alive`.

        >>> spec = CircuitSpec(((2, 1), (1, 1)), arity=2)
        >>> [layer.tolist() for layer in spec.to_layers(jnp.array([True, False, True]))]
        [[1.0, 0.0], [1.0]]
        """
        self.check_alive(alive)
        return _split(self, alive)

    def from_layers(self, masks: Sequence[Shaped[Array | np.ndarray, "..."]]) -> Bool[Array, " nodes"]:
        """From the note's layered form to the flat mask; a gate is dead where its value is exactly 0.

        Args:
            masks: one vector a layer, the input included.

        Returns:
            The flat boolean mask; attenuated gates count as alive.

        Raises:
            MaskError: as `check_layers`.

        >>> spec = CircuitSpec(((2, 1), (1, 1)), arity=2)
        >>> spec.from_layers([jnp.array([1.0, 0.0]), jnp.array([0.5])]).tolist()
        [True, False, True]
        """
        self.check_layers(masks)
        return _join(list(masks))

    def check_layers(
        self, masks: Sequence[Shaped[Array | np.ndarray, "..."]] | Shaped[Array | np.ndarray, "..."]
    ) -> None:
        """Refuses a layered mask that does not fit this circuit.

        Args:
            masks: one vector a layer, the input included.

        Raises:
            MaskError: wrong number of layers, or a layer of the wrong length.
        """
        if isinstance(masks, jax.Array | np.ndarray):
            raise MaskError(
                f"gate_mask is a list with one vector a layer; it is one array of shape {masks.shape}. "
                "Convert a flat mask with spec.to_layers(alive)."
            )
        if len(masks) != len(self.layer_sizes):
            raise MaskError(
                f"gate_mask has one vector for each of the {len(self.layer_sizes)} layers, the input included; it has "
                f"{len(masks)}. Convert a flat mask with spec.to_layers(alive)."
            )
        for index, (mask, (n, _)) in enumerate(zip(masks, self.layer_sizes, strict=True)):
            if mask.shape != (n,):
                raise MaskError(
                    f"gate_mask[{index}] has one value for each of the layer's {n} nodes; its shape is {mask.shape}. "
                    "Convert a flat mask with spec.to_layers(alive)."
                )


@partial(jax.jit, static_argnums=0)
def _split(spec: CircuitSpec, alive: Array) -> list[Array]:
    return [alive[where].astype(jnp.float32) for where in spec.layer_slices]


@jax.jit
def _join(masks: list[Array]) -> Array:
    return jnp.concatenate([mask != 0 for mask in masks])
