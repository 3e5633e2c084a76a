"""State dicts, copies, pickles and moves of RESULinear in every mode."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from resu.core.mask import SparseMask
from resu.core.phases import sparse_state
from resu.core.resurrection import StorageMode
from resu.errors import CheckpointError
from resu.modules.linear import RESULinear, RESUMode, convert_to_resu

LayerOf = Callable[..., RESULinear]
Train = Callable[..., None]
every_mode = pytest.mark.parametrize("mode", list(StorageMode))
COMPACT, DENSE, INPLACE = StorageMode


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_mode
def test_keys_of_each_mode(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode, 0.0)
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.prune_by_magnitude(0.5)
    state = layer.state_dict()
    assert sorted(state) == ["bias", "weight", "weight_mask_bits"]
    assert (state["weight_mask_bits"].dtype, state["weight_mask_bits"].shape) == (torch.uint8, (16, 5))
    layer.enter_resu_mode()
    theta = layer.state_dict()["weight_theta"]
    assert theta.shape == {COMPACT: (layer.mask.n_pruned,), DENSE: (16, 37), INPLACE: (0,)}[mode]
    layer.exit_resu_mode()
    assert list(layer.state_dict()) == ["weight", "bias"]


@every_mode
def test_a_plain_linear_loads_the_weight_without_one_key(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    state = layer.state_dict()
    del state["weight_mask_bits"]
    plain = nn.Linear(37, 16)
    plain.load_state_dict(state)
    x = torch.randn(3, 37)
    torch.testing.assert_close(plain(x), layer(x))
    assert torch.equal(plain.weight != 0, layer.mask.to_bool())


@every_mode
def test_a_dense_layer_and_a_plain_linear_exchange_states(layer_of: LayerOf, mode: StorageMode) -> None:
    plain, layer = nn.Linear(37, 16), layer_of(mode, 0.0)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    plain.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("source", list(StorageMode))
@pytest.mark.parametrize("target", list(StorageMode))
@pytest.mark.parametrize("phase", ["sparse", "resu"])
@pytest.mark.parametrize("assign", [False, True])
def test_any_mode_loads_what_any_mode_has_saved(
    layer_of: LayerOf, source: StorageMode, target: StorageMode, phase: str, assign: bool
) -> None:
    saved = layer_of(source, 0.7)
    if phase == "resu":
        saved.enter_resu_mode(epsilon=0.7, seed=4)
    loaded = RESULinear(37, 16, storage_mode=target)
    state = through_a_file(saved.state_dict())
    names = list(state)
    loaded.load_state_dict(state, assign=assign)
    assert list(state) == names, "the caller's dictionary is as it was"
    assert loaded.mode == saved.mode
    assert loaded.mask == saved.mask
    assert torch.equal(loaded.effective_weight(), saved.effective_weight())
    if phase == "resu":
        assert torch.equal(loaded.resurrection.values(), saved.resurrection.values())
        loaded(torch.ones(1, 37)).sum().backward()
        assert loaded.resurrection.theta.grad is not None
        assert loaded.weight.requires_grad == (target is INPLACE)
        assert loaded.resu_step()
    loaded.exit_resu_mode(commit=False) if phase == "resu" else loaded.set_mask(None)


@every_mode
def test_a_state_replaces_the_mask_and_the_mode_that_are_there(layer_of: LayerOf, mode: StorageMode) -> None:
    sparse, other = layer_of(mode, 0.3).state_dict(), layer_of(mode, 0.8)
    other.enter_resu_mode()
    other.load_state_dict(sparse)
    assert other.mode is RESUMode.SPARSE
    assert other.sparsity == pytest.approx(0.3, abs=1e-3)
    assert other.weight.requires_grad
    assert torch.equal(other.weight != 0, other.mask.to_bool())


def test_theta_stays_the_same_parameter_where_it_fits(layer_of: LayerOf) -> None:
    layer = layer_of(COMPACT)
    layer.enter_resu_mode(seed=1, lr=0.5)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    theta = layer.resurrection.theta
    with torch.no_grad():
        theta.zero_()
    layer.load_state_dict(state)
    assert layer.resurrection.theta is theta
    assert torch.equal(theta, state["weight_theta"])
    assert layer.weight_theta is theta


@every_mode
@pytest.mark.parametrize("selective", [False, True])
def test_a_run_resumed_in_the_middle_of_resu_is_bit_exact(
    layer_of: LayerOf, mode: StorageMode, selective: bool
) -> None:
    def steps(layer: RESULinear, numbers: range) -> None:
        for seed in numbers:
            generator = torch.Generator().manual_seed(seed)
            layer(torch.randn(8, 37, generator=generator)).square().mean().backward()
            layer.resu_step()

    def fresh() -> RESULinear:
        layer = layer_of(mode)
        layer.enter_resu_mode(lr=0.1, use_selective=selective)
        return layer

    whole = fresh()
    steps(whole, range(6))
    first, second = fresh(), fresh()
    steps(first, range(3))
    second.load_state_dict(through_a_file(first.state_dict()))
    steps(second, range(3, 6))
    assert torch.equal(second.effective_weight(), whole.effective_weight())
    assert not torch.equal(second.effective_weight(), first.effective_weight())


def test_running_means_come_along_into_a_fresh_layer(layer_of: LayerOf) -> None:
    saved = layer_of(COMPACT)
    saved.enter_resu_mode(use_selective=True)
    saved.resu_step(torch.ones(16, 37))
    loaded = RESULinear(37, 16)
    loaded.load_state_dict(saved.state_dict())
    state = loaded.state_dict()
    assert torch.equal(state["weight_theta_mean"], saved.state_dict()["weight_theta_mean"])
    assert state["weight_theta_mean_abs"].any()


def test_tied_layers_are_loaded_once_for_both(layer_of: LayerOf) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        model[1].weight = model[0].weight
        convert_to_resu(model)
        return model

    torch.manual_seed(0)
    saved, loaded = tied(), tied()
    saved[0].prune_by_magnitude(0.5)
    saved[1].enter_resu_mode(epsilon=0.5)
    loaded.load_state_dict(saved.state_dict())
    x = torch.randn(2, 8)
    assert torch.equal(loaded(x), saved(x))
    assert loaded[0].weight_theta is loaded[1].weight_theta


@every_mode
def test_a_missing_mask_is_said_and_a_tolerant_load_keeps_the_one_there(layer_of: LayerOf, mode: StorageMode) -> None:
    layer, plain = layer_of(mode), nn.Linear(37, 16)
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_mask_bits"):
        layer_of(mode).load_state_dict(plain.state_dict())
    mask = layer.mask.clone()
    found = layer.load_state_dict(plain.state_dict(), strict=False)
    assert found.missing_keys == ["weight_mask_bits"]
    assert layer.mask == mask
    assert torch.equal(layer.weight, mask.apply(plain.weight))


@every_mode
def test_foreign_masks_and_thetas_are_refused(layer_of: LayerOf, mode: StorageMode) -> None:
    state = layer_of(mode).state_dict()
    layer = layer_of(mode, 0.0)
    with pytest.raises(CheckpointError, match=r"weight has shape \(16, 37\).*\(16, 6\)"):
        layer.load_state_dict({**state, "weight_mask_bits": torch.zeros(16, 6, dtype=torch.uint8)})
    with pytest.raises(CheckpointError, match="weight has shape"):
        layer.load_state_dict({**state, "weight_mask_bits": torch.zeros(16, 5)})
    with pytest.raises(CheckpointError, match=r"shape \(3,\)"):
        layer.load_state_dict({**state, "weight_theta": torch.ones(3)})
    assert layer.mode is RESUMode.DENSE
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict({**state, "weight": torch.ones(16, 36), "weight_theta": torch.ones(3)})
    without = {name: value for name, value in state.items() if name != "weight_mask_bits"}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*weight_theta"):
        layer_of(mode, 0.0).load_state_dict({**without, "weight_theta": torch.ones(3)})


@every_mode
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("phase", ["dense", "sparse", "resu"])
def test_copies_are_whole_and_live_on_their_own(layer_of: LayerOf, mode: StorageMode, how: str, phase: str) -> None:
    layer = layer_of(mode, 0.0 if phase == "dense" else 0.6)
    if phase == "resu":
        layer.enter_resu_mode(use_selective=True, lr=0.1)
        layer.resu_step(torch.ones(16, 37))
    model = nn.Sequential(layer)
    if how == "deepcopy":
        twin = copy.deepcopy(model)[0]
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)[0]
    assert (twin.mode, twin.mask) == (layer.mode, layer.mask)
    before = layer.effective_weight().detach().clone()
    assert torch.equal(twin.effective_weight(), before)
    if phase == "resu":
        assert twin.resu_step(torch.ones(16, 37))
        assert not torch.equal(twin.effective_weight(), before)
        assert layer.resu_step(torch.ones(16, 37))
        assert torch.equal(twin.effective_weight(), layer.effective_weight())
        twin.exit_resu_mode(commit=False)
        assert layer.mode is RESUMode.RESU
    else:
        twin.prune_by_magnitude(0.9)
        assert torch.equal(layer.effective_weight(), before)


@every_mode
def test_a_layer_may_change_its_type_in_resu(layer_of: LayerOf, mode: StorageMode) -> None:
    layer = layer_of(mode)
    layer.enter_resu_mode(use_selective=True)
    expected = layer.effective_weight().detach().clone()
    layer.double()
    assert layer.effective_weight().dtype == torch.float64
    assert torch.equal(layer.effective_weight().float(), expected)
    assert layer.resu_step(torch.ones(16, 37, dtype=torch.float64))
    assert not torch.equal(layer.effective_weight().float(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="moves a layer to a GPU, and there is none")
@every_mode
def test_a_layer_may_move_to_a_gpu_in_resu(layer_of: LayerOf, mode: StorageMode) -> None:
    layer, stays = layer_of(mode), layer_of(mode)
    for each in (layer, stays):
        each.enter_resu_mode(use_selective=True, lr=0.1)
        each.resu_step(torch.ones(16, 37))
    layer.cuda()
    assert layer.mask.device.type == layer.effective_weight().device.type == "cuda"
    layer.resu_step(torch.ones(16, 37, device="cuda"))
    stays.resu_step(torch.ones(16, 37))
    torch.testing.assert_close(layer.effective_weight().cpu(), stays.effective_weight())
    layer.exit_resu_mode()


def test_what_hangs_on_a_weight_is_the_copys_own(layer_of: LayerOf) -> None:
    layer = layer_of(INPLACE)
    twin = copy.deepcopy(layer)
    state = sparse_state(twin.weight)
    assert state is not sparse_state(layer.weight)
    assert state.parameter is twin.weight
    state.mask.update_inplace(SparseMask.zeros((16, 37)))
    assert layer.mask.n_active == 16 * 37 - round(0.6 * 16 * 37)
