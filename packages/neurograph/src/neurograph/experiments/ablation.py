"""What each part of the network is worth: one thing is changed at a time, on scikit-learn's digits.

========== ==========================================================================================================
group      variants beside the reference: superposition, exact credit, 512 × 1024 bins
========== ==========================================================================================================
credit     contrastive, by level and by node; the original's cosine rule, at all nodes and with the loss at the outputs
merge      modular: the original's sum of indices
bins       64 × 64 and 16 × 16; learning rates shrink with the bins
states     not snapped to the grid
radiation  four links by content a node, beside the static edges
labels     shuffled, so that there is nothing to learn
========== ==========================================================================================================

Every variant gets the same search: one factor over both its learning rates, chosen from `FACTORS` by :func:`choose` on
a held-out fifth of the training samples of the splits `TUNING_SEEDS`. It is then measured on `FRESH_SEEDS`, which no
choice has seen.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurograph.config import Config, load_config, overridden
from neurograph.data import Dataset, load_dataset
from neurograph.errors import ConfigError
from neurograph.experiments.results import Rows
from neurograph.experiments.splits import FRESH_SEEDS, TUNING_SEEDS, held_out
from neurograph.model import Model
from neurograph.train.credit import Credit, LocalCredit, credit_named
from neurograph.train.trainer import Trainer

__all__ = ["FACTORS", "VARIANTS", "AblationResult", "Variant", "choose", "run_ablation"]

FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Over both learning rates: what is tried for each variant."""


@dataclass(frozen=True)
class Variant:
    """The reference with one change.

    Args:
        name: of the row.
        group: what is compared.
        changes: of settings, as on a command line.
        factor: over both learning rates, from :func:`choose`.
        scope: of contrastive credit: level or node.
        outputs: of local credit: same or loss.
        shuffled: whether training labels are shuffled.
    """

    name: str
    group: str
    changes: tuple[str, ...] = ()
    factor: int | float = 1.0
    scope: str = "level"
    outputs: str = "same"
    shuffled: bool = False

    def config(self, base: Config) -> Config:
        """Its settings.

        Args:
            base: those that are changed.

        Returns:
            The settings, learning rates times the factor.
        """
        changed = overridden(base, self.changes)
        rates = changed.train.optimizer
        return overridden(
            changed,
            [
                f"train.optimizer.lr_phase={rates.lr_phase * self.factor}",
                f"train.optimizer.lr_mag={rates.lr_mag * self.factor}",
            ],
        )

    def credit(self, config: Config) -> Credit:
        """Its rule.

        Args:
            config: its settings.

        Returns:
            For a trainer.
        """
        name = config.train.credit
        return credit_named(name) if name == "exact" else LocalCredit(name, self.scope, self.outputs)


def _bins(phase: int, mag: int) -> tuple[str, ...]:
    """Bins, and the shipped learning rates in the proportion of a bin's width."""
    return (
        f"tables.phase_bins={phase}",
        f"tables.mag_bins={mag}",
        f"train.optimizer.lr_phase={4.0 * phase / 512}",
        f"train.optimizer.lr_mag={6.0 * mag / 1024}",
    )


VARIANTS = (
    Variant("reference", "reference", factor=8.0),
    Variant("contrastive, by level", "credit", ("train.credit=contrastive",), factor=8.0),
    Variant("contrastive, by node", "credit", ("train.credit=contrastive",), factor=8.0, scope="node"),
    Variant("cosine (the original's)", "credit", ("train.credit=cosine",), factor=16.0),
    Variant("cosine, loss at the outputs", "credit", ("train.credit=cosine",), factor=16.0, outputs="loss"),
    Variant("modular (the original's)", "merge", ("model.merge=modular",), factor=16.0),
    Variant("64 × 64", "bins", _bins(64, 64), factor=2.0),
    Variant("16 × 16", "bins", _bins(16, 16), factor=4.0),
    Variant("not snapped", "states", ("model.snap=false",), factor=8.0),
    Variant("four links by content", "radiation", ("radiation.top_k=4", "radiation.gain=0.25"), factor=8.0),
    Variant("shuffled", "labels", factor=8.0, shuffled=True),
)
"""What is compared, with the factors that :func:`choose` found: none lies at an end of `FACTORS`."""


@dataclass(frozen=True)
class AblationResult:
    """What the variants came to.

    Args:
        rows: group, variant, seed, accuracy and train_accuracy (shares), integers, seconds (of the processor).
    """

    rows: tuple[dict[str, Any], ...]

    def rows_frame(self) -> pd.DataFrame:
        """One row a variant and split."""
        return pd.DataFrame(list(self.rows))

    def to_frame(self) -> pd.DataFrame:
        """One row a variant: mean, min and max in percent, points above the reference (NaN without it), and costs."""
        frame = self.rows_frame()
        frame["percent"] = 100 * frame["accuracy"]
        found = frame.groupby(["group", "variant"], sort=False).agg(
            splits=("seed", "count"),
            mean=("percent", "mean"),
            min=("percent", "min"),
            max=("percent", "max"),
            integers=("integers", "max"),
            seconds=("seconds", "mean"),
        )
        found = found.reset_index()
        reference = found.loc[found["group"] == "reference", "mean"]
        difference = found["mean"] - reference.iloc[0] if len(reference) else pd.Series(float("nan"), index=found.index)
        found.insert(4, "points", difference)
        return found

    def to_markdown(self) -> str:
        """The table."""
        lines = [
            "| | variant | mean, % | min–max, % | points | integers | processor, s |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['group']} | {row['variant']} | {row['mean']:.2f} | {row['min']:.2f}–{row['max']:.2f} "
            f"| {row['points']:+.2f} | {row['integers']:,} | {row['seconds']:.1f} |"
            for row in self.to_frame().to_dict("records")
        ]
        return "\n".join(lines) + "\n"


def run_ablation(
    seeds: Sequence[int] = FRESH_SEEDS,
    *,
    variants: Sequence[Variant] = VARIANTS,
    base: str | Config = "digits-small",
    path: str | Path | None = None,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> AblationResult:
    """Trains each variant on each split.

    Args:
        seeds: of the splits, of the integers and of the order of samples.
        variants: what is compared.
        base: settings that are changed, or their name.
        path: a file of JSON lines, to which each row is added as soon as it is there and from which a run that was
            stopped goes on; None = memory alone.
        progress: told of each row.

    Returns:
        All rows.

    Raises:
        ConfigError: settings that cannot be run, or nothing to run.
    """
    if not seeds or not variants:
        raise ConfigError(
            f"variants are compared on splits; got {[one.name for one in variants]} and {list(seeds)}. Give some of "
            "both."
        )
    settings, kept, found = _settings(base), Rows(path), []
    for variant in variants:
        config = variant.config(settings)
        for seed in seeds:
            key = _key(variant, config, seed, "test")
            row = kept.find(key)
            if row is None:
                data = load_dataset("digits", seed=seed).to(config.device)
                row = {"group": variant.group, "variant": variant.name, "seed": seed} | _one(
                    variant, config, data, seed
                )
                kept.add(key, row)
            found.append(row)
            if progress is not None:
                progress(row)
    return AblationResult(tuple(found))


def choose(
    seeds: Sequence[int] = TUNING_SEEDS,
    *,
    variants: Iterable[Variant] = VARIANTS,
    factors: Sequence[int | float] = FACTORS,
    base: str | Config = "digits-small",
    path: str | Path | None = None,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> dict[str, float]:
    """The factor of each variant: best mean accuracy on held-out training samples, the smaller one where two are equal.

    Variants that shuffle labels are left out: there is nothing to choose by.

    Args:
        seeds: of the splits; their test samples are not looked at.
        variants: whose factors are chosen.
        factors: that are tried.
        base: settings that are changed, or their name.
        path: a file of JSON lines to go on from; None = memory alone.
        progress: told of each row.

    Returns:
        Factors by the variants' names.

    Raises:
        ConfigError: nothing to try.
    """
    if not factors or not seeds:
        raise ConfigError(
            f"a choice needs factors and splits; got {list(factors)} and {list(seeds)}. Give some of both."
        )
    settings, kept, chosen = _settings(base), Rows(path), {}
    for variant in (one for one in variants if not one.shuffled):
        means: dict[float, float] = {}
        for factor in sorted(factors):
            tried = replace(variant, factor=factor)
            config = tried.config(settings)
            scores = []
            for seed in seeds:
                key = _key(tried, config, seed, "held out")
                row = kept.find(key)
                if row is None:
                    data = held_out(load_dataset("digits", seed=seed), seed).to(config.device)
                    row = {"variant": variant.name, "factor": factor, "seed": seed} | _one(tried, config, data, seed)
                    kept.add(key, row)
                scores.append(_share(row))
                if progress is not None:
                    progress(row)
            means[factor] = sum(scores) / len(scores)
        # Ascending, so that the smaller of two equal ones comes first.
        chosen[variant.name] = max(means, key=means.__getitem__)
    return chosen


def _share(row: dict[str, Any]) -> float:
    return float(row["accuracy"])


def _settings(base: str | Config) -> Config:
    return base if isinstance(base, Config) else load_config(base)


def _key(variant: Variant, config: Config, seed: int, part: str) -> dict[str, Any]:
    settings = config.model_dump(mode="json", exclude={"threads"})
    own = {"scope": variant.scope, "outputs": variant.outputs, "shuffled": variant.shuffled}
    return {"variant": variant.name, "seed": seed, "measured on": part, "settings": settings} | own


def _one(variant: Variant, config: Config, data: Dataset, seed: int) -> dict[str, Any]:
    labels = data.train_y
    if variant.shuffled:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)]
    model = Model.build(config, seed=seed)
    start = time.process_time()
    Trainer(model, config.train, seed=seed, credit=variant.credit(config)).fit(data.train_x, labels)
    return {
        "accuracy": _accuracy(model, data.test_x, data.test_y),
        "train_accuracy": _accuracy(model, data.train_x, labels),
        "integers": model.store.n_trainable,
        "seconds": time.process_time() - start,
    }


def _accuracy(model: Model, x: Float[Tensor, "S I"], y: Int[Tensor, " S"]) -> float:
    return float((model.predict(x) == y).double().mean())
