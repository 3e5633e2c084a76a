"""The step: switches of execution change nothing, microbatches add up, ties are ties."""

from typing import Any

import pytest
import torch
from torch import nn

from spd.config.losses import (
    FaithfulnessLoss,
    ImportanceMinimalityLoss,
    PersistentPGDReconLoss,
    PGDReconSubsetLoss,
    StochasticHiddenActsReconLoss,
    StochasticReconLayerwiseLoss,
    StochasticReconLoss,
    StochasticReconSubsetLoss,
)
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import DivergenceError, TargetError
from spd.models.components import TiedComponents
from spd.sampling import InjectedSampler, SourceSampler
from spd.training import Trainer, build_model, faithfulness_warmup

LOSSES = (
    FaithfulnessLoss(coeff=0.7),
    ImportanceMinimalityLoss(coeff=1e-2, pnorm=1.5, p_anneal_start_frac=0.1, p_anneal_final_p=1.0, beta=0.1),
    StochasticReconLoss(coeff=1.0),
    StochasticReconLayerwiseLoss(coeff=0.5),
    StochasticReconSubsetLoss(coeff=0.3),
    StochasticHiddenActsReconLoss(coeff=0.2),
    PGDReconSubsetLoss(coeff=0.4, step_size=0.1, n_steps=2),
    PersistentPGDReconLoss(coeff=0.1, scope="single", optimizer="sign"),
)

SWITCHES: dict[str, dict[str, Any]] = {
    "persistent hooks": {"site_backend": "persistent_hooks"},
    "inline": {"site_backend": "inline"},
    "cached weights": {"cache_target_weights": True},
    "fused unmasked": {"fused_unmasked": True},
    "folded": {"delta_mode": "folded"},
    "broadcast": {"ci_kernel": "broadcast"},
    "recompute": {"ci_kernel": "recompute"},
    "prefix": {"site_backend": "inline", "reuse_prefix": True},
    "inner activations": {"site_backend": "inline", "reuse_inner_acts": True},
    "detached search": {"pgd_detach": True},
    "foreach": {"optimizer": "foreach"},
    "fused": {"optimizer": "fused"},
    "all": {
        "site_backend": "inline", "cache_target_weights": True, "fused_unmasked": True, "delta_mode": "folded",
        "ci_kernel": "recompute", "reuse_prefix": True, "reuse_inner_acts": True, "pgd_detach": True,
        "optimizer": "fused",
    },
}  # fmt: skip


def _target(bias: bool = True) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 4, bias=bias), nn.ReLU(), nn.Linear(4, 3, bias=bias), nn.Tanh(), nn.Linear(3, 6))


def _config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=7) for name in "024"),
        "ci": MLPConfig(hidden_dims=(5,)), "output_loss_type": "mse", "loss_metrics": LOSSES,
        "lr_schedule": LrSchedule(start_val=1e-3), "steps": 10, "batch_size": 8,
    }  # fmt: skip
    return Config(**(settings | changes))


def _trainer(config: Config, target: nn.Module | None = None, sampler: SourceSampler | None = None) -> Trainer:
    return Trainer(build_model(target or _target(), config).double(), config, sampler or SourceSampler(3))


def _batches(n: int, rows: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.rand(rows, 6, generator=generator).double() for _ in range(n)]


def _trainable(trainer: Trainer) -> list[torch.Tensor]:
    return [p for p in trainer.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_execution_changes_neither_losses_nor_gradients(name: str) -> None:
    control, other = _trainer(_config()), _trainer(_config(perf=PerfConfig(**SWITCHES[name])))
    for batch in _batches(3):
        one, two = control.step(iter([batch])), other.step(iter([batch]))
        assert list(one.losses) == [loss.classname for loss in LOSSES]
        for key, value in one.losses.items():
            assert two.losses[key].item() == pytest.approx(value.item(), rel=1e-5), key
        assert two.total.item() == pytest.approx(one.total.item(), rel=1e-5)
        for a, b in zip(_trainable(control), _trainable(other), strict=True):
            assert a.grad is not None
            assert b.grad is not None
            assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-12


def test_rows_of_zeros_are_evaluated_once() -> None:
    losses = (
        ImportanceMinimalityLoss(coeff=1e-2, pnorm=1.5, beta=0.1),
        StochasticReconLoss(coeff=1.0),
        StochasticReconLayerwiseLoss(coeff=0.5),
    )
    target = nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 6)).double()
    info = tuple(ModulePattern(module_pattern=name, C=5) for name in "02")
    (x,) = _batches(1)
    kept = torch.tensor([True, False, True, True, False, False, True, False])
    x[~kept] = 0
    generator = torch.Generator().manual_seed(1)
    # For the full loss r and d of both sites, then the same for one site and for the other.
    shapes = [(8, 5), (8,)] * 4
    draws = [torch.rand(shape, generator=generator).double() for shape in shapes]
    found = []
    for dedup in (False, True):
        perf = PerfConfig(row_dedup=dedup)
        config = _config(module_info=info, loss_metrics=losses, perf=perf)
        sampler = InjectedSampler([draw[kept] if dedup else draw for draw in draws])
        trainer = _trainer(config, target, sampler)
        found.append((trainer.step(iter([x])), [p.grad for p in _trainable(trainer)]))
        assert sampler.used == len(draws)
        trainer.model.detach_target()
    (whole, whole_gradients), (part, part_gradients) = found
    for key, value in whole.losses.items():
        assert part.losses[key].item() == pytest.approx(value.item(), rel=1e-9), key
    for a, b in zip(whole_gradients, part_gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-12)


def test_where_zeros_do_not_stay_zeros_nothing_is_left_out() -> None:
    config = _config(perf=PerfConfig(row_dedup=True))
    trainer = _trainer(config)  # its layers have biases: zeros do not reach the second site as zeros
    x = torch.zeros(8, 6).double()
    x[0] = 1
    assert trainer.step(iter([x])).importances["0"].shape[0] == 8


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("parts", [2, 4])
def test_microbatches_add_up_to_a_batch(delta: bool, parts: int) -> None:
    losses = (
        FaithfulnessLoss(coeff=1.0),
        ImportanceMinimalityLoss(coeff=1e-2, pnorm=2.0),
        StochasticReconLoss(coeff=1.0),
    )
    (x,) = _batches(1)
    shapes = [(8, 7), (8,)] if delta else [(8, 7)]
    draws = [torch.rand(shape).double() for _ in range(3) for shape in shapes]
    results = []
    for n in (1, parts):
        config = _config(
            loss_metrics=losses, use_delta_component=delta, gradient_accumulation_steps=n, perf=PerfConfig()
        )
        pieces = [piece for i in range(n) for piece in (draw.chunk(n)[i] for draw in draws)]
        trainer = _trainer(config, sampler=InjectedSampler(pieces))
        results.append((trainer.step(iter(x.chunk(n))), [p.grad for p in _trainable(trainer)]))
    (one, one_gradients), (many, many_gradients) = results
    assert many.total.item() == pytest.approx(one.total.item(), rel=1e-9)
    for a, b in zip(one_gradients, many_gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-12)


def test_tied_components_are_one_set_of_parameters_with_the_published_step() -> None:
    target = nn.Sequential(nn.Linear(5, 2, bias=False), nn.Linear(2, 5)).double()
    target[1].weight.data = target[0].weight.data.T
    info = tuple(ModulePattern(module_pattern=name, C=6) for name in "01")
    config = _config(
        module_info=info, tied_weights=(("0", "1"),), loss_metrics=(FaithfulnessLoss(coeff=1.0),),
        lr_schedule=LrSchedule(start_val=1e-3),
    )  # fmt: skip
    trainer = _trainer(config, target)
    first, second = trainer.model.components["0"], trainer.model.components["1"]
    assert isinstance(second, TiedComponents)
    assert [name for name, _ in second.named_parameters()] == []
    before = first.V.detach().clone()
    trainer.step(iter([torch.rand(8, 5).double()]))
    # AdamW's first step is its learning rate, and the tied ones have twice that of the others.
    assert (first.V.detach() - before).abs().max().item() == pytest.approx(2e-3, rel=1e-3)
    torch.testing.assert_close(second.weight, first.weight.T)
    with pytest.raises(TargetError, match="those of 0 and 4 are not"):
        _trainer(_config(tied_weights=(("0", "4"),)))


def test_gradients_are_clipped_for_components_and_importances_apart() -> None:
    norms = []
    for clip in (None, 1e-3):
        trainer = _trainer(_config(grad_clip_norm_components=clip))
        trainer.step(iter(_batches(1)))
        model = trainer.model
        norms.append([
            nn.utils.get_total_norm([p.grad for p in part.parameters() if p.grad is not None]).item()
            for part in (model._components, model._ci_fns)
        ])  # fmt: skip
    assert norms[0][0] > 1e-2
    assert norms[1][0] == pytest.approx(1e-3, rel=1e-2)
    assert norms[1][1] == pytest.approx(norms[0][1])


def test_the_warm_up_makes_components_add_up() -> None:
    config = _config(faithfulness_warmup_steps=100, faithfulness_warmup_lr=0.01)
    model = _trainer(config).model
    before = sum(delta.square().sum().item() for delta in model.calc_weight_deltas().values())
    faithfulness_warmup(model, config)
    assert sum(delta.square().sum().item() for delta in model.calc_weight_deltas().values()) < before / 10


def test_a_loss_that_is_not_finite_is_named() -> None:
    trainer = _trainer(_config())
    result = trainer.step(iter([torch.full((8, 6), torch.nan).double()]))
    with pytest.raises(DivergenceError, match="StochasticReconLoss"):
        trainer.check(trainer.figures(result))
    trainer = _trainer(_config())
    trainer.check(trainer.figures(trainer.step(iter(_batches(1)))))


def test_identities_are_inserted_where_the_settings_ask_for_them() -> None:
    info = (ModulePattern(module_pattern="2.pre_identity", C=3), ModulePattern(module_pattern="2", C=4))
    model = build_model(_target(), _config(module_info=info, identity_module_patterns=("2",)))
    assert model.module_to_c == {"2": 4, "2.pre_identity": 3}
