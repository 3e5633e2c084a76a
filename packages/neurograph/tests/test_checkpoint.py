"""A run that goes on is the run that was never stopped, and a file is whole, absent or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from neurograph import checkpoint
from neurograph.checkpoint import check_same_settings, load_checkpoint, save_checkpoint
from neurograph.config import Config, overridden
from neurograph.errors import CheckpointError
from neurograph.model import Model
from neurograph.train.trainer import Trainer

SMALL = Config.model_validate(
    {
        "graph": {"widths": [9, 12, 3], "cardinality": 4},
        "model": {"dim": 4},
        "train": {"epochs": 40, "batch_size": 8, "shift_augment": True},
        "seed": 3,
    }
)


def trainer_of(config: Config = SMALL) -> Trainer:
    return Trainer(Model.build(config), config.train, seed=config.seed)


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(80, 9, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def bits(trainer: Trainer) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in trainer.state_dict()[0].items()}


@pytest.mark.parametrize(
    ("changes", "epochs"),
    [
        ([], 6),
        (["train.optimizer.kind=sgd"], 4),
        (["train.accumulation=4"], 4),  # 10 steps an epoch: two and a half times
        (["train.label_smoothing=0.1", "train.credit=contrastive", "train.shift_augment=false"], 4),
        (["train.label_smoothing=0.1", "train.accumulation=3", "tables.grid=inclusive", "radiation.top_k=2"], 4),
        pytest.param([], 40, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_half_of_it_saved_and_the_other_half_bit_for_bit(
    tmp_path: Path, changes: list[str], epochs: int
) -> None:
    """An epoch is 10 steps: 400 are 200, a file, and 200 more."""
    config = overridden(SMALL, [*changes, f"train.epochs={epochs}"])
    x, y = samples()
    whole = trainer_of(config)
    whole.fit(x, y)
    half = trainer_of(config)
    half.fit(x, y, until=epochs // 2)
    path = save_checkpoint(tmp_path / "some" / "run.safetensors", half.state_dict(), config)
    found = load_checkpoint(path)
    assert found.epoch == epochs // 2
    again = trainer_of(config)
    assert bits(again) != bits(half)
    again.load_state_dict(*found.state)
    assert bits(again) == bits(half)
    again.fit(x, y)
    assert again.epoch == epochs
    assert bits(again) == bits(whole)
    assert again.history == whole.history
    assert not torch.equal(again.model.store.phase, half.model.store.phase)
    assert any("residual" in name for name in found.tensors)


def test_a_file_says_what_it_is_and_builds_its_network(tmp_path: Path) -> None:
    trainer = trainer_of()
    trainer.fit(*samples(), until=2)
    path = save_checkpoint(tmp_path / "a", trainer.state_dict(), SMALL, classes=("x", "y", "z"), picture=(3, 3))
    found = load_checkpoint(path)
    assert (found.config, found.classes, found.picture) == (SMALL, ("x", "y", "z"), (3, 3))
    assert found.version
    assert [row["epoch"] for row in found.values["history"]] == [1, 2]
    model, x = found.build_model("cpu"), samples()[0]
    assert torch.equal(model.predict(x), trainer.model.predict(x))
    assert not torch.equal(model.store.phase, Model.build(SMALL).store.phase)
    assert save_checkpoint(tmp_path / "b", trainer.state_dict(), SMALL, classes=("x", "y", "z"), picture=(3, 3)) != path
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_files_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    data = save_checkpoint(tmp_path / "good", trainer_of().state_dict(), SMALL).read_bytes()
    flipped = bytearray(data)
    flipped[-5] ^= 1
    for name, content, said in (
        ("cut", data[: len(data) // 2], "is truncated"),
        ("short", data[:-1], "is truncated"),
        ("text", b"hello", "is not"),
        ("empty", b"", "is not"),
        ("flipped", bytes(flipped), "is damaged"),
        ("header", data.replace(b'\\"seed\\": 3', b'\\"seed\\": 4'), "is damaged"),
        ("later", data.replace(b'\\"format\\": 2', b'\\"format\\": 9'), "has format 9"),
    ):
        assert content != data
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            load_checkpoint(tmp_path / name)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="is not"):
            load_checkpoint(path)
    for metadata in (None, {"neurograph": "3"}, {"neurograph": "[]"}, {"other": "{}"}):
        save_file({"phase": torch.zeros(2)}, tmp_path / "foreign", metadata=metadata)
        with pytest.raises(CheckpointError, match=r"is not|has format"):
            load_checkpoint(tmp_path / "foreign")


def test_whatever_byte_is_changed_and_wherever_a_file_is_cut_it_is_refused(tmp_path: Path) -> None:
    config = overridden(SMALL, ["graph.widths=[2, 2, 2]", "model.dim=1", "train.optimizer.kind=sgd"])
    path = save_checkpoint(tmp_path / "a", trainer_of(config).state_dict(), config)
    content = path.read_bytes()
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        for damaged in (bytes(flipped), content[:at])[: 1 + (at % 16 == 0)]:
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                load_checkpoint(path)
    path.write_bytes(content)
    assert load_checkpoint(path).config == config


def test_a_file_is_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a", trainer_of().state_dict(), SMALL)
    (tmp_path / "b").write_text("")
    assert path.stat().st_mode == (tmp_path / "b").stat().st_mode


def rewritten(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """The same file with a header that was changed by somebody who knew how to sign it."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["neurograph"])
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header |= changes
    del header["sha256"]
    kept |= tensors or {}
    header["sha256"] = checkpoint._digest(kept, header)
    save_file(kept, path, metadata={"neurograph": json.dumps(header)})
    return path


def test_settings_that_this_version_does_not_know_are_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a", trainer_of().state_dict(), SMALL)
    with pytest.raises(CheckpointError, match=r"version 7\.0, are refused: .*'widht' does not"):
        load_checkpoint(rewritten(path, config={"widht": 1}, version="7.0"))


def test_a_header_without_all_its_parts_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a", trainer_of().state_dict(), SMALL)
    with pytest.raises(CheckpointError, match="the header of a checkpoint has all its parts"):
        load_checkpoint(rewritten(path, picture=3))
    path = save_checkpoint(path, trainer_of().state_dict(), SMALL)
    tensors, values = load_checkpoint(rewritten(path, values={"epoch": 1})).state
    with pytest.raises(CheckpointError, match="lacks seed, history, optimizer, accumulator"):
        trainer_of().load_state_dict(tensors, values)


def test_indices_that_are_not_the_network_s_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a", trainer_of().state_dict(), SMALL)
    for phase in (torch.full((24, 4), 600, dtype=torch.int16), torch.zeros(3, 4, dtype=torch.int16)):
        with pytest.raises(CheckpointError, match="these are not"):
            load_checkpoint(rewritten(path, {"phase": phase})).build_model()
    fewer = trainer_of(overridden(SMALL, ["tables.phase_bins=16"]))
    with pytest.raises(CheckpointError, match=r"phase indices are from 0 to 15; .* Build the network"):
        fewer.load_state_dict(*trainer_of().state_dict())
    other = trainer_of(overridden(SMALL, ["graph.widths=[9, 13, 3]"]))
    with pytest.raises(CheckpointError, match="Build the network"):
        other.load_state_dict(*load_checkpoint(path).state)


@pytest.mark.parametrize("change", ["threads=1", "model.backend=sparse", "train.epochs=50", "device=cuda"])
def test_a_run_may_go_on_in_another_way(change: str) -> None:
    check_same_settings(SMALL, overridden(SMALL, [change]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=4", "seed was 3 and is 4 now"),
        ("train.batch_size=16", r"train\.batch_size was 8 and is 16"),
        ("radiation.top_k=2", "radiation was None and is {'top_k': 2"),
        ("graph.widths=[9, 3]", r"graph\.widths was \[9, 12, 3\]"),
        ("data.name=wine", r"data\.name was 'digits'"),
    ],
)
def test_a_run_does_not_go_on_as_another(change: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        check_same_settings(SMALL, overridden(SMALL, [change]))


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path / "a", trainer_of().state_dict(), SMALL)
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, trainer_of().state_dict(), SMALL, classes=("other",))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
