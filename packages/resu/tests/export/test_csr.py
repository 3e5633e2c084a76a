"""CSR: indices of 32 bits, values that multiply as the dense layer, the choice of a form, and copies of models."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from resu.core.mask import SparseMask
from resu.core.phases import sparsify
from resu.core.resurrection import StorageMode
from resu.errors import ConfigError, MaskError
from resu.export.csr import DENSE_BELOW, CSRLinear, csr_linear, csr_model, effective_linears, to_csr
from resu.modules.linear import RESULinear


def sparse_linear(rows: int, cols: int, sparsity: float, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    linear = nn.Linear(cols, rows)
    SparseMask.random((rows, cols), sparsity, seed=seed).apply_(linear.weight.data)
    return linear


@given(
    rows=st.integers(1, 20),
    cols=st.integers(1, 40),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    seed=st.integers(0, 100),
)
def test_what_is_not_zero_is_stored_row_by_row(rows: int, cols: int, sparsity: float, seed: int) -> None:
    weight = sparse_linear(rows, cols, sparsity, seed).weight
    csr, dense = to_csr(weight), weight.detach().numpy()
    crow, col = csr.crow_indices(), csr.col_indices()
    assert crow.dtype is col.dtype is torch.int32
    assert crow.tolist() == [0, *np.cumsum((dense != 0).sum(1))]
    assert col.tolist() == np.nonzero(dense)[1].tolist()
    np.testing.assert_array_equal(csr.values(), dense[dense != 0])


def test_slices_of_rows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = sparse_linear(23, 17, 0.7).weight
    whole = to_csr(weight)
    monkeypatch.setattr("resu.core.mask._WHOLE", 1)
    monkeypatch.setattr("resu.core.mask._SMALLEST", 40)
    cut = to_csr(weight)
    for part in ("crow_indices", "col_indices", "values"):
        assert torch.equal(getattr(cut, part)(), getattr(whole, part)())


@pytest.mark.parametrize("shape", [(30,), (1, 30), (8, 30), (2, 3, 30), (0, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_multiplies_as_the_dense_layer(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    linear = sparse_linear(20, 30, 0.9).to(dtype)
    layer = CSRLinear(linear.weight, linear.bias)
    x = torch.randn(shape, dtype=dtype)
    torch.testing.assert_close(layer(x), linear(x).detach())
    without = CSRLinear(linear.weight)
    torch.testing.assert_close(without(x), nn.functional.linear(x, linear.weight).detach())
    assert layer.sparsity == pytest.approx(0.9)
    assert "sparsity=0.9000" in repr(layer)


def test_rows_without_values_give_the_bias() -> None:
    layer = CSRLinear(torch.zeros(3, 4), torch.tensor([1.0, 2.0, 3.0]))
    assert layer(torch.ones(2, 4)).tolist() == [[1.0, 2.0, 3.0]] * 2


def test_a_layer_needs_no_more_than_its_parts_and_loads_them_again() -> None:
    linear = sparse_linear(64, 64, 0.9)
    layer = CSRLinear(linear.weight, linear.bias)
    stored = sum(t.numel() * t.element_size() for t in layer.buffers())
    kept = 64 * 64 - round(0.9 * 64 * 64)
    assert stored == 4 * 65 + 8 * kept + 4 * 64
    assert not list(layer.parameters())
    other = CSRLinear(linear.weight.detach() * 2, linear.bias)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(2, 64)
    assert torch.equal(other(x), layer(x))
    linear.bias.data.zero_()
    assert layer.bias.any()


@pytest.mark.parametrize(("sparsity", "sparse"), [(0.5, False), (0.84, False), (0.86, True), (0.98, True)])
def test_the_form_is_chosen_by_sparsity(sparsity: float, sparse: bool) -> None:
    linear = sparse_linear(50, 40, sparsity)
    found = csr_linear(linear)
    assert isinstance(found, CSRLinear) is sparse
    assert sparse or found is linear
    assert DENSE_BELOW == 0.85


class Block(nn.Module):
    """Attention, whose projection is read as a weight; a layer used twice; a nested list."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.shared = sparse_linear(16, 16, 0.9)
        self.layers = nn.ModuleList([sparse_linear(16, 16, 0.95, seed=1), sparse_linear(16, 16, 0.2)])
        self.alias = self.shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, x, x)[0]
        for layer in (self.shared, self.alias, *self.layers):
            x = torch.relu(layer(x))
        return x


def test_a_model_is_copied_with_its_sparse_layers_replaced() -> None:
    model = Block()
    sparsify(model.shared.weight, SparseMask(model.shared.weight.detach()), "shared.weight")
    before = copy.deepcopy(model.state_dict())
    exported = csr_model(model)
    assert isinstance(exported.shared, CSRLinear)
    assert exported.alias is exported.shared
    assert isinstance(exported.layers[0], CSRLinear)
    assert type(exported.layers[1]) is nn.Linear
    assert type(exported.attention.out_proj) is type(model.attention.out_proj)
    assert not exported.training
    assert model.training
    assert type(model.shared) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = torch.randn(2, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model.eval()(x))


def test_dense_weights_of_replaced_layers_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(sparse_linear(16, 16, 0.95), nn.ReLU(), sparse_linear(8, 16, 0.2))
    copied: list[tuple[int, ...]] = []
    original = nn.Parameter.__deepcopy__

    def watched(self: nn.Parameter, memo: dict[int, object]) -> nn.Parameter:
        copied.append(tuple(self.shape))
        return original(self, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", watched)
    csr_model(model)
    assert copied == [(8, 16), (8,)]


class Doubled(nn.Linear):
    """Its effective weight is not its weight."""

    def effective_weight(self) -> torch.Tensor:
        return self.weight * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.effective_weight(), self.bias)


def test_what_multiplies_the_input_is_exported() -> None:
    layer = Doubled(20, 10)
    layer.weight.data[:, 2:] = 0
    exported = csr_model(layer)
    assert isinstance(exported, CSRLinear)
    x = torch.randn(3, 20)
    torch.testing.assert_close(exported(x), layer(x).detach())
    assert list(effective_linears(nn.Sequential(layer, nn.ReLU()))) == [layer]


@pytest.mark.parametrize("mode", list(StorageMode))
def test_theta_is_exported_where_it_multiplies(mode: StorageMode) -> None:
    model = nn.Sequential(RESULinear(30, 20, storage_mode=mode))
    model[0].prune_by_magnitude(0.9)
    x = torch.randn(3, 30)
    pruned = csr_model(model)
    assert isinstance(pruned[0], CSRLinear)
    torch.testing.assert_close(pruned(x), model(x).detach())
    model[0].enter_resu_mode(init="normal", epsilon=0.5)
    full = csr_model(model, dense_below=0.0)
    assert full[0].sparsity == 0
    torch.testing.assert_close(full(x), model(x).detach())
    dense = csr_model(model)
    assert isinstance(dense[0], RESULinear)
    torch.testing.assert_close(dense(x).detach(), model(x).detach())


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MaskError, match=r"hold a matrix; got a tensor of shape \(2, 3, 4\)"):
        to_csr(torch.ones(2, 3, 4))
    for bound in (-0.1, 1.5):
        with pytest.raises(ConfigError, match=rf"from 0 to 1; got {bound}"):
            csr_linear(nn.Linear(2, 2), dense_below=bound)
    monkeypatch.setattr("resu.export.csr._INT32_MAX", 10)
    with pytest.raises(MaskError, match=r"count up to 10 values; this weight has 12"):
        to_csr(torch.ones(3, 4))
