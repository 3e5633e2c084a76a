import pytest
import torch

from spd.config.perf import PerfConfig
from spd.data import SparseFeatures, batches, extract_batch_data
from spd.errors import DataError


def test_a_batch_is_a_function_of_seed_rank_and_index() -> None:
    one = SparseFeatures(5, 16, 0.3, seed=1)
    assert torch.equal(one.batch(7), SparseFeatures(5, 16, 0.3, seed=1).batch(7))
    others = [
        one.batch(8),
        SparseFeatures(5, 16, 0.3, seed=2).batch(7),
        SparseFeatures(5, 16, 0.3, seed=1, rank=1).batch(7),
    ]
    assert all(not torch.equal(one.batch(7), other) for other in others)


def test_features_are_active_by_chance_and_uniform() -> None:
    x = SparseFeatures(4, 50_000, 0.05, value_range=(-1.0, 1.0)).batch(0)
    active = x != 0
    assert active.float().mean().item() == pytest.approx(0.05, abs=0.002)
    assert x[active].mean().item() == pytest.approx(0, abs=0.03)
    assert x[active].var().item() == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(("active", "count"), [("exactly_one_active", 1), ("exactly_three_active", 3)])
def test_exactly_so_many_are_active(active: str, count: int) -> None:
    x = SparseFeatures(6, 6000, 0.0, active=active).batch(0)
    assert ((x != 0).sum(1) == count).all()
    assert (x != 0).float().mean(0).tolist() == pytest.approx([count / 6] * 6, abs=0.03)


def test_synchronised_features_are_active_together() -> None:
    x = SparseFeatures(5, 5000, 0.2, synced_inputs=((0, 3), (1, 2))).batch(0) != 0
    assert torch.equal(x[:, 0], x[:, 3])
    assert torch.equal(x[:, 1], x[:, 2])
    assert not torch.equal(x[:, 0], x[:, 4])
    assert x.float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("prefetch", [False, True])
def test_workers_and_prefetching_change_no_batch(workers: int, prefetch: bool) -> None:
    stream = SparseFeatures(3, 4, 0.5)
    perf = PerfConfig(num_workers=workers, device_prefetch=prefetch, pin_memory=True, non_blocking=True)
    made = batches(stream, "cpu", perf, start=5)
    assert all(torch.equal(next(made), stream.batch(5 + i)) for i in range(6))
    made.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feature_probability": 1.5}, r"got 1\.5"),
        ({"feature_probability": 0.1, "active": "exactly_four_active"}, "there are 3"),
        ({"feature_probability": 0.1, "synced_inputs": ((0, 1), (1, 2))}, "disjoint"),
        ({"feature_probability": 0.1, "synced_inputs": ((0, 1),), "active": "exactly_one_active"}, "by chance"),
    ],
)
def test_data_that_cannot_be_made(settings: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SparseFeatures(3, 4, **settings)  # type: ignore[arg-type]


def test_the_input_is_found_in_whatever_a_loader_gives() -> None:
    x = torch.ones(2)
    for item in (x, (x, torch.zeros(2)), [x], {"input_ids": x}):
        assert extract_batch_data(item) is x
    assert extract_batch_data({"tokens": x}, "tokens") is x
    with pytest.raises(DataError, match="this one has tokens"):
        extract_batch_data({"tokens": x})
    with pytest.raises(DataError, match="got a str"):
        extract_batch_data("text")
