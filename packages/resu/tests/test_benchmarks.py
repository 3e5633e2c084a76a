"""The two scripts that the note calls by name run, and print what they promise."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], one_thread: None):
    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        return capfd.readouterr().out

    return run


@pytest.fixture
def one_thread():
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def totals(text: str) -> list[list[str]]:
    return [line.split()[1:] for line in text.splitlines() if line.startswith("total")]


def test_memory_prints_the_tally_beside_what_is_alive(printed) -> None:
    # W of 512 x 512 floats is 1 MB: 3, 5 and 3 in the note's tally, 9 and 7 alive.
    text = printed("bench_memory", "--size", "512", "--phases-size", "64")
    assert totals(text) == [["3.0", "5.0", "3.0"], ["9.0", "7.0"]]
    rows = {line[:12].strip(): line[12:].split() for line in text.splitlines()}
    assert float(rows["TRAIN"][-1]) == pytest.approx(3, abs=0.01)
    assert rows["SHADOW"][2] == "–"
    assert all(float(cell) >= 1 for cell in rows["commit"])


def test_memory_at_another_sparsity(printed) -> None:
    assert totals(printed("bench_memory", "--size", "512", "--phases-size", "64", "--sparsity", "0.9")) == [
        ["3.0", "6.6", "4.6"],
        ["10.6", "8.6"],
    ]


def test_throughput_prints_every_form_beside_the_dense_layer(printed) -> None:
    lines = printed("bench_throughput", "--sizes", "64", "--rounds", "1", "--batch", "2").splitlines()
    forms = ["dense", "original, before", "original, after", "ours, compact", "ours, inplace"]
    assert [line[2:22].strip() for line in lines if line.startswith("  ")] == forms * 2
    assert [float(line.split()[-1]) for line in lines if line.startswith("  dense")] == [1.0, 1.0]
