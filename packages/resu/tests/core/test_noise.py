"""Noise: the hash against plain integers, the distributions, independence, and equality across shards."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest

from resu.core.noise import NOISES, hash_rows, layer_key, normal, uniform
from resu.errors import ConfigError

_64 = (1 << 64) - 1


def finalised(z: int) -> int:
    """SplitMix64's finaliser in Python's own integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64
    return z ^ (z >> 31)


def plain_hash(seed: int, name: str, index: int) -> int:
    return finalised((layer_key(seed, name) + index * 0x9E3779B97F4A7C15) & _64)


def bits_of(seed: int, name: str, rows: int, cols: int) -> np.ndarray:
    return hash_rows(seed, name, slice(0, rows), cols).numpy().view(np.uint64)


def test_the_plain_hash_is_splitmix64() -> None:
    """A generator with state 1234567 gives 6457827717110365317 first: index 1 of a layer with that key."""
    assert finalised((1234567 + 0x9E3779B97F4A7C15) & _64) == 6457827717110365317


@given(seed=st.integers(-(2**40), 2**40), name=st.text(max_size=8), start=st.integers(0, 2**30), cols=st.integers(1, 9))
def test_the_hash_equals_plain_integers(seed: int, name: str, start: int, cols: int) -> None:
    found = hash_rows(seed, name, slice(start, start + 3), cols)
    expected = [[plain_hash(seed, name, r * cols + c) for c in range(cols)] for r in range(start, start + 3)]
    assert (found.numpy().view(np.uint64) == np.array(expected, dtype=np.uint64)).all()


def test_values_follow_from_the_bits() -> None:
    z = bits_of(5, "layer", 40, 25).ravel()
    u = uniform(5, "layer", slice(0, 40), 25).double().numpy().ravel()
    np.testing.assert_array_equal(u, (2 * (z >> np.uint64(40)).astype(float) + 1) / 2**24 - 1)
    x = normal(5, "layer", slice(0, 40), 25).double().numpy().ravel()
    r = ((z << np.uint64(1)) >> np.uint64(41)).astype(float)
    sign = np.where(z >> np.uint64(63), -1.0, 1.0)
    expected = np.array([-NormalDist().inv_cdf((2 * each + 1) / 2**25) for each in r]) * sign
    np.testing.assert_allclose(x, expected, atol=2e-5)


@given(rows=st.integers(1, 12), cols=st.integers(1, 40), cut=st.integers(0, 12), kind=st.sampled_from(sorted(NOISES)))
def test_shards_are_rows_of_the_whole(rows: int, cols: int, cut: int, kind: str) -> None:
    cut = min(cut, rows)
    draw = NOISES[kind]
    whole = draw(7, "a.weight", slice(0, rows), cols)
    parts = [draw(7, "a.weight", slice(0, cut), cols), draw(7, "a.weight", slice(cut, rows), cols)]
    assert torch.equal(torch.cat(parts), whole)


def test_noise_neither_reads_nor_moves_the_global_generator() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = normal(0, "layer", slice(0, 4), 4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(normal(0, "layer", slice(0, 4), 4), first)


@pytest.mark.parametrize("kind", sorted(NOISES))
def test_seed_and_name_each_change_everything(kind: str) -> None:
    part = slice(0, 50)
    base, seed, name = (NOISES[kind](s, n, part, 50) for s, n in ((0, "a"), (1, "a"), (0, "b")))
    for other in (seed, name):
        assert (base == other).float().mean() < 0.01
        assert abs(np.corrcoef(base.flatten(), other.flatten())[0, 1]) < 5 / math.sqrt(base.numel())
    assert layer_key(1, "1a") != layer_key(11, "a")


def test_uniform_noise_is_uniform() -> None:
    x = uniform(3, "layer", slice(0, 400), 1000).double().numpy().ravel()
    n = x.size
    assert abs(x.mean()) < 5 * math.sqrt(1 / 3 / n)
    assert abs(x.var() - 1 / 3) < 5 * math.sqrt(4 / 45 / n)
    assert 0.9999 < np.abs(x).max() < 1
    assert (x != 0).all()
    counts = np.histogram(x, bins=1000, range=(-1, 1))[0]
    assert 1e-5 < chi2.sf(((counts - n / 1000) ** 2).sum() / (n / 1000), 999) < 1 - 1e-5


def test_normal_noise_is_normal() -> None:
    x = normal(3, "layer", slice(0, 400), 1000).double().numpy().ravel()
    n = x.size
    assert abs(x.mean()) < 5 / math.sqrt(n)
    assert abs(x.var() - 1) < 5 * math.sqrt(2 / n)
    assert abs((x**3).mean()) < 5 * math.sqrt(15 / n)
    assert abs((x**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert 4 < np.abs(x).max() < 5.43
    assert kstest(x, "norm").pvalue > 1e-4
    beyond = 2 * NormalDist().cdf(-3) * n
    assert abs((np.abs(x) > 3).sum() - beyond) < 5 * math.sqrt(beyond)


@pytest.mark.parametrize("kind", sorted(NOISES))
def test_neighbours_are_independent(kind: str) -> None:
    """Along a row, down a column, and along both diagonals; of the values, their sizes and their signs."""
    x = NOISES[kind](11, "layer", slice(0, 400), 512).double().numpy()
    for view in (x, np.abs(x), np.sign(x)):
        for right, down in ((1, 0), (2, 0), (0, 1), (1, 1), (-1, 1), (32, 0)):
            shifted = np.roll(view, (down, right), axis=(0, 1))
            correlation = np.corrcoef(view.ravel(), shifted.ravel())[0, 1]
            assert abs(correlation) < 5 / math.sqrt(x.size), (right, down)


def test_every_bit_is_even_and_independent_of_every_other() -> None:
    z = bits_of(2, "layer", 200, 200).ravel()
    bits = (z[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    signs = bits.astype(float) * 2 - 1
    assert np.abs(signs.mean(0)).max() < 5 / math.sqrt(z.size)
    correlation = signs.T @ signs / z.size - np.eye(64)
    assert np.abs(correlation).max() < 6 / math.sqrt(z.size)
    flipped = bits_of(2, "layer", 200, 200).ravel()[1:] ^ z[:-1]
    changed = np.mean([int(each).bit_count() for each in flipped[:5000]])
    assert abs(changed - 32) < 5 * 4 / math.sqrt(5000)


def test_large_indices_do_not_overflow() -> None:
    rows = slice(2**33, 2**33 + 1)
    assert hash_rows(0, "a", rows, 4).numpy().view(np.uint64).tolist() == [
        [plain_hash(0, "a", 2**35 + c) for c in range(4)]
    ]


@pytest.mark.parametrize("rows", [slice(0, None), slice(-2, 3), slice(3, 2), slice(0, 4, 2)])
def test_rows_are_given_from_first_to_last(rows: slice) -> None:
    with pytest.raises(ConfigError, match=r"rows start to stop of the whole weight; got slice"):
        uniform(0, "a", rows, 4)
