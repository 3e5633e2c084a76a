"""Losses against float64 NumPy that is written out site by site, with injected randomness."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.errors import ConfigError
from spd.metrics.faithfulness import faithfulness_loss
from spd.metrics.hidden_acts import stochastic_hidden_acts_recon_loss
from spd.metrics.importance_minimality import annealed_p, importance_minimality_loss
from spd.metrics.output_loss import output_loss
from spd.metrics.recon import (
    ci_masked_recon_layerwise_loss,
    ci_masked_recon_loss,
    ci_masked_recon_subset_loss,
    stochastic_recon_layerwise_loss,
    stochastic_recon_loss,
    stochastic_recon_subset_loss,
    unmasked_recon_loss,
)
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.models.masks import FOLDED
from spd.routing import route_at_random
from spd.sampling import InjectedSampler

N, D, H, C = 6, 4, 3, 5
SITES = ("0", "2")


class _Numpy:
    """Two layers with a rectifier between them, their components and their importances, in NumPy."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        target = nn.Sequential(nn.Linear(D, H), nn.ReLU(), nn.Linear(H, D)).double()
        info = tuple(ModulePattern(module_pattern=name, C=C) for name in SITES)
        self.model = ComponentModel(
            target, info, MLPConfig(hidden_dims=(4,)), perf=PerfConfig(site_backend="inline"),
            generator=torch.Generator().manual_seed(2),
        ).double()  # fmt: skip
        self.x = torch.rand(N, D).double()
        self.target = TargetRun.of(self.model, self.x, "mse")
        self.importances = self.model.calc_causal_importances(self.target.acts).lower_leaky
        self.w = {name: target.get_submodule(name).weight.numpy() for name in SITES}
        self.b = {name: target.get_submodule(name).bias.numpy() for name in SITES}
        self.v = {name: c.V.detach().numpy() for name, c in self.model.components.items()}
        self.u = {name: c.U.detach().numpy() for name, c in self.model.components.items()}
        self.g = {name: g.detach().numpy() for name, g in self.importances.items()}

    def site(self, name: str, a: Any, mask: Any, d: Any = None, route: Any = None) -> Any:
        plain = a @ self.w[name].T + self.b[name]
        if mask is None:
            return plain
        out = ((a @ self.v[name]) * mask) @ self.u[name] + self.b[name]
        if d is not None:
            out = out + d[:, None] * (a @ (self.w[name] - (self.v[name] @ self.u[name]).T).T)
        return out if route is None else np.where(route[:, None], out, plain)

    def run(self, masks: dict[str, Any], ds: Any = None, routes: Any = None) -> tuple[Any, Any]:
        """Output, and what the second site reads."""
        ds, routes = ds or {}, routes or {}
        middle = np.maximum(self.site("0", self.x.numpy(), masks.get("0"), ds.get("0"), routes.get("0")), 0)
        return self.site("2", middle, masks.get("2"), ds.get("2"), routes.get("2")), middle

    def error(self, *args: Any) -> Any:
        return ((self.run(*args)[0] - self.run({})[0]) ** 2).mean()

    def mask(self, name: str, r: Any) -> Any:
        return self.g[name] + (1 - self.g[name]) * r


@pytest.fixture
def toy() -> _Numpy:
    return _Numpy()


def _draws(n: int, seed: int = 0) -> list[torch.Tensor]:
    """For each sample and site r and then d."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator).double() for _ in range(n) for shape in ((N, C), (N,))]


def test_faithfulness(toy: _Numpy) -> None:
    expected = sum(((toy.w[n] - (toy.v[n] @ toy.u[n]).T) ** 2).sum() for n in SITES) / (2 * D * H)
    assert faithfulness_loss(toy.model.calc_weight_deltas()).item() == pytest.approx(expected, rel=1e-6)


def test_reconstruction_with_importances_as_masks(toy: _Numpy) -> None:
    ones = {name: np.ones((N, C)) for name in SITES}
    assert unmasked_recon_loss(toy.target).item() == pytest.approx(toy.error(ones))
    assert ci_masked_recon_loss(toy.target, toy.importances).item() == pytest.approx(toy.error(toy.g))
    each = [toy.error({name: toy.g[name]}) for name in SITES]
    found = ci_masked_recon_layerwise_loss(toy.target, toy.importances)
    assert found.item() == pytest.approx(sum(each) / 2)
    u = torch.rand(2, N)
    routes = {name: u[index].numpy() < 0.4 for index, name in enumerate(SITES)}
    found = ci_masked_recon_subset_loss(
        toy.target, toy.importances, sampler=InjectedSampler([u]), router=route_at_random(0.4)
    )
    assert found.item() == pytest.approx(toy.error(toy.g, None, routes))


@pytest.mark.parametrize("folded", [False, True])
def test_stochastic_reconstruction(toy: _Numpy, folded: bool) -> None:
    draws = _draws(4)
    deltas = FOLDED if folded else toy.model.calc_weight_deltas()
    r = [t.numpy() for t in draws]
    samples = [
        ({"0": toy.mask("0", r[i]), "2": toy.mask("2", r[i + 2])}, {"0": r[i + 1], "2": r[i + 3]}) for i in (0, 4)
    ]
    found = stochastic_recon_loss(
        toy.target, toy.importances, sampler=InjectedSampler(draws), deltas=deltas,
        n_mask_samples=2,
    )  # fmt: skip
    assert found.item() == pytest.approx(np.mean([toy.error(*sample) for sample in samples]))


def test_stochastic_reconstruction_site_by_site(toy: _Numpy) -> None:
    draws = _draws(4)
    r = [t.numpy() for t in draws]
    passes = [("0", 0), ("0", 2), ("2", 4), ("2", 6)]
    expected = np.mean([toy.error({name: toy.mask(name, r[i])}, {name: r[i + 1]}) for name, i in passes])
    found = stochastic_recon_layerwise_loss(
        toy.target, toy.importances, sampler=InjectedSampler(draws), deltas=FOLDED,
        n_mask_samples=2,
    )  # fmt: skip
    assert found.item() == pytest.approx(expected)


def test_stochastic_reconstruction_at_some_positions(toy: _Numpy) -> None:
    draws = [*_draws(2), torch.rand(2, N)]
    r = [t.numpy() for t in draws]
    masks, ds = {"0": toy.mask("0", r[0]), "2": toy.mask("2", r[2])}, {"0": r[1], "2": r[3]}
    routes = {name: r[4][index] < 0.6 for index, name in enumerate(SITES)}
    found = stochastic_recon_subset_loss(
        toy.target, toy.importances, sampler=InjectedSampler(draws), deltas=FOLDED,
        router=route_at_random(0.6),
    )  # fmt: skip
    assert found.item() == pytest.approx(toy.error(masks, ds, routes))


def test_hidden_activations(toy: _Numpy) -> None:
    draws = _draws(2)
    r = [t.numpy() for t in draws]
    masks, ds = {"0": toy.mask("0", r[0]), "2": toy.mask("2", r[2])}, {"0": r[1], "2": r[3]}
    moved = ((toy.run(masks, ds)[1] - toy.run({})[1]) ** 2).sum()
    found = stochastic_hidden_acts_recon_loss(
        toy.target, toy.importances, sampler=InjectedSampler(draws), deltas=FOLDED
    )
    assert found.item() == pytest.approx(moved / (N * (D + H)))  # the first site's input does not move, and counts


def test_divergences_are_summed_over_positions() -> None:
    target, pred = torch.randn(2, 3, 7).double(), torch.randn(2, 3, 7).double()

    def softmax(x: Any) -> Any:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(target.numpy()), softmax(pred.numpy())
    found = output_loss(pred, target, "kl")
    assert found.count == 6
    assert found.total.item() == pytest.approx((p * np.log(p / q)).sum(), rel=1e-5)
    assert output_loss(target, target, "kl").total.item() == 0
    with pytest.raises(ConfigError, match="got 'l1'"):
        output_loss.__wrapped__(pred, target, "l1")  # type: ignore[attr-defined]


@pytest.mark.parametrize("p", [2.0, 1.0, 0.5])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_importance_minimality(p: float, beta: float) -> None:
    g = {"a": torch.rand(4, 3, 5).double(), "b": torch.rand(4, 3, 2).double()}
    g["a"][0, 0, 0] = 0
    expected = 0.0
    for values in g.values():
        s = ((values.numpy() + 1e-12) ** p).reshape(12, -1).sum(0)
        expected += (s / 12 * (1 + beta * np.log2(1 + 2 * s))).sum()
    found = importance_minimality_loss(g, p, beta=beta, world_size=2)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_positions_that_were_left_out_are_counted_by_one_that_stands_for_them() -> None:
    g = torch.rand(10, 3)
    g[4:] = g[4]
    whole = importance_minimality_loss({"a": g}, 1.5, beta=0.2)
    part = importance_minimality_loss({"a": g[:4]}, 1.5, beta=0.2, dropped={"a": (g[4], 6)})
    torch.testing.assert_close(part, whole)


def test_p_is_annealed_between_two_fractions() -> None:
    def p(f: float) -> float:
        return annealed_p(f, 2.0, start_frac=0.25, final_p=0.5, end_frac=0.75)

    assert [p(f) for f in (0.0, 0.25, 0.5, 0.75, 1.0)] == [2.0, 2.0, 1.25, 0.5, 0.5]
    assert annealed_p(0.9, 2.0) == annealed_p(0.9, 2.0, final_p=1.0) == 2.0
