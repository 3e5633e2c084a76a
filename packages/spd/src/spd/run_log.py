"""What a run wrote down while it went on: JSON lines, and wandb for those who want it.

The one module that imports wandb, and only where a project is named. It runs offline unless the environment variable
WANDB_MODE says otherwise.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from spd.background import Background, Closing
from spd.errors import DataError, MissingExtraError
from spd.files import write_whole

__all__ = ["METRICS", "RunLog", "read_log"]

METRICS = "metrics.jsonl"
Figures = Mapping[str, float | int | Float[Tensor, ""]]
Line = dict[str, float | int | None]


class RunLog(Closing):
    """Figures by step.

    Args:
        folder: where `metrics.jsonl` is; it is made where it is missing.
        start_step: steps that are done where a run goes on: lines of later ones, which a run that was stopped wrote
            after its last checkpoint, are dropped, and so is a line that was cut off.
        asynchronous: lines are written by a thread.
        project: wandb's; None = no wandb.
        name: of the run there.
        settings: of the run, for wandb.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunLog(Path(folder)) as log:
    ...         log.write(0, {"total": 1.5})
    ...     read_log(Path(folder))
    [{'step': 0, 'total': 1.5}]
    """

    def __init__(
        self,
        folder: Path,
        *,
        start_step: int = 0,
        asynchronous: bool = False,
        project: str | None = None,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        _keep_until(path, start_step)
        self._file = path.open("a", encoding="utf-8")
        self._wandb = None if project is None else _start_wandb(folder, project, name, settings or {})
        self._work = Background(threaded=asynchronous, capacity=64, name="log")

    def write(self, step: int, figures: Figures) -> None:
        """Writes a line.

        Args:
            step: steps of training that are done.
            figures: numbers, or tensors of one number, which are read by whoever writes.
        """
        kept = dict(figures)
        self._work.submit(lambda: self._write(step, kept))

    def _write(self, step: int, figures: Figures) -> None:
        values = {name: float(value) for name, value in figures.items()}
        # JSON has no numbers that are not finite: a figure without a value is null.
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **line}) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def close(self) -> None:
        """Writes what is left."""
        try:
            self._work.close()
        finally:
            self._file.close()
            if self._wandb is not None:
                self._wandb.finish()


def read_log(folder: Path) -> list[Line]:
    """All lines of a run.

    Args:
        folder: the run's.

    Returns:
        One mapping a line, with the step under "step"; a figure that was not finite is None. A last line that was cut
        off is left out.

    Raises:
        DataError: no log there, or a line that is no JSON.
    """
    path = folder / METRICS
    if not path.exists():
        raise DataError(f"a run's folder holds {METRICS}; {folder} does not. Name the folder that the run printed.")
    return _whole_lines(path)


def _whole_lines(path: Path) -> list[Line]:
    found = []
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise DataError(
                f"a log is lines of JSON; line {number} of {path} is not: {error}. Repair or remove that line."
            ) from error
    return found


def _keep_until(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in _whole_lines(path) if (line["step"] or 0) <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _start_wandb(folder: Path, project: str, name: str | None, settings: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise MissingExtraError(
            "figures go to wandb where wandb_project is set, and wandb is not installed. Install it, or leave "
            "wandb_project out: metrics.jsonl is written in any case."
        ) from error
    return wandb.init(
        project=project, name=name, dir=str(folder), config=dict(settings),
        mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
    )  # fmt: skip
