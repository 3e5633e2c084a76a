"""The parent's side of a worker: start it, watch it, end it, and believe only rows that can be true."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claimbench.errors import RecordError
from claimbench.protocol import Begin, Finish, Job, Plan, parse_line
from claimbench.record import Environment, Failure, Probe, Samples, parse_row, point_name

__all__ = ["Outcome", "Supervisor", "gpu_lock"]

MAX_RESTARTS = 5
"""A job whose workers die more often than this is given up."""


@dataclass
class Outcome:
    """What came of a job.

    Attributes:
        rows: Rows that the record may keep, failures included.
        plan: Answer to a `plan` job.
        finished: Whether a worker came to the end of it.
        keep: Told of each row as it arrives.
    """

    rows: list[Any] = field(default_factory=list)
    plan: Plan | None = None
    finished: bool = False
    keep: Callable[[Any], None] = lambda _row: None

    def add(self, row: Any) -> None:
        """Take in a row."""
        self.rows.append(row)
        self.keep(row)


@contextmanager
def gpu_lock(device: str) -> Iterator[None]:
    """Hold the machine's one place for a GPU worker while measuring.

    Args:
        device: Only `cuda` waits for the place.
    """
    if device != "cuda":
        yield
        return
    path = Path(tempfile.gettempdir()) / "claimbench-gpu.lock"
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Supervisor:
    """Runs jobs, each in a process group of its own.

    Args:
        scratch: Folder for jobs, results, output and compile caches of this run; temporary.
        heartbeat: Called several times a second with what the worker last began.
    """

    def __init__(self, scratch: Path, heartbeat: Callable[[str], None] = lambda _what: None) -> None:
        self.scratch, self.heartbeat = scratch, heartbeat
        self._number = 0

    def run(self, job: Job, limit: float, outcome: Outcome) -> Outcome:
        """Run a job to its end, past the points that kill its workers.

        Args:
            job: The job; its `results` and `parent` are set here.
            limit: Seconds for one worker.
            outcome: Added to as soon as a stage of a worker is over, so that a run that is stopped keeps what was
                finished, and nothing of what was not.

        Returns:
            The outcome. A point whose worker died is a failure row; the rest is run again without it.
        """
        skip = list(job.skip)
        for _ in range(MAX_RESTARTS + 1):
            begun = self._once(job.model_copy(update={"skip": skip}), limit, outcome)
            if begun is None:
                break
            skip += [f"{row.case}|{point_name(row.params)}" for row in outcome.rows if isinstance(row, Samples)]
            # What was counted stays counted, and what killed the worker is not tried again.
            skip += [f"{row.case}|values|{point_name(row.params)}" for row in outcome.rows if row.kind == "value"]
            if not begun.case or job.mode != "time":
                break
            middle = "values|" if begun.stage == "values" else ""
            skip.append(f"{begun.case}|{middle}{point_name(begun.params)}")
        else:
            reason = f"given up after {MAX_RESTARTS + 1} workers died; what they had left was not measured"
            outcome.add(_failure(job, Begin(stage="worker"), reason, ""))
        return outcome

    def _once(self, job: Job, limit: float, outcome: Outcome) -> Begin | None:
        """One worker. Returns what it had begun when it died, or None where it finished."""
        self._number += 1
        base = self.scratch / f"job-{self._number}"
        job = job.model_copy(update={"results": base.with_suffix(".jsonl"), "parent": os.getpid()})
        base.with_suffix(".json").write_text(job.model_dump_json(), encoding="utf-8")
        job.results.touch()
        begun, reader = Begin(stage="worker"), _Reader(job)
        with base.with_suffix(".out").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "claimbench.worker", str(base.with_suffix(".json"))],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env=self._environment(job),
            )  # fmt: skip
            until, timed_out = time.monotonic() + limit, False
            try:
                while process.poll() is None:
                    reader.read(outcome)
                    self.heartbeat(reader.words())
                    if time.monotonic() > until:
                        timed_out = True
                        _end_group(process)
                    time.sleep(0.05)
            except BaseException:
                _end_group(process)
                reader.read(outcome)
                raise
            _end_group(process)  # a worker that ended may have left children behind
        reader.read(outcome, last=True)
        begun = reader.begun
        if reader.garbage:
            reason = f"{reader.garbage} lines of its results were no rows of this job"
            outcome.add(_failure(job, reader.garbage_at, reason, reader.example))
        if process.returncode == 0 and reader.finished and not timed_out:
            outcome.finished = True
            return None
        outcome.add(_failure(job, begun, _why(process.returncode, timed_out, limit), _tail(base.with_suffix(".out"))))
        return begun

    def _environment(self, job: Job) -> dict[str, str]:
        """The worker's environment: compile caches of this run only, so that a user's are never touched."""
        caches = self.scratch / ("cold-" + str(self._number) if job.mode == "compile" else "caches")
        environment = dict(os.environ)
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        if job.device == "cpu":
            environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if job.mode == "memory":
            # Large blocks go straight to the kernel and back, so that the high-water mark means what is in use.
            environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        # The worker finds claimbench, and what is under test, where its parent does.
        paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        return environment


class _Reader:
    """Reads what a worker has written so far, and keeps only what can be true.

    The rows of a stage are kept when it is over, or when the worker died in it: a stage that was stopped by the user
    leaves nothing, and is done again as a whole when the run is resumed.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.begun = Begin(stage="worker")
        self.finished, self.garbage, self.example, self.garbage_at = False, 0, "", self.begun
        self._offset, self._rest = 0, b""
        self._stage: list[Any] = []

    def words(self) -> str:
        """What the worker began last, for a progress bar."""
        return f"{self.begun.stage} {self.begun.case} {point_name(self.begun.params)}".strip()

    def read(self, outcome: Outcome, *, last: bool = False) -> None:
        """Take in new whole lines; with `last` the worker is gone, and a torn line counts as garbage."""
        with self.job.results.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._take(line.decode(errors="replace"), outcome)
        if last and self._rest:
            self._refuse(self._rest.decode(errors="replace"))
            self._rest = b""
        if last:
            self._keep_stage(outcome)

    def _keep_stage(self, outcome: Outcome) -> None:
        rows, self._stage = self._stage, []
        for row in rows:
            outcome.add(row)

    def _refuse(self, line: str) -> None:
        if not self.garbage:
            self.example, self.garbage_at = line[:400], self.begun
        self.garbage += 1

    def _asked(self, row: Any) -> bool:
        """Whether a row is of a case and a process that this worker was asked about.

        What was asked and how it ended (start, done, end) has no case, and is the parent's to say.
        """
        case = getattr(row, "case", "")
        asked = case in self.job.cases or (not case and isinstance(row, Environment | Failure | Probe))
        return asked and getattr(row, "process", self.job.process) == self.job.process

    def _take(self, line: str, outcome: Outcome) -> None:
        mark = parse_line(line)
        if isinstance(mark, Begin) and mark.case and mark.case not in self.job.cases:
            self._refuse(line)
        elif isinstance(mark, Begin | Finish):
            self._keep_stage(outcome)
            self.begun = mark if isinstance(mark, Begin) else self.begun
            self.finished |= isinstance(mark, Finish)
        elif isinstance(mark, Plan):
            outcome.plan = mark
        else:
            try:
                row = parse_row(line)
            except RecordError:
                self._refuse(line)
                return
            if self._asked(row):
                self._stage.append(row)
            else:
                self._refuse(line)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a worker and everything it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(path: Path, length: int = 4000) -> str:
    """The end of what a worker printed, however much that was."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - length))
        return file.read().decode(errors="replace")


def _why(code: int, timed_out: bool, limit: float) -> str:
    if timed_out:
        return f"the worker hung and was ended after its limit of {limit:.0f} s"
    if code < 0:
        name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
        hint = " (out of memory, or ended by someone else)" if name == "SIGKILL" else ""
        return f"the worker died of {name}{hint}"
    if code == 0:
        return "the worker stopped early without saying that it had finished"
    return f"the worker stopped with exit status {code}"


def _failure(job: Job, begun: Begin, reason: str, detail: str) -> Failure:
    return Failure(
        case=begun.case, params=begun.params, variant=begun.variant, stage=begun.stage, reason=reason, detail=detail,
        process=job.process, package=job.package,
    )  # fmt: skip
