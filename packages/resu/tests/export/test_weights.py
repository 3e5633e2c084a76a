"""Files of weights: what comes back, what a model without masks can read, what is refused, what a crash leaves."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from resu import __version__
from resu.core.mask import SparseMask
from resu.core.phases import Phase, sparse_state, sparsify
from resu.core.resurrection import StorageMode
from resu.errors import CheckpointError
from resu.export.weights import FORMAT_VERSION, MASK_SUFFIX, load_weights, read_weights, save_weights
from resu.modules.linear import RESULinear


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6)
        self.norm = nn.BatchNorm1d(6)
        self.conv = nn.Conv1d(1, 3, 3)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    model = Net()
    for name in ("embedding.weight", "conv.weight"):
        parameter = model.get_parameter(name)
        mask = SparseMask.random(tuple(parameter.shape), 0.4)
        mask.apply_(parameter.data)
        sparsify(parameter, mask, name)
    return model


def test_weights_masks_and_header_come_back(tmp_path: Path, model: Net) -> None:
    sparse_state(model.conv.weight).phase = Phase.RESU
    path = save_weights(tmp_path / "made" / "net.safetensors", model, extra={"run": ["é", 1]})
    file = read_weights(path)
    state = model.state_dict()
    assert file.tensors.keys() == state.keys()
    assert all(torch.equal(file.tensors[name], value) for name, value in state.items())
    assert file.masks.keys() == {"embedding.weight", "head.weight", "conv.weight"}
    assert all(mask == sparse_state(model.get_parameter(name)).mask for name, mask in file.masks.items())
    rows = file.metadata["weights"]
    assert rows["conv.weight"] == {"shape": [3, 1, 3], "sparsity": 4 / 9, "phase": "resu"}
    assert rows["embedding.weight"] == rows["head.weight"] == {"shape": [10, 6], "sparsity": 0.4, "phase": "train"}
    assert file.metadata["format"] == FORMAT_VERSION
    assert file.metadata["version"] == __version__
    assert file.metadata["extra"] == {"run": ["é", 1]}
    fresh = Net()
    load_weights(path, fresh)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in state.items())
    assert fresh.head.weight is fresh.embedding.weight


def test_a_plain_linear_layer_reads_it_after_dropping_one_key(tmp_path: Path) -> None:
    layer = nn.Linear(9, 5)
    sparsify(layer.weight, SparseMask.random((5, 9), 0.5), "weight")
    tensors = load_file(save_weights(tmp_path / "layer", layer))
    bits = tensors.pop("weight" + MASK_SUFFIX)
    assert bits.dtype is torch.uint8
    assert bits.shape == (5, 2)
    plain = nn.Linear(9, 5)
    plain.load_state_dict(tensors, strict=True)
    assert torch.equal(plain.weight, layer.weight)


def test_loading_checks_the_mask_that_a_model_carries(tmp_path: Path, model: Net) -> None:
    path = save_weights(tmp_path / "net", model)
    model.conv.weight.data.zero_()
    load_weights(path, model)
    assert model.conv.weight.any()
    before = model.conv.weight.clone()
    sparse_state(model.conv.weight).mask.update_inplace(~sparse_state(model.conv.weight).mask)
    model.embedding.weight.data.zero_()
    with pytest.raises(CheckpointError, match=r"the mask of conv\.weight in .* is not the one that the model carries"):
        load_weights(path, model)
    assert not model.embedding.weight.any()
    assert torch.equal(model.conv.weight, before)
    bare = Net()
    sparsify(bare.conv.weight, SparseMask.ones((3, 1, 3)), "conv.weight")
    unmasked = save_weights(tmp_path / "unmasked", Net())
    with pytest.raises(CheckpointError, match=r"the mask of conv\.weight"):
        load_weights(unmasked, bare)


def test_names_and_shapes_must_fit_and_nothing_changes_otherwise(tmp_path: Path, model: Net) -> None:
    path = save_weights(tmp_path / "net", nn.Linear(3, 2))
    other = nn.Linear(3, 2, bias=False)
    with pytest.raises(CheckpointError, match=r"lacks nothing and has bias besides"):
        load_weights(path, other)
    with pytest.raises(CheckpointError, match=r"lacks conv\.bias, conv\.weight, embedding\.weight, … and has bias"):
        load_weights(path, model)
    wide = nn.Linear(4, 2)
    before = wide.bias.clone()
    with pytest.raises(CheckpointError, match=r"weight has \(2, 4\) in the model and \(2, 3\) in"):
        load_weights(path, wide)
    assert torch.equal(wide.bias, before)


def test_views_that_share_a_storage_and_strides_are_saved_whole(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(12.0).view(3, 4)
            self.register_buffer("whole", whole)
            self.register_buffer("row", whole[1])
            self.register_buffer("turned", whole.T)
            self.register_buffer("empty", torch.empty(0))
            self.register_buffer("other_empty", torch.empty(0))

    views = Views()
    file = read_weights(save_weights(tmp_path / "views", views))
    assert all(torch.equal(file.tensors[name], value) for name, value in views.state_dict().items())


def test_the_same_state_is_the_same_file(tmp_path: Path, model: Net) -> None:
    files = [save_weights(tmp_path / str(number), model).read_bytes() for number in range(4)]
    assert files == files[:1] * 4


def test_files_that_are_truncated_foreign_or_later_are_refused(tmp_path: Path, model: Net) -> None:
    path = save_weights(tmp_path / "net", model)
    content = path.read_bytes()
    for cut in (0, 7, 100, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=rf"\({cut} bytes\) is truncated or something else"):
            read_weights(tmp_path / "cut")
    with pytest.raises(CheckpointError, match=r"read from a file; .* is none"):
        read_weights(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match=r"marked resu\.weights; .* another kind"):
        read_weights(tmp_path / "foreign")


@pytest.mark.parametrize(
    "change",
    [
        {"format": FORMAT_VERSION + 1},
        {"weights": {"absent": {"shape": [1], "sparsity": 0, "phase": "train"}}},
        {"weights": {"conv.weight": {"shape": [99, 99]}}},
        {"weights": []},
        {"ties": {"x": "absent"}},
        None,
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path: Path, model: Net, change: dict[str, object] | None) -> None:
    path = save_weights(tmp_path / "net", model)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["resu.weights"])
    text = "no json" if change is None else json.dumps(header | change)
    save_file(load_file(path), path, {"resu.weights": text})
    later = change is not None and "format" in change
    expected = rf"has format {FORMAT_VERSION + 1}\. Load it" if later else "belong together; in .* they do not"
    with pytest.raises(CheckpointError, match=expected):
        read_weights(path)


def test_extra_values_must_be_json(tmp_path: Path) -> None:
    for extra in ({"x": torch.ones(1)}, {"x": float("nan")}):
        with pytest.raises(CheckpointError, match="extra values are JSON values"):
            save_weights(tmp_path / "net", nn.Linear(1, 1), extra=extra)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    old, new = nn.Linear(2, 2), nn.Linear(2, 2)
    path = save_weights(tmp_path / "net", old)
    content = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(OSError, match="no space left"):
        save_weights(path, new)
    assert path.read_bytes() == content
    monkeypatch.undo()
    save_weights(path, new)
    assert torch.equal(read_weights(path).tensors["weight"], new.weight)
    assert [file.name for file in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("mode", list(StorageMode))
@pytest.mark.parametrize("resu", [False, True])
def test_layers_that_keep_their_mask_to_themselves(tmp_path: Path, mode: StorageMode, resu: bool) -> None:
    def make() -> nn.Sequential:
        return nn.Sequential(RESULinear(9, 6, storage_mode=mode), nn.ReLU(), nn.Linear(6, 2))

    model = make()
    model[0].prune_by_magnitude(0.5)
    if resu:
        model[0].enter_resu_mode(init="normal", epsilon=0.5)
    file = read_weights(save_weights(tmp_path / "net", model))
    assert file.metadata["weights"] == {
        "0.weight": {"shape": [6, 9], "sparsity": 0.5, "phase": "resu" if resu else "train"}
    }
    assert file.masks["0.weight"] == model[0].mask
    fresh, x = make(), torch.randn(3, 9)
    load_weights(tmp_path / "net", fresh)
    assert fresh[0].mask == model[0].mask
    assert fresh[0].mode is model[0].mode
    assert torch.equal(fresh(x), model(x))
    bare = save_weights(tmp_path / "bare", nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 2)))
    before = model[2].weight.clone()
    with pytest.raises(CheckpointError, match=r"the mask of 0\.weight"):
        load_weights(bare, model)
    assert torch.equal(model[2].weight, before)
