"""Golden values are worked from the formulas in plain floats."""

import math

import pytest
import torch

from spd.errors import ConfigError
from spd.models import sigmoids

Z = [-2.0, -0.001, 0.0, 0.25, 1.0, 1.001, 3.0]


def _swish(z: float) -> float:
    def logistic(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    y = z - 0.5
    return (
        0.5
        + (y - 0.5) * logistic(-10 * (y - 0.5))
        - y * logistic(10 * y)
        + (y + 0.5) * logistic(10 * (y + 0.5))
        - y * logistic(-10 * y)
    )


FORMULAS = {
    "lower_leaky_hard": lambda z: min(max(z, 0), 1),
    "upper_leaky_hard": lambda z: 1 + 0.01 * (z - 1) if z > 1 else max(z, 0),
    "leaky_hard": lambda z: 0.01 * z if z <= 0 else z if z < 1 else 1 + 0.01 * (z - 1),
    "lower_leaky_hard_published": lambda z: 0.01 * z if z <= 0 else min(z, 1),
    "hard": lambda z: min(max(z, 0), 1),
    "swish_hard": _swish,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values(name: str) -> None:
    z = torch.tensor(Z, dtype=torch.float64)
    expected = torch.tensor([float(FORMULAS[name](x)) for x in Z], dtype=torch.float64)
    torch.testing.assert_close(getattr(sigmoids, name)(z), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("wanted", "slope"), [("larger", 0.01), ("smaller", 0.0)])
def test_below_zero_only_a_gradient_that_asks_for_more_leaks(wanted: str, slope: float) -> None:
    z = torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    sign = -1.0 if wanted == "larger" else 1.0
    (sign * sigmoids.lower_leaky_hard(z)).sum().backward()
    assert z.grad is not None
    assert z.grad.tolist() == pytest.approx([sign * slope, sign * slope, sign, sign, 0.0])


@pytest.mark.parametrize("name", ["upper_leaky_hard", "leaky_hard", "lower_leaky_hard_published", "swish_hard"])
def test_gradients_are_those_of_the_values(name: str) -> None:
    z = torch.tensor([-1.5, -0.3, 0.2, 0.7, 1.2, 2.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(sigmoids, name), z)


def test_each_type_has_a_function_for_masks_and_one_for_the_penalty() -> None:
    pair = sigmoids.sigmoid_pair("leaky_hard")
    assert (pair.masks, pair.penalty) == (sigmoids.lower_leaky_hard, sigmoids.upper_leaky_hard)
    for name in sigmoids.SIGMOIDS:
        assert sigmoids.sigmoid_pair(name).masks is sigmoids.sigmoid_pair(name).penalty is sigmoids.SIGMOIDS[name]
    with pytest.raises(ConfigError, match="got 'soft'"):
        sigmoids.sigmoid_pair("soft")
