"""Codes: the vectors that stand for the classes.

The shipped network compares its whole read-out with codes of ±1 that are rows of Hadamard matrices, exactly orthogonal
wherever that is possible. A component of +1 is phase 0 and one of −1 is phase P/2, so the codes are points of the
phase grid too.

The original gave each class a short vector of D phase and magnitude indices instead. Its three ways to make them are
here as well. They cannot do what their name says: in R^D at most D vectors are orthogonal, and C > D unit vectors have
a pair with

    max |cos| ≥ sqrt((C − D) / (D · (C − 1)))        (the Welch bound)

which is 1/3 for 10 classes in 5 dimensions.

Reference: L. R. Welch, "Lower bounds on the maximum cross correlation of signals", IEEE Trans. Inf. Theory 20 (1974).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.errors import ConfigError

__all__ = [
    "ClassCodes",
    "coherence",
    "hadamard_codes",
    "hadamard_matrix",
    "orthogonal_codes",
    "random_codes",
    "structured_codes",
    "welch_bound",
]

_DRAWS = 64  # attempts where no orthogonal codes exist; the best is kept


def welch_bound(n_codes: int, dim: int) -> float:
    """The least max |cos| that any n unit vectors in R^d can have.

    Args:
        n_codes: n.
        dim: d.

    Returns:
        sqrt((n − d) / (d (n − 1))), and 0 where n ≤ d.

    >>> round(welch_bound(10, 5), 6), welch_bound(10, 80)
    (0.333333, 0.0)
    """
    return math.sqrt((n_codes - dim) / (dim * (n_codes - 1))) if n_codes > dim else 0.0


def coherence(codes: Float[Tensor, "classes length"]) -> float:
    """Largest |cos| between two different codes.

    Args:
        codes: one row a class.

    Returns:
        From 0 (orthogonal) to 1 (two rows on one line); 0 for a single row.

    >>> coherence(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    0.0
    """
    rows = codes.double()
    norms = torch.linalg.vector_norm(rows, dim=1).clamp_min(1e-12)
    # Products first: those of ±1 are whole numbers, so that orthogonal rows give 0 and nothing near it.
    cosines = (rows @ rows.T).abs() / (norms[:, None] * norms)
    return float(cosines.fill_diagonal_(0.0).max())


@lru_cache(maxsize=64)
def _hadamard(order: int) -> np.ndarray | None:
    """An order × order matrix of ±1 with orthogonal rows, or None where the constructions here give none."""
    if order == 1:
        return np.ones((1, 1), dtype=np.int8)
    if order == 2:
        return np.array([[1, 1], [1, -1]], dtype=np.int8)
    if order % 4:
        return None
    q = order - 1
    if q % 4 == 3 and _is_prime(q):
        # Paley, type I: the Jacobsthal matrix of the field with q elements, bordered.
        squares = {(x * x) % q for x in range(1, q)}
        character = np.array([0] + [1 if x in squares else -1 for x in range(1, q)], dtype=np.int8)
        difference = (np.arange(q)[:, None] - np.arange(q)[None, :]) % q
        paley = np.ones((order, order), dtype=np.int8)
        paley[1:, 1:] = character[difference] - np.eye(q, dtype=np.int8)
        return paley
    half = _hadamard(order // 2)
    return None if half is None else np.block([[half, half], [half, -half]])


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def hadamard_matrix(order: int) -> Float[Tensor, "order order"]:
    """A matrix H of ±1 with H Hᵀ = n · 1, by Sylvester's doubling and Paley's first construction.

    Args:
        order: n.

    Returns:
        H.

    Raises:
        ConfigError: an order that these two constructions do not give.

    >>> h = hadamard_matrix(12)
    >>> bool((h @ h.T == 12 * torch.eye(12)).all())
    True
    """
    matrix = _hadamard(order) if order >= 1 and _exists(order) else None
    if matrix is None:
        raise ConfigError(
            f"Hadamard matrices here have order 1, 2, q + 1 for a prime q ≡ 3 (mod 4), or twice such an order; "
            f"got {order}. Take the next power of two."
        )
    return torch.from_numpy(matrix.astype(np.float32))


@lru_cache(maxsize=1024)
def _exists(order: int) -> bool:
    """Whether the constructions here give a matrix of this order, without making it."""
    if order in (1, 2):
        return True
    if order < 4 or order % 4:
        return False
    return ((order - 1) % 4 == 3 and _is_prime(order - 1)) or _exists(order // 2)


@lru_cache(maxsize=256)
def _blocks(n_classes: int, length: int) -> tuple[int, ...] | None:
    """Hadamard orders, each at least n_classes, whose sum is length; None where there are none.

    As few as possible up to eight times a power of two p ≥ n_classes; what is longer starts with blocks of p.
    """
    power = 1 << (n_classes - 1).bit_length()
    repeated = max(0, length // power - 7)
    rest_length = length - repeated * power
    orders = [n for n in range(n_classes, rest_length + 1) if _exists(n)]
    fewest: list[tuple[int, ...] | None] = [()] + [None] * rest_length
    for total in range(1, rest_length + 1):
        for order in orders:
            rest = fewest[total - order] if order <= total else None
            best = fewest[total]
            if rest is not None and (best is None or len(rest) + 1 < len(best)):
                fewest[total] = (*rest, order)
    found = fewest[rest_length]
    return None if found is None else (power,) * repeated + found


def hadamard_codes(n_classes: int, length: int, seed: int = 0) -> Float[Tensor, "classes length"]:
    """Codes of ±1, one row a class, exactly orthogonal where the length allows it.

    Blocks of Hadamard matrices with at least C rows stand side by side; each gives C of its rows, drawn anew, with its
    columns permuted and their signs drawn. Rows are orthogonal in every block and so over all of it. This
    needs a length that is a sum of Hadamard orders ≥ C: for 10 classes every multiple of 4 from 12 on; 80, the shipped
    length, is itself one, since 79 is a prime of the right kind.
    Where such a length is at most two away, it is cut, or filled with drawn columns: |cos| is then at most 2 / L, or
    1 / L for odd L, and no ±1 codes for three or more classes do better. Where none is (L < C, or a gap such as 27 to
    29 for 13 classes, as not every Hadamard matrix is built here) the best of 64 cuts of a larger matrix is taken:
    codes that differ, and are not orthogonal. :func:`coherence` says what came of it.

    Args:
        n_classes: C.
        length: L, for the shipped read-out the number of output nodes times the dimension.
        seed: draws rows, columns and signs.

    Returns:
        The codes, float32.

    Raises:
        ConfigError: fewer than 2 classes, or a length that has fewer than C different codes.

    >>> codes = hadamard_codes(10, 80)
    >>> codes.shape, coherence(codes)
    (torch.Size([10, 80]), 0.0)
    >>> round(coherence(hadamard_codes(10, 50)), 6)  # 2 / 50: at no multiple of 4, three orthogonal rows do not exist
    0.04
    """
    if n_classes < 2:
        raise ConfigError(f"codes are of at least 2 classes; got {n_classes}. Check the labels.")
    if length < (n_classes - 1).bit_length():
        raise ConfigError(
            f"there are 2^L different codes of length L; got length {length} for {n_classes} classes. "
            f"Raise the dimension or the number of output nodes."
        )
    rng = np.random.default_rng(seed)
    near = [base for base in _by_distance(length) if _blocks(n_classes, base) is not None]
    if near:
        blocks = _blocks(n_classes, near[0])
        assert blocks is not None
        return _assemble(n_classes, length, blocks, rng)
    # Nothing orthogonal is near. Equal codes are worst, then opposite ones, which the sign of a cosine tells apart.
    rows = _sylvester(1 << max(n_classes - 1, length - 1).bit_length())
    draws = [_cut(rows, n_classes, length, rng) for _ in range(_DRAWS)]
    return min(draws, key=lambda codes: (_closest(codes) == length, coherence(codes)))


def _sylvester(order: int) -> np.ndarray:
    """Of order 2^n, by doubling: n columns that are independent tell all rows apart, which Paley's may not."""
    matrix = np.ones((1, 1), dtype=np.int8)
    while len(matrix) < order:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _cut(matrix: np.ndarray, n_classes: int, length: int, rng: np.random.Generator) -> Tensor:
    order = len(matrix)
    rows = matrix[rng.permutation(order)[:n_classes]][:, rng.permutation(order)[:length]]
    return torch.from_numpy((rows * rng.choice(np.array([-1, 1], dtype=np.int8), size=length)).astype(np.float32))


def _closest(codes: Tensor) -> float:
    """Largest inner product of two different rows."""
    return float((codes @ codes.T).fill_diagonal_(-torch.inf).max())


def _by_distance(length: int) -> list[int]:
    """Lengths at most two away, the nearest first and cutting before filling; none so far that codes may be equal."""
    near = (length, length + 1, length - 1, length + 2, length - 2)
    return [base for base in near if abs(base - length) < length]


def _assemble(n_classes: int, length: int, blocks: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    parts = []
    for order in blocks:
        matrix = _hadamard(order)
        assert matrix is not None
        rows = matrix[rng.permutation(order)[:n_classes]][:, rng.permutation(order)]
        parts.append(rows * rng.choice(np.array([-1, 1], dtype=np.int8), size=order))
    codes = np.concatenate(parts, axis=1)[:, :length]
    if codes.shape[1] < length:
        drawn = rng.choice(np.array([-1, 1], dtype=np.int8), size=(n_classes, length - codes.shape[1]))
        codes = np.concatenate([codes, drawn], axis=1)
    return torch.from_numpy(codes.astype(np.float32))


@dataclass(frozen=True)
class ClassCodes:
    """The original's codes: one phase and one magnitude index for each class and dimension.

    Attributes:
        phase: phase indices.
        mag: magnitude indices.
    """

    phase: Int[Tensor, "classes dim"]
    mag: Int[Tensor, "classes dim"]

    def signals(self, tables: HighResolutionLookupTables) -> Float[Tensor, "classes dim"]:
        """The class vectors v = cos(phase) · mag that outputs are compared with.

        Args:
            tables: of the network.

        Returns:
            One row a class.
        """
        return tables.get_signal_vector(self.phase, self.mag)


def orthogonal_codes(
    n_classes: int, dim: int, tables: HighResolutionLookupTables, seed: int = 42, *, sweeps: int = 50
) -> ClassCodes:
    """The original's "orthogonal" codes: orthonormal draws, put on the grid, then improved index by index.

    Normal draws are orthonormalised (QR where D ≥ C, else Gram–Schmidt, which runs out of room after D vectors and
    keeps the rest as drawn). A component v becomes the phase 2·(arctan(2v) + π/2) and the magnitude index ⌊σ(3v)·M⌋.
    Quantising is no isometry, so hill climbing over single index steps of the first three dimensions then raises
    1 − mean |cos| between the class vectors.

    Args:
        n_classes: C.
        dim: D.
        tables: the grid.
        seed: of the draws.
        sweeps: most passes of hill climbing; it stops early when a pass changes nothing.

    Returns:
        The codes.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal((n_classes, dim))
    values = np.linalg.qr(drawn.T)[0].T if dim >= n_classes else _gram_schmidt(drawn)
    phase = np.floor(2 * (np.arctan(2 * values) + np.pi / 2) / (2 * np.pi) * tables.phase_bins).astype(np.int64)
    mag = np.floor(1 / (1 + np.exp(-3 * values)) * tables.mag_bins).astype(np.int64)
    phase %= tables.phase_bins
    mag = mag.clip(0, tables.mag_bins - 1)
    _climb(phase, mag, tables, sweeps)
    return ClassCodes(torch.from_numpy(phase), torch.from_numpy(mag))


def _gram_schmidt(rows: np.ndarray) -> np.ndarray:
    out = np.empty_like(rows)
    for i, row in enumerate(rows):
        rest = row - out[:i].T @ (out[:i] @ row) if i < rows.shape[1] else row
        out[i] = rest / np.linalg.norm(rest)
    return out


def _climb(phase: np.ndarray, mag: np.ndarray, tables: HighResolutionLookupTables, sweeps: int) -> None:
    """Changes the indices in place by steps of one, wherever that lowers the sum of |cos| over the pairs."""
    circles = ((phase, tables.phase_bins, True), (mag, tables.mag_bins, tables.wraps_magnitude))
    cos, sizes = tables.cos.double().cpu().numpy(), tables.mag.double().cpu().numpy()
    signals = cos[phase] * sizes[mag]

    def overlap(c: int, row: np.ndarray) -> float:
        others = np.delete(signals, c, axis=0)
        norms = np.linalg.norm(others, axis=1) * np.linalg.norm(row)
        return float(np.abs(others @ row / np.maximum(norms, 1e-12)).sum())

    for _ in range(sweeps):
        changed = False
        for c in range(len(phase)):
            best = overlap(c, signals[c])
            for d in range(min(3, phase.shape[1])):
                for indices, bins, wraps in circles:
                    for step in (-1, 1):
                        before = indices[c, d]
                        moved = (before + step) % bins if wraps else min(max(before + step, 0), bins - 1)
                        indices[c, d] = moved
                        row = signals[c].copy()
                        row[d] = cos[phase[c, d]] * sizes[mag[c, d]]
                        found = overlap(c, row)
                        if found < best - 1e-12:
                            best, signals[c], changed = found, row, True
                        else:
                            indices[c, d] = before
        if not changed:
            return


def structured_codes(n_classes: int, dim: int, tables: HighResolutionLookupTables) -> ClassCodes:
    """Codes by formula: phase kπ/C + 2πd/D, and the magnitude index of sin(kπ/C + dπ/2) on the grid.

    Args:
        n_classes: C, with classes k.
        dim: D, with components d.
        tables: the grid.

    Returns:
        The codes.
    """
    k = torch.arange(n_classes, dtype=torch.float64)[:, None] * math.pi / n_classes
    d = torch.arange(dim, dtype=torch.float64)[None, :]
    phase = tables.quantize_to_phase(k + d * 2 * math.pi / dim)
    mag = tables.quantize_to_magnitude(torch.sin(k + d * math.pi / 2))
    return ClassCodes(phase.long(), mag.long())


def random_codes(n_classes: int, dim: int, tables: HighResolutionLookupTables, seed: int = 42) -> ClassCodes:
    """Codes drawn uniformly from the grid.

    Args:
        n_classes: C.
        dim: D.
        tables: the grid.
        seed: of the draws.

    Returns:
        The codes.
    """
    rng = np.random.default_rng(seed)
    phase = torch.from_numpy(rng.integers(tables.phase_bins, size=(n_classes, dim)))
    return ClassCodes(phase, torch.from_numpy(rng.integers(tables.mag_bins, size=(n_classes, dim))))
