import pytest
import torch
from torch import Tensor

from spd.errors import ConfigError, SamplingError
from spd.models.masks import FOLDED, ComponentsMaskInfo, Interpolated, mask_of, stochastic_mask_infos
from spd.routing import route_at_random, route_everywhere, route_uniform_k
from spd.sampling import InjectedSampler, SourceSampler, rank_seed


def test_a_sampler_has_a_stream_of_its_own() -> None:
    one, other = SourceSampler(5), SourceSampler(5)
    torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(one.uniform((4, 2)), other.uniform((4, 2)))
    state = one.state_dict()
    drawn = one.sources((6,), "binomial")
    one.load_state_dict(state)
    assert torch.equal(one.sources((6,), "binomial"), drawn)


def test_ranks_have_streams_of_their_own() -> None:
    seeds = [rank_seed(seed, rank, 4) for seed in range(10) for rank in range(4)]
    assert len(set(seeds)) == 40


@pytest.mark.parametrize("sampling", ["continuous", "binomial"])
def test_sources_are_uniform_or_a_fair_coin(sampling: str) -> None:
    r = SourceSampler(0).sources((40_000,), sampling)
    assert r.mean().item() == pytest.approx(0.5, abs=0.01)
    assert r.var().item() == pytest.approx(1 / 12 if sampling == "continuous" else 1 / 4, abs=0.005)
    assert (set(r.tolist()) == {0.0, 1.0}) is (sampling == "binomial")


def test_an_injected_sampler_gives_what_it_was_given_and_no_more() -> None:
    u = torch.tensor([0.0, 0.3, 0.999])
    sampler = InjectedSampler([u, u])
    assert sampler.uniform((3,)) is u
    assert sampler.integers(3, (3,)).tolist() == [0, 0, 2]
    with pytest.raises(SamplingError, match="2 were given"):
        sampler.uniform((3,))
    with pytest.raises(SamplingError, match=r"shape \(2,\); \(3,\) was injected"):
        InjectedSampler([u]).uniform((2,))


def test_a_mask_is_between_the_importance_and_one() -> None:
    g, r = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([0.5, 0.5, 0.5])
    assert mask_of(g, r).tolist() == [0.5, 0.625, 1.0]


def test_every_position_is_routed_somewhere_and_all_numbers_of_sites_are_alike() -> None:
    sites = ("a", "b", "c", "d")
    masks = route_uniform_k(sites, (20_000,), SourceSampler(0))
    counts = torch.stack(list(masks.values())).sum(0)
    assert counts.min() == 1
    for k in (1, 2, 3, 4):
        assert (counts == k).float().mean().item() == pytest.approx(1 / 4, abs=0.015)
    for mask in masks.values():  # E[k] / L
        assert mask.float().mean().item() == pytest.approx(2.5 / 4, abs=0.015)


def test_routing_by_hand() -> None:
    # k − 1 = ⌊2 u⌋: 0 and 1. At the first position b has the smaller number and so rank 0.
    draws = [torch.tensor([0.1, 0.9]), torch.tensor([[0.7, 0.2], [0.3, 0.6]])]
    masks = route_uniform_k(("a", "b"), (2,), InjectedSampler(draws))
    assert masks["a"].tolist() == [False, True]
    assert masks["b"].tolist() == [True, True]


def test_static_routing_may_leave_a_position_out() -> None:
    masks = route_at_random(0.3)(("a", "b"), (20_000,), SourceSampler(0))
    both = torch.stack(list(masks.values()))
    assert both.float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (~both).all(0).float().mean().item() == pytest.approx(0.49, abs=0.015)
    with pytest.raises(ConfigError, match=r"got 1\.5"):
        route_at_random(1.5)


def drawn(info: ComponentsMaskInfo) -> Tensor:
    assert isinstance(info.component_mask, Interpolated)
    return info.component_mask.mask


def test_masks_are_drawn_in_a_fixed_order() -> None:
    g = {"a": torch.zeros(2, 3), "b": torch.full((2, 1), 0.5)}
    draws = [torch.rand(2, 3), torch.rand(2), torch.rand(2, 1), torch.rand(2)]
    sampler = InjectedSampler(draws)
    infos = stochastic_mask_infos(g, sampler, "continuous", FOLDED, route_everywhere)
    assert sampler.used == 4
    assert torch.equal(drawn(infos["a"]), draws[0])
    assert infos["a"].weight_delta_and_mask == (None, draws[1])
    assert torch.equal(drawn(infos["b"]), 0.5 + 0.5 * draws[2])
    assert infos["b"].routing_mask == "all"
    bare = stochastic_mask_infos(g, InjectedSampler([draws[0], draws[2]]), "continuous")
    assert bare["a"].weight_delta_and_mask is None
