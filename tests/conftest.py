"""What the checks across the workspace share: its root, its files, its members, wheels in fresh environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the workspace."""
    return ROOT


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Files that git tracks or would track; without git (an exported tree), every file that is not a cache."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip("this tree has no git history to ask for its tracked files")
    return [root / line for line in done.stdout.splitlines() if (root / line).is_file()]


@pytest.fixture(scope="session")
def members(root: Path) -> dict[str, Path]:
    """Import name of each member → its folder."""
    workspace = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["workspace"]
    folders = [root / member for member in workspace["members"]]
    return {next((folder / "src").glob("*/__init__.py")).parent.name: folder for folder in folders}


class Wheels:
    """Builds wheels, and fresh environments that have nothing but one and what it asks for.

    Args:
        uv: The one that made the workspace's environment.
    """

    def __init__(self, uv: str) -> None:
        self.uv = uv

    def run(self, command: list[str], cwd: Path, code: int = 0, **variables: str) -> str:
        """What a command prints that knows nothing of this environment; where it fails, what it says of that too.

        Args:
            command: Of the system.
            cwd: Where.
            code: With which it must end.
            variables: Of the environment, besides.
        """
        mine = {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_ADDOPTS"}
        env = {key: value for key, value in os.environ.items() if key not in mine} | variables
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == code, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + (done.stderr if code else "")

    def build(self, source: Path, folder: Path) -> Path:
        """Builds a package's wheel.

        Args:
            source: Of the package.
            folder: To put it in.
        """
        self.run([self.uv, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(source)], ROOT)
        (wheel,) = folder.glob("*.whl")
        return wheel

    def install(self, requirement: str, folder: Path) -> Path:
        """Makes an environment with one thing in it.

        Args:
            requirement: A wheel's path, with extras or without.
            folder: Of the environment.

        Returns:
            The folder of its programs.
        """
        self.run([self.uv, "venv", "--quiet", "--python", sys.executable, str(folder)], ROOT)
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        # The same instant as the workspace: a wheel is tried with the releases that its tests ran with.
        newest = ["--exclude-newer", settings["tool"]["uv"]["exclude-newer"]]
        python = ["--python", str(folder / "bin/python")]
        self.run([self.uv, "pip", "install", "--quiet", *python, *newest, requirement], ROOT)
        return folder / "bin"


@pytest.fixture(scope="session")
def wheels() -> Wheels:
    """Wheels of this workspace."""
    found = shutil.which("uv") or next((str(p) for p in [ROOT / ".uv/bin/uv"] if p.is_file()), None)
    if found is None:
        pytest.skip("needs uv to build wheels and make environments; INSTALL=0 brings none")
    return Wheels(found)
