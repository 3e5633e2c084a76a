"""Bytes are counted right: each storage once, wherever it hangs, and the peak between two lines of code."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from resu.experiments.memory import LiveStorages, Part, live_bytes, parts_table, published_tally

FLOAT = 4


def test_the_tally_is_that_of_the_note() -> None:
    tally = {form: sum(part.bytes for part in parts) for form, parts in published_tally(64).items()}
    assert tally == {"dense": 192, "RESU before": 320, "RESU after": 192}
    states = [part.bytes for part in published_tally(64)["RESU before"] if "state" in part.what]
    assert states == [128, 96]


def test_the_tally_at_any_sparsity() -> None:
    for form, factor in (("RESU before", lambda s: 3 + 4 * s), ("RESU after", lambda s: 1 + 4 * s)):
        for sparsity in (0.1, 0.5, 0.9):
            parts = published_tally(1000.0, sparsity)[form]
            assert sum(part.bytes for part in parts) == pytest.approx(1000 * factor(sparsity))


def test_a_table_adds_up_and_leaves_out_what_is_not_there() -> None:
    table = parts_table({"a": [Part("W", 2 << 20), Part("W", 1 << 20)], "b": [Part("mask", 1 << 19)]}).splitlines()
    assert [line.split() for line in table] == [["a", "b"], ["W", "3.0", "–"], ["mask", "–", "0.5"],
                                                ["total", "3.0", "0.5"]]  # fmt: skip
    assert len({len(line) for line in table}) == 1


# --- at rest ----------------------------------------------------------------------------------------------------------


def test_a_storage_counts_once_however_it_is_reached() -> None:
    base = torch.zeros(10, 10)
    views = [base[:3], base.T, nn.Parameter(base)]
    assert live_bytes(base, *views, {"again": (base,)}) == 100 * FLOAT


def test_a_view_holds_all_of_its_storage() -> None:
    assert live_bytes(torch.zeros(1000)[:1]) == 1000 * FLOAT


def test_everything_that_training_holds_is_reached() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 6)).sum().backward()
    optimizer.step()
    weights = 30 + 5 + 5 + 5
    buffers = (5 + 5) * FLOAT + 8  # two running statistics, and a count of batches as int64
    steps = 4 * FLOAT  # Adam counts the steps of each of four parameters
    assert live_bytes(model) == weights * FLOAT + buffers
    assert live_bytes(model, optimizer) == 3 * weights * FLOAT + buffers + steps
    assert live_bytes(model, optimizer, gradients=True) == 4 * weights * FLOAT + buffers + steps


class Slotted:
    __slots__ = ("kept", "unset")

    def __init__(self) -> None:
        self.kept = torch.zeros(3, dtype=torch.int64)


def test_plain_attributes_slots_and_what_hangs_on_a_parameter_are_reached() -> None:
    weight = nn.Parameter(torch.zeros(4))
    weight.mask = SimpleNamespace(bits=torch.zeros(2, dtype=torch.int32), of=weight)  # type: ignore[attr-defined]
    assert live_bytes([weight]) == 4 * FLOAT + 8
    assert live_bytes(Slotted()) == 24
    assert live_bytes({torch.zeros(2): None}, {frozenset({1})}, None, "text", len) == 8


def test_sparse_tensors_count_indices_and_values() -> None:
    assert live_bytes(torch.eye(3).to_sparse()) == 3 * FLOAT + 2 * 3 * 8
    rows, columns, values = torch.tensor([0, 1, 2]), torch.tensor([0, 1]), torch.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the layout a beta feature once a process
        csr = torch.sparse_csr_tensor(rows, columns, values, (2, 2))
    assert live_bytes(csr) == 3 * 8 + 2 * 8 + 2 * FLOAT


# --- at the peak ------------------------------------------------------------------------------------------------------


def test_a_temporary_counts_while_it_lives() -> None:
    weight = torch.zeros(1000)
    with LiveStorages(weight) as live:
        kept = weight + 1
        (kept + 1).sum()
    # Weight, `kept` and the temporary, and beside them the sum.
    assert live.peak == 3 * 1000 * FLOAT + FLOAT
    assert live.now == 2 * 1000 * FLOAT


def test_what_died_before_an_operation_is_not_counted_beside_its_result() -> None:
    with LiveStorages() as live:
        for _ in range(5):
            made = torch.ones(100)
            del made
    assert live.peak == 100 * FLOAT
    assert live.now == 0


def test_nothing_alive_is_nothing() -> None:
    with LiveStorages() as live:
        pass
    assert (live.peak, live.now) == (0, 0)


def test_in_place_work_and_views_make_no_bytes() -> None:
    weight = torch.zeros(100, 10)
    with LiveStorages(weight) as live:
        for row in weight.split(10):
            row.add_(1).view(-1)[::2].mul_(2)
    assert live.peak == 1000 * FLOAT


def test_slices_make_only_their_own() -> None:
    weight = torch.ones(100, 10)
    with LiveStorages(weight) as live:
        for row in weight.split(10):
            row.copy_(row * 2)
    assert live.peak == (1000 + 100) * FLOAT


def test_gradients_are_left_out_from_the_beginning() -> None:
    layer = nn.Linear(50, 40, bias=False)
    x = torch.ones(1, 50)
    with LiveStorages(layer) as live:
        layer(x).sum().backward()
        live.exclude(x, layer.weight.grad)
    assert 2000 * FLOAT <= live.peak < 2500 * FLOAT
    with LiveStorages(layer) as live:
        live.exclude(layer.weight.grad)
        layer.weight.grad.mul_(2)
        layer.weight.grad.view(-1)
    assert live.peak == 2000 * FLOAT


@pytest.mark.parametrize("fused", [False, True])
def test_a_dense_adamw_holds_three_weights_and_no_more(fused: bool) -> None:
    layer = nn.Linear(64, 64, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=fused)
    layer(torch.ones(1, 64)).sum().backward()
    with LiveStorages(layer, optimizer) as live:
        live.exclude(layer.weight.grad)
        optimizer.step()
    weight = 64 * 64 * FLOAT
    assert live.now == 3 * weight + FLOAT  # and one count of steps
    # Without fusion the step makes a denominator as large as the weight; fused, it makes nothing.
    assert live.peak - live.now < weight / 100 if fused else live.peak >= live.now + weight


def test_a_resized_storage_is_counted_anew() -> None:
    grown = torch.zeros(10)
    with LiveStorages(grown) as live:
        grown.resize_(100)
    assert live.now == 100 * FLOAT
