"""Our own bytes, phase by phase, in units of the weight."""

import pytest

from resu.experiments.phase_memory import PHASES, STEPPED, dense_bytes, phase_bytes

SIZE = 64
WEIGHT = SIZE * SIZE * 4
BITS = 1 / 32


def in_weights(found: dict[str, object], what: str) -> dict[str, float]:
    return {name: getattr(value, what) / WEIGHT for name, value in found.items()}


def test_dense_training_holds_three_weights() -> None:
    found = dense_bytes(SIZE)
    assert found.steady == 3 * WEIGHT + 4  # and a count of steps
    assert found.steady <= found.peak < 3.01 * WEIGHT


@pytest.mark.parametrize(("layout", "held"), [("dense", 3 + BITS), ("signbit", 3)])
def test_all_phases_hold_the_same_at_rest(layout, held: float) -> None:
    found = phase_bytes(SIZE, 0.5, layout)
    assert tuple(found) == PHASES
    assert set(in_weights(found, "steady").values()) == {held}
    assert all(peak >= held for peak in in_weights(found, "peak").values())


@pytest.mark.parametrize("sparsity", [0.25, 0.75])
def test_the_compact_layout_holds_moments_of_what_it_writes(sparsity: float) -> None:
    found = phase_bytes(SIZE, sparsity, "compact")
    assert tuple(found) == tuple(name for name in PHASES if name != "SHADOW")
    steady = in_weights(found, "steady")
    assert steady["TRAIN"] == 1 + BITS + 2 * (1 - sparsity)
    assert steady["RESU"] == 1 + BITS + 2 * sparsity
    assert steady["JOINT"] == 1 + BITS + 2
    assert steady["enter RESU"] == steady["commit"] == steady["regrow"] == 1 + BITS


def test_only_what_is_asked_for_is_counted_and_the_rest_is_gone_through() -> None:
    whole = phase_bytes(SIZE, 0.5)
    part = phase_bytes(SIZE, 0.5, only=STEPPED)
    assert part == {name: whole[name] for name in STEPPED}


def test_temporaries_are_counted_at_the_peak() -> None:
    # This weight is small enough to be updated as a whole: temporaries as large as it must show.
    peak = in_weights(phase_bytes(SIZE, 0.5), "peak")
    assert peak["TRAIN"] > 3.5
