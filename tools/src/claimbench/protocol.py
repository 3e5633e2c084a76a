"""What the parent and a worker say to each other: one job in, rows and marks out, all as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from claimbench.record import Params

__all__ = ["Begin", "CasePlan", "Finish", "Job", "Plan", "parse_line"]


class Job(BaseModel):
    """What one worker process does.

    Attributes:
        mode: `plan` says what there is to do; `time` checks, counts and times; `memory` and `compile` look at one
            variant at one point.
        module: Module whose `CASES` are run.
        cases: Names of the cases.
        device: `cpu` or `cuda`.
        seed: Seed of inputs and orders.
        process: Number of this process.
        quick: Whether budgets are cut.
        skip: Points, as `case|point`, that were done before or that killed a worker.
        variant: For `memory` and `compile`.
        params: For `memory` and `compile`.
        parent: Process that started the worker; the worker ends where it is gone.
        results: File that the worker appends lines to.
    """

    model_config = ConfigDict(extra="forbid")

    mode: Literal["plan", "time", "memory", "compile"]
    module: str
    cases: list[str] = []
    device: str = "cpu"
    seed: int = 0
    process: int = 0
    quick: bool = False
    skip: list[str] = []
    variant: str = ""
    params: Params = {}
    parent: int = 0
    results: Path

    @property
    def package(self) -> str:
        """Import name of the package whose cases these are."""
        return self.module.rsplit(".", 1)[-1]


class Begin(BaseModel):
    """What the worker is about to do, so that a death has a place."""

    kind: Literal["begin"] = "begin"
    stage: str
    case: str = ""
    params: Params = {}
    variant: str = ""


class Finish(BaseModel):
    """The last line of a worker that did all it was asked."""

    kind: Literal["finish"] = "finish"


class CasePlan(BaseModel):
    """What a case consists of."""

    id: str
    points: list[Params]
    budget: float
    memory: list[tuple[Params, str]]
    compile: list[tuple[Params, str]]
    code: str


class Plan(BaseModel):
    """Answer to a `plan` job."""

    kind: Literal["plan"] = "plan"
    cases: list[CasePlan]
    facts: dict[str, Any]


_LINE: TypeAdapter[Any] = TypeAdapter(Annotated[Begin | Finish | Plan, Field(discriminator="kind")])


def parse_line(line: str) -> Any:
    """A mark of the protocol, or None where the line is something else.

    Example:
        >>> parse_line('{"kind": "finish"}')
        Finish(kind='finish')
    """
    try:
        return _LINE.validate_json(line)
    except ValueError:
        return None
