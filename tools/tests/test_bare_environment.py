"""A run needs the standard library, numpy, scipy and pydantic, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Loaded by every interpreter that is started with its folder on the path, so by the parent and by each worker.
GUARD = '''
"""Find only what a bare machine would have."""
import sys

ALLOWED = {
    "claimbench", "numpy", "scipy",
    "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",  # pydantic and its needs
}


class Bare:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_"):
            return self.finder.find_spec(name, path, target)
        return None

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
'''

PROGRAM = """
import json, sys
from pathlib import Path

for name in ("rich", "typer", "pandas", "jax", "psutil"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"this machine is not bare: {name} is there")

from claimbench.evaluate import evaluate
from claimbench.record import read_record
from claimbench.run import RunOptions, measure
from claimbench.selftest import planted_claims

options = RunOptions(out=Path(sys.argv[1]), device="cpu", quick=True)
names = ["planted.matmul", "planted.wrong"]
record = read_record(measure(options, (), {"claimbench.cases.planted": names}))
findings = evaluate(record, planted_claims()).findings
print(json.dumps({
    "failures": [row.reason for row in record.rows if row.kind == "failure"],
    "complete": record.complete,
    "verdicts": {finding.id: finding.verdict for finding in findings},
}))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "FOLDER": str(folder)}


def test_a_run_and_its_verdicts_need_nothing_else(bare: dict[str, str]) -> None:
    run = Path(bare["FOLDER"]) / "run"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run)], env=bare, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["complete"]
    assert found["failures"] == ["MemoryError: planted: no memory left"]
    assert found["verdicts"]["planted.counted"] == "reproduced"
    assert found["verdicts"]["planted.off"] == "incorrect"
    assert found["verdicts"]["planted.slowdown"] == "inconclusive"  # one process declares nothing


def test_the_command_says_which_of_the_packages_is_absent(bare: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "claimbench", "run", "--package", "boolean_nca_cc", "--quick"],
        env=bare, cwd=bare["FOLDER"], check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "boolean_nca_cc" in done.stderr
    assert "Traceback" not in done.stderr
