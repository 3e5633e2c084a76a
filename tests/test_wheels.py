"""Every wheel, alone in a fresh environment, passes its package's smoke test from another directory."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wheel_works_alone(folder: str, root: Path, wheels: Any, tmp_path: Path) -> None:
    source = root / folder
    wheel = wheels.build(source, tmp_path / "dist")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("py.typed") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "src/")) for name in names)

    programs = wheels.install(str(wheel), tmp_path / "env")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(source / "tests/smoke.py", elsewhere / "smoke.py")
    printed = wheels.run([str(programs / "python"), "-W", "error", "smoke.py"], elsewhere)
    assert printed.strip(), "a smoke test says what it saw"
