"""Every form of the scalar network gives the numbers and the gradients of the contractions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spd.kernels import ci_mlp


def _operands(n: int, c: int, hidden: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n + 7 * c + 31 * hidden)
    shapes = ((n, c), (c, 1, hidden), (c, hidden), (c, hidden, 1), (c, 1))
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("kernel", ["broadcast", "recompute"])
@given(n=st.integers(1, 9), c=st.integers(1, 5), hidden=st.integers(1, 6), block=st.integers(1, 60))
def test_forms_agree(kernel: ci_mlp.CiKernel, n: int, c: int, hidden: int, block: int) -> None:
    operands = _operands(n, c, hidden)
    expected = ci_mlp.scalar_mlp(*operands, "einsum")
    weights = torch.randn_like(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ci_mlp, "_BLOCK_ELEMENTS", block)
        found = ci_mlp.scalar_mlp(*operands, kernel)
        gradients = torch.autograd.grad((found * weights).sum(), operands)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), operands), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_positions_may_have_any_shape() -> None:
    operands = _operands(6, 3, 4)
    shaped = operands[0].view(2, 3, 3)
    found = ci_mlp.scalar_mlp(shaped, *operands[1:], "recompute")
    torch.testing.assert_close(found.flatten(0, 1), ci_mlp.scalar_mlp(*operands, "einsum"))


def test_only_the_inner_activations_are_kept_for_the_backward_pass() -> None:
    n, c, hidden = 50, 4, 16
    kept = {}
    for kernel in ("einsum", "recompute"):
        saved: list[int] = []
        operands = _operands(n, c, hidden)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            ci_mlp.scalar_mlp(*operands, kernel)
        kept[kernel] = sum(saved) - sum(p.numel() for p in operands[1:])
    assert kept["recompute"] <= n * c
    assert kept["einsum"] >= 10 * kept["recompute"]
