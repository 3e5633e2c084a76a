"""What the callbacks have in common, and what they say without the libraries that they are for."""

import importlib.util
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import resu.integrations
from resu.config import CycleConfig
from resu.core.phases import sparse_state
from resu.errors import ConfigError, MissingExtraError
from resu.integrations.driver import CycleDriver
from resu.optim.masked import MaskedAdamW

QUICK = CycleConfig.preset("quick", num_cycles=2, recovery_fraction=0.2)


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESU_BACKEND", "eager")


def run(driver: CycleDriver, model: nn.Module, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()
        driver.advance()


@pytest.mark.parametrize("stock", [False, True])
def test_cycles_fit_the_training(stock: bool) -> None:
    model = nn.Linear(6, 6)
    make = torch.optim.AdamW if stock else MaskedAdamW
    optimizer = make(model.parameters(), lr=1e-2)
    driver = CycleDriver(QUICK)
    driver.begin(model, optimizer, 50)
    assert driver.cycle is not None
    run(driver, model, optimizer, 50)
    assert driver.cycle.done
    driver.end()
    assert [stats.sparsity for stats in driver.history] == [0.5, 0.5]
    assert int((model.weight == 0).sum()) == 18


def test_a_training_that_ends_early_is_said_and_committed(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(6, 6)
    optimizer = MaskedAdamW(model.parameters(), lr=1e-2)
    driver = CycleDriver(QUICK, fit=False)
    driver.begin(model, optimizer)
    run(driver, model, optimizer, 70)  # into the RESU phase of the first cycle
    assert int((model.weight == 0).sum()) < 18
    driver.end()
    assert "ended at step 70 of the cycles' 250" in caplog.text
    assert int((model.weight == 0).sum()) == 18
    assert len(driver.history) == 1


def test_a_further_training_puts_masks_on_anew() -> None:
    model = nn.Linear(6, 6)
    driver = CycleDriver(QUICK, exclude=["bias"])
    for _ in range(2):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        driver.begin(model, optimizer, 50)
        assert driver.sparsifier is not None
        assert sparse_state(model.weight) is driver.sparsifier.parameters["weight"]
        run(driver, model, optimizer, 50)
        driver.end()
    assert len(driver.history) == 2


@pytest.mark.parametrize("layout", ["dense", "signbit"])
def test_a_state_is_taken_up_when_the_training_begins(layout: Any) -> None:
    ends = []
    for stop in (None, 23):  # in the first RESU phase
        torch.manual_seed(0)
        model = nn.Linear(6, 6)
        optimizer = MaskedAdamW(model.parameters(), lr=1e-2, layout=layout)
        driver = CycleDriver(QUICK)
        driver.begin(model, optimizer, 60)
        if stop is None:
            run(driver, model, optimizer, 60)
        else:
            run(driver, model, optimizer, stop)
            state, kept, moments = driver.state_dict(), model.state_dict(), optimizer.state_dict()
            again = nn.Linear(6, 6)
            again.load_state_dict(kept)
            optimizer = MaskedAdamW(again.parameters(), lr=1e-2, layout=layout)
            optimizer.load_state_dict(moments)  # as loops do: before there are masks
            model, driver = again, CycleDriver(QUICK)
            driver.load_state_dict(state)
            driver.begin(model, optimizer, 60)
            run(driver, model, optimizer, 60 - stop)
        ends.append((model.weight.detach().clone(), driver.history))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


@pytest.mark.parametrize("steps", [None, float("inf"), -1])
def test_cycles_that_fit_nothing_are_refused(steps: float | None) -> None:
    model = nn.Linear(6, 6)
    with pytest.raises(ConfigError, match=f"need its number of steps; it is {steps}"):
        CycleDriver(QUICK).begin(model, MaskedAdamW(model.parameters()), steps)


def test_before_it_begins_there_is_nothing() -> None:
    driver = CycleDriver()
    assert driver.history == []
    assert driver.state_dict() == {}
    assert driver.advance() is None
    driver.end()


def test_commits_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(6, 6)
    optimizer = MaskedAdamW(model.parameters(), lr=1e-2)
    driver = CycleDriver(QUICK)
    driver.begin(model, optimizer, 50)
    with caplog.at_level(logging.INFO, logger="resu"):
        run(driver, model, optimizer, 50)
    assert sum("came back" in record.message for record in caplog.records) == 2


@pytest.mark.parametrize(
    ("name", "extra", "absent"),
    [("huggingface", "hf", ["transformers"]), ("lightning", "lightning", ["lightning", "pytorch_lightning"])],
)
def test_without_its_library_a_callback_names_the_extra(
    name: str, extra: str, absent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module is loaded once more, under another name, where its library cannot be imported."""
    for library in absent:
        for loaded in [key for key in sys.modules if key == library or key.startswith(f"{library}.")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, library, None)
    path = Path(resu.integrations.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{name}_without_{extra}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(MissingExtraError, match=rf"installed. Run pip install '\./packages/resu\[{extra}\]'"):
        module.RESUCallback()
