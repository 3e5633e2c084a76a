"""Compilation: proven to have run, equal to the plain form, and out of the way when it fails."""

import pytest
import torch
from torch import Tensor

from neurograph.core import jit
from neurograph.core.jit import MIN_ELEMENTS, jit_compile_if_enabled, jit_status

LARGE = MIN_ELEMENTS


@pytest.mark.filterwarnings("ignore")  # what a compiler warns of is not ours
def test_compiled_code_runs_and_agrees() -> None:
    @jit_compile_if_enabled
    def signal(p: Tensor, cos: Tensor) -> Tensor:
        return cos[p] * 2.5 + 1

    p, cos = torch.randint(512, (LARGE,)), torch.randn(512)
    found = signal(p, cos)
    entry = jit_status()[signal.__qualname__]
    assert (entry.state, entry.runs) == ("compiled", 1), entry.reason
    torch.testing.assert_close(found, signal.plain(p, cos), rtol=1e-6, atol=1e-6)
    signal(p, cos)
    assert entry.runs == 2
    jit.enable_jit(False)
    try:
        signal(p, cos)
    finally:
        jit.enable_jit(True)
    assert entry.runs == 2


def test_a_compilation_that_raises_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    @jit_compile_if_enabled
    def double(x: Tensor) -> Tensor:
        return x * 2

    def broken(_function: object, _entry: object) -> object:
        def call(*_args: object) -> None:
            raise RuntimeError("no compiler here")

        return call

    monkeypatch.setattr(jit, "_compiled", broken)
    assert double(torch.ones(LARGE))[0] == 2
    entry = jit_status()[double.__qualname__]
    assert (entry.state, entry.reason) == ("failed", "RuntimeError: no compiler here")


def test_an_error_of_the_arguments_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    @jit_compile_if_enabled
    def product(x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    monkeypatch.setattr(jit, "_compiled", lambda function, _entry: function)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        product(torch.ones(LARGE, 1), torch.ones(2, 2))
    assert jit_status()[product.__qualname__].state == "not yet"


def test_a_method_can_be_decorated() -> None:
    class Tables:
        cos = torch.arange(4.0)

        @jit_compile_if_enabled
        def get_signal_vector(self, indices: Tensor) -> Tensor:
            return self.cos[indices]

    assert Tables().get_signal_vector(torch.tensor([3])).item() == 3
