"""Shipped targets are what their headers say, and files of targets are whole or refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from spd.errors import CheckpointError, TargetError
from spd.experiments.ih.model import InductionBatches, InductionTransformer
from spd.experiments.lm.model import SimpleLM
from spd.experiments.lm.text import python_text
from spd.experiments.resid_mlp.model import ResidMLP
from spd.experiments.targets import (
    describe_target,
    load_target,
    measure_target,
    save_target,
    target_names,
    train_target,
)
from spd.experiments.tms.model import TMSModel

LARGEST = {"resid_mlp1": 210_000, "resid_mlp2": 210_000, "resid_mlp3": 220_000}
"""Bytes of a file; 100 000 for all others."""


@pytest.mark.parametrize("name", target_names())
def test_a_shipped_target_is_frozen_and_small(name: str) -> None:
    model, said = load_target(name), describe_target(name)
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in model.parameters())
    assert not model.training
    assert said.path.stat().st_size < LARGEST.get(name, 100_000)


# Each loss is worked out here in NumPy or anew, on numbers that no stream of the package made.


@pytest.mark.parametrize("name", ["tms_5-2", "tms_5-2-id", "tms_40-10", "tms_40-10-id"])
def test_superposition_has_the_loss_that_it_says(name: str) -> None:
    model, said = load_target(name), describe_target(name).figures["loss"]
    assert isinstance(model, TMSModel)
    random, shape = np.random.default_rng(5), (2_000_000 // model.linear1.in_features, model.linear1.in_features)
    x = random.random(shape) * (random.random(shape) < 0.05)
    w, b = model.linear1.weight.double().numpy(), model.linear2.bias.double().numpy()
    loss = np.square(np.maximum(x @ w.T @ w + b, 0) - x).mean()
    assert loss == pytest.approx(said, rel=0.03)
    # What the original's model of five features comes to, and half of what a network that gives 0 would.
    assert loss < (0.0019 if name.startswith("tms_5-2") else 0.5 * 0.05 / 3)
    for layer in model.hidden_layers:
        assert torch.equal(layer.weight, torch.eye(model.linear1.out_features))  # type: ignore[arg-type]


def test_the_shipped_features_make_a_regular_pentagon() -> None:
    model = load_target("tms_5-2")
    assert isinstance(model, TMSModel)
    w = model.linear1.weight
    np.testing.assert_allclose(w.norm(dim=0).numpy(), 1.13, atol=0.02)
    angles = torch.rad2deg(torch.atan2(w[1], w[0])).sort().values
    np.testing.assert_allclose(angles.diff().numpy(), 72, atol=1)
    assert torch.equal(model.linear2.weight, w.T)


@pytest.mark.parametrize(
    ("name", "published"), [("resid_mlp1", 6.96e-4), ("resid_mlp2", 6.90e-4), ("resid_mlp3", 6.58e-4)]
)
def test_the_residual_network_has_the_loss_that_it_says(name: str, published: float) -> None:
    model, said = load_target(name), describe_target(name).figures["loss"]
    assert isinstance(model, ResidMLP)
    n = model.W_E.shape[0]
    random = np.random.default_rng(5)
    x = (random.uniform(-1, 1, (20_000, n)) * (random.random((20_000, n)) < 0.01)).astype(np.float32)
    e = model.W_E.numpy()
    stream = x @ e
    for layer in model.layers:
        stream = stream + np.maximum(stream @ layer.mlp_in.weight.numpy().T, 0) @ layer.mlp_out.weight.numpy().T
    loss = np.square((stream @ e.T - x - np.maximum(x, 0)).astype(np.float64)).mean()
    assert loss == pytest.approx(said, rel=0.03)
    assert loss == pytest.approx(published, rel=0.06)
    assert describe_target(name).figures["loss_before_rounding"] == pytest.approx(said, rel=1e-3)


def test_the_induction_head_answers() -> None:
    model, said = load_target("ih"), describe_target("ih").figures
    assert isinstance(model, InductionTransformer)
    random = np.random.default_rng(5)
    tokens = random.integers(0, 128, (4000, 64))
    first = random.integers(1, 62, 4000)
    tokens[:, 0], tokens[:, -1] = 128, 129
    tokens[np.arange(4000), first] = 129
    answers = tokens[np.arange(4000), first + 1]
    right = (model(torch.from_numpy(tokens)).argmax(-1).numpy() == answers).mean()
    assert right >= 0.99
    assert right == pytest.approx(said["accuracy"], abs=0.005)
    # Without the first S there is nothing to look up.
    tokens[np.arange(4000), first] = 0
    assert (model(torch.from_numpy(tokens)).argmax(-1).numpy() == answers).mean() < 0.2


def test_the_language_model_foretells_text_that_it_did_not_see() -> None:
    model, said = load_target("text"), describe_target("text").figures
    assert isinstance(model, SimpleLM)
    text = python_text("held_out")[:16_384].unflatten(0, (-1, 128))
    logits = model(text[:, :-1])
    bits = functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()).item() / np.log(2)
    # The text differs between versions of Python, and this is a part of it.
    assert bits == pytest.approx(said["bits_per_character"], rel=0.15)
    assert bits < 0.6 * said["unigram_bits"]
    seen = np.bincount(python_text("train").numpy(), minlength=97) + 1.0
    assert -np.log2(seen / seen.sum())[python_text("held_out").numpy()].mean() == pytest.approx(
        said["unigram_bits"], rel=0.05
    )


@pytest.mark.parametrize("name", ["tms_5-2", "ih"])
def test_measuring_again_gives_the_header(name: str) -> None:
    for figure, value in measure_target(name).items():
        assert value == pytest.approx(describe_target(name).figures[figure], rel=1e-3)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return train_target("tms_5-2", steps=2, out=tmp_path / "new" / "own.safetensors").path  # type: ignore[return-value]


def test_a_target_comes_back_as_it_was(tmp_path: Path) -> None:
    made = train_target("tms_5-2-id", seed=4, steps=3, out=tmp_path / "own.safetensors")
    assert made.path is not None
    back, said = load_target(made.path), describe_target(made.path)
    x = torch.rand(7, 5)
    assert torch.equal(back(x), made.model(x))
    assert (said.kind, said.settings, said.figures) == ("tms", made.settings, made.figures)
    assert (said.train_settings["seed"], said.train_settings["steps"]) == (4, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["own.safetensors"]
    w = back.linear1.weight  # type: ignore[union-attr]
    with torch.no_grad():
        w.mul_(2)  # type: ignore[operator]
    assert torch.equal(back.linear2.weight, w.T)  # type: ignore[union-attr]


def test_the_same_seed_makes_the_same_target() -> None:
    one, two, other = (train_target("tms_5-2", steps=9, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert not torch.equal(one["linear1.weight"], other["linear1.weight"])


def test_directions_that_come_from_a_seed_are_not_in_the_file(tmp_path: Path) -> None:
    model = ResidMLP(6, 40, 3, 1, embedding_seed=2)
    settings: dict[str, Any] = {"n_features": 6, "d_embed": 40, "d_mlp": 3, "n_layers": 1, "embedding_seed": 2}
    path = save_target(model, tmp_path / "a", kind="resid_mlp", settings=settings)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"layers.0.mlp_in.weight", "layers.0.mlp_out.weight"}
    assert torch.equal(load_target(path).W_E, model.W_E)  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="W_E"):
        save_target(model, tmp_path / "b", kind="resid_mlp", settings=settings | {"embedding_seed": 3})
    model.W_E[0, 0] += 1
    path = save_target(model, tmp_path / "c", kind="resid_mlp", settings=settings | {"embedding_seed": None})
    assert torch.equal(load_target(path).W_E, model.W_E)  # type: ignore[arg-type]


def test_numbers_are_stored_as_float16_only_where_that_loses_nothing(tmp_path: Path) -> None:
    model = InductionTransformer(4, 2, seq_len=6)
    with torch.no_grad():
        model.embed.weight.copy_(model.embed.weight.half())
        model.unembed.weight[0, 0] = 1 / 3
    settings = {"vocab_size": 4, "d_model": 2, "seq_len": 6}
    path = save_target(model, tmp_path / "a", kind="ih", settings=settings)
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("embed.weight").dtype == torch.float16
        assert file.get_tensor("unembed.weight").dtype == torch.float32
    assert torch.equal(load_target(path).unembed.weight, model.unembed.weight)  # type: ignore[union-attr, arg-type]


def test_settings_that_build_another_network_are_refused(tmp_path: Path) -> None:
    model = TMSModel(5, 2)
    with pytest.raises(TargetError, match=r"differs at linear1\.weight"):
        save_target(model, tmp_path / "a", kind="tms", settings={"n_features": 5, "n_hidden": 3})
    with pytest.raises(TargetError, match="arguments of a tms"):
        save_target(model, tmp_path / "a", kind="tms", settings={"features": 5})
    with pytest.raises(TargetError, match="one of tms, resid_mlp, ih, text; got 'mlp'"):
        save_target(model, tmp_path / "a", kind="mlp", settings={})
    model.linear2.weight = nn.Parameter(torch.zeros(5, 2))
    with pytest.raises(TargetError, match=r"differs at linear2\.weight"):
        save_target(model, tmp_path / "a", kind="tms", settings={"n_features": 5, "n_hidden": 2})
    assert not list(tmp_path.iterdir())
    with pytest.raises(TargetError, match="tms_5-2-id, "):
        train_target("tms_5")


def test_names_that_are_no_target_are_told_the_shipped_ones(tmp_path: Path) -> None:
    for wrong in ("tms_6-2", str(tmp_path / "nowhere.safetensors"), tmp_path):
        with pytest.raises(CheckpointError, match="tms_5-2, tms_5-2-id"):
            load_target(wrong)


def test_a_file_that_is_truncated_foreign_or_too_new_is_refused(own: Path) -> None:
    whole = own.read_bytes()
    own.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="own"):
        load_target(own)
    own.write_bytes(b"no target")
    with pytest.raises(CheckpointError, match="is not, or is truncated"):
        describe_target(own)
    save_file({"linear1.weight": torch.zeros(2, 5)}, own)
    with pytest.raises(CheckpointError, match="safetensors file that spd wrote"):
        load_target(own)
    own.write_bytes(whole)
    _rewritten(own, {"format": 2}, {})
    with pytest.raises(CheckpointError, match="has format 2"):
        load_target(own)


def test_a_file_that_is_damaged_is_refused(own: Path) -> None:
    whole = own.read_bytes()
    own.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_target(own)
    own.write_bytes(whole)
    _rewritten(own, {}, {"linear1.weight": None})
    with pytest.raises(CheckpointError, match=r"linear1\.weight"):
        load_target(own)
    own.write_bytes(whole)
    _rewritten(own, {"settings": {"n_features": 5, "n_hidden": 3}}, {})
    with pytest.raises(CheckpointError, match="that its header describes"):
        load_target(own)
    own.write_bytes(whole)
    _rewritten(own, {"kind": "gpt"}, {})
    with pytest.raises((CheckpointError, TargetError), match="got 'gpt'"):
        load_target(own)


def _rewritten(path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor | None]) -> None:
    with safe_open(path, framework="pt") as file:
        found = json.loads(file.metadata()["spd.target"])
        kept = {name: file.get_tensor(name) for name in file.keys()} | tensors  # noqa: SIM118  # not a mapping
    save_file(
        {name: value for name, value in kept.items() if value is not None},
        path,
        metadata={"spd.target": json.dumps(found | header)},
    )


# --- slow -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tms_5-2", "resid_mlp1"])
def test_training_anew_comes_out_alike(name: str) -> None:
    made = train_target(name, seed=11)
    assert made.figures["loss"] == pytest.approx(describe_target(name).figures["loss"], rel=0.05)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_induction_head_is_learnt() -> None:
    assert train_target("ih", seed=0, steps=6000).figures["accuracy"] >= 0.99


def test_the_stream_of_examples_has_the_pattern() -> None:
    tokens = InductionBatches(16, 200, 10, seed=3).batch(2)
    for row in tokens.tolist():
        assert row[0] == 16
        assert row[-1] == 17
        assert row[1:-1].count(17) == 1
        assert row.index(17) <= 7
