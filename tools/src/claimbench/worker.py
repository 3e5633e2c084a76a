"""A worker process: one job in, rows out. The only place where a package under test is imported."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from claimbench import gate
from claimbench.case import Case, Work, Workload
from claimbench.errors import CaseError
from claimbench.protocol import Begin, CasePlan, Finish, Job, Plan
from claimbench.record import (
    Compile,
    Cost,
    Environment,
    Failure,
    Gate,
    Memory,
    Params,
    Probe,
    Value,
    Writer,
    point_name,
)
from claimbench.runtimes import load_runtime
from claimbench.runtimes.base import Runtime
from claimbench.timing import time_point

__all__ = ["main"]

QUICK_SHARE = 0.35
"""Share of its budget that a case gets in a quick run."""

PROBE_SECONDS = 0.3


class Worker:
    """Does one job.

    Args:
        job: The job.
        writer: Where its lines go.
    """

    def __init__(self, job: Job, writer: Writer) -> None:
        self.job, self.writer = job, writer
        self.cases: dict[str, Case] = {}

    def run(self) -> None:
        """Do the job; what fails becomes a row, and the rest goes on."""
        with self.stage("import"):
            found: tuple[Case, ...] = import_module(self.job.module).CASES
            self.cases = {case.id: case for case in found}
            missing = [name for name in self.job.cases if name not in self.cases]
            if missing:
                raise CaseError(f"{self.job.module} has no case {missing[0]!r}; it has {', '.join(self.cases)}")
            getattr(self, f"do_{self.job.mode}")()
        self.writer.write(Finish())

    def chosen(self) -> list[Case]:
        """The cases of the job, in the order of their module: what large ones leave behind in memory may matter."""
        return [case for name, case in self.cases.items() if name in self.job.cases]

    @contextmanager
    def stage(self, stage: str, case: str = "", params: Params | None = None, variant: str = "") -> Iterator[None]:
        """Mark what begins; turn an exception into a failure row."""
        params = params or {}
        self.writer.write(Begin(stage=stage, case=case, params=params, variant=variant))
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a failing case is a row of the record, and the run goes on
            self.fail(stage, error, case, params, variant)

    def fail(self, stage: str, error: BaseException, case: str, params: Params, variant: str) -> None:
        """Write a failure row."""
        self.writer.write(
            Failure(
                case=case,
                params=params,
                variant=variant,
                stage=stage,
                process=self.job.process,
                package=self.job.package,
                reason=_printable(f"{type(error).__name__}: {error}"[:500]),
                detail=_printable("".join(traceback.format_exception(error))[-4000:]),
            )
        )

    def write(self, row: BaseModel) -> None:
        """Write a row."""
        self.writer.write(row)

    def do_plan(self) -> None:
        """Say what there is to do, and on what."""
        cases = self.chosen() or list(self.cases.values())
        facts: dict[str, Any] = {}
        for runtime in sorted({case.runtime for case in cases}):
            facts |= {runtime: load_runtime(runtime, self.job.device).facts()}
        self.write(
            Plan(
                cases=[
                    CasePlan(
                        id=case.id,
                        points=list(case.grid) or list(case.values_grid),
                        budget=case.budget,
                        memory=[(params, name) for params in case.memory_grid for name in case.memory_variants],
                        compile=[(params, name) for params in case.compile_grid for name in case.compile_variants],
                        code=case.code_hash(),
                    )
                    for case in cases
                ],
                facts=facts,
            )
        )

    def do_time(self) -> None:
        """Check, count and time every point of every case."""
        first = self.job.process == 0
        for name in sorted({case.runtime for case in self.chosen()}):
            runtime = load_runtime(name, self.job.device)
            if first:
                facts = runtime.facts() | {"code": {case.id: case.code_hash() for case in self.chosen()}}
                self.write(Environment(where=name, facts=facts))
                if not self.job.skip:  # a worker that takes over finds the device probed
                    with self.stage("probe"):
                        self.probe(runtime)
        for case in self.chosen():
            runtime = load_runtime(case.runtime, self.job.device)
            if first and case.values is not None:
                for params in case.counted_points(self.job.quick):
                    self.count(case, params)
            for params in case.points(self.job.quick):
                if not case.timed_by(self.job.process, params):
                    continue
                if f"{case.id}|{point_name(params)}" not in self.job.skip:
                    with self.stage("time", case.id, params):
                        self.time(case, params, runtime, first)

    def count(self, case: Case, params: Params) -> None:
        """Counts and checks at one point."""
        if f"{case.id}|values|{point_name(params)}" in self.job.skip or case.values is None:
            return
        with self.stage("values", case.id, params):
            for found in case.values(params):
                self.write(
                    Value(
                        case=case.id,
                        params=params,
                        name=found.name,
                        variant=found.variant,
                        value=found.value,
                        unit=found.unit,
                        detail=found.detail,
                        low=found.interval[0] if found.interval else None,
                        high=found.interval[1] if found.interval else None,
                        process=self.job.process,
                    )
                )

    def time(self, case: Case, params: Params, runtime: Runtime, first: bool) -> None:
        """Gate, then clock, at one point."""
        workload = case.setup(params)
        broken = set()
        for result in gate.check(case.id, params, workload, case.variants, case.control, runtime, self.job.seed):
            if isinstance(result, Gate):
                # Later processes repeat the gate; only what went wrong there is news.
                if first or not result.equal:
                    self.write(result.model_copy(update={"process": self.job.process}))
            else:
                broken.add(result[0])
                self.fail("gate", result[1], case.id, params, result[0])
        variants = [name for name in case.variants if name not in broken]
        if case.control not in variants or len(variants) < 2:
            return
        if first:
            self.declare(case, params, workload)
        share = case.budget / len(case.points(self.job.quick)) * (QUICK_SHARE if self.job.quick else 1.0)
        self.write(
            time_point(
                case.id,
                params,
                workload,
                variants,
                case.control,
                runtime,
                budget=share,
                precision=case.precision,
                process=self.job.process,
                seed=self.job.seed,
            )
        )

    def declare(self, case: Case, params: Params, workload: Workload) -> None:
        """What a call must move and compute, for the roofline."""
        for name, work in workload.work.items():
            self.write(Cost(case=case.id, params=params, variant=name, **_a_unit(work, workload.units)))

    def probe(self, runtime: Runtime) -> None:
        """What this device can do: the best of repeated copies and matrix products."""
        for name, (call, work, unit) in runtime.probes().items():
            runtime.time_block(call, 1)
            best, until = float("inf"), time.perf_counter() + PROBE_SECONDS
            while time.perf_counter() < until:
                best = min(best, runtime.time_block(call, 1)[0])
            self.write(Probe(name=name, value=work / (best * 1e-9), unit=unit, process=self.job.process))

    def one(self) -> tuple[Case, Workload, Runtime, Callable[[], Any]]:
        """The one call of a memory or compile job."""
        (case,) = self.chosen()
        setup = case.memory_setup if self.job.mode == "memory" and case.memory_setup is not None else case.setup
        runtime = load_runtime(case.runtime, self.job.device)
        workload = setup(self.job.params)
        inputs = workload.inputs(self.job.seed)
        runtime.leaves(inputs)
        function = workload.variants[self.job.variant]
        return case, workload, runtime, lambda: function(inputs)

    def do_memory(self) -> None:
        """Peak memory of a second call: compiling and first-time set-up are not its memory."""
        with self.stage("memory", self.job.cases[0], self.job.params, self.job.variant):
            case, _, runtime, call = self.one()
            runtime.synchronise(call())
            peak, method = runtime.peak_memory(call)
            self.write(
                Memory(
                    case=case.id,
                    params=self.job.params,
                    variant=self.job.variant,
                    peak_bytes=peak,
                    method=method,
                    process=self.job.process,
                )
            )

    def do_compile(self) -> None:
        """Time of the very first call in this process."""
        with self.stage("compile", self.job.cases[0], self.job.params, self.job.variant):
            case, _, runtime, call = self.one()
            start = time.perf_counter()
            runtime.synchronise(call())
            self.write(
                Compile(
                    case=case.id,
                    params=self.job.params,
                    variant=self.job.variant,
                    seconds=time.perf_counter() - start,
                    process=self.job.process,
                )
            )


def _a_unit(work: Work, units: float) -> dict[str, float | None]:
    """Work of one unit, as times are recorded."""
    return {name: None if value is None else value / units for name, value in vars(work).items()}


def _printable(text: str) -> str:
    """The text without half surrogates, which names of files may hold and JSON may not."""
    return text.encode(errors="backslashreplace").decode()


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent is gone; elsewhere than on Linux the parent cleans up."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent and os.getppid() != parent:  # it was gone before the kernel was asked
        os._exit(1)


def main(path: str) -> None:
    """Run the job in a JSON file.

    Args:
        path: The job.
    """
    job = Job.model_validate_json(Path(path).read_text(encoding="utf-8"))
    _die_with_parent(job.parent)
    with Writer(job.results) as writer:
        Worker(job, writer).run()
    sys.stdout.flush()
    os._exit(0)  # frameworks may hang in their exit handlers; every row is already on disk


if __name__ == "__main__":
    main(sys.argv[1])
