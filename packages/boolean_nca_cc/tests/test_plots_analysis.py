"""Pictures of an analysis: what they show, and that they are written twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from boolean_nca_cc import plots_analysis as plots
from boolean_nca_cc.analysis import Criticality, HammingDistance, LayerLiveness, WorstDamage
from boolean_nca_cc.circuits.spec import CircuitSpec

SPEC = CircuitSpec(((4, 1), (12, 4), (8, 2), (3, 1)), arity=2)
RNG = np.random.default_rng(0)
LAYERS = [
    LayerLiveness(0, 4, 4, 4, 3),
    LayerLiveness(1, 12, 10, 9, 6),
    LayerLiveness(2, 8, 8, 7, 5),
    LayerLiveness(3, 3, 3, 3, 3),
]
WORTH = Criticality(SPEC, 1.0, np.maximum(RNG.normal(0, 0.1, (23, 3)), 0))
DAMAGE = WorstDamage(np.arange(5), np.linspace(1, 0.4, 6), np.sort(RNG.uniform(0.5, 1, (8, 6)))[:, ::-1])
DISTANCE = HammingDistance(
    SPEC, 16, RNG.integers(0, 4, 23), np.full(23, 4), RNG.integers(0, 3, 23), RNG.integers(0, 16, 23), 5
)
PICTURES: dict[str, tuple[Callable[..., list[Path]], Any, str]] = {
    "liveness": (plots.liveness_bars, LAYERS, "6 of 12"),
    "criticality": (plots.criticality_map, WORTH, f"{(WORTH.lost > 0).sum()} of 23 gates are critical"),
    "worst": (plots.worst_damage_curve, DAMAGE, "8 random orders, worst to best"),
    "hamming": (plots.hamming_bars, DISTANCE, "read entries"),
}


@pytest.mark.needs_extra("matplotlib")
@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_a_png_and_an_svg(tmp_path: Path, name: str) -> None:
    import matplotlib as mpl

    draw, result, words = PICTURES[name]
    with mpl.rc_context({"svg.fonttype": "none"}):
        files = draw(result, tmp_path / "deep" / "first", "a heading")
    assert [file.name for file in files] == ["first.png", "first.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    texts = "\n".join(ElementTree.parse(files[1]).getroot().itertext())
    assert words in texts
    assert "a heading" in texts


@pytest.mark.needs_extra("matplotlib")
def test_the_same_numbers_are_the_same_file(tmp_path: Path) -> None:
    first, again = (plots.hamming_bars(DISTANCE, tmp_path / name)[1].read_bytes() for name in ("first", "again"))
    assert first == again


@pytest.mark.needs_extra("matplotlib")
def test_gates_whose_death_helps_and_missing_random_orders_are_drawn(tmp_path: Path) -> None:
    plots.criticality_map(Criticality(SPEC, 0.9, RNG.normal(0, 0.1, (23, 3))), tmp_path / "both")
    plots.criticality_map(Criticality(SPEC, 0.5, np.zeros((23, 3))), tmp_path / "none")
    plots.worst_damage_curve(WorstDamage(np.arange(2), np.array([1.0, 0.9, 0.8]), np.empty((0, 3))), tmp_path / "alone")
    assert len(list(tmp_path.iterdir())) == 6
