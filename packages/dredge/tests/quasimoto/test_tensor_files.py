"""Models come back exactly as they were written, and files that are not whole are refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dredge.errors import ArchiveError, ModelError
from dredge.quasimoto import tensor_files
from dredge.quasimoto.baselines import BASELINES, baseline
from dredge.quasimoto.compress import compressed, dequantised, quantised
from dredge.quasimoto.packets import WavePackets
from dredge.quasimoto.tensor_files import compress_file, load_model, save_model

pytestmark = pytest.mark.needs_extra("torch")

SUFFIXES = (".safetensors", ".json")


def shaken(model: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype) * 0.3)
    return model


def models() -> list[nn.Module]:
    packets: list[nn.Module] = [
        WavePackets(2, 3, chirp=True), WavePackets(1, 4, 2, drift=True, envelope="density").double(),
        baseline("siren", 2, seed=1).double(),
        baseline("wire", 2, seed=1).double(),  # its complex layers stay single
    ]  # fmt: skip
    return [shaken(model) for model in [*packets, *(baseline(name, 2) for name in BASELINES)]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_models_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    for model in models():
        again = load_model(save_model(model, tmp_path / f"m{suffix}", notes={"title": "ü"}))
        assert type(again) is type(model)
        assert again.config == model.config
        for name, value in model.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)
            assert again.state_dict()[name].dtype == value.dtype
        assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_eight_bits_come_back_within_half_a_step(tmp_path: Path, suffix: str) -> None:
    for model in models():
        again = load_model(save_model(model, tmp_path / f"m{suffix}", int8=True))
        for name, value in model.state_dict().items():
            found = again.state_dict()[name]
            if torch.equal(found, value):
                continue
            step = value.abs().amax(dim=1, keepdim=True) / 127
            assert ((found - value).abs() <= 0.5 * step * (1 + 1e-5)).all()


def test_eight_bits_are_smaller(tmp_path: Path) -> None:
    model = baseline("siren", 2, hidden=64)
    before, after = compress_file(save_model(model, tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert after < 0.4 * before
    points = 2 * torch.rand(100, 2) - 1
    result = compressed(model, points)
    assert result.bytes_after < 0.35 * result.bytes_before
    assert 0 < result.error < 0.1
    assert torch.equal(model(points), load_model(tmp_path / "b.safetensors")(points))


def test_places_and_frequencies_are_not_coded() -> None:
    model = WavePackets(1, 4)
    assert {name for name, value in quantised(model).items() if isinstance(value, tuple)} == {"head.weight"}
    siren = baseline("siren", 2)
    coded = {name for name, value in quantised(siren).items() if isinstance(value, tuple)}
    assert coded == {"layers.1.weight", "layers.2.weight", "head.weight"}


def test_codes_by_hand() -> None:
    layer = nn.Linear(8, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, :3] = torch.tensor([127.0, -63.4, 0.6])
    codes, scale = quantised(layer)["weight"]
    assert codes[0, :3].tolist() == [127, -63, 1]
    assert scale[:, 0].tolist() == [1, 1]
    assert dequantised(codes, scale)[1].tolist() == [0] * 8


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_not_coded(weight: float, tmp_path: Path) -> None:
    model = nn.Linear(8, 2)
    with torch.no_grad():
        model.weight[1, 3] = weight
    kept = model.weight.detach().clone()
    with pytest.raises(ModelError, match="some of weight are not"):
        compressed(model, torch.zeros(1, 8))
    assert torch.equal(model.weight, kept) or weight != weight


def damage_json(path: Path, change: Any) -> None:
    whole = json.loads(path.read_text(encoding="utf-8"))
    change(whole)
    path.write_text(json.dumps(whole), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda whole: whole.update(format=9), "format"),
        (lambda whole: whole["tensors"]["centre"]["numbers"].__setitem__(0, 5.0), "SHA-256"),
        (lambda whole: whole["tensors"].pop("centre"), "SHA-256"),
        (lambda whole: whole["tensors"]["centre"].update(shape=[7]), "cut short"),
        (lambda whole: whole["tensors"]["centre"].update(type="int4"), "cut short"),
        (lambda whole: whole.pop("tensors"), "cut short"),
        (lambda whole: whole.update(model="oracle"), "what its kind needs"),
        (lambda whole: whole["config"].update(n=99), "what its kind needs"),
        (lambda whole: whole["config"].update(n=0), "what its kind needs"),
    ],
)
def test_changed_files_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = save_model(WavePackets(1, 3), tmp_path / "m.json")
    damage_json(path, change)
    with pytest.raises(ArchiveError, match=message):
        load_model(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_and_foreign_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save_model(WavePackets(1, 3), tmp_path / f"m{suffix}")
    whole = path.read_bytes()
    for part in (b"", whole[:5], whole[: len(whole) // 2], whole[:-1], b"\x00" * 100, b"[1]", b"[" * 100_000):
        path.write_bytes(part)
        with pytest.raises(ArchiveError, match="cut short"):
            load_model(path)
    with pytest.raises(ArchiveError, match="cut short"):
        load_model(tmp_path / f"gone{suffix}")


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = save_model(WavePackets(1, 3), tmp_path / "m.safetensors")
    whole = bytearray(path.read_bytes())
    whole[-2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ArchiveError, match="SHA-256"):
        load_model(path)


def test_other_models_and_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="got Linear"):
        save_model(nn.Linear(1, 1), tmp_path / "m.json")
    with pytest.raises(ModelError, match="ends in"):
        save_model(WavePackets(1, 1), tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"got torch\.float16"):
        save_model(WavePackets(1, 1).half(), tmp_path / "m.json")
    with pytest.raises(ModelError, match=r"notes are JSON values; .*set"):
        save_model(WavePackets(1, 1), tmp_path / "m.json", notes={"tags": {1, 2}})
    spoilt = WavePackets(1, 1)
    with torch.no_grad():
        spoilt.centre.fill_(math.nan)
    with pytest.raises(ModelError, match=r"Use \.safetensors"):
        save_model(spoilt, tmp_path / "m.json")
    assert not list(tmp_path.iterdir())
    assert load_model(save_model(spoilt, tmp_path / "m.safetensors")).centre.isnan().all()
    assert tensor_files.FORMAT == 1


@pytest.mark.parametrize("config", [{"w0": "fast"}, {"w0": 0}, {"hidden": 10**15}, {"seed": 2**80}, {"dim": "2"}, 5])
def test_settings_that_no_model_has_are_damage(tmp_path: Path, config: Any) -> None:
    path = save_model(baseline("siren", 2), tmp_path / "m.json")
    damage_json(path, lambda whole: whole.update(config={**whole["config"], **config} if config != 5 else config))
    with pytest.raises(ArchiveError, match="what its kind needs"):
        load_model(path)


def test_a_header_that_is_no_object_is_damage(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for header in ("[]", "[1]", "5", "{}", "nothing"):
        save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"dredge": header})
        with pytest.raises(ArchiveError):
            load_model(tmp_path / "m.safetensors")
