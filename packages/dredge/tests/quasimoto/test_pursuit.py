"""Pursuit finds packets that are there, the Jacobian is a derivative, and steps never make a fit worse."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dredge.errors import ModelError
from dredge.quasimoto import levenberg_marquardt as lm
from dredge.quasimoto.dictionary import Dictionary
from dredge.quasimoto.levenberg_marquardt import Geometry, refine, solve_amplitudes
from dredge.quasimoto.packets import WavePackets
from dredge.quasimoto.pursuit import initialise, packets_from, polish, pursue
from dredge.reference.oracle_packets import packets_at

pytestmark = pytest.mark.needs_extra("torch")


def scattered(seed: int, n: int, d: int) -> Geometry:
    random = np.random.default_rng(seed)
    return Geometry(random.uniform(-2, 2, (n, d)), random.normal(-0.3, 0.3, (n, d)), random.uniform(-4, 4, (n, d)))


def sum_of(geometry: Geometry, cosine: np.ndarray, sine: np.ndarray, points: np.ndarray) -> np.ndarray:
    return packets_at(
        points.tolist(), centre=geometry.centre.tolist(), width=np.exp(geometry.log_width).tolist(),
        frequency=geometry.frequency.tolist(), cosine=cosine.T.tolist(), sine=sine.T.tolist(),
        constant=[0.25] * cosine.shape[1],
    )  # fmt: skip


@given(seed=st.integers(0, 10_000), n=st.integers(1, 3), d=st.integers(1, 3), out=st.integers(1, 2))
def test_amplitudes_are_those_that_made_the_samples(seed: int, n: int, d: int, out: int) -> None:
    random = np.random.default_rng(seed)
    geometry = scattered(seed, n, d)
    cosine, sine = random.normal(size=(n, out)), random.normal(size=(n, out))
    points = random.uniform(-3, 3, (60, d))
    values = sum_of(geometry, cosine, sine, points)
    amplitudes, residual = solve_amplitudes(geometry, points, values)
    assert np.abs(residual).max() < 1e-4 * np.abs(values).max()
    model = packets_from(geometry, amplitudes)
    assert np.allclose(model(torch.from_numpy(points)).detach(), values, atol=1e-4 * np.abs(values).max())


@given(seed=st.integers(0, 10_000), d=st.integers(1, 3), out=st.integers(1, 2))
def test_the_jacobian_is_that_of_differences(seed: int, d: int, out: int) -> None:
    random = np.random.default_rng(seed)
    geometry, points, values = scattered(seed, 3, d), random.uniform(-3, 3, (40, d)), random.normal(size=(40, out))
    x, y = np.ascontiguousarray(points.T), np.ascontiguousarray(values.T)
    at = lm._evaluate(geometry, x, y, 1e-10)
    active = np.array([0, 2])
    jacobian = lm._jacobian(geometry, active, at)
    small = 1e-6
    for p in range(len(jacobian)):
        step = np.zeros(len(jacobian))
        step[p] = small
        ahead, behind = (lm._evaluate(lm._moved(geometry, active, s), x, y, 1e-10).basis for s in (step, -step))
        difference = at.amplitudes.T @ (ahead - behind) / (2 * small)
        assert np.allclose(jacobian[p], difference, rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 10_000), block=st.sampled_from([None, 1, 2]))
def test_steps_never_make_a_fit_worse_and_stay_inside(seed: int, block: int | None) -> None:
    random = np.random.default_rng(seed)
    points, values = random.uniform(-3, 3, (50, 1)), random.normal(size=(50, 1))
    bounds = Dictionary.over(points).bounds()
    found = refine(scattered(seed, 3, 1), points, values, bounds=bounds, steps=15, block=block)
    # What falls at each step also weighs the amplitudes; the error alone may rise a little between two steps.
    assert found.losses[-1] < found.losses[0]
    assert min(found.losses) > 0.99 * found.losses[-1]
    assert found.losses[-1] == pytest.approx(float((found.residual**2).mean()))
    clipped = bounds.clip(found.geometry)
    assert all(
        np.array_equal(getattr(clipped, name), getattr(found.geometry, name))
        for name in ("centre", "log_width", "frequency")
    )
    assert found.steps <= 15


def test_blocks_and_all_at_once_find_the_same_packets() -> None:
    x = np.linspace(-4, 4, 200)[:, None]
    truth = Geometry(np.array([[-2.0], [1.5]]), np.log([[0.6], [0.8]]), np.array([[3.0], [7.0]]))
    values = sum_of(truth, np.array([[1.0], [0.4]]), np.array([[0.2], [-0.5]]), x)
    start = Geometry(truth.centre + 0.1, truth.log_width + 0.1, truth.frequency - 0.1)
    for block in (None, 1):
        found = refine(start, x, values, bounds=Dictionary.over(x).bounds(), steps=200, block=block, stall=0.0)
        assert found.losses[-1] < 1e-16
        assert np.allclose(found.geometry.centre, truth.centre, atol=1e-6)


@pytest.mark.parametrize("even", [True, False])
def test_packets_that_are_there_are_found(even: bool) -> None:
    random = np.random.default_rng(0)
    x = np.linspace(-5, 5, 400)[:, None] if even else np.sort(random.uniform(-5, 5, (400, 1)), axis=0)
    truth = Geometry(np.array([[-2.0], [1.0], [3.0]]), np.log([[0.5], [0.9], [0.3]]), np.array([[9.0], [4.0], [6.0]]))
    values = sum_of(truth, np.array([[1.0], [0.7], [0.5]]), np.array([[0.0], [0.7], [0.0]]), x)
    model = pursue(x, values, atoms=3)
    centres = sorted(packet.centre[0] for packet in model.to_table())
    assert np.allclose(centres, [-2, 1, 3], atol=1e-3)
    assert np.abs(model(torch.from_numpy(x)).detach().numpy() - values).max() < 1e-4
    assert model.head.bias.item() == pytest.approx(0.25, abs=1e-4)


def test_the_same_samples_give_the_same_packets() -> None:
    x = np.linspace(-4, 4, 150)[:, None]
    values = np.sin(x**2) * np.exp(-(x**2) / 4)
    one, other = (pursue(torch.from_numpy(x), torch.from_numpy(values), atoms=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_tolerance_ends_it_and_two_axes_and_outputs_work() -> None:
    axis = np.linspace(-3, 3, 24)
    x = np.stack([grid.ravel() for grid in np.meshgrid(axis, axis)], axis=1)
    wave = np.exp(-0.5 * ((x - [1, -0.5]) ** 2).sum(1, keepdims=True))
    values = wave * np.concatenate([np.cos(3 * x[:, :1] + x[:, 1:]), np.sin(3 * x[:, :1] + x[:, 1:])], axis=1)
    model = pursue(x, values, atoms=6, tol=1e-8)
    assert (model.n, model.out) == (1, 2)
    assert np.allclose(model.to_table()[0].centre, [1, -0.5], atol=1e-3)


def test_scattered_points_of_a_plane_are_fitted_between_them_too() -> None:
    random = np.random.default_rng(0)

    def wave(x: np.ndarray) -> np.ndarray:
        return np.exp(-((x - 0.3) ** 2).sum(1, keepdims=True)) * np.cos(4 * x[:, :1] - 2 * x[:, 1:])

    x, other = random.uniform(-2, 2, (400, 2)), random.uniform(-1.5, 1.5, (400, 2))
    model = pursue(x, wave(x), atoms=1)
    assert np.abs(model(torch.from_numpy(other)).detach().numpy() - wave(other)).max() < 1e-5


@pytest.mark.parametrize("exponent", [-600, -20, 600, 1000])
def test_the_size_of_values_changes_no_digit(exponent: int) -> None:
    x = np.linspace(-4, 4, 100)[:, None]
    values = np.exp(-(x**2)) * np.cos(5 * x)
    plain = pursue(x, values, atoms=2, refine_steps=5, final_steps=5)
    scaled = pursue(x, np.ldexp(values, exponent), atoms=2, refine_steps=5, final_steps=5)
    for name in ("centre", "log_width", "frequency"):
        assert torch.equal(plain.get_parameter(name), scaled.get_parameter(name))
    assert np.array_equal(np.ldexp(plain.head.weight.detach().numpy(), exponent), scaled.head.weight.detach().numpy())


def test_a_passed_deadline_leaves_a_whole_model() -> None:
    x = np.linspace(-4, 4, 100)[:, None]
    model = pursue(x, np.sin(5 * x), atoms=8, deadline=0.0, clock=lambda: 1.0)
    assert model.n == 1
    assert torch.isfinite(model(torch.from_numpy(x))).all()


def test_a_constant_is_the_constant() -> None:
    x = np.linspace(0, 1, 20)[:, None]
    model = pursue(x, np.full((20, 1), 3.0), atoms=4, tol=1e-12)
    assert model.n == 1
    assert np.allclose(model(torch.from_numpy(x)).detach(), 3, atol=1e-6)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_a_start_from_samples_is_better_than_the_mean(seed: int) -> None:
    x = np.linspace(-6, 6, 300)[:, None]
    values = 3 * np.exp(-((x - 2) ** 2)) * np.cos(4 * x)
    for options in ({}, {"envelope": "density"}, {"anisotropic": False}):
        model = initialise(WavePackets(1, 8, **options).double(), x, values, seed=seed)
        again = initialise(WavePackets(1, 8, **options).double(), x, values, seed=seed)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
        residual = model(torch.from_numpy(x)).detach().numpy() - values
        assert (residual**2).mean() < 0.5 * values.var()


@pytest.mark.parametrize("envelope", ["peak", "density"])
@pytest.mark.parametrize("anisotropic", [True, False])
def test_a_start_has_the_best_amplitudes_of_its_own_packets(envelope: str, anisotropic: bool) -> None:
    axis = np.linspace(-2, 2, 20)
    x = np.stack([grid.ravel() for grid in np.meshgrid(axis, 3 * axis, indexing="ij")], axis=1)
    values = (np.exp(-(x**2) @ [1.0, 0.1]) * np.cos(4 * x[:, 0]))[:, None]
    model = WavePackets(2, 3, envelope=envelope, anisotropic=anisotropic).double()
    initialise(model, x, values, seed=3)
    with torch.no_grad():
        basis = model.quadratures(torch.from_numpy(x)).numpy()
        found = model(torch.from_numpy(x)).numpy()
    best = np.linalg.lstsq(np.column_stack([basis, np.ones(len(x))]), values, rcond=None)[0]
    exact = np.column_stack([basis, np.ones(len(x))]) @ best
    assert np.abs(found - exact).max() < 1e-5


@pytest.mark.parametrize("seed", [3, 5])
def test_polishing_in_single_precision_never_loses(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = np.linspace(-6, 6, 300)[:, None]
    values = sum(np.exp(-((x - random.uniform(-3, 3)) ** 2)) * np.cos(random.uniform(2, 9) * x) for _ in range(3))
    model = WavePackets(1, 3)
    model.load_state_dict(pursue(x, values, atoms=3).state_dict())

    def error() -> float:
        return float(((model(torch.from_numpy(x).float()).detach().double().numpy() - values) ** 2).mean())

    before = error()
    for _ in range(5):
        polish(model, x, values, steps=3)
        assert error() <= before
        before = error()


def test_polishing_gains_and_never_loses() -> None:
    x = np.linspace(-6, 6, 300)[:, None]
    values = 3 * np.exp(-((x - 2) ** 2)) * np.cos(4 * x)
    model = initialise(WavePackets(1, 4).double(), x, values, seed=1)
    before = float(((model(torch.from_numpy(x)).detach().numpy() - values) ** 2).mean())
    polish(model, x, values, steps=60)
    after = float(((model(torch.from_numpy(x)).detach().numpy() - values) ** 2).mean())
    assert after < 1e-3 * before
    with pytest.raises(ModelError, match="chirp"):
        polish(WavePackets(1, 2, chirp=True), x, values, steps=1)


def test_a_small_gain_ends_it() -> None:
    x = np.linspace(-5, 5, 200)[:, None]
    values = np.exp(-(x**2)) * np.cos(6 * x) + 1e-3 * np.random.default_rng(0).normal(size=(200, 1))
    assert pursue(x, values, atoms=6, refine_every=1, gain=0.01).n == 1


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 1)), np.zeros((3, 1)), "at least 4 samples"),
        (np.array([[0.0], [1], [2], [np.nan]]), np.zeros((4, 1)), "finite"),
        (np.arange(8.0).reshape(-1, 1), np.array([[np.inf]] * 8), "finite"),
        (np.ones((8, 1)), np.arange(8.0)[:, None], "differ on every axis"),
    ],
)
def test_samples_that_cannot_be_fitted_are_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        pursue(x, y, atoms=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shapes", [((10,), (10, 1)), ((10, 1), (10,)), ((10, 1), (9, 1)), ((9, 1), (10, 1))])
def test_shapes_that_do_not_go_together_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x, y = (np.linspace(0, 1, shape[0]).reshape(shape) for shape in shapes)
    with pytest.raises(ModelError, match="as many of one as of the other"):
        pursue(x, y, atoms=1)


def test_sizes_that_do_not_fit_are_refused() -> None:
    x = np.linspace(0, 1, 10)[:, None]
    with pytest.raises(ModelError, match="atoms is at least 1; got 0"):
        pursue(x, x, atoms=0)
    with pytest.raises(ModelError, match="2 values each"):
        polish(WavePackets(1, 1, 2), x, x, steps=1)
    with pytest.raises(ModelError, match="2 coordinates"):
        initialise(WavePackets(2, 3), x, x)
    with pytest.raises(ModelError, match="a block has at least one packet; got -1"):
        pursue(x, x, atoms=1, block=-1)
    with pytest.raises(ModelError, match="at least one"):
        refine(scattered(0, 0, 1), x, x, bounds=Dictionary.over(x).bounds(), steps=1)
