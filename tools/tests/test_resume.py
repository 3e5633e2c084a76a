"""A run that is stopped or killed goes on where it was, and measures nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from claimbench import run
from claimbench.errors import RecordError, RunError
from claimbench.protocol import CasePlan, Plan
from claimbench.record import (
    CONTROL,
    Done,
    End,
    Failure,
    Gate,
    Record,
    Samples,
    Start,
    Value,
    Writer,
    point_name,
    read_record,
)
from claimbench.run import RunOptions, measure
from claimbench.supervisor import Outcome, Supervisor

SLOW = """
import os, time
from pathlib import Path

from claimbench.case import Case, Counted, Workload

GRID = tuple({"size": size} for size in range(6))


def _log(what):
    with Path(os.environ["SLOW_LOG"]).open("a") as file:
        file.write(what + "\\n")


def _call(_inputs):
    time.sleep(0.005)
    return 1.0


def _setup(params):
    _log(f"setup {params['size']}")
    return Workload(inputs=lambda _seed: 1.0, variants={"before": _call, "after": _call})


def _values(params):
    _log(f"values {params['size']}")
    for name in ("ops", "bytes"):
        yield Counted(name, 1.0)


CASES = (
    Case("slow.timed", "t", "host", _setup, GRID, ("before", "after"), values=_values, budget=4.0),
)
"""

DRIVER = """
import signal, sys
from pathlib import Path
from claimbench.run import RunOptions, measure

# A shell that starts the tests in the background has Ctrl-C ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

folder = Path(sys.argv[1])
try:
    options = RunOptions(out=folder, resume=folder, device="cpu", quick=True, seed=int(sys.argv[2]))
    measure(options, (), {"slow": ["slow.timed"]})
except KeyboardInterrupt:
    sys.exit(130)
"""


class Machine:
    """Starts runs of the slow cases and looks at what they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.record = folder, folder / "run"
        (folder / "slow.py").write_text(SLOW)
        (folder / "scratch").mkdir()
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        own = {"PYTHONPATH": path, "SLOW_LOG": str(folder / "log"), "TMPDIR": str(folder / "scratch")}
        self.environment = os.environ | own

    def start(self, seed: int = 7) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", DRIVER, str(self.record), str(seed)], env=self.environment)

    def read(self) -> Record:
        return read_record(self.record)

    def wait_for_samples(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            path = self.record / "record.jsonl"
            if path.exists() and path.read_text().count('"kind":"samples"') >= count:
                return
            time.sleep(0.05)
        raise AssertionError("the run did not get that far")

    def log(self) -> Counter[str]:
        return Counter((self.folder / "log").read_text().splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_a_run_that_was_stopped_goes_on_without_measuring_anything_twice(
    machine: Machine, number: signal.Signals
) -> None:
    process = machine.start()
    machine.wait_for_samples(2)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.send_signal(number)
    assert process.wait(30) == (130 if number is signal.SIGINT else -signal.SIGKILL)
    assert gone(workers)

    stopped = machine.read()
    assert not stopped.complete
    assert stopped.broken == []
    finished = {point_name(row.params) for row in stopped.of(Samples)}
    assert 2 <= len(finished) < 6
    assert len(list(stopped.of(Value))) == 12
    if number is signal.SIGINT:
        assert [row.reason for row in stopped.of(End)] == ["stopped before its end"]
        assert list((machine.folder / "scratch").iterdir()) == []
    # What the stage that was under way had written is not half kept.
    assert {point_name(row.params) for row in stopped.of(Gate)} == finished
    before = machine.log()
    assert "setup 5" not in before  # the worker did not live on and go through its points

    assert machine.start(seed=99).wait(120) == 0
    whole = machine.read()
    assert whole.complete
    assert whole.rows[: len(stopped.rows)] == stopped.rows
    assert Counter(point_name(row.params) for row in whole.of(Samples)) == {f"size={i}": 1 for i in range(6)}
    assert Counter((point_name(row.params), row.name) for row in whole.of(Value)) == {
        (f"size={i}", name): 1 for i in range(6) for name in ("ops", "bytes")
    }
    assert Counter((point_name(row.params), row.variant) for row in whole.of(Gate)) == {
        (f"size={i}", variant): 1 for i in range(6) for variant in ("before", "after")
    }
    assert [(row.resumed, row.seed) for row in whole.of(Start)] == [(False, 7), (True, 7)]
    assert not list(whole.of(Failure))
    again = machine.log() - before
    assert not any(name.startswith("values") for name in again)
    assert not {f"setup {point.removeprefix('size=')}" for point in finished} & set(again)
    assert whole.done() == {"time slow 1/1"}

    if number is signal.SIGINT:  # and once more: there is nothing left to do
        assert machine.start().wait(60) == 0
        assert [row.kind for row in machine.read().rows[len(whole.rows) :]] == ["start", "environment", "end"]


START = Start(
    run="r", created="2026-03-04T05:06:07+00:00", claims=[], packages=[], device="cpu", quick=False, processes=7,
    seed=5, claimbench="0.1.0", commit="c", dirty=None, code={"slow.timed": "abc"},
)  # fmt: skip


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No process is started: the plan is given, and jobs are only listed."""
    found: list[Any] = []
    case = CasePlan(
        id="slow.timed", points=[{"size": 0}], budget=1.0, memory=[({"size": 0}, "after")], compile=[], code="abc"
    )
    plans = {"slow": Plan(cases=[case], facts={})}
    monkeypatch.setattr(run, "_plan", lambda _supervisor, options, _cases: (options.device, plans, []))

    def do(_self: Supervisor, job: Any, _limit: float, outcome: Outcome) -> Outcome:
        found.append(job)
        return outcome

    monkeypatch.setattr(Supervisor, "run", do)
    return found


def written(folder: Path, *rows: Any, torn: str = "") -> Path:
    with Writer(folder / "record.jsonl") as writer:
        for row in rows:
            writer.write(row)
    with (folder / "record.jsonl").open("a") as file:
        file.write(torn)
    return folder


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        ({"device": "cuda"}, {"device": "cpu"}, r"began on \(cuda\); got --device cpu"),
        ({}, {"device": "cuda"}, r"began on \(cpu\); got --device cuda"),
        ({"quick": True}, {}, "quick with --quick, full without"),
        ({}, {"quick": True}, "quick with --quick, full without"),
        ({"code": {"slow.timed": "edited since"}}, {}, r"slow\.timed differ"),
        ({"code": {"slow.timed": "abc", "slow.other": "x"}}, {}, r"slow\.other differ; give the same claims"),
        ({"code": {}}, {}, r"slow\.timed differ"),
    ],
)
def test_a_run_goes_on_only_as_it_began(
    tmp_path: Path, jobs: list[Any], start: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    folder = written(tmp_path, START.model_copy(update=start))
    kept = (folder / "record.jsonl").read_bytes()
    with pytest.raises(RunError, match=message):
        measure(RunOptions(resume=folder, **options), (), {})
    assert (folder / "record.jsonl").read_bytes() == kept
    assert jobs == []


def test_an_automatic_device_is_the_one_that_the_run_began_on(tmp_path: Path, jobs: list[Any]) -> None:
    folder = written(tmp_path, START.model_copy(update={"device": "cuda"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("claimbench.environment.cuda_devices", lambda: [])
        patch.setattr(run, "gpu_lock", lambda _device: open(os.devnull))  # noqa: SIM115, PTH123 - a context to enter
        measure(RunOptions(resume=folder), (), {})
    assert {job.device for job in jobs} == {"cuda"}
    assert read_record(folder).rows[1].device == "cuda"


def samples(process: int, size: int = 0) -> Samples:
    series = {name: [1.0] for name in ("before", "before" + CONTROL)}
    return Samples(
        case="slow.timed", params={"size": size}, process=process, calls=dict.fromkeys(series, 1),
        clocks={"wall": series}, rounds=1, seconds=1.0, reached_precision=True, precision=0.1, control="before",
    )  # fmt: skip


def failure(stage: str, process: int, size: int) -> Failure:
    return Failure(case="slow.timed", params={"size": size}, stage=stage, reason="r", process=process)


def test_jobs_are_told_what_their_own_process_had_finished_or_died_of(tmp_path: Path, jobs: list[Any]) -> None:
    folder = written(
        tmp_path,
        START,
        Value(case="slow.timed", params={"size": 0}, name="ops", value=1.0),
        Value(case="slow.timed", params={"size": 0}, name="bytes", value=1.0),
        failure("values", 0, 1),
        samples(0),
        failure("gate", 0, 2),
        failure("time", 0, 3),
        Done(job="time slow 3/7"),
        samples(1),
        Done(job="memory slow.timed after size=0 2/3"),
    )
    measure(RunOptions(resume=folder), (), {})
    skips = {job.process: job.skip for job in jobs if job.mode == "time"}
    assert skips == {
        0: ["slow.timed|values|size=0", "slow.timed|values|size=1", "slow.timed|size=0", "slow.timed|size=3"],
        1: ["slow.timed|size=0"],
        3: [], 4: [], 5: [], 6: [],
    }  # fmt: skip
    assert [job.process for job in jobs if job.mode == "memory"] == [0, 2]
    assert {job.seed for job in jobs} == {5}


def test_a_torn_last_line_is_taken_off_before_going_on(tmp_path: Path, jobs: list[Any]) -> None:
    folder = written(tmp_path, START, samples(0), torn='{"kind":"samp')
    measure(RunOptions(resume=folder), (), {})
    record = read_record(folder)
    assert record.broken == []
    assert record.complete
    assert [row.kind for row in record.rows[:3]] == ["start", "samples", "start"]


def test_a_folder_without_a_record_is_begun_anew(tmp_path: Path, jobs: list[Any]) -> None:
    folder = measure(RunOptions(resume=tmp_path / "new", device="cpu"), (), {})
    assert folder == tmp_path / "new"
    assert not read_record(folder).start.resumed


def test_a_run_that_was_killed_before_its_first_line_is_begun_anew(tmp_path: Path, jobs: list[Any]) -> None:
    (tmp_path / "record.jsonl").touch()
    measure(RunOptions(resume=tmp_path, device="cpu"), (), {})
    assert [row.resumed for row in read_record(tmp_path).of(Start)] == [False]


def test_a_file_that_is_no_record_is_not_added_to(tmp_path: Path, jobs: list[Any]) -> None:
    (tmp_path / "record.jsonl").write_text("shopping list\n")
    with pytest.raises(RecordError, match="is not a record"):
        measure(RunOptions(resume=tmp_path, device="cpu"), (), {})
    assert (tmp_path / "record.jsonl").read_text() == "shopping list\n"


def test_a_resumed_run_is_about_the_claims_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path, START.model_copy(update={"claims": ["boolean.update.sgd_before"]}))
    asked: list[Any] = []
    monkeypatch.setattr(run, "find_spec", lambda _name: True)
    monkeypatch.setattr(run, "measure", lambda _options, claims, *_rest: asked.extend(claims))
    run.run_claims(RunOptions(resume=folder))
    assert [claim.id for claim in asked] == ["boolean.update.sgd_before"]
