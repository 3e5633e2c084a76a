"""Noise that depends on what it is for and not on where it is computed.

Each number is a hash of (seed, layer name, flat index of the coordinate): the same on every rank, device and shard,
whatever else was drawn before. The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014, *Fast splittable
pseudorandom number generators*) over a Weyl sequence that starts at a key made of seed and name. What follows it is
integer arithmetic, table look-ups and single float operations, each of which IEEE 754 rounds alike everywhere;
logarithms and cosines, which differ between devices in the last bit, appear only in a table that the host computes.
"""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from resu.errors import ConfigError

__all__ = ["NOISES", "Noise", "hash_rows", "layer_key", "normal", "uniform"]

# As signed 64-bit integers, whose multiplication wraps around like that of unsigned ones.
_WEYL = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)

_SEGMENT_BITS = 6
_MANTISSA_BITS = 23
_UNIFORM_BITS = 24


def layer_key(seed: int, name: str) -> int:
    """The start of a layer's sequence: 64 bits of BLAKE2b over seed and name.

    Args:
        seed: the run's seed.
        name: the layer's name.

    Returns:
        A signed 64-bit integer.

    >>> layer_key(0, "a") != layer_key(1, "a") != layer_key(0, "b")
    True
    """
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def hash_rows(
    seed: int, name: str, rows: slice, cols: int, *, device: torch.device | str | None = None
) -> Int64[Tensor, "rows cols"]:
    """64 random bits for each coordinate of some rows.

    Args:
        seed: the run's seed.
        name: the layer's name.
        rows: which rows of the whole weight, also where only a shard of it is here; start and stop are given.
        cols: columns of the weight.
        device: where to compute.

    Returns:
        The bits as signed integers.

    Raises:
        ConfigError: rows without a start or a stop, or that count from the end.

    >>> whole = hash_rows(3, "layer", slice(0, 4), 5)
    >>> torch.equal(whole[2:], hash_rows(3, "layer", slice(2, 4), 5))
    True
    """
    start, stop = 0 if rows.start is None else rows.start, rows.stop
    if stop is None or not 0 <= start <= stop or rows.step not in (None, 1):
        raise ConfigError(
            f"noise is drawn for rows start to stop of the whole weight; got {rows}. Give slice(first, last + 1)."
        )
    index = torch.arange(start * cols, stop * cols, dtype=torch.int64, device=device)
    z = index.mul_(_WEYL).add_(layer_key(seed, name))
    z = _xor_shift(z, 30).mul_(_FIRST)
    z = _xor_shift(z, 27).mul_(_SECOND)
    return _xor_shift(z, 31).view(stop - start, cols)


def uniform(
    seed: int, name: str, rows: slice, cols: int, *, device: torch.device | str | None = None
) -> Float32[Tensor, "rows cols"]:
    """U(−1, 1) on a grid of 2^24 points that is symmetric about 0 and holds neither 0 nor an end.

    Args:
        seed: the run's seed.
        name: the layer's name.
        rows: which rows of the whole weight.
        cols: columns of the weight.
        device: where to compute.

    Returns:
        The noise.

    Raises:
        ConfigError: rows without a start or a stop, or that count from the end.

    >>> bool(uniform(0, "layer", slice(0, 10), 10).abs().max() < 1)
    True
    """
    r = _shifted(hash_rows(seed, name, rows, cols, device=device), 64 - _UNIFORM_BITS)
    return r.mul_(2).sub_((1 << _UNIFORM_BITS) - 1).float().mul_(2.0**-_UNIFORM_BITS)


def normal(
    seed: int, name: str, rows: slice, cols: int, *, device: torch.device | str | None = None
) -> Float32[Tensor, "rows cols"]:
    """N(0, 1) by inversion: a sign bit and Φ⁻¹(p), p on a grid of 2^23 points in (0, ½).

    The exponent of p and the first 6 bits of its mantissa choose a segment of a table of Φ⁻¹, the rest interpolates
    within it; the error is below 2e-5. The largest |value| is 5.4.

    Args:
        seed: the run's seed.
        name: the layer's name.
        rows: which rows of the whole weight.
        cols: columns of the weight.
        device: where to compute.

    Returns:
        The noise.

    Raises:
        ConfigError: rows without a start or a stop, or that count from the end.

    >>> z = normal(0, "layer", slice(0, 100), 100)
    >>> round(abs(z.mean().item()), 1), round(z.std().item(), 1)
    (0.0, 1.0)
    """
    bits = hash_rows(seed, name, rows, cols, device=device)
    negative = bits < 0
    # p = odd / 2^25 with 24-bit odd, exact in float32: its fields are the table's address.
    odd = _shifted(bits.mul_(2), 64 - _MANTISSA_BITS).mul_(2).add_(1).float().view(torch.int32)
    del bits
    rest_bits = _MANTISSA_BITS - _SEGMENT_BITS
    segment = (odd >> rest_bits).sub_(127 << _SEGMENT_BITS)
    rest = (odd & ((1 << rest_bits) - 1)).float().mul_(2.0**-rest_bits)
    del odd
    table = _normal_table(segment.device)
    low = table[segment]
    size = table[segment.add_(1)].sub_(low).mul_(rest).add_(low)
    return size.mul_(negative.to(torch.float32).mul_(-2).add_(1))


Noise = Callable[..., Tensor]

NOISES: dict[str, Noise] = {"normal": normal, "uniform": uniform}
"""The kinds of noise by name."""


@lru_cache(maxsize=8)
def _normal_table(device: torch.device) -> Float32[Tensor, " edges"]:
    """−Φ⁻¹ at the segments' edges: p = 2^(e − 25) (1 + i / 64) for e = 0 … 23, and ½ at the end."""
    inverse, segments = NormalDist().inv_cdf, 1 << _SEGMENT_BITS
    octaves = _MANTISSA_BITS + 1
    values = [-inverse(math.ldexp(1 + i / segments, e - octaves - 1)) for e in range(octaves) for i in range(segments)]
    return torch.tensor([*values, 0.0], dtype=torch.float32, device=device)


def _shifted(z: Tensor, places: int) -> Tensor:
    """Logical shift to the right; the tensor's own is arithmetic."""
    return (z >> places).bitwise_and_((1 << (64 - places)) - 1)


def _xor_shift(z: Tensor, places: int) -> Tensor:
    return z.bitwise_xor_(_shifted(z, places))
