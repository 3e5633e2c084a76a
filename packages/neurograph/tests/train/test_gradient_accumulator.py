import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.errors import CheckpointError, ConfigError
from neurograph.train.gradient_accumulator import AdaptiveAccumulator, GradientAccumulator


def _stream(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(n=st.integers(1, 9), count=st.integers(0, 40), scaling=st.sampled_from(["mean", "sqrt", "linear"]))
def test_each_gradient_is_applied_once_and_at_exactly_every_nth(n: int, count: int, scaling: str) -> None:
    accumulator, stream, due = GradientAccumulator(n, scaling), _stream(count), []
    for step, (phase, mag) in enumerate(stream, start=1):
        found = accumulator.add(phase, mag)
        assert (found is not None) == (step % n == 0)
        due += [] if found is None else [found]
    rest = accumulator.flush()
    assert (rest is not None) == (count % n != 0)
    due += [] if rest is None else [rest]
    assert sum(one.size for one in due) == count == accumulator.total
    assert len(due) == accumulator.applied == math.ceil(count / n)
    assert accumulator.flush() is None
    for place, one in enumerate(due):
        part = stream[place * n : place * n + n].numpy()
        factor = {"mean": 1, "sqrt": math.sqrt(len(part)), "linear": len(part)}[scaling]
        np.testing.assert_allclose(one.phase.numpy(), part[:, 0].mean(0) * factor, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(one.mag.numpy(), part[:, 1].mean(0) * factor, rtol=1e-12, atol=1e-12)


def test_linear_scaling_loses_nothing() -> None:
    accumulator, stream = GradientAccumulator(8, "linear"), _stream(21)
    due = [accumulator.add(phase, mag) for phase, mag in stream] + [accumulator.flush()]
    total = sum(one.phase for one in due if one is not None)
    torch.testing.assert_close(total, stream[:, 0].sum(0))


def test_rows_are_added_without_losing_those_that_come_twice() -> None:
    accumulator = GradientAccumulator(2, "linear")
    accumulator.reserve(torch.zeros(4, 2))
    accumulator.add_rows(torch.tensor([1, 1, 3]), torch.ones(3, 2), 2 * torch.ones(3, 2))
    assert accumulator.close() is None
    accumulator.add_rows(torch.tensor([0]), torch.ones(1, 2), torch.zeros(1, 2))
    due = accumulator.close()
    assert due is not None
    assert due.phase[:, 0].tolist() == [1, 2, 0, 1]
    assert due.mag[:, 0].tolist() == [0, 4, 0, 2]


def test_rows_of_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="reserve"):
        GradientAccumulator().add_rows(torch.tensor([0]), torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ConfigError, match="reserve"):
        GradientAccumulator().close()


def test_what_is_held_does_not_grow() -> None:
    accumulator = GradientAccumulator(100)
    sizes = set()
    for phase, mag in _stream(50):
        accumulator.add(phase, mag)
        sizes.add(accumulator.nbytes)
    assert sizes == {2 * 3 * 4 * 8}


def test_a_gradient_that_is_changed_afterwards_stays_as_it_was_added() -> None:
    accumulator, phase = GradientAccumulator(2, "mean"), torch.ones(1, 1)
    accumulator.add(phase, phase)
    phase.fill_(100)
    due = accumulator.add(torch.ones(1, 1), torch.ones(1, 1))
    assert due is not None
    assert float(due.phase) == 1.0
    accumulator.add(torch.zeros(1, 1), torch.zeros(1, 1))
    assert float(due.phase) == 1.0


@pytest.mark.parametrize("kind", [GradientAccumulator, AdaptiveAccumulator])
def test_a_saved_accumulator_goes_on_as_if_nothing_had_happened(kind: type[GradientAccumulator]) -> None:
    stream, whole, first, second = _stream(60), kind(5), kind(5), kind(5)
    expected = [whole.add(*pair) for pair in stream]
    found = [first.add(*pair) for pair in stream[:33]]
    second.load_state_dict(*first.state_dict())
    found += [second.add(*pair) for pair in stream[33:]]
    assert [one is None for one in found] == [one is None for one in expected]
    for one, other in zip(found, expected, strict=True):
        if one is not None and other is not None:
            assert torch.equal(one.phase, other.phase)
    assert second.n == whole.n


def test_a_state_without_its_sums_is_refused() -> None:
    accumulator = GradientAccumulator(5)
    accumulator.add(torch.ones(1, 1), torch.ones(1, 1))
    _, numbers = accumulator.state_dict()
    with pytest.raises(CheckpointError, match="1 gradients were collected"):
        GradientAccumulator(5).load_state_dict({}, numbers)


def test_small_gradients_are_collected_for_longer_and_large_ones_not() -> None:
    accumulator = AdaptiveAccumulator(8)
    for _ in range(20 * 12):
        accumulator.add(torch.full((1, 1), 1e-3), torch.zeros(1, 1))
    assert accumulator.n == 16
    for _ in range(20 * 20):
        accumulator.add(torch.full((1, 1), 1.0), torch.zeros(1, 1))
    assert accumulator.n == 4


def test_the_adaptive_one_loses_nothing_either() -> None:
    accumulator, stream = AdaptiveAccumulator(8, "linear"), _stream(173) * 0.01
    due = [accumulator.add(phase, mag) for phase, mag in stream] + [accumulator.flush()]
    torch.testing.assert_close(sum(one.mag for one in due if one is not None), stream[:, 1].sum(0))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="got n = 0"):
        GradientAccumulator(0)
    with pytest.raises(ConfigError, match="got 'cubic'"):
        GradientAccumulator(4, "cubic")
    with pytest.raises(ConfigError, match="bounds 4 to 16"):
        AdaptiveAccumulator(20)
    for window in (0, 21):
        with pytest.raises(ConfigError, match=f"window = {window}"):
            AdaptiveAccumulator(8, window=window)


def test_gradients_of_another_shape_are_refused() -> None:
    accumulator = GradientAccumulator(4)
    accumulator.add(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ConfigError, match=r"got \(1, 2\) after \(3, 2\)"):
        accumulator.add(torch.ones(1, 2), torch.ones(1, 2))


def test_a_saved_accumulator_keeps_its_scaling_and_nothing_where_nothing_is_collected() -> None:
    first, second = GradientAccumulator(2, "linear"), GradientAccumulator(3)
    first.add(torch.ones(1, 1), torch.ones(1, 1))
    second.load_state_dict(*first.state_dict())
    due = second.add(torch.ones(1, 1), torch.ones(1, 1))
    assert due is not None
    assert float(due.phase) == 2.0  # a sum; the mean times √2 is 1.41
    assert second.state_dict()[0] == {}
    second = GradientAccumulator(3)
    second.reserve(torch.zeros(2, 1))
    second.add_rows(torch.tensor([1]), torch.ones(1, 1), torch.zeros(1, 1))
    assert second.count == 0
    assert second.state_dict()[0]["phase"].flatten().tolist() == [0, 1]
    with pytest.raises(CheckpointError, match="lacks n, scaling, applied"):
        second.load_state_dict({}, {"count": 0, "total": 3})


def test_rows_leave_the_adaptive_n_as_it_is() -> None:
    accumulator = AdaptiveAccumulator(8)
    accumulator.reserve(torch.zeros(2, 1))
    for _ in range(60):
        accumulator.add_rows(torch.tensor([0]), torch.ones(1, 1), torch.ones(1, 1))
        accumulator.close()
    assert accumulator.n == 8


def test_independent_noise_keeps_its_size_under_the_root_of_n() -> None:
    """The variance of √N times a mean of N is that of one; of the mean it is 1 / N, of the sum N."""
    stream = torch.randn(4000, 2, 1, 50, generator=torch.Generator().manual_seed(0))
    for scaling, variance in (("sqrt", 1.0), ("mean", 1 / 16), ("linear", 16.0)):
        accumulator = GradientAccumulator(16, scaling)
        due = [one for phase, mag in stream if (one := accumulator.add(phase, mag)) is not None]
        assert len(due) == 250
        assert float(torch.stack([one.phase for one in due]).var()) == pytest.approx(variance, rel=0.05)
