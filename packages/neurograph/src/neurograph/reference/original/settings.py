"""Settings of the original at the commit of the note."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from neurograph.errors import ConfigError

__all__ = ["OPTIMIZATIONS", "Optimization", "OriginalSettings", "check_optimizations"]

Optimization = Literal["credit", "jit", "cache"]
OPTIMIZATIONS: tuple[Optimization, ...] = ("credit", "jit", "cache")
"""The note's three: vectorised credit, decorated lookups, cached radiation."""


@dataclass(frozen=True)
class OriginalSettings:
    """The seed commit's numbers.

    Attributes:
        n_inputs: Input nodes.
        n_hidden: Nodes in the middle.
        n_outputs: Output nodes, the last ids.
        cardinality: Incoming connections a node.
        dim: D.
        phase_bins: P.
        mag_bins: M.
        top_k: Radiation targets a source.
        decay: Of strength, each step.
        min_strength: Below it a slot is inactive.
        max_steps: Steps after which the forward loop stops.
        t_min: Steps before which an active output does not stop it.
        n_classes: C.
        accumulation: Samples N over which gradients are meant to be gathered.
        pixels: Side of the picture that the adapter takes; smaller ones are enlarged.
        shared_slots: The allocator's defect.
        seed: Of graph, parameters and adapter. How many samples need a third step hangs on it, and with that the
            radiation queries a sample: 250 to 380 over some seeds. With this one the first eight digits take 338; the
            original took about 330.
    """

    n_inputs: int = 200
    n_hidden: int = 790
    n_outputs: int = 10
    cardinality: int = 6
    dim: int = 5
    phase_bins: int = 32
    mag_bins: int = 512
    top_k: int = 6
    decay: float = 0.9
    min_strength: float = 0.05
    max_steps: int = 25
    t_min: int = 2
    n_classes: int = 10
    accumulation: int = 8
    pixels: int = 28
    shared_slots: bool = True
    seed: int = 4

    @property
    def n_nodes(self) -> int:
        """All nodes."""
        return self.n_inputs + self.n_hidden + self.n_outputs


def check_optimizations(names: Collection[str]) -> frozenset[str]:
    """Any subset of the note's three.

    Args:
        names: Which are on.

    Returns:
        The same as a set.

    Raises:
        ConfigError: For a name that is none of them.
    """
    unknown = sorted(set(names) - set(OPTIMIZATIONS))
    if unknown:
        raise ConfigError(f"optimizations are a subset of {OPTIMIZATIONS}; got {unknown}; remove what is not in it")
    return frozenset(names)
