"""Samples from forms: pasted, or sent as a file."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage

from dredge.api.signal_forms import pasted_samples, uploaded_samples
from dredge.errors import SignalError


@pytest.mark.parametrize("between", [",", ", ", ";", "; ", "\t", " ", "   "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("head", ["", "time{0}volts", "x1{0}y1"])
def test_columns_are_read_however_they_are_parted(between: str, end: str, head: str) -> None:
    lines = [head.format(between)] if head else []
    lines += [f"0{between}-1.5e3", f" 0.25{between}2 "]
    coords, values = pasted_samples(end.join(lines) + end)
    assert coords.tolist() == [[0.0], [0.25]]
    assert values.tolist() == [-1500.0, 2.0]


def test_one_column_and_many() -> None:
    coords, values = pasted_samples("3\n1\n2")
    assert (coords.tolist(), values.tolist()) == ([[0.0], [1.0], [2.0]], [3.0, 1.0, 2.0])
    coords, values = pasted_samples("1 2 3 4 5 6\n7 8 9 10 11 12")
    assert (coords.shape, values.tolist()) == ((2, 5), [6.0, 12.0])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "got none"), (" \n\n", "got none"), ("time, volts", "got none"),
        ("1,2\n3", "line 2 has 1"), ("1,2\n\n3,4,5", "line 3 has 3"), ("1 2 3 4 5 6 7", "line 1 has 7"),
        ("1,2\n2,x", "line 2 is '2,x'"), ("1,x\n2,3", "line 1 is '1,x'"), ("1,2\n,3", "line 2 is ',3'"),
        # Decimal commas would be read as two numbers: refused where they can be told.
        ("1,5;2,3\n2,5;3,1", "line 1 is '1,5;2,3'"), ("1,5\t2,3", "decimal point"), ("1,5 2,3", "decimal point"),
        ("1,2\n3,4\nThe end.", "line 3"), ("0x10, 1\n2, 3", "line 1"),
    ],
)  # fmt: skip
def test_other_lines_are_refused_by_their_number(text: str, told: str) -> None:
    with pytest.raises(SignalError, match=told.replace(".", r"\.")):
        pasted_samples(text)


def test_too_many_lines_are_refused_before_they_are_read() -> None:
    pasted_samples("x\n" + "1\n" * 9, most=9)
    with pytest.raises(SignalError, match="at most 9 samples; got 10"):
        pasted_samples("1\n" * 9 + "no number", most=9)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        coords, values = pasted_samples(text)
    except SignalError:
        return
    assert coords.shape == (len(values), coords.shape[1])
    assert 1 <= coords.shape[1] <= 5


def sent(content: bytes, name: str) -> FileStorage:
    return FileStorage(io.BytesIO(content), filename=name)


def array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


TABLE = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 4.0]])


@pytest.mark.needs_extra("torch")
@pytest.mark.parametrize(
    ("content", "name"),
    [(b"x,y\n0,1\n1,2\n2,4\n", "a.csv"), (array(TABLE), "a.NPY"), (array(TABLE[:, 1]), "../../etc/a.npy")],
)
def test_files_are_read_by_their_names(content: bytes, name: str) -> None:
    coords, values = uploaded_samples(sent(content, name))
    assert (coords.tolist(), values.tolist()) == ([[0.0], [1.0], [2.0]], [1.0, 2.0, 4.0])


@pytest.mark.needs_extra("scipy")
def test_sound_is_read() -> None:
    from scipy.io import wavfile

    buffer = io.BytesIO()
    wavfile.write(buffer, 100, np.array([0, 16384, -32768], np.int16))
    coords, values = uploaded_samples(sent(buffer.getvalue(), "a.wav"))
    assert coords.tolist() == [[0.0], [0.01], [0.02]]
    assert values.tolist() == [0.0, 0.5, -1.0]


@pytest.mark.needs_extra("torch")
@pytest.mark.parametrize("name", ["a.png", "a", "a.csv.exe", "", ".csv"])
def test_files_of_other_kinds_are_refused(name: str) -> None:
    with pytest.raises(SignalError, match=r"ends in \.csv, \.npy, \.wav"):
        uploaded_samples(sent(b"1,2\n3,4\n", name))


def huge() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    return buffer.getvalue()


@pytest.mark.needs_extra("torch")
@pytest.mark.parametrize(
    ("content", "name"),
    [(b"", "a.csv"), (b"a,b\n1,\xff", "a.csv"), (b"1,2\n3,x\n", "a.csv"), (b"", "a.npy"), (huge(), "a.npy"),
     (b"\x93NUMPY\x01\x00\x10\x00{'descr': [(((((\n", "a.npy"), (array(np.array([{}])), "a.npy"),
     (b"RIFF\x10\x00\x00\x00WAVEfmt ", "a.wav"), (b"", "a.wav")],
)  # fmt: skip
def test_damaged_files_are_refused_by_the_name_that_they_came_with(content: bytes, name: str) -> None:
    with pytest.raises(SignalError) as error:
        uploaded_samples(sent(content, name))
    assert name in str(error.value)
    assert "dredge-signal" not in str(error.value)


@pytest.mark.needs_extra("torch")
@pytest.mark.parametrize("kind", ["npy", "wav"])
def test_random_damage_is_refused_or_read(kind: str) -> None:
    from scipy.io import wavfile

    buffer = io.BytesIO()
    if kind == "wav":
        wavfile.write(buffer, 8000, np.arange(200, dtype=np.int16))
    whole = buffer.getvalue() or array(TABLE)
    generator = random.Random(4)
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(generator.choice([1, 2, 4])):
            content[generator.randrange(min(len(content), 128))] = generator.randrange(256)
        try:
            coords, values = uploaded_samples(sent(bytes(content), f"a.{kind}"))
        except SignalError:
            continue
        assert len(coords) == len(values)
