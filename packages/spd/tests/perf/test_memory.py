"""When memory is given back, in which order, and what happens after it ran out."""

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from spd.config.perf import PerfConfig
from spd.perf.memory import MemoryPolicy, give_back_memory, measure_peak


@pytest.mark.parametrize(("policy", "expected"), [("every_eval", 1), ("every_n", 3), ("on_oom", 0), ("never", 0)])
def test_memory_is_given_back_when_the_policy_says(policy: Any, expected: int) -> None:
    memory = MemoryPolicy(PerfConfig(gc_policy=policy, gc_every_n=2))
    for step in range(1, 8):
        memory.after_step(step)
    memory.after_evaluation()
    assert memory.count == expected
    assert memory.retries == (policy == "on_oom")


def test_what_cycles_hold_is_collected_before_blocks_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty_cache"))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 - len(calls))
    assert give_back_memory("cuda") == 1
    assert calls == ["collect", "empty_cache"]
    assert give_back_memory("cpu") == 0
    assert calls == ["collect", "empty_cache", "collect"]


class _OutOfMemory:
    """Losses that run out of memory in chosen calls, after they drew and moved what they keep."""

    def __init__(self, trainer: Any, failing: set[int]) -> None:
        self._losses, self._failing, self.calls = trainer.losses, failing, 0

    def __call__(self, *args: Any) -> Any:
        found = self._losses(*args)
        self.calls += 1
        if self.calls in self._failing:
            raise torch.OutOfMemoryError("no memory left")
        return found


@pytest.mark.parametrize("failing", [{2}, {4}])
def test_a_step_that_ran_out_of_memory_is_taken_again_as_it_was(small: SimpleNamespace, failing: set[int]) -> None:
    plain = small.trainer_of("resid_mlp", gradient_accumulation_steps=2)
    trainer = small.trainer_of("resid_mlp", PerfConfig(gc_policy="on_oom"), gradient_accumulation_steps=2)
    trainer.losses = _OutOfMemory(trainer, failing)
    for step in range(2):
        pieces = small.batch_of("resid_mlp", step).chunk(2)
        one, two = plain.step(iter(pieces)), trainer.step(iter(pieces))
        assert one.losses == two.losses
    assert trainer.losses.calls > 4
    assert trainer.memory.count == 1
    for a, b in zip(plain.model.parameters(), trainer.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("policy", "calls"), [("on_oom", 2), ("never", 1)])
def test_a_second_time_it_is_an_error(small: SimpleNamespace, policy: Any, calls: int) -> None:
    trainer = small.trainer_of("tms", PerfConfig(gc_policy=policy))
    trainer.losses = _OutOfMemory(trainer, {1, 2})
    with pytest.raises(torch.OutOfMemoryError):
        trainer.step(iter([small.batch_of("tms")]))
    assert trainer.losses.calls == calls


def test_what_autograd_keeps_is_counted_once_for_each_storage() -> None:
    x = torch.ones(1000, requires_grad=True)

    def call() -> None:
        y = x.exp()  # kept: y
        z = y * y.view(10, 100).view(-1)  # kept twice: y
        z.sin().sum().backward()  # kept: z

    peak = measure_peak(call)
    assert peak.saved_for_backward == 2 * 4000
    assert peak.allocated is None
    assert peak.resident > 2**20


def test_checkpointed_passes_keep_less(small: SimpleNamespace) -> None:
    kept = []
    for on in (False, True):
        trainer = small.trainer_of("lm", PerfConfig(grad_checkpointing=on))
        batches = iter([small.batch_of("lm")])
        kept.append(measure_peak(lambda: trainer.step(batches)).saved_for_backward)  # noqa: B023
    assert kept[1] < 0.7 * kept[0]
