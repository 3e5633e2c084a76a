"""How far two configurations of the same circuit are apart: in their tables, in what is read of them, in behaviour.

Two ways to configure one wiring (gradients and a learned rule, say, or before and after a repair) may write very
different tables and yet compute the same, because most entries of most tables are at addresses that never occur. So
there are three Hamming distances, each a share of bits that differ:

*tables*
    over all 2^k entries of a gate's hard table;
*read entries*
    over the entries whose address occurs, in some case, in one of the two circuits at least;
*behaviour*
    over the cases: those in which the gate's output differs.

R. W. Hamming: *Error Detecting and Error Correcting Codes*. Bell System Technical Journal, 1950.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from boolean_nca_cc.circuits.model import Circuit, run_circuit
from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.errors import SpecError, TaskError, WiringError

__all__ = ["HammingDistance", "hamming_distance"]

_CHUNK = 1 << 13  # cases at once


@dataclass(frozen=True)
class HammingDistance:
    """Counts of differing bits, one number a gate in the order of flat ids.

    Args:
        spec: the circuit's layers.
        cases: cases that were run.
        differing: table entries that differ, of 2^arity.
        read: entries whose address occurs in one of the circuits at least.
        differing_read: entries among these that differ.
        differing_cases: cases in which the gate's output differs.
        differing_answers: cases in which some output bit differs.
    """

    spec: CircuitSpec
    cases: int
    differing: Int[np.ndarray, " gates"]
    read: Int[np.ndarray, " gates"]
    differing_read: Int[np.ndarray, " gates"]
    differing_cases: Int[np.ndarray, " gates"]
    differing_answers: int

    @property
    def tables(self) -> Float[np.ndarray, " gates"]:
        """Share of each gate's table that differs."""
        return self.differing / (1 << self.spec.arity)

    @property
    def read_entries(self) -> Float[np.ndarray, " gates"]:
        """Share of each gate's entries that are read and differ, of those that are read."""
        return self.differing_read / self.read

    @property
    def behaviour(self) -> Float[np.ndarray, " gates"]:
        """Share of cases in which each gate answers otherwise."""
        return self.differing_cases / self.cases

    def by_layer(self) -> dict[str, Float[np.ndarray, " layers"]]:
        """The three distances of each layer of gates, over all its bits: tables, read entries, behaviour."""
        starts = np.asarray(self.spec.offsets[1:]) - self.spec.n_in
        gates = np.asarray([n for n, _ in self.spec.layer_sizes[1:]])
        differing, read, differing_read, differing_cases = (
            np.add.reduceat(counts, starts)
            for counts in (self.differing, self.read, self.differing_read, self.differing_cases)
        )
        return {
            "tables": differing / (gates << self.spec.arity),
            "read entries": differing_read / read,
            "behaviour": differing_cases / (gates * self.cases),
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON: totals, layers and gates."""
        gates = {"tables": self.tables, "read_entries": self.read_entries, "behaviour": self.behaviour}
        last = self.spec.n_gates - self.spec.n_out
        return {
            "cases": self.cases,
            "tables": float(self.differing.sum() / self.spec.n_logits),
            "read_entries": float(self.differing_read.sum() / self.read.sum()),
            "entries_read": float(self.read.sum() / self.spec.n_logits),
            "behaviour": float(self.differing_cases.sum() / (self.spec.n_gates * self.cases)),
            "output_bits": float(self.differing_cases[last:].sum() / (self.spec.n_out * self.cases)),
            "answers": self.differing_answers / self.cases,
            "layers": {name.replace(" ", "_"): values.tolist() for name, values in self.by_layer().items()},
            "gates": {name: values.tolist() for name, values in gates.items()},
        }


def hamming_distance(
    first: Circuit,
    second: Circuit,
    spec: CircuitSpec,
    x: Float[Array | np.ndarray, "cases n_in"],
    alive: Bool[Array | np.ndarray, " nodes"] | None = None,
) -> HammingDistance:
    """Compares two configurations of one wiring.

    A dead gate is 0 in both: its table does not differ, and neither does its behaviour.

    Args:
        first: one configuration.
        second: the other, on the same wires.
        spec: their layers.
        x: input bits of the cases that matter, usually all.
        alive: the knockout that both have; None = all alive.

    Returns:
        The distances.

    Raises:
        MaskError: a mask that does not fit the circuit.
        SpecError: tables of other layers.
        TaskError: cases of another width, or none.
        WiringError: different wires.

    >>> wires, spec = [jnp.array([[0], [0]])], CircuitSpec(((1, 1), (1, 1)), arity=2)
    >>> both = Circuit(wires, [jnp.array([[[-3.0, -3.0, -3.0, 3.0]]])])
    >>> either = Circuit(wires, [jnp.array([[[-3.0, 3.0, 3.0, 3.0]]])])
    >>> distance = hamming_distance(both, either, spec, np.array([[0.0], [1.0]]))
    >>> distance.tables.tolist(), distance.read_entries.tolist(), distance.behaviour.tolist()
    ([0.5], [0.0], [0.0])
    """
    _check_comparable(first, second, spec, x)
    standing = np.ones(spec.n_nodes, bool) if alive is None else np.asarray(alive)
    masks = spec.to_layers(standing)
    entries = 1 << spec.arity
    occurs = [np.zeros((n // s, entries), bool) for n, s in spec.layer_sizes[1:]]
    cases_apart, answers_apart = np.zeros(spec.n_gates, int), 0
    for start in range(0, len(x), _CHUNK):
        runs = [_bits(circuit, x[start : start + _CHUNK], masks) for circuit in (first, second)]
        for layers in runs:
            for layer, wires in enumerate(first.wires):
                _mark(occurs[layer], layers[layer][:, np.asarray(wires)])
        apart = [one != other for one, other in zip(*runs, strict=True)]
        cases_apart += np.concatenate([layer.sum(axis=0) for layer in apart[1:]])
        answers_apart += int(apart[-1].any(axis=1).sum())
    differing, read, differing_read = [], [], []
    for layer, ((n, s), where) in enumerate(zip(spec.layer_sizes[1:], spec.layer_slices[1:], strict=True)):
        one, other = (_table(circuit.logits[layer]) for circuit in (first, second))
        apart_here = (one != other).reshape(n, entries) & standing[where][:, None]
        read_here = np.repeat(occurs[layer], s, axis=0)
        differing.append(apart_here.sum(axis=1))
        read.append(read_here.sum(axis=1))
        differing_read.append((apart_here & read_here).sum(axis=1))
    return HammingDistance(
        spec,
        len(x),
        np.concatenate(differing),
        np.concatenate(read),
        np.concatenate(differing_read),
        cases_apart,
        answers_apart,
    )


def _check_comparable(
    first: Circuit, second: Circuit, spec: CircuitSpec, x: Float[Array | np.ndarray, "cases n_in"]
) -> None:
    for circuit in (first, second):
        if (found := CircuitSpec.from_logits(circuit.logits, spec.n_in)) != spec:
            raise SpecError(
                f"two configurations of one circuit have its layers, {spec.layer_sizes}; one has {found.layer_sizes}. "
                "Compare circuits of the same shape."
            )
    same = [np.array_equal(one, other) for one, other in zip(first.wires, second.wires, strict=True)]
    if not all(same):
        raise WiringError(
            f"two configurations of one circuit share its wires; those of layer {same.index(False) + 1} differ. Train "
            "both from the same seed, or on the same wires."
        )
    if x.shape[1] != spec.n_in or not len(x):
        raise TaskError(
            f"cases are one or more rows of {spec.n_in} bits; their shape is {x.shape}. Take those of the task."
        )


def _bits(
    circuit: Circuit, x: Float[Array | np.ndarray, "cases n_in"], masks: list[Float[Array, " _"]]
) -> list[Bool[np.ndarray, "cases _"]]:
    return [np.asarray(layer) for layer in _hard_bits(circuit, jnp.asarray(x), masks)]


@jax.jit
def _hard_bits(circuit: Circuit, x: Array, masks: list[Array]) -> list[Bool[Array, "cases _"]]:
    return [layer > 0.5 for layer in run_circuit(circuit.logits, circuit.wires, x, masks, hard=True)]


def _mark(occurs: Bool[np.ndarray, "groups entries"], inputs: Bool[np.ndarray, "cases arity groups"]) -> None:
    """Notes which addresses the groups see."""
    places = np.arange(inputs.shape[1])[:, None]
    address = (inputs.astype(np.int64) << places).sum(axis=1)
    occurs[np.arange(occurs.shape[0]), address] = True


def _table(logits: Shaped[Array, "..."]) -> Bool[np.ndarray, "groups size entries"]:
    return np.asarray(logits) > 0
