"""The adversary of several batches against a loop in NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.errors import ConfigError
from spd.metrics.pgd_multibatch import multibatch_pgd_sum
from spd.metrics.pgd_utils import Attack
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.models.masks import FOLDED
from spd.routing import route_at_random
from spd.sampling import InjectedSampler, SourceSampler

N, D, OUT, C = 6, 4, 3, 5


def _model() -> ComponentModel:
    torch.manual_seed(1)
    return ComponentModel(
        nn.Sequential(nn.Linear(D, OUT, bias=False)), (ModulePattern(module_pattern="0", C=C),),
        MLPConfig(hidden_dims=(4,)), perf=PerfConfig(site_backend="inline"),
        generator=torch.Generator().manual_seed(2),
    ).double()  # fmt: skip


def _see(model: ComponentModel, x: torch.Tensor) -> tuple[TargetRun, Mapping[str, torch.Tensor]]:
    run = TargetRun.of(model, x, "mse")
    with torch.no_grad():
        return run, model.calc_causal_importances(run.acts).lower_leaky


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("p", [None, 0.5])
def test_the_gradient_is_added_up_over_the_same_batches_in_each_step(delta: bool, p: float | None) -> None:
    model = _model()
    generator = torch.Generator().manual_seed(3)
    batches = [
        torch.randn(N, D, generator=generator).double() * torch.tensor(features)
        for features in ([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 1.0, 0.0, -1.0])
    ]
    start = torch.rand(1, C + 1, generator=generator).double()
    flags = [torch.rand(1, N, generator=generator) for _ in batches]
    more: dict[str, Any] = {} if p is None else {"router": route_at_random(p)}
    calls: list[int] = []

    def see(x: torch.Tensor) -> tuple[TargetRun, Mapping[str, torch.Tensor]]:
        calls.append(next(i for i, batch in enumerate(batches) if batch is x))
        return _see(model, x)

    found = multibatch_pgd_sum(
        see, batches, source_sampler=InjectedSampler([start]), sampler=InjectedSampler(flags),
        attack=Attack(0.15, 4), deltas=FOLDED if delta else None, **more,
    )  # fmt: skip

    w = model.target_weight("0").numpy()
    v, u = (p.detach().numpy() for p in (model.components["0"].V, model.components["0"].U))
    wrong = w - (v @ u).T

    def errors(i: int, s: Any) -> tuple[Any, Any, Any]:
        a, g = batches[i].numpy(), _see(model, batches[i])[1]["0"].numpy()
        out = ((a @ v) * (g + (1 - g) * s[:, :-1])) @ u + (s[:, -1:] * (a @ wrong.T) if delta else 0)
        routed = np.ones((N, 1)) if p is None else p > flags[i].numpy().T
        return routed * (out - a @ w.T), (a @ v) * (1 - g), a @ wrong.T

    s = start.numpy().copy()
    for _ in range(4):
        gradient = np.zeros_like(s)
        for i in range(3):
            error, free, missing = errors(i, s)
            gradient[0, :-1] += (2 * (error @ u.T) * free).sum(0)
            gradient[0, -1] += (2 * error * missing).sum() if delta else 0
        s = np.clip(s + 0.15 * np.sign(gradient), 0, 1)
    want = sum((errors(i, s)[0] ** 2).sum() for i in range(3))
    assert found.total.item() == pytest.approx(want, rel=1e-9)
    assert found.count == 3 * N * OUT
    assert not found.total.requires_grad
    assert calls[-3:] == [0, 1, 2]
    single = [
        multibatch_pgd_sum(
            see, [batch], source_sampler=InjectedSampler([start]), sampler=InjectedSampler([flag]),
            attack=Attack(0.15, 4), deltas=FOLDED if delta else None, **more,
        ).total.item()
        for batch, flag in zip(batches, flags, strict=True)
    ]  # fmt: skip
    assert sum(single) != pytest.approx(want, rel=1e-6)  # an adversary of its own for each is another one


def test_ranks_search_together() -> None:
    """Two ranks with one batch each, whose gradients are averaged, find what one process finds with both."""
    model = _model()
    batches = [torch.rand(N, D).double(), -torch.rand(N, D).double()]
    start = torch.rand(1, C + 1).double()
    both = multibatch_pgd_sum(
        lambda x: _see(model, x), batches, source_sampler=InjectedSampler([start]), sampler=SourceSampler(0),
        attack=Attack(0.1, 1), deltas=FOLDED,
    )  # fmt: skip
    gradients: list[torch.Tensor] = []

    def remember(gradient: torch.Tensor) -> torch.Tensor:
        gradients.append(gradient.clone())
        return gradient

    for batch in batches:
        multibatch_pgd_sum(
            lambda x: _see(model, x), [batch], source_sampler=InjectedSampler([start]), sampler=SourceSampler(0),
            attack=Attack(0.1, 1, reduce=remember), deltas=FOLDED,
        )  # fmt: skip
    mean = (gradients[0] + gradients[1]) / 2
    apart = [
        multibatch_pgd_sum(
            lambda x: _see(model, x), [batch], source_sampler=InjectedSampler([start]), sampler=SourceSampler(0),
            attack=Attack(0.1, 1, reduce=lambda _: mean), deltas=FOLDED,
        ).total.item()
        for batch in batches
    ]  # fmt: skip
    assert sum(apart) == pytest.approx(both.total.item(), rel=1e-12)


def test_what_is_refused() -> None:
    model = _model()
    with pytest.raises(ConfigError, match="0 batches"):
        multibatch_pgd_sum(
            lambda x: _see(model, x), [], source_sampler=SourceSampler(0), sampler=SourceSampler(0),
            attack=Attack(0.1, 1),
        )  # fmt: skip
    with pytest.raises(ConfigError, match="unique_per_datapoint"):
        multibatch_pgd_sum(
            lambda x: _see(model, x), [torch.rand(N, D).double()], source_sampler=SourceSampler(0),
            sampler=SourceSampler(0), attack=Attack(0.1, 1, mask_scope="unique_per_datapoint"),
        )  # fmt: skip
