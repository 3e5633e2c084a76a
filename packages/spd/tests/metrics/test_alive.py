"""The tracker against a loop over components and batches."""

import pytest
import torch

from spd.errors import ConfigError
from spd.metrics.alive import AlivenessTracker

SITES = {"a": 3, "b.c": 5}


def _stream(n: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        # Rarely above 0.8 anywhere, and one number that is exactly the threshold.
        {"a": torch.rand(4, 3, generator=generator), "b.c": torch.rand(2, 3, 5, generator=generator)}
        for _ in range(n)
    ]


def _by_hand(stream: list[dict[str, torch.Tensor]], threshold: float, limit: int) -> dict[str, int]:
    alive = {}
    for site, c in SITES.items():
        alive[site] = 0
        for component in range(c):
            since = 0
            for batch in stream:
                active = any(value > threshold for value in batch[site][..., component].flatten().tolist())
                since = 0 if active else since + 1
            alive[site] += since < limit
    return alive


@pytest.mark.parametrize(("until_dead", "per_batch", "limit"), [(100, 25, 4), (99, 25, 3), (25, 25, 1), (10, 25, 1)])
def test_counts_are_those_of_a_loop(until_dead: int, per_batch: int, limit: int) -> None:
    tracker = AlivenessTracker(SITES, until_dead, 0.9, per_batch)
    stream = _stream(12)
    seen = set()
    for n in range(1, 13):
        tracker.watch(stream[n - 1])
        found = {site: count.item() for site, count in tracker.n_alive().items()}
        assert found == _by_hand(stream[:n], 0.9, limit)
        seen.add(tuple(found.values()))
    assert len(seen) > 1  # the stream does make components die and come back


def test_the_threshold_itself_is_not_active() -> None:
    tracker = AlivenessTracker({"a": 2}, 1, 0.5, 1)
    tracker.watch({"a": torch.tensor([[0.5, 0.500001]])})
    assert tracker.since()["a"].tolist() == [1, 0]


def test_a_component_that_one_rank_needs_is_alive() -> None:
    here, there = (AlivenessTracker({"a": 3}, 1, 0.0, 1) for _ in range(2))
    here.watch({"a": torch.tensor([[1.0, 0.0, 0.0]])})
    there.watch({"a": torch.tensor([[0.0, 1.0, 0.0]])})
    here.reduce = lambda counts: torch.minimum(counts, there._since)
    assert here.n_alive()["a"].item() == 2
    here.watch({"a": torch.zeros(1, 3)})
    assert here._since.tolist() == [1, 2, 2]  # the other's counts are not taken for our own


def test_a_tracker_goes_on_where_another_stopped() -> None:
    stream = _stream(8)
    whole, first = AlivenessTracker(SITES, 75, 0.9, 25), AlivenessTracker(SITES, 75, 0.9, 25)
    for batch in stream[:5]:
        whole.watch(batch)
        first.watch(batch)
    second = AlivenessTracker(SITES, 75, 0.9, 25)
    second.load_state_dict(first.state_dict())
    for batch in stream[5:]:
        whole.watch(batch)
        second.watch(batch)
    assert torch.equal(whole._since, second._since)
    assert not torch.equal(first._since, second._since)
    with pytest.raises(ConfigError, match="one for each component, 2; the saved ones are 8"):
        AlivenessTracker({"a": 2}, 1, 0.0, 1).load_state_dict(first.state_dict())


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_examples_until_dead = 0"):
        AlivenessTracker(SITES, 0, 0.0, 1)
    with pytest.raises(ConfigError, match=r"all tracked sites are watched, a, b\.c; got a"):
        AlivenessTracker(SITES, 1, 0.0, 1).watch({"a": torch.zeros(1, 3)})
