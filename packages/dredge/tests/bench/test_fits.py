"""The measurements run, count parameters rightly, and the goals that need no long training are met."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dredge.bench import fit1d, fit4d, fit6d, heldout
from dredge.errors import ModelError
from dredge.quasimoto.processes import Processes

pytestmark = pytest.mark.needs_extra("torch")


def test_the_chirp_is_fitted_by_61_numbers() -> None:
    (row,) = fit1d.run(atoms=(12,), baselines=False)
    assert row.parameters == 61
    assert row.mse <= 2e-5


@pytest.mark.slow
def test_the_chirp_is_fitted_by_121_numbers() -> None:
    (row,) = fit1d.run(atoms=(24,), baselines=False)
    assert row.parameters == 121
    assert row.zero == pytest.approx(0.07087, abs=1e-5)
    assert row.mse <= 1e-6
    assert (row.seed, row.passes) == (None, None)


def test_baselines_of_the_chirp_are_the_published_ones() -> None:
    rows = list(fit1d.run(atoms=(), epochs=3))
    assert [row.parameters for row in rows] == [145, 4353]
    assert all(math.isfinite(row.mse) for row in rows)


@pytest.mark.parametrize(
    "target",
    ["odd", pytest.param("published", marks=pytest.mark.slow), pytest.param("shifted", marks=pytest.mark.slow)],
)
def test_each_variant_is_fitted_by_111_numbers(target: str) -> None:
    (row,) = fit4d.run(seeds=0, targets=(target,), baselines=False)
    assert row.parameters <= 111
    assert row.mse <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(("target", "bar"), [("published", 2e-6), ("shifted", 1e-5), ("odd", 1e-5)])
def test_one_setting_fits_each_variant_in_300_passes_from_five_starts(target: str, bar: float) -> None:
    x, y = fit4d.samples(target)
    errors = []
    for seed in range(5):
        model, passes = fit4d.trained(x, y, seed, 300)
        assert passes == 300
        assert sum(p.numel() for p in model.parameters()) == 111
        errors.append(fit1d.mse(model, x, y))
    assert np.median(errors) <= bar


def test_the_other_rows_of_4d() -> None:
    rows = list(fit4d.run(seeds=1, epochs=6, grid_size=8, targets=("odd",)))
    assert [row.parameters for row in rows] == [rows[0].parameters, 111, 121, 121, 4481]
    assert [row.passes for row in rows] == [None, 6, 6, 6, 6]


def test_the_rows_of_6d() -> None:
    rows = list(fit6d.run(seconds=0.1, grid_size=4))
    assert [row.parameters for row in rows] == [1089, 1281, 127]
    assert all(row.passes and row.passes >= 1 for row in rows)


def test_all_is_fitted_on_the_cpu_whose_seconds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def device(self: Processes, name: str) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr(Processes, "device", device)
    list(fit1d.run(atoms=(), epochs=2))
    list(fit4d.run(seeds=1, epochs=6, grid_size=5, targets=("odd",)))
    list(fit6d.run(seconds=0.05, grid_size=3))
    assert asked == ["cpu"] * (1 + 4 + 3)


def test_the_start_of_packets_counts_as_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    clock = iter([0.0, 4.0])

    def fitted(model: nn.Module, *_: Any, seconds: float, **__: Any) -> Any:
        given.append(seconds)
        return SimpleNamespace(history=())

    monkeypatch.setattr(fit6d, "fit", fitted)
    monkeypatch.setattr(fit6d.time, "process_time", lambda: next(clock, 0.0))
    fit6d._packets(torch.randn(50, 5), torch.randn(50, 1), 2, 0, 10.0)
    assert given == [6.0]


def test_an_error_is_the_mean_square() -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two * x

    x = torch.tensor([[1.0], [3.0]])
    assert fit1d.mse(Doubling(), x, torch.zeros(2, 1)) == 20


def test_held_out_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    axis = np.linspace(0, 1, 32)
    monkeypatch.setattr(heldout, "picture", lambda name, side: 0.5 + 0.4 * np.outer(np.sin(5 * axis), np.cos(4 * axis)))
    rows = list(heldout.run(seconds=0.2, pictures=("camera",), side=32))
    assert [row.parameters for row in rows] == [None] * 4 + [4897, 3482, 7077]
    assert all(row.psnr > 5 for row in rows)
    assert rows[3].psnr > rows[0].psnr  # splines beat the nearest pixel on a smooth picture
    (choice,) = heldout.choose(
        seconds=0.1, pictures=("coffee",), grid={name: (value,) for name, value in heldout.CHOSEN.items()}
    )
    assert choice.setting == heldout.CHOSEN


def test_halves_are_disjoint_and_settings_are_chosen_elsewhere() -> None:
    (seen, _), (unseen, _) = heldout._halves(np.zeros((16, 16)), 0)
    assert len(seen) == len(unseen) == 128
    assert not {tuple(x) for x in seen.tolist()} & {tuple(x) for x in unseen.tolist()}
    assert not set(heldout.TUNED) & set(heldout.REPORTED)
    with pytest.raises(ModelError, match="camera"):
        next(heldout.choose(pictures=("camera",)))


def test_decibels() -> None:
    exact = np.array([[0.5], [0.5]])
    assert heldout.psnr(exact + 0.1, exact) == pytest.approx(20)
    assert heldout.psnr(exact, exact) == math.inf
    assert heldout.psnr(np.array([[9.0], [0.5]]), np.array([[1.0], [0.4]])) == pytest.approx(10 * math.log10(200))


@pytest.mark.needs_extra("skimage")
def test_pictures_are_grey_squares() -> None:
    for name in ("camera", "astronaut"):
        found = heldout.picture(name, 16)
        assert found.shape == (16, 16)
        assert 0 <= found.min() < found.max() <= 1
    with pytest.raises(ModelError, match="a picture is one of"):
        heldout.picture("lena")
