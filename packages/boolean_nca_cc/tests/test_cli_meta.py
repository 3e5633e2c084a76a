"""`boolean-nca meta-train` and `boolean-nca repair`, as a user types them."""

import json
from pathlib import Path

import pytest

from boolean_nca_cc.cli import main

TRAIN = [
    *("meta-train", "--task", "reverse", "--bits", "2", "--arity", "2", "--hidden", "1", "--dead", "1"),
    *("--channels", "4", "--rule-width", "8", "--heads", "2", "--batch", "4", "--pool", "8"),
    *("--steps", "2", "--epochs", "4", "--evaluate-every", "2"),
]


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_main_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "rule"
    code, out, err = _run([*TRAIN, "--out", str(folder)], capsys)
    assert code == 0
    assert "training a rule: 4/4" in err
    assert "dead gates, unseen" in out
    assert {file.name for file in folder.iterdir()} == {
        "rule.safetensors",
        "result.json",
        "training.png",
        "training.svg",
    }
    code, out, _ = _run(["repair", str(folder), "--dead", "1", "--patterns", "4", "--steps", "2", "--json"], capsys)
    assert code == 0
    document = json.loads(out)
    assert document["patterns"] == 4
    assert set(document) >= {"nothing", "rule", "gradient", "baseline"}
    assert (folder / "repair" / "repair.gif").is_file()
    code, out, err = _run(["repair", str(folder), "--dead", "1", "--patterns", "4", "--require", "1.01"], capsys)
    assert code == 1
    assert "gradient descent" in out
    assert "is below the required 1.01" in err
    code, _, err = _run([*TRAIN, "--out", str(folder)], capsys)
    assert code == 2
    assert "Resume it (--resume)" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch", "9"], "it has 9 circuits and the pool 8"),
        (["--heads", "3"], "there are 3 heads for a width of 8"),
        (["--genetic", "2"], "genetic is 2 and wiring is 'fixed'"),
        (["--dead", "99"], "there are 4; it asks for 99"),
        (["--rule", "mlp"], "rule.kind"),
        (["--devices", "3"], "there are 8 for 3"),
        (["--devices", "9"], "it is asked for 9 and there are 4"),
        (["--processes", "2"], "there are 2 with the coordinator None"),
    ],
)
def test_bad_settings_are_told(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = _run([*TRAIN, *arguments, "--out", str(tmp_path / "none")], capsys)
    assert code == 2
    assert told in err
    assert not (tmp_path / "none").exists()
