"""The training context of *NeuroGraph Performance Optimizations Summary*, its method names over a network that learns.

The note's optimization #1 is the block of four methods that :meth:`ModularTrainContext.intermediate_credit` runs:
signals of all active nodes at once, their cosines with the class's vector, gradients of signals, gradients of indices,
and one addition for all nodes. Parameters lie in one tensor here, so that nothing loops over nodes, the addition
included.

That rule aligns a node with the vector of the sample's class and knows no other class; it is here because the note
describes it. What trains a network by default is the exact gradient of the classification loss (`train.credit`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

from neurograph.adapters import FixedProjection
from neurograph.checkpoint import check_same_settings, load_checkpoint, save_checkpoint
from neurograph.config import Config, load_config
from neurograph.core.engine import State
from neurograph.core.radiation import get_cache_stats, print_cache_performance
from neurograph.diagnostics import diagnose
from neurograph.encodings import ClassCodes, orthogonal_codes
from neurograph.errors import CheckpointError, DataError, GraphError
from neurograph.evaluation import evaluate
from neurograph.losses import check_labels
from neurograph.model import Model
from neurograph.train.credit import credit_named
from neurograph.train.gradient_accumulator import Accumulated, GradientAccumulator
from neurograph.train.trainer import EpochRow, Trainer

__all__ = ["ModularTrainContext", "NodeSignals"]

_EPS = 1e-8
_CREDIT = "intermediate_credit"


class NodeSignals(NamedTuple):
    """Of some nodes, by their own indices.

    Args:
        ids: their rows.
        signals: cos(p δ) a(x_m).
        phase: p.
        mag: m.
    """

    ids: Int64[Tensor, " n"]
    signals: Float[Tensor, "n D"]
    phase: Int[Tensor, "n D"]
    mag: Int[Tensor, "n D"]


class ModularTrainContext:
    """A network, its trainer, and the note's credit for intermediate nodes.

    Args:
        config: settings, the name of shipped ones, or a YAML file; None = "note", the note's size.
        n_classes: classes; None = one for each output node.

    Attributes:
        config: settings.
        model: the network.
        trainer: trains it by the rule that `config.train.credit` names.
        lookup_tables: its tables.
        node_store: its integers.
        class_codes: the original's codes, one vector of D indices a class; their signals are the target vectors.
        accumulator: of the note's credit; `config.train.accumulation` samples make one step.
        target_lookups: class vectors that were computed.

    Raises:
        ConfigError: settings that do not exist or cannot be run.

    >>> context = ModularTrainContext(Config.model_validate({"graph": {"widths": [4, 8, 2], "cardinality": 4}}))
    >>> context.forward_pass(torch.rand(4)).readout.shape
    torch.Size([1, 16])
    >>> context.active_nodes()[:2]
    ['n4', 'n5']
    """

    def __init__(self, config: Config | str | Path | None = None, *, n_classes: int | None = None) -> None:
        self.config = config if isinstance(config, Config) else load_config("note" if config is None else config)
        self.model = Model.build(self.config, n_classes=n_classes)
        train = self.config.train
        self.trainer = Trainer(self.model, train, self.config.seed)
        self.lookup_tables, self.node_store = self.model.tables, self.model.store
        self.class_codes: ClassCodes = orthogonal_codes(
            self.model.n_classes, self.node_store.dim, self.lookup_tables, self.config.seed
        )
        self.accumulator = GradientAccumulator(train.accumulation)
        self.target_lookups = 0
        self._cached_target_vectors: dict[int, Tensor] = {}
        self._rows = self.model.topology.index
        self._adapter: FixedProjection | None = None
        self._state: State | None = None
        self._batch: tuple[Tensor, Tensor] | None = None

    # --- the network --------------------------------------------------------------------------------------------------

    def forward_pass(self, x: Float[Tensor, "*batch features"]) -> State:
        """One pass, without gradients.

        Args:
            x: a sample or a batch, in [0, 1]; other widths than the graph's go through a fixed projection.

        Returns:
            States of all nodes; kept for :meth:`active_nodes`.

        Raises:
            DataError: neither a sample nor a batch.
        """
        with torch.no_grad():
            self._state = self.model.state(self._amplitudes(x))
        return self._state

    def active_nodes(self, sample: int = 0) -> list[str]:
        """Identifiers of the nodes above the inputs that were not silent in the last pass.

        Args:
            sample: of that pass's batch.

        Returns:
            Identifiers, in the graph's order.

        Raises:
            DataError: no pass yet, or no such sample in it.
        """
        if self._state is None:
            raise DataError("nodes are active after a pass; there was none yet. Call forward_pass first.")
        if not 0 <= sample < self._state.planar.shape[1]:
            raise DataError(
                f"samples of the last pass are 0 to {self._state.planar.shape[1] - 1}; got {sample}. Name one of them."
            )
        active = self._state.planar[:, sample].ne(0).flatten(1).any(1)
        active[self.model.topology.inputs] = False
        return [self.model.topology.ids[row] for row in active.nonzero().squeeze(1).tolist()]

    def train_step(self, x: Float[Tensor, "*batch features"], y: Int[Tensor, "..."] | int) -> float:
        """One batch, or one sample, by the rule of the settings.

        Args:
            x: in [0, 1].
            y: its labels.

        Returns:
            The loss before the step.

        Raises:
            DataError: labels that are no classes, or not one for each sample.
        """
        samples = self._amplitudes(x)
        labels = torch.as_tensor(y, device=samples.device).reshape(-1)
        if len(labels) != len(samples):
            raise DataError(f"each sample has a label; got {len(samples)} samples and {len(labels)}. Match them.")
        check_labels(labels, self.model.n_classes)
        self._batch = (samples, labels)
        return float(self.trainer.step(samples, labels))

    def train(
        self,
        x: Float[Tensor, "S features"],
        y: Int[Tensor, " S"],
        *,
        validation: tuple[Float[Tensor, "V features"], Int[Tensor, " V"]] | None = None,
        progress: Callable[[EpochRow], object] | None = None,
        until: int | None = None,
    ) -> list[EpochRow]:
        """Trains up to the settings' number of epochs; see `Trainer.fit` for arguments, rows and errors."""
        samples = self._amplitudes(x)
        held = None if validation is None else (self._amplitudes(validation[0]), validation[1])
        rows = self.trainer.fit(samples, y, validation=held, progress=progress, until=until)
        size = self.config.train.batch_size
        self._batch = (samples[:size], y[:size].to(samples.device))
        return rows

    def evaluate_accuracy(self, x: Float[Tensor, "S features"], y: Int[Tensor, " S"], batch_size: int = 256) -> float:
        """Share of samples that are classified right.

        Args:
            x: samples in [0, 1].
            y: labels.
            batch_size: samples at a time.

        Returns:
            From 0 to 1.

        Raises:
            DataError: no samples, or labels that are no classes.
        """
        return evaluate(self.model, self._amplitudes(x), y, batch_size=batch_size, top_k=()).accuracy

    def save_checkpoint(self, path: str | Path) -> Path:
        """Writes all that a run needs to go on, with credit that was collected and not applied yet.

        Args:
            path: the file.

        Returns:
            The file.
        """
        classes = tuple(str(number) for number in range(self.model.n_classes))
        tensors, values = self.trainer.state_dict()
        kept, numbers = self.accumulator.state_dict()
        tensors |= {f"{_CREDIT}.{name}": value for name, value in kept.items()}
        return save_checkpoint(path, (tensors, values | {_CREDIT: numbers}), self.config, classes=classes)

    def load_checkpoint(self, path: str | Path) -> None:
        """Goes on from a file of a context or, with no credit collected, of a trainer alone.

        Args:
            path: the file.

        Raises:
            CheckpointError: a file that cannot be trusted, or of other settings.
        """
        found = load_checkpoint(path)
        check_same_settings(found.config, self.config)
        if len(found.classes) != self.model.n_classes:
            raise CheckpointError(
                f"this network tells {self.model.n_classes} classes apart; {path} is of one with {len(found.classes)}. "
                f"Build the context with n_classes={len(found.classes)}."
            )
        self.trainer.load_state_dict(*found.state)
        self.accumulator = GradientAccumulator(self.config.train.accumulation)
        if _CREDIT in found.values:
            kept = {name: found.tensors.get(f"{_CREDIT}.{name}") for name in ("phase", "mag")}
            held = {name: value.to(self.lookup_tables.device) for name, value in kept.items() if value is not None}
            self.accumulator.load_state_dict(held, found.values[_CREDIT])
        self._state = None

    # --- monitoring ---------------------------------------------------------------------------------------------------

    def get_cache_stats(self) -> dict[str, Any]:
        """Counters of the radiation cache; see `neurograph.core.radiation.get_cache_stats`."""
        return get_cache_stats()

    def print_cache_performance(self) -> None:
        """Prints :meth:`get_cache_stats`."""
        print_cache_performance()

    def get_diagnostic_summary(self, steps: int = 5) -> dict[str, Any]:
        """How gradients flow for the last batch, and what the note's parts have done.

        Args:
            steps: tried on a copy of the integers, for the effectiveness of updates.

        Returns:
            Counts of the note's parts; and, after a batch, `flow`, `bottlenecks`, `alerts`, `effectiveness`, `levels`.
        """
        summary: dict[str, Any] = {
            "epochs": self.trainer.epoch,
            "parameter_version": self.node_store.version,
            "trainable_integers": self.node_store.n_trainable,
            "target_vectors_cached": len(self._cached_target_vectors),
            "target_vectors_computed": self.target_lookups,
            "accumulated": self.accumulator.count,
            "applied": self.accumulator.applied,
        }
        if self._batch is not None:
            credit = credit_named(self.config.train.credit, self.config.seed)
            found = diagnose(self.model, *self._batch, self.config.train, credit=credit, steps=steps)
            summary |= {
                "flow": found.flow,
                "bottlenecks": list(found.bottlenecks),
                "alerts": [str(alert) for alert in found.alerts],
                "effectiveness": found.effectiveness,
                "levels": found.levels,
            }
        return summary

    # --- the note's credit --------------------------------------------------------------------------------------------

    def intermediate_credit(self, active: Sequence[str] | Int64[Tensor, " n"], label: int) -> Accumulated | None:
        """Credit of active nodes for one sample, all at once; indices move when enough samples were collected.

        Args:
            active: identifiers, or rows.
            label: the sample's class.

        Returns:
            What was applied; None = still collecting.

        Raises:
            DataError: no such class.
            GraphError: no such node.
        """
        target = self._target_vector(label)
        ids, signals, phase, mag = self._batch_get_node_signals(active)
        cos = F.cosine_similarity(signals, target.expand_as(signals), dim=1, eps=_EPS)
        grad = self._compute_vectorized_cosine_gradients(signals, target, cos)
        phase_grad, mag_grad = self._compute_vectorized_discrete_gradients(phase, mag, grad)
        self._batch_accumulate_gradients(ids, phase_grad, mag_grad)
        return self.apply_accumulated()

    def apply_accumulated(self, *, flush: bool = False) -> Accumulated | None:
        """Ends a sample, and moves indices if it was the last of its N.

        Args:
            flush: end no sample, but apply what is left over at the end.

        Returns:
            What was applied, per radian and per unit of x; None = nothing.
        """
        due = self.accumulator.flush() if flush else self.accumulator.close()
        if due is not None:
            tables = self.lookup_tables
            self.trainer.optimizer.step(due.phase * tables.phase_step, due.mag * tables.mag_step)
        return due

    def _target_vector(self, label: int) -> Float[Tensor, " D"]:
        """The signal vector of a class, computed once."""
        if label not in self._cached_target_vectors:
            check_labels(torch.tensor([label]), self.model.n_classes)
            phase, mag = self.class_codes.phase[label], self.class_codes.mag[label]
            device = self.lookup_tables.device
            self._cached_target_vectors[label] = self.lookup_tables.get_signal_vector(phase.to(device), mag.to(device))
            self.target_lookups += 1
        return self._cached_target_vectors[label]

    def _batch_get_node_signals(self, active: Sequence[str] | Int64[Tensor, " n"]) -> NodeSignals:
        """Rows, signals and indices of nodes, by identifiers or rows.

        Args:
            active: which.

        Returns:
            One row a node.

        Raises:
            GraphError: no such node.
        """
        store = self.node_store
        if isinstance(active, Tensor):
            ids = active.to(store.phase.device)
            if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= len(store.phase)):
                raise GraphError(
                    f"rows are 0 to {len(store.phase) - 1}; got {int(ids.min())} to {int(ids.max())}. Correct them."
                )
        else:
            unknown = next((name for name in active if name not in self._rows), None)
            if unknown is not None:
                raise GraphError(f"nodes are named as in the graph; {unknown!r} is none of them. Correct it.")
            ids = torch.tensor([self._rows[name] for name in active], dtype=torch.long, device=store.phase.device)
        phase, mag = store.phase[ids], store.mag[ids]
        return NodeSignals(ids, self.lookup_tables.get_signal_vector(phase, mag), phase, mag)

    def _compute_vectorized_cosine_gradients(
        self, signals: Float[Tensor, "n D"], target: Float[Tensor, "*#n D"], cos: Float[Tensor, " n"]
    ) -> Float[Tensor, "n D"]:
        """Gradients −(v/|v| − u cos(u, v)/|u|)/|u| of −cos(u, v); 10⁻⁸ is added to norms, as in the original.

        Args:
            signals: u.
            target: v, one for all or one for each.
            cos: cos(u, v).

        Returns:
            One row a node.
        """
        norms = torch.linalg.vector_norm(signals, dim=1, keepdim=True) + _EPS
        towards = target / (torch.linalg.vector_norm(target, dim=-1, keepdim=True) + _EPS)
        return (signals * (cos[:, None] / norms) - towards) / norms

    def _compute_vectorized_discrete_gradients(
        self, phase: Int[Tensor, "n D"], mag: Int[Tensor, "n D"], grad: Float[Tensor, "n D"]
    ) -> tuple[Float[Tensor, "n D"], Float[Tensor, "n D"]]:
        """Gradients of indices, per radian and per unit of x, from those of signals, by the tables' exact slopes."""
        return self.lookup_tables.compute_signal_gradients(phase, mag, grad)

    def _batch_accumulate_gradients(
        self, ids: Int64[Tensor, " n"], phase_grad: Float[Tensor, "n D"], mag_grad: Float[Tensor, "n D"]
    ) -> None:
        """Adds gradients of nodes to the sample that is being collected: one addition for all of them."""
        self.accumulator.reserve(self.trainer.optimizer.residual[0])
        self.accumulator.add_rows(ids, phase_grad, mag_grad)

    def _amplitudes(self, x: Tensor) -> Tensor:
        if x.dim() not in (1, 2):
            raise DataError(f"samples are one row or a table of rows; got shape {tuple(x.shape)}. Flatten pictures.")
        samples = (x[None] if x.dim() == 1 else x).to(self.model.codes)
        n_inputs = len(self.model.topology.inputs)
        if samples.shape[1] == n_inputs:
            return samples
        if self._adapter is None:
            self._adapter = FixedProjection(
                samples.shape[1], n_inputs, seed=self.config.seed, device=self.model.codes.device
            )
        return self._adapter(samples)
