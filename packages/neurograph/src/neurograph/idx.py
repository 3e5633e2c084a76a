"""Files in the IDX format, which MNIST and its relatives come in.

A file is two zero bytes, a byte for the type, a byte for the number of axes, the length of each axis as a big-endian
32-bit integer, and then the numbers, big-endian, the last axis running fastest. It may be packed with gzip.
"""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8

from neurograph.errors import DataError
from neurograph.files import write_whole

__all__ = ["IdxFolder", "load_idx_folder", "read_idx", "write_idx"]

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_PART = 1 << 24
_GZIP = b"\x1f\x8b"
_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class IdxFolder(NamedTuple):
    """MNIST's four files.

    Args:
        train_images: bytes 0 to 255.
        train_labels: one a picture.
        test_images: the same for testing.
        test_labels: the same.
    """

    train_images: UInt8[np.ndarray, "train rows columns"]
    train_labels: UInt8[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test rows columns"]
    test_labels: UInt8[np.ndarray, " test"]


def read_idx(path: str | Path) -> Shaped[np.ndarray, "..."]:
    """Reads a file, packed or plain, whatever its name says.

    Args:
        path: the file.

    Returns:
        Its numbers in the machine's byte order.

    Raises:
        DataError: not such a file, an unknown type, or fewer or more bytes than its header promises.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as stream:
            return _parsed(stream, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is packed with gzip and ends early or is damaged: {error}. Fetch it again.") from error
    except OSError as error:
        raise DataError(f"an IDX file must be readable; {path} is not: {error}. Correct the path.") from error


def write_idx(path: str | Path, array: Shaped[np.ndarray, "..."]) -> None:
    """Writes a file whole or not at all, packed where its name ends in .gz.

    Args:
        path: the file, replaced where it exists.
        array: of bytes, signed bytes, 16- or 32-bit integers, or 32- or 64-bit floats.

    Raises:
        DataError: another type.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_idx(Path(folder) / "a.gz", np.arange(6, dtype=np.int16).reshape(2, 3))
    ...     read_idx(Path(folder) / "a.gz").tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    path = Path(path)
    code = _CODES.get(array.dtype.newbyteorder(">"))
    if code is None:
        names = ", ".join(np.dtype(name).name for name in _TYPES.values())
        raise DataError(f"IDX files hold {names}; got {array.dtype.name}. Convert it with array.astype.")
    shape = array.shape
    data = struct.pack(f">2xBB{len(shape)}I", code, len(shape), *shape) + array.astype(_TYPES[code]).tobytes()
    # Without a time inside: the same numbers give the same file.
    content = gzip.compress(data, mtime=0) if path.suffix == ".gz" else data
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def load_idx_folder(root: str | Path) -> IdxFolder:
    """MNIST's four files from a folder, under their usual names, packed or plain.

    Args:
        root: the folder.

    Returns:
        Pictures and labels.

    Raises:
        DataError: a file that is missing or cut short, or that does not fit the others.
    """
    root = Path(root)
    found = IdxFolder(*(_bytes(_found(root, name), pictures="images" in name) for name in _NAMES))
    for images, labels, name in (
        (found.train_images, found.train_labels, "train"),
        (found.test_images, found.test_labels, "t10k"),
    ):
        if len(images) != len(labels):
            raise DataError(
                f"each picture has one label; in {root} the {name} files have {len(images)} pictures and "
                f"{len(labels)} labels. Use files that belong together."
            )
    if found.train_images.shape[1:] != found.test_images.shape[1:]:
        raise DataError(
            f"pictures to train and to test are of one size; in {root} they are {found.train_images.shape[1:]} and "
            f"{found.test_images.shape[1:]}. Use files that belong together."
        )
    return found


def _parsed(stream: io.BufferedIOBase | gzip.GzipFile, path: Path) -> Shaped[np.ndarray, "..."]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _TYPES:
        codes = ", ".join(f"0x{code:02X}" for code in _TYPES)
        raise DataError(
            f"an IDX file begins with two zero bytes, a type out of {codes}, and a number of axes; {path} begins with "
            f"{start.hex(' ') or 'nothing'}. Use a file in MNIST's format."
        )
    axes = start[3]
    sizes = stream.read(4 * axes)
    if len(sizes) < 4 * axes:
        raise DataError(f"{path} promises {4 * axes} bytes of axes, and {len(sizes)} came. Fetch it again.")
    shape = struct.unpack(f">{axes}I", sizes)
    dtype = np.dtype(_TYPES[start[2]])
    promised = math.prod(shape) * dtype.itemsize
    # One more than promised is enough to know that there is more, and a file that promises too much costs no memory.
    data = bytearray()
    while len(data) <= promised and (part := stream.read(min(_PART, promised + 1 - len(data)))):
        data += part
    if len(data) != promised:
        came = f"{len(data)}" if len(data) < promised else "more"
        raise DataError(
            f"{path} promises {promised} bytes of data for the shape {shape}, and {came} came. Fetch it again."
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _found(root: Path, name: str) -> Path:
    candidates = [root / f"{one}{end}" for one in (name, name.replace("-idx", ".idx")) for end in ("", ".gz")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(
        f"the folder of an IDX set has {', '.join(_NAMES)}, each with or without .gz; {root} lacks {name}. Put it "
        "there, or correct data.root."
    )


def _bytes(path: Path, *, pictures: bool) -> UInt8[np.ndarray, "..."]:
    array = read_idx(path)
    axes, what = (3, "pictures") if pictures else (1, "labels")
    if array.dtype != np.uint8 or array.ndim != axes:
        raise DataError(
            f"{what} are bytes with {axes} axes; {path} holds {array.dtype.name} with {array.ndim}. Use MNIST's files."
        )
    return array
