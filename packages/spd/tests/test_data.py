import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import spd
from spd.config.perf import PerfConfig
from spd.data import SparseFeatures, batches, extract_batch_data
from spd.errors import DataError
from spd.tokens import TokenStream


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


# --- rows of tokens ---------------------------------------------------------------------------------------------------

TOKENS = torch.arange(26, dtype=torch.int32).view(13, 2)


def _first(batches_: list[torch.Tensor]) -> Counter[int]:
    return Counter(int(row[0]) for batch in batches_ for row in batch)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_ranks_part_each_batch_of_one_process(world_size: int) -> None:
    alone = TokenStream(TOKENS, 12 // world_size * world_size, seed=3)
    ranks = [TokenStream(TOKENS, 12 // world_size, 3, rank, world_size) for rank in range(world_size)]
    for index in range(5):
        together = torch.cat([rank.batch(index) for rank in ranks])
        assert together.dtype == torch.int64
        assert torch.equal(together, alone.batch(index))


def test_a_pass_gives_each_row_once_and_the_next_in_another_order() -> None:
    stream = TokenStream(TOKENS, 4)
    assert stream.batches_per_epoch == 3
    passes = [[stream.batch(3 * epoch + i) for i in range(3)] for epoch in range(4)]
    for one in passes:
        seen = _first(one)
        assert set(seen.values()) == {1}
        assert len(seen) == 12  # of 13: the one that fills no batch is left out
        assert set(seen) <= set(range(0, 26, 2))
    assert len({tuple(torch.cat(one)[:, 0].tolist()) for one in passes}) == 4
    assert set().union(*(_first(one) for one in passes)) == set(range(0, 26, 2))  # another one each time


def test_a_pass_can_keep_its_order() -> None:
    stream = TokenStream(TOKENS, 4, shuffle_each_epoch=False)
    assert torch.equal(stream.batch(1), stream.batch(4))
    assert not torch.equal(stream.batch(1), TokenStream(TOKENS, 4, seed=1, shuffle_each_epoch=False).batch(1))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_run_that_is_resumed_sees_the_same_rows(workers: int) -> None:
    made = [TokenStream(TOKENS, 3, seed=2).batch(index) for index in range(12)]
    resumed = batches(TokenStream(TOKENS, 3, seed=2), "cpu", PerfConfig(num_workers=workers), start=6)
    assert all(torch.equal(next(resumed), expected) for expected in made[6:])
    resumed.close()


def test_too_few_rows_for_the_ranks() -> None:
    with pytest.raises(DataError, match="4 times 4 rows; there are 13"):
        TokenStream(TOKENS, 4, world_size=4)


def test_loading_draws_nothing_from_the_generator_that_everybody_shares() -> None:
    before = torch.get_rng_state()
    made = batches(SparseFeatures(3, 4, 0.5), "cpu", PerfConfig())
    next(made)
    made.close()
    assert torch.equal(before, torch.get_rng_state())


# --- moves to the device ----------------------------------------------------------------------------------------------

HOT = ("training.py", "run_spd.py", "eval.py", "eval", "losses.py", "metrics", "experiments")
MOVES = {
    ("run_spd.py", "target_model.to(device)"): "the frozen network, once, before it is decomposed",
    ("metrics/alive.py", "self._since.to(active.device)"): "counts of a checkpoint, at the first batch after it",
}
"""What may be moved on the hot path beside batches, and why."""


def _moves(source: str) -> Iterator[str]:
    """Calls that move something to a device, as they are written."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        named = [keyword.arg for keyword in node.keywords]
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            for part in ast.walk(argument):
                named += [
                    part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else None
                ]
                if isinstance(part, ast.Constant) and str(part.value).startswith(("cuda", "cpu")):
                    named.append("device")
        if node.func.attr == "cuda" or (node.func.attr == "to" and any(name and "device" in name for name in named)):
            yield ast.unparse(node)


def test_the_scan_sees_moves() -> None:
    moves = "x.to(device); x.cuda(); a.b.to(self.device, non_blocking=True); x.to('cuda:0'); x.to(device=y)"
    assert len(list(_moves(moves))) == 5
    assert not list(
        _moves("to_device(x, device); x.to(torch.float32); x.to(y.dtype); x.cpu(); torch.ones(2, device=d)")
    )


def test_batches_are_moved_in_one_place_only() -> None:
    """Each move elsewhere would be a copy that is waited for, whatever the switches say."""
    root = Path(spd.__file__).parent
    files = [file for name in HOT for file in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))]
    found = {
        (file.relative_to(root).as_posix(), move)
        for file in files
        if file.exists()
        for move in _moves(file.read_text(encoding="utf-8"))
    }
    assert len(files) > 20
    assert found == set(MOVES)
    assert list(_moves((root / "data.py").read_text(encoding="utf-8"))) == [
        "tensor.to(device, non_blocking=non_blocking)"
    ]
