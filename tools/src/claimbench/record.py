"""The record of a run: JSON lines, one finished thing a line, written as it happens.

A record is complete up to its last whole line: a run killed at any moment leaves a valid one. Tables, report, verdicts
and comparison are made from it alone, here or on another machine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from claimbench.errors import RecordError

__all__ = [
    "CONTROL",
    "SCHEMA",
    "Compile",
    "Cost",
    "Done",
    "End",
    "Environment",
    "Failure",
    "Gate",
    "Memory",
    "Params",
    "Probe",
    "Record",
    "Row",
    "Samples",
    "Start",
    "Value",
    "Writer",
    "parse_row",
    "point_name",
    "read_record",
]

SCHEMA = 1
CONTROL = "#control"
"""Suffix of the second series of the control variant: the same code timed against itself."""

Params = dict[str, str | int | float]


def point_name(params: Params) -> str:
    """A point of a grid as one word, for keys and tables.

    Example:
        >>> point_name({"size": "small", "optimizer": "sgd"})
        'size=small optimizer=sgd'
    """
    return " ".join(f"{key}={value}" for key, value in params.items())


class _Row(BaseModel):
    # An unknown field is ignored, so that an older claimbench can read a newer record of the same schema.
    model_config = ConfigDict(extra="ignore", ser_json_inf_nan="strings")


class Start(_Row):
    """What was asked for. The first line of a record, and one more for each resumption."""

    kind: Literal["start"] = "start"
    schema_version: int = SCHEMA
    run: str
    created: str
    claims: list[str]
    packages: list[str]
    device: str
    quick: bool
    processes: int
    seed: int
    resumed: bool = False
    claimbench: str
    commit: str
    dirty: bool | None
    code: dict[str, str] = Field(default_factory=dict)  # case → hash of the code of its `before`


class Environment(_Row):
    """The machine and the software, from the parent or from a worker."""

    kind: Literal["environment"] = "environment"
    where: str  # "parent" or the package whose worker reports
    facts: dict[str, Any]


class Gate(_Row):
    """Equality of one variant's results at one point, checked before the clock."""

    kind: Literal["gate"] = "gate"
    case: str
    params: Params
    variant: str
    against: str  # the variant or oracle that it was compared with
    equal: bool
    lossy: bool = False
    max_abs: float | None = None
    max_rel: float | None = None
    tolerance: str = ""
    reason: str = ""
    process: int = 0


class Samples(_Row):
    """Raw times of all variants at one point in one process, in nanoseconds a call.

    `clocks[clock][variant]` lists one number a block, two blocks a round: the forward and the mirrored half of the
    palindrome, so that numbers at equal positions of two variants form a pair.
    """

    kind: Literal["samples"] = "samples"
    case: str
    params: Params
    process: int
    calls: dict[str, int]  # calls in one block of each variant
    clocks: dict[str, dict[str, list[float]]]
    rounds: int
    seconds: float
    reached_precision: bool
    precision: float  # standard error of the worst pair's mean log ratio in this process
    control: str
    load: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _can_be_true(self) -> Samples:
        """A worker is not believed: times are finite, positive and paired."""
        for clock, series in self.clocks.items():
            if set(series) != set(self.calls):
                raise ValueError(f"each variant has one series by each clock; {clock} has {sorted(series)}")
            if len({len(values) for values in series.values()}) != 1 or not next(iter(series.values())):
                raise ValueError(f"the series of a point are paired and not empty; those of {clock} differ in length")
            if not all(math.isfinite(value) and value > 0 for values in series.values() for value in values):
                raise ValueError(f"a time is finite and positive; a series by {clock} is not")
        if "wall" not in self.clocks or not {self.control, self.control + CONTROL} <= set(self.calls):
            raise ValueError("samples hold the wall clock, the control variant and its second series")
        return self


class Value(_Row):
    """A number that was counted, checked or trained to, not timed; a mean over seeds has its interval's ends."""

    kind: Literal["value"] = "value"
    case: str
    params: Params
    name: str
    variant: str = ""
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    detail: str = ""
    process: int = 0


class Memory(_Row):
    """Peak memory of one variant in a process of its own."""

    kind: Literal["memory"] = "memory"
    case: str
    params: Params
    variant: str
    peak_bytes: float = Field(ge=0, allow_inf_nan=False)
    method: str
    process: int = 0


class Compile(_Row):
    """Time of the first call of one variant in a cold process, with an empty compile cache."""

    kind: Literal["compile"] = "compile"
    case: str
    params: Params
    variant: str
    seconds: float = Field(gt=0, allow_inf_nan=False)
    process: int = 0


class Probe(_Row):
    """What this device can do, measured in this run."""

    kind: Literal["probe"] = "probe"
    name: str  # "copy" or "matmul"
    value: float = Field(gt=0, allow_inf_nan=False)
    unit: str
    process: int = 0


class Cost(_Row):
    """Bytes and operations that a case declares for one call of a variant."""

    kind: Literal["cost"] = "cost"
    case: str
    params: Params
    variant: str
    bytes: float | None = None
    flops: float | None = None


class Failure(_Row):
    """Something that did not work: never a zero, never dropped."""

    kind: Literal["failure"] = "failure"
    case: str = ""
    params: Params = Field(default_factory=dict)
    variant: str = ""
    stage: str  # setup, gate, time, values, memory, compile, import, worker
    reason: str
    detail: str = ""
    process: int = 0
    package: str = ""  # whose worker it was; empty where the run itself is meant


class Done(_Row):
    """One job of a run that needs no repetition when the run is resumed."""

    kind: Literal["done"] = "done"
    job: str


class End(_Row):
    """The last line of a run that came to its end, or was stopped in good order."""

    kind: Literal["end"] = "end"
    complete: bool
    seconds: float
    reason: str = ""


Row = Annotated[
    Start | Environment | Gate | Samples | Value | Memory | Compile | Probe | Cost | Failure | Done | End,
    Field(discriminator="kind"),
]
_ROW: TypeAdapter[Any] = TypeAdapter(Row)


def parse_row(line: str) -> Any:
    """One line of a record as its row.

    Raises:
        RecordError: For a line that is not a row.
    """
    try:
        return _ROW.validate_json(line)
    except ValidationError as error:
        raise RecordError(f"a record holds one row a line; got {line[:80]!r}: {error.errors()[0]['msg']}") from error


class Writer:
    """Appends rows to a record, each at once and as one whole line.

    Args:
        path: File to append to; its folder must exist.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)  # a buffer would try a failed line again when it is closed

    def write(self, row: BaseModel) -> None:
        """Append one row; where the disk is full, nothing of it.

        Raises:
            OSError: When the file cannot be written to.
        """
        whole = self._file.seek(0, os.SEEK_END)
        rest = memoryview(row.model_dump_json().encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(whole)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Record:
    """A record that was read.

    Args:
        path: Where it lies.
        rows: Its rows in order.
        broken: Lines that were not rows (a torn last line, garbage), kept for the report.
    """

    def __init__(self, path: Path, rows: list[Any], broken: list[str]) -> None:
        self.path, self.rows, self.broken = path, rows, broken

    def of(self, row_type: type[Any]) -> Iterator[Any]:
        """Rows of one type, in order."""
        return (row for row in self.rows if isinstance(row, row_type))

    @property
    def start(self) -> Start:
        """The first line."""
        return next(self.of(Start))

    @property
    def complete(self) -> bool:
        """Whether the run, or its last resumption, came to its end."""
        ends = list(self.of(End))
        return bool(ends) and ends[-1].complete

    def done(self) -> set[str]:
        """Names of the jobs that need no repetition."""
        return {row.job for row in self.of(Done)}


def read_record(path: Path) -> Record:
    """Read a record, or the newest record of a folder of runs.

    Args:
        path: `record.jsonl`, or a folder that holds one.

    Returns:
        The record; a torn last line is tolerated and listed as broken.

    Raises:
        RecordError: When there is no record, it is empty, or it is of another schema.
    """
    if path.is_dir():
        path = path / "record.jsonl"
    if not path.is_file():
        raise RecordError(f"a record is a file of JSON lines; there is none at {path}; `claimbench run` makes one")
    rows, broken = [], []
    # Not splitlines: a text in a row may hold other separators, such as U+2028, as they are.
    for line in filter(None, path.read_text(encoding="utf-8", errors="replace").split("\n")):
        try:
            rows.append(parse_row(line))
        except RecordError:
            broken.append(line)
    if not rows or not isinstance(rows[0], Start):
        raise RecordError(f"{path} is not a record: its first line must say what was run; choose another file")
    if rows[0].schema_version != SCHEMA:
        raise RecordError(
            f"this claimbench reads records of schema {SCHEMA}; {path} has {rows[0].schema_version}; "
            "read it with the version that its first line names"
        )
    return Record(path, rows, broken)
