"""A run: which claims, on what, in which order, into which record."""

from __future__ import annotations

import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from claimbench import environment
from claimbench.errors import RunError
from claimbench.ledger import Claim, load_claims, packages, select
from claimbench.protocol import CasePlan, Job, Plan
from claimbench.record import (
    SCHEMA,
    Done,
    End,
    Environment,
    Failure,
    Record,
    Samples,
    Start,
    Value,
    Writer,
    point_name,
    read_record,
)
from claimbench.supervisor import Outcome, Supervisor, gpu_lock

__all__ = ["CAREFUL_PROCESSES", "PROCESSES", "Progress", "RunOptions", "chosen_claims", "run_claims"]

PROCESSES, CAREFUL_PROCESSES = 7, 11
MEMORY_REPEATS, COMPILE_REPEATS = 3, 2

Progress = Callable[[int, int, str], None]
"""Called with jobs done, jobs in all, and what is going on."""


@dataclass(frozen=True)
class RunOptions:
    """What a user asked for.

    Attributes:
        claims: Ids, or beginnings of ids; none is all.
        packages: Import names; none is all.
        device: `auto`, `cpu` or `cuda`.
        quick: One process and cut budgets.
        careful: More processes.
        long: Also the claims that train to a quality.
        out: Folder of the record; made anew under `bench/` where it is None.
        resume: Folder of a record to go on with; begun anew where there is none.
        seed: Seed of inputs, orders and resampling.
    """

    claims: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    device: str = "auto"
    quick: bool = False
    careful: bool = False
    long: bool = False
    out: Path | None = None
    resume: Path | None = None
    seed: int = 0

    @property
    def processes(self) -> int:
        """Fresh processes that repeat each measurement."""
        return 1 if self.quick else CAREFUL_PROCESSES if self.careful else PROCESSES


def chosen_claims(options: RunOptions) -> tuple[Claim, ...]:
    """The claims that a run is about.

    Args:
        options: What was asked for.

    Returns:
        Claims in ledger order.

    Raises:
        LedgerError: For an id that does not exist.
        RunError: For a package that does not exist.
    """
    for name in options.packages:
        if name not in packages():
            raise RunError(f"a package is one of {', '.join(packages())}; got {name!r}; choose one of them")
    claims = [claim for claim in load_claims() if not options.packages or claim.package in options.packages]
    chosen = select(claims, options.claims)
    return tuple(claim for claim in chosen if options.long or options.claims or claim.duration != "long")


@dataclass(frozen=True)
class _Task:
    """One job and its name in the record."""

    name: str
    job: Job
    limit: float


def run_claims(options: RunOptions, progress: Progress = lambda _done, _total, _what: None) -> Path:
    """Measure claims into a record.

    Args:
        options: What to measure, and how.
        progress: Told what goes on.

    Returns:
        The folder that holds `record.jsonl`.

    Raises:
        RunError: When nothing can be measured, or the folder is taken.
    """
    former = _former(options)
    if former is not None and not (options.claims or options.packages):
        options = replace(options, claims=tuple(former.start.claims))
    claims = chosen_claims(options)
    cases: dict[str, list[str]] = {}
    for claim in claims:
        for name in claim.cases:
            if name not in cases.setdefault(claim.package, []):
                cases[claim.package].append(name)
    absent = [name for name in cases if find_spec(name) is None]
    if cases and len(absent) == len(cases):
        paths = ", ".join(f"pip install './packages/{name}'" for name in absent)
        raise RunError(f"none of the packages is installed here ({', '.join(absent)}); install one: {paths}")
    modules = {name: f"claimbench.cases.{name}" for name in cases if name not in absent}
    return measure(options, claims, {modules[name]: cases[name] for name in modules}, absent, progress)


def measure(
    options: RunOptions,
    claims: Sequence[Claim],
    cases: dict[str, list[str]],
    absent: Iterable[str] = (),
    progress: Progress = lambda _done, _total, _what: None,
    limit: float | None = None,
) -> Path:
    """Measure cases, by module, into a record; the part of a run that knows nothing of packages.

    Args:
        options: How to measure.
        claims: What the record is for.
        cases: Module of cases → names of the cases to run.
        absent: Packages that are not installed here; each becomes a failure row.
        progress: Told what goes on.
        limit: Seconds that a timing worker may live; by default what its budgets need.

    Returns:
        The folder that holds `record.jsonl`.

    Raises:
        RunError: When the folder is taken, a record cannot be gone on with, or nothing can be written.
    """
    former = _former(options)
    if former is not None:
        options = replace(options, device=former.start.device, seed=former.start.seed)
    try:
        with _stoppable(), tempfile.TemporaryDirectory(prefix="claimbench-", ignore_cleanup_errors=True) as scratch:
            return _measure(options, former, claims, cases, absent, progress, limit, Path(scratch))
    except OSError as error:
        raise RunError(
            f"a run writes its record and, below {tempfile.gettempdir()}, its scratch files; that failed: {error}; "
            "make room, then go on with --resume"
        ) from error


def _measure(
    options: RunOptions,
    former: Record | None,
    claims: Sequence[Claim],
    cases: dict[str, list[str]],
    absent: Iterable[str],
    progress: Progress,
    limit: float | None,
    scratch: Path,
) -> Path:
    began = time.monotonic()
    watching = {"done": 0, "total": 1}
    supervisor = Supervisor(scratch, lambda what: progress(watching["done"], watching["total"], what))
    progress(0, 1, "looking at what there is to do")
    device, plans, failed = _plan(supervisor, options, cases)
    if former is not None:
        _check_goes_on(former, plans)
    folder = _folder(options, former, device)
    with Writer(folder / "record.jsonl") as writer:
        writer.write(_start(options, claims, device, plans, resumed=former is not None))
        for row in [*_absent(absent), *failed]:
            writer.write(row)
        writer.write(Environment(where="parent", facts=environment.facts()))
        tasks = _tasks(options, device, plans, former)
        watching["total"] = len(tasks)
        reason = "stopped before its end"
        try:
            with gpu_lock(device):
                for task in tasks:
                    _do(task if limit is None else replace(task, limit=limit), supervisor, writer)
                    watching["done"] += 1
                    progress(watching["done"], watching["total"], task.name)
            reason = ""
        finally:
            writer.write(End(complete=not reason, seconds=time.monotonic() - began, reason=reason))
    return folder


class _Stop(KeyboardInterrupt):
    """The run was asked to stop by a signal."""


class _stoppable:  # noqa: N801 - a context manager, named as one
    """Turn SIGTERM into the same orderly stop as Ctrl-C."""

    def __enter__(self) -> None:
        self._former: Any = None
        with suppress(ValueError):  # not in the main thread: the caller keeps its own handling
            self._former = signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        raise _Stop

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)


def _former(options: RunOptions) -> Record | None:
    if options.resume is None or not _holds_record(options.resume):
        return None
    former = read_record(options.resume)
    if options.device not in {"auto", former.start.device}:
        raise RunError(
            f"a run goes on on the device that it began on ({former.start.device}); got --device {options.device}; "
            "leave --device out, or begin a new run"
        )
    if former.start.quick != options.quick:
        raise RunError("a run goes on as it began: quick with --quick, full without; give the same option again")
    return former


def _holds_record(folder: Path) -> bool:
    """Whether there is a record; one without a line is what a run leaves that was killed before its first."""
    path = folder / "record.jsonl"
    return path.is_file() and path.stat().st_size > 0


def _check_goes_on(former: Record, plans: dict[str, Plan]) -> None:
    """Refuse to add to a record what would not belong to the same run."""
    began, now = former.start.code, _code(plans)
    odd = sorted(name for name in began.keys() | now.keys() if began.get(name) != now.get(name))
    if odd:
        raise RunError(
            f"a run goes on with the cases, and the code of their `before`, that it began with; {', '.join(odd)} "
            "differ; give the same claims again, or begin a new run"
        )


def _code(plans: dict[str, Plan]) -> dict[str, str]:
    return {case.id: case.code for plan in plans.values() for case in plan.cases}


def _folder(options: RunOptions, former: Record | None, device: str) -> Path:
    if former is not None:
        _trim(former)
        return former.path.parent
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = options.resume or options.out or Path("bench") / f"{environment.slug(device)}-{stamp}"
    try:
        if _holds_record(folder):
            raise RunError(
                f"a new run needs a folder without a record; {folder} has one; choose another, or --resume it"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.jsonl").touch()
    except OSError as error:
        raise RunError(
            f"the record must be written somewhere; {folder} cannot be used ({error.strerror}); give --out FOLDER"
        ) from error
    return folder


def _trim(former: Record) -> None:
    """Take a torn last line off a record before it is appended to."""
    data = former.path.read_bytes()
    if data and not data.endswith(b"\n"):
        former.path.write_bytes(data[: data.rfind(b"\n") + 1])


def _plan(
    supervisor: Supervisor, options: RunOptions, cases: dict[str, list[str]]
) -> tuple[str, dict[str, Plan], list[Failure]]:
    """Ask each module what there is to do, and choose the device."""
    wanted = options.device
    if wanted == "auto":
        wanted = "cuda" if environment.cuda_devices() else "cpu"
    plans: dict[str, Plan] = {}
    failures: list[Failure] = []
    for module, names in cases.items():
        job = Job(mode="plan", module=module, cases=names, device=wanted, results=Path())
        outcome = supervisor.run(job, 300, Outcome())
        if outcome.plan is None and wanted == "cuda" and options.device == "auto":
            # A GPU that this package's framework cannot use is no reason to measure nothing.
            return _plan(supervisor, replace(options, device="cpu"), cases)
        if outcome.plan is None:
            failures += [row for row in outcome.rows if isinstance(row, Failure)]
        else:
            plans[module] = outcome.plan
    return wanted, plans, failures


def _start(
    options: RunOptions,
    claims: Sequence[Claim],
    device: str,
    plans: dict[str, Plan],
    *,
    resumed: bool,
) -> Start:
    commit, dirty = environment.commit()
    return Start(
        schema_version=SCHEMA, run=uuid.uuid4().hex[:12], created=datetime.now(UTC).isoformat(timespec="seconds"),
        claims=[claim.id for claim in claims], packages=sorted({claim.package for claim in claims}), device=device,
        quick=options.quick, processes=options.processes, seed=options.seed, resumed=resumed,
        claimbench=metadata.version("claimbench") if _installed() else "source", commit=commit, dirty=dirty,
        code=_code(plans),
    )  # fmt: skip


def _installed() -> bool:
    try:
        metadata.version("claimbench")
    except metadata.PackageNotFoundError:
        return False
    return True


def _absent(names: Iterable[str]) -> list[Failure]:
    return [
        Failure(stage="import", package=name, reason=f"{name} is not installed here; pip install './packages/{name}'")
        for name in names
    ]


def _limit(plan: Plan, quick: bool) -> float:
    """Seconds that a timing worker may live: twice its budgets, and time for imports and compilation."""
    budgets = sum(case.budget for case in plan.cases) * (0.5 if quick else 1.0)
    points = sum(len(case.points) for case in plan.cases)
    return 180 + 2 * budgets + 10 * points


def _tasks(options: RunOptions, device: str, plans: dict[str, Plan], former: Record | None) -> list[_Task]:
    done = former.done() if former else set()
    tasks: list[_Task] = []
    for process in range(options.processes):
        # One process of every package in turn: what drifts over the run falls on all packages alike.
        for module, plan in plans.items():
            job = Job(
                mode="time", module=module, cases=[case.id for case in plan.cases], device=device, seed=options.seed,
                process=process, quick=options.quick, skip=_measured(former, process), results=Path(),
            )  # fmt: skip
            tasks.append(
                _Task(
                    f"time {module.rsplit('.', 1)[-1]} {process + 1}/{options.processes}",
                    job,
                    _limit(plan, options.quick),
                )
            )
    # Single jobs follow the first process of every package: a run stopped early has something of each claim.
    single = [
        task for module, plan in plans.items() for case in plan.cases for task in _single(options, device, module, case)
    ]
    tasks[len(plans) : len(plans)] = single
    return [task for task in tasks if task.name not in done]


def _single(options: RunOptions, device: str, module: str, case: CasePlan) -> list[_Task]:
    """Jobs that look at one variant at one point in a process of its own."""
    tasks = []
    for mode, pairs, repeats in (("memory", case.memory, MEMORY_REPEATS), ("compile", case.compile, COMPILE_REPEATS)):
        if options.quick and mode == "compile":
            continue
        for repeat in range(1 if options.quick else repeats):
            for params, variant in pairs:
                job = Job.model_validate(
                    {
                        "mode": mode, "module": module, "cases": [case.id], "device": device, "seed": options.seed,
                        "process": repeat, "params": params, "variant": variant, "results": Path(),
                    }
                )  # fmt: skip
                name = f"{mode} {case.id} {variant} {point_name(params)} {repeat + 1}/{repeats}"
                tasks.append(_Task(name, job, 300))
    return tasks


def _measured(former: Record | None, process: int) -> list[str]:
    """Points that an interrupted worker of this number had finished, counted, or died of."""
    if former is None:
        return []
    skip = []
    for row in former.rows:
        if isinstance(row, Samples | Value | Failure) and row.process == process and row.case:
            counted = isinstance(row, Value) or (isinstance(row, Failure) and row.stage == "values")
            timed = isinstance(row, Samples) or (isinstance(row, Failure) and row.stage == "time")
            if counted or timed:
                skip.append(f"{row.case}|{'values|' if counted else ''}{point_name(row.params)}")
    return list(dict.fromkeys(skip))


def _do(task: _Task, supervisor: Supervisor, writer: Writer) -> None:
    supervisor.run(task.job, task.limit, Outcome(keep=writer.write))
    # A job whose worker died has its failure rows; trying the same again on resume would only repeat them.
    writer.write(Done(job=task.name))
