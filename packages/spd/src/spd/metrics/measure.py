"""What all measurements of an evaluation share: what they are shown, and how their sums are kept.

A measurement adds up tensors on the device, batch by batch. They are averaged over ranks and read once, at the end, and
only then made into numbers and tables. Since sums and the counts they are divided by are kept apart, a mean is over all
positions of all batches and ranks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from spd.config.run import Config
from spd.errors import ConfigError
from spd.metrics.output_loss import SumAndCount
from spd.metrics.target_run import TargetRun
from spd.models.component_model import CIOutputs, ComponentModel
from spd.models.masks import ComponentsMaskInfo, Deltas
from spd.sampling import SourceSampler

__all__ = ["SINGLE_FEATURE", "Found", "Measure", "Seen", "Subject", "mean_of", "sites_matching"]

SINGLE_FEATURE = 0.75
"""The value of a feature that is fed in alone."""


@dataclass(frozen=True)
class Found:
    """What a measurement found.

    Args:
        numbers: by name.
        tables: tensors that pictures are drawn from, by name.
        labels: words, by name.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, Shaped[Tensor, "..."]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Subject:
    """What is evaluated.

    Args:
        model: the decomposed network.
        config: its settings.
        example: the first batch.
        sampler: draws everything that is random in the evaluation.
        deltas: what masked passes do with Δ.
        reduce_mean: the mean over ranks; None on one process.
    """

    model: ComponentModel
    config: Config
    example: Shaped[Tensor, "..."]
    sampler: SourceSampler
    deltas: Deltas
    reduce_mean: Callable[[Tensor], Tensor] | None = None

    @property
    def reads_features(self) -> bool:
        """Whether the network's input is a vector of features."""
        return self.example.is_floating_point() and self.example.dim() == 2

    def see(self, batch: Shaped[Tensor, "..."]) -> "Seen":
        """The target's pass over a batch, and the importances there.

        Args:
            batch: the input.

        Returns:
            Both.
        """
        run = TargetRun.of(self.model, batch, self.config.output_loss_type)
        with torch.no_grad():
            ci = self.model.calc_causal_importances(
                run.acts, self.config.sampling, sampler=self.sampler, known=run.known
            )
        return Seen(self, run, ci)

    @cached_property
    def single_features(self) -> dict[str, Float[Tensor, "features _"]]:
        """By site, g for each feature alone at 0.75.

        Raises:
            ConfigError: the network's input is no vector of features.
        """
        if not self.reads_features:
            raise ConfigError(
                "importances of single features need a network whose input is a vector of features; a batch here is "
                f"{self.example.dtype} of shape {tuple(self.example.shape)}. Leave IdentityCIError, PermutedCIPlots "
                "and UVPlots out."
            )
        n = self.example.shape[-1]
        alone = SINGLE_FEATURE * torch.eye(n, dtype=self.example.dtype, device=self.example.device)
        run = TargetRun.of(self.model, alone, self.config.output_loss_type)
        with torch.no_grad():
            return self.model.calc_causal_importances(run.acts, known=run.known).lower_leaky


@dataclass(frozen=True)
class Seen:
    """One batch, as all measurements see it.

    Args:
        subject: what is evaluated.
        run: the target's pass.
        ci: causal importances.
    """

    subject: Subject
    run: TargetRun
    ci: CIOutputs

    @property
    def g(self) -> dict[str, Float[Tensor, "... _"]]:
        """Importances for masks, by site."""
        return self.ci.lower_leaky

    @property
    def positions(self) -> int:
        """How many positions the batch has."""
        return next(iter(self.g.values()))[..., 0].numel()

    def masked_output(self, mask_infos: Mapping[str, ComponentsMaskInfo]) -> Float[Tensor, "..."]:
        """What the network gives with components in place.

        Args:
            mask_infos: masks by site.

        Returns:
            The output.
        """
        out = self.run.model(self.run.batch, mask_infos=mask_infos, known=self.run.known)
        assert isinstance(out, Tensor)
        return out


class Measure:
    """A measurement: sums over batches, and what is made of them.

    Args:
        name: what its numbers begin with.

    Attributes:
        sums: added up over batches; the mean over ranks is taken of them.
        fixed: tensors that are the same on all ranks.
        keeps: how many batches it wants to see again after the others.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.sums: dict[str, Tensor] = {}
        self.fixed: dict[str, Tensor] = {}
        self.keeps = 0

    def add(self, key: str, value: Shaped[Tensor, "..."]) -> None:
        """Adds to a sum.

        Args:
            key: which.
            value: what is added.
        """
        value = value.detach().double()
        self.sums[key] = self.sums[key] + value if key in self.sums else value

    def add_mean(self, key: str, part: SumAndCount) -> None:
        """Adds to a sum and to the count that it is divided by; see `mean_of`.

        Args:
            key: which.
            part: both.
        """
        self.add(key, part.total)
        self.add(f"{key} count", part.total.new_full((), part.count, dtype=torch.float64))

    def begin(self, subject: Subject) -> None:
        """Looks at what is evaluated before the first batch.

        Args:
            subject: what is evaluated.

        Raises:
            ConfigError: it cannot be measured.
        """

    def update(self, seen: Seen) -> None:
        """Takes in a batch.

        Args:
            seen: the batch.
        """

    def again(self, subject: Subject, kept: Sequence[Shaped[Tensor, "..."]]) -> None:
        """Takes in the first `keeps` batches together, after all others.

        Args:
            subject: what is evaluated.
            kept: the batches.
        """

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        """Makes numbers and tables.

        Args:
            sums: `sums` and `fixed` of all ranks, on the CPU.

        Returns:
            What was found.
        """
        raise NotImplementedError


def mean_of(sums: Mapping[str, Shaped[Tensor, "..."]], key: str) -> float:
    """A sum over its count; see `Measure.add_mean`.

    Args:
        sums: of a measurement.
        key: which.

    Returns:
        The mean.
    """
    return float(sums[key] / sums[f"{key} count"])


def sites_matching(model: ComponentModel, pattern: str, setting: str) -> list[str]:
    """Sites that a pattern matches.

    Args:
        model: the decomposed network.
        pattern: in the manner of file names.
        setting: where it was written, for the message.

    Returns:
        Names, at least one.

    Raises:
        ConfigError: none.
    """
    found = [name for name in model.target_module_paths if fnmatchcase(name, pattern)]
    if not found:
        raise ConfigError(
            f"a pattern of {setting} matches at least one site; {pattern!r} matches none of "
            f"{', '.join(model.target_module_paths)}. Correct it."
        )
    return found
