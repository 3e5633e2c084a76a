"""A worker's own side: what it writes for each kind of job, and what becomes of what fails in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from claimbench import worker
from claimbench.case import Case, Counted, Tolerance, Work, Workload
from claimbench.cases import planted
from claimbench.errors import CaseError
from claimbench.protocol import Begin, Finish, Job, Plan, parse_line
from claimbench.record import (
    CONTROL,
    Compile,
    Cost,
    Environment,
    Failure,
    Gate,
    Memory,
    Params,
    Probe,
    Samples,
    Value,
    Writer,
    parse_row,
)


def _raise(error: BaseException) -> Any:
    raise error


def workload(params: Params, **fields: Any) -> Workload:
    if params["size"] == "broken":
        raise RuntimeError("this setup fails")
    variants = {
        "before": lambda x: x * 2.0,
        "after": lambda x: x + x,
        "raises": lambda _x: _raise(MemoryError("none left")),
    }
    return Workload(
        inputs=lambda seed: np.arange(4.0) + seed, variants=variants, units=10.0,
        work={"after": Work(bytes=640.0, flops=40.0)}, **fields,
    )  # fmt: skip


def values(params: Params) -> Iterable[Counted]:
    yield Counted("ops", 3.0, "after", "calls", "looked at")
    if params["size"] == "broken":
        raise ValueError("a count that fails")


GRID: tuple[Params, ...] = ({"size": "s"}, {"size": "broken"}, {"size": "l"})

CASES = (
    Case("own.timed", "t", "host", workload, GRID, ("before", "after", "raises"), values=values, budget=0.15),
    Case(
        "own.single",
        "t",
        "host",
        workload,
        memory_grid=GRID[:1],
        memory_variants=("before", "after"),
        compile_grid=GRID[:1],
        compile_variants=("after", "raises"),
    ),
    Case("own.elsewhere", "t", "nowhere", workload, GRID[:1], ("before", "after")),
)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do a job in this process and return its lines, marks among rows."""
    module = ModuleType("own")
    module.CASES = CASES  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own", module)
    monkeypatch.setattr(worker, "PROBE_SECONDS", 0.001)

    def do(mode: str, *cases: str, module: str = "own", **fields: Any) -> list[Any]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        job = Job.model_validate({"mode": mode, "module": module, "cases": cases, "results": path} | fields)
        with Writer(path) as writer:
            worker.Worker(job, writer).run()
        return [parse_line(line) or parse_row(line) for line in path.read_text().splitlines()]

    return do


def of(lines: list[Any], kind: type) -> list[Any]:
    return [line for line in lines if isinstance(line, kind)]


def test_a_plan_says_what_there_is_to_do(work: Any) -> None:
    lines = work("plan", "own.timed", "own.single")
    (plan,) = of(lines, Plan)
    timed, single = plan.cases
    assert (timed.id, timed.points, timed.budget) == ("own.timed", list(GRID), 0.15)
    assert single.memory == [(GRID[0], "before"), (GRID[0], "after")]
    assert single.compile == [(GRID[0], "after"), (GRID[0], "raises")]
    assert plan.facts["host"]["numpy"] == np.__version__
    assert isinstance(lines[-1], Finish)


def test_a_plan_of_no_names_is_of_all_cases(work: Any) -> None:
    (plan,) = of(work("plan", module="claimbench.cases.planted"), Plan)
    assert [case.id for case in plan.cases] == [case.id for case in planted.CASES]


def test_timing_checks_counts_and_times_every_point_it_can(work: Any) -> None:
    lines = work("time", "own.timed")
    samples, failures = of(lines, Samples), of(lines, Failure)
    assert [row.params["size"] for row in samples] == ["s", "l"]
    assert all(set(row.calls) == {"before", "after", "before" + CONTROL} for row in samples)
    assert [(row.variant, row.equal) for row in of(lines, Gate)] == [("before", True), ("after", True)] * 2
    assert [(f.stage, f.params["size"], f.variant, f.reason) for f in failures] == [
        ("values", "broken", "", "ValueError: a count that fails"),
        ("gate", "s", "raises", "MemoryError: none left"),
        ("time", "broken", "", "RuntimeError: this setup fails"),
        ("gate", "l", "raises", "MemoryError: none left"),
    ]
    assert "this setup fails" in failures[2].detail
    assert {f.package for f in failures} == {"own"}
    assert [row.params["size"] for row in of(lines, Value)] == ["s", "broken", "l"]
    assert [row.name for row in of(lines, Probe)] == ["copy", "matmul"]
    assert [row.where for row in of(lines, Environment)] == ["host"]
    assert isinstance(lines[-1], Finish)


def test_a_quick_run_counts_at_its_own_points_where_a_case_has_some(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(quick: bool, **fields: Any) -> list[Any]:
        case = replace(CASES[0], grid=(), variants=(), values_grid=GRID, **fields)
        monkeypatch.setattr(sys.modules["own"], "CASES", (case,))
        return [row.params["size"] for row in of(work("time", "own.timed", quick=quick), Value)]

    assert counted(quick=True) == ["s", "broken", "l"]
    assert counted(quick=True, quick_values=GRID[2:]) == ["l"]
    assert counted(quick=True, quick_values=()) == []
    assert counted(quick=False, quick_values=()) == ["s", "broken", "l"]


def test_work_is_declared_by_the_unit_as_times_are(work: Any) -> None:
    assert {(row.variant, row.bytes, row.flops) for row in of(work("time", "own.timed"), Cost)} == {
        ("after", 64.0, 4.0)
    }


def test_a_death_has_a_place(work: Any) -> None:
    lines = work("time", "own.timed")
    marks = [(line.stage, line.params.get("size", "")) for line in lines if isinstance(line, Begin)]
    expected = [("import", ""), ("probe", "")]
    expected += [(stage, size) for stage in ("values", "time") for size in ("s", "broken", "l")]
    assert marks == expected
    for row in of(lines, Samples):
        before = [line for line in lines[: lines.index(row)] if isinstance(line, Begin)][-1]
        assert (before.stage, before.params) == ("time", row.params)


def test_later_processes_repeat_the_gate_and_tell_only_news(work: Any) -> None:
    lines = work("time", "own.timed", process=3)
    assert of(lines, Value) == of(lines, Probe) == of(lines, Cost) == of(lines, Environment) == of(lines, Gate) == []
    assert [row.process for row in of(lines, Samples)] == [3, 3]
    assert [f.stage for f in of(lines, Failure)] == ["gate", "time", "gate"]
    wrong = work("time", "planted.wrong", module="claimbench.cases.planted", process=3)
    assert {row.variant for row in of(wrong, Gate)} == {"nan", "shape", "parts", "off", "mutates", "too_rough"}
    assert {row.process for row in of(wrong, Gate)} == {3}


def test_points_and_counts_of_a_former_worker_are_skipped(work: Any) -> None:
    lines = work("time", "own.timed", skip=["own.timed|size=s", "own.timed|values|size=l"])
    assert [row.params["size"] for row in of(lines, Samples)] == ["l"]
    assert [row.params["size"] for row in of(lines, Value)] == ["s", "broken"]
    assert of(lines, Probe) == []


def test_a_quick_run_cuts_budgets(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = []

    def no_timing(*_args: Any, budget: float, **_fields: Any) -> Any:
        budgets.append(budget)
        return Begin(stage="none")

    monkeypatch.setattr(worker, "time_point", no_timing)
    work("time", "own.timed")
    work("time", "own.timed", quick=True)
    assert budgets == pytest.approx([0.05, 0.05, 0.05 * worker.QUICK_SHARE, 0.05 * worker.QUICK_SHARE])


def test_a_control_that_breaks_leaves_nothing_to_time(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("own.timed", "t", "host", lambda _p: Workload(
        inputs=lambda _seed: 1.0, variants={"before": lambda _x: _raise(ValueError("no")), "after": lambda x: x},
        oracle=lambda x: x, tolerance=Tolerance()), GRID[:1], ("before", "after"))  # fmt: skip
    monkeypatch.setattr(sys.modules["own"], "CASES", (case,))
    lines = work("time", "own.timed")
    assert of(lines, Samples) == []
    assert [(f.stage, f.variant) for f in of(lines, Failure)] == [("gate", "before")]
    assert isinstance(lines[-1], Finish)


def test_memory_of_one_variant(work: Any) -> None:
    for variant, buffers in (("before", 1), ("after", 2)):
        where = {"module": "claimbench.cases.planted", "params": {"size": 48}}
        lines = work("memory", "planted.memory", variant=variant, process=2, **where)
        (row,) = of(lines, Memory)
        assert row.peak_bytes == pytest.approx(buffers * 32 * 2**20, rel=0.1)
        assert (row.variant, row.process) == (variant, 2)


def test_the_first_call_of_one_variant(work: Any) -> None:
    (row,) = of(work("compile", "own.single", variant="after", params=GRID[0], process=1), Compile)
    assert row.seconds > 0
    assert (row.variant, row.process) == ("after", 1)


@pytest.mark.parametrize("mode", ["memory", "compile"])
def test_a_variant_that_fails_alone_is_a_row_with_its_name(work: Any, mode: str) -> None:
    (failure,) = of(work(mode, "own.single", variant="raises", params=GRID[0]), Failure)
    assert (failure.stage, failure.case, failure.variant) == (mode, "own.single", "raises")
    assert failure.reason == "MemoryError: none left"


@pytest.mark.parametrize(
    ("module", "case", "reason"),
    [
        ("own", "own.missing", "CaseError: own has no case 'own.missing'; it has own.timed, own.single"),
        ("claimbench.cases.surprise", "c", "ModuleNotFoundError: No module named"),
        ("claimbench.errors", "c", "AttributeError: "),
        ("own", "own.elsewhere", "CaseError: a runtime is one of host, jax, torch; got 'nowhere'"),
    ],
)
def test_a_job_that_cannot_begin_is_a_row(work: Any, module: str, case: str, reason: str) -> None:
    lines = work("time", case, module=module)
    (failure,) = of(lines, Failure)
    assert failure.reason.startswith(reason)
    assert (failure.stage, failure.package) == ("import", module.rsplit(".", 1)[-1])


def test_a_device_that_the_framework_has_not_is_a_row(work: Any) -> None:
    (failure,) = of(work("plan", "own.timed", device="cuda"), Failure)
    assert failure.reason == "RunError: NumPy runs on the cpu; got device 'cuda'; use --device cpu"


def test_a_reason_that_is_no_text_for_json_is_written_all_the_same(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_params: Params) -> Workload:
        raise OSError("cannot open caf\udce9")  # a name of a file that is no UTF-8

    monkeypatch.setattr(
        sys.modules["own"], "CASES", (Case("own.timed", "t", "host", fails, GRID, ("before", "after")),)
    )
    lines = work("time", "own.timed")
    assert [f.reason for f in of(lines, Failure)] == ["OSError: cannot open caf\\udce9"] * 3


def test_a_grid_with_a_double_point_or_a_strange_control_is_refused() -> None:
    with pytest.raises(CaseError, match="remove the double"):
        Case("c", "t", "host", workload, (GRID[0], GRID[0]), ("before", "after"))
    with pytest.raises(CaseError, match="control 'before' must be one of"):
        Case("c", "t", "host", workload, GRID, ("after", "best"))


def test_the_code_hash_follows_the_source_of_before() -> None:
    one, other, none = (
        Case("c", "t", "host", workload, original=original) for original in ((workload,), (values,), ())
    )
    assert len(one.code_hash()) == 16
    assert one.code_hash() == Case("d", "u", "host", workload, original=(workload,)).code_hash()
    assert len({one.code_hash(), other.code_hash(), none.code_hash()}) == 3


def start_worker(folder: Path, **fields: Any) -> subprocess.CompletedProcess[bytes]:
    path = folder / "job.json"
    results = folder / "results.jsonl"
    job = {"mode": "plan", "module": "claimbench.cases.planted", "cases": ["planted.sleep"], "results": str(results)}
    path.write_text(json.dumps(job | fields))
    return subprocess.run([sys.executable, "-m", "claimbench.worker", str(path)], check=False, capture_output=True)


def test_a_real_worker_does_its_job_unless_its_parent_is_already_gone(tmp_path: Path) -> None:
    done = start_worker(tmp_path, parent=os.getpid())
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert isinstance(parse_line(lines[-1]), Finish)
    (tmp_path / "results.jsonl").unlink()
    assert start_worker(tmp_path, parent=os.getppid()).returncode == 1
    assert not (tmp_path / "results.jsonl").exists()
