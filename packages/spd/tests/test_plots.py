"""Pictures: written, not blank, with what they should show, and without a trace in matplotlib's global state."""

import gc
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from spd import plots
from spd.errors import DataError, MissingExtraError
from spd.eval import Evaluation
from spd.metrics.ci_tables import G_EDGES, Z_EDGES
from spd.metrics.single_features import component_order

pytestmark = pytest.mark.needs_extra("matplotlib")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import imread  # noqa: E402


def _tables(sites: tuple[str, ...], features: int, c: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tables = {}
    for site in sites:
        g = torch.zeros(features, c)
        g[range(features), torch.randperm(c, generator=generator)[:features]] = 0.95
        v, u = torch.randn(features, c, generator=generator), torch.randn(c, 3, generator=generator)
        for metric in ("PermutedCIPlots", "UVPlots"):
            tables |= {f"{metric}/{site}/importances": g, f"{metric}/{site}/order": component_order(g)}
        tables |= {f"UVPlots/{site}/V": v, f"UVPlots/{site}/U": u}
        tables[f"CIHistograms/{site}/g"] = torch.arange(float(G_EDGES[2])).double()
        z = torch.zeros(Z_EDGES[2]).double()
        z[150:230] = 40.0
        tables[f"CIHistograms/{site}/z"] = z
        means = g.mean(0)
        tables |= {f"CIMeanPerComponent/{site}": means, f"ComponentActivationDensity/{site}": (means > 0).float() / 7}
    return tables


def _looks_whole(path: Path) -> None:
    if path.suffix == ".svg":
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        return
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert pixels[..., :3].std() > 0.02  # something is on it


def test_everything_that_an_evaluation_has_is_drawn(tmp_path: Path) -> None:
    files = plots.draw(Evaluation({}, _tables(("layers.0.mlp_in",), 5, 20)), tmp_path / "figures")
    names = ("importances", "components", "histograms", "mean_importances", "activation_density")
    assert {path.name for path in files} == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {path.name for path in files}
    for path in files:
        _looks_whole(path)


def test_many_sites_are_drawn_in_parts_and_a_second_metric_beside_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "_PANELS", 1)
    means = {"CIMeanPerComponent/a": torch.rand(4), "CIMeanPerComponent/b": torch.rand(4)}
    files = plots.draw(Evaluation({}, means | {"CIMeanPerComponent_2/a": torch.rand(4)}), tmp_path)
    assert {path.stem for path in files} == {"mean_importances_part1", "mean_importances_part2", "mean_importances_2"}
    assert plots.draw(Evaluation({"a": 1.0}), tmp_path) == []


def test_identities_look_like_identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[np.ndarray, list[int], tuple[float, float]]] = []
    draw_one: Callable[..., object] = plots._heat_map

    def spy(axes: object, matrix: np.ndarray, names: np.ndarray, colours: str, low: float, high: float) -> object:
        drawn.append((matrix, names.tolist(), (low, high)))
        return draw_one(axes, matrix, names, colours, low, high)

    monkeypatch.setattr(plots, "_heat_map", spy)
    tables = {key: table for key, table in _tables(("a",), 40, 200).items() if key.startswith(("Permuted", "UV"))}
    plots.draw(Evaluation({}, tables), tmp_path)
    (g, order, limits), (v, v_order, v_limits), (u, u_order, u_limits) = drawn
    np.testing.assert_allclose(g, 0.95 * np.eye(40), atol=1e-7)  # the dead ones are left out
    assert limits == (0.0, 1.0)
    assert order == v_order == u_order
    np.testing.assert_array_equal(v, tables["UVPlots/a/V"].numpy()[:, order])
    np.testing.assert_array_equal(u, tables["UVPlots/a/U"].numpy()[order].T)
    for matrix, (low, high) in ((v, v_limits), (u, u_limits)):
        assert -low == high == pytest.approx(np.abs(matrix).max())  # white is 0


def test_a_site_with_all_components_dead_is_drawn(tmp_path: Path) -> None:
    """Nothing is above 0 anywhere, which no logarithmic axis can show."""
    dead = {key: torch.zeros_like(table) for key, table in _tables(("a",), 3, 4).items()}
    order = {key: torch.arange(4) for key in dead if key.endswith("/order")}
    for path in plots.draw(Evaluation({}, dead | order), tmp_path):
        _looks_whole(path)


def test_bins_are_joined_without_losing_a_count_and_zero_stays_an_edge() -> None:
    edges = np.linspace(Z_EDGES[0], Z_EDGES[1], Z_EDGES[2] + 1)
    rng = np.random.default_rng(0)
    for first, last in ((0, 400), (37, 214), (190, 230), (399, 400), (3, 333)):
        counts = np.zeros(Z_EDGES[2])
        counts[first:last] = rng.integers(1, 9, last - first)
        found, at = plots._occupied(counts, edges)
        assert found.sum() == counts.sum()
        assert len(at) == len(found) + 1 <= 82
        if first < 200 < last:
            assert np.abs(at).min() < 1e-9
            assert found[at[:-1] > -1e-9].sum() == counts[200:].sum()


def test_training_is_drawn_from_the_log(tmp_path: Path) -> None:
    lines: list[dict[str, float | int | None]] = [
        {
            "step": step,
            "loss/total": 1 / (step + 1),
            "loss/A": 0.5,
            "loss/B": None if step == 3 else 0.0,
            "L0/linear1": 3.0,
        }
        for step in range(5)
    ]
    lines.insert(2, {"step": 1, "eval/loss/A": 0.4})
    files = plots.plot_training(lines, tmp_path / "figures")
    assert [path.name for path in files] == ["training.png", "training.svg"]
    for path in files:
        _looks_whole(path)
    many = [{"step": step, "loss/total": 2.0, **{f"L0/{i}": float(i) for i in range(24)}} for step in (0, 1)]
    _looks_whole(plots.plot_training(many, tmp_path / "many")[0])
    curves = plots._curves(lines, lambda key: key.startswith("loss/"))
    assert curves["loss/B"][0] == [0.0, 1.0, 2.0, 4.0]
    assert len(curves["loss/A"][0]) == 5
    with pytest.raises(DataError, match="none of 1 lines has one"):
        plots.plot_training([{"step": 0, "eval/loss/A": 1.0}], tmp_path)


def test_the_same_tables_give_the_same_file(tmp_path: Path) -> None:
    tables = {"CIMeanPerComponent/a": torch.rand(4)}
    one, two = (plots.draw(Evaluation({}, tables), tmp_path / name) for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_no_figure_stays_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Figure]] = []
    start: Callable[..., None] = Figure.__init__

    def remember(self: Figure, *args: object, **kwargs: object) -> None:
        start(self, *args, **kwargs)
        alive.append(weakref.ref(self))

    monkeypatch.setattr(Figure, "__init__", remember)
    had_pyplot = "matplotlib.pyplot" in sys.modules
    means = torch.tensor([0.5, 1e-3, 0.0])
    plots.draw(Evaluation({}, {"CIMeanPerComponent/a": means, "ComponentActivationDensity/a": means}), tmp_path)
    gc.collect()
    assert len(alive) == 2
    assert not any(reference() for reference in alive)
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


def test_without_matplotlib_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"pip install './packages/spd\[plots\]'"):
        plots.draw(Evaluation({}, {"CIMeanPerComponent/a": torch.rand(4)}), tmp_path)
    assert plots.draw(Evaluation({"a": 1.0}), tmp_path) == []
