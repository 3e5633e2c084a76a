"""Files of signals are read as the table in the module says, and damaged ones are refused by name."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dredge.errors import SignalError
from dredge.quasimoto.signal_files import read_signal

pytestmark = pytest.mark.needs_extra("torch")


def test_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([3, 1, 2]))
    coords, values = read_signal(path)
    assert coords.tolist() == [[0], [1], [2]]
    assert values.tolist() == [3, 1, 2]
    np.save(path, np.array([[0.5, 1, 7], [1.5, 2, 8], [2.5, 3, 9], [3.5, 4, 10]], dtype=np.float32))
    coords, values = read_signal(path)
    assert coords.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3], [3.5, 4]]
    assert values.tolist() == [7, 8, 9, 10]
    np.save(path, np.arange(12.0).reshape(3, 4))
    coords, values = read_signal(path)
    assert (coords[5].tolist(), values[5]) == ([1, 1], 5)
    np.save(path, np.arange(6.0).reshape(1, 6))
    coords, values = read_signal(path)
    assert (coords.shape, values.tolist()) == ((6, 1), [0, 1, 2, 3, 4, 5])


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufefftime,value\n0,1.5\n\n 1 , 2.5\n", encoding="utf-8")
    coords, values = read_signal(path)
    assert (coords.tolist(), values.tolist()) == ([[0], [1]], [1.5, 2.5])
    path.write_text("1\n2\n4\n", encoding="utf-8")
    coords, values = read_signal(path)
    assert (coords.tolist(), values.tolist()) == ([[0], [1], [2]], [1, 2, 4])


@pytest.mark.parametrize(("width", "codes", "exact"), [
    (1, bytes([0, 128, 255]), [-1, 0, 127 / 128]),
    (2, struct.pack("<3h", -32768, 0, 16384), [-1, 0, 0.5]),
    (4, struct.pack("<3i", -(2**31), 0, 2**30), [-1, 0, 0.5]),
])  # fmt: skip
def test_sound(tmp_path: Path, width: int, codes: bytes, exact: list[float]) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(codes)
    coords, values = read_signal(path)
    assert np.allclose(values, exact)
    assert np.allclose(coords[:, 0], [0, 1 / 8000, 2 / 8000])


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(100)
        file.writeframes(struct.pack("<4h", 16384, 0, -16384, -16384))
    assert read_signal(path)[1].tolist() == [0.25, -0.5]


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
    for name in ("a.png", "b.PNG"):
        Image.fromarray(pixels).save(tmp_path / name)
        coords, values = read_signal(tmp_path / name)
        assert np.allclose(values, [0, 0.2, 0.4, 0.6, 0.8, 1])
        assert coords[1].tolist() == [-1, 0]
        assert coords[5].tolist() == [1, 1]
    Image.fromarray((pixels.astype(np.uint16) * 257).astype(np.uint16)).save(tmp_path / "c.png")
    assert np.allclose(read_signal(tmp_path / "c.png")[1], values, atol=1e-4)
    Image.new("RGB", (40, 20), (255, 255, 255)).save(tmp_path / "d.jpg")
    for most, kept in ((50, 50), (799, 39 * 19), (800, 800)):
        coords, values = read_signal(tmp_path / "d.jpg", most=most)
        assert len(values) == kept
        assert np.allclose(values, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"", "NumPy array"),
        ("a.npy", b"\x93NUMPY\x01\x00", "NumPy array"),
        ("a.csv", b"", "no row of numbers"),
        ("a.csv", b"a,b\n", "no row of numbers"),
        ("a.csv", b"0,1\n2\n", "line 2"),
        ("a.csv", b"0,1\n2,x\n", "line 2 is '2,x'"),
        ("a.csv", b"0,1.5x\n2,3\n", "line 1 is '0,1.5x'"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.csv", b"1,2,3,4,5,6,7\n", "at most 6 columns"),
        ("a.wav", b"RIFF\x00\x00", "sound"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "picture"),
        ("a.txt", b"1", "ends in"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SignalError, match=message):
        read_signal(path)


def test_other_refusals(tmp_path: Path) -> None:
    from PIL import Image

    with pytest.raises(SignalError, match=r"gone\.npy is not"):
        read_signal(tmp_path / "gone.npy")
    Image.new("L", (5, 1)).save(tmp_path / "a.png")
    with pytest.raises(SignalError, match="5 × 1 pixels"):
        read_signal(tmp_path / "a.png")
    with pytest.raises(SignalError, match="at least 4 pixels"):
        read_signal(tmp_path / "a.png", most=3)
    Image.new("L", (2100, 2100)).save(tmp_path / "b.png")
    with pytest.raises(SignalError, match="at most"):
        read_signal(tmp_path / "b.png")
    Image.new("L", (5, 5)).save(tmp_path / "c.bmp")
    (tmp_path / "c.bmp").rename(tmp_path / "c.png")  # a library that opens any format has more to be attacked
    with pytest.raises(SignalError, match="a picture by its name"):
        read_signal(tmp_path / "c.png")
    for array in (np.array(3.0), np.zeros((0, 3)), np.array(["a"]), np.array([1j])):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(SignalError, match="NumPy array"):
            read_signal(tmp_path / "a.npy")


@given(content=st.binary(max_size=200), name=st.sampled_from(["a.npy", "a.csv", "a.wav", "a.png"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes({"a.npy": b"\x93NUMPY", "a.wav": b"RIFF", "a.png": b"\x89PNG\r\n\x1a\n"}.get(name, b"") + content)
    try:
        coords, values = read_signal(path)
    except SignalError:
        return
    assert len(coords) == len(values)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "bad.npy",
            b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }\n",
        ),
        ("bad.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((((\n"),
        ("bad.wav", b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
        ("bad.wav", b"RIFF\x04\x00\x00\x00WAVE"),
        (  # two samples of 16 bits, none a second
            "bad.wav",
            b"RIFF\x28\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00"
            b"\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x10\x00data\x04\x00\x00\x00\x01\x00\x02\x00",
        ),
        ("bad.wav", b"RI"),
    ],
)
def test_whatever_a_library_raises_is_a_damaged_file(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(SignalError, match="bad"):
        read_signal(file)
