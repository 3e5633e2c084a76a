"""GMP, AC/DC and Top-KAST: their schedules against the formulas, and who trains when."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resu.baselines import METHODS, method_config
from resu.core.phases import Phase
from resu.optim.masked import MaskedSGD
from resu.sparsifier import Sparsifier


def test_gmp_follows_the_cubic(bench: Callable[..., Any]) -> None:
    b = bench("gmp", sparsity=0.9, steps=60, interval=7, end=0.8, begin=0.1)
    sizes = np.array([sparse.mask.numel for sparse in b.sparsifier.parameters.values()])
    total, begin, end, pruned_at = int(sizes.sum()), 6, 48, 0.0
    assert sum(b.counts.values()) == total
    for step in b.run():
        if begin < step <= end and (step % 7 == 0 or step == end):
            pruned_at = 0.9 * (1 - (1 - (step - begin) / (end - begin)) ** 3)
        assert sum(b.counts.values()) == total - round(pruned_at * total), step
        assert b.pruned_are_zero()
    assert sum(b.counts.values()) == total - round(0.9 * total)


def test_gmp_prunes_the_smallest_and_they_stay_pruned(bench: Callable[..., Any]) -> None:
    b = bench("gmp", steps=20, interval=2, end=0.5)
    layers = list(b.sparsifier.parameters.values())
    prune, seen = b.sparsifier.prune, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        before = [(sparse.weight.clone(), sparse.mask.to_bool().view_as(sparse.weight)) for sparse in layers]
        report = prune(*args, **kwargs)
        for sparse, (weight, was) in zip(layers, before, strict=True):
            now = sparse.mask.to_bool().view_as(weight)
            assert not (now & ~was).any()
            lost = was & ~now
            if lost.any() and now.any():
                assert weight[lost].abs().max() <= weight[now].abs().min()
                seen.append(int(lost.sum()))
        return report

    b.sparsifier.prune = watched
    for _ in b.run():
        pass
    assert len(seen) >= 4
    assert b.counts == b.expected


def test_acdc_takes_turns(bench: Callable[..., Any]) -> None:
    b = bench("acdc", sparsity=0.8, steps=40, warmup=0.1, phase=0.1, final=0.3)
    total = sum(sparse.mask.numel for sparse in b.sparsifier.parameters.values())
    # 4 dense, then 4 steps each; from step 28 on sparse: the sixth turn, 24 to 27, is dense.
    compressed = [4 <= s < 8 or 12 <= s < 16 or 20 <= s < 24 or s >= 28 for s in range(40)]
    assert [b.method.compressed_at(step) for step in range(40)] == compressed
    moved = False
    for step in b.run():
        if compressed[step]:
            assert b.counts == b.expected
            assert b.pruned_are_zero()
            assert b.sparsifier.phase is Phase.TRAIN
        elif step < 4:
            assert sum(b.counts.values()) == total
        else:
            assert b.sparsifier.phase is Phase.JOINT
            moved |= not b.pruned_are_zero()
    assert moved
    assert b.counts == b.expected


def test_acdc_keeps_the_largest_of_all_weights_after_a_dense_phase(bench: Callable[..., Any]) -> None:
    b = bench("acdc", sparsity=0.8, steps=40, warmup=0.1, phase=0.1, final=0.3)
    b.optimizer.param_groups[0]["lr"] = 0.1
    for step in range(12):
        b.step(step)
    sizes = {name: sparse.weight.abs() for name, sparse in b.sparsifier.parameters.items()}
    largest = {name: set(size.flatten().topk(b.expected[name]).indices.tolist()) for name, size in sizes.items()}
    old = {name: set(sparse.mask.active_indices.tolist()) for name, sparse in b.sparsifier.parameters.items()}
    b.method.before_step(12)
    new = {name: set(sparse.mask.active_indices.tolist()) for name, sparse in b.sparsifier.parameters.items()}
    assert new == largest
    assert new != old  # weights of the dense phase replaced some


def test_acdc_ends_sparse_however_short_the_end(bench: Callable[..., Any]) -> None:
    b = bench("acdc", steps=10, warmup=0.9, phase=0.5, final=0.01)
    for _ in b.run():
        pass
    assert b.counts == b.expected


def test_topkast_shows_the_forward_set_and_trains_the_backward_set(bench: Callable[..., Any]) -> None:
    b = bench("topkast", sparsity=0.8, steps=24, interval=4, extra=0.3)
    wide = b.sparsifier.counts(0.5)
    assert b.counts == wide
    for step in b.run():
        forward = b.method.forward_masks()
        for name, sparse in b.sparsifier.parameters.items():
            assert forward[name].n_active == b.expected[name]
            assert bool((sparse.weight[~forward[name].row_bool(slice(None))] == 0).all())
            assert forward[name].difference(sparse.mask).n_active == 0
        assert b.counts == (wide if step < 23 else b.expected)


def test_topkast_by_hand() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data.copy_(torch.tensor([[4.0, -3.0, 2.0, 1.0]]))
    optimizer = MaskedSGD(layer.parameters(), lr=0.1)
    sparsifier = Sparsifier(layer, 0.75, optimizer=optimizer)
    config = method_config("topkast", extra=0.5, regularisation=0.01, interval=2)
    method: Any = METHODS["topkast"](sparsifier, 3, config)
    # A = {4}, scaled so that √30 is all in it; B = {4, −3, 2}; the fourth weight waits.
    scale = math.sqrt(30) / 4
    theta = np.array([4.0, -3.0, 2.0, 1.0]) * scale
    np.testing.assert_allclose(layer.weight.detach().numpy()[0], [theta[0], 0, 0, 0], rtol=1e-6)
    gradient = np.array([1.0, 200.0, -3.0, 50.0])
    for step in (0, 1):
        layer.weight.grad = torch.tensor(gradient[None], dtype=torch.float32)
        assert method.after_backward(step)
        optimizer.step()
        method.after_step(step)
        # λ θ on A, λ θ / D with D = ¼ on the rest of B, nothing beyond it.
        penalty = 0.01 * theta * np.array([1, 4, 4, 0])
        theta = theta - 0.1 * (gradient + penalty) * np.array([1, 1, 1, 0])
    assert abs(theta[1]) > abs(theta[0])  # the second weight has overtaken the first
    np.testing.assert_allclose(layer.weight.detach().numpy()[0], [0, theta[1], 0, 0], rtol=1e-5)
    assert sparsifier.parameters["weight"].mask.to_bool().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("end", [0.25, 0.5])
def test_topkast_settles_on_the_forward_set(bench: Callable[..., Any], end: float) -> None:
    b = bench("topkast", sparsity=0.8, steps=24, interval=4, extra=0.3, end=end)
    for step in b.run():
        assert (b.counts == b.expected) == (step + 1 >= end * 24)
