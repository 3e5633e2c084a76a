"""QRESU: codes, bytes counted on live storages, values and gradients against a dense layer, and what comes back."""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resu.core.mask import SparseMask
from resu.errors import ConfigError, MaskError
from resu.quant.packed import PackedLinear, Scope, pack_codes, packed_bytes, unpack_codes


def make(
    rows: int, cols: int, sparsity: float, seed: int = 0, *, bias: bool = True, **options: Any
) -> tuple[nn.Linear, SparseMask, PackedLinear]:
    torch.manual_seed(seed)
    linear, mask = nn.Linear(cols, rows, bias=bias), SparseMask.random((rows, cols), sparsity, seed=seed)
    return linear, mask, PackedLinear.from_linear(linear, mask, **options)


def quantised(w: np.ndarray, active: np.ndarray, bits: int, per: Scope) -> np.ndarray:
    """Asymmetric min-max in float64, element by element; 0 at pruned coordinates."""
    out = np.zeros_like(w)
    for rows in [[r] for r in range(len(w))] if per == "row" else [list(range(len(w)))]:
        values = w[rows][active[rows]]
        if not values.size:
            continue
        low, high = values.min(), values.max()
        scale = (high - low) / (2**bits - 1) or 1.0
        for r in rows:
            out[r, active[r]] = np.round((w[r, active[r]] - low) / scale) * scale + low
    return out


@given(n=st.integers(0, 41), bits=st.sampled_from([4, 8]), seed=st.integers(0, 99), data=st.data())
def test_codes_come_back_from_any_stretch(n: int, bits: int, seed: int, data: st.DataObject) -> None:
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**bits, n).astype(np.uint8))
    packed = pack_codes(codes, bits)
    assert packed.numel() == -(-n * bits // 8)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    assert torch.equal(unpack_codes(packed, bits, start, stop), codes[start:stop])


@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 40),
    sparsity=st.sampled_from([0.0, 0.5, 0.9]),
    bits=st.sampled_from([4, 8]),
    per=st.sampled_from(["row", "tensor"]),
    seed=st.integers(0, 1000),
)
def test_active_weights_are_quantised_and_theta_is_beside_them(
    rows: int, cols: int, sparsity: float, bits: int, per: Scope, seed: int
) -> None:
    linear, mask, packed = make(rows, cols, sparsity, seed, bits=bits, per=per)
    w, active = linear.weight.detach().double().numpy(), mask.to_bool().numpy()
    expected = quantised(w, active, bits, per)
    with torch.no_grad():
        packed.theta.copy_(torch.randn(mask.n_pruned))
    expected[~active] = packed.theta.detach().numpy()
    found = packed.weight_rows(slice(0, rows)).double().numpy()
    # A value in the middle between two levels may fall to either in float32.
    step = packed.scale.expand(rows).double().numpy()[:, None]
    near = np.abs(found - expected) < 1e-5
    assert (near | (np.abs(np.abs(found - expected) - step) < 1e-4)).all()
    assert (~near).sum() <= 0.02 * near.size + 1
    assert (np.abs(found - w)[active] <= (np.broadcast_to(step, w.shape)[active] / 2 + 1e-5)).all()
    middle = rows // 2
    assert np.array_equal(packed.weight_rows(slice(middle, rows)).double().numpy(), found[middle:])


def test_live_bytes_are_those_of_the_formula() -> None:
    """Half a byte or one a code, 8 bytes a row, 1 bit a weight, 4 bytes a pruned weight, 4 a bias."""
    n = 128 * 320
    for sparsity, bits in ((0.1, 4), (0.5, 4), (0.9, 4), (0.5, 8)):
        linear, mask, packed = make(128, 320, sparsity, bits=bits)
        dense = weakref.ref(linear.weight)
        del linear
        packed(torch.randn(3, 320)).sum().backward()
        packed.theta.grad = packed.bias.grad = None
        active = n - round(sparsity * n)
        expected = active * bits // 8 + 128 * 8 + n // 8 + (n - active) * 4
        assert packed_bytes(128, 320, active, bits) == expected
        assert packed.live_bytes() == expected + 128 * 4
        gc.collect()
        assert dense() is None
        # Every tensor that the layer reaches, whether it is registered or not.
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in reached(packed)}
        assert sum(held.values()) == packed.live_bytes()
        assert mask.bits.untyped_storage().data_ptr() not in held


def reached(module: nn.Module) -> list[torch.Tensor]:
    found, queue, seen = [], [module.__dict__], set()
    while queue:
        value = queue.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            queue.extend(value.values())
        elif isinstance(value, list | tuple | set):
            queue.extend(value)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            queue.append(value.__dict__)
    return found


@pytest.mark.parametrize(("sparsity", "share"), [(0.1, 0.25), (0.5, 0.6), (0.9, 0.95)])
def test_it_is_smaller_than_the_float_weight_at_every_sparsity(sparsity: float, share: float) -> None:
    n = 4096 * 4096
    assert packed_bytes(4096, 4096, n - round(sparsity * n)) < share * 4 * n


def test_the_formula_counts_ragged_ends() -> None:
    assert packed_bytes(3, 33, 5, 4, "tensor") == 3 + 8 + 4 * 3 * 2 + 4 * (99 - 5)
    assert packed_bytes(3, 33, 5, 8, "row", theta=False) == 5 + 24 + 24


@pytest.mark.parametrize("per", ["row", "tensor"])
@pytest.mark.parametrize("shape", [(3, 17), (2, 5, 17), (17,)])
def test_values_and_gradients_are_those_of_the_dense_layer(per: Scope, shape: tuple[int, ...]) -> None:
    _, mask, packed = make(7, 17, 0.6, per=per)
    with torch.no_grad():
        packed.theta.copy_(torch.randn(packed.theta.shape))
    dense = packed.to_linear()
    x = torch.randn(shape, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    y, expected = packed(x), dense(other)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn(y.shape)
    y.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(x.grad, other.grad)
    torch.testing.assert_close(packed.theta.grad, dense.weight.grad[~mask.to_bool()])
    torch.testing.assert_close(packed.bias.grad, dense.bias.grad)


def test_gradcheck_in_float64() -> None:
    _, _, packed = make(4, 9, 0.5, bits=8)
    packed.double()
    with torch.no_grad():
        packed.theta.copy_(torch.randn(packed.theta.shape))
    x = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)

    def function(x: torch.Tensor, theta: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(packed, {"theta": theta, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(function, (x, packed.theta, packed.bias))


def test_slices_of_rows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an odd number of active weights before a slice, its first code is the upper half of a byte."""
    monkeypatch.setattr("resu.quant.packed._SLICE", 20)
    linear, mask, packed = make(11, 13, 0.4, seed=3)
    parts = list(packed._parts())
    assert len(parts) > 4
    assert any(before % 2 for _, before in parts)
    monkeypatch.undo()
    whole = PackedLinear.from_linear(linear, mask)
    assert torch.equal(packed.codes, whole.codes)
    assert torch.equal(packed.weight_rows(slice(0, 11)), whole.weight_rows(slice(0, 11)))
    monkeypatch.setattr("resu.quant.packed._SLICE", 20)
    x = torch.randn(4, 13, requires_grad=True)
    cut = packed(x)
    cut.sum().backward()
    grads = packed.theta.grad, x.grad.clone()
    monkeypatch.undo()
    x.grad = None
    y = whole(x)
    y.sum().backward()
    torch.testing.assert_close(cut, y)
    torch.testing.assert_close(grads, (whole.theta.grad, x.grad))


def test_theta_trains_and_active_codes_stay() -> None:
    _, _, packed = make(16, 24, 0.5)
    assert {name for name, _ in packed.named_parameters()} == {"theta", "bias"}
    assert packed.theta.dtype is torch.float32
    before = {name: tensor.clone() for name, tensor in packed.named_buffers()}
    optimizer = torch.optim.AdamW(packed.parameters(), lr=0.01, weight_decay=0.1)
    x, target = torch.randn(64, 24), torch.randn(64, 16)
    losses = []
    for _ in range(30):
        loss = (packed(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert (packed.theta != 0).float().mean() >= 0.99
    assert all(torch.equal(tensor, before[name]) for name, tensor in packed.named_buffers())


def test_forward_keeps_no_weight_for_the_backward_pass() -> None:
    _, _, packed = make(64, 64, 0.5)
    saved: list[int] = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        packed(torch.randn(2, 64, requires_grad=True))
    assert max(saved) == packed.theta.numel() == 2048


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_of_half_the_width(dtype: torch.dtype) -> None:
    _, _, packed = make(8, 16, 0.5)
    x = torch.randn(3, 16)
    y = packed(x.to(dtype))
    assert y.dtype is dtype
    torch.testing.assert_close(y.float(), packed(x), rtol=0.05, atol=0.05)
    y.sum().backward()
    assert packed.theta.grad.dtype is torch.float32


def test_rows_of_one_value_and_rows_without_any_are_exact() -> None:
    linear = nn.Linear(4, 3, bias=False)
    weight = torch.tensor([[2.5, 2.5, 9.0, 2.5], [1.0, 2.0, 3.0, 4.0], [-7.0, 0.0, 0.0, 0.0]])
    linear.weight.data.copy_(weight)
    mask = SparseMask(torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]))
    packed = PackedLinear.from_linear(linear, mask)
    assert torch.equal(packed.weight_rows(slice(0, 3)), mask.apply(weight))
    nothing = PackedLinear.from_linear(linear, SparseMask.zeros((3, 4)))
    assert nothing.codes.numel() == 0
    assert not nothing(torch.ones(2, 4)).any()


def test_values_far_from_zero_keep_their_levels() -> None:
    """A float zero point of -min / scale would be of the order of 10^9 here; the offset is kept instead."""
    linear = nn.Linear(16, 1, bias=False)
    linear.weight.data.copy_(1000 + torch.arange(16.0)[None] / 1024)
    packed = PackedLinear.from_linear(linear, SparseMask.ones((1, 16)))
    torch.testing.assert_close(packed.weight_rows(slice(0, 1)), linear.weight.detach(), rtol=0, atol=2e-4)
    torch.testing.assert_close(packed.zero_point, -packed.offset / packed.scale)


@pytest.mark.parametrize("init", ["normal", "uniform"])
def test_theta_starts_at_the_active_spread(init: str) -> None:
    linear, mask, packed = make(200, 100, 0.5, init=init, epsilon=0.2, seed=4, name="layer")
    sigma = linear.weight.detach()[mask.to_bool()].double().std()
    expected = 0.2 * sigma * (1 if init == "normal" else 3**-0.5)
    assert packed.theta.detach().double().std() == pytest.approx(expected.item(), rel=0.03)
    again = PackedLinear.from_linear(linear, mask, init=init, epsilon=0.2, seed=4, name="layer")
    other = PackedLinear.from_linear(linear, mask, init=init, epsilon=0.2, seed=5, name="layer")
    again_theta, other_theta = again.theta.detach(), other.theta.detach()
    make_seed = PackedLinear.from_linear(linear, mask, init=init, epsilon=0.2, seed=4, name="layer").theta.detach()
    assert torch.equal(again_theta, make_seed)
    assert not torch.equal(again_theta, other_theta)


def test_zero_is_the_default_start() -> None:
    assert not make(4, 8, 0.5)[2].theta.any()


def test_state_dict_and_deepcopy_bring_everything_back() -> None:
    _, mask, packed = make(6, 10, 0.5, seed=1)
    with torch.no_grad():
        packed.theta.copy_(torch.randn(30))
    fresh = PackedLinear(mask)
    fresh.load_state_dict(packed.state_dict())
    x = torch.randn(2, 10)
    for other in (fresh, copy.deepcopy(packed), packed.to_linear()):
        torch.testing.assert_close(other(x), packed(x))
    assert packed.mask == mask
    assert "bits=4" in repr(packed)
    assert "pruned=30" in repr(packed)


def test_a_mask_that_changes_later_does_not_change_the_layer() -> None:
    linear, mask, packed = make(6, 10, 0.5, seed=1)
    before = packed.weight_rows(slice(0, 6))
    mask.update_inplace(SparseMask.ones((6, 10)))
    linear.weight.data.zero_()
    assert torch.equal(packed.weight_rows(slice(0, 6)), before)


def test_without_a_bias_there_is_none() -> None:
    _, _, packed = make(3, 5, 0.4, bias=False)
    assert packed.bias is None
    assert packed.to_linear().bias is None
    assert not packed(torch.zeros(2, 5)).any()


def unchecked(function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def test_what_cannot_be_is_refused() -> None:
    linear, mask = nn.Linear(4, 3), SparseMask.ones((3, 4))
    with pytest.raises(ConfigError, match=r"4 or 8 bits; got 3"):
        PackedLinear.from_linear(linear, mask, bits=3)
    with pytest.raises(ConfigError, match=r"4 or 8 bits; got 2"):
        pack_codes(torch.zeros(2, dtype=torch.uint8), 2)
    with pytest.raises(ConfigError, match=r"4 or 8 bits; got 1"):
        unpack_codes(torch.zeros(2, dtype=torch.uint8), 1, 0, 1)
    with pytest.raises(ConfigError, match=r"a row or to the tensor; got per='column'"):
        unchecked(PackedLinear.__init__)(PackedLinear.__new__(PackedLinear), mask, per="column")
    with pytest.raises(ConfigError, match=r"starts at one of zero, normal, uniform; got 'ones'"):
        unchecked(PackedLinear.from_linear.__func__)(PackedLinear, linear, mask, init="ones")
    with pytest.raises(MaskError, match=r"has a matrix; the mask has shape \(3, 2, 2\)"):
        PackedLinear(SparseMask.ones((3, 2, 2)))
    with pytest.raises(MaskError, match=r"the weight has shape \(3, 4\)"):
        PackedLinear.from_linear(linear, SparseMask.ones((4, 3)))
    linear.weight.data[1, 2] = float("nan")
    with pytest.raises(MaskError, match=r"some active ones are not finite"):
        PackedLinear.from_linear(linear, mask)
