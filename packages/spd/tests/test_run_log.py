"""A run's log: every line once, in order, also after the run was stopped, and wandb without a network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spd.errors import DataError
from spd.run_log import METRICS, RunLog, read_log


@pytest.mark.parametrize("asynchronous", [False, True])
def test_lines_are_whole_and_in_order(tmp_path: Path, asynchronous: bool) -> None:
    with RunLog(tmp_path, asynchronous=asynchronous) as log:
        for step in range(200):
            log.write(step, {"total": torch.tensor(float(step)), "half": step / 2})
    assert read_log(tmp_path) == [{"step": s, "total": float(s), "half": s / 2} for s in range(200)]


def test_a_figure_is_kept_as_it_was_when_it_was_handed_in(tmp_path: Path) -> None:
    figures = {"total": 1.0}
    with RunLog(tmp_path, asynchronous=True) as log:
        log.write(0, figures)
        figures["total"] = 2.0
    assert read_log(tmp_path)[0]["total"] == 1.0


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        for step in (1, 10, 20, 30):
            log.write(step, {"total": float(step)})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 40, "tot')  # the process was killed here
    with RunLog(tmp_path, start_step=20) as log:
        log.write(30, {"total": -30.0})
    assert [(line["step"], line["total"]) for line in read_log(tmp_path)] == [
        (1, 1.0), (10, 10.0), (20, 20.0), (30, -30.0)
    ]  # fmt: skip


def test_what_is_not_finite_is_null_and_the_file_stays_json(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write(3, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    line = (tmp_path / METRICS).read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 3, "a": None, "b": None, "c": 1.0}


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text('{"step": 1}\nhello\n')
    with pytest.raises(DataError, match="line 2"):
        read_log(tmp_path)
    with pytest.raises(DataError, match=r"holds metrics\.jsonl"):
        read_log(tmp_path / "none")


def test_an_error_while_writing_comes_back(tmp_path: Path) -> None:
    log = RunLog(tmp_path, asynchronous=True)
    log._file.close()
    log.write(0, {"total": 1.0})
    with pytest.raises(ValueError, match="closed file"):
        log.close()


_OFFLINE = """
import os, sys
os.environ["WANDB_SILENT"] = "true"
os.environ.pop("WANDB_MODE", None)
from pathlib import Path
from spd.run_log import RunLog
assert "wandb" not in sys.modules
with RunLog(Path(sys.argv[1]), project="tests", name="one", settings={"steps": 2}) as log:
    for step in range(2):
        log.write(step, {"total": float(step)})
assert "wandb" in sys.modules
"""


def test_wandb_runs_offline_and_is_imported_only_where_it_is_used(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _OFFLINE, str(tmp_path)], check=True, timeout=120)
    assert len(read_log(tmp_path)) == 2
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
