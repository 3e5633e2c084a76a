"""Decompositions at their published lengths: half an hour each on one core. What was seen is kept under `results/`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["tms_5-2-id", "tms_40-10", "resid_mlp1"])
def test_a_published_run_finds_what_is_expected_of_it(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spd", "run", name, "--seeds", "0", "--require", "--no-pictures"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], env=one_thread, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
