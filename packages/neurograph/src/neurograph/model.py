"""A network: its graph, its integers, its engine and the codes of its classes."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from neurograph.config import Config
from neurograph.core.engine import ForwardEngine, State
from neurograph.core.graph import Topology, build_static_graph, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import Leaves, NodeStore
from neurograph.core.spreading import Spreading
from neurograph.encodings import hadamard_codes
from neurograph.errors import ConfigError
from neurograph.losses import cosine_logits

__all__ = ["Model"]


@dataclass
class Model:
    """What classifies.

    Args:
        topology: the graph.
        store: the indices, all that is trained.
        tables: look-up tables.
        engine: computes states.
        codes: of the classes, one row each, as long as a read-out.
        scale: cosines with the codes are multiplied by it to be logits.

    >>> model = Model.build(Config(), seed=0)
    >>> model.store.n_trainable, model.logits(torch.rand(3, 64)).shape
    (8864, torch.Size([3, 10]))
    """

    topology: Topology
    store: NodeStore
    tables: HighResolutionLookupTables
    engine: ForwardEngine
    codes: Float[Tensor, "C L"]
    scale: float = 12.0

    @classmethod
    def build(cls, config: Config, *, n_classes: int | None = None, seed: int | None = None) -> "Model":
        """Builds a network from settings, its integers drawn.

        Args:
            config: settings.
            n_classes: classes; None = one for each output node.
            seed: of the integers; None = the settings' own.

        Returns:
            The network.

        Raises:
            ConfigError: classes that the outputs' read-outs cannot tell apart, or a device that is not there.
        """
        device = _device(config.device)
        graph, t, m = config.graph, config.tables, config.model
        if graph.widths is not None:
            frame = layered_graph(graph.widths, cardinality=graph.cardinality, seed=graph.seed)
        else:
            frame = build_static_graph(
                graph.inputs, graph.n_hidden or 0, graph.outputs, cardinality=graph.cardinality, blocks=graph.blocks,
                seed=graph.seed,
            )  # fmt: skip
        topology = Topology.from_frame(frame).to(device)
        tables = HighResolutionLookupTables(t.phase_bins, t.mag_bins, magnitude=t.magnitude, grid=t.grid, device=device)
        store = NodeStore.random(topology, m.dim, tables, config.seed if seed is None else seed)
        r = config.radiation
        spreading = None if r is None else Spreading(topology, tables, top_k=r.top_k, gain=r.gain, beta=r.beta)
        engine = ForwardEngine(topology, tables, backend=m.backend, merge=m.merge, snap=m.snap, radiation=spreading)
        codes = hadamard_codes(graph.outputs if n_classes is None else n_classes, graph.outputs * m.dim).to(device)
        return cls(topology, store, tables, engine, codes, m.scale)

    @property
    def n_classes(self) -> int:
        """Classes."""
        return self.codes.shape[0]

    def state(self, x: Float[Tensor, "B I"], leaves: Leaves | None = None) -> State:
        """States of all nodes.

        Args:
            x: samples in [0, 1]; taken to the tables' type and device.
            leaves: indices with gradients; None = without.

        Returns:
            States.

        Raises:
            DataError: samples of another width.
        """
        return self.engine(x.to(self.tables.cos), self.store if leaves is None else leaves)

    def logits(self, x: Float[Tensor, "B I"], leaves: Leaves | None = None) -> Float[Tensor, "B C"]:
        """Scores of the classes.

        Args:
            x: samples in [0, 1].
            leaves: indices with gradients; None = without.

        Returns:
            Logits.
        """
        return cosine_logits(self.state(x, leaves).readout, self.codes, self.scale)

    def probabilities(self, x: Float[Tensor, "B I"], batch_size: int = 1024) -> Float[Tensor, "B C"]:
        """Softmax of the logits, in batches.

        Args:
            x: samples in [0, 1].
            batch_size: samples at a time; results do not depend on it, but for the last bits of sums.

        Returns:
            One row a sample.
        """
        return torch.cat([logits.softmax(-1) for logits in self._batches(x, batch_size)])

    def predict(self, x: Float[Tensor, "B I"], batch_size: int = 1024) -> Int64[Tensor, " B"]:
        """The most probable class of each sample.

        Args:
            x: samples in [0, 1].
            batch_size: samples at a time.

        Returns:
            Class numbers.
        """
        return torch.cat([logits.argmax(-1) for logits in self._batches(x, batch_size)])

    def _batches(self, x: Tensor, size: int) -> Iterator[Tensor]:
        if size < 1:
            raise ConfigError(f"a batch has at least one sample; got {size}. Give 1 or more.")
        with torch.no_grad():
            for part in x.split(size):
                yield self.logits(part)

    def to(self, device: torch.device | str) -> "Model":
        """The same network elsewhere.

        Args:
            device: where.

        Returns:
            A copy with integers of its own.
        """
        topology, tables, engine = self.topology.to(device), self.tables.to(device), self.engine
        store = self.store.to(device)
        radiation = engine.radiation
        if isinstance(radiation, Spreading):
            radiation = radiation.on(topology, tables)
        moved = ForwardEngine(
            topology, tables, backend=engine.backend, merge=engine.merge, snap=engine.snap, radiation=radiation
        )
        return Model(topology, store, tables, moved, self.codes.to(device), self.scale)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"a device is named cpu, cuda or cuda:1; got {name!r}. Choose one.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} needs a GPU that torch can use; none is there. Use device=cpu.")
    return device
