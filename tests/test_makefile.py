"""The commands that a person needs are there, and each says what it does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = [
    "setup",
    "test",
    "test-all",
    "test-<package>",
    "test-wheels",
    "bench",
    "bench-<package>",
    "bench-quick",
    "bench-long",
    "bench-selftest",
    "lint",
    "format",
    "types",
    "lock",
    "lock-check",
    "clean",
]


def test_help_lists_every_command(root: Path) -> None:
    printed = subprocess.run(["make"], cwd=root, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make (\S+) +\S", printed, flags=re.MULTILINE)
    assert set(TARGETS) <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("member", ["boolean_nca_cc", "neurograph", "resu", "spd", "dredge", "tools", "root"])
def test_every_member_has_its_test_command(root: Path, member: str) -> None:
    done = subprocess.run(
        ["make", "-n", f"test-{member}", "INSTALL=0"], cwd=root, capture_output=True, text=True, check=True
    )
    assert "pytest" in done.stdout


def test_install_0_installs_nothing(root: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "test", "bench", "INSTALL=0", "PYTHON=python3"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "sync" not in done.stdout
    assert "pip install" not in done.stdout


def test_ci_calls_the_readmes_test_command(root: Path) -> None:
    assert re.search(r"^make test\b", (root / ".ci/run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert re.search(r"^make test$", (root / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.slow
def test_a_machine_without_uv_is_set_up(root: Path, tracked: list[Path], tmp_path: Path) -> None:
    """Only git, make and Python on PATH, an empty home: `make setup` fetches uv and makes the environment."""
    copy = tmp_path / "clone"
    for path in tracked:
        target = copy / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("make", "git", "bash", "sh", "awk", "tar", "mktemp", "rm", "mkdir", "ln", "cp", "env"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    # The interpreter itself: what stands on PATH may be a shim that needs its own home.
    (tools / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    environment = {"PATH": str(tools), "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    for name in ("PIP_CERT", "SSL_CERT_FILE", "UV_CACHE_DIR"):
        if name in os.environ:
            environment[name] = os.environ[name]
    done = subprocess.run(["make", "setup"], cwd=copy, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (copy / ".uv/bin/uv").exists()
    check = [str(copy / ".venv/bin/python"), "-c", "import boolean_nca_cc, claimbench, resu"]
    assert subprocess.run(check, check=False, cwd=tmp_path).returncode == 0
