import pytest

from dredge.bench.hash import SIZES, HashRow, measure_hashes
from dredge.errors import ConfigError


def test_a_row_is_worked_out_by_hand() -> None:
    row = HashRow(size=20, plain=3.0, same=0.1, fresh=0.5, miss=4.0)
    assert (row.gain, row.loss) == (6.0, pytest.approx(4 / 3))
    # h · 0.5 + (1 − h) · 4 = 3
    assert row.break_even == pytest.approx(2 / 7)
    assert HashRow(20, 3.0, 0.1, 0.5, 2.9).break_even == 0


def test_each_size_is_measured() -> None:
    rows = measure_hashes(SIZES[:4], turns=1)
    assert [row.size for row in rows] == [20, 39, 100, 1000]
    assert all(min(row.plain, row.same, row.fresh, row.miss) > 0 for row in rows)


@pytest.mark.parametrize(("sizes", "turns"), [([20, 19], 1), ([20], 0)])
def test_texts_that_could_not_differ_are_refused(sizes: list[int], turns: int) -> None:
    with pytest.raises(ConfigError, match=f"got {min(sizes)} and {turns}"):
        measure_hashes(sizes, turns=turns)
