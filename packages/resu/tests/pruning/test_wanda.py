"""Wanda: statistics against unfolded inputs in float64, masks against a plain ranking, and models left as found."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.errors import CalibrationError, MaskError
from resu.pruning.magnitude import magnitude_mask
from resu.pruning.wanda import ColumnStatistics, calibrate, wanda, wanda_mask


def check(statistics: ColumnStatistics, inputs: np.ndarray) -> None:
    """Against all inputs at once: one row an input, one column a column."""
    assert statistics.count == len(inputs)
    np.testing.assert_allclose(statistics.mean[0], inputs.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.variance[0], inputs.var(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics.norm[0], np.linalg.norm(inputs, axis=0), rtol=1e-5)


@given(
    sizes=st.lists(st.sampled_from([(5,), (2, 3), (1,), (2, 2, 3)]), min_size=1, max_size=4),
    offset=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 100),
)
def test_norms_are_those_of_all_tokens_of_all_batches(sizes: list[tuple[int, ...]], offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(*size, 4)) + offset).astype(np.float32) for size in sizes]
    model = nn.Linear(4, 3)
    statistics = calibrate(model, [torch.from_numpy(batch) for batch in batches])["weight"]
    check(statistics, np.concatenate([batch.reshape(-1, 4) for batch in batches]).astype(float))


CONVOLUTIONS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv2d(3, 4, 3),
    lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    lambda: nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
    lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    lambda: nn.Conv2d(3, 4, 1, stride=2),
]


@pytest.mark.parametrize("make", CONVOLUTIONS)
def test_convolutions_count_what_unfolding_gives(make: Callable[[], nn.Module]) -> None:
    conv: Any = make()
    x = torch.randn(3, 3, 8, 7, generator=torch.Generator().manual_seed(0))
    statistics = calibrate(conv, [x[:1], x[1:]])["weight"]
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = nn.functional.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    columns = nn.functional.unfold(padded, conv.kernel_size, dilation=conv.dilation, stride=conv.stride)
    check(statistics, columns.transpose(1, 2).reshape(-1, columns.shape[1]).double().numpy())


@pytest.mark.parametrize(("dims", "conv"), [(1, nn.Conv1d(2, 3, 3, stride=2)), (3, nn.Conv3d(2, 3, 2, padding=1))])
def test_a_column_is_what_a_weight_multiplies(dims: int, conv: nn.Module) -> None:
    """The mean output of a convolution is its weight times the mean of its columns, and its bias."""
    x = torch.randn(4, 2, *(5, 4, 6)[:dims], generator=torch.Generator().manual_seed(0))
    statistics = calibrate(conv, [x])["weight"]
    flat = conv.weight.detach().double().flatten(1)
    expected = conv(x).detach().double().flatten(2).mean((0, 2))
    torch.testing.assert_close(flat @ statistics.mean[0] + conv.bias.double(), expected, rtol=1e-5, atol=1e-6)


def test_groups_of_a_convolution_have_columns_of_their_own() -> None:
    conv = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    x = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    statistics = calibrate(conv, [x])["weight"]
    assert statistics.mean.shape == (2, 18)
    flat = conv.weight.detach().double().flatten(1)
    found = (flat.view(2, 3, 18) * statistics.mean[:, None]).sum(-1).flatten()
    torch.testing.assert_close(found, conv(x).detach().double().mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    mask = wanda_mask(conv.weight, statistics, 0.5)
    scores = flat.abs().numpy() * np.repeat(statistics.norm.numpy(), 3, axis=0)
    np.testing.assert_array_equal(mask.to_bool().flatten(1).numpy(), ranked(scores, 9))


def test_an_image_without_a_batch_is_one_image() -> None:
    conv = nn.Conv2d(2, 3, 3)
    x = torch.randn(2, 6, 6)
    one, batch = calibrate(conv, [x])["weight"], calibrate(conv, [x[None]])["weight"]
    assert one.count == batch.count == 16
    assert torch.equal(one.norm, batch.norm)


def ranked(scores: np.ndarray, keep: int) -> np.ndarray:
    flags = np.zeros(scores.shape, dtype=bool)
    for row, line in zip(scores, flags, strict=True):
        line[np.argsort(-row, kind="stable")[:keep]] = True
    return flags


@given(
    rows=st.integers(1, 6),
    cols=st.integers(1, 40),
    sparsity=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    seed=st.integers(0, 1000),
    ties=st.booleans(),
)
def test_masks_rank_within_rows(rows: int, cols: int, sparsity: float, seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    w = (rng.integers(-2, 3, (rows, cols)) if ties else rng.normal(size=(rows, cols))).astype(np.float32)
    norms = rng.integers(1, 4, cols) if ties else rng.random(cols) + 0.1
    statistics = ColumnStatistics(1, torch.from_numpy(norms.astype(float))[None], torch.zeros(1, cols).double())
    mask = wanda_mask(torch.from_numpy(w), statistics, sparsity)
    keep = cols - round(sparsity * cols)
    np.testing.assert_array_equal(mask.to_bool().numpy(), ranked(np.abs(w) * norms.astype(np.float32), keep))
    assert mask.n_active == rows * keep


def test_it_beats_magnitude_where_inputs_differ_in_size() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 32).requires_grad_(False)
    x = torch.randn(500, 64) * torch.logspace(-2, 2, 64)
    errors = []
    for mask in (wanda(layer, [x], 0.5)["weight"], magnitude_mask(layer.weight, 0.5)):
        pruned = mask.apply(layer.weight)
        errors.append(float((nn.functional.linear(x, pruned, layer.bias) - layer(x)).norm()))
    assert errors[0] < 0.2 * errors[1]


class Net(nn.Module):
    """Shared weights, keywords, attention whose projection is never called as a module, and an idle layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.idle = nn.Linear(6, 2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.again(input=self.first(x * scale))
        return self.head(self.dropout(self.attention(x, x, x)[0]))


def test_any_model_is_left_as_it_was() -> None:
    model = Net().train()
    model.dropout.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    before = {name: p.clone() for name, p in model.named_parameters()}
    x = torch.randn(2, 3, 6)
    masks = wanda(model, [x, (x, "label"), [x], {"x": x, "scale": 2.0}], 0.5)
    assert set(masks) == {"first.weight", "head.weight"}
    assert flags == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    # A shared weight saw the inputs of both its layers: 4 batches of 6 tokens each.
    assert calibrate(model, [x] * 4)["first.weight"].count == 2 * 4 * 6
    run = calibrate(model, [5], forward=lambda m, batch: m(x[:, :1].expand(2, batch, 6)))
    assert run["head.weight"].count == 10


def test_hooks_go_and_flags_return_after_an_error() -> None:
    model = Net().train()
    with pytest.raises(RuntimeError):
        calibrate(model, [torch.randn(2, 3, 5)])
    assert model.training
    assert model.dropout.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_sparsity_and_layers_can_be_named() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 4))
    x = torch.randn(3, 8)
    masks = wanda(model, [x], {"0.weight": 0.25, "2.weight": 0.75})
    assert (masks["0.weight"].n_active, masks["2.weight"].n_active) == (24, 4)
    assert set(wanda(model, [x], 0.5, include=["2.*"])) == {"2.weight"}
    assert all(isinstance(mask, SparseMask) for mask in masks.values())
    with pytest.raises(CalibrationError, match=r"2\.weight has none among \['0\.weight'\]"):
        wanda(model, [x], {"0.weight": 0.5}, include=["*"])
    with pytest.raises(MaskError, match=r"got 1\.5"):
        wanda(model, [x], {"0.weight": 1.5})
    with pytest.raises(MaskError, match=r"got -0\.5"):
        wanda(model, [x], -0.5)


def test_data_that_cannot_calibrate_is_refused() -> None:
    model = Net()
    x = torch.randn(2, 3, 6)
    with pytest.raises(CalibrationError, match=r"at least one batch; got none. An iterator may be used up"):
        calibrate(model, iter([]))
    with pytest.raises(CalibrationError, match=r"\['nothing\.\*'\] match none of \['attention\.out_proj\.weight', "):
        calibrate(model, [x], include=["nothing.*"])
    with pytest.raises(CalibrationError, match=r"over 1 batches \['idle\.weight'\] did not"):
        calibrate(model, [x], include=["idle.weight", "head.weight"])
    with pytest.raises(CalibrationError, match=r"this model has none of them. Prune it by magnitude"):
        calibrate(nn.Sequential(nn.ReLU()), [x])
    for bad in (float("nan"), float("inf")):
        with pytest.raises(CalibrationError, match=r"inputs are finite; those of first\.weight are not"):
            calibrate(model, [x, torch.full((1, 1, 6), bad)])
    statistics = calibrate(model, [x])["head.weight"]
    with pytest.raises(CalibrationError, match=r"w has 4 rows of 5 columns; these statistics are of 1 group\(s\) of 6"):
        wanda_mask(torch.ones(4, 5), statistics, 0.5, name="w")


def test_empty_batches_add_nothing() -> None:
    layer, x = nn.Linear(4, 2), torch.randn(3, 4)
    assert torch.equal(calibrate(layer, [x, x[:0]])["weight"].norm, calibrate(layer, [x])["weight"].norm)
