"""The commands `life` and `grow`: results, exit codes, a run that goes on, pictures that are drawn."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from boolean_nca_cc.automata.grid import run_hard
from boolean_nca_cc.automata.patterns import draw_pattern, seed_state
from boolean_nca_cc.cli import main
from boolean_nca_cc.errors import CheckpointError
from boolean_nca_cc.experiments.growth_run import load_growth
from boolean_nca_cc.experiments.life_run import load_life
from boolean_nca_cc.experiments.training_run import CHECKPOINT, RESULT

Run = Callable[..., tuple[int, str, str]]

LIFE = ["life", "--soups", "2", "--height", "12", "--width", "12", "--generations", "20"]
GROW = ["grow", "checkerboard", "--scale", "1", "--height", "6", "--width", "6", "--channels", "2", "--update", ""]
GROW += ["--time-steps", "4", "--unroll", "6", "--damage", "2", "--batch", "2", "--checkpoint-every", "4"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in an empty folder and returns exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, out, err

    return call


def test_help_has_examples(run: Run) -> None:
    for command in ("life", "grow"):
        code, described, _ = run(command, "--help")
        assert code == 0
        assert f"boolean-nca {command}" in described.split("Examples:")[1]


def test_life_is_learned_counted_compared_and_drawn(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*LIFE, "--out", "a", "--require", "1.0", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["hard_accuracy"] == 1.0
    assert document["differing_cells"] == 0
    assert document["generations"] == 20
    gates = document["gates"]
    assert gates["trained"] == 89
    assert gates["trained"] >= gates["pruned"] > gates["simplified"]
    assert gates["pruned_two_input"] > gates["simplified_two_input"] > 8  # nine inputs need eight gates at least
    assert gates["published_two_input"] == 336
    assert set(document["files"]) == {f"a/{name}" for name in (CHECKPOINT, RESULT, "soup.gif", "soup.png")}
    assert all((tmp_path / file).stat().st_size for file in document["files"])
    assert "learning life: 100/500, hard accuracy" in err
    settings, saved = load_life(tmp_path / "a")
    assert (settings.soups, saved.step) == (2, document["steps"])

    before = (tmp_path / "a" / CHECKPOINT).read_bytes()
    code, _, err = run(*LIFE, "--out", "a")
    assert (code, "a folder holds one run" in err) == (2, True)
    code, out, err = run(*LIFE, "--out", "a", "--resume")
    assert code == 0
    assert "cells that differ from the rule" in out
    assert "0 in 2 soups, 20 generations" in out
    assert "resumed at step" in err
    assert (tmp_path / "a" / CHECKPOINT).read_bytes() == before


def test_a_picture_is_grown_resumed_and_drawn(run: Run, tmp_path: Path) -> None:
    code, out, _ = run(*GROW, "--train-steps", "8", "--out", "whole", "--json")
    whole = json.loads(out)
    assert code == 0
    assert set(whole["files"]) == {f"whole/{name}" for name in (CHECKPOINT, RESULT, "growth.gif", "growth.png")}
    assert whole["hard_accuracy"] == whole["synchronous"]["worst"] < 1
    code, _, err = run(*GROW, "--train-steps", "4", "--out", "part")
    assert (code, "growing checkerboard: 4/4, loss" in err) == (0, True)
    code, out, err = run(*GROW, "--train-steps", "8", "--out", "part", "--resume", "--require", "1.0")
    assert code == 1
    assert "resumed at step 4" in err
    assert "is below the required 1.0" in err
    assert "grids repaired exactly" in out
    for name in (CHECKPOINT, RESULT):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()

    settings, saved = load_growth(tmp_path / "whole" / CHECKPOINT)
    assert saved.step == whole["steps"] == 8
    # The film ends in what the circuit makes of the seed, whatever the command says of it.
    grown = np.asarray(run_hard(saved.circuit, seed_state(2, 6, 6), settings.steps, "fixed"))[-1, 0]
    assert 0 < (grown == draw_pattern("checkerboard", 6, 6, 1)).mean() <= 1

    code, _, err = run(*GROW, "--train-steps", "12", "--learning-rate", "0.5", "--out", "part", "--resume")
    assert code == 2
    assert "optimizer.learning_rate was 0.15 and is now 0.5" in err
    with pytest.raises(CheckpointError, match="a checkpoint of the Game of Life is needed"):
        load_life(tmp_path / "part")
    code, _, err = run(*LIFE, "--out", "part", "--resume")
    assert code == 2
    assert "a checkpoint continues only the circuit that it holds" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["life", "--width", "2"], "width: Input should be greater than or equal to 3; it is 2"),
        (["life", "--boundary", "mirror"], "mirror"),
        (["life", "--layers", "36,x"], "widths are whole numbers separated by commas"),
        (["life", "--layers", ""], "layers"),
        (["life", "--layers", "35,32,16,4"], "group size must divide"),
        (["grow", "unicorn"], "there is no picture 'unicorn'"),
        (["grow", "checkerboard", "--height", "2"], "height: Input should be greater than or equal to 3"),
        (["grow", "G", "--height", "8", "--scale", "2"], "14 × 10 cells, the grid is 8 × 16"),
        (["grow", "G", "--damage", "17"], "damage is the side of a square inside the grid; it is 17"),
        (["grow", "G", "--channels", "4"], "take 17 bits a cell; channels is 4"),
        (["grow", "checkerboard", "--update", "1"], "are dead. Widen the update layers"),
        (["grow"], "Missing argument"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err
    assert out == ""
