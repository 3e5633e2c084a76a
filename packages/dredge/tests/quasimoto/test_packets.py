"""Packets agree with their formula worked point by point, and their table says what they are."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dredge.errors import ModelError
from dredge.quasimoto.packets import WavePackets, packet_energy, squared_distances
from dredge.reference.oracle_packets import packet_energy_by_sum, packets_at, squared_distance

pytestmark = pytest.mark.needs_extra("torch")


def scattered(seed: int, dim: int, n: int, out: int, **options: Any) -> WavePackets:
    model = WavePackets(dim, n, out, **options).double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
        model.log_width.mul_(0.4)
    return model


def by_formula(model: WavePackets, points: torch.Tensor, times: torch.Tensor | None = None) -> np.ndarray:
    n = model.n
    weight = model.head.weight.detach().tolist()
    chirp = None
    if model.chirp is not None:
        chirp = np.zeros((n, model.dim, model.dim))
        for packet in range(n):
            numbers = iter(model.chirp[packet].tolist())
            for i in range(model.dim):
                for j in range(i + 1):
                    chirp[packet, i, j] = chirp[packet, j, i] = next(numbers)
    return packets_at(
        points.tolist(),
        centre=model.centre.tolist(), width=model.log_width.expand(n, model.dim).exp().tolist(),
        frequency=model.frequency.tolist(), cosine=[row[:n] for row in weight], sine=[row[n:] for row in weight],
        constant=model.head.bias.tolist(), chirp=None if chirp is None else chirp.tolist(),
        velocity=None if model.velocity is None else model.velocity.tolist(),
        omega=None if model.omega is None else model.omega.tolist(),
        times=None if times is None else times.tolist(), density=model.envelope == "density",
    )  # fmt: skip


@given(
    seed=st.integers(0, 10_000), dim=st.integers(1, 3), n=st.integers(1, 4), out=st.integers(1, 2),
    drift=st.booleans(), chirp=st.booleans(), envelope=st.sampled_from(["peak", "density"]), anisotropic=st.booleans(),
)  # fmt: skip
def test_they_are_what_the_formula_says(
    seed: int, dim: int, n: int, out: int, drift: bool, chirp: bool, envelope: Any, anisotropic: bool
) -> None:
    model = scattered(seed, dim, n, out, drift=drift, chirp=chirp, envelope=envelope, anisotropic=anisotropic)
    random = torch.Generator().manual_seed(seed + 1)
    points = 2 * torch.randn(5, dim, generator=random, dtype=torch.float64)
    times = torch.randn(5, generator=random, dtype=torch.float64) if drift else None
    assert np.allclose(model(points, times).detach(), by_formula(model, points, times), rtol=1e-9, atol=1e-10)


def test_single_precision_is_near_even_far_from_the_origin() -> None:
    model = scattered(3, 3, 6, 1)
    with torch.no_grad():
        model.centre.add_(100)
    points = 100 + torch.randn(50, 3, dtype=torch.float64)
    exact = by_formula(model, points)
    found = model.float()(points.float()).detach().numpy()
    assert np.abs(found - exact).max() < 2e-3  # 100 in float32 is right to 4e-6, and a phase is a hundred times that


@given(seed=st.integers(0, 10_000), dim=st.integers(1, 5))
def test_squared_distances_are_those_of_the_formula_and_never_negative(seed: int, dim: int) -> None:
    random = np.random.default_rng(seed)
    points, centre, width = random.normal(size=(4, dim)), random.normal(size=(3, dim)), random.uniform(0.1, 2, (3, dim))
    points[0] = centre[0]
    found = squared_distances(*(torch.from_numpy(a) for a in (points, centre, 1 / width)))
    assert (found >= 0).all()
    exact = [
        [squared_distance(x, c, w) for c, w in zip(centre.tolist(), width.tolist(), strict=True)]
        for x in points.tolist()
    ]
    assert np.allclose(found, exact, rtol=1e-9, atol=1e-9)
    assert (squared_distances(*(torch.from_numpy(a).float() for a in (points, centre, 1 / width))) >= 0).all()


@pytest.mark.parametrize(("drift", "chirp"), list(product([False, True], repeat=2)))
def test_every_parameter_has_the_gradient_of_differences(drift: bool, chirp: bool) -> None:
    model = scattered(5, 2, 3, 1, drift=drift, chirp=chirp)
    points = torch.randn(6, 2, dtype=torch.float64)
    times = 0.7 if drift else None
    names, values = zip(*model.named_parameters(), strict=True)

    def sums(*given: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, given, strict=True)), (points, times))

    assert torch.autograd.gradcheck(sums, values)


@pytest.mark.parametrize(
    ("dim", "n", "options", "parameters"),
    [(1, 12, {}, 61), (1, 24, {}, 121), (3, 8, {}, 89), (5, 64, {}, 1089), (3, 8, {"anisotropic": False}, 73),
     (2, 3, {"chirp": True}, 34), (2, 3, {"drift": True}, 34)],
)  # fmt: skip
def test_sizes(dim: int, n: int, options: dict[str, bool], parameters: int) -> None:
    model = WavePackets(dim, n, **options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    again = WavePackets(**model.config)
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


@given(seed=st.integers(0, 10_000), envelope=st.sampled_from(["peak", "density"]))
def test_the_table_rebuilds_the_sum(seed: int, envelope: Any) -> None:
    model = scattered(seed, 2, 4, 2, chirp=True, drift=True, envelope=envelope)
    points = torch.randn(7, 2, dtype=torch.float64)
    t = 0.3
    total = model.head.bias.detach().numpy()[None].repeat(7, 0)
    table = model.to_table()
    for packet in table:
        first = next(k for k in packet.frequency if k)
        assert first > 0
        assert packet.chirp is not None
        assert packet.drift is not None
        assert packet.omega is not None
        for p, x in enumerate(points.tolist()):
            away = np.array(x) - packet.centre
            z = (away - t * np.array(packet.drift)) / packet.width
            phase = away @ packet.frequency + 0.5 * away @ np.array(packet.chirp) @ away - packet.omega * t
            for o in range(2):
                total[p, o] += packet.amplitudes[o] * math.exp(-0.5 * z @ z) * math.cos(phase + packet.phases[o])
    assert np.allclose(total, model(points, t).detach(), rtol=1e-9, atol=1e-9)
    assert [packet.energy for packet in table] == sorted((packet.energy for packet in table), reverse=True)


@given(
    amplitude=st.floats(0.1, 3), phase=st.floats(-3, 3), width=st.floats(0.2, 2), frequency=st.floats(0, 4),
    chirp=st.floats(-3, 3),
)  # fmt: skip
def test_energy_is_the_integral(amplitude: float, phase: float, width: float, frequency: float, chirp: float) -> None:
    exact = packet_energy_by_sum(amplitude, phase, width, frequency, chirp, cells=2001)
    found = packet_energy(amplitude, phase, np.array([width]), np.array([frequency]), np.array([[chirp]]))
    assert found == pytest.approx(exact, rel=1e-8, abs=1e-10)
    if chirp == 0:
        assert packet_energy(amplitude, phase, np.array([width]), np.array([frequency])) == pytest.approx(found)


@given(seed=st.integers(0, 10_000))
def test_energy_is_the_integral_on_two_axes(seed: int) -> None:
    random = np.random.default_rng(seed)
    width, frequency, phase = random.uniform(0.3, 1, 2), random.uniform(-4, 4, 2), random.uniform(-3, 3)
    bend = random.uniform(-1, 1, (2, 2))
    bend = bend + bend.T
    axes = [np.linspace(-7 * w, 7 * w, 401) for w in width]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    angle = x @ frequency + 0.5 * np.einsum("...i,ij,...j", x, bend, x) + phase
    wave = 1.5 * np.exp(-0.5 * ((x / width) ** 2).sum(-1)) * np.cos(angle)
    exact = (wave**2).sum() * np.prod([axis[1] - axis[0] for axis in axes])
    assert packet_energy(1.5, phase, width, frequency, bend) == pytest.approx(exact, rel=1e-8)


def test_no_number_of_a_table_is_minus_zero() -> None:
    model = WavePackets(2, 1)
    with torch.no_grad():
        model.frequency.copy_(torch.tensor([[0.0, -3.0]]))
        model.centre.fill_(-0.0)
        model.head.weight.copy_(torch.tensor([[1.0, 0.0]]))
    packet = model.to_table()[0]
    assert "-0.0" not in str(packet)
    assert packet.frequency == (0.0, 3.0)


def test_a_packet_is_json() -> None:
    assert set(scattered(1, 1, 1, 1).to_table()[0].as_json()) == {
        "centre", "width", "frequency", "cycles", "amplitude", "phase", "energy",
    }  # fmt: skip
    whole = scattered(1, 2, 1, 2, drift=True, chirp=True).to_table()[0].as_json()
    assert {"amplitudes", "phases", "drift", "omega", "chirp"} <= set(whole)


def test_autocast_leaves_places_and_phases_alone() -> None:
    model = scattered(2, 1, 4, 1).float()
    with torch.no_grad():
        model.frequency.mul_(50)
    points = torch.linspace(-3, 3, 64)[:, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        waves = model.quadratures(points)
    assert waves.dtype == torch.float32
    assert torch.equal(waves, model.quadratures(points))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WavePackets(0, 1), "at least 1"),
        (lambda: WavePackets(1, 1, envelope="tall"), "'tall'"),
        (lambda: WavePackets(2, 1)(torch.zeros(3, 1)), "2 coordinates"),
        (lambda: WavePackets(1, 1)(torch.zeros(3, 1), 1.0), "drift=True"),
        (lambda: WavePackets(1, 1, drift=True)(torch.zeros(3, 1), torch.zeros(2)), "one for each of 3"),
    ],
)
def test_what_does_not_go_together_is_refused(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
