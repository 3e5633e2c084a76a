"""The adversary: its steps against NumPy, and what it may and may not change."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.errors import ConfigError
from spd.metrics.pgd_recon import (
    persistent_pgd_recon_loss,
    pgd_recon_layerwise_loss,
    pgd_recon_loss,
    pgd_recon_subset_loss,
)
from spd.metrics.pgd_utils import Attack, PersistentSources, initial_sources, persistent_shape
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.models.masks import FOLDED
from spd.routing import route_uniform_k
from spd.sampling import InjectedSampler, SourceSampler

N, D, OUT, C = 8, 4, 3, 5


def _one_layer() -> tuple[TargetRun, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    target = nn.Sequential(nn.Linear(D, OUT, bias=False)).double()
    model = ComponentModel(
        target, (ModulePattern(module_pattern="0", C=C),), MLPConfig(hidden_dims=(4,)),
        perf=PerfConfig(site_backend="inline"), generator=torch.Generator().manual_seed(2),
    ).double()  # fmt: skip
    x = torch.rand(N, D).double()
    run = TargetRun.of(model, x, "mse")
    return run, model.calc_causal_importances(run.acts).lower_leaky


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("n_steps", [0, 1, 4])
def test_steps_of_the_adversary(shared: bool, n_steps: int) -> None:
    run, g = _one_layer()
    start = torch.rand(*((1,) if shared else (N,)), C + 1).double()
    attack = Attack(0.1, n_steps, mask_scope="shared_across_batch" if shared else "unique_per_datapoint")
    found = pgd_recon_loss(run, g, sampler=InjectedSampler([start]), attack=attack, deltas=FOLDED)

    model, a, w = run.model, run.batch.numpy(), run.model.target_weight("0").numpy()
    v, u = (p.detach().numpy() for p in (model.components["0"].V, model.components["0"].U))
    gn, s = g["0"].detach().numpy(), start.numpy().copy()
    h, d_out = a @ v, a @ (w - (v @ u).T).T

    def error(s: Any) -> Any:
        m = gn + (1 - gn) * s[:, :-1]
        return (h * m) @ u + s[:, -1:] * d_out - a @ w.T

    for _ in range(n_steps):
        e = 2 * error(s) / (N * OUT)
        by_row = np.concatenate([(1 - gn) * h * (e @ u.T), (e * d_out).sum(1, keepdims=True)], axis=1)
        gradient = by_row.sum(0, keepdims=True) if shared else by_row
        s = np.clip(s + 0.1 * np.sign(gradient), 0, 1)
    assert found.item() == pytest.approx((error(s) ** 2).mean(), rel=1e-9)


@pytest.mark.parametrize("form", ["full", "layerwise", "subset"])
def test_a_search_without_the_parameters_finds_the_same(form: str) -> None:
    found = []
    for detach in (False, True):
        torch.manual_seed(4)
        target = nn.Sequential(nn.Linear(D, 6), nn.Tanh(), nn.Linear(6, D)).double()
        model = ComponentModel(
            target, tuple(ModulePattern(module_pattern=n, C=C) for n in "02"), MLPConfig(hidden_dims=(4,)),
            perf=PerfConfig(site_backend="inline"), generator=torch.Generator().manual_seed(2),
        ).double()  # fmt: skip
        x = torch.rand(N, D).double()
        run = TargetRun.of(model, x, "mse")
        g = model.calc_causal_importances(run.acts).lower_leaky
        more: dict[str, Any] = {
            "sampler": SourceSampler(0), "attack": Attack(0.3, 3, detach=detach), "deltas": model.calc_weight_deltas()
        }  # fmt: skip
        if form == "subset":
            loss = pgd_recon_subset_loss(run, g, router=route_uniform_k, **more)
        else:
            loss = {"full": pgd_recon_loss, "layerwise": pgd_recon_layerwise_loss}[form](run, g, **more)
        parameters = [p for p in model.parameters() if p.requires_grad]
        assert len(parameters) == 12
        found.append((loss, torch.autograd.grad(loss, parameters)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=0)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_more_steps_find_worse_masks() -> None:
    run, g = _one_layer()
    losses = [
        pgd_recon_loss(
            run, g, sampler=SourceSampler(0), attack=Attack(0.1, n, mask_scope="unique_per_datapoint"),
            deltas=FOLDED,
        ).item()
        for n in (0, 2, 20)
    ]  # fmt: skip
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(("init", "value"), [("ones", 1.0), ("zeroes", 0.0)])
def test_sources_start_where_they_are_told_to(init: str, value: float) -> None:
    g = {"a": torch.rand(3, 2, 5)}
    shared = initial_sources(g, init, "shared_across_batch", SourceSampler(0))["a"]
    assert shared.shape == (1, 1, 6)
    assert (shared == value).all()
    assert initial_sources(g, "random", "unique_per_datapoint", SourceSampler(0))["a"].shape == (3, 2, 6)


def test_gradients_of_shared_sources_are_reduced_before_their_sign_is_taken() -> None:
    run, g = _one_layer()
    seen = []

    def reduce(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(gradient)
        return -gradient

    start = torch.full((1, C + 1), 0.5).double()
    for scope, calls in (("shared_across_batch", 1), ("unique_per_datapoint", 0)):
        seen.clear()
        sampler = InjectedSampler([start if calls else start.expand(N, -1)])
        attack = Attack(0.1, 1, mask_scope=scope, reduce=reduce)
        loss = pgd_recon_loss(run, g, sampler=sampler, attack=attack, deltas=FOLDED)
        assert len(seen) == calls
        assert loss.isfinite()


@pytest.mark.parametrize(
    ("scope", "shape"),
    [
        ("single", [1, 1, C + 1]), ("broadcast_across_batch", [1, 5, C + 1]), ("repeat_across_batch", [4, 5, C + 1]),
        ("unique_per_datapoint", [8, 5, C + 1]),
    ],
)  # fmt: skip
def test_persistent_sources_go_on_from_step_to_step(scope: Any, shape: list[int]) -> None:
    model = _one_layer()[0].model
    run = TargetRun.of(model, torch.rand(8, 5, D).double(), "mse")
    g = model.calc_causal_importances(run.acts).lower_leaky
    for optimizer in ("sign", "adam"):
        for parametrisation in ("clamp", "sigmoid"):
            kept = PersistentSources(0.1, scope, 4, optimizer, parametrisation=parametrisation)
            sampler = SourceSampler(0)
            losses = [
                persistent_pgd_recon_loss(run, g, sampler=sampler, persistent=kept, deltas=FOLDED).item()
                for _ in range(12)
            ]
            assert list(kept.sources["0"].shape) == shape
            assert losses[-1] > losses[0]
            values = kept.values((8, 5))["0"]
            assert 0 <= values.min() <= values.max() <= 1


def test_persistent_sources_resume() -> None:
    run, g = _one_layer()

    def step(kept: PersistentSources) -> float:
        return persistent_pgd_recon_loss(
            run, g, sampler=SourceSampler(0), persistent=kept, deltas=FOLDED, n_updates=2
        ).item()

    kept = PersistentSources(0.05)
    step(kept)
    again = PersistentSources(0.05)
    again.load_state_dict(kept.state_dict())
    assert [step(kept) for _ in range(3)] == [step(again) for _ in range(3)]
    assert kept.steps == 8


def test_repeated_sources_divide_the_batch() -> None:
    with pytest.raises(ConfigError, match="got 3 for a batch of 8"):
        persistent_shape((8,), "repeat_across_batch", 3)
