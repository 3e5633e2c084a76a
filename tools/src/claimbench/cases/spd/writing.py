"""What training waits for besides its own work: checkpoints, figures, and the collection of memory."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from claimbench.case import Case, Counted, Workload
from claimbench.cases.spd.problem import GATED, Prepared, Started, TaskName, inputs_of, not_timed, start
from claimbench.record import Params
from claimbench.turns import in_turns, seconds, share_saved
from spd.background import Background
from spd.checkpoint import save
from spd.perf.memory import give_back_memory
from spd.reference import original
from spd.run_log import RunLog

__all__ = ["CASES"]

# --- checkpoints ------------------------------------------------------------------------------------------------------


def _checkpoints(params: Params) -> Iterable[Counted]:
    started = start(inputs_of(cast(TaskName, params["task"]), 0), cast(TaskName, params["task"]))
    model = started.trainer.model
    saver, background = original.AsyncSaver(), Background()
    with tempfile.TemporaryDirectory(prefix="claimbench-spd-") as folder:
        path = Path(folder)

        def stall(hand_over: Callable[[], object], finish: Callable[[], object] = lambda: None) -> float:
            taken = seconds(hand_over)
            finish()
            return taken

        def state() -> dict[str, Tensor]:
            return model.state_dict()  # type: ignore[no-any-return]

        found = in_turns(
            {
                "before": lambda: stall(lambda: original.save_at_once(state(), path / "before.pth")),
                "after": lambda: stall(lambda: saver.save(state(), path / "after.pth"), saver.queue.join),
                "ours_waiting": lambda: stall(lambda: save(started.trainer, path)),
                "best": lambda: stall(lambda: save(started.trainer, path, background), background.flush),
            },
            rounds=8,
        )
        for name, taken in found.items():
            yield Counted("stall", 1e3 * float(sorted(taken)[len(taken) // 2]), name, "ms", "training waits; median")
        for name in ("after", "best"):
            share, ends = share_saved(found["before"], found[name])
            yield Counted("stall_saved", share, name, "%", "of the time that training waits", ends)
        yield Counted("torn", _torn(lambda at: saver.save(at, path / "after.pth"), saver.queue.join, path), "after")
        step = path / f"step_{started.trainer.step_count:08d}.safetensors"

        def ours(_at: dict[str, Tensor]) -> None:
            save(started.trainer, path, background)

        yield Counted("torn", _torn_ours(ours, background.flush, started, step), "best")
    background.close()


def _torn(hand_over: Callable[[dict[str, Tensor]], None], finish: Callable[[], object], path: Path) -> float:
    """Whether a file differs from what was handed over, where training goes on at once: 1 or 0."""
    ballast = {"w": torch.zeros(4_000_000)}
    state = {"w": torch.zeros(100_000, device="cuda" if torch.cuda.is_available() else "cpu")}
    hand_over(ballast)  # the thread is busy when the second one comes
    hand_over(state)
    state["w"].add_(1)
    finish()
    found = torch.load(path / "after.pth", weights_only=True)["w"]
    return float(bool(found.any()))


def _torn_ours(
    hand_over: Callable[[dict[str, Tensor]], None], finish: Callable[[], object], started: Started, step: Path
) -> float:
    from safetensors.torch import load_file

    parameter = next(p for p in started.trainer.model.parameters() if p.requires_grad)
    before = {key: value.clone() for key, value in _written(hand_over, finish, step, load_file).items()}
    hand_over({})
    with torch.no_grad():
        parameter.add_(1)
    finish()
    after = load_file(step)
    with torch.no_grad():
        parameter.sub_(1)
    return float(any(not torch.equal(before[key], after[key]) for key in before))


def _written(hand_over: Any, finish: Any, step: Path, load: Any) -> dict[str, Tensor]:
    hand_over({})
    finish()
    return load(step)  # type: ignore[no-any-return]


# --- figures ----------------------------------------------------------------------------------------------------------

ROWS, COMMIT_EVERY = 40, 10

GAP = 5e-4
"""Seconds between two lines, as between two steps of training: a queue that is filled at once would only be full."""


def _spread(rows: list[dict[str, float]]) -> Iterator[dict[str, float]]:
    """Rows with a pause before each."""
    for row in rows:
        time.sleep(GAP)
        yield row


class _Waited:
    """Adds up how long calls of something take.

    Args:
        call: What is called.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call, self.seconds = call, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self.seconds += seconds(lambda: self._call(*args, **kwargs))


def _logs(_params: Params) -> Iterable[Counted]:
    with tempfile.TemporaryDirectory(prefix="claimbench-spd-") as folder:
        for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
            os.environ[f"WANDB_{name}"] = folder
        import wandb

        run = wandb.init(
            project="claimbench", dir=folder, mode="offline",
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )  # fmt: skip
        rows = [{f"loss/{index}": float(index) for index in range(8)} for _ in range(ROWS)]
        at = 0

        def published(log: Callable[..., None]) -> float:
            nonlocal at
            at += ROWS
            waited = _Waited(run.log)
            log(waited, _spread(rows), first=at)
            return waited.seconds

        waiting, threaded = RunLog(Path(folder) / "a"), RunLog(Path(folder) / "b", asynchronous=True)

        def ours(log: RunLog) -> float:
            nonlocal at
            at += ROWS
            waited = _Waited(log.write)
            for index, row in enumerate(_spread(rows)):
                waited(at + index, row)
            return waited.seconds

        def published_batched() -> float:
            return published(partial(original.log_batched, every=COMMIT_EVERY))

        calls: dict[str, Callable[[], float]] = {
            "before": lambda: published(original.log_each),
            "after": published_batched,
            "ours_waiting": lambda: ours(waiting),
            "best": lambda: ours(threaded),
        }
        found = in_turns(calls, rounds=7)
        waiting.close()
        threaded.close()
        run.finish()
    for name, taken in found.items():
        words = "wandb, offline" if name in ("before", "after") else "lines of JSON"
        yield Counted("log", 1e6 * float(sorted(taken)[len(taken) // 2]) / ROWS, name, "µs", words)
    share, ends = share_saved(found["before"], found["after"])
    words = f"of the time that logging takes; committed every {COMMIT_EVERY} steps"
    yield Counted("log_saved", share, "after", "%", words, ends)
    share, ends = share_saved(found["ours_waiting"], found["best"])
    yield Counted("log_saved", share, "best", "%", "lines of JSON from a thread, against waiting for them", ends)


# --- collecting memory ------------------------------------------------------------------------------------------------

EVALUATIONS = 1000
"""Steps between two evaluations in the published settings, each of which collects."""


def _collections(params: Params) -> Workload:
    task = cast(TaskName, params["task"])

    def variant(after_step: Callable[[], object]) -> Callable[[dict[str, Any]], Started]:
        prepared = Prepared(partial(start, task=task))

        def call(inputs: dict[str, Any]) -> Started:
            started = prepared(inputs)
            started.step()
            after_step()
            return started

        return call

    return Workload(
        inputs=lambda seed: inputs_of(task, seed),
        variants={"before": variant(original.collect_before), "after": variant(lambda: None)},
        tolerance=GATED,
        compare=lambda started: cast(Started, started).first,
    )


def _collection_share(params: Params) -> Iterable[Counted]:
    task = cast(TaskName, params["task"])
    started = start(inputs_of(task, 0), task)
    clock = time.process_time
    found = in_turns(
        {"step": lambda: seconds(started.step, clock), "collect": lambda: seconds(original.collect_before, clock)},
        rounds=7,
    )
    step, collect = (float(sorted(values)[len(values) // 2]) for values in (found["step"], found["collect"]))
    yield Counted("collect", 1e3 * collect, "before", "ms", "of one call")
    share = 100 * collect / (collect + EVALUATIONS * step)
    yield Counted("share", share, "before", "%", f"of training, at one call every {EVALUATIONS} steps")


def _order(_params: Params) -> Iterable[Counted]:
    """Bytes that a GPU gets back, with 64 MiB of tensors that only a cycle holds."""

    def garbage() -> None:
        held: list[Any] = [torch.empty(16 << 20, device="cuda")]
        held.append(held)

    for name, collect in (("before", original.collect_before), ("after", original.collect_after)):
        give_back_memory("cuda")
        garbage()
        reserved = torch.cuda.memory_reserved()
        collect()
        yield Counted("returned", (reserved - torch.cuda.memory_reserved()) / 2**20, name, "MiB")


ON_GPU: tuple[Params, ...] = ({"device": "cuda"},) if torch.cuda.is_available() else ()

CASES = (
    Case(
        "spd.saving",
        "how long training waits for a checkpoint",
        "torch",
        not_timed,
        values=_checkpoints,
        values_grid=({"task": "lm"},),
        quick_values=({"task": "tms_5-2"},),
        original=(original.save_at_once, original.AsyncSaver),
    ),
    Case(
        "spd.logging",
        "how long training waits for a line of figures",
        "torch",
        not_timed,
        values=_logs,
        values_grid=({"rows": ROWS},),
        quick_values=(),  # to start wandb takes some seconds
        original=(original.log_each,),
    ),
    Case(
        "spd.gc",
        "a step of TMS 5-2 with memory collected after it, and without",
        "torch",
        _collections,
        grid=({"task": "tms_5-2"},),
        variants=("before", "after"),
        values=_collection_share,
        original=(original.collect_before,),
        budget=2.0,
        precision=0.02,
        processes=3,
    ),
    Case(
        "spd.gc_order",
        "bytes that a GPU gets back",
        "torch",
        not_timed,
        values=_order if ON_GPU else None,
        values_grid=ON_GPU,
        original=(original.collect_before,),
    ),
)
