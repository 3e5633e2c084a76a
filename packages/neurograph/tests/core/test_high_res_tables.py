"""Tables against their formulas in double precision, quantisers, and steps that lose nothing."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.core import jit
from neurograph.core.high_res_tables import HighResolutionLookupTables, signal_of
from neurograph.errors import TableError

_FORMS = {
    "exp_sin": (lambda x: np.exp(np.sin(x)), -math.pi, math.pi),
    "exp": (np.exp, -3.0, 3.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -3.0, 3.0),
}


@pytest.mark.parametrize("magnitude", _FORMS)
@pytest.mark.parametrize("grid", ["half_open", "inclusive"])
def test_tables_are_their_formulas(magnitude, grid) -> None:
    tables = HighResolutionLookupTables(24, 40, magnitude=magnitude, grid=grid, dtype=torch.float64)
    form, low, high = _FORMS[magnitude]
    x = np.linspace(low, high, 41)[:-1] if grid == "half_open" else np.linspace(low, high, 40)
    np.testing.assert_allclose(tables.mag.numpy(), form(x), atol=1e-12)
    slope = (form(x + 1e-6) - form(x - 1e-6)) / 2e-6
    np.testing.assert_allclose(tables.mag_slope.numpy(), slope, atol=1e-8)
    np.testing.assert_allclose(tables.cos.numpy(), np.cos(2 * np.pi * np.arange(24) / 24), atol=1e-15)
    assert tables.mag_step == pytest.approx(x[1] - x[0])


@given(p=st.integers(-2000, 2000), m=st.integers(-3000, 3000), g=st.floats(-3, 3))
def test_signal_and_gradients_are_the_derivatives(p: int, m: int, g: float) -> None:
    tables = HighResolutionLookupTables(64, 96, dtype=torch.float64)
    theta, x = 2 * math.pi * p / 64, -math.pi + 2 * math.pi * m / 96
    signal = math.cos(theta) * math.exp(math.sin(x))
    pi, mi = torch.tensor([p]), torch.tensor([m])
    assert tables.get_signal_vector(pi, mi).item() == pytest.approx(signal, abs=1e-9)
    phase, mag = tables.compute_signal_gradients(pi, mi, torch.tensor([g], dtype=torch.float64))
    assert phase.item() == pytest.approx(-math.sin(theta) * math.exp(math.sin(x)) * g, abs=1e-9)
    assert mag.item() == pytest.approx(math.cos(theta) * math.cos(x) * math.exp(math.sin(x)) * g, abs=1e-9)


def test_the_originals_magnitude_gradient_has_the_wrong_sign_on_half_of_the_bins() -> None:
    tables = HighResolutionLookupTables(8, 400)
    wrong = (tables.mag_slope < 0).sum().item()  # the original took a(x) itself, which is positive everywhere
    assert 195 <= wrong <= 205


def test_magnitudes_wrap_only_where_the_function_does() -> None:
    m = torch.tensor([-1, 8])
    assert HighResolutionLookupTables(4, 8).wrap_magnitude(m).tolist() == [7, 0]
    assert HighResolutionLookupTables(4, 8, grid="inclusive").wrap_magnitude(m).tolist() == [0, 7]
    assert HighResolutionLookupTables(4, 8, magnitude="exp").wrap_magnitude(m).tolist() == [0, 7]


@given(theta=st.floats(-50, 50))
def test_a_phase_falls_into_the_bin_that_holds_it(theta: float) -> None:
    tables = HighResolutionLookupTables(32, 4, dtype=torch.float64)
    p = tables.quantize_to_phase(torch.tensor([theta], dtype=torch.float64)).item()
    assert 0 <= p < 32
    offset = (theta - p * tables.phase_step) % (2 * math.pi)
    assert offset < tables.phase_step + 1e-9 or offset > 2 * math.pi - 1e-9


def test_places_outside_the_grid_are_held_at_its_ends() -> None:
    tables = HighResolutionLookupTables(4, 8, magnitude="exp")
    assert tables.quantize_to_magnitude(torch.tensor([-9.0, -3.0, 0.0, 2.99, 9.0])).tolist() == [0, 0, 4, 7, 7]


@given(gradient=st.floats(-2, 2), rate=st.floats(1e-4, 0.2))
def test_a_constant_gradient_moves_an_index_at_its_own_pace(gradient: float, rate: float) -> None:
    tables = HighResolutionLookupTables(512, 1024, dtype=torch.float64)
    residual, phase, mag = None, 0, 0
    g = torch.tensor([gradient], dtype=torch.float64)
    for _ in range(60):
        update = tables.quantize_gradients_to_discrete_updates(g, g, rate, rate, residual)
        phase, mag, residual = phase + update.phase.item(), mag + update.mag.item(), update.residual
    assert phase == pytest.approx(-60 * rate * gradient / (2 * math.pi / 512), abs=0.5 + 1e-6)
    assert mag == pytest.approx(-60 * rate * gradient / (2 * math.pi / 1024), abs=0.5 + 1e-6)


def test_steps_wrap_phases_and_keep_the_type() -> None:
    tables = HighResolutionLookupTables(8, 4, grid="inclusive")
    p, m = (torch.tensor([i], dtype=torch.int16) for i in (7, 3))
    p, m = tables.apply_discrete_updates(p, m, torch.tensor([2]), torch.tensor([5]))
    assert (p.item(), m.item(), p.dtype) == (1, 3, torch.int16)


def test_bytes_are_those_of_the_tables() -> None:
    assert HighResolutionLookupTables(32, 512).nbytes == (2 * 32 + 2 * 512) * 4
    fused = HighResolutionLookupTables(512, 1024, fused=True)
    assert fused.nbytes == (2 * 512 + 2 * 1024 + 512 * 1024) * 4
    p, m = torch.arange(1024).view(2, -1), torch.arange(1024).view(2, -1).flip(1)
    torch.testing.assert_close(
        fused.get_signal_vector(p, m), HighResolutionLookupTables(512, 1024).get_signal_vector(p, m), atol=1e-6, rtol=0
    )


def test_mapped_tables_are_equal_and_others_are_refused(tmp_path) -> None:
    tables = HighResolutionLookupTables(16, 32)
    tables.save(tmp_path / "t.npy")
    mapped = tables.mapped(tmp_path / "t.npy")
    for name in ("cos", "sin", "mag", "mag_slope"):
        assert torch.equal(getattr(mapped, name), getattr(tables, name))
    with pytest.raises(TableError, match="holds 192 numbers"):
        HighResolutionLookupTables(32, 64).mapped(tmp_path / "t.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phase_bins": 1}, "phase_bins = 1"),
        ({"mag_bins": 0}, "mag_bins = 0"),
        ({"magnitude": "cube"}, "'cube'"),
        ({"grid": "open"}, "'open'"),
    ],
)
def test_tables_that_cannot_be_are_refused(arguments, message: str) -> None:
    plain = HighResolutionLookupTables.__init__
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__  # the shape checker would refuse some of these before the class does
    with pytest.raises(TableError, match=message):
        plain(object.__new__(HighResolutionLookupTables), **arguments)


def test_numbers_are_no_indices() -> None:
    tables = HighResolutionLookupTables()
    plain = HighResolutionLookupTables.wrap_phase
    while hasattr(plain, "__wrapped__"):
        plain = plain.__wrapped__
    with pytest.raises(TableError, match=r"got torch\.float32"):
        plain(tables, torch.ones(2))


def test_building_tables_says_whether_look_ups_are_compiled(caplog) -> None:
    for on, words in ((True, "compiled at their first call"), (False, "never compiled")):
        jit.enable_jit(on)
        try:
            with caplog.at_level(logging.INFO):
                caplog.clear()
                HighResolutionLookupTables(4, 4)
            assert [words in record.getMessage() for record in caplog.records] == [True]
        finally:
            jit.enable_jit(True)


def test_small_calls_are_never_compiled() -> None:
    before = jit.jit_status()[signal_of.__qualname__].runs
    tables = HighResolutionLookupTables()
    tables.get_signal_vector(torch.zeros(10, 5, dtype=torch.long), torch.zeros(10, 5, dtype=torch.long))
    assert jit.jit_status()[signal_of.__qualname__].runs == before
