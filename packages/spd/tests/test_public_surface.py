from pathlib import Path

import spd


def test_an_unbuilt_package_exports_nothing_and_says_so() -> None:
    assert spd.__all__ == []
    assert "Not there yet" in (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
