"""Commands about signals and measurements: what they print, write and keep, and what they say when they cannot."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dredge.bench.fit1d import FitRow
from dredge.bench.hash import HashRow
from dredge.bench.heldout import ChoiceRow
from dredge.cli import benching, main
from dredge.insights.store import Store
from dredge.quasimoto.baselines import baseline
from dredge.quasimoto.tensor_files import load_model, save_model

pytestmark = pytest.mark.needs_extra("torch")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return out, err

    return call


def chirp(file: Path) -> Path:
    """A packet of 5.1 cycles at 1.2, as a table."""
    x = np.linspace(-4, 4, 300)
    y = 0.8 * np.exp(-0.5 * ((x - 1.2) / 0.3) ** 2) * np.cos(2 * np.pi * 5.1 * (x - 1.2))
    rows = [f"{a!r},{b!r}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    file.write_text("\n".join(["place,value", *rows]), encoding="utf-8")
    return file


def test_a_table_is_fitted_drawn_and_kept(run, tmp_path: Path) -> None:
    file, out, db = chirp(tmp_path / "chirp.csv"), tmp_path / "figures", tmp_path / "notes.db"
    found = json.loads(run("fit", file, "--out", out, "--db", db, "--json")[0])
    assert found["files"] == [str(out / f"chirp-packets.{kind}") for kind in ("png", "svg", "json")]
    assert found["explained"] > 0.999
    (packet,) = found["packets"]
    assert packet["cycles"] == pytest.approx([5.1], abs=1e-2)
    model = load_model(out / "chirp-packets.json")
    assert model.centre.item() == pytest.approx(1.2, abs=1e-2)
    with Store.open(db) as store:  # as another process would find it
        kept = store.get(found["id"])
        assert (kept.kind, kept.text) == ("signal", found["text"])
        assert kept.text.startswith("chirp.csv: 1 packet explains")
        assert kept.signal is not None
        assert kept.signal["packets"] == found["packets"]
    printed, said = run("fit", file, "--out", out, "--db", db, "--title", "A chirp")
    assert printed.startswith(found["id"])
    assert "1 packet explains" in printed
    assert f"dredge get {found['id']}" in said
    with Store.open(db) as store:
        assert store.get(found["id"]).seen == 2


def test_what_is_not_to_be_kept_is_only_drawn(run, tmp_path: Path) -> None:
    file = chirp(tmp_path / "chirp.csv")
    _, said = run("fit", file, "--every", "2", "--no-keep", "--out", tmp_path, "--db", tmp_path / "notes.db")
    assert "fitting 150 samples" in said
    assert said.endswith("not kept\n")
    assert not (tmp_path / "notes.db").exists()


def test_a_constant_is_drawn_too(run, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.full(20, 3.5))
    printed = run("fit", tmp_path / "flat.npy", "--no-keep", "--out", tmp_path)[0]
    assert "0 packets explain" in printed
    assert (tmp_path / "flat-packets.png").is_file()


def test_a_picture_of_many_pixels_is_made_smaller(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    axis = np.linspace(-1, 1, 60)
    wave = 127 + 120 * np.exp(-3 * (axis[:, None] ** 2 + axis**2)) * np.cos(9 * axis)
    Image.fromarray(wave.astype(np.uint8)).save(tmp_path / "wave.png")
    monkeypatch.setenv("DREDGE_LIMITS__SIGNAL_POINTS", "900")
    out, said = run("fit", tmp_path / "wave.png", "--packets", "1", "--no-keep", "--out", tmp_path, "--json")
    assert "fitting 900 samples" in said
    assert json.loads(out)["explained"] > 0.95


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, "is not. Check the name"),
        ("odd.csv", "0,1\n1,x\n", "line 2 is '1,x'"),
        ("nan.csv", "0,1\n1,nan\n2,3\n3,4\n", "the first at 1"),
        ("one.csv", "5\n", "at least 4 samples; got 1"),
        ("many.csv", "\n".join(["1"] * 20_001), "at most 20,000 samples; got 20,001. Keep one of every 2"),
        ("odd.txt", "1", "ends in"),
    ],
)
def test_signals_that_cannot_be_fitted_are_refused_in_a_line(
    run, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    _, said = run("fit", tmp_path / name, "--out", tmp_path / "figures", "--db", tmp_path / "notes.db", code=2)
    assert message in said.splitlines()[-1]
    assert not (tmp_path / "figures").exists()
    assert not (tmp_path / "notes.db").exists()


def test_a_model_is_written_in_eight_bits(run, tmp_path: Path) -> None:
    file = save_model(baseline("siren", 2), tmp_path / "siren.safetensors")
    facts = json.loads(run("compress", file, "--json")[0])
    assert facts["file"] == str(tmp_path / "siren-int8.safetensors")
    assert facts["bytes_after"] == Path(facts["file"]).stat().st_size < 0.5 * facts["bytes_before"]
    assert load_model(facts["file"]).config == load_model(file).config
    assert "bytes after" in run("compress", file, "--out", tmp_path / "b.json")[0]
    assert "cut short" in run("compress", tmp_path / "gone.json", code=2)[1]


def measurement(name: str) -> ModuleType:
    """Stands for one that would take minutes."""
    module = ModuleType(name)
    module.run = lambda: iter([FitRow("chirp", name, 121, None, 2000, 1e-7, 0.07, 1.5)])  # type: ignore[attr-defined]
    module.choose = lambda: iter([ChoiceRow({"w0": 10.0}, 28.5)])  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("name", ["fit1d", "fit4d", "fit6d", "heldout"])
def test_measurements_are_printed_and_given_as_json(run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(benching, "import_module", measurement)
    monkeypatch.setenv("COLUMNS", "200")
    printed, said = run("bench", name)
    assert f"dredge.bench.{name}" in printed
    assert "cpu seconds 1.5" in said
    (row,) = json.loads(run("bench", name, "--json")[0])
    assert (row["model"], row["seed"], row["mse"]) == (f"dredge.bench.{name}", None, 1e-7)


def test_settings_are_chosen_on_request(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "import_module", measurement)
    assert json.loads(run("bench", "heldout", "--choose", "--json")[0]) == [{"setting": {"w0": 10.0}, "psnr": 28.5}]


def test_the_table_of_hashes(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dredge.bench.hash.measure_hashes", lambda: [HashRow(20, 3.0, 0.1, 0.5, 4.0)])
    printed = run("bench", "hash")[0]
    for cell in ("6.0×", "1.33×", "29%"):
        assert cell in printed
    (row,) = json.loads(run("bench", "hash", "--json")[0])
    assert (row["gain"], row["break_even"]) == (6.0, pytest.approx(2 / 7))


_WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from dredge.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "arguments", [["fit", "a.csv"], ["compress", "a.json"], ["bench", "fit1d"], ["bench", "heldout"]]
)
def test_without_torch_the_extra_is_named(tmp_path: Path, arguments: list[str]) -> None:
    line = [sys.executable, "-c", _WITHOUT_TORCH, *arguments]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dredge: ")
    assert "needs torch, which the extra 'inr' installs" in done.stderr
    assert done.stderr.count("\n") == 1


def test_models_name_the_extra_where_torch_is_not() -> None:
    names = ["dredge.quasimoto.packets", "dredge.quasimoto.waves", "dredge.quasimoto_extended_benchmark"]
    code = f"""
import sys; sys.modules["torch"] = None
for name in {names}:
    try: __import__(name)
    except ImportError as error: print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    beginning = "MissingExtraError dredge.quasimoto needs torch, which the extra 'inr' installs."
    assert [line.startswith(beginning) for line in done.stdout.splitlines()] == [True] * 3
