"""Digits on fresh splits, with true and with shuffled labels: trained here, or read from a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import neurograph
from claimbench.case import Case, Counted
from claimbench.cases.neurograph.problem import not_timed
from claimbench.record import Params
from neurograph.experiments.digits import DigitsResult, run_digits

__all__ = ["CASES", "FOLDER"]

FOLDER = "NEUROGRAPH_DIGITS_FOLDER"
"""Environment variable: a folder of `neurograph.experiments.digits`; what it holds for these settings is not trained
again."""


def own_folder() -> Path:
    """Where trainings are kept, below the working directory: a run that is killed goes on with those that it finished.

    Its name holds a digest of the package's code, so that other code starts anew.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(neurograph.__path__[0]).rglob("*.py")):
        digest.update(path.read_bytes())
    return Path("bench") / f"neurograph-digits-{digest.hexdigest()[:12]}"


def _digits(params: Params) -> Iterable[Counted]:
    folder = Path(os.environ[FOLDER]) if FOLDER in os.environ else own_folder()
    shuffled = params["labels"] == "shuffled"
    result: DigitsResult = run_digits(shuffled=shuffled, folder=folder)
    seeds = ", ".join(str(row["seed"]) for row in result.rows)
    words = f"test samples of the splits {seeds}: " + ", ".join(f"{100 * r['accuracy']:.2f}" for r in result.rows)
    yield Counted("mean", result.mean, "best", "%", words)
    yield Counted("min", result.minimum, "best", "%", words)
    yield Counted("integers", max(row["integers"] for row in result.rows), "best", "", "trained")
    yield Counted("floats", max(row["floats"] for row in result.rows), "best", "", "trained")
    yield Counted("seconds", max(row["seconds"] for row in result.rows), "best", "s", "of the processor, longest split")


CASES = (
    Case(
        "neurograph.digits",
        "accuracy on digits, five fresh splits",
        "torch",
        not_timed,
        values=_digits,
        values_grid=({"labels": "true"}, {"labels": "shuffled"}),
        original=(run_digits,),
        # Minutes rather than seconds: what bounds a worker that trains is twice this.
        budget=1800.0,
    ),
)
