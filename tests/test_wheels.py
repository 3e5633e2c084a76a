"""Every wheel, alone in a fresh environment, passes its package's smoke test from another directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheels

FOLDERS = (
    "packages/boolean_nca_cc",
    "packages/neurograph",
    "packages/resu",
    "packages/spd",
    "packages/dredge",
    "tools",
)


@pytest.fixture(scope="module")
def uv(root: Path) -> str:
    """The uv that made the workspace's environment."""
    found = shutil.which("uv") or next((str(p) for p in [root / ".uv/bin/uv"] if p.is_file()), None)
    if found is None:
        pytest.skip("needs uv to build wheels and make environments; INSTALL=0 brings none")
    return found


def _run(command: list[str], cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS"}}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wheel_works_alone(folder: str, root: Path, uv: str, tmp_path: Path) -> None:
    source = root / folder
    _run([uv, "build", "--quiet", "--wheel", "--out-dir", str(tmp_path / "dist"), str(source)], root)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("py.typed") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "src/")) for name in names)

    _run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "env")], tmp_path)
    python = str(tmp_path / "env/bin/python")
    # The same instant as the workspace: a wheel is tried with the releases that its tests ran with.
    newest = ["--exclude-newer", _exclude_newer(root)]
    _run([uv, "pip", "install", "--quiet", "--python", python, *newest, str(wheel)], tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(source / "tests/smoke.py", elsewhere / "smoke.py")
    printed = _run([python, "-W", "error", "smoke.py"], elsewhere)
    assert printed.strip(), "a smoke test says what it saw"


def _exclude_newer(root: Path) -> str:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return str(settings["tool"]["uv"]["exclude-newer"])
