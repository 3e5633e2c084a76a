"""How batches come: from worker processes, from page-locked memory, without waiting, and in advance.

All but the workers needs a GPU. Those cases have points only where one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from claimbench.case import Case, Tolerance, Workload
from claimbench.cases.spd.problem import OFF, Started, config_of, default_device, inputs_of, start, target_of
from claimbench.record import Params
from spd.config.perf import PRESETS
from spd.data import to_device
from spd.experiments.lm.text import encoded
from spd.training import Trainer, build_model

__all__ = ["CASES"]

# --- workers ----------------------------------------------------------------------------------------------------------

BATCHES, ROWS, LENGTH = 64, 8, 512
"""Batches of one call, a whole number of times what workers have ready, and their size."""


@cache
def _text() -> tuple[str, ...]:
    """Documents of letters, digits and spaces."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(32, 127, (BATCHES * ROWS, LENGTH), generator=generator)
    return tuple("".join(map(chr, row)) for row in codes.tolist())


class _Raw(Dataset[Tensor]):
    """Tokenises a batch when it is asked for."""

    def __getitem__(self, index: int) -> Tensor:
        rows = _text()[index * ROWS : (index + 1) * ROWS]
        return torch.stack([encoded(row) for row in rows])


class _Tokenised(Dataset[Tensor]):
    """Slices of tokens."""

    def __init__(self) -> None:
        self._tokens = torch.stack([encoded(row) for row in _text()])

    def __getitem__(self, index: int) -> Tensor:
        return self._tokens[index * ROWS : (index + 1) * ROWS]


class _Round(Sampler[int]):
    """All batches, round and round."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from range(BATCHES)


def _workers(params: Params) -> Workload:
    """Each call draws every batch once. The workers stay, as they do in training, and have some batches ready."""
    data: Dataset[Tensor] = _Raw() if params["set"] == "raw" else _Tokenised()

    def variant(count: int) -> Callable[[Any], Tensor]:
        started: list[Iterator[Tensor]] = []

        def call(_given: Any) -> Tensor:
            if not started:
                started.append(iter(DataLoader(data, batch_size=None, sampler=_Round(), num_workers=count)))
            return sum((next(started[0]).sum() for _ in range(BATCHES)), torch.zeros((), dtype=torch.int64))

        return call

    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={"before": variant(0), "two": variant(2), "after": variant(4), "eight": variant(8)},
        units=BATCHES,
    )


# --- copies -----------------------------------------------------------------------------------------------------------

SIZE = 4096


def _host(pinned: bool) -> Tensor:
    made = torch.ones(SIZE, SIZE)
    return made.pin_memory() if pinned and torch.cuda.is_available() else made


def _pinned(_params: Params) -> Workload:
    kept = {"before": _host(pinned=False), "after": _host(pinned=True)}
    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={name: partial(_copy, batch) for name, batch in kept.items()},
    )


def _copy(batch: Tensor, _given: Any) -> Tensor:
    return to_device(batch, default_device())


def _nonblocking(params: Params) -> Workload:
    """A copy, and work on the host and the device that does not need it."""
    batch, square = _host(params["memory"] == "pinned"), torch.ones(SIZE, SIZE, device=default_device())

    def variant(non_blocking: bool) -> Callable[[Any], Tensor]:
        def call(_given: Any) -> Tensor:
            other = square @ square
            copied = to_device(batch, default_device(), non_blocking=non_blocking)
            return (other @ square)[:8, :8] + copied[:8, :8]

        return call

    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={"before": variant(non_blocking=False), "after": variant(non_blocking=True)},
        tolerance=Tolerance(relative=1e-3, reason="reduced precision of matrix products on a GPU"),
    )


def _prefetch(_params: Params) -> Workload:
    """Four batches, each copied and then used: one after the other, and the next copied while one is used."""
    held = [_host(pinned=True) for _ in range(4)]
    square, device = torch.ones(SIZE, SIZE, device=default_device()), default_device()

    def one_by_one(_given: Any) -> Tensor:
        return sum((to_device(batch, device) @ square)[:8, :8] for batch in held)  # type: ignore[return-value]

    def ahead(_given: Any) -> Tensor:
        total = torch.zeros(8, 8, device=device)
        following = to_device(held[0], device, non_blocking=True)
        for index in range(len(held)):
            present = following
            following = to_device(held[(index + 1) % len(held)], device, non_blocking=True)
            total = total + (present @ square)[:8, :8]
        return total

    return Workload(
        inputs=lambda seed: {"seed": seed},
        variants={"before": one_by_one, "after": ahead},
        tolerance=Tolerance(relative=1e-3, reason="reduced precision of matrix products on a GPU"),
    )


# --- the note's four lines --------------------------------------------------------------------------------------------


def _quick_start(_params: Params) -> Workload:
    def variant(perf: Any) -> Callable[[dict[str, Any]], Started]:
        made: list[Started] = []

        def call(given: dict[str, Any]) -> Started:
            if not made:
                made.append(start(given, "lm", perf, own_draws=False))
                host = [batch.cpu() for batch in given["batches"]]
                pinned = perf.pin_memory and torch.cuda.is_available()
                held = [batch.pin_memory() if pinned else batch for batch in host]
                made[0].batches = _copied(held, perf.non_blocking)
            made[0].step()
            return made[0]

        return call

    return Workload(
        inputs=lambda seed: inputs_of("lm", seed),
        variants={"before": variant(OFF), "after": variant(PRESETS["quick-start"])},
        tolerance=Tolerance(absolute=1e-3, reason="float32 sums in another order, compiled"),
        compare=lambda started: started.first,
    )


def _copied(held: list[Tensor], non_blocking: bool) -> Iterator[Tensor]:
    while True:
        for batch in held:
            yield to_device(batch, default_device(), non_blocking=non_blocking)


def _modes(_params: Params) -> Workload:
    """The target alone, compiled: torch.compile's default against the mode that replays CUDA graphs."""

    def variant(mode: str | None) -> Callable[[dict[str, Any]], Tensor]:
        target = torch.compile(build_model(target_of("lm"), config_of("lm")).target_model, mode=mode)

        def call(given: dict[str, Any]) -> Tensor:
            with torch.no_grad():
                return target(given["batches"][0]).clone()  # type: ignore[no-any-return]

        return call

    return Workload(
        inputs=lambda seed: inputs_of("lm", seed),
        variants={"before": variant(None), "after": variant("reduce-overhead")},
        tolerance=Tolerance(relative=1e-3, absolute=1e-5, reason="float32 sums in another order"),
    )


ON_GPU: tuple[Params, ...] = ({"device": "cuda"},) if torch.cuda.is_available() else ()


def _on_gpu(**values: tuple[str, ...]) -> tuple[Params, ...]:
    ((name, each),) = values.items()
    return tuple({name: value} for value in each) if ON_GPU else ()


CASES = (
    Case(
        "spd.workers",
        "batches of text from worker processes",
        "torch",
        _workers,
        grid=({"set": "raw"}, {"set": "tokenised"}),
        variants=("before", "two", "after", "eight"),
        original=(_Raw, _Tokenised),
        budget=3.0,
        precision=0.02,
        processes=3,
    ),
    Case(
        "spd.pinned",
        "a copy to the GPU from ordinary and from page-locked memory",
        "torch",
        _pinned,
        grid=_on_gpu(copy=("blocking",)),
        variants=("before", "after"),
        original=(to_device,),
        budget=2.0,
    ),
    Case(
        "spd.nonblocking",
        "a copy to the GPU beside other work",
        "torch",
        _nonblocking,
        grid=_on_gpu(memory=("pinned", "pageable")),
        variants=("before", "after"),
        original=(to_device,),
        budget=4.0,
    ),
    Case(
        "spd.prefetch",
        "batches copied to the GPU and used",
        "torch",
        _prefetch,
        grid=ON_GPU,
        variants=("before", "after"),
        original=(to_device,),
        budget=2.0,
    ),
    Case(
        "spd.quick_start",
        "a step with the four lines that the note begins with",
        "torch",
        _quick_start,
        grid=ON_GPU,
        variants=("before", "after"),
        original=(Trainer,),
        budget=5.0,
        processes=3,
    ),
    Case(
        "spd.modes",
        "the target, compiled in two modes",
        "torch",
        _modes,
        grid=ON_GPU,
        variants=("before", "after"),
        memory_grid=ON_GPU,
        memory_variants=("before", "after"),
        original=(target_of,),
        budget=2.0,
        processes=3,
    ),
)
