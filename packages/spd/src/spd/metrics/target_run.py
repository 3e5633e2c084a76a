"""The target's own pass over a batch, which every reconstruction is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from spd.metrics.output_loss import OutputLossType, SumAndCount, output_loss
from spd.models.component_model import ComponentModel, OutputWithCache
from spd.models.masks import ComponentsMaskInfo
from spd.models.sites import Known

__all__ = ["TargetRun"]


@dataclass(frozen=True)
class TargetRun:
    """A batch, and what the target makes of it.

    Args:
        model: the decomposed network.
        batch: its input.
        output: the target's output.
        acts: what each site read.
        kind: how outputs are compared.
        known: for masked passes, see `ComponentModel.known_sites`.
        positions: how many positions the batch stands for, where some that add nothing to a reconstruction were left
            out; None = all are here.
    """

    model: ComponentModel
    batch: Shaped[Tensor, "..."]
    output: Float[Tensor, "..."]
    acts: Mapping[str, Shaped[Tensor, "..."]]
    kind: OutputLossType
    known: Mapping[str, Known] = field(default_factory=dict)
    positions: int | None = None

    @classmethod
    def of(
        cls, model: ComponentModel, batch: Shaped[Tensor, "..."], kind: OutputLossType, *, positions: int | None = None
    ) -> "TargetRun":
        """Runs the target.

        Args:
            model: the decomposed network.
            batch: its input.
            kind: how outputs are compared.
            positions: how many positions the batch stands for.

        Returns:
            What it showed.
        """
        with torch.no_grad():
            run = model(batch, cache_type="input")
        assert isinstance(run, OutputWithCache)
        return cls(model, batch, run.output, run.cache, kind, model.known_sites(run), positions)

    def masked(self, mask_infos: Mapping[str, ComponentsMaskInfo]) -> SumAndCount:
        """One pass with masks, and how far its output is from the target's.

        Args:
            mask_infos: masks by site.

        Returns:
            Sum and divisor.
        """
        out = self.model(self.batch, mask_infos=mask_infos, known=self.known)
        assert isinstance(out, Tensor)
        return output_loss(out, self.output, self.kind, positions=self.positions)
