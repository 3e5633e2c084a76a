"""Whole runs in real processes: whatever dies is a row, and everything else is measured."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from claimbench import ledger, run
from claimbench.errors import LedgerError, RunError
from claimbench.protocol import CasePlan, Plan
from claimbench.record import Done, End, Environment, Failure, Gate, Probe, Record, Samples, read_record
from claimbench.run import (
    CAREFUL_PROCESSES,
    COMPILE_REPEATS,
    MEMORY_REPEATS,
    PROCESSES,
    RunOptions,
    chosen_claims,
    measure,
    run_claims,
)
from claimbench.supervisor import Outcome, Supervisor

PLANTED = "claimbench.cases.planted"

HUNGRY = """
import resource
from pathlib import Path

import numpy as np

from claimbench.case import Case, Workload


def _in_use():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _takes_all(_inputs):
    former = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_in_use() + (256 << 20), former[1]))
    try:
        return float(np.ones(1 << 28)[0])  # 2 GiB where 256 MiB are left
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


def _setup(_params):
    return Workload(
        inputs=lambda _seed: 1.0,
        variants={"before": lambda _x: 1.0, "after": lambda _x: float(np.ones(8)[0]), "greedy": _takes_all},
    )


CASES = (Case("hungry.memory", "t", "host", _setup, ({"size": 1},), ("before", "after", "greedy"), budget=0.3),)
"""

DEATHS = {
    "planted.segfault": "the worker died of SIGSEGV",
    "planted.killed": "the worker died of SIGKILL (out of memory, or ended by someone else)",
    "planted.hang": "the worker hung and was ended after its limit of 10 s",
    "planted.leaves": "the worker stopped early without saying that it had finished",
    "planted.setup": "RuntimeError: planted: this setup always fails",
}

RIGHT = ("planted.prints", "planted.wrong", "planted.sleep")


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    """One quick run over everything that goes wrong, beside what goes right."""
    folder = tmp_path_factory.mktemp("survival")
    (folder / "hungry.py").write_text(HUNGRY)
    scratch = folder / "tmp"
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        patch.setattr(tempfile, "tempdir", str(scratch))
        options = RunOptions(out=folder / "record", device="cpu", quick=True)
        cases = {PLANTED: [*DEATHS, *RIGHT], "hungry": ["hungry.memory"], "nowhere": ["nowhere.case"]}
        return read_record(measure(options, (), cases, ["resu"], limit=10)), scratch


def reasons(record: Record, case: str) -> list[str]:
    return [row.reason for row in record.of(Failure) if row.case == case]


def test_every_death_is_one_row_with_its_reason(survived: tuple[Record, Path]) -> None:
    record, _ = survived
    for case, reason in DEATHS.items():
        assert reasons(record, case) == [reason]
        assert all(row.params == {"size": 48} for row in record.of(Failure) if row.case == case)


def test_everything_else_is_measured_exactly_once(survived: tuple[Record, Path]) -> None:
    record, _ = survived
    assert sorted(row.case for row in record.of(Samples)) == sorted([*RIGHT, "hungry.memory"])
    assert record.complete
    assert record.broken == []


def test_what_a_worker_prints_reaches_no_record(survived: tuple[Record, Path]) -> None:
    record, _ = survived
    assert reasons(record, "planted.prints") == []


def test_memory_that_really_runs_out_is_a_row_of_its_variant(survived: tuple[Record, Path]) -> None:
    record, _ = survived
    (failure,) = [row for row in record.of(Failure) if row.case == "hungry.memory"]
    assert (failure.variant, failure.stage) == ("greedy", "gate")
    assert "MemoryError" in failure.reason
    (samples,) = [row for row in record.of(Samples) if row.case == "hungry.memory"]
    assert set(samples.calls) == {"before", "after", "before#control"}


def test_wrong_variants_are_timed_beside_the_right_ones(survived: tuple[Record, Path]) -> None:
    record, _ = survived
    wrong = {row.variant for row in record.of(Gate) if row.case == "planted.wrong" and not row.equal}
    assert wrong == {"nan", "shape", "parts", "off", "mutates", "too_rough"}
    (samples,) = [row for row in record.of(Samples) if row.case == "planted.wrong"]
    assert wrong < set(samples.calls)
    assert [row.variant for row in record.of(Failure) if row.case == "planted.wrong"] == ["raises"]


def test_what_cannot_be_imported_is_a_row(survived: tuple[Record, Path]) -> None:
    record, _ = survived
    rows = {row.package: row.reason for row in record.of(Failure) if not row.case}
    assert rows == {
        "nowhere": "ModuleNotFoundError: No module named 'nowhere'",
        "resu": "resu is not installed here; pip install './packages/resu'",
    }


def test_the_record_says_what_was_asked_and_on_what(survived: tuple[Record, Path]) -> None:
    record, scratch = survived
    start = record.start
    assert (start.device, start.quick, start.processes, start.resumed) == ("cpu", True, 1, False)
    assert set(start.code) == {*DEATHS, *RIGHT, "hungry.memory"}
    parent, *workers = record.of(Environment)
    assert parent.where == "parent"
    assert parent.facts["versions"]["numpy"]
    assert {row.where for row in workers} == {"host"}
    assert {row.name for row in record.of(Probe)} == {"copy", "matmul"}
    assert record.done() == {"time planted 1/1", "time hungry 1/1"}
    assert list(scratch.iterdir()) == []


def plan(name: str, **fields: Any) -> Plan:
    values = {"id": name, "points": [{"size": 1}], "budget": 1.0, "memory": [], "compile": [], "code": "abc"}
    return Plan(cases=[CasePlan.model_validate(values | fields)], facts={})


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """No process is started: plans are given, and jobs are only listed."""
    jobs: list[Any] = []
    singles = [({"size": 1}, "after")]
    plans = {"m.one": plan("one.c", memory=singles, compile=singles), "m.two": plan("two.c")}
    monkeypatch.setattr(run, "_plan", lambda _supervisor, options, _cases: (options.device, plans, []))

    def do(_self: Supervisor, job: Any, limit: float, outcome: Outcome) -> Outcome:
        jobs.append((job, limit))
        return outcome

    monkeypatch.setattr(Supervisor, "run", do)
    return jobs


def options(folder: Path, **fields: Any) -> RunOptions:
    return replace(RunOptions(out=folder / "run", device="cpu"), **fields)


def test_packages_take_turns_and_single_jobs_follow_the_first_process(
    tmp_path: Path, without_workers: list[Any]
) -> None:
    record = read_record(measure(options(tmp_path), (), {}))
    names = [row.job for row in record.of(Done)]
    timed = [f"time {name} {i + 1}/{PROCESSES}" for i in range(PROCESSES) for name in ("one", "two")]
    repeats = {"memory": MEMORY_REPEATS, "compile": COMPILE_REPEATS}
    single = [f"{mode} one.c after size=1 {i + 1}/{count}" for mode, count in repeats.items() for i in range(count)]
    assert names == timed[:2] + single + timed[2:]
    assert [job.process for job, _ in without_workers if job.mode == "time"][:3] == [0, 0, 1]
    assert len({job.seed for job, _ in without_workers}) == 1


@pytest.mark.parametrize(
    ("changes", "processes"),
    [({}, PROCESSES), ({"careful": True}, CAREFUL_PROCESSES), ({"quick": True}, 1)],
)
def test_how_many_processes_repeat_a_measurement(
    tmp_path: Path, without_workers: list[Any], changes: dict[str, bool], processes: int
) -> None:
    measure(options(tmp_path, **changes), (), {})
    modes = [job.mode for job, _ in without_workers]
    assert modes.count("time") == 2 * processes
    assert modes.count("memory") == (1 if changes.get("quick") else MEMORY_REPEATS)
    assert modes.count("compile") == (0 if changes.get("quick") else COMPILE_REPEATS)


def test_a_worker_has_more_time_than_its_budgets(tmp_path: Path, without_workers: list[Any]) -> None:
    measure(options(tmp_path), (), {})
    assert all(limit >= 2 * 1.0 for _, limit in without_workers)
    measure(options(tmp_path, out=tmp_path / "other"), (), {}, limit=5)
    assert {limit for _, limit in without_workers[-3:]} == {5}


def test_a_record_that_is_there_is_not_overwritten(tmp_path: Path, without_workers: list[Any]) -> None:
    folder = measure(options(tmp_path), (), {})
    kept = (folder / "record.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"has one; choose another, or --resume it"):
        measure(options(tmp_path), (), {})
    assert (folder / "record.jsonl").read_bytes() == kept


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path, without_workers: list[Any]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match=r"cannot be used \(.+\); give --out FOLDER"):
        measure(options(tmp_path, out=tmp_path / "file" / "run"), (), {})
    with pytest.raises(RunError, match=r"cannot be used"):
        measure(options(tmp_path, out=tmp_path / "file"), (), {})
    assert without_workers == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights and take them back")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_without_permission_is_refused(tmp_path: Path, without_workers: list[Any], mode: int) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    os.chown(closed, 65534, 65534)
    closed.chmod(mode)
    for parent in (tmp_path, *tmp_path.parents[:2]):  # pytest's own folders are closed to others
        parent.chmod(0o755)
    (tmp_path / "scratch").mkdir(mode=0o777)
    (tmp_path / "scratch").chmod(0o777)
    folder, former = run._folder, tempfile.tempdir
    tempfile.tempdir = str(tmp_path / "scratch")
    os.seteuid(65534)
    try:
        with pytest.raises(RunError, match=r"cannot be used \(Permission denied\)"):
            folder(options(tmp_path, out=closed / "run"), None, "cpu")
    finally:
        os.seteuid(0)
        tempfile.tempdir = former


def test_a_signal_to_stop_leaves_a_valid_record(
    tmp_path: Path, without_workers: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGTERM)

    def stopped(_self: Supervisor, _job: Any, _limit: float, _outcome: Outcome) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not taken for a stop")

    monkeypatch.setattr(Supervisor, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        measure(options(tmp_path), (), {})
    record = read_record(tmp_path / "run")
    assert not record.complete
    assert [row.reason for row in record.of(End)] == ["stopped before its end"]
    assert record.done() == set()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_progress_counts_jobs(tmp_path: Path, without_workers: list[Any]) -> None:
    said: list[tuple[int, int, str]] = []
    measure(options(tmp_path, quick=True), (), {}, progress=lambda *what: said.append(what))
    assert said[0] == (0, 1, "looking at what there is to do")
    assert [(done, total) for done, total, _ in said[1:]] == [(1, 3), (2, 3), (3, 3)]
    assert len(without_workers) == 3


def test_an_automatic_device_falls_back_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claimbench.environment.cuda_devices", lambda: [{"name": "Imaginary"}])
    asked = []

    def answer(_self: Supervisor, job: Any, _limit: float, outcome: Outcome) -> Outcome:
        asked.append(job.device)
        outcome.plan = plan("one.c") if job.device == "cpu" else None
        return outcome

    monkeypatch.setattr(Supervisor, "run", answer)
    device, plans, failed = run._plan(Supervisor(tmp_path), options(tmp_path, device="auto"), {"m.one": ["one.c"]})
    assert (device, list(plans), failed, asked) == ("cpu", ["m.one"], [], ["cuda", "cpu"])
    device, plans, failed = run._plan(Supervisor(tmp_path), options(tmp_path, device="cuda"), {"m.one": ["one.c"]})
    assert (device, plans) == ("cuda", {})


def test_claims_are_chosen_by_package_and_beginning() -> None:
    every = {claim.id for claim in ledger.load_claims() if claim.duration != "long"}
    assert {claim.id for claim in chosen_claims(RunOptions())} == every
    chosen = chosen_claims(RunOptions(packages=("boolean_nca_cc",), claims=("boolean.update",)))
    assert chosen
    assert all(claim.id.startswith("boolean.update.") for claim in chosen)
    with pytest.raises(RunError, match=r"a package is one of boolean_nca_cc, .* got 'boolean'"):
        chosen_claims(RunOptions(packages=("boolean",)))
    with pytest.raises(LedgerError, match="no claim is called"):
        chosen_claims(RunOptions(claims=("boolean.upd",)))


def test_a_run_of_packages_that_are_all_absent_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find_spec", lambda _name: None)
    with pytest.raises(RunError, match=r"pip install './packages/boolean_nca_cc'"):
        run_claims(RunOptions(packages=("boolean_nca_cc",)))


FULL = f"""
import resource, sys
from pathlib import Path
from claimbench.errors import ClaimbenchError
from claimbench.run import RunOptions, measure

def progress(done, total, what):
    if total > 1 or "look" not in what:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # a disk with room for the first lines only

try:
    options = RunOptions(out=Path(sys.argv[1]), device="cpu", quick=True)
    measure(options, (), {{"{PLANTED}": ["planted.sleep"]}}, (), progress)
except ClaimbenchError as error:
    sys.exit(f"refused: {{error}}")
"""


def test_a_full_disk_is_a_clear_error_and_the_record_stays_readable(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.startswith("refused: a run writes its record and")
    assert "File too large" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    record = read_record(tmp_path / "run")
    assert record.broken == []
    assert not record.complete
