"""A method that goes on from a checkpoint ends with the bits of the one that was never interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resu.baselines import METHODS
from resu.checkpoint import Checkpoint, load, restore, save
from resu.core.phases import Phase
from resu.errors import CheckpointError

STEPS = 40
SETTINGS: dict[str, dict[str, Any]] = {
    "set": {"interval": 5},
    "rigl": {"interval": 5},
    "snfs": {"interval": 5},
    "shadow": {"interval": 5},
    "gmp": {"interval": 5},
    "acdc": {"warmup": 0.1, "phase": 0.1, "final": 0.3},
    "topkast": {"interval": 4, "extra": 0.3, "end": 0.6},
    "resu": {"changes": {"num_cycles": 3, "resu_fraction": 0.4, "train_fraction": 0.6}},
    "resu_paper": {"changes": {"num_cycles": 4, "sparsity_schedule": "constant", "resu_lr": 1.0}},
}
REMEMBERS = {
    "acdc": {"compressed"},
    "topkast": {"layers"},
    "resu": {"commits", "selective"},
    "resu_paper": {"commits", "selective"},
}


def checkpoint_of(b: Any) -> Checkpoint:
    return Checkpoint(
        b.model.state_dict(), b.sparsifier.state_dict(), b.optimizer.state_dict(), {"method": b.method.state_dict()}
    )


@pytest.mark.parametrize("name", list(METHODS))
def test_it_ends_with_the_bits_of_the_uninterrupted_one(bench: Callable[..., Any], name: str, tmp_path: Path) -> None:
    whole, killed = (bench(name, steps=STEPS, **SETTINGS.get(name, {})) for _ in range(2))
    assert set(whole.method.state_dict()) == REMEMBERS.get(name, set())
    phases = set()
    for step in range(STEPS):
        if step % 3 == 1:
            phases.add(killed.sparsifier.phase)
            saved = load(save(tmp_path / "killed", checkpoint_of(killed)))
            killed = bench(name, steps=STEPS, **SETTINGS.get(name, {}))
            restore(saved, killed.model, killed.sparsifier, killed.optimizer)
            assert saved.cycle is not None
            killed.method.load_state_dict(saved.cycle["method"])
        whole.step(step)
        killed.step(step)
    assert phases == {
        "acdc": {Phase.TRAIN, Phase.JOINT}, "resu": {Phase.TRAIN, Phase.RESU}, "resu_paper": {Phase.TRAIN, Phase.RESU},
        "snfs": {Phase.SHADOW}, "shadow": {Phase.SHADOW},
    }.get(name, {Phase.TRAIN})  # fmt: skip
    ends = [save(tmp_path / end, checkpoint_of(b)) for end, b in (("whole", whole), ("killed", killed))]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_selective_resurrection_is_cut_through(bench: Callable[..., Any]) -> None:
    b = bench("resu_paper", steps=STEPS, **SETTINGS["resu_paper"])
    for step in range(9):
        b.step(step)
    kept = b.method.state_dict()["selective"]
    assert [one["step_count"] for one in kept] == [2, 2]
    assert all(bool(one["m"].count_nonzero()) for one in kept)


def test_a_loaded_state_is_not_shared(bench: Callable[..., Any]) -> None:
    first, second = (bench("topkast", steps=STEPS, **SETTINGS["topkast"]) for _ in range(2))
    first.step(0)
    restore(checkpoint_of(first), second.model, second.sparsifier, second.optimizer)
    second.method.load_state_dict(first.method.state_dict())
    before = {name: layer["dense"].clone() for name, layer in first.method.state_dict()["layers"].items()}
    second.step(1)
    for name, layer in first.method.state_dict()["layers"].items():
        assert torch.equal(layer["dense"], before[name])
        assert not torch.equal(second.method.state_dict()["layers"][name]["dense"], before[name])


@pytest.mark.parametrize("name", list(REMEMBERS))
def test_a_state_of_another_method_is_refused(bench: Callable[..., Any], name: str) -> None:
    b = bench(name, steps=STEPS, **SETTINGS[name])
    with pytest.raises(CheckpointError, match=f"this one has no {', '.join(sorted(REMEMBERS[name]))}"):
        b.method.load_state_dict(bench("static").method.state_dict())
