"""Signals are lifted to what they are made of, the same whatever their order, and odd ones are refused or explained."""

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dredge.config import LimitSettings
from dredge.errors import MissingExtraError, SignalError
from dredge.signals import lift_signal, samples_of, signal_id

extra = pytest.mark.needs_extra("torch")


def two_packets(points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-4, 4, points)
    first = 0.8 * np.exp(-0.5 * ((x - 1.2) / 0.3) ** 2) * np.cos(2 * np.pi * 5.1 * (x - 1.2))
    second = 0.4 * np.exp(-0.5 * ((x + 2) / 0.8) ** 2) * np.cos(2 * np.pi * 1.5 * (x + 2) + 1)
    return x, first + second + 0.5


@extra
def test_a_signal_is_lifted_to_what_it_is_made_of() -> None:
    x, y = two_packets()
    lifted = lift_signal(x, y, title="Two waves")
    assert [p["amplitude"] for p in sorted(lifted.packets, key=lambda p: -p["amplitude"])] == pytest.approx(
        [0.8, 0.4], rel=1e-2
    )
    assert lifted.text.startswith("Two waves: 2 packets explain 100 % of 300 samples over -4 to 4")
    assert "at 1.2 width 0.3 frequency 5.1 amplitude 0.8" in lifted.text
    assert "at -2 width 0.8 frequency 1.5 amplitude 0.4" in lifted.text
    assert lifted.id == signal_id(x, y)
    assert lifted.residual == lifted.document["residual"]["rms"] < 1e-2
    assert lifted.document["constant"] == pytest.approx(0.5, abs=1e-3)


@extra
def test_the_document_holds_what_a_page_draws() -> None:
    x, y = two_packets()
    lifted = lift_signal(x, y, title="Two waves")
    document = json.loads(json.dumps(lifted.document, allow_nan=False))
    assert document == lifted.document
    assert document["packets"] == lifted.packets
    line = document["fit"]
    assert np.allclose(np.sum(line["packets"], axis=0) + document["constant"], line["values"])
    at = np.interp(x, line["coords"], line["values"])
    assert np.abs(at - y).max() < 0.15
    assert document["samples"] == {"coords": x.tolist(), "values": y.tolist(), "thinned": False}
    import torch

    rebuilt = lifted.model()(torch.tensor(line["coords"], dtype=torch.float64)[:, None])
    assert np.allclose(rebuilt.detach()[:, 0], line["values"], atol=1e-9)


@extra
def test_the_order_of_samples_changes_nothing() -> None:
    x, y = two_packets(120)
    order = np.random.default_rng(0).permutation(len(x))
    one, other = lift_signal(x, y), lift_signal(x[order].tolist(), y[order].tolist())
    assert one == other


@extra
def test_units_change_numbers_and_not_packets() -> None:
    x, y = two_packets(200)
    plain, scaled = lift_signal(x, y), lift_signal(1e6 * x + 1e7, 1e-3 * y)
    assert len(plain.packets) == len(scaled.packets)
    for a, b in zip(plain.packets, scaled.packets, strict=True):
        assert b["width"][0] == pytest.approx(1e6 * a["width"][0], rel=1e-3)
        assert b["amplitude"] == pytest.approx(1e-3 * a["amplitude"], rel=1e-3)


@extra
def test_several_samples_at_one_place_are_fitted_by_their_mean() -> None:
    x = np.repeat(np.linspace(-3, 3, 80), 2)
    wave = np.exp(-(x**2)) * np.cos(4 * x)
    y = wave + np.tile([0.05, -0.05], 80)
    lifted = lift_signal(x, y)
    assert lifted.document["repeated"] == 80
    import torch

    found = lifted.model()(torch.tensor(x)[:, None]).detach()[:, 0].numpy()
    assert np.abs(found - wave).max() < 0.02
    assert lifted.residual == pytest.approx(0.05, rel=0.05)


@extra
@pytest.mark.parametrize("level", [0.0, 3.25, -1e9])
def test_a_constant_has_no_packet(level: float) -> None:
    lifted = lift_signal([0, 1, 2, 5], [level] * 4, title="flat")
    assert lifted.packets == []
    assert lifted.residual == 0
    assert lifted.text == f"flat: 4 samples over 0 to 5, constant at {level:.4g}"
    assert set(lifted.document["fit"]["values"]) == {level}
    import torch

    assert lifted.model()(torch.zeros(1, 1, dtype=torch.float64)).item() == level


@extra
def test_pictures_have_two_axes_and_long_signals_are_thinned() -> None:
    axis = np.linspace(-1, 1, 48)
    coords = np.stack([a.ravel() for a in np.meshgrid(axis, axis, indexing="ij")], axis=1)
    values = np.exp(-4 * (coords**2).sum(1)) * np.cos(9 * coords[:, 0])
    lifted = lift_signal(coords, values, max_packets=3)
    document = lifted.document
    assert document["samples"]["thinned"]
    assert len(document["samples"]["values"]) == 2000 == len(document["residual"]["values"])
    assert document["fit"]["shape"] == [64, 64]
    assert len(document["fit"]["values"]) == 64 * 64
    assert document["residual"]["explained"] > 0.99
    assert "at (" in lifted.text


@extra
@pytest.mark.parametrize("size", [1e-170, 1e-30, 5e39])
def test_values_of_any_size_are_lifted_to_the_same_packets(size: float) -> None:
    x, y = two_packets(150)
    plain, scaled = lift_signal(x, y, max_packets=2), lift_signal(x, size * y, max_packets=2)
    json.dumps(scaled.document, allow_nan=False)
    assert scaled.residual == pytest.approx(size * plain.residual, rel=1e-3, abs=0)
    for a, b in zip(plain.packets, scaled.packets, strict=True):
        assert b["frequency"] == pytest.approx(a["frequency"], rel=1e-3)
        assert b["amplitude"] == pytest.approx(size * a["amplitude"], rel=1e-3, abs=0)


@extra
def test_the_largest_coordinates_have_a_finite_energy() -> None:
    axes = [np.linspace(-1e40, 1e40, 3)] * 5
    coords = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], axis=1)
    lifted = lift_signal(coords, 1e40 * np.cos(1e-40 * coords @ np.arange(1, 6)), max_packets=1)
    json.dumps(lifted.document, allow_nan=False)
    assert lifted.packets[0]["energy"] > 0


@extra
def test_two_places_are_enough() -> None:
    lifted = lift_signal([0, 0, 1, 1], [0, 1, 2, 3])
    # Through the means of each place, 0.5 and 2.5.
    assert lifted.document["residual"]["explained"] == pytest.approx(0.8, abs=1e-3)


@extra
def test_time_and_packets_are_bounded() -> None:
    random = np.random.default_rng(0)
    x, y = np.arange(200.0), random.normal(size=200)
    assert 1 <= len(lift_signal(x, y, seconds=1e-6).packets) <= 2
    assert 1 <= len(lift_signal(x, y, seconds=100, limits=LimitSettings(fit_seconds=1e-6)).packets) <= 2
    assert len(lift_signal(x, y, max_packets=3).packets) <= 3
    with pytest.raises(SignalError, match=r"at most 100 samples; got 200\. Keep one of every 2"):
        lift_signal(x, y, limits=LimitSettings(signal_points=100))


@extra
@settings(max_examples=10)
@given(
    y=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=30),
    scale=st.sampled_from([1e-9, 1.0, 1e9]), max_packets=st.integers(1, 3),
)  # fmt: skip
def test_any_finite_signal_is_lifted(y: list[float], scale: float, max_packets: int) -> None:
    lifted = lift_signal([scale * i for i in range(len(y))], y, max_packets=max_packets)
    json.dumps(lifted.document, allow_nan=False)
    assert 0 <= lifted.document["residual"]["explained"] <= 1
    assert len(lifted.packets) <= max_packets
    assert lifted.residual <= np.std(y) * (1 + 1e-6) + 1e-9


def test_an_id_is_of_the_numbers() -> None:
    one = signal_id([0, 1, 2, 3], [1, 2, 3, 4])
    assert len(one) == 64
    assert one == signal_id(np.arange(4), np.arange(1.0, 5)) == signal_id([[3], [2], [1], [0]], [[4], [3], [2], [1]])
    assert one != signal_id([0, 1, 2, 3], [1, 2, 3, 5])
    # The rows (0, 1), (1, 2), … as little-endian float64, after the number of axes.
    import hashlib
    import struct

    rows = struct.pack("<q8d", 1, 0, 1, 1, 2, 2, 3, 3, 4)
    assert one == hashlib.sha256(rows).hexdigest()


@pytest.mark.parametrize(
    ("coords", "values", "message"),
    [
        ([0, 1, 2, 3], [0, 1, math.nan, 3], "every value is a finite number; 1 are not, the first at 2"),
        ([0, 1, math.inf, 3], [0, 1, 2, 3], "every coordinate is a finite"),
        ([0], [1], "at least 4 samples; got 1"),
        ([], [], "at least 4"),
        ([0, 1, 2], [0, 1, 2, 3], "a value for each coordinate; got 3 coordinates and 4"),
        ([1, 1, 1, 1], [0, 1, 2, 3], "differ on every axis; on axis 0 all are 1"),
        ([[0, 5], [1, 5], [2, 5], [3, 5]], [0, 1, 2, 3], "on axis 1 all are 5"),
        ([[0] * 6] * 4, [0, 1, 2, 3], "1 to 5 coordinates; got 6"),
        ([0, 1, 2, 3], [[0, 1]] * 4, "one by one"),
        ([[0, 1], [2], [3], [4]], [0, 1, 2, 3], "rows of equal length"),
        (["a", "b", "c", "d"], [0, 1, 2, 3], "numbers"),
        ([True, False, True, False], [0, 1, 2, 3], "numbers"),
        ([0, 1, 2, None], [0, 1, 2, 3], "numbers.*NoneType"),
        ([0, 1, 2, 3], [0, 1, 2, 10**400], "numbers"),
        ([0, 1, 2, 3], [0, 1, 2, 1e300], "±1e40; the largest is 1e\\+300"),
        ([-1.7e308, 1.7e308, 0, 1], [0, 1, 2, 3], "±1e40; the largest is 1.7e\\+308"),
        ([0, 1e-200, 2e-200, 3e-200], [0, 1, 2, 3], "at least 1e-40 long; axis 0 is 3e-200"),
        ([0, 1, 2, 3], ["1", 2, 3, 10**30], "numbers.*type str"),
        ([0, 1, 2, 3], [True, 2, 3, 10**30], "numbers.*type bool"),
        ([0, 1, 2, 3], [0, 1, 2, 3j], "numbers.*complex"),
        ([0, 1, 2, 3], np.ma.array([1.0, 2, 3, 4], mask=[0, 1, 0, 0]), "every value is a finite number; 1 are not"),
    ],
)
def test_what_cannot_be_fitted_is_refused(coords: Any, values: Any, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        samples_of(coords, values)
    with pytest.raises(SignalError):
        signal_id(coords, values)


@extra
def test_options_that_cannot_be_are_refused() -> None:
    x, y = two_packets(50)
    with pytest.raises(SignalError, match="1 to 64 packets; got 0"):
        lift_signal(x, y, max_packets=0)
    with pytest.raises(SignalError, match="more than 0 seconds"):
        lift_signal(x, y, seconds=0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="'inr'"):
        lift_signal([0, 1, 2, 3], [0, 1, 0, 1])


def test_the_module_and_ids_load_no_torch() -> None:
    code = (
        "import sys; from dredge.signals import signal_id; signal_id(range(4), range(4)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
