"""Five libraries that know nothing of each other, and names that are not ours on a public index."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

DISTRIBUTIONS = ("boolean-nca-cc", "boolean_nca_cc", "neurograph", "resu", "spd", "dredge", "claimbench")
# "pip install resu" installs a stranger's package; "pip install ./packages/resu" and "pip install x.whl" install ours.
BARE_INSTALL = re.compile(
    r"(?:pip install|uv add|uv pip install|pipx install|uvx)\s+(?:-\S+\s+)*['\"]?("
    + "|".join(DISTRIBUTIONS)
    + r")(?![\w./-]*(?:\.whl|/))\b"
)


def test_no_member_depends_on_another(members: dict[str, Path]) -> None:
    for name, folder in members.items():
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        wanted = [
            *project["dependencies"],
            *(d for group in project.get("optional-dependencies", {}).values() for d in group),
        ]
        named = {re.split(r"[\[<>=!~; ]", dependency)[0].lower().replace("_", "-") for dependency in wanted}
        assert not named & {d.replace("_", "-") for d in DISTRIBUTIONS}, f"{name} depends on a sibling"


def test_dependencies_have_a_lower_bound_and_no_upper_one(members: dict[str, Path]) -> None:
    for folder in members.values():
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        for line in tomllib.loads(text)["project"]["dependencies"]:
            dependency = line.partition(";")[0]  # without the marker that says where it is needed
            assert ">=" in dependency, f"{folder.name}: {dependency} has no lower bound"
            assert not re.search(r"<|==|~=", dependency), f"{folder.name}: {dependency} has an upper bound"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("pip install resu", True),
        ("pip install -U 'spd[plots]'", True),
        ("uv add dredge", True),
        ("pip install './packages/resu[hf]'", False),
        ("pip install packages/spd", False),
        ("pip install dist/resu-0.1-py3-none-any.whl", False),
    ],
)
def test_the_pattern_knows_a_bare_name(text: str, bare: bool) -> None:
    assert bool(BARE_INSTALL.search(text)) is bare


def test_every_install_line_gives_a_path_or_a_wheel(tracked: list[Path]) -> None:
    this = Path(__file__).resolve()
    hits = [
        f"{path}:{number}: {line.strip()}"
        for path in tracked
        if path.suffix in {".md", ".py", ".toml", ".html", ".cff", ""} and path.resolve() != this
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if BARE_INSTALL.search(line)
    ]
    assert hits == []
