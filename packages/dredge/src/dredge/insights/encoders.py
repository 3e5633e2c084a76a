"""Encoders: what turns a text into a vector of unit length.

`hashed-ngrams-v1` counts character n-grams, so that a text with typing errors, or a part of a text, stays near to what
it came from. It knows nothing of meaning. It needs no model, and gives the same bits on every machine: everything is
arithmetic of integers, up to one square root and one division, which IEEE 754 rounds in one way only.
"""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt32

from dredge.errors import ConfigError, InsightError

__all__ = ["Encoder", "HashedNgramEncoder", "encoder_named", "encoder_names", "normalised", "register_encoder"]


@runtime_checkable
class Encoder(Protocol):
    """What the store and the search need of an encoder.

    Args:
        version: name under which vectors are kept; two encoders of one version give the same vectors.
        dim: length of a vector.
    """

    version: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n dim"]:
        """Vectors of texts.

        Args:
            texts: any number of them, none blank.

        Returns:
            One row of L2 norm 1 a text.
        """
        ...


def normalised(text: str) -> str:
    r"""A text as the encoder reads it: without case, compatible characters made one, white space as single blanks.

    Args:
        text: any text.

    Returns:
        Its case-folded form in NFKC, without white space at the ends.

    >>> normalised("  Ｗave\n PACKETS ")
    'wave packets'
    """
    folded = text.casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFKC", folded).casefold()
    return " ".join(folded.split())


_SIZES: Final = np.array([3, 4, 5])
_REACH: Final = int(_SIZES[-1]) - 1  # characters that an n-gram takes after its first
_UNIT: Final = 64  # a weight of 1: weights are integers, so that their sums are exact in any order
_TOGETHER: Final = 1 << 13  # characters of short texts encoded at once
_BLOCK: Final = 1 << 15  # characters of a long text hashed at once; no longer text is encoded with others
_COUNTED: Final = 1 << 17  # n-grams of a long text counted at once


class HashedNgramEncoder:
    """Signed feature hashing of the character 3- to 5-grams of a text.

    With tf(g) the count of n-gram g in `normalised(text)` with a blank at each end, h(g) its bucket and s(g) = ±1 its
    sign::

        v_j = Σ_{g: h(g) = j} s(g) · (1 + ln tf(g)),    then v / ‖v‖₂

    where 1 + ln tf is rounded to a multiple of 1/64. The inner product of two such sums is an unbiased estimate of that
    of the weights themselves (Weinberger et al., *Feature Hashing for Large Scale Multitask Learning*, 2009,
    arXiv:0902.2206).

    While a long text is encoded it takes some 20 bytes a character, and 4 MB.

    >>> one, two, far = HashedNgramEncoder().encode(["gravity waves", "gravty waves", "a list of tuples"])
    >>> bool(one @ two > 0.5), bool(abs(one @ far) < 0.2)
    (True, True)
    """

    version = "hashed-ngrams-v1"
    dim = 512

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 512"]:
        """Vectors of texts; that of a text does not depend on the others.

        Args:
            texts: any number of them.

        Returns:
            One row of L2 norm 1 a text.

        Raises:
            InsightError: a text of white space only.
        """
        plain = [normalised(text) for text in texts]
        if "" in plain:
            raise InsightError(
                f"a text has a character that is not white space; number {plain.index('') + 1} of {len(texts)} has "
                "none. Leave it out."
            )
        vectors = np.empty((len(texts), self.dim), np.float32)
        # By length, so that those encoded together need little padding.
        order = sorted(range(len(plain)), key=lambda number: len(plain[number]))
        while order:
            longest = len(plain[order[-1]])
            if longest > _BLOCK:
                group = [order.pop()]
                sums = _long_sums(plain[group[0]], self.dim)
            else:
                first = max(0, len(order) - max(1, _TOGETHER // longest))
                group = order[first:]
                del order[first:]
                some = [plain[number] for number in group]
                sums = _short_sums(some, self.dim) if len(some) > 1 else _short_sum(some[0], self.dim)
            vectors[group] = _unit_rows(sums)
        return vectors


def _short_sum(text: str, dim: int) -> Int64[np.ndarray, "1 dim"]:
    """Signed weights of each bucket, in 1/64, of one normalised text."""
    by_size = _hashes(_characters(f" {text} " + " " * _REACH))
    over = by_size.shape[1] + 1
    keys = np.concatenate([row[: max(0, over - size)] for size, row in zip(_SIZES.tolist(), by_size, strict=True)])
    keys.sort()
    distinct, weights = _weighed(keys, _starts(keys))
    return np.bincount(distinct & np.uint32(dim - 1), weights, dim).astype(np.int64)[None]


def _short_sums(texts: Sequence[str], dim: int) -> Int64[np.ndarray, "n dim"]:
    """The same of several, much faster than one by one: one row of n-grams each, sorted and counted."""
    lengths = np.array([len(text) + 2 for text in texts])
    n, width = len(texts), int(lengths.max())
    padded = "".join([f" {text} ".ljust(width) for text in texts]) + " " * _REACH
    by_size = _hashes(_characters(padded)).reshape(len(_SIZES), n, width)
    # What reaches over the end of its text sorts to the end of its row.
    over = np.arange(width) > (lengths[:, None] - _SIZES)[:, :, None]
    keys = np.where(over, np.uint32(0xFFFFFFFF), by_size.transpose(1, 0, 2)).reshape(n, -1)
    keys.sort(axis=1)
    used = np.maximum(lengths[:, None] - _SIZES + 1, 0).sum(axis=1)
    starts = np.empty(keys.shape, bool)
    starts[:, 0] = True
    np.not_equal(keys[:, 1:], keys[:, :-1], out=starts[:, 1:])
    starts[np.arange(n), used] = True  # each row has such a rest, of two n-grams at least
    runs = np.count_nonzero(starts, axis=1)
    distinct, weights = _weighed(keys.ravel(), starts.ravel())
    weights[np.cumsum(runs) - 1] = 0
    buckets = np.repeat(np.arange(0, n * dim, dim), runs) + (distinct & np.uint32(dim - 1))
    return np.bincount(buckets, weights, n * dim).astype(np.int64).reshape(n, dim)


def _long_sums(text: str, dim: int) -> Int64[np.ndarray, "1 dim"]:
    """The same of one normalised text, with little memory: hashed block by block, counted part by part."""
    characters = _characters(f" {text} ")
    total = len(characters)
    keys = np.empty(int((total - _SIZES + 1).sum()), np.uint32)
    filled = 0
    for start in range(0, total, _BLOCK):
        block = np.zeros(_BLOCK + _REACH, np.uint32)
        piece = characters[start : start + len(block)]
        block[: len(piece)] = piece
        for size, hashes in zip(_SIZES, _hashes(block), strict=True):
            inside = hashes[: max(0, total - start - int(size) + 1)]
            keys[filled : filled + len(inside)] = inside
            filled += len(inside)
    keys.sort()
    # Cut at values, not at places: equal keys are counted together.
    values = np.linspace(0, 1 << 32, -(-len(keys) // _COUNTED), endpoint=False).astype(np.uint32)
    sums = np.zeros(dim)
    for part in np.split(keys, np.searchsorted(keys, values[1:])):
        distinct, weights = _weighed(part, _starts(part))
        sums += np.bincount(distinct & np.uint32(dim - 1), weights, dim)
    return sums.astype(np.int64)[None]


def _starts(keys: UInt32[np.ndarray, " ngrams"]) -> Bool[np.ndarray, " ngrams"]:
    """Where runs of equal keys start."""
    starts = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=starts[1:])
    return starts


def _weighed(
    keys: UInt32[np.ndarray, " ngrams"], starts: Bool[np.ndarray, " ngrams"]
) -> tuple[UInt32[np.ndarray, " runs"], Float64[np.ndarray, " runs"]]:
    """Key and signed weight of each run of equal keys, given where runs start."""
    firsts = np.flatnonzero(starts)
    counts = np.empty(len(firsts))
    counts[:-1] = firsts[1:] - firsts[:-1]
    counts[-1:] = len(keys) - firsts[-1:]
    distinct = keys[firsts]
    # No 64 · (1 + ln n) of a count n below 10⁹ is as near to a half as a logarithm's last digits.
    weights = np.rint(_UNIT + _UNIT * np.log(counts))
    np.negative(weights, out=weights, where=distinct >= np.uint32(1 << 31))
    return distinct, weights


def _characters(text: str) -> UInt32[np.ndarray, " characters"]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint32, copy=False)


def _hashes(characters: UInt32[np.ndarray, " characters"]) -> UInt32[np.ndarray, "sizes positions"]:
    """For each size the hashes of the n-grams that start at each character but the last four.

    A polynomial of the characters in the golden ratio's 32 bits, modulo 2³², through the finaliser of MurmurHash3
    (Appleby, 2011), after which each bit depends on each bit.
    """
    step = np.uint32(0x9E3779B1)
    positions = len(characters) - _REACH
    hashes = np.empty((len(_SIZES), positions), np.uint32)
    rolling = characters[:-1] * step + characters[1:]
    for size, row in zip(_SIZES.tolist(), hashes, strict=True):
        rolling = rolling[:-1] * step + characters[size - 1 :]
        row[:] = rolling[:positions]
    hashes ^= hashes >> np.uint32(16)
    hashes *= np.uint32(0x85EBCA6B)
    hashes ^= hashes >> np.uint32(13)
    hashes *= np.uint32(0xC2B2AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes


def _unit_rows(sums: Int64[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    """Rows of L2 norm 1. A row whose weights cancel wholly becomes the first axis."""
    peaks = np.abs(sums).max(axis=1)
    sums[peaks == 0, 0] = 1
    for row in np.flatnonzero(peaks >= 1 << 26):  # their squares would pass 63 bits
        sums[row] >>= int(peaks[row]).bit_length() - 26
    norms = np.sqrt((sums * sums).sum(axis=1, keepdims=True).astype(np.float64))
    return (sums / norms).astype(np.float32)


_ENCODERS: dict[str, Callable[[], Encoder]] = {HashedNgramEncoder.version: HashedNgramEncoder}


def encoder_names() -> list[str]:
    """Names that `encoder_named` knows."""
    return sorted(_ENCODERS)


def encoder_named(name: str) -> Encoder:
    """An encoder of the settings.

    Args:
        name: as registered.

    Returns:
        A new encoder.

    Raises:
        ConfigError: none has the name; the message lists those there are.

    >>> encoder_named("hashed-ngrams-v1").dim
    512
    """
    try:
        make = _ENCODERS[name]
    except KeyError:
        raise ConfigError(
            f"search.encoder is one of {', '.join(encoder_names())}; got {name!r}. Choose one, or add it with "
            "dredge.insights.encoders.register_encoder."
        ) from None
    return make()


def register_encoder(name: str, make: Callable[[], Encoder]) -> None:
    """Makes an encoder known by a name.

    Args:
        name: for the settings; usually the encoder's version.
        make: makes one.

    Raises:
        ConfigError: another encoder has the name.
    """
    if _ENCODERS.get(name, make) is not make:
        raise ConfigError(f"an encoder's name is its own; {name!r} is taken. Choose another.")
    _ENCODERS[name] = make
