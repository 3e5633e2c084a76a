"""Each baseline is what its paper says, worked in NumPy; interpolation goes through the samples."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dredge.errors import ModelError
from dredge.quasimoto.baselines import (
    BASELINES,
    Finer,
    FourierFeatures,
    MultiplicativeFilters,
    Siren,
    Wire,
    baseline,
)
from dredge.quasimoto.fitting import fit
from dredge.quasimoto.interpolation import interpolate

pytestmark = pytest.mark.needs_extra("torch")

POINTS = torch.linspace(-1, 1, 14).reshape(7, 2)


def affine(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    assert isinstance(layer, nn.Linear)
    dtype = np.complex128 if layer.weight.is_complex() else np.float64
    return x @ layer.weight.detach().numpy().astype(dtype).T + layer.bias.detach().numpy().astype(dtype)


def test_siren_and_finer() -> None:
    for model in (Siren(2, 3, hidden=5, layers=2, w0=7), Finer(2, 3, hidden=5, layers=2, w0=7)):
        x = POINTS.double().numpy()
        for layer in model.layers:
            z = affine(layer, x)
            x = np.sin(7 * z) if type(model) is Siren else np.sin(7 * (np.abs(z) + 1) * z)
        assert np.allclose(model(POINTS).detach(), affine(model.head, x), atol=1e-4)


def test_wire() -> None:
    model = Wire(2, 1, hidden=4, layers=2, w0=3, s0=2)
    x = POINTS.double().numpy()
    for layer in (model.first, *model.layers):
        z = affine(layer, x)
        x = np.exp(3j * z - np.abs(2 * z) ** 2)
    assert np.allclose(model(POINTS).detach(), affine(model.head, x).real, atol=1e-5)


def test_fourier_features() -> None:
    model = FourierFeatures(2, 1, features=6, sigma=1, hidden=4, layers=1)
    phase = POINTS.double().numpy() @ model.frequencies.double().numpy()
    x = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
    x = np.maximum(affine(model.network[0], x), 0)
    assert np.allclose(model(POINTS).detach(), affine(model.network[2], x), atol=1e-5)
    assert "frequencies" not in dict(model.named_parameters())


@pytest.mark.parametrize("gabor", [False, True])
def test_multiplicative_filters(gabor: bool) -> None:
    model = MultiplicativeFilters(2, 1, hidden=4, layers=2, gabor=gabor)
    x = POINTS.double().numpy()

    def filtered(i: int) -> np.ndarray:
        found = np.sin(affine(model.filters[i], x))
        if model.centre is not None and model.log_width is not None:
            away = x[:, None] - model.centre[i].detach().double().numpy()
            width = np.exp(model.log_width[i].detach().double().numpy())
            found = found * np.exp(-0.5 * (away**2).sum(2) / width**2)
        return found

    z = affine(model.layers[0], filtered(0)) * filtered(1)
    assert np.allclose(model(POINTS).detach(), affine(model.head, z), atol=1e-4)


def test_starts_are_those_of_the_papers() -> None:
    model = Siren(2, 1, hidden=400, layers=2, w0=30)
    first, second = (layer.requires_grad_(False) for layer in model.layers)
    assert first.weight.abs().max() <= 0.5
    assert first.weight.std() == pytest.approx(0.5 / math.sqrt(3), rel=0.1)
    bound = math.sqrt(6 / 400) / 30
    assert second.weight.abs().max() <= bound
    assert second.weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert Finer(2, 1, hidden=400, first_bias=4.0).layers[0].bias.detach().abs().max() > 3.5


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_all_learn_and_are_the_same_for_a_seed(name: str) -> None:
    assert all(
        torch.equal(a, b) for a, b in zip(baseline(name, 2).parameters(), baseline(name, 2).parameters(), strict=True)
    )
    x = torch.linspace(-1, 1, 60)[:, None]
    y = torch.cos(4 * x)
    result = fit(baseline(name, 1), x, y, epochs=60, lr=2e-3)
    assert result.history[-1].loss < 0.3 * result.history[0].loss
    with pytest.raises(ModelError, match="at least 1"):
        baseline(name, 0)


def test_names_and_options_that_are_none() -> None:
    with pytest.raises(ModelError, match="siren, finer"):
        baseline("nerf", 2)
    with pytest.raises(ModelError, match="other options"):
        baseline("siren", 2, depth=3)
    for name in ("siren", "finer"):
        with pytest.raises(ModelError, match="w0 is a positive number; got 0"):
            baseline(name, 2, w0=0)
    with pytest.raises(ModelError, match="layers"):
        baseline("fourier", 2, layers=-1)


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic", "rbf"])
@pytest.mark.parametrize("dim", [1, 2])
def test_interpolation_goes_through_the_samples_and_is_exact_on_a_plane(method: str, dim: int) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(-1, 1, (60, dim))
    values = points @ np.arange(1.0, dim + 1)[:, None] + 0.5
    assert np.allclose(interpolate(points, values, points, method), values, atol=1e-6)
    inside = 0.3 * points[:20]
    if method != "nearest":
        exact = inside @ np.arange(1.0, dim + 1)[:, None] + 0.5
        assert np.allclose(interpolate(points, values, inside, method), exact, atol=1e-5)
    outside = np.full((1, dim), 9.0)
    assert np.isfinite(interpolate(points, values, outside, method)).all()


@pytest.mark.parametrize(
    ("method", "places"),
    [("rbf", [[0.0], [0.0], [1.0]]), ("rbf", [[0.0, 0.0], [1.0, 1.0]]), ("linear", [[0.0, 0.0], [1.0, 1.0]]),
     ("cubic", [[0.0, 0.0], [1.0, 1.0]]), ("cubic", [[1.0]])],
)  # fmt: skip
def test_too_few_samples_are_refused_by_name(method: str, places: list[list[float]]) -> None:
    points = np.array(places)
    with pytest.raises(ModelError, match=f"{method} interpolation takes"):
        interpolate(points, np.ones((len(points), 1)), points[:1], method)


@pytest.mark.usefixtures("unchecked")
def test_points_without_values_are_refused() -> None:
    for points, values in ((0, 0), (3, 2), (2, 3)):
        with pytest.raises(ModelError, match=f"got {points} points and {values} values"):
            interpolate(np.ones((points, 1)), np.ones((values, 1)), np.ones((1, 1)), "nearest")


def test_ways_of_interpolating_that_are_none() -> None:
    x = np.zeros((4, 3))
    for method in ("spline", "cubic"):
        with pytest.raises(ModelError, match="interpolation is"):
            interpolate(x, x[:, :1], x, method)
