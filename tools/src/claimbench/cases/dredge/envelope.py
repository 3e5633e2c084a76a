"""The height of the window: a product of σ √2π, a product of σ times a power of 2π, and ours, a sum of logarithms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from claimbench.case import Case, Counted, Tolerance, Workload
from claimbench.cases.dredge.counting import made
from claimbench.cases.dredge.problem import default_device, not_timed
from claimbench.record import Params
from dredge.quasimoto.interference import MIN_SIGMA, QuasimotoInterferenceBasis
from dredge.reference.original import InterferenceAfter, InterferenceBefore

__all__ = ["CASES"]

FORMS: Mapping[str, type[nn.Module]] = {
    "before": InterferenceBefore, "after": InterferenceAfter, "best": QuasimotoInterferenceBasis,
}  # fmt: skip
FIELDS, POINTS = 8, 1000
EXPONENT = 40.0
"""−log of the shape of a narrow window where its height is looked at, which alone would not fit into float32."""
RIGHT = 0.01
CASES_DRAWN = 2000

_REASON = "float32: the same products in another order"


Height = Callable[[Tensor], tuple[Tensor, Tensor]]


def _heights(dims: int) -> dict[str, Height]:
    """The widths and 1 / N, from the widths' logarithms: places are divided by the widths, so each form needs them."""

    def published(form: type[InterferenceBefore]) -> Height:
        basis = form(dims, 1, 1)

        def found(log_sigma: Tensor) -> tuple[Tensor, Tensor]:
            sigma = torch.exp(log_sigma).clamp(min=MIN_SIGMA)
            return sigma, 1 / basis.norm(sigma)

        return found

    def best(log_sigma: Tensor) -> tuple[Tensor, Tensor]:
        widths = log_sigma.clamp(min=math.log(MIN_SIGMA))
        return torch.exp(widths), torch.exp(-widths.sum() - dims / 2 * math.log(2 * math.pi))

    return {"before": published(InterferenceBefore), "after": published(InterferenceAfter), "best": best}


def _height(dims: int) -> Workload:
    def inputs(seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {"log_sigma": (0.3 * torch.randn(dims, generator=generator)).to(default_device())}

    ones = torch.ones(dims, device=default_device()), torch.ones((), device=default_device())

    def variant(height: Height) -> Callable[[Any], Any]:
        def call(given: Any) -> Any:
            log_sigma = given["log_sigma"].detach().requires_grad_()
            sigma, value = height(log_sigma)
            torch.autograd.backward((sigma, value), ones)
            return {"sigma": sigma.detach(), "value": value.detach(), "gradient": log_sigma.grad}

        return call

    variants = {name: variant(height) for name, height in _heights(dims).items()}
    return Workload(inputs=inputs, variants=variants, tolerance=Tolerance(relative=1e-4, reason=_REASON))


def _bases(dims: int) -> dict[str, nn.Module]:
    """The three forms with the same parameters."""
    torch.manual_seed(0)
    state = InterferenceBefore(dims, FIELDS, 1).state_dict()
    found = {}
    for name, form in FORMS.items():
        found[name] = form(dims, FIELDS, 1).to(default_device())
        found[name].load_state_dict(state)
    return found


def _places(dims: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, t, y = (torch.randn(shape, generator=generator) for shape in ((POINTS, dims), (POINTS,), (POINTS, 1)))
    return {name: tensor.to(default_device()) for name, tensor in (("x", x), ("t", t), ("y", y))}


def _pass(dims: int) -> Workload:
    def variant(basis: nn.Module) -> Callable[[Any], Any]:
        def call(given: Any) -> Any:
            basis.zero_grad()
            found = basis(given["x"], given["t"])
            (found - given["y"]).square().mean().backward()
            return {"found": found.detach(), "gradients": {name: p.grad for name, p in basis.named_parameters()}}

        return call

    return Workload(
        inputs=lambda seed: _places(dims, seed),
        variants={name: variant(basis) for name, basis in _bases(dims).items()},
        tolerance=Tolerance(relative=1e-4, absolute=1e-6, reason=_REASON),
    )


def _timed(params: Params) -> Workload:
    return (_height if params["what"] == "height" else _pass)(int(params["dims"]))


def _allocated(params: Params) -> Iterable[Counted]:
    dims = int(params["dims"])
    given = _places(dims, 0)
    for name, basis in _bases(dims).items():
        found = made(lambda basis=basis: basis(given["x"], given["t"]))  # type: ignore[misc]
        words = f"of a forward pass of {POINTS} points and {FIELDS} fields"
        yield Counted("tensors", found.tensors, name, "", words)
        yield Counted("bytes", found.bytes, name, "B", words)


def _exponent(sigma: float) -> float:
    """−log of the shape where a window is looked at; a wide one at its middle, where it is largest."""
    return EXPONENT if sigma < 1 else 0.0


def _window(form: type[nn.Module], dims: int, sigma: float) -> float:
    """The window at one place, through the whole forward pass of one field that adds nothing to it."""
    basis = form(dims, 1, 1)
    values = {"log_sigma": math.log(sigma), "phi": math.pi / 2, "A": 1.0}
    with torch.no_grad():
        for name, parameter in basis.named_parameters():
            parameter.fill_(values.get(name, 0.0))
        basis.get_parameter("head.weight").copy_(torch.tensor([[1.0, 0.0]]))
        x = torch.full((1, dims), sigma * math.sqrt(2 * _exponent(sigma) / dims))
        return float(basis(x, torch.zeros(1)))


def _range(params: Params) -> Iterable[Counted]:
    """Up to how many dimensions each form is right; all values asked for fit into float32."""
    sigma, most = float(params["sigma"]), int(params["most"])
    right = {}
    for name, form in FORMS.items():
        errors = []
        for dims in range(1, most + 1):
            log_height = -dims * (math.log(sigma) + math.log(2 * math.pi) / 2)
            exact = math.exp(log_height - _exponent(sigma))
            errors.append(abs(_window(form, dims, sigma) / exact - 1))
        wrong = [dims for dims, error in enumerate(errors, start=1) if not error <= RIGHT]
        right[name] = (wrong[0] if wrong else most + 1) - 1
        words = f"right within 1 % up to {right[name]} of {most} dimensions"
        if wrong:
            words += f"; with {wrong[0]} it is off by {100 * errors[wrong[0] - 1]:.3g} %"
        yield Counted("right", right[name], name, "dimensions", words)
    words = f"before up to {right['before']}, after up to {right['after']}, of {most}"
    yield Counted("gained", right["after"] - right["before"], "after", "dimensions", words)


def _same(_params: Params) -> Iterable[Counted]:
    generator = np.random.default_rng(0)
    largest, other = 0.0, 0
    for _ in range(CASES_DRAWN):
        dims = int(generator.integers(1, 17))
        heights = _heights(dims)
        widths = torch.from_numpy(generator.normal(0, 1, dims)).float()
        before, after = (float(heights[name](widths)[1]) for name in ("before", "after"))
        largest, other = max(largest, abs(after / before - 1)), other + (after != before)
    words = f"{CASES_DRAWN} cases of 1 to 16 dimensions, log σ ~ N(0, 1); {100 * other / CASES_DRAWN:.0f} % differ"
    yield Counted("off", largest, "after", "", words)


_POINTS: tuple[Params, ...] = (
    {"what": "height", "dims": 3}, {"what": "height", "dims": 16}, {"what": "pass", "dims": 3},
)  # fmt: skip

CASES = (
    Case(
        "dredge.envelope",
        "the window's height, and a whole pass of the basis, forward and backward",
        "torch",
        _timed,
        grid=_POINTS,
        variants=tuple(FORMS),
        original=(InterferenceBefore,),
        budget=2.4,
    ),
    Case(
        "dredge.envelope_memory",
        "tensors that a forward pass of the basis makes",
        "torch",
        not_timed,
        values=_allocated,
        values_grid=({"dims": 3}, {"dims": 16}),
        original=(InterferenceBefore,),
    ),
    Case(
        "dredge.envelope_range",
        "dimensions up to which the window is right in float32",
        "torch",
        not_timed,
        values=_range,
        values_grid=({"sigma": 0.001, "most": 20}, {"sigma": 0.01, "most": 30}, {"sigma": 100.0, "most": 15}),
        original=(InterferenceBefore,),
    ),
    Case(
        "dredge.envelope_same",
        "how far the two published forms lie apart",
        "torch",
        not_timed,
        values=_same,
        values_grid=({"cases": CASES_DRAWN},),
        original=(InterferenceBefore,),
    ),
)
