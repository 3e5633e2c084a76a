"""The original's training step, which changes no parameter.

WRONG OUTPUTS: the trainer takes n200 to n209 for the outputs, which are nodes of the middle; the graph's are its last
ten. Loss, accuracy and output gradient are theirs.

LABEL DROPPED: the output gradient weighs every class by 1/C in place of softmax − label, so that neither label nor
prediction enters it.

NOTHING CHANGES: the accumulator never fires (see there), the adapter has no optimizer. True and shuffled labels leave
the same parameters, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional

from neurograph.errors import DataError
from neurograph.reference.original.accumulator import OriginalAccumulator
from neurograph.reference.original.credit import EPS, OriginalCredit
from neurograph.reference.original.engine import OriginalEngine
from neurograph.reference.original.inputs import OriginalAdapter, class_codes
from neurograph.reference.original.radiation import RadiationCaches
from neurograph.reference.original.settings import OriginalSettings, check_optimizations
from neurograph.reference.original.tables import Jit

__all__ = ["OriginalTrainContext"]


class OriginalTrainContext:
    """Everything that the original's train step touches.

    Args:
        settings: Sizes and rules.
        optimizations: Subset of `credit`, `jit`, `cache`.
        jit: Form of `jit`.
        caches: Caches to share; fresh ones by default.
    """

    def __init__(
        self,
        settings: OriginalSettings | None = None,
        optimizations: Collection[str] = (),
        *,
        jit: Jit = "as_coded",
        caches: RadiationCaches | None = None,
    ) -> None:
        self.settings = settings or OriginalSettings()
        self.optimizations = check_optimizations(optimizations)
        self.engine = OriginalEngine(self.settings, self.optimizations, jit=jit, caches=caches)
        self.adapter = OriginalAdapter(self.settings).train()  # DROPOUT LEFT ON
        self.codes = class_codes(self.settings, self.engine.tables)
        self.accumulator = OriginalAccumulator(every=self.settings.accumulation)
        self.credit = OriginalCredit(self.engine.store, self.engine.tables, self.codes, self.accumulator)
        first = self.settings.n_inputs
        self.believed_outputs = tuple(f"n{first + i}" for i in range(self.settings.n_outputs))  # WRONG OUTPUTS

    def forward_pass(self, picture: Tensor) -> dict[str, Tensor]:
        """Signals of what the trainer believes to be the outputs, where active.

        Args:
            picture: Pixels in [0, 1].

        Returns:
            Signal (D,) by id.
        """
        self.engine.forward(*self.adapter(picture))
        found = {}
        for node in self.believed_outputs:
            held = self.engine.table.context_of(node)
            if held is not None:
                found[node] = self.engine.tables.get_signal_vector(*held)
        return found

    def _class_vectors(self) -> Tensor:
        return self.engine.tables.get_signal_vector(*self.codes)

    def logits(self, outputs: dict[str, Tensor]) -> Tensor:
        """Mean cosine of the output signals with each class's vector, (C,); zeros where nothing is active."""
        if not outputs:
            return torch.zeros(self.settings.n_classes)
        signals = torch.stack(list(outputs.values()))
        classes = self._class_vectors()
        return functional.cosine_similarity(signals.unsqueeze(1), classes.unsqueeze(0), dim=2, eps=EPS).mean(dim=0)

    def train_step(self, picture: Tensor, label: int) -> float:
        """One sample.

        Args:
            picture: Pixels in [0, 1].
            label: Its class.

        Returns:
            Cross-entropy of the believed outputs.

        Raises:
            DataError: For a label that is no class.
        """
        if not 0 <= label < self.settings.n_classes:
            raise DataError(f"labels are 0 to {self.settings.n_classes - 1}; got {label}; correct it")
        outputs = self.forward_pass(picture)
        loss = functional.cross_entropy(self.logits(outputs).unsqueeze(0), torch.tensor([label]))
        self._output_gradients(outputs)
        active = [
            node
            for node in self.engine.table.active_nodes()
            if int(node[1:]) >= self.settings.n_inputs and node not in self.believed_outputs
        ]
        (self.credit.vectorized if "credit" in self.optimizations else self.credit.by_node)(active, label)
        if self.accumulator.should_update():
            self.accumulator.apply(self.engine.store, self.settings.phase_bins, self.settings.mag_bins)
        return float(loss)

    def _output_gradients(self, outputs: dict[str, Tensor]) -> None:
        """LABEL DROPPED: Σ_k (1/C)·∂cos(u, v_k)/∂u, through the tables, into the accumulator."""
        classes = self._class_vectors()
        for node, signal in outputs.items():
            held = self.engine.table.context_of(node)
            assert held is not None
            norm, norms = signal.norm() + EPS, classes.norm(dim=1, keepdim=True) + EPS
            cos = (classes @ signal).unsqueeze(1) / (norms * norm)
            grad = (classes / (norms * norm) - signal * cos / norm**2).mean(dim=0)
            self.accumulator.accumulate(node, *self.engine.tables.compute_signal_gradients(*held, grad))

    def predict(self, picture: Tensor) -> int:
        """Class of the largest logit."""
        return int(self.logits(self.forward_pass(picture)).argmax())

    def digest(self) -> str:
        """SHA-256 of all indices: what training left."""
        total = hashlib.sha256()
        for node in self.engine.store.ids:
            total.update(self.engine.store.get_phase(node).numpy().tobytes())
            total.update(self.engine.store.get_mag(node).numpy().tobytes())
        return total.hexdigest()

    @property
    def context_bytes(self) -> dict[str, int]:
        """Bytes of what a context holds: adapter, parameters, tables and activation table."""
        return {
            "adapter": self.adapter.nbytes,
            "parameters": self.engine.store.nbytes,
            "tables": self.engine.tables.nbytes,
            "activation": self.engine.table.nbytes,
        }
