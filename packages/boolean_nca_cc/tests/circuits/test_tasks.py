"""Every task against its definition in plain Python integers, at every width."""

from collections.abc import Callable

import numpy as np
import pytest

from boolean_nca_cc.circuits.font import render
from boolean_nca_cc.circuits.tasks import TaskData, get_task, split, task_names
from boolean_nca_cc.errors import TaskError

DEFINITIONS: dict[str, tuple[Callable[[int, int], int], Callable[[int], int], bool]] = {
    # name: (value of case i at n bits, natural output width, splits in halves)
    "copy": (lambda i, n: i, lambda n: n, False),
    "reverse": (lambda i, n: int(f"{i:0{n}b}"[::-1], 2), lambda n: n, False),
    "gray": (lambda i, n: i ^ (i >> 1), lambda n: n, False),
    "and": (lambda i, n: (i % 2 ** (n // 2)) & (i // 2 ** (n // 2)), lambda n: n // 2, True),
    "xor": (lambda i, n: (i % 2 ** (n // 2)) ^ (i // 2 ** (n // 2)), lambda n: n // 2, True),
    "add": (lambda i, n: (i % 2 ** (n // 2)) + (i // 2 ** (n // 2)), lambda n: n // 2 + 1, True),
    "multiply": (lambda i, n: (i % 2 ** (n // 2)) * (i // 2 ** (n // 2)), lambda n: n, True),
    "parity": (lambda i, n: f"{i:b}".count("1") % 2, lambda n: 1, False),
    "popcount": (lambda i, n: f"{i:b}".count("1"), lambda n: len(f"{n:b}"), False),
}


def integers(rows: np.ndarray) -> list[int]:
    return [sum(int(bit) << place for place, bit in enumerate(row)) for row in np.asarray(rows)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 10])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_task_is_its_definition(name: str, n: int) -> None:
    value, width, halves = DEFINITIONS[name]
    if halves and n % 2:
        with pytest.raises(TaskError, match=f"{name} splits its input in halves, so n_in must be even; it is {n}"):
            get_task(name, n)
        return
    task = get_task(name, n)
    assert task.name == name
    assert task.x.dtype == task.y.dtype == np.float32
    assert task.x.shape == (2**n, n)
    assert task.y.shape == (2**n, width(n))
    assert integers(task.x) == list(range(2**n))
    assert integers(task.y) == [value(i, n) for i in range(2**n)]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_wider_outputs_are_filled_with_zeros_and_narrower_ones_refused(name: str) -> None:
    value, width, _ = DEFINITIONS[name]
    wide = get_task(name, 8, 12)
    assert wide.y.shape == (256, 12)
    assert integers(wide.y) == [value(i, 8) for i in range(256)]
    if width(8) > 1:
        with pytest.raises(TaskError, match=f"{name} of 8 bits needs {width(8)} output bits; n_out is {width(8) - 1}"):
            get_task(name, 8, width(8) - 1)


def test_every_name_is_a_task() -> None:
    assert set(task_names()) == {*DEFINITIONS, "text", "noise", "custom"}
    for alias, name in (("identity", "copy"), ("binary_multiply", "multiply")):
        assert get_task(alias, 4).name == name


def test_noise_is_a_matter_of_its_seed() -> None:
    first = get_task("noise", 8, 5, seed=3)
    assert first.y.shape == (256, 5)
    assert np.array_equal(first.y, get_task("noise", 8, 5, seed=3).y)
    assert not np.array_equal(first.y, get_task("noise", 8, 5, seed=4).y)
    assert set(np.unique(first.y)) == {0.0, 1.0}
    assert 0.45 < float(first.y.mean()) < 0.55
    assert 0.05 < float(get_task("noise", 10, 10, probability=0.1).y.mean()) < 0.15
    np.random.seed(0)
    untouched = np.random.random()
    np.random.seed(0)
    get_task("noise", 2)
    assert np.random.random() == untouched


def test_text_is_one_column_a_case() -> None:
    task = get_task("text", 6, 9, text="Hi!")
    bitmap = np.asarray(task.y).T
    assert bitmap.shape == (9, 64)
    assert np.array_equal(bitmap, render("Hi!", 64, 9))
    ink = np.flatnonzero(bitmap.any(0))
    left, right = ink[0], 63 - ink[-1]
    assert abs(int(left) - int(right)) <= 3, "centred, within the empty columns of the exclamation mark"
    assert not bitmap[0].any()
    assert not bitmap[-1].any()
    assert get_task("text", 8).y.shape == (256, 8)


def test_every_printable_character_has_a_glyph_of_its_own() -> None:
    glyphs = [render(chr(code), 5, 7).tobytes() for code in range(32, 127)]
    assert len(set(glyphs)) == 95
    assert not np.frombuffer(glyphs[0], bool).any()
    assert all(np.frombuffer(glyph, bool).any() for glyph in glyphs[1:])


def test_a_glyph_is_drawn_upright() -> None:
    drawn = ["".join(" #"[dot] for dot in row) for row in render("L", 5, 7).astype(int)]
    assert drawn == ["#    "] * 6 + ["#####"]


def test_a_custom_task() -> None:
    task = get_task("custom", 3, function=lambda i: (3 * i) % 8)
    assert integers(task.y) == [0, 3, 6, 1, 4, 7, 2, 5]
    assert integers(get_task("custom", 2, 1, function=lambda i: i > 1).y) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mutliply", "n_in": 4}, "there is no task 'mutliply'. Did you mean multiply"),
        ({"name": "zzz", "n_in": 4}, r"there is no task 'zzz'\. All: copy"),
        ({"name": "copy", "n_in": 0}, "from 1 to 20, for 2.n_in cases; it is 0"),
        ({"name": "copy", "n_in": 21}, "it is 21"),
        ({"name": "copy", "n_in": 4, "n_out": 0}, "n_out must be at least 1; it is 0"),
        ({"name": "noise", "n_in": 4, "probability": 1.5}, r"from 0 to 1; it is 1\.5"),
        ({"name": "text", "n_in": 4}, r"'Hello' takes 29 columns \(cases\) and 7 rows"),
        ({"name": "text", "n_in": 6, "n_out": 6}, "there are 64 and 6"),
        ({"name": "text", "n_in": 6, "text": "é"}, "printable ASCII character; 'é' has"),
        ({"name": "text", "n_in": 6, "text": ""}, "'' is empty"),
        ({"name": "custom", "n_in": 4}, "needs its function of the case numbers"),
        ({"name": "custom", "n_in": 2, "function": lambda i: i * 0.5}, "it returned float64"),
        ({"name": "custom", "n_in": 2, "function": lambda i: i - 1}, "at least 0 a case: 4 of them; .* from -1 on"),
        ({"name": "custom", "n_in": 2, "function": lambda i: i[:2]}, r"it returned int64 of shape \(2,\)"),
        ({"name": "custom", "n_in": 2, "function": lambda i: i * 4}, "custom needs 4 output bits; n_out is 2"),
    ],
)
def test_bad_tasks_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        get_task(**arguments)  # type: ignore[arg-type]


def test_split_is_a_partition_drawn_from_its_seed() -> None:
    task = get_task("gray", 8)
    train, test = split(task)
    assert (train.x.shape[0], test.x.shape[0]) == (205, 51)
    whole = sorted(integers(train.x) + integers(test.x))
    assert whole == list(range(256))
    for part in (train, test):
        assert integers(part.y) == [i ^ i >> 1 for i in integers(part.x)]
    assert integers(split(task)[1].x) == integers(test.x)
    assert integers(split(task, seed=1)[1].x) != integers(test.x)
    assert isinstance(test, TaskData)


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01])
def test_a_split_that_leaves_nothing_is_refused(fraction: float) -> None:
    with pytest.raises(TaskError, match="at least one case each"):
        split(get_task("copy", 4), fraction)
