"""Rivals on the same splits: plain classifiers, hyperdimensional ones, and the network with numbers for integers.

Settings of each rival are the best of its candidates on held-out training samples of the splits `TUNING_SEEDS`, by
:func:`choose`; what it chose stands in `neurograph.experiments.rivals`. They are then measured on `FRESH_SEEDS`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurograph.data import load_dataset
from neurograph.errors import ConfigError
from neurograph.experiments.results import Rows
from neurograph.experiments.rivals import RIVALS, Rival
from neurograph.experiments.splits import FRESH_SEEDS, TUNING_SEEDS, as_arrays, digits_split, held_out

__all__ = ["choose", "run_baselines", "summary"]


def choose(
    name: str, *, seeds: Sequence[int] = TUNING_SEEDS, candidates: Sequence[Mapping[str, Any]] | None = None
) -> pd.DataFrame:
    """Tries a rival's settings on held-out fifths of the training samples.

    Args:
        name: of the rival.
        seeds: of the splits.
        candidates: settings; None = the rival's own.

    Returns:
        One row for each, the best first: settings and mean accuracy.

    Raises:
        ConfigError: a rival that does not exist, or nothing to try.
        MissingExtraError: its library is not installed.
    """
    rival = _rival(name)
    candidates = rival.candidates if candidates is None else candidates
    if not seeds or not candidates:
        raise ConfigError(
            f"a choice needs splits and settings; got {list(seeds)} and {list(candidates)}. Give some of both."
        )
    splits = {seed: as_arrays(held_out(load_dataset("digits", seed=seed), 1000 + seed)) for seed in seeds}
    rows = []
    for settings in candidates:
        found = []
        for seed, (x, y, held_x, held_y) in splits.items():
            model = rival.build(settings, seed)
            model.fit(x, y)
            found.append(float((model.predict(held_x) == held_y).mean()))
        rows.append({**settings, "accuracy": float(np.mean(found))})
    return pd.DataFrame(rows).sort_values("accuracy", ascending=False, kind="stable").reset_index(drop=True)


def run_baselines(
    seeds: Sequence[int] = FRESH_SEEDS,
    *,
    names: Sequence[str] | None = None,
    path: str | Path | None = None,
    progress: Callable[[str, int, float], object] | None = None,
) -> pd.DataFrame:
    """Trains each rival on each split with the chosen settings.

    Args:
        seeds: of the splits, and of the rivals.
        names: of rivals; None = all.
        path: a file of JSON lines that lets a killed run go on; None = none.
        progress: told of name, seed and accuracy.

    Returns:
        `summary` of all.

    Raises:
        ConfigError: a rival that does not exist, none at all, or no splits.
        MissingExtraError: a rival's library is not installed.
    """
    names = tuple(RIVALS) if names is None else names
    if not names or not seeds:
        raise ConfigError(f"rivals meet on splits; got {list(names)} and {list(seeds)}. Give some of both.")
    rows = Rows(path)
    found = []
    for name in names:
        rival = _rival(name)
        for seed in seeds:
            key = {"rival": name, "seed": seed, "settings": dict(rival.chosen)}
            row = rows.find(key)
            if row is None:
                row = _measured(rival, seed)
                rows.add(key, row)
            if progress is not None:
                progress(name, seed, row["accuracy"])
            found.append({"name": name, "seed": seed, **row})
    return summary(found)


def summary(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Figures over splits.

    Args:
        rows: with name, accuracy (a share), seconds and parameters.

    Returns:
        One row a name, the most accurate first: mean, min and standard deviation in percent, seconds of training (of
        the processor, mean), parameters (mean) and the number of splits.

    >>> rows = [{"name": "a", "accuracy": v, "seconds": 1.0, "parameters": 7} for v in (0.9, 1.0)]
    >>> summary(rows).loc["a"].round(2).tolist()
    [95.0, 90.0, 7.07, 1.0, 7.0, 2.0]
    """
    frame = pd.DataFrame(list(rows))
    groups = frame.groupby("name")
    percent = groups["accuracy"].agg(["mean", "min", "std"]).rename(columns={"std": "sd"}) * 100
    rest = groups[["seconds", "parameters"]].mean()
    whole = percent.join(rest).join(groups.size().rename("splits"))
    return whole.sort_values("mean", ascending=False, kind="stable")


def _measured(rival: Rival, seed: int) -> dict[str, Any]:
    split = digits_split(seed)
    model = rival.build(rival.chosen, seed)
    start = time.process_time()
    model.fit(split.train_x, split.train_y)
    seconds = time.process_time() - start
    accuracy = float((model.predict(split.test_x) == split.test_y).mean())
    return {"accuracy": accuracy, "seconds": seconds, "parameters": int(rival.parameters(model))}


def _rival(name: str) -> Rival:
    if name not in RIVALS:
        raise ConfigError(f"a rival is one of {', '.join(RIVALS)}; got {name!r}. Choose one of them.")
    return RIVALS[name]
