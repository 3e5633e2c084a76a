"""The original's graph and node store: rows of a frame, and one parameter a node.

LOOKED UP BY SCANNING: nothing is compiled from the frame. A node's connections are found by comparing its id with every
row.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

__all__ = ["OriginalNodeStore", "build_frame", "row_connections"]


def build_frame(
    n_inputs: int = 200, n_hidden: int = 790, n_outputs: int = 10, *, cardinality: int = 6, seed: int = 42
) -> pd.DataFrame:
    """The seed commit's graph: every node but an input draws sources among the lower ones that are no outputs.

    Args:
        n_inputs: First ids; they have no incoming connections.
        n_hidden: Ids after them.
        n_outputs: Last ids.
        cardinality: Distinct sources a node, or all where there are fewer.
        seed: Of the draw.

    Returns:
        Columns node_id, input_connections (list of ids), is_input, is_output.

    Example:
        >>> build_frame(2, 1, 1, cardinality=6).input_connections.tolist()[2:]
        [['n0', 'n1'], ['n0', 'n1', 'n2']]
    """
    generator = np.random.default_rng(seed)
    inner = n_inputs + n_hidden
    rows = []
    for number in range(inner + n_outputs):
        below = min(number, inner)
        drawn: list[int] = []
        if number >= n_inputs:
            drawn = sorted(generator.choice(below, size=min(cardinality, below), replace=False).tolist())
        rows.append(
            {
                "node_id": f"n{number}",
                "input_connections": [f"n{source}" for source in drawn],
                "is_input": number < n_inputs,
                "is_output": number >= inner,
            }
        )
    return pd.DataFrame(rows)


def row_connections(frame: pd.DataFrame, node_id: str) -> list[str]:
    """A node's `input_connections`, by comparing its id with every row of the frame.

    Args:
        frame: The graph.
        node_id: The node.

    Returns:
        The list of the row.
    """
    return frame[frame["node_id"] == node_id].iloc[0]["input_connections"]


class OriginalNodeStore(nn.Module):
    """Phase and magnitude indices of every node, a parameter each, found by id.

    Args:
        frame: The graph.
        dim: D, length of a node's vectors.
        phase_bins: P.
        mag_bins: M.
        seed: Of the draw.
    """

    def __init__(self, frame: pd.DataFrame, dim: int, phase_bins: int, mag_bins: int, seed: int = 42) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.ids: tuple[str, ...] = tuple(frame["node_id"])
        shape = (len(self.ids), dim)
        phase = torch.randint(phase_bins, shape, generator=generator)
        mag = torch.randint(mag_bins, shape, generator=generator)
        self.phase_table = nn.ParameterDict(
            {name: nn.Parameter(row.clone(), requires_grad=False) for name, row in zip(self.ids, phase, strict=True)}
        )
        self.mag_table = nn.ParameterDict(
            {name: nn.Parameter(row.clone(), requires_grad=False) for name, row in zip(self.ids, mag, strict=True)}
        )

    def get_phase(self, node_id: str) -> Tensor:
        """Phase indices (D,) of a node."""
        return self.phase_table[node_id]

    def get_mag(self, node_id: str) -> Tensor:
        """Magnitude indices (D,) of a node."""
        return self.mag_table[node_id]

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers; what surrounds a thousand little tensors is not counted."""
        return sum(p.numel() * p.element_size() for p in self.parameters())
