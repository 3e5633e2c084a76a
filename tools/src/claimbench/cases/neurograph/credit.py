"""The note's optimization #1: credit of the intermediate nodes, one by one and vectorised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from claimbench.case import Case, Counted, Tolerance, Workload
from claimbench.cases.neurograph.problem import FULL, not_timed, slopes
from claimbench.record import Params
from neurograph.reference.original import OriginalCredit, OriginalSettings
from neurograph.reference.original.accumulator import OriginalAccumulator
from neurograph.reference.original.graph import OriginalNodeStore, build_frame
from neurograph.reference.original.inputs import class_codes
from neurograph.reference.original.tables import OriginalTables, make_tables

__all__ = ["CASES"]

LABEL = 3
FORMS = {"before": "by_node", "after": "vectorized"}


class _Bench:
    """The original's nodes, all of which are taken for active."""

    def __init__(self) -> None:
        settings = OriginalSettings()
        self.tables: OriginalTables = make_tables()
        frame = build_frame(settings.n_inputs, settings.n_hidden, settings.n_outputs)
        self.store = OriginalNodeStore(frame, settings.dim, settings.phase_bins, settings.mag_bins)
        self.codes = class_codes(settings, self.tables)

    def credit(self, accumulate: bool) -> OriginalCredit:
        return OriginalCredit(self.store, self.tables, self.codes, OriginalAccumulator() if accumulate else None)

    def active(self, nodes: int) -> list[str]:
        return [f"n{i}" for i in range(FULL - nodes, FULL)]


class _Given(NamedTuple):
    """What a pass of credit leaves: gradients, and the accumulator that they were handed to."""

    gradients: tuple[Tensor, Tensor]
    accumulator: OriginalAccumulator | None


def _one_pass(credit: OriginalCredit, form: str, active: list[str]) -> _Given:
    """A sample's credit; the accumulator starts empty, since the original's lists grow without end.

    Emptying it is a hundredth of the pass, and the same for both forms.
    """
    if credit.accumulator is not None:
        credit.accumulator.phase.clear()
        credit.accumulator.mag.clear()
        credit.accumulator.norm = 0.0
    return _Given(getattr(credit, form)(active, LABEL), credit.accumulator)


def _compared(given: _Given) -> dict[str, Any]:
    """Gradients, and what the accumulator holds: who is in it, in which order, and the running norm."""
    found: dict[str, Any] = {"gradients": given.gradients}
    kept = given.accumulator
    if kept is not None:
        assert list(kept.phase) == list(kept.mag)
        found |= {
            "nodes": torch.tensor([int(node[1:]) for node in kept.phase]),
            "phase": torch.stack([grad for grads in kept.phase.values() for grad in grads]),
            "mag": torch.stack([grad for grads in kept.mag.values() for grad in grads]),
            "norm": torch.tensor(kept.norm),
        }
    return found


def _setup(params: Params) -> Workload:
    bench = _Bench()
    active, accumulate = bench.active(int(params["nodes"])), params["what"] == "with accumulation"

    def variant(form: str) -> Any:
        credit = bench.credit(accumulate)
        return lambda _: _one_pass(credit, form, active)

    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={name: variant(form) for name, form in FORMS.items()},
        tolerance=Tolerance(relative=1e-6, absolute=1e-6, reason="sums of five float32 in another order"),
        compare=_compared,
    )


def _complexity(params: Params) -> Iterable[Counted]:
    bench = _Bench()
    accumulate = params["what"] == "with accumulation"
    sizes = (10, 30, 100, 300, 1000) if accumulate else (10, 100, 1000)
    for name, form in FORMS.items():
        credit = bench.credit(accumulate)
        calls = {n: (lambda n=n, c=credit, f=form: _one_pass(c, f, bench.active(n))) for n in sizes}
        slope, ends = slopes(calls, rounds=5)
        words = f"log time on log N over N = {', '.join(map(str, sizes))} active nodes"
        yield Counted("slope", slope, name, "", words, ends)


class _Allocations(TorchDispatchMode):
    """Storages that operations make, and the most bytes of them alive after any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.made = self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        taken = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in taken:
                storage = tensor.untyped_storage()
                self.made += 1
                self._alive[self.made] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: held for key, held in self._alive.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return out


def _allocations(params: Params) -> Iterable[Counted]:
    bench, nodes = _Bench(), int(params["nodes"])
    for name, form in FORMS.items():
        credit, active = bench.credit(accumulate=True), bench.active(nodes)
        with _Allocations() as found:
            _one_pass(credit, form, active)
        yield Counted("allocations", found.made, name, "", f"tensors with memory of their own, {nodes} active nodes")
        yield Counted("peak", found.peak / 1024, name, "KiB", "alive at once, kept gradients among them")


def _targets(params: Params) -> Iterable[Counted]:
    bench, samples, classes = _Bench(), int(params["samples"]), 10
    for name, form in FORMS.items():
        credit = bench.credit(accumulate=False)
        for sample in range(samples):
            getattr(credit, form)(["n500"], sample % classes)
        yield Counted(
            "target_vectors",
            credit.target_lookups / classes,
            name,
            "a class",
            f"{samples} samples of {classes} classes",
        )


def _points(*nodes: int) -> tuple[Params, ...]:
    return tuple({"what": what, "nodes": n} for what in ("arithmetic", "with accumulation") for n in nodes)


ORIGINAL = (OriginalCredit, OriginalAccumulator, OriginalTables)

CASES = (
    Case(
        "neurograph.credit",
        "credit of N active nodes, one by one and vectorised",
        "torch",
        _setup,
        grid=_points(10, 100, 600, 1000),
        quick_grid=_points(100),
        variants=("before", "after"),
        original=ORIGINAL,
        budget=4.0,
        processes=3,
    ),
    Case(
        "neurograph.credit_complexity",
        "how the time of credit grows with the number of active nodes",
        "torch",
        not_timed,
        values=_complexity,
        values_grid=({"what": "arithmetic"}, {"what": "with accumulation"}),
        quick_values=({"what": "arithmetic"},),
        original=ORIGINAL,
        budget=3.0,
    ),
    Case(
        "neurograph.credit_memory",
        "allocations of one pass of credit",
        "torch",
        not_timed,
        values=_allocations,
        values_grid=({"nodes": 20},),
        quick_values=(),  # the first use of a dispatch mode imports for seconds
        original=ORIGINAL,
        budget=1.0,
    ),
    Case(
        "neurograph.credit_targets",
        "class vectors that are formed",
        "torch",
        not_timed,
        values=_targets,
        values_grid=({"samples": 100},),
        original=ORIGINAL,
        budget=1.0,
    ),
)
