"""Codes are undone by their readers, and are as short as the formulas say."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurograph.bit_codes import (
    BitReader,
    fixed_bits,
    packed,
    rank_of,
    rice_bits,
    rice_parameter,
    subset_of,
    width_of,
)

numbers = st.lists(st.integers(0, 1 << 90), max_size=20)


def test_widths_tell_choices_apart() -> None:
    assert [width_of(n) for n in (1, 2, 3, 4, 5, 1024, 1025)] == [0, 1, 2, 2, 3, 10, 11]


@given(numbers, st.lists(st.integers(0, 300), max_size=20), st.integers(0, 12))
def test_what_was_written_is_read_back(wide: list[int], narrow: list[int], k: int) -> None:
    width = max([0, *wide]).bit_length()
    bits = fixed_bits(wide, width) + rice_bits(narrow, k) + fixed_bits([1], 1)
    content = packed(bits)
    assert len(content) == -(-len(bits) // 8)
    reader = BitReader(content)
    assert reader.fixed(len(wide), width) == wide
    assert reader.rice(len(narrow), k) == narrow
    if width or narrow:
        with pytest.raises(ValueError, match="belong to nothing"):
            BitReader(content).end()
    assert reader.fixed(1, 1) == [1]
    reader.end()
    with pytest.raises(ValueError, match="belong to nothing"):
        BitReader(np.zeros(1, dtype=np.uint8)).end()


def test_golomb_rice_codes_by_hand() -> None:
    # 0, 3, 4 and 9 with the two lowest bits as they are: 0 00, 0 11, 10 00, 110 01.
    assert rice_bits([0, 3, 4, 9], 2) == "000" + "011" + "1000" + "11001"
    assert rice_bits([0, 2], 0) == "0" + "110"


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=20))
def test_the_parameter_gives_the_shortest_code(values: list[int]) -> None:
    k = rice_parameter(values)
    assert all(
        sum(value >> k for value in values) + (1 + k) * len(values)
        <= sum(value >> other for value in values) + (1 + other) * len(values)
        for other in range(45)
    )


def test_sorted_numbers_take_about_the_bits_that_their_order_does_not_carry() -> None:
    """256 of 2⁴⁹ numbers in order: log2(2⁴⁹²⁵⁶ / 256!) bits, and a few per cent of a bit for each more."""
    values = np.sort(np.random.default_rng(0).integers(1 << 49, size=256))
    gaps = np.diff(values, prepend=0).tolist()
    least = 256 * 49 - sum(np.log2(n) for n in range(1, 257))
    assert least < len(rice_bits(gaps, rice_parameter(gaps))) < least + 0.2 * 256


@pytest.mark.parametrize("size", [0, 1, 2, 3, 6, 7])
def test_ranks_count_the_sets_in_the_order_of_their_largest_members(size: int) -> None:
    sets = sorted(combinations(range(7), size), key=lambda members: members[::-1])
    assert [rank_of(members) for members in sets] == list(range(comb(7, size)))
    assert [tuple(subset_of(rank, size, 7)) for rank in range(len(sets))] == sets


@given(st.sets(st.integers(0, 999), max_size=60))
def test_large_sets_come_back_from_their_ranks(members: set[int]) -> None:
    rising = sorted(members)
    assert subset_of(rank_of(rising), len(rising), 1000) == rising


def test_what_is_not_there_is_refused() -> None:
    for rank, size, window in ((-1, 2, 4), (6, 2, 4), (0, 5, 4), (1, 0, 0)):
        with pytest.raises(ValueError, match="none has the rank"):
            subset_of(rank, size, window)
    reader = BitReader(packed("1" * 16))
    with pytest.raises(ValueError, match="17 are needed and 16 are there"):
        reader.fixed(1, 17)
    with pytest.raises(ValueError, match="substring not found"):
        reader.rice(1, 3)
    with pytest.raises(ValueError, match="are needed"):
        reader.fixed(-1, 2)
