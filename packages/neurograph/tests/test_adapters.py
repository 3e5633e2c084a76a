import math

import numpy as np
import pytest
import torch

from neurograph.adapters import FixedProjection, IntensityAdapter, LinearAdapter, indices_of
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, layered_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.errors import ConfigError, DataError


def test_intensities_are_places_in_a_range() -> None:
    found = IntensityAdapter(4, -1, 3)(torch.tensor([[-2.0, -1.0, 1.0, 9.0]]))
    assert found.tolist() == [[0.0, 0.0, 0.5, 1.0]]


def test_the_projection_is_its_formula() -> None:
    adapter, x = FixedProjection(20, 6, gain=1.5, seed=3), torch.rand(4, 20)
    signs = adapter.signs.numpy().astype(float)
    assert set(np.unique(signs)) == {-1.0, 1.0}
    expected = (1 + np.tanh(1.5 * (2 * x.double().numpy() - 1) @ signs / np.sqrt(20))) / 2
    np.testing.assert_allclose(adapter(x).numpy(), expected, rtol=1e-5)


def test_the_projection_repeats_with_its_seed_and_has_nothing_to_train() -> None:
    assert torch.equal(FixedProjection(9, 5, seed=1).signs, FixedProjection(9, 5, seed=1).signs)
    assert not torch.equal(FixedProjection(9, 5, seed=1).signs, FixedProjection(9, 5, seed=2).signs)
    assert not FixedProjection(9, 5).signs.is_floating_point()


def test_the_projection_keeps_neighbours() -> None:
    """A sample stays nearer to a slightly changed copy of itself than to any other."""
    x = torch.rand(50, 784, generator=torch.Generator().manual_seed(0))
    near = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    adapter = FixedProjection(784, 64)
    assert torch.cdist(adapter(near), adapter(x)).argmin(dim=1).tolist() == list(range(50))


def test_the_linear_adapter_is_trained_through_the_network() -> None:
    topology = Topology.from_frame(layered_graph([4, 6, 2], cardinality=3))
    tables = HighResolutionLookupTables(64, 64, dtype=torch.float64)
    engine = ForwardEngine(topology, tables, snap=False)
    store = NodeStore.random(topology, 3, tables)
    adapter = LinearAdapter(10, 4).double()
    x = torch.rand(5, 10, dtype=torch.float64)

    def loss() -> torch.Tensor:
        return engine(adapter(x), store).readout.square().sum()

    loss().backward()
    assert adapter.weight.grad is not None
    slope, step = float(adapter.weight.grad[1, 2]), 1e-6
    with torch.no_grad():
        adapter.weight[1, 2] += step
        above = float(loss())
        adapter.weight[1, 2] -= 2 * step
        below = float(loss())
    assert slope == pytest.approx((above - below) / (2 * step), rel=1e-5)
    assert abs(slope) > 1e-6


def test_the_linear_adapter_says_what_is_float() -> None:
    adapter = LinearAdapter(10, 4)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 44
    assert all(parameter.is_floating_point() for parameter in adapter.parameters())


@pytest.mark.parametrize("adapter", [IntensityAdapter(4), FixedProjection(4, 2), LinearAdapter(4, 2)])
def test_another_width_is_refused(adapter: IntensityAdapter) -> None:
    with pytest.raises(DataError, match=r"4 features that the adapter was built for; got \(1, 5\)"):
        adapter(torch.rand(1, 5))


def test_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 features"):
        IntensityAdapter(0)
    with pytest.raises(ConfigError, match="0 nodes"):
        FixedProjection(4, 0)
    with pytest.raises(ConfigError, match="high is above low"):
        IntensityAdapter(4, 1, 1)
    with pytest.raises(ConfigError, match="both finite"):
        IntensityAdapter(4, 0, math.inf)
    for gain in (0.0, math.nan):
        with pytest.raises(ConfigError, match="a gain is a positive number"):
            FixedProjection(4, 2, gain=gain)


def test_the_projection_keeps_inner_products_on_average() -> None:
    """Over 2000 draws of signs, within four standard errors: those of centred samples times nodes / features."""
    x = torch.rand(2, 12, generator=torch.Generator().manual_seed(1))
    centred = 2 * x.double().numpy() - 1
    drawn = []
    for seed in range(2000):
        u = centred @ FixedProjection(12, 3, seed=seed).signs.numpy() / np.sqrt(12)
        drawn.append(u[0] @ u[1])
    expected = centred[0] @ centred[1] * 3 / 12
    assert abs(np.mean(drawn) - expected) < 4 * np.std(drawn) / np.sqrt(len(drawn))


def test_indices_of_numbers_stay_in_the_tables() -> None:
    tables = HighResolutionLookupTables(32, 512)
    values = torch.linspace(-1.5, 1.5, 101)
    phase, mag = indices_of(values, tables)
    part = np.clip((values.double().numpy() + 1) / 2, 0, 1)
    np.testing.assert_array_equal(phase.numpy(), np.minimum(np.floor(part * 32), 31))
    np.testing.assert_array_equal(mag.numpy(), np.minimum(np.floor(part * 512), 511))
