"""Update effectiveness against sums in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.core.graph import Topology, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.effectiveness import UpdateMonitor, circular_change
from neurograph.optim import DiscreteSGD


@given(bins=st.integers(2, 600), before=st.integers(0, 599), step=st.integers(-600, 600))
def test_changes_go_the_short_way_round(bins: int, before: int, step: int) -> None:
    old = torch.tensor(before % bins)
    new = (old + step).remainder(bins)
    change = int(circular_change(old, new, bins))
    assert abs(change) == min((int(new) - int(old)) % bins, (int(old) - int(new)) % bins)
    assert (int(old) + change) % bins == int(new)


def test_changes_that_do_not_wrap_are_differences() -> None:
    assert circular_change(torch.tensor([0, 9]), torch.tensor([9, 0]), 10, wraps=False).tolist() == [9, -9]


def _watched(updates: np.ndarray) -> UpdateMonitor:
    """Plain descent with residual carry under given updates (steps × indices), as a network's phases."""
    topology = Topology.from_frame(layered_graph([1, updates.shape[1] - 1]))
    store = NodeStore.random(topology, 1, HighResolutionLookupTables(512, 1024, dtype=torch.float64))
    optimizer, monitor = DiscreteSGD(store, 1.0, 1.0), UpdateMonitor(store.tables)
    for update in updates:
        wanted = torch.from_numpy(update)[:, None]
        before = (store.phase.clone(), store.mag.clone())
        optimizer.step(-wanted, torch.zeros_like(wanted))
        monitor.record(before, (store.phase, store.mag), (wanted, torch.zeros_like(wanted)))
    return monitor


def test_updates_that_keep_their_sign_are_fully_effective() -> None:
    updates = np.random.default_rng(0).uniform(0.0, 0.2, size=(400, 20))
    found = _watched(updates).effectiveness()
    assert found.phase == pytest.approx(1.0, abs=0.02)
    assert found.phase_cosine == pytest.approx(1.0, abs=1e-3)
    assert (found.mag, found.mag_cosine, found.steps) == (None, None, 400)


def test_updates_that_cancel_are_not() -> None:
    updates = np.where(np.arange(400)[:, None] % 2, 0.2, -0.2) * np.ones((1, 20))
    assert _watched(updates).effectiveness().phase == 0.0


def test_steps_that_overshoot_are_seen() -> None:
    """The original's: a whole step for each hundredth."""
    monitor = UpdateMonitor(HighResolutionLookupTables(64, 64))
    index = torch.zeros(3, 2, dtype=torch.long)
    for step in range(10):
        before, after = (index + step).remainder(64), (index + step + 1).remainder(64)
        monitor.record((before, index), (after, index), (torch.full((3, 2), 0.01), torch.zeros(3, 2)))
    assert monitor.effectiveness().phase == pytest.approx(100.0)


def test_figures_are_their_formulas() -> None:
    """Rounding with carry is done over in NumPy, on a line and not on the circle."""
    updates = np.random.default_rng(3).normal(0.4, 1.5, size=(50, 7))
    residual, moves = np.zeros(7), []
    for update in updates:
        wanted = residual + update
        moves.append(np.round(wanted))
        residual = wanted - moves[-1]
    net, asked = np.sum(moves, axis=0), updates.sum(axis=0)
    found = _watched(updates).effectiveness()
    assert found.phase == pytest.approx(np.abs(moves).sum() / np.abs(updates).sum(), rel=1e-12)
    assert found.phase_cosine == pytest.approx(net @ asked / np.linalg.norm(net) / np.linalg.norm(asked), rel=1e-12)
