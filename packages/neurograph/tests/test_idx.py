"""IDX files against bytes written by hand, and every way in which one can be wrong."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from neurograph.errors import DataError
from neurograph.idx import load_idx_folder, read_idx, write_idx


@pytest.mark.parametrize(
    ("code", "letter", "dtype"),
    [
        (0x08, "B", np.uint8), (0x09, "b", np.int8), (0x0B, "h", np.int16), (0x0C, "i", np.int32),
        (0x0D, "f", np.float32), (0x0E, "d", np.float64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_every_type_big_endian_plain_and_packed(
    tmp_path: Path, code: int, letter: str, dtype: type[np.generic], packed: bool
) -> None:
    values = [1, 2, 100, 4, 5, 6] if letter == "B" else [1, -2, 100, -4, 5, 6]
    data = bytes([0, 0, code, 2]) + struct.pack(">II", 2, 3) + struct.pack(f">6{letter}", *values)
    path = tmp_path / "file"  # what it is says the content, not the name
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    found = read_idx(path)
    assert found.dtype == dtype
    assert found.dtype.isnative
    assert found.tolist() == [values[:3], values[3:]]
    written = tmp_path / ("again.gz" if packed else "again")
    write_idx(written, found)
    assert (gzip.decompress(written.read_bytes()) if packed else written.read_bytes()) == data
    assert found.flags.writeable


def test_no_axes_and_no_samples(tmp_path: Path) -> None:
    for array in (np.full((), 2.5), np.zeros((0, 28, 28), np.uint8)):
        write_idx(tmp_path / "a", array)
        found = read_idx(tmp_path / "a")
        assert found.shape == array.shape
        np.testing.assert_array_equal(found, array)


WHOLE = bytes([0, 0, 8, 1]) + struct.pack(">I", 5) + b"abcde"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08", "begins with 00 00 08"),
        (b"\0\1\x08\x01" + WHOLE[4:], "begins with 00 01 08 01"),
        (b"\0\0\x0a\x01" + WHOLE[4:], "0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E"),
        (b"PK\x03\x04", "MNIST's format"),
        (WHOLE[:6], "promises 4 bytes of axes, and 2 came"),
        (WHOLE[:-2], r"promises 5 bytes of data for the shape \(5,\), and 3 came"),
        (WHOLE + b"f", "promises 5 bytes of data .* and more came"),
        (bytes([0, 0, 14, 3]) + b"\xff" * 12 + b"123", "and 3 came"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "ends early or is damaged"),
        (gzip.compress(WHOLE, mtime=0)[:-5] + b"xxxxx", "ends early or is damaged"),
        (gzip.compress(WHOLE[:-1], mtime=0), "promises 5 bytes .* and 4 came"),
    ],
)
def test_files_that_are_cut_short_or_foreign(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(DataError, match=said):
        read_idx(path)


def test_files_that_are_not_there_and_arrays_that_do_not_fit(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match="must be readable"):
            read_idx(path)
    with pytest.raises(DataError, match="hold uint8, int8"):
        write_idx(tmp_path / "a", np.zeros(3, np.int64))
    assert not (tmp_path / "a").exists()


def write_folder(root: Path, *, train: int = 6, test: int = 4, end: str = "") -> None:
    rng = np.random.default_rng(0)
    for name, n in (("train", train), ("t10k", test)):
        write_idx(root / f"{name}-images-idx3-ubyte{end}", rng.integers(0, 256, (n, 5, 5)).astype(np.uint8))
        write_idx(root / f"{name}-labels-idx1-ubyte{end}", (np.arange(n) % 3).astype(np.uint8))


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_folder(tmp_path: Path, end: str) -> None:
    write_folder(tmp_path, end=end)
    found = load_idx_folder(tmp_path)
    assert [one.shape for one in found] == [(6, 5, 5), (6,), (4, 5, 5), (4,)]
    (tmp_path / f"train-images-idx3-ubyte{end}").rename(tmp_path / f"train-images.idx3-ubyte{end}")
    np.testing.assert_array_equal(load_idx_folder(tmp_path).train_images, found.train_images)


def test_a_folder_that_does_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks train-images-idx3-ubyte"):
        load_idx_folder(tmp_path)
    write_folder(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3, np.uint8))
    with pytest.raises(DataError, match="t10k files have 4 pictures and 3 labels"):
        load_idx_folder(tmp_path)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(4, np.int32))
    with pytest.raises(DataError, match=r"labels are bytes with 1 axes; .* holds int32"):
        load_idx_folder(tmp_path)
    write_folder(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", np.zeros((4, 5, 6), np.uint8))
    with pytest.raises(DataError, match="of one size"):
        load_idx_folder(tmp_path)
