"""Synthetic records with known truths, for everything that is made from a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from claimbench.evaluate import evaluate
from claimbench.findings import Evaluation, Finding
from claimbench.ledger import Band, Claim, Fidelity, Figure, Source
from claimbench.record import (
    CONTROL,
    Compile,
    Cost,
    End,
    Environment,
    Failure,
    Gate,
    Memory,
    Probe,
    Record,
    Samples,
    Start,
    Value,
    Writer,
    read_record,
)

CPU = {"name": "Imaginary  CPU 9000", "cores": 8, "governor": "performance"}
FACTS = {
    "python": "3.11.7",
    "cpu": CPU,
    "cuda": [],
    "threads": {},
    "versions": {"numpy": "2.1.0"},
    "load": [0.1, 0.1, 0.1],
}
SIZES = ("small", "medium", "large")


def start(**changes: Any) -> Start:
    """A first line."""
    fields: dict[str, Any] = {
        "run": "a1b2c3", "created": "2026-03-04T05:06:07+00:00", "claims": [], "packages": ["boolean_nca_cc"],
        "device": "cpu", "quick": False, "processes": 5, "seed": 0, "claimbench": "0.1.0", "commit": "f" * 40,
        "dirty": False, "code": {"boolean.update": "hash-of-before"},
    }  # fmt: skip
    return Start(**{**fields, **changes})


def timed(
    ratios: dict[str, float],
    *,
    params: dict[str, Any] | None = None,
    processes: int = 5,
    pairs: int = 40,
    noise: float = 0.02,
    base_ns: float = 1e6,
    seed: int = 0,
    case: str = "boolean.update",
    control: str = "before",
) -> list[Samples]:
    """Samples whose variants take `ratios` times as long as the control, with lognormal noise on every block.

    Args:
        ratios: True ratio of each variant; the control itself is added.
        params: Point of the grid.
        processes: Rows to make.
        pairs: Blocks of each variant.
        noise: Standard deviation of the log of one block; a process moves as a whole by half of it.
        base_ns: Time of a call of the control in nanoseconds.
        seed: Seed of the noise.
        case: Name of the case.
        control: Name of the control variant.
    """
    generator = np.random.default_rng(seed)
    names = {control: 1.0, **ratios, control + CONTROL: 1.0}
    rows = []
    for process in range(processes):
        clocks: dict[str, dict[str, list[float]]] = {}
        for clock in ("process", "wall"):
            clocks[clock] = {
                name: (
                    base_ns * ratio * np.exp(generator.normal(generator.normal(0, noise / 2), noise, pairs))
                ).tolist()
                for name, ratio in names.items()
            }
        rows.append(
            Samples(
                case=case, params=params or {}, process=process, calls=dict.fromkeys(names, 3), clocks=clocks,
                rounds=pairs // 2, seconds=1.5, reached_precision=True, precision=noise / pairs**0.5, control=control,
            )
        )  # fmt: skip
    return rows


def claim(name: str, band: Band, **changes: Any) -> Claim:
    """A claim of the imaginary ledger."""
    fields: dict[str, Any] = {
        "id": name, "title": f"what {name.split('.')[-1]} saves", "published": "80.9 % less time", "unit": " %",
        "source": Source(note="Gate Knockout Performance Optimization", where="Results", provenance="measured"),
        "kind": "percentage", "band": band, "better": "higher", "plain": f"In plain words, {name} means something.",
        "figure": Figure(case="boolean.update", candidate="after", baseline="before", transform="less_time"),
    }  # fmt: skip
    return Claim(**{**fields, **changes})


def ledger() -> tuple[Claim, ...]:
    """Claims that end in every verdict that a record can give."""
    time = Figure(case="boolean.update", candidate="after", baseline="before", transform="less_time")
    small = time.model_copy(update={"where": {"size": "small"}})
    counted = Figure(case="boolean.update", quantity="ops", candidate="after", transform="value")
    wrong = Figure(case="boolean.wrong", candidate="after", baseline="before", transform="speedup")
    other = {"where": {"size": "nowhere"}}
    return (
        claim("boolean.reproduced", Band(about=80.0, points=10, tolerance_reason="as printed")),
        claim("boolean.exceeded", Band(between=(20.0, 30.0))),
        claim("boolean.partly", Band(at_least=81.5), figure=time.model_copy(update={"aggregate": "each"})),
        claim("boolean.not_reproduced", Band(at_least=95.0), figure=small),
        claim("boolean.inconclusive", Band(at_least=79.8), figure=small),
        claim("boolean.incorrect", Band(at_least=1.5), figure=wrong, unit="×", kind="ratio", published="2×"),
        claim("boolean.unfaithful", Band(at_least=1.0), fidelity=(
            Fidelity(figure=time.model_copy(update={"transform": "ratio"}), low=5, high=6, source="its own table"),)),
        claim("boolean.stated", Band(open=True), figure=None, answered_by="tests/test_api.py::test_drop_in",
              kind="statement", published="drop-in"),
        claim("boolean.hardware", Band(at_least=1.5), needs="cuda", figure=time.model_copy(update=other)),
        claim("boolean.not_run", Band(at_least=1.5), duration="long", figure=time.model_copy(update=other)),
        claim("boolean.error", Band(at_least=1.5), figure=time.model_copy(update={"case": "boolean.broken"})),
        claim("boolean.counted", Band(exact=42), figure=counted, unit="", kind="count", published="42 operations"),
        claim("resu.memory", Band(about=2.0), unit="×", kind="bytes", published="2×",
              figure=Figure(case="resu.memory", quantity="memory", candidate="after", baseline="before",
                            transform="speedup")),
    )  # fmt: skip


def rows() -> list[Any]:
    """Rows for `ledger`: the truth is 80, 83 and 86 % less time at the three sizes."""
    found: list[Any] = [start(), Environment(where="parent", facts=FACTS)]
    found += [Environment(where="boolean_nca_cc", facts={**FACTS, "jax": {"platform": "cpu", "x64": False}})]
    found += [Probe(name="copy", value=12.5e9, unit="B/s"), Probe(name="matmul", value=81e9, unit="flop/s")]
    for index, size in enumerate(SIZES):
        params = {"size": size}
        found += timed({"after": 0.2 - 0.03 * index, "best": 0.01}, params=params, seed=index)
        for variant in ("before", "after"):
            found.append(Gate(case="boolean.update", params=params, variant=variant, against="oracle", equal=True,
                              max_abs=1e-7, max_rel=2e-7, tolerance="1e-6 relative"))  # fmt: skip
            found.append(Cost(case="boolean.update", params=params, variant=variant, bytes=5e5, flops=1e5))
            found += [Memory(case="boolean.update", params=params, variant=variant, peak_bytes=3e6 + p,
                             method="ru_maxrss", process=p) for p in range(3)]  # fmt: skip
            found += [Compile(case="boolean.update", params=params, variant=variant, seconds=1.2 + p / 10, process=p)
                      for p in range(3)]  # fmt: skip
        found.append(Value(case="boolean.update", params=params, name="ops", variant="after", value=42))
    found += timed({"after": 0.5}, case="boolean.wrong")
    found.append(Gate(case="boolean.wrong", params={}, variant="after", against="before", equal=False, max_abs=0.25,
                      max_rel=0.5, tolerance="1e-6 relative", reason="the outputs differ"))  # fmt: skip
    found.append(Failure(case="boolean.broken", variant="after", stage="time", reason="ValueError: no <b>such</b> size",
                         detail="Traceback …\nValueError"))  # fmt: skip
    for variant, size in (("before", 4e6), ("after", 2e6)):
        found.append(Memory(case="resu.memory", params={}, variant=variant, peak_bytes=size, method="counted"))
    return [*found, End(complete=True, seconds=60.0)]


class Builder:
    """Writes records below a folder and evaluates them."""

    start, timed, claim, ledger, rows = map(staticmethod, (start, timed, claim, ledger, rows))
    facts = FACTS

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, written: Iterable[Any], name: str = "run", garbage: str = "") -> Record:
        """A record of these rows; `garbage` stands at its end as it is."""
        path = self.folder / name / "record.jsonl"
        path.parent.mkdir(parents=True)
        with Writer(path) as writer:
            for row in written:
                writer.write(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(garbage)
        return read_record(path)

    def evaluated(self, written: Iterable[Any] | None = None, **options: Any) -> tuple[Evaluation, Record]:
        """A record and its evaluation by `ledger`."""
        record = self.write(rows() if written is None else written, **options)
        return evaluate(record, ledger()), record


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """A builder of synthetic records."""
    return Builder(tmp_path)


@pytest.fixture(scope="session")
def shared_builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """The same for records that several tests only read."""
    return Builder(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="session")
def evaluated(shared_builder: Builder) -> tuple[Evaluation, Record]:
    """`rows` judged by `ledger`; nobody changes it."""
    return shared_builder.evaluated()


@pytest.fixture
def find(builder: Builder) -> Callable[..., Finding]:
    """Judge one claim by rows: the claim is made from a band and changes of its figure."""
    number = iter(range(1000))

    def judged(rows: list[Any], band: Band, start: dict[str, Any] | None = None, **changes: Any) -> Finding:
        end = End(complete=True, seconds=1.0)
        record = builder.write([builder.start(**(start or {})), *rows, end], name=f"run-{next(number)}")
        fields = {
            key: changes.pop(key) for key in ("needs", "fidelity", "better", "unit", "duration") if key in changes
        }
        figure = {"case": "boolean.update", "candidate": "after", "baseline": "before", "transform": "less_time"}
        claim = builder.claim("boolean.x", band, figure=Figure.model_validate(figure | changes), **fields)
        (found,) = evaluate(record, [claim]).findings
        return found

    return judged


@pytest.fixture(scope="session")
def grid() -> Callable[..., list[Samples]]:
    """`grid(builder, {"s": 0.2, …})`: samples at each size, with its own ratio of `after` to `before`."""

    def build(builder: Builder, ratios: dict[str, float], **fields: Any) -> list[Samples]:
        return [
            row
            for seed, (size, ratio) in enumerate(ratios.items())
            for row in builder.timed({"after": ratio} | fields.get("more", {}), params={"size": size}, seed=seed)
        ]

    return build
