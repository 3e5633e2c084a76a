"""Drawings of signals: their geometry against the numbers, and what odd documents do."""

import copy
import math
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup

from dredge.api import drawing
from dredge.api.signal_documents import SignalDocument, read_document

LINE = [drawing.draw_samples, drawing.draw_packets, drawing.draw_residual]
MAPS = [drawing.draw_fit_map, drawing.draw_sample_map, drawing.draw_residual_map]


def packet(centre: list[float], amplitude: float, cycles: float = 0.5) -> dict[str, Any]:
    d = len(centre)
    return {"centre": centre, "width": [0.5] * d, "frequency": [math.tau * cycles] * d, "cycles": [cycles] * d,
            "amplitude": amplitude, "phase": 0.25, "energy": 1.0}  # fmt: skip


def line_document(amplitudes: tuple[float, ...] = (2.0, 0.5), *, constant: float = 1.0) -> dict[str, Any]:
    """On [0, 4], by the packets' own formula."""
    x = np.linspace(0, 4, 21)
    grid = np.linspace(0, 4, 33)
    packets = [packet([1.0 + index], amplitude) for index, amplitude in enumerate(amplitudes)]

    def curve(row: dict[str, Any], at: np.ndarray) -> np.ndarray:
        z = (at - row["centre"][0]) / row["width"][0]
        wave = np.cos(row["frequency"][0] * (at - row["centre"][0]) + row["phase"])
        return row["amplitude"] * np.exp(-(z**2) / 2) * wave

    curves = [curve(row, grid) for row in packets]
    exact = constant + sum([curve(row, x) for row in packets], np.zeros(21))
    left = 0.1 * np.cos(np.arange(21))
    return {
        "title": "t", "dim": 1, "points": 21, "repeated": 0, "range": [[0.0, 4.0]],
        "samples": {"coords": x.tolist(), "values": (exact + left).tolist(), "thinned": False},
        "fit": {"coords": grid.tolist(), "values": (constant + sum(curves, np.zeros(33))).tolist(), "shape": [33],
                "packets": [one.tolist() for one in curves]},
        "packets": packets, "constant": constant,
        "residual": {"rms": 0.07, "largest": 0.1, "explained": 0.99, "values": left.tolist()},
    }  # fmt: skip


def map_document() -> dict[str, Any]:
    """Value 3 in one corner of a grid of 3 × 4, −1.5 in another, and the constant 0 elsewhere."""
    grid = [[float(x), float(y)] for x in range(3) for y in range(4)]
    values = [0.0] * 12
    values[0], values[11] = 3.0, -1.5
    return {
        "title": "", "dim": 2, "points": 4, "samples": {"coords": [[0.0, 0.0], [2.0, 3.0], [1.0, 1.0], [0.0, 3.0]],
                                                       "values": [3.0, -1.5, 0.0, 0.01]},
        "fit": {"coords": grid, "values": values, "shape": [3, 4], "packets": []},
        "packets": [packet([0.0, 0.0], 3.0)], "constant": 0.0,
        "residual": {"rms": 0.1, "largest": 0.1, "explained": 0.9, "values": [0.1, -0.1, 0.0, 0.05]},
    }  # fmt: skip


def read(document: dict[str, Any]) -> SignalDocument:
    found = read_document(document)
    assert found is not None
    return found


def tree(drawn: Markup) -> ElementTree.Element:
    root = ElementTree.fromstring(str(drawn))
    for element in root.iter():
        assert "style" not in element.attrib
        assert not any(name.startswith("on") for name in element.attrib)
        for name, value in element.attrib.items():
            if name != "class":
                assert not re.search(r"nan|inf", value), (name, value[:80])
    return root


def places(path: str) -> np.ndarray:
    return np.array(
        [[float(number) for number in pair.split()] for pair in re.findall(r"[ML](-?[\d.]+ -?[\d.]+)", path)]
    )


def scale(root: ElementTree.Element, axis: str) -> Callable[[np.ndarray], np.ndarray]:
    low, high, start, end = map(float, root.attrib[f"data-{axis}"].split())
    return lambda values: start + (np.array(values) - low) / (high - low) * (end - start)


def only(root: ElementTree.Element, name: str) -> ElementTree.Element:
    (found,) = [element for element in root.iter() if element.attrib.get("class") == name]
    return found


def test_dots_and_the_line_are_where_the_numbers_are() -> None:
    document = line_document()
    root = tree(drawing.draw_samples(read(document), 700))
    x, y = scale(root, "x"), scale(root, "y")
    for name, part in (("dots", document["samples"]), ("fit", document["fit"])):
        drawn = places(only(root, name).attrib["d"])
        wanted = np.stack([x(part["coords"]), y(part["values"])], axis=1)
        assert drawn == pytest.approx(wanted, abs=0.06)
        assert drawn[:, 0].min() >= 0
        assert drawn[:, 0].max() <= 700
    # Larger values are higher up.
    assert y([1.0])[0] < y([0.0])[0]


def test_ticks_stand_at_their_numbers() -> None:
    root = tree(drawing.draw_samples(read(line_document()), 700))
    for axis, attribute, shift in (("x", "x", 0.0), ("y", "y", 4.0)):
        ticks = [element for element in root.iter() if element.attrib.get("class") == f"tick {axis}"]
        assert len(ticks) >= 3
        values = [float((element.text or "").replace("−", "-")) for element in ticks]
        assert [float(element.attrib[attribute]) - shift for element in ticks] == pytest.approx(
            scale(root, axis)(values), abs=0.06
        )
    names = [element.text for element in root.iter() if element.attrib.get("class") == "name"]
    assert names == ["coordinate", "value"]


def test_each_packet_has_a_row_and_weak_ones_are_enlarged_and_say_so() -> None:
    document = line_document((2.0, 0.5, 0.012))
    root = tree(drawing.draw_packets(read(document), 700))
    rows = [element for element in root.iter() if element.attrib.get("class") == "packet"]
    assert [row.attrib["data-packet"] for row in rows] == ["0", "1", "2"]
    strongest = max(np.abs(curve).max() for curve in document["fit"]["packets"])
    marks = []
    for row, curve in zip(rows, document["fit"]["packets"], strict=True):
        texts = {element.attrib["class"]: element.text for element in row.iter() if element.tag.endswith("text")}
        times = float(texts.get("times", "×1")[1:])
        marks.append(times)
        middle = float(re.findall(r"M[\d.]+ ([\d.]+)", only(row, "zero").attrib["d"])[0])
        heights = middle - places(only(row, "wave").attrib["d"])[:, 1]
        # One scale for all rows, but for the factor that is told.
        assert heights == pytest.approx(0.45 * 52 * times * np.array(curve) / strongest, abs=0.06)
        assert np.abs(heights).max() <= 26
    assert marks == [1, 1, 100]


def test_the_band_of_the_residual_is_its_rms() -> None:
    root = tree(drawing.draw_residual(read(line_document()), 700))
    band = only(root, "band")
    dots = places(only(root, "dots left").attrib["d"])
    left = np.array(line_document()["residual"]["values"])
    per_unit = (dots[:, 1].max() - dots[:, 1].min()) / np.ptp(left)
    assert float(band.attrib["height"]) == pytest.approx(2 * 0.07 * per_unit, rel=0.02)


def test_a_map_is_coloured_where_the_surface_is() -> None:
    root = tree(drawing.draw_fit_map(read(map_document()), 400))
    clip = next(element for element in root.iter() if element.tag.endswith("rect"))
    left, top, width, height = (float(clip.attrib[name]) for name in ("x", "y", "width", "height"))
    cells = [
        (element.attrib["class"], float(element.attrib["fill-opacity"]), *places(element.attrib["d"])[0])
        for element in root.iter() if element.attrib.get("class") in ("up", "down")
    ]  # fmt: skip
    inside = [cell for cell in cells if cell[2] < left + width]
    # 3 is the strongest: full colour, lower left; −1.5 is half of it, upper right.
    assert sorted(inside) == [
        ("down", 0.5, pytest.approx(left + 2 * width / 3, abs=0.1), pytest.approx(top, abs=0.1)),
        ("up", 1.0, pytest.approx(left, abs=0.1), pytest.approx(top + 3 * height / 4, abs=0.1)),
    ]
    ellipse = next(element for element in root.iter() if element.tag.endswith("ellipse"))
    # Centre (0, 0), width 0.5 on axes of length 2 and 3.
    assert float(ellipse.attrib["cx"]) == pytest.approx(left, abs=0.1)
    assert float(ellipse.attrib["cy"]) == pytest.approx(top + height, abs=0.1)
    assert float(ellipse.attrib["rx"]) == pytest.approx(width / 4, abs=0.1)
    assert float(ellipse.attrib["ry"]) == pytest.approx(height / 6, abs=0.1)
    legend = [element.text for element in root.iter() if element.attrib.get("class") == "legend"]
    assert legend == ["3", "0", "−3"]


def test_dots_of_a_map_are_coloured_by_their_values() -> None:
    root = tree(drawing.draw_sample_map(read(map_document()), 400))
    dots = {
        (element.attrib["class"], float(element.attrib["stroke-opacity"])): len(places(element.attrib["d"]))
        for element in root.iter() if element.attrib.get("class") in ("rise", "fall", "flat")
    }  # fmt: skip
    assert dots == {("rise", 1.0): 1, ("fall", 0.5): 1, ("flat", 0.2): 2}
    residual = tree(drawing.draw_residual_map(read(map_document()), 400))
    assert [element.text for element in residual.iter() if element.attrib.get("class") == "legend"] == [
        "0.1",
        "0",
        "−0.1",
    ]


@pytest.mark.parametrize(("document", "draws"), [(line_document(), LINE), (map_document(), MAPS)])
def test_drawings_for_two_widths_share_no_id_and_have_names(document: dict[str, Any], draws: list[Any]) -> None:
    drawn = [tree(draw(read(document), width)) for draw in draws for width in (760, 350)]
    ids = [element.attrib["id"] for root in drawn for element in root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids)) > 0
    for root in drawn:
        assert root.attrib["role"] == "img"
        assert root[0].tag.endswith("title")
        assert root[0].text


Numbers = st.one_of(st.floats(-1e101, 1e101), st.sampled_from([0.0, 1e-310, 5e-324, 1e16, 1e16 + 2, -1e101, 1e101]))


@given(numbers=st.lists(Numbers, min_size=12, max_size=12), more=st.lists(Numbers, min_size=12, max_size=12))
@example(numbers=[0.0] * 12, more=[0.0] * 12)
@example(numbers=[5e-324] * 12, more=[0.0, 5e-324] * 6)
@example(numbers=[1e16, 1e16 + 2] * 6, more=[1e101, -1e101] * 6)
def test_any_numbers_can_be_drawn(numbers: list[float], more: list[float]) -> None:
    line, flat = line_document(), map_document()
    line["samples"] = {"coords": numbers, "values": more}
    line["residual"] |= {"values": more, "rms": abs(more[0])}
    line["fit"] = {"coords": sorted(numbers), "values": more, "shape": [12], "packets": [more, numbers]}
    places = [[x, y] for x, y in zip(numbers, more, strict=True)]
    flat["samples"] = {"coords": places, "values": more}
    flat["residual"]["values"] = numbers
    flat["fit"] |= {"coords": places, "values": numbers}
    flat["packets"][0] |= {"centre": places[0], "width": [abs(more[1]) or 1.0, abs(more[2]) or 5e-324]}
    flat["constant"] = more[3]
    for document, draws in ((line, LINE), (flat, MAPS)):
        for draw in draws:
            tree(draw(read(document), 350))


def broken(change: Callable[[dict[str, Any]], Any], document: dict[str, Any] | None = None) -> dict[str, Any]:
    found = copy.deepcopy(document or line_document())
    change(found)
    return found


@pytest.mark.parametrize(
    "document",
    [
        None, {}, {"packets": 5},
        broken(lambda d: d.pop("fit")),
        broken(lambda d: d["samples"]["values"].pop()),
        broken(lambda d: d["residual"]["values"].append(0.0)),
        broken(lambda d: d["samples"]["values"].__setitem__(0, math.nan)),
        broken(lambda d: d["samples"]["values"].__setitem__(0, "1")),
        broken(lambda d: d["samples"]["values"].__setitem__(0, 1e200)),
        broken(lambda d: d["samples"]["coords"].__setitem__(0, [1.0, 2.0])),
        broken(lambda d: d["fit"]["packets"].pop()),
        broken(lambda d: d["fit"]["packets"][0].pop()),
        broken(lambda d: d["fit"].__setitem__("shape", [32])),
        broken(lambda d: d["packets"][0].__setitem__("width", [0.0])),
        broken(lambda d: d["packets"][0].__setitem__("centre", [0.0, 1.0])),
        broken(lambda d: d.__setitem__("dim", 6)),
        broken(lambda d: d.__setitem__("dim", 2)),
        broken(lambda d: d["samples"].update(coords=[0.0] * 10_001, values=[0.0] * 10_001)),
        broken(lambda d: d["fit"].__setitem__("shape", [12]), map_document()),
        broken(lambda d: d["fit"].__setitem__("shape", [-3, -4]), map_document()),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_no_document(document: dict[str, Any] | None) -> None:
    assert read_document(document) is None


@given(low=st.floats(-1e9, 1e9), length=st.floats(1e-6, 1e9), count=st.integers(2, 10))
def test_ticks_are_few_round_and_within(low: float, length: float, count: int) -> None:
    high = low + length
    found = drawing.ticks(low, high, count)
    assert 2 <= len(found) <= 2 * count + 2
    slack = 1e-6 * max(length, abs(low) * 1e-5)
    assert all(low - slack <= tick <= high + slack for tick in found)
    assert found == sorted(set(found))


def test_numbers_are_written_shortly() -> None:
    values = [0.0, -0.0, 10.0, 1e6, 1e7, 123456.0, 0.0012, 0.00012, -2.5e-5, 1e100]
    written = ["0", "0", "10", "1000000", "1e7", "123500", "0.0012", "1.2e−4", "−2.5e−5", "1e100"]
    assert [drawing.number(value) for value in values] == written
    assert drawing.number(9.9999, 2) == "10"
