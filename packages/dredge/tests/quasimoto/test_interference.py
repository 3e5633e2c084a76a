"""The basis of interfering fields against the oracle and both published forms, also where those leave their range."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dredge.errors import ModelError
from dredge.quasimoto.interference import QuasimotoInterferenceBasis
from dredge.reference.oracle_waves import density, interference
from dredge.reference.original import InterferenceAfter, InterferenceBefore

pytestmark = pytest.mark.needs_extra("torch")


def _basis(dim: int, n: int, out: int, seed: int) -> QuasimotoInterferenceBasis:
    basis = QuasimotoInterferenceBasis(dim, n, out).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in basis.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return basis


def _at(dim: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, dim, generator=generator, dtype=torch.float64),
        torch.randn(n, generator=generator, dtype=torch.float64),
    )


@given(dim=st.integers(1, 5), n=st.integers(1, 4), out=st.integers(1, 3), seed=st.integers(0, 1000))
def test_outputs_are_those_of_the_oracle(dim: int, n: int, out: int, seed: int) -> None:
    basis = _basis(dim, n, out, seed)
    x, t = _at(dim, 3, seed)
    shared = {"log_sigma": basis.log_sigma.tolist(), "v": basis.v.tolist()}
    fields = [
        {name: basis.get_parameter(name)[j].tolist() for name in ("A", "k", "omega", "phi", "epsilon", "lmbda")}
        for j in range(n)
    ]
    rows = []
    for place, time in zip(x.tolist(), t.tolist(), strict=True):
        psi = interference(place, time, shared, fields)
        rows.append([value.real for value in psi] + [value.imag for value in psi])
    expected = torch.tensor(rows, dtype=torch.float64) @ basis.head.weight.T
    torch.testing.assert_close(basis(x, t), expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("published", [InterferenceBefore, InterferenceAfter])
@given(dim=st.integers(1, 6), seed=st.integers(0, 1000))
def test_published_windows_are_the_same_within_rounding(published, dim: int, seed: int) -> None:
    basis = _basis(dim, 3, 2, seed)
    other = published(dim, 3, 2).double()
    other.load_state_dict(basis.state_dict())
    x, t = _at(dim, 6, seed)
    torch.testing.assert_close(other(x, t), basis(x, t), atol=1e-12, rtol=1e-10)


def test_counts_are_those_that_were_published() -> None:
    counts = [sum(p.numel() for p in QuasimotoInterferenceBasis(dim, 8, 1).parameters()) for dim in (1, 3)]
    assert counts == [66, 102]


@pytest.mark.parametrize("dim", [12, 15, 20])
def test_the_logarithm_stays_in_range_where_products_leave_it(dim: int) -> None:
    basis = QuasimotoInterferenceBasis(dim, 2, 1)
    forms = [InterferenceBefore(dim, 2, 1), InterferenceAfter(dim, 2, 1)]
    sigma = torch.full((dim,), 1e-3)
    with torch.no_grad():
        basis.log_sigma.copy_(sigma.log())
        basis.v.zero_()
    x = torch.full((1, dim), 4e-3)
    found = basis.envelope(x, torch.zeros(1, 1)).item()
    expected = density([4e-3] * dim, [0.0] * dim, [1e-3] * dim)
    # |z|² / 2 and D log σ are near 10²: single precision keeps about 10⁻⁵ of their exponential.
    assert found == pytest.approx(expected, rel=3e-4)
    heights = [form.norm(sigma).item() for form in forms]
    truth = 1 / density([0.0] * dim, [0.0] * dim, [1e-3] * dim)
    errors = [abs(height / truth - 1) for height in heights]
    # The published change is the worse of the two: its product of widths leaves the range first.
    assert errors[1] >= errors[0] - 1e-6
    if dim == 15:
        assert errors[0] < 1e-4
        assert errors[1] > 0.1
    if dim == 20:
        assert heights == [0, 0]


def test_shapes_that_were_published_are_taken() -> None:
    basis = QuasimotoInterferenceBasis(1, 3, 2)
    x = torch.randn(5)
    expected = basis(x[:, None], torch.zeros(5, 1))
    assert torch.equal(basis(x, torch.tensor(0.0)), expected)
    assert torch.equal(basis(x, torch.zeros(5)), expected)


def test_what_a_basis_refuses() -> None:
    with pytest.raises(ModelError, match="got 0, 1, 1"):
        QuasimotoInterferenceBasis(0, 1, 1)
    basis = QuasimotoInterferenceBasis(3, 2)
    with pytest.raises(ModelError, match=r"places are N × 3, times one or N; got \(4, 2\)"):
        basis(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(ModelError, match=r"got \(4, 3\) and \(5,\)"):
        basis(torch.zeros(4, 3), torch.zeros(5))
