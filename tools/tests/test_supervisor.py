"""The parent's side, driven by small programs that behave as badly as a worker can."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from claimbench import supervisor
from claimbench.protocol import Job
from claimbench.record import CONTROL, Environment, Failure, Gate, Samples, Value
from claimbench.supervisor import MAX_RESTARTS, Outcome, Supervisor, gpu_lock

LONG = 60.0
"""A limit that no test reaches."""

Play = Callable[..., Outcome]

NAMES = ("before", "after", "before" + CONTROL)
SERIES = {name: [1.0, 2.0] for name in NAMES}


def samples(point: int = 1, **changes: Any) -> dict[str, Any]:
    fields = {
        "kind": "samples", "case": "c", "params": {"size": point}, "process": 0, "calls": dict.fromkeys(NAMES, 1),
        "clocks": {"wall": SERIES, "process": SERIES}, "rounds": 1, "seconds": 1.0, "reached_precision": True,
        "precision": 0.01, "control": "before",
    }  # fmt: skip
    return fields | changes


def begin(point: int = 1, stage: str = "time", **changes: Any) -> dict[str, Any]:
    return {"kind": "begin", "stage": stage, "case": "c", "params": {"size": point}} | changes


def value(point: int = 1, **changes: Any) -> dict[str, Any]:
    return {"kind": "value", "case": "c", "params": {"size": point}, "name": "n", "value": 1.0} | changes


FINISH = {"kind": "finish"}

PREAMBLE = """#!{python} -IS
import json, os, signal, sys, time
job = json.load(open(sys.argv[3]))
results = open(job["results"], "a")
def say(*rows):
    for row in rows:
        results.write(row if isinstance(row, str) else json.dumps(row) + "\\n")
    results.flush()
"""


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run a job by a worker whose program is given."""

    def run(program: str, *, limit: float = LONG, heartbeat: Any = None, outcome: Any = None, **job: Any) -> Outcome:
        scratch = Path(tempfile.mkdtemp(dir=tmp_path))
        script = scratch / "worker"
        script.write_text(PREAMBLE.format(python=sys.executable) + program)
        script.chmod(0o755)
        monkeypatch.setattr(supervisor, "sys", SimpleNamespace(executable=str(script)))
        watcher = Supervisor(scratch, heartbeat) if heartbeat else Supervisor(scratch)
        fields = {"mode": "time", "module": "claimbench.cases.boolean_nca_cc", "cases": ["c"], "results": Path()}
        return watcher.run(Job.model_validate(fields | job), limit, outcome or Outcome())

    return run


def failures(outcome: Outcome) -> list[Failure]:
    return [row for row in outcome.rows if isinstance(row, Failure)]


def test_the_rows_of_a_worker_that_finishes_are_kept_in_their_order(play: Play) -> None:
    outcome = play(f"say({begin()!r}, {value()!r}, {begin()!r}, {samples()!r}, {FINISH!r})")
    assert outcome.finished
    assert [row.kind for row in outcome.rows] == ["value", "samples"]


def test_a_plan_is_an_answer_and_no_row(play: Play) -> None:
    plan = {"kind": "plan", "cases": [], "facts": {"host": 1}}
    outcome = play(f"say({plan!r}, {FINISH!r})", mode="plan")
    assert outcome.plan is not None
    assert outcome.plan.facts == {"host": 1}
    assert outcome.rows == []


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "died of SIGKILL (out of memory, or ended by someone else)"),
        ("os.kill(os.getpid(), 40)", "died of signal 40"),
        ("os._exit(3)", "stopped with exit status 3"),
        ("os._exit(0)", "stopped early without saying that it had finished"),
        ("raise ValueError('no')", "stopped with exit status 1"),
    ],
)
def test_how_a_worker_died_is_said_with_its_place(play: Play, ending: str, reason: str) -> None:
    outcome = play(f"say({begin(2)!r})\nprint('last words', flush=True)\n{ending}", mode="memory")
    (failure,) = failures(outcome)
    assert not outcome.finished
    assert reason in failure.reason
    assert (failure.case, failure.params, failure.stage) == ("c", {"size": 2}, "time")
    assert failure.package == "boolean_nca_cc"
    assert failure.detail.startswith("last words\n")


def test_a_worker_that_hangs_is_ended_at_its_limit(play: Play, tmp_path: Path) -> None:
    program = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nsay({begin()!r})\ntime.sleep(1000)"
    outcome = play(program, limit=1.0, mode="memory")
    assert [f.reason for f in failures(outcome)] == ["the worker hung and was ended after its limit of 1 s"]
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_worker_that_hangs_after_its_last_row_is_not_finished(play: Play) -> None:
    outcome = play(f"say({begin()!r}, {samples()!r}, {FINISH!r})\ntime.sleep(1000)", limit=1.0, mode="memory")
    assert not outcome.finished
    assert [row.kind for row in outcome.rows] == ["samples", "failure"]


@pytest.mark.parametrize("ending", ["", "time.sleep(1000)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_children_that_are_left_behind_are_ended(play: Play, tmp_path: Path, ending: str) -> None:
    program = f"""
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
open({str(tmp_path / "pid")!r}, "w").write(str(child))
say({begin()!r}, {FINISH!r})
{ending}
"""
    play(program, limit=1.5, mode="memory")
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child lives on"
        time.sleep(0.02)


def test_what_a_worker_prints_is_no_row_whatever_it_looks_like(play: Play) -> None:
    outcome = play(f"print(json.dumps({samples()!r}), flush=True)\nsay({begin()!r}, {FINISH!r})")
    assert outcome.finished
    assert outcome.rows == []


def test_only_the_end_of_what_it_printed_is_kept(play: Play) -> None:
    outcome = play(f"say({begin()!r})\nprint('x' * 100000 + 'the end', flush=True)\nos._exit(1)", mode="memory")
    detail = failures(outcome)[0].detail
    assert len(detail) <= 4000
    assert detail.endswith("the end\n")


def lie(clock: str, name: str, values: list[Any]) -> dict[str, Any]:
    clocks = {c: dict(SERIES) for c in ("wall", "process")}
    clocks[clock][name] = values
    return samples(clocks=clocks)


@pytest.mark.parametrize(
    "line",
    [
        "not a row at all",
        '{"kind": "surprise"}',
        "[1, 2",
        "",
        "\x00\x01",
        lie("wall", "after", [1.0, -1.0]),
        lie("wall", "after", [1.0, float("nan")]),
        lie("process", "before", [1.0, float("inf")]),
        lie("wall", "after", [1.0]),
        samples(case="other"),
        samples(process=3),
        value(case="other"),
        value(process=1),
        value(case=""),
        begin(case="other"),
        {"kind": "done", "job": "time boolean_nca_cc 1/7"},
        {"kind": "end", "complete": True, "seconds": 1.0},
        {"kind": "start", "run": "r", "created": "c", "claims": [], "packages": [], "device": "cpu", "quick": False,
         "processes": 1, "seed": 0, "claimbench": "0", "commit": "c", "dirty": None},
        {"kind": "memory", "case": "c", "params": {}, "variant": "v", "peak_bytes": -5, "method": "m"},
    ],
)  # fmt: skip
def test_garbage_and_lies_are_counted_and_not_believed(play: Play, line: str | dict[str, Any]) -> None:
    said = line + "\n" if isinstance(line, str) else json.dumps(line) + "\n"
    outcome = play(f"say({begin(1)!r}, {said!r}, {samples(1)!r}, {begin(2)!r}, {samples(2)!r}, {FINISH!r})")
    assert outcome.finished
    assert [row.params["size"] for row in outcome.rows if isinstance(row, Samples)] == [1, 2]
    (failure,) = failures(outcome)
    assert failure.reason == "1 lines of its results were no rows of this job"
    assert failure.detail == said.strip("\n")[:400]
    assert failure.params == {"size": 1}  # where it was found, not where the worker ended
    assert len(outcome.rows) == 3


def test_a_torn_last_line_is_garbage_and_the_rest_is_kept(play: Play) -> None:
    torn = json.dumps(samples(2))[:50]
    outcome = play(f"say({begin()!r}, {samples(1)!r}, {torn!r})\nos._exit(1)", mode="memory")
    assert [row.kind for row in outcome.rows] == ["samples", "failure", "failure"]
    assert failures(outcome)[0].detail == torn


def test_rows_that_arrive_in_pieces_are_put_together(play: Play) -> None:
    line = json.dumps(samples()) + "\n"
    program = f"""
say({begin()!r})
for start in range(0, {len(line)}, 60):
    say({line!r}[start:start + 60])
    time.sleep(0.03)
say({FINISH!r})
"""
    outcome = play(program)
    assert outcome.finished
    assert [row.kind for row in outcome.rows] == ["samples"]


DIES_AT = """
for point in (1, 2, 3, 4):
    for stage in ("values", "time"):
        name = "c|" + ("values|" if stage == "values" else "") + f"size={{point}}"
        if name in job["skip"]:
            continue
        say({{"kind": "begin", "stage": stage, "case": "c", "params": {{"size": point}}}})
        if (stage, point) in {deaths}:
            os.kill(os.getpid(), signal.SIGSEGV)
        say(dict({value}, params={{"size": point}}) if stage == "values" else dict({samples}, params={{"size": point}}))
say({{"kind": "finish"}})
"""


def test_the_rest_is_measured_once_past_what_kills_the_worker(play: Play) -> None:
    deaths = [("time", 2), ("values", 3)]
    outcome = play(DIES_AT.format(deaths=deaths, value=value(), samples=samples()))
    assert outcome.finished
    assert [row.params["size"] for row in outcome.rows if isinstance(row, Samples)] == [1, 3, 4]
    assert [row.params["size"] for row in outcome.rows if isinstance(row, Value)] == [1, 2, 4]
    assert [(f.stage, f.params["size"]) for f in failures(outcome)] == deaths


def test_what_was_done_before_is_not_done_again(play: Play) -> None:
    program = DIES_AT.format(deaths=[("time", 3)], value=value(), samples=samples())
    outcome = play(program, skip=["c|size=1", "c|values|size=1", "c|values|size=2"])
    assert [row.params["size"] for row in outcome.rows if isinstance(row, Samples)] == [2, 4]
    assert [row.params["size"] for row in outcome.rows if isinstance(row, Value)] == [3, 4]


def test_a_job_that_dies_at_every_turn_is_given_up_and_says_so(play: Play) -> None:
    program = f"point = len(job['skip'])\nsay(dict({begin()!r}, params={{'size': point}}))\nos.kill(os.getpid(), 11)"
    outcome = play(program)
    assert not outcome.finished
    reasons = [f.reason for f in failures(outcome)]
    assert len(reasons) == MAX_RESTARTS + 2
    assert reasons[-1] == f"given up after {MAX_RESTARTS + 1} workers died; what they had left was not measured"
    assert failures(outcome)[-1].case == ""


def test_a_worker_that_dies_before_any_case_is_not_started_again(play: Play) -> None:
    outcome = play("os._exit(1)")
    assert [(f.stage, f.case) for f in failures(outcome)] == [("worker", "")]


def test_rows_are_kept_as_soon_as_their_stage_is_over(play: Play, tmp_path: Path) -> None:
    go = tmp_path / "go"
    program = f"""
say({begin(1)!r}, {samples(1)!r}, {begin(2)!r}, {samples(2)!r})
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
say({FINISH!r})
"""
    kept: list[Any] = []

    def keep(row: Any) -> None:
        # The worker waits for this: a row that came only at the end would never come.
        kept.append(row.params["size"])
        go.touch()

    assert play(program, outcome=Outcome(keep=keep)).finished
    assert kept == [1, 2]


def test_a_stop_ends_the_worker_and_keeps_whole_stages_only(play: Play, tmp_path: Path) -> None:
    gate = Gate(case="c", params={"size": 2}, variant="after", against="before", equal=True).model_dump()
    program = f"""
open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()))
say({begin(1)!r}, {samples(1)!r}, {begin(2)!r}, {gate!r})
time.sleep(1000)
"""
    outcome = Outcome()

    def stop(what: str) -> None:
        if what == "time c size=2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(program, heartbeat=stop, outcome=outcome)
    assert [row.params["size"] for row in outcome.rows] == [1]
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def told(play: Play, **job: Any) -> dict[str, Any]:
    facts = '{"kind": "environment", "where": "host", "facts": {"environ": dict(os.environ), "job": job}}'
    outcome = play(f"say({begin(stage='import', case='')!r}, {facts}, {FINISH!r})", **job)
    (row,) = outcome.rows
    assert isinstance(row, Environment)
    return row.facts


def test_a_worker_never_touches_a_users_compile_caches(
    play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/a/users/cache")
    for mode in ("time", "memory", "compile"):
        environ = told(play, mode=mode)["environ"]
        for name in ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            assert environ[name].startswith(str(tmp_path))


def test_first_calls_are_made_with_an_empty_cache_and_the_rest_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = Supervisor(tmp_path)
    monkeypatch.setattr(supervisor, "_end_group", lambda _process: None)
    seen: dict[str, list[str]] = {}

    class Finished:
        returncode = 0

        def __init__(self, command: list[str], *, env: dict[str, str], **_: Any) -> None:
            job = Job.model_validate_json(Path(command[-1]).read_text())
            seen.setdefault(job.mode, []).append(env["JAX_COMPILATION_CACHE_DIR"])
            job.results.write_text('{"kind": "finish"}\n')

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("claimbench.supervisor.subprocess.Popen", Finished)
    for mode in ("time", "compile", "compile", "memory"):
        job = Job.model_validate({"mode": mode, "module": "m", "cases": ["c"], "results": Path()})
        assert watcher.run(job, LONG, Outcome()).finished
    assert len(set(seen["compile"])) == 2
    assert seen["time"] == seen["memory"]
    assert set(seen["time"]).isdisjoint(seen["compile"])


def test_a_cpu_worker_sees_no_gpu_and_a_gpu_worker_does(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    on_cpu, on_gpu = (told(play, device=device)["environ"] for device in ("cpu", "cuda"))
    assert (on_cpu["CUDA_VISIBLE_DEVICES"], on_cpu["JAX_PLATFORMS"]) == ("", "cpu")
    assert on_gpu["CUDA_VISIBLE_DEVICES"] == "3"
    assert "JAX_PLATFORMS" not in on_gpu


def test_a_worker_is_told_its_parent(play: Play) -> None:
    assert told(play)["job"]["parent"] == os.getpid()


def test_one_gpu_worker_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def taken() -> bool:
        with (tmp_path / "claimbench-gpu.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with gpu_lock("cuda"):
        assert taken()
    assert not taken()
    second_has_it = threading.Event()

    def second() -> None:
        with gpu_lock("cuda"):
            second_has_it.set()

    with gpu_lock("cuda"):
        thread = threading.Thread(target=second)
        thread.start()
        assert not second_has_it.wait(0.2)
    thread.join(10)
    assert second_has_it.is_set()


def test_the_cpu_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with gpu_lock("cpu"), gpu_lock("cpu"):
        assert list(tmp_path.iterdir()) == []


def test_signals_have_names() -> None:
    assert signal.SIGSEGV.name in supervisor._why(-signal.SIGSEGV, timed_out=False, limit=1)
