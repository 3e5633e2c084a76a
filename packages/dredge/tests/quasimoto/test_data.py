"""Published targets against NumPy in double precision, and the facts that every figure must be read against."""

import numpy as np
import pytest
import torch

from dredge.errors import ModelError
from dredge.quasimoto.data import generate_4d_data, generate_6d_data, generate_data
from dredge.reference.original import chained_4d, chained_6d, in_place_4d, in_place_6d

pytestmark = pytest.mark.needs_extra("torch")


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


def test_the_chirp() -> None:
    x, t, y = generate_data()
    assert [tuple(part.shape) for part in (x, t, y)] == [(1000, 1)] * 3
    assert not t.any()
    places = np.linspace(-10, 10, 1000)
    expected = np.sin(places**2 / 2) * np.exp(-(places**2) / 10)
    expected[500:550] += 0.5 * np.sin(20 * places[500:550])
    np.testing.assert_allclose(_numbers(y)[:, 0], expected, atol=2e-5)
    assert y.mean().item() == pytest.approx(0.07937, abs=1e-5)
    assert y.var(correction=0).item() == pytest.approx(0.06457, abs=1e-5)
    assert (x[500].item(), x[549].item()) == (pytest.approx(0.01001, abs=1e-5), pytest.approx(0.99099, abs=1e-5))


@pytest.mark.parametrize(("shift", "odd"), [((0, 0, 0), False), ((1.5, -1, 0.5), False), ((0, 0, 0), True)])
def test_the_4d_target_and_its_variants(shift, odd: bool) -> None:
    *coords, t, values = generate_4d_data(9, shift=shift, odd=odd)
    assert values.shape == (729, 1)
    assert not t.any()
    x, y, z = (_numbers(c) - s for c, s in zip(coords, shift, strict=True))
    first = np.cos(2 * x) if odd else np.sin(2 * x)
    expected = np.exp(-(x**2 + y**2 + z**2) / 2) * first * np.cos(2 * y) * np.sin(2 * z)
    np.testing.assert_allclose(_numbers(values)[:, 0], expected, atol=1e-6)
    if shift == (0, 0, 0):
        mirrored = values.flip(0)
        torch.testing.assert_close(mirrored, -values if odd else values, atol=1e-7, rtol=0)


def test_the_6d_target() -> None:
    *c, t, values = generate_6d_data(4)
    a, b, d, e, f = (_numbers(part) for part in c)
    expected = (
        np.exp(-(a**2 + b**2 + d**2 + e**2 + f**2) / 10) * np.sin(a + b) * np.cos(d) * np.sin(e - f) * np.cos(b * e)
    )
    np.testing.assert_allclose(_numbers(values)[:, 0], expected, atol=1e-6)
    assert t.shape == (1024,)
    assert not t.any()


def test_published_forms_give_the_same_numbers() -> None:
    assert torch.equal(chained_4d(20), in_place_4d(20))
    assert torch.equal(chained_6d(5), in_place_6d(5))
    torch.testing.assert_close(generate_4d_data(20)[-1], chained_4d(20), atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(generate_6d_data(5)[-1], chained_6d(5), atol=1e-7, rtol=1e-5)


def test_facts_of_the_study() -> None:
    values = generate_4d_data(20)[-1]
    assert values.square().mean().item() == pytest.approx(5.856e-4, rel=1e-3)
    assert values.abs().max().item() == pytest.approx(0.4478, abs=1e-4)
    assert generate_4d_data(15)[-1].square().mean().item() == pytest.approx(5.535e-4, rel=1e-3)
    values = generate_6d_data()[-1]
    assert values[:100].square().mean().item() == pytest.approx(2.17e-5, rel=1e-2)
    assert values.abs().max().item() == pytest.approx(0.5956, abs=1e-4)


def test_what_generators_refuse() -> None:
    for make in (generate_4d_data, generate_6d_data):
        with pytest.raises(ModelError, match="got 1"):
            make(1)
    with pytest.raises(ModelError, match="three coordinates; got 2"):
        generate_4d_data(4, shift=(1, 2))
