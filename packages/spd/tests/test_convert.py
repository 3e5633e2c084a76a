"""Checkpoints of the original, written here in its names, and files of weights."""

import json
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from spd.config.models import CiConfig, MLPConfig, ModulePattern, SharedMLPConfig, VectorMLPConfig
from spd.config.perf import PerfConfig
from spd.convert import convert_file, convert_original
from spd.errors import CheckpointError
from spd.models.component_model import ComponentModel
from spd.weights import load_components, save_components

C = 6
KINDS: dict[str, CiConfig] = {
    "mlp": MLPConfig(hidden_dims=(3, 2)),
    "vector_mlp": VectorMLPConfig(hidden_dims=(3,)),
    "shared_mlp": SharedMLPConfig(hidden_dims=(3,)),
}
WIDTHS = {"mlp": [1, 3, 2, 1], "vector_mlp": [None, 3, 1], "shared_mlp": [None, 3, C]}


class Block(nn.Module):
    """Two layers under a name with a dot, the second of which may be the first one's transpose."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"up": nn.Linear(4, 2, bias=False), "down": nn.Linear(2, 4)})
        if tied:
            self.inner["down"].weight = nn.Parameter(self.inner["up"].weight.detach().T.clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inner["down"](self.inner["up"](x)))  # type: ignore[no-any-return]


SITES = {"inner.up": (4, 2, False), "inner.down": (2, 4, True)}


def _model(kind: str = "mlp", *, tied: bool = False, backend: str = "inline") -> ComponentModel:
    torch.manual_seed(0)
    return ComponentModel(
        Block(tied=tied), tuple(ModulePattern(module_pattern=site, C=C) for site in SITES), KINDS[kind],
        tied_weights=(("inner.up", "inner.down"),) if tied else (), perf=PerfConfig(site_backend=backend),
    )  # fmt: skip


def _original(kind: str = "mlp", *, tied: bool = False) -> dict[str, Tensor]:
    """What the original would save: layers of functions are counted with the non-linearities between them."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    found = {}
    for site, (d_in, d_out, bias) in SITES.items():
        key = site.replace(".", "-")
        found[f"target_model.{site}.weight"] = draw(d_out, d_in)
        found[f"_components.{key}.V"], found[f"_components.{key}.U"] = draw(d_in, C), draw(C, d_out)
        if bias:
            found[f"target_model.{site}.bias"] = draw(d_out)
            found[f"_components.{key}.bias"] = found[f"target_model.{site}.bias"].clone()
        widths = [d_in if width is None else width for width in WIDTHS[kind]]
        for k, (n_in, n_out) in enumerate(pairwise(widths)):
            lead = () if kind == "shared_mlp" else (C,)
            found[f"_ci_fns.{key}.layers.{2 * k}.W"] = draw(*lead, n_in, n_out)
            found[f"_ci_fns.{key}.layers.{2 * k}.b"] = draw(*lead, n_out)
    if tied:
        found["target_model.inner.down.weight"] = found["target_model.inner.up.weight"].T.clone()
        found["_components.inner-down.V"] = found["_components.inner-up.U"].T.clone()
        found["_components.inner-down.U"] = found["_components.inner-up.V"].T.clone()
    return found


def _older(found: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in found.items():
        if name.startswith("_components."):
            key, last = name.removeprefix("_components.").rsplit(".", 1)
            if last != "bias":
                renamed[f"patched_model.{key.replace('-', '.')}.components.{last}"] = value
        elif name.startswith("target_model.") and name.endswith(".weight"):
            path = name.removeprefix("target_model.").removesuffix(".weight")
            renamed[f"patched_model.{path}.original.weight"] = value
        else:
            renamed[name.replace("target_model.", "patched_model.").replace("_ci_fns.", "_gates.")] = value
    return renamed


def _saved(found: Any, path: Path) -> Path:
    torch.save(found, path)
    return path


def _z_by_hand(kind: str, found: dict[str, Tensor], site: str, x: Tensor) -> Tensor:
    """The function's value, from the original's tensors and its formula."""
    key = site.replace(".", "-")
    layers = len(WIDTHS[kind]) - 1
    h = x @ found[f"_components.{key}.V"] if kind == "mlp" else x
    h = h.unsqueeze(-1) if kind == "mlp" else h
    for k in range(layers):
        w, b = (found[f"_ci_fns.{key}.layers.{2 * k}.{name}"] for name in ("W", "b"))
        if kind == "shared_mlp":
            h = h @ w + b
        elif h.dim() == 2:
            h = torch.einsum("ni,cio->nco", h, w) + b
        else:
            h = torch.einsum("nci,cio->nco", h, w) + b
        h = torch.nn.functional.gelu(h) if k < layers - 1 else h
    return h if kind == "shared_mlp" else h.squeeze(-1)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_the_original_is_what_it_was(kind: str, older: bool, tmp_path: Path) -> None:
    found = _original(kind)
    model = _model(kind)
    model.calc_weight_deltas()
    converted = convert_original(_saved(_older(found) if older else found, tmp_path / "model_1.pth"), model)
    layers = len(WIDTHS[kind]) - 1
    assert (converted.target, converted.components, converted.ci_fns) == (3, 5, 4 * layers)
    x = torch.rand(5, 4)
    up, down = found["target_model.inner.up.weight"], found["target_model.inner.down.weight"]
    bias = found["target_model.inner.down.bias"]
    torch.testing.assert_close(model(x), torch.relu(x @ up.T @ down.T + bias))
    importances = model.calc_causal_importances(model(x, cache_type="input").cache).pre_sigmoid
    torch.testing.assert_close(importances["inner.up"], _z_by_hand(kind, found, "inner.up", x))
    torch.testing.assert_close(importances["inner.down"], _z_by_hand(kind, found, "inner.down", x @ up.T))
    for site in SITES:
        key = site.replace(".", "-")
        product = (found[f"_components.{key}.V"] @ found[f"_components.{key}.U"]).T
        torch.testing.assert_close(model.components[site].weight, product)
    assert torch.equal(model.components["inner.down"].bias, bias)  # also where the older form has no copy of it
    deltas = model.calc_weight_deltas()
    torch.testing.assert_close(deltas["inner.up"], up - model.components["inner.up"].weight)


def test_tied_sites_are_checked_and_held_once(tmp_path: Path) -> None:
    found = _original(tied=True)
    model = _model(tied=True)
    converted = convert_original(_saved(found, tmp_path / "m.pth"), model)
    assert converted.tied == ("inner.down",)
    assert converted.components == 3  # V, U and the second one's bias
    torch.testing.assert_close(model.components["inner.down"].weight, model.components["inner.up"].weight.T)
    assert torch.equal(model.components["inner.down"].V, found["_components.inner-down.V"])


def _without(name: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda found: {key: value for key, value in found.items() if key != name}


def _with(name: str, value: Any) -> Callable[[dict[str, Tensor]], Any]:
    return lambda found: {**found, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("_components.inner-up.V"), r"_components\.inner-up\.V came with shape None .* shape \(4, 6\)"),
        (_without("target_model.inner.down.bias"), r"target_model\.inner\.down\.bias came with shape None"),
        (_without("_ci_fns.inner-up.layers.2.b"), r"_ci_fns\.inner-up\.layers\.1\.b came with shape None"),
        (_with("_components.inner-up.U", torch.ones(7, 2)), r"came with shape \(7, 2\) .* shape \(6, 2\) is needed"),
        (_with("_components.other.U", torch.ones(7, 2)), r"_components\.other\.U came .* shape None is needed"),
        (_with("_ci_fns.inner-up.layers.0.W", torch.ones(1, 3)), r"came with shape \(1, 3\)"),
        (_with("_ci_fns.inner-up.layers.6.W", torch.ones(1, 3)), r"layers\.3\.W came with shape \(1, 3\)"),
        (_with("step", 3), "'step' is a int"),
        (_with("_gates.inner-up.layers.0.W", torch.ones(1)), "under an old name and under a new one"),
        (lambda found: list(found.values()), "holds a list"),
        (lambda found: {"model": found}, "'model' is a dict"),
        (lambda found: Path("anything"), "could not be read as one"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(change: Any, message: str, tmp_path: Path) -> None:
    path = _saved(change(_original()), tmp_path / "m.pth")
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        convert_file(path, tmp_path / "out.safetensors", model)
    assert not (tmp_path / "out.safetensors").exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02."])
def test_files_that_are_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="could not be read as one"):
        convert_original(tmp_path / "m.pth", _model())
    with pytest.raises(CheckpointError, match="could not be read as one"):
        convert_original(tmp_path / "nowhere.pth", _model())


class _Runs:
    """A pickle that would run code where it is trusted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    with (tmp_path / "m.pth").open("wb") as file:
        pickle.dump({"a": _Runs(tmp_path / "ran")}, file, protocol=2)  # as torch.save does
    with pytest.raises(CheckpointError, match="could not be read as one"):
        convert_original(tmp_path / "m.pth", _model())
    assert not (tmp_path / "ran").exists()


def test_tied_sites_that_are_not_transposes(tmp_path: Path) -> None:
    found = _original(tied=True)
    found["_components.inner-down.V"][0, 0] += 1e-3
    with pytest.raises(
        CheckpointError, match=r"_components\.inner-down\.V is not the transpose of _components\.inner-up\.U"
    ):
        convert_original(_saved(found, tmp_path / "m.pth"), _model(tied=True))
    del found["_components.inner-down.V"]
    with pytest.raises(CheckpointError, match=r"_components\.inner-down\.V came with shape None"):
        convert_original(_saved(found, tmp_path / "m.pth"), _model(tied=True))


# --- files of weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("backend", ["ephemeral_hooks", "inline"])
def test_weights_come_back_as_they_were(tied: bool, backend: str, tmp_path: Path) -> None:
    model = _model(tied=tied)
    convert_file(_saved(_original(tied=tied), tmp_path / "m.pth"), tmp_path / "deep" / "w.safetensors", model)
    other = _model(tied=tied, backend=backend)
    target = other.target_model.state_dict()["inner.up.weight"].clone()
    load_components(other, tmp_path / "deep" / "w.safetensors")
    for name, value in model.state_dict().items():
        if name.startswith(("_components", "_ci_fns")) and not name.endswith(".bias"):
            assert torch.equal(value, other.state_dict()[name])
    assert torch.equal(other.target_model.state_dict()["inner.up.weight"], target)
    with safe_open(tmp_path / "deep" / "w.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["spd-weights"])
        names = list(file.keys())
    assert header["components"] == {"inner.up": C, "inner.down": C}
    assert len(header["sha256"]) == 64
    assert not any(name.startswith("target_model") for name in names)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_weights_that_cannot_be_trusted(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = _model()
    save_components(model, path)
    whole = path.read_bytes()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def refused(message: str, into: ComponentModel = model) -> None:
        with pytest.raises(CheckpointError, match=message):
            load_components(into, path)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    refused(r"_ci_fns\.inner-down\.layers\.0\.W has shape \(6, 1, 3\)", _model("vector_mlp"))
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused("it is damaged")
    path.write_bytes(whole[:-10])
    refused("is truncated")
    path.write_bytes(whole.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    refused("has format 9")
    path.unlink()
    refused("is not, or is truncated")
