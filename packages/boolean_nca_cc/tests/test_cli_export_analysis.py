"""The commands `export` and `analyse`."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from boolean_nca_cc.checkpoint import Checkpoint, load, save
from boolean_nca_cc.circuits.model import Circuit
from boolean_nca_cc.cli import analysing, exporting
from boolean_nca_cc.errors import ExportError, WiringError
from boolean_nca_cc.experiments.settings import TrainSettings
from boolean_nca_cc.experiments.training_run import CHECKPOINT, new_circuit
from boolean_nca_cc.export import FORMATS, from_json

SETTINGS = TrainSettings(task="copy", bits=2, arity=2, hidden=1)


def run(app: Any, *arguments: str, ok: bool = True) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if ok:
        assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run's folder with an exact circuit; beside it one with undecided tables and one with random ones."""
    spec, circuit = new_circuit(SETTINGS, 2)
    # Gate i passes on its input i mod 2, and these wires bring each bit to its output.
    circuit = Circuit([jnp.array([[0] * 4, [1] * 4]), jnp.array([[0, 2], [3, 1]])], circuit.logits)
    settings = {"train": SETTINGS.model_dump(mode="json")}
    for folder, logits in (
        ("a", circuit.logits),
        ("vague", [layer / 100 for layer in circuit.logits]),
        ("noisy", [jax.random.normal(jax.random.key(0), layer.shape) for layer in circuit.logits]),
    ):
        save(tmp_path / folder / CHECKPOINT, Checkpoint(spec, Circuit(circuit.wires, logits), 0, settings))
    return tmp_path / "a"


def test_formats_are_those_of_the_package() -> None:
    assert tuple(form.value for form in exporting.Format) == FORMATS


def test_help_has_examples() -> None:
    for app, command in ((exporting.app, "export"), (analysing.app, "analyse")):
        assert f"boolean-nca {command} runs" in run(app, "--help").output.split("Examples:")[1]


def test_export_writes_every_format(trained: Path) -> None:
    for form in FORMATS:
        printed = run(exporting.app, str(trained), "--format", form).stdout.splitlines()
        files = [Path(line.removeprefix("wrote ")) for line in printed[1:]]
        assert printed[0].startswith("copy: 2 inputs, 2 outputs, ")
        assert files[0].parent == trained / "export"
        assert len(files) == (2 if form == "verilog" else 1)
        assert all(file.read_text() for file in files)


def test_export_says_how_right_the_circuit_is(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "rtl"
    options = ["--format", "json", "--name", "wires", "--out", str(out), "--json"]
    document = json.loads(run(exporting.app, str(trained / CHECKPOINT), *options).stdout)
    assert (document["kind"], document["hard_accuracy"], document["files"]) == (
        "export",
        1.0,
        [str(out / "wires.json")],
    )
    netlist = from_json((out / "wires.json").read_text())
    assert (netlist.name, len(netlist.gates)) == ("wires", document["gates"])

    pruned = json.loads(run(exporting.app, str(trained), *options, "--prune").stdout)
    assert pruned["gates"] < document["gates"]
    damaged = json.loads(run(exporting.app, str(trained), *options, "--dead", "4", "--rounded").stdout)
    assert damaged["gates"] == document["gates"]
    assert damaged["hard_accuracy"] < 1.0
    dead = [
        gate for gate in from_json((out / "wires.json").read_text()).gates if (gate.sources, gate.table) == ((), (0,))
    ]
    assert len(dead) >= 4


def test_an_undecided_circuit_is_exported_only_at_the_users_word(trained: Path) -> None:
    vague = str(trained.parent / "vague")
    refused = run(exporting.app, vague, "--format", "c", ok=False)
    assert isinstance(refused.exception, ExportError)
    assert "8 of 8 output bits are undecided" in str(refused.exception)
    assert "--rounded" in str(refused.exception)
    assert not (Path(vague) / "export").exists()
    for word in ("--rounded", "--prune"):
        assert "hard accuracy 1.0000" in run(exporting.app, vague, "--format", "c", word).stdout


def test_export_without_the_check(trained: Path) -> None:
    run(exporting.app, str(trained), "--format", "verilog", "--no-check")
    assert [file.name for file in (trained / "export").iterdir()] == ["copy.v"]


@pytest.mark.needs_extra("matplotlib")
def test_analyse_writes_numbers_and_pictures(trained: Path) -> None:
    printed = run(analysing.app, str(trained), "--dead", "3", "--random-orders", "4").stdout
    document = json.loads((trained / "analysis" / "analysis.json").read_text())
    names = ("liveness", "criticality", "worst_damage")
    expected = {"analysis.json"} | {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {file.name for file in (trained / "analysis").iterdir()} == expected
    assert all(f"wrote {trained / 'analysis' / name}" in printed for name in expected)
    for title in ("Layers", "Most critical of ", "Hard accuracy"):
        assert title in printed
    assert document["criticality"]["baseline_hard_accuracy"] == 1.0
    assert len(document["worst_damage"]["hard_accuracy"]) == 4
    assert document["worst_damage"]["random_orders"] == 4
    assert document["hamming"] is None


@pytest.mark.needs_extra("matplotlib")
def test_analyse_compares_two_runs_on_the_same_wires(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = str(trained.parent / "noisy")
    options = ["--against", noisy, "--random-orders", "0", "--dead", "1", "--out", str(tmp_path / "o"), "--json"]
    document = json.loads(run(analysing.app, str(trained), *options).stdout)
    assert document["against"] == noisy
    assert 0 < document["hamming"]["tables"] < 1
    assert str(tmp_path / "o" / "hamming.svg") in document["files"]

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # once drawn is enough
    assert "Hamming distance" in run(analysing.app, str(trained), *options[:-1]).stdout
    saved = load(trained / CHECKPOINT)
    other = Circuit([jnp.asarray((np.asarray(layer) + 1) % 2) for layer in saved.circuit.wires], saved.circuit.logits)
    save(tmp_path / "rewired" / CHECKPOINT, Checkpoint(saved.spec, other, 0, saved.settings))
    refused = run(analysing.app, str(trained), "--against", str(tmp_path / "rewired"), ok=False)
    assert isinstance(refused.exception, WiringError)


def test_without_matplotlib_an_analysis_is_whole(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(analysing.app, str(trained), "--dead", "1", "--random-orders", "0")
    assert "no pictures: pictures need matplotlib" in result.stderr
    assert [file.name for file in (trained / "analysis").iterdir()] == ["analysis.json"]
