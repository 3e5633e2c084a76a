"""Whether a decomposition found what a toy model is known to consist of.

A run's settings say what that is: `IdentityCIError` names the sites with a component for each feature and those with k
for all, `DirectionMatch` the sites whose components should point along the columns of the weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from spd.config.evals import IdentityCIError
from spd.config.run import Config

__all__ = ["Check", "checks_of"]

LEAST_MMCS = 0.999
ML2R = (0.98, 1.02)


@dataclass(frozen=True)
class Check:
    """One thing that should hold.

    Args:
        name: of the figure.
        value: of the figure.
        rule: what it should be.
        passed: whether it is.
    """

    name: str
    value: float
    rule: str
    passed: bool


def checks_of(config: Config, numbers: Mapping[str, float]) -> list[Check]:
    """Everything that the settings name and an evaluation measured.

    Args:
        config: the run's settings.
        numbers: figures of a slow evaluation.

    Returns:
        The checks: no error of importances at the strictest tolerance; as many components alive as features; cosine
        at least 0.999 and length between 0.98 and 1.02 of the target's. None where the settings name nothing.
    """
    features: dict[str, int] = {}
    found: list[Check] = []
    for metric in config.eval_metrics:
        if isinstance(metric, IdentityCIError):
            strictest = f"{min(metric.tolerances):g}"
            for site, value in _by_site(numbers, "IdentityCIError", strictest):
                found.append(Check(f"IdentityCIError/{site}/{strictest}", value, "0", value == 0))
                for one in metric.identity_ci:
                    if fnmatchcase(site, one.layer_pattern):
                        features[site] = one.n_features
    for site, n in features.items():
        alive = numbers[f"CI_alive/{site}"]
        found.append(Check(f"CI_alive/{site}", alive, str(n), alive == n))
    for site, value in _by_site(numbers, "DirectionMatch", "mmcs"):
        found.append(Check(f"DirectionMatch/{site}/mmcs", value, f"≥ {LEAST_MMCS}", value >= LEAST_MMCS))
    low, high = ML2R
    for site, value in _by_site(numbers, "DirectionMatch", "ml2r"):
        found.append(Check(f"DirectionMatch/{site}/ml2r", value, f"{low}–{high}", low <= value <= high))
    return found


def _by_site(numbers: Mapping[str, float], kind: str, what: str) -> list[tuple[str, float]]:
    begin, end = f"{kind}/", f"/{what}"
    return [
        (name.removeprefix(begin).removesuffix(end), value)
        for name, value in numbers.items()
        if name.startswith(begin) and name.endswith(end) and name != f"{kind}/total/{what}"
    ]
