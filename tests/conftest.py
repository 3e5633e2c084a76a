"""What the checks across the workspace share: its root, its tracked files, its members."""

from __future__ import annotations

import subprocess
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
