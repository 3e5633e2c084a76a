"""Checkpoints: what comes back, what is refused, what a crash leaves behind, and resumption bit for bit."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from resu import checkpoint as module
from resu.checkpoint import FORMAT_VERSION, Checkpoint, about, load, random_states, restore, save, set_random_states
from resu.config import CycleConfig
from resu.errors import CheckpointError
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.sparsifier import Sparsifier

SCRIPT = Path(__file__).parent / "interrupted_training.py"


@pytest.fixture(scope="module")
def training() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interrupted_training", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESU_BACKEND", "eager")


def pruned(sparsity: float = 0.5, width: int = 6, optimizer: bool = True) -> tuple[nn.Linear, Sparsifier, Any]:
    torch.manual_seed(2)
    model = nn.Linear(5, width)
    masked = MaskedAdamW(model.parameters(), lr=1e-2) if optimizer else None
    sparsifier = Sparsifier(model, sparsity, optimizer=masked)
    sparsifier.prune()
    return model, sparsifier, masked


def kept(model: nn.Module, sparsifier: Sparsifier, optimizer: Any = None) -> Checkpoint:
    return Checkpoint(
        model.state_dict(), sparsifier.state_dict(), None if optimizer is None else optimizer.state_dict()
    )


# --- what comes back --------------------------------------------------------------------------------------------------

_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(
        [
            torch.tensor([1.5, -0.0]),
            torch.arange(4, dtype=torch.uint8).view(2, 2),
            torch.tensor(7),
            torch.zeros(0, 3),
            torch.tensor([float("nan")], dtype=torch.bfloat16),
            torch.tensor([True, False]),
            torch.ones(4, 6).T[::2],
        ]
    )
)
_trees = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=8,
)


def assert_same(left: Any, right: Any) -> None:
    """Types, dtypes, shapes and bits."""
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        pair = [x.contiguous().reshape(-1).view(torch.uint8) for x in (left, right)]
        assert torch.equal(*pair)
    elif isinstance(left, dict):
        assert list(left) == list(right) or sorted(map(str, left)) == sorted(map(str, right))
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


@given(tree=_trees)
def test_every_tree_comes_back_bit_for_bit(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tree") / "c.safetensors"
    assert_same(load(save(path, Checkpoint({"tree": tree}))).model["tree"], tree)


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_json_does_not_have(number: float, tmp_path: Path) -> None:
    back = load(save(tmp_path / "c", Checkpoint({}, settings={"x": number}))).settings["x"]
    assert repr(back) == repr(number)


def test_weights_that_are_shared_are_written_once(tmp_path: Path) -> None:
    shared, part = torch.randn(100, 10), torch.randn(50)
    path = save(tmp_path / "c", Checkpoint({"a": shared, "b": shared, "view": part[10:20], "base": part}))
    back = load(path).model
    assert torch.equal(back["a"], shared)
    assert torch.equal(back["b"], shared)
    assert torch.equal(back["view"], part[10:20])
    assert sorted(load_file(path)) == ["model/a", "model/base", "model/view"]


def test_the_same_state_is_the_same_file(tmp_path: Path) -> None:
    model, sparsifier, optimizer = pruned()
    files = [save(tmp_path / str(i), kept(model, sparsifier, optimizer)).read_bytes() for i in range(4)]
    assert files == files[:1] * 4


def test_what_a_file_says_of_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "deep" / "c", Checkpoint({"w": torch.ones(9)}, about={"step": 7}, settings={"seed": 1}))
    facts = about(path)
    assert facts == {"version": FORMAT_VERSION, "bytes": path.stat().st_size, "settings": {"seed": 1}, "step": 7}


def test_masks_are_packed_beside_weights_that_any_linear_layer_takes(tmp_path: Path) -> None:
    model, sparsifier, _ = pruned()
    tensors = load_file(save(tmp_path / "c", kept(model, sparsifier)))
    bits = tensors["sparsifier/layers/weight/mask/bits"]
    assert (bits.dtype, tuple(bits.shape)) == (torch.uint8, (6, 1))
    unpacked = np.unpackbits(bits.numpy(), axis=1, bitorder="little")[:, :5]
    assert np.array_equal(unpacked.astype(bool), (model.weight != 0).numpy())
    plain = nn.Linear(5, 6)
    plain.load_state_dict({name.removeprefix("model/"): x for name, x in tensors.items() if name.startswith("model/")})
    assert torch.equal(plain.weight, model.weight)


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"bytes", np.ones(2)])
def test_what_is_neither_tensor_nor_json_is_refused(thing: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"settings/x is a {type(thing).__name__}\. Leave it out"):
        save(tmp_path / "c", Checkpoint({}, settings={"x": thing}))
    assert list(tmp_path.iterdir()) == []


def test_sparse_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"layout torch\.sparse_coo\. Gather it first"):
        save(tmp_path / "c", Checkpoint({"w": torch.eye(3).to_sparse()}))


def everything(path: Path) -> dict[str, Any]:
    """All that a checkpoint holds but Python's random numbers, of which the shape checker of these tests draws some."""
    tree = asdict(load(path))
    for states in (tree["loader"]["began_with"], tree["loader"]["now"]):
        del states["python"]
    return tree


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    model, sparsifier, optimizer = pruned()
    return save(tmp_path_factory.mktemp("whole") / "c", kept(model, sparsifier, optimizer)).read_bytes()


def test_every_truncation_is_refused(tmp_path: Path, whole: bytes) -> None:
    cut = tmp_path / "cut"
    for length in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=rf"cut \({length} bytes\) is truncated or something else"):
            load(cut)
    cut.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="truncated or something else"):
        load(cut)


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused(
    data: st.DataObject, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = data.draw(st.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[place // 8] ^= 1 << place % 8
    path = tmp_path_factory.mktemp("flipped") / "c"
    path.write_bytes(broken)
    with pytest.raises(CheckpointError):
        load(path)


def test_a_flipped_bit_in_a_weight_is_named(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "c"
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"c says [0-9a-f]{12}…, its content has [0-9a-f]{12}…\. The file is"):
        load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    save_file({"weights": torch.ones(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="is a safetensors file of another kind"):
        load(tmp_path / "foreign.safetensors")
    (tmp_path / "text").write_text("not a checkpoint at all, but long enough to hold a header length")
    with pytest.raises(CheckpointError, match="truncated or something else"):
        load(tmp_path / "text")
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError, match=r"a checkpoint is a file; .* is none\. Check the path"):
            load(path)


@pytest.mark.parametrize("header", ["{}", "[]", "no json", '{"version": 1}', '{"version":1,"sha256":"","state":{}}'])
def test_a_header_that_does_not_fit_is_refused(header: str, tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "c", {"resu.checkpoint": header})
    with pytest.raises(CheckpointError):
        load(tmp_path / "c")


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"version": FORMAT_VERSION + 1, "whatever": "it may hold"})
    save_file({"x": torch.ones(1)}, tmp_path / "c", {"resu.checkpoint": header})
    for read in (load, about):
        with pytest.raises(CheckpointError, match=rf"format {FORMAT_VERSION}; .* has format {FORMAT_VERSION + 1}\."):
            read(tmp_path / "c")


def _refused(checkpoint: Checkpoint, match: str, optimizer: bool = False, **other: Any) -> None:
    """Refused, and nothing has been touched."""
    model, sparsifier, masked = pruned(**other)
    before = [p.detach().clone() for p in model.parameters()]
    mask = sparsifier.parameters["weight"].mask.clone()
    with pytest.raises(CheckpointError, match=match):
        restore(checkpoint, model, sparsifier, masked if optimizer else None, source="file")
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert sparsifier.parameters["weight"].mask == mask


def test_weights_of_another_model_are_refused() -> None:
    model, sparsifier, _ = pruned(width=7)
    _refused(kept(model, sparsifier), r"bias has shape \(7,\) in file and \(6,\) here \(2 of 2 differ\)")


def test_masks_of_other_layers_are_refused() -> None:
    model, sparsifier, _ = pruned()
    state = sparsifier.state_dict()
    state["layers"] = {"head.weight": state["layers"]["weight"]}
    _refused(Checkpoint(model.state_dict(), state), r"head\.weight has a mask of shape \(6, 5\) in file and none here")


def test_a_mask_of_another_shape_is_refused() -> None:
    model, _, _ = pruned()
    _, foreign, _ = pruned(width=7)
    _refused(Checkpoint(model.state_dict(), foreign.state_dict()), r"shape \(7, 5\) in file and \(6, 5\) here")


def test_a_mask_that_belongs_to_other_weights_is_refused() -> None:
    model, _, _ = pruned()
    _, other, _ = pruned()
    other.prune("random")
    _refused(
        Checkpoint(model.state_dict(), other.state_dict()), r"pruned weights are 0 in phase train; file has \d+ of"
    )


@pytest.mark.parametrize("broken", [{}, {"layers": {"weight": {}}, "phase": "train"}, {"layers": {}, "phase": "rest"}])
def test_masks_that_cannot_be_read_are_refused(broken: dict[str, Any]) -> None:
    model, _, _ = pruned()
    _refused(Checkpoint(model.state_dict(), broken), "those of file cannot be read")


def test_an_optimizer_state_is_not_invented() -> None:
    model, sparsifier, _ = pruned()
    _refused(kept(model, sparsifier), "file has none. Start with a fresh optimizer", optimizer=True)
    one = MaskedSGD([model.weight], lr=0.1)
    _refused(kept(model, sparsifier, one), r"groups of \[1\] parameters, this optimizer has \[2\]", optimizer=True)


def test_state_keeps_its_own_types() -> None:
    """Torch casts every state tensor to the type of its parameter."""
    model, sparsifier, optimizer = pruned()
    optimizer.state[model.weight] = {"block_offsets": torch.tensor([3, 5], dtype=torch.int32), "mean": torch.ones(2)}
    saved = kept(model, sparsifier, optimizer)
    model, sparsifier, optimizer = pruned()
    restore(saved, model, sparsifier, optimizer)
    assert optimizer.state[model.weight]["block_offsets"].dtype == torch.int32
    assert optimizer.state[model.weight]["block_offsets"].tolist() == [3, 5]
    assert optimizer.state[model.weight]["mean"].dtype == torch.float32


# --- what a crash leaves behind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace"), (module, "save_file")])
def test_a_failed_write_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, function: str
) -> None:
    path = save(tmp_path / "file", Checkpoint({}, settings={"old": True}))

    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(owner, function, fail)
        with pytest.raises(OSError, match="no space left"):
            save(path, Checkpoint({"w": torch.ones(1000)}))
    assert load(path).settings == {"old": True}
    save(path, Checkpoint({}, settings={"new": True}))
    assert load(path).settings == {"new": True}
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save(tmp_path / "ours", Checkpoint({}))
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_killed_process_resumes_to_the_bits_of_the_uninterrupted_one(tmp_path: Path, training: ModuleType) -> None:
    """SIGKILL at step 33, in the third RESU phase; the last whole checkpoint is of step 30, in the same phase."""
    path = tmp_path / "killed.safetensors"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, SCRIPT, path, "33"], env=environment) as process:
        deadline = time.monotonic() + 120
        while not (path.is_file() and about(path)["step"] == 30):
            assert process.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
        assert process.returncode == -9
    (tmp_path / ".killed.safetensors.partial").write_bytes(b"what a write that was cut short leaves behind")
    assert (about(path)["phase"], about(path)["cycle"]) == ("resu", 2)

    resumed, loader = training.build(path)
    history = resumed.train(loader)
    uninterrupted, loader = training.build(tmp_path / "whole.safetensors")
    assert uninterrupted.train(loader) == history
    assert resumed.cycle.step == 48
    assert_same(everything(path), everything(tmp_path / "whole.safetensors"))
    assert not (tmp_path / ".killed.safetensors.partial").exists()


# --- resumption -------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda params: MaskedAdamW(params, lr=1e-2),
    "signbit": lambda params: MaskedAdamW(params, lr=1e-2, layout="signbit"),
    "compact": lambda params: MaskedAdamW(params, lr=1e-2, layout="compact"),
    "sgd": lambda params: MaskedSGD(params, lr=0.05, momentum=0.9),
    "stock adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "stock nadam": lambda params: torch.optim.NAdam(params, lr=1e-2),
}


def _resumed_as_uninterrupted(training: ModuleType, tmp_path: Path, step: int, **options: Any) -> None:
    files = []
    for stop in (None, step):
        trainer, loader = training.build(**options)
        if stop is not None:
            trainer.train(loader, max_steps=stop)
            assert trainer.cycle.phase == "resu"
            path = trainer.save(tmp_path / "middle")
            trainer, loader = training.build(**options)
            with torch.no_grad():
                for parameter in trainer.model.parameters():
                    parameter.add_(1.0)  # whatever was there must not matter
            trainer.load(path)
            random.seed(99)
            torch.manual_seed(99)
        trainer.train(loader)
        files.append(trainer.save(tmp_path / str(stop)))
    assert_same(everything(files[0]), everything(files[1]))


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_resumption_in_the_middle_of_resu_is_bit_exact(name: str, training: ModuleType, tmp_path: Path) -> None:
    config = CycleConfig(**training.SHORT, score="magnitude")
    _resumed_as_uninterrupted(training, tmp_path, 21, make_optimizer=OPTIMIZERS[name], config=config)


@pytest.mark.parametrize(
    "changes",
    [
        {"resu_init": "normal", "resu_subset": 0.5},
        {"clear_state": True, "freeze_others": True, "resu_lr": 1e-3},
        {"use_selective": True, "score": "magnitude", "clear_state": True, "freeze_others": True},
    ],
)
def test_resumption_under_other_settings(changes: dict[str, Any], training: ModuleType, tmp_path: Path) -> None:
    config = CycleConfig(**(training.SHORT | changes))
    _resumed_as_uninterrupted(training, tmp_path, 20, config=config, own_generator=True)


def test_resumption_at_the_end_of_an_epoch(training: ModuleType, tmp_path: Path) -> None:
    _resumed_as_uninterrupted(training, tmp_path, 8, config=CycleConfig(**training.SHORT))  # 8 batches an epoch


def test_a_training_is_resumed_from_its_own_file_only(training: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "c"
    trainer, loader = training.build(path)
    trainer.train(loader, max_steps=12)
    other, _ = training.build(path, config=CycleConfig(**(training.SHORT | {"target_sparsity": 0.8})))
    with pytest.raises(CheckpointError, match=r"target_sparsity was 0\.7 and is 0\.8"):
        other.train(loader)
    afresh, _ = training.build(path)
    afresh.train(loader, max_steps=1, resume=False)
    assert afresh.cycle.step == 1
    without, _ = training.build(path)
    without.scheduler = None
    with pytest.raises(CheckpointError, match="has one and this training none"):
        without.load(path)
    model, sparsifier, optimizer = pruned()
    save(path, kept(model, sparsifier, optimizer))
    with pytest.raises(CheckpointError, match="holds a model only"):
        afresh.load(path)


def test_a_loader_with_less_data_is_refused(training: ModuleType, tmp_path: Path) -> None:
    trainer, loader = training.build()
    trainer.train(loader, max_steps=6)
    path = trainer.save(tmp_path / "c")
    trainer, loader = training.build()
    trainer.load(path)
    with pytest.raises(CheckpointError, match="it had used 6 batches of this epoch and the loader has 3"):
        trainer.train(list(loader)[:3])


def test_a_loader_with_another_generator_is_refused(training: ModuleType, tmp_path: Path) -> None:
    trainer, loader = training.build(own_generator=True)
    trainer.train(loader, max_steps=6)
    path = trainer.save(tmp_path / "c")
    trainer, loader = training.build(own_generator=False)
    trainer.load(path)
    with pytest.raises(
        CheckpointError, match=r"has states for \[True, True\], this run has generators \[False, False\]"
    ):
        trainer.train(loader)


def test_random_states_come_back() -> None:
    generator = torch.Generator().manual_seed(1)

    def draw() -> list[float]:
        drawn = [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())]
        return [*drawn, float(torch.rand(())), float(torch.rand((), generator=generator))]

    random.gauss(0, 1)  # leaves its second number behind
    np.random.randn()
    states = random_states(generator, None)
    first = draw()
    assert draw() != first
    set_random_states(states, generator, None)
    assert draw() == first
