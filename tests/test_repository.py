"""What must not be in a tracked file, whatever it is for."""

from __future__ import annotations

import re
from pathlib import Path

# An index is known by the shape of its addresses: no host is named here.
INDEX_ADDRESS = re.compile(
    r"https?://[^/\s\"'<>]+/(?:simple|packages/[0-9a-f]{2}/[0-9a-f]{2}|pypi/[^/\s]+/json)(?:/|\b)"
)
INDEX_OPTION = re.compile(r"(?:--(?:extra-)?index-url|--find-links|index-url\s*=|\[\[tool\.uv\.index\]\])")
# Home and working folders of one machine; a user's own are written with ~ or $HOME.
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:home/\w+|root|work|farm|Users/\w+)/[\w.]")


def _texts(tracked: list[Path]) -> list[tuple[Path, str]]:
    found = []
    for path in tracked:
        try:
            found.append((path, path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue  # a picture
    return found


def _hits(pattern: re.Pattern[str], tracked: list[Path]) -> list[str]:
    this = Path(__file__).resolve()
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in _texts(tracked)
        if path.resolve() != this
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_patterns_find_what_they_look_for() -> None:
    assert INDEX_ADDRESS.search("https://index.example/" + "simple/jax/")
    assert INDEX_ADDRESS.search("https://files.example/" + "packages/0a/9f/ab12/jax-1.whl")
    assert not INDEX_ADDRESS.search("https://arxiv.org/abs/2210.08277")
    assert INDEX_OPTION.search("pip install --extra-index-url x")
    assert MACHINE_PATH.search("see " + "/home/" + "someone/x")
    assert not MACHINE_PATH.search("see ~/x and $HOME/work/y and packages/work/z")


def test_no_tracked_file_holds_an_address_of_a_package_index(tracked: list[Path]) -> None:
    assert _hits(INDEX_ADDRESS, tracked) == []
    assert _hits(INDEX_OPTION, tracked) == []


def test_no_tracked_file_holds_a_path_of_one_machine(tracked: list[Path]) -> None:
    assert _hits(MACHINE_PATH, tracked) == []


def test_the_sticky_lock_is_not_tracked(root: Path, tracked: list[Path]) -> None:
    names = {path.relative_to(root).as_posix() for path in tracked}
    assert "uv.lock" not in names
    assert "requirements.lock" in names
    assert "://" not in (root / "requirements.lock").read_text(encoding="utf-8")
