"""Evaluation: what a decomposition is worth, on batches and draws of its own.

Every batch is seen once by the target and once by the causal-importance functions, and all measurements share what
came out. Everything random comes from a sampler that belongs to the evaluation, so that a training run is the same
with it and without it. Products are in float32 whatever the training does. Numbers are read from the device once, at
the end.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from spd.config import evals as e
from spd.config import losses as c
from spd.config.run import Config
from spd.errors import CheckpointError, DataError
from spd.files import write_whole
from spd.losses import LossContext, compute_losses, deltas_for, router_of
from spd.metrics.ce_and_kl import CEAndKL, SubsetCEAndKL
from spd.metrics.ci_tables import L0, ActivationDensity, ActiveComponents, Histograms, MeanPerComponent
from spd.metrics.measure import Found, Measure, Seen, Subject, mean_of
from spd.metrics.output_loss import SumAndCount
from spd.metrics.pgd_multibatch import MultiBatchPGD
from spd.metrics.pgd_utils import PersistentSources
from spd.metrics.single_features import CIErrors, ComponentMatrices, Directions, PermutedImportances
from spd.models.component_model import ComponentModel
from spd.sampling import SourceSampler

__all__ = ["SLOW", "Evaluation", "evaluate", "measures", "read_evaluation", "write_evaluation"]

SLOW = (
    e.CIHistograms,
    e.CIMeanPerComponent,
    e.ComponentActivationDensity,
    e.PermutedCIPlots,
    e.UVPlots,
    e.PGDMultiBatchReconLoss,
)
"""Settings of what only a slow evaluation measures: what is drawn, and what attacks many batches."""


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Args:
        numbers: by name, "CI_L0/total" or "loss/StochasticReconLoss" for example.
        tables: tensors on the CPU that pictures are drawn from, by name.
        labels: words, by name: which subset of sites was the worst.
    """

    numbers: dict[str, float]
    tables: dict[str, Shaped[Tensor, "..."]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


class _Losses(Measure):
    """All losses of the training, means over the positions of all batches.

    Importance minimality with β > 0 is the mean of the batches' own values, as a batch's size is part of it.
    """

    def __init__(self, config: Config, fraction: float, world_size: int) -> None:
        super().__init__("loss")
        self.config, self.fraction, self.world_size = config, fraction, world_size
        self._names: list[str] = []
        # Not the training's sources: those would be moved. These start anew, and go on from batch to batch.
        self._persistent: dict[int, PersistentSources] = {}
        self._attacks = any(isinstance(loss, _ATTACKS) for loss in config.loss_metrics)

    def update(self, seen: Seen) -> None:
        config, subject = self.config, seen.subject
        context = LossContext(
            run=seen.run, ci=seen.ci, sampler=subject.sampler, sampling=config.sampling, deltas=subject.deltas,
            weight_deltas=subject.model.calc_weight_deltas, n_mask_samples=config.n_mask_samples,
            fraction=self.fraction, persistent=self._persistent, world_size=self.world_size,
            reduce=subject.reduce_mean,
        )  # fmt: skip
        with ExitStack() as stack:
            if self._attacks:
                stack.enter_context(_gradients_of_sources_only(subject.model))
            values = compute_losses(config.loss_metrics, context)
        self._names = list(values)
        for name, value in values.items():
            self.add_mean(name, SumAndCount(value.detach() * seen.positions, seen.positions))

    def finish(self, sums: Mapping[str, Shaped[Tensor, "..."]]) -> Found:
        numbers = {f"loss/{name}": mean_of(sums, name) for name in self._names}
        total = sum(loss.coeff * value for loss, value in zip(self.config.loss_metrics, numbers.values(), strict=True))
        return Found(numbers | {"loss/total": float(total)})


_ATTACKS = (c.PGDReconLoss, c.PGDReconLayerwiseLoss, c.PGDReconSubsetLoss, c.PersistentPGDReconLoss)


@contextmanager
def _gradients_of_sources_only(model: ComponentModel) -> Iterator[None]:
    """Gradients are on, and no parameter takes any: an adversary can search, and nothing else is kept."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def measures(config: Config, *, slow: bool) -> list[Measure]:
    """What settings ask to be measured beside the losses; a second one of a kind is named "…_2".

    Args:
        config: the settings.
        slow: also what is in `SLOW`.

    Returns:
        Measurements that have seen nothing yet.

    Raises:
        ConfigError: settings that cannot be meant.
    """
    kinds: Counter[str] = Counter()
    found = []
    for settings in config.eval_metrics:
        kinds[settings.classname] += 1
        count = kinds[settings.classname]
        if slow or not isinstance(settings, SLOW):
            found.append(_measure(settings, settings.classname + (f"_{count}" if count > 1 else "")))
    return found


def _measure(settings: e.EvalConfig, name: str) -> Measure:
    match settings:
        case e.CI_L0():
            return L0(name, settings)
        case e.CEandKLLosses():
            return CEAndKL(name, settings)
        case e.IdentityCIError():
            return CIErrors(name, settings)
        case e.DirectionMatchConfig():
            return Directions(name, settings)
        case e.CIHistograms():
            return Histograms(name, settings)
        case e.CIMeanPerComponent():
            return MeanPerComponent(name, settings)
        case e.ComponentActivationDensity():
            return ActivationDensity(name, settings)
        case e.PermutedCIPlots():
            return PermutedImportances(name, settings)
        case e.UVPlots():
            return ComponentMatrices(name, settings)
        case e.StochasticReconSubsetCEAndKL():
            return SubsetCEAndKL(name, settings)
        case e.PGDMultiBatchReconSubsetLoss():
            return MultiBatchPGD(name, settings, router_of(settings.routing))
        case e.PGDMultiBatchReconLoss():
            return MultiBatchPGD(name, settings, router_of(None))


def evaluate(
    model: ComponentModel,
    config: Config,
    batches: Iterator[Shaped[Tensor, "..."]],
    n_steps: int,
    sampler: SourceSampler,
    *,
    slow: bool,
    fraction: float | int = 1.0,
    reduce_mean: Callable[[Tensor], Tensor] | None = None,
    world_size: int = 1,
) -> Evaluation:
    """Measures a decomposition.

    Args:
        model: the decomposed network.
        config: its settings; `eval_metrics` says what is measured beside the losses, and beside the number of
            components that were active at all ("CI_alive/…").
        batches: inputs on the model's device; where a metric attacks more batches than `n_steps`, it takes more.
        n_steps: batches that are measured.
        sampler: draws everything that is random; not the training's.
        slow: also what is in `SLOW`.
        fraction: of training done, for losses that change with it.
        reduce_mean: the mean of a tensor over ranks, which all take part in the evaluation; None on one process.
        world_size: ranks.

    Returns:
        Numbers and tables, the same on all ranks.

    Raises:
        ConfigError: a measurement that this network does not allow.
        DataError: batches that end too early, or none at all.
    """
    chosen = [
        _Losses(config, float(fraction), world_size),
        ActiveComponents("CI_alive"),
        *measures(config, slow=slow),
    ]
    keeps = max(measure.keeps for measure in chosen)
    kept: list[Tensor] = []
    subject: Subject | None = None
    with torch.no_grad():
        for index in range(max(n_steps, keeps)):
            batch = _following(batches, index, max(n_steps, keeps))
            if subject is None:
                deltas = deltas_for(config.perf.delta_mode, config.use_delta_component, model.calc_weight_deltas)
                subject = Subject(model, config, batch, sampler, deltas, reduce_mean)
                for measure in chosen:
                    measure.begin(subject)
            if index < keeps:
                kept.append(batch)
            if index < n_steps:
                seen = subject.see(batch)
                for measure in chosen:
                    measure.update(seen)
        if subject is None or n_steps < 1:
            raise DataError(f"an evaluation is over at least one batch; n_steps is {n_steps}. Raise it.")
        for measure in chosen:
            measure.again(subject, kept)
        found = [measure.finish(sums) for measure, sums in zip(chosen, _read(chosen, reduce_mean), strict=True)]
    return Evaluation(
        {key: value for one in found for key, value in one.numbers.items()},
        {key: value for one in found for key, value in one.tables.items()},
        {key: value for one in found for key, value in one.labels.items()},
    )


def _following(batches: Iterator[Tensor], index: int, wanted: int) -> Tensor:
    try:
        return next(batches)
    except StopIteration:
        raise DataError(
            f"this evaluation takes {wanted} batches; they ended after {index}. Give more, or lower n_eval_steps."
        ) from None


def _read(
    chosen: Sequence[Measure], reduce_mean: Callable[[Tensor], Tensor] | None
) -> list[dict[str, Shaped[Tensor, "..."]]]:
    """Everything that measurements hold, on the CPU, in one transfer and one reduction."""
    sums = [value for measure in chosen for value in measure.sums.values()]
    fixed = [value for measure in chosen for value in measure.fixed.values()]
    pooled = torch.cat([value.flatten() for value in sums])
    if reduce_mean is not None:
        pooled = reduce_mean(pooled)
    # In float64 all of it: counts are exact, and float32 comes back as it was.
    flat = torch.cat([pooled, *(value.detach().flatten().double() for value in fixed)]).cpu()
    parts = iter(flat.split([value.numel() for value in [*sums, *fixed]]))
    read: list[dict[str, Tensor]] = [{} for _ in chosen]
    for which in ("sums", "fixed"):
        for measure, found in zip(chosen, read, strict=True):
            for key, value in getattr(measure, which).items():
                found[key] = next(parts).reshape(value.shape)
    return read


def write_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Writes numbers and labels as `evaluation.json`, and tables as `evaluation.safetensors`, each whole or not at all.

    Args:
        evaluation: what was found.
        folder: where to; made if it is not there.

    Returns:
        The files.
    """
    numbers = {key: value if value == value else None for key, value in evaluation.numbers.items()}  # JSON has no NaN
    document = {"numbers": numbers, "labels": evaluation.labels, "tables": list(evaluation.tables)}
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    tables = {key: value.contiguous() for key, value in evaluation.tables.items()}
    write_whole(folder / "evaluation.safetensors", lambda path: save_file(tables, path))
    write_whole(folder / "evaluation.json", lambda path: path.write_text(text, encoding="utf-8"))
    return [folder / "evaluation.json", folder / "evaluation.safetensors"]


def read_evaluation(folder: Path) -> Evaluation:
    """What `write_evaluation` wrote.

    Args:
        folder: where.

    Returns:
        The evaluation.

    Raises:
        CheckpointError: no such files, or files that were not written so.
    """
    try:
        text = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        tables = load_file(folder / "evaluation.safetensors")
        numbers = {key: float("nan") if value is None else float(value) for key, value in text["numbers"].items()}
        return Evaluation(numbers, {key: tables[key] for key in text["tables"]}, dict(text["labels"]))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"an evaluation is evaluation.json beside evaluation.safetensors; those in {folder} could not be read: "
            f"{error}. Evaluate again."
        ) from error
