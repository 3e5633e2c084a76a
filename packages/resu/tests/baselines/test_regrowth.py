"""SET, RigL, SHADOW and SNFS on cases made by hand: what is dropped, what is grown, at what value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resu.baselines import METHODS, method_config
from resu.baselines.snfs import share_out
from resu.core.mask import SparseMask
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier

ACTIVE = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]])
WEIGHT = torch.tensor([[4.0, -0.1, 3.0, 0.2, 0, 0, 0, 0], [-5.0, 2.0, -0.3, 0.4, 0, 0, 0, 0]])


class Hand:
    """One 2 × 8 layer with a mask, weights and gradients written by hand; lr 0, so that only masks change it."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.layer = nn.Linear(8, 2, bias=False)
        self.optimizer = MaskedAdamW(self.layer.parameters(), lr=0.0, backend="eager")
        self.sparsifier = Sparsifier(self.layer, 0.5, optimizer=self.optimizer)
        config = method_config(name, interval=4, end=1.0, **settings)
        self.method: Any = METHODS[name](self.sparsifier, 16, config)
        self.sparsifier.set_masks({"weight": SparseMask(ACTIVE)})
        self.layer.weight.data.copy_(WEIGHT)

    def step(self, step: int, gradient: torch.Tensor) -> bool:
        self.layer.weight.grad = gradient.clone()
        self.method.before_step(step)
        stepped = self.method.after_backward(step)
        if stepped:
            self.optimizer.step()
        self.method.after_step(step)
        return bool(stepped)

    @property
    def mask(self) -> list[list[int]]:
        return self.sparsifier.parameters["weight"].mask.to_bool().int().tolist()


def pruned_gradient(*values: float) -> torch.Tensor:
    """A gradient with these values at the eight pruned coordinates, and larger ones at the active ones."""
    gradient = torch.full((2, 8), 99.0)
    gradient[:, 4:] = torch.tensor(values).view(2, 4)
    return gradient


def test_rigl_grows_by_one_gradient_instead_of_a_step() -> None:
    hand = Hand("rigl", fraction=0.5)
    gradient = pruned_gradient(0.1, -7.0, 0.2, 0.3, 5.0, 0.4, -6.0, 0.0)
    assert hand.step(3, gradient)
    # f = 0.25 (1 + cos(π / 4)) = 0.427; ⌊0.427 · 8⌋ = 3 leave: 0.1, 0.2 and 0.3; the gradients 7, 6 and 5 come.
    assert not hand.step(4, gradient)
    assert hand.mask == [[1, 0, 1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0, 1, 0]]
    expected = torch.tensor([[4.0, 0, 3.0, 0, 0, 0, 0, 0], [-5.0, 2.0, 0, 0.4, 0, 0, 0, 0]])
    assert torch.equal(hand.layer.weight.detach(), expected)


def test_set_drops_next_to_zero_and_grows_anywhere() -> None:
    seen = set()
    for seed in range(6):
        hand = Hand("set", fraction=0.25)
        hand.sparsifier.seed = seed
        assert hand.step(4, pruned_gradient(*[0.0] * 8))
        mask = torch.tensor(hand.mask)
        assert mask[0, [1, 3]].tolist() == [0, 0]  # 0.1 and 0.2 are the two smallest of eight
        assert mask[:, 4:].sum() == 2
        assert mask.sum() == 8
        seen.add(tuple(mask[:, 4:].flatten().tolist()))
    assert len(seen) > 1


def test_sets_share_is_constant_unless_it_follows_the_cosine() -> None:
    for cosine, moved in ((False, 4), (True, 2)):  # at half of T_end: ½ · 8, and ½ · ½ · 8
        hand = Hand("set", fraction=0.5, cosine=cosine)
        hand.step(8, pruned_gradient(*[0.0] * 8))
        assert sum(row[4] + row[5] + row[6] + row[7] for row in hand.mask) == moved


def test_shadow_grows_by_consistency_where_rigl_would_follow_one_batch() -> None:
    hand = Hand("shadow", fraction=0.25, beta=0.5)
    # Coordinate (0, 4) is steady at 1; (0, 5) swings between ±3 and is largest at the end; (1, 7) is steady at 0.9.
    for step in (1, 2, 3, 4):
        swing = 3.0 if step % 2 == 0 else -3.0
        assert hand.step(step, pruned_gradient(1.0, swing, 0, 0, 0, 0, 0, 0.9))
    # f = 0.125 (1 + cos(π / 4)) = 0.2134 of 8 is one weight: -0.1 leaves.
    m = v = np.zeros(3)
    for step in (1, 2, 3, 4):
        g = np.array([1.0, 3.0 if step % 2 == 0 else -3.0, 0.9])
        m, v = 0.5 * m + 0.5 * g, 0.5 * v + 0.5 * abs(g)
    score = m**2 / v
    assert score.argmax() == 0  # 0.94, 0.56 and 0.84
    assert hand.mask == [[1, 0, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    assert hand.layer.weight[0, 4] == 0


def test_shadow_by_momentum_alone_is_sparse_momentums_score() -> None:
    hand = Hand("shadow", fraction=0.25, beta=0.5, score="momentum")
    for step in (1, 2, 3, 4):
        swing = 3.0 if step % 2 == 0 else -3.0
        hand.step(step, pruned_gradient(1.0, swing, 0, 0, 0, 0, 0, 0.9))
    # |m| = 0.94, 0.94 · 3 · … : the swing's mean 3 (1/2 − 1/4 + 1/8 − 1/16) = 0.9375 ties with 1 − 1/16; lowest index.
    assert hand.mask[0][4:] == [1, 0, 0, 0]


def test_shadow_keeps_the_statistics_in_the_free_moments() -> None:
    hand = Hand("shadow", beta=0.9)
    gradient = pruned_gradient(1.0, -2.0, 0, 0, 0, 0, 0, 4.0)
    hand.step(1, gradient)
    m, v = hand.optimizer.moments_rows(hand.layer.weight, slice(0, 2))
    torch.testing.assert_close(m[:, 4:], 0.1 * gradient[:, 4:])
    torch.testing.assert_close(v[:, 4:], 0.1 * gradient[:, 4:].abs())
    assert len(hand.optimizer.state[hand.layer.weight]) == 4  # two moments and two counts: nothing beside Adam's own


def test_snfs_shares_places_in_proportion_to_momentum() -> None:
    assert share_out(7, {"a": 2.0, "b": 1.0}, {"a": 100, "b": 100}) == {"a": 5, "b": 2}
    assert share_out(7, {"a": 2.0, "b": 1.0}, {"a": 3, "b": 100}) == {"a": 3, "b": 4}
    assert share_out(0, {"a": 2.0}, {"a": 3}) == {"a": 0}
    assert share_out(4, {"a": 0.0, "b": 0.0}, {"a": 9, "b": 9}) == {"a": 2, "b": 2}
    assert share_out(5, {"a": 1.0, "b": 0.0}, {"a": 2, "b": 9}) == {"a": 2, "b": 3}


def test_snfs_moves_weights_to_the_layer_with_more_momentum() -> None:
    model = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Linear(4, 8, bias=False))
    optimizer = MaskedAdamW(model.parameters(), lr=0.0, backend="eager")
    sparsifier = Sparsifier(model, 0.5, optimizer=optimizer)
    config = method_config("snfs", interval=2, end=1.0, fraction=0.5)
    method: Any = METHODS["snfs"](sparsifier, 1_000_000, config)  # so many steps that f stays 0.5
    first, second = (sparse.mask for sparse in sparsifier.parameters.values())
    assert first.n_active == second.n_active == 16
    for step in (1, 2):
        model[0].weight.grad = torch.full((4, 8), 3.0)
        model[1].weight.grad = torch.full((8, 4), 1.0)
        optimizer.step()
        method.after_step(step)
    # ⌊½ · 16⌋ leave each layer; of 16 places the first layer has ¾, the second ¼.
    assert [sparse.mask.n_active for sparse in sparsifier.parameters.values()] == [8 + 12, 8 + 4]


def test_snfs_never_overfills_a_nearly_dense_network(bench: Callable[..., Any]) -> None:
    b = bench("snfs", sparsity=0.05, interval=4)
    total = sum(b.counts.values())
    for _ in b.run():
        assert sum(b.counts.values()) == total


@pytest.mark.parametrize("name", ["set", "rigl", "shadow", "snfs"])
def test_masks_stay_after_the_end(bench: Callable[..., Any], name: str) -> None:
    b = bench(name, steps=40, interval=5, end=0.5)
    masks = []
    for _ in b.run():
        masks.append([sparse.mask.clone() for sparse in b.sparsifier.parameters.values()])
    assert masks[0] != masks[19]
    assert masks[19] == masks[39]
    if name == "rigl":
        assert [step for step, stepped in enumerate(b.stepped) if not stepped] == [5, 10, 15]
    else:
        assert all(b.stepped)
