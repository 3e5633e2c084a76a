"""Switches of execution on a network of every kind of site: the same losses and gradients as with all of them off."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spd.config.losses import (
    FaithfulnessLoss,
    ImportanceMinimalityLoss,
    LossConfig,
    PGDReconLayerwiseLoss,
    PGDReconSubsetLoss,
    StaticProbability,
    StochasticHiddenActsReconLoss,
    StochasticReconLayerwiseLoss,
    StochasticReconSubsetLoss,
    UnmaskedReconLoss,
)
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PRESETS, PerfConfig, PgdSchedule
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import ConfigError, SamplingError
from spd.losses import LossContext, scheduled_steps
from spd.metrics import target_run
from spd.metrics.pgd_utils import Attack, ascend, mask_infos_of, pgd_sum
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel
from spd.models.masks import FOLDED, make_mask_infos, stochastic_mask_infos
from spd.models.sigmoids import SigmoidPair
from spd.routing import route_uniform_k
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model

SITES = ("embed", "up", "gate", "down", "head")


class Net(nn.Module):
    """Tokens, two sites that read the same tensor, a change in place, and a shift that no site computes."""

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.embed = nn.Embedding(9, 4)
        self.up, self.gate = nn.Linear(4, 6), nn.Linear(4, 6, bias=False)
        self.down = nn.Linear(6, 4)
        self.head = nn.Linear(4, 9, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        stream = self.embed(tokens)
        x = torch.tanh(stream).roll(1, -2)
        out = self.down(torch.relu(self.up(x)) * self.gate(x))
        if self.in_place:
            stream += out
        else:
            stream = stream + out
        return self.head(torch.tanh(stream))  # type: ignore[no-any-return]


LOSSES: tuple[LossConfig, ...] = (
    FaithfulnessLoss(coeff=0.7),
    ImportanceMinimalityLoss(coeff=1e-2, pnorm=1.5, beta=0.1),
    StochasticReconLayerwiseLoss(coeff=0.5),
    StochasticReconSubsetLoss(coeff=0.3),
    StochasticReconSubsetLoss(coeff=0.3, routing=StaticProbability(p=0.0)),
    StochasticHiddenActsReconLoss(coeff=0.2),
    UnmaskedReconLoss(coeff=0.1),
    PGDReconSubsetLoss(coeff=0.4, step_size=0.1, n_steps=2),
    PGDReconLayerwiseLoss(coeff=0.4, step_size=0.1, n_steps=1, mask_scope="unique_per_datapoint"),
)

SWITCHES: dict[str, dict[str, Any]] = {
    "ordered": {"ordered_sites": True},
    "checkpointing": {"grad_checkpointing": True},
    "checkpointing and search": {"grad_checkpointing": True, "pgd_detach": True},
    "freed": {"free_intermediates": True},
    "no checks": {"skip_range_checks": True},
    "tokens": {"row_dedup": True},
    "folded": {"delta_mode": "folded"},
    "rows": {"delta_mode": "folded", "row_dedup": True},
    "recompute": {"ci_kernel": "recompute"},
    "broadcast": {"ci_kernel": "broadcast"},
    "prefix": {"site_backend": "inline", "reuse_prefix": True},
    "prefix and acts": {"site_backend": "inline", "reuse_prefix": True, "reuse_inner_acts": True},
    "all": {**PRESETS["all"].model_dump(), "async_logging": False, "async_checkpoint": False},
    "all and checkpointing": {**PRESETS["all"].model_dump(), "grad_checkpointing": True},
}  # fmt: skip


def _config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=7) for name in SITES),
        "ci": MLPConfig(hidden_dims=(5,)), "output_loss_type": "kl", "loss_metrics": LOSSES,
        "lr_schedule": LrSchedule(start_val=1e-3), "steps": 10, "batch_size": 4,
    }  # fmt: skip
    return Config(**(settings | changes))


def _trainer(config: Config, *, in_place: bool = False) -> Trainer:
    torch.manual_seed(5)
    return Trainer(build_model(Net(in_place=in_place), config).double(), config, SourceSampler(3))


def _tokens(n: int = 4) -> torch.Tensor:
    return torch.randint(9, (n, 3), generator=torch.Generator().manual_seed(1))


def _agree(one: Trainer, other: Trainer) -> None:
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        if a.requires_grad:
            assert a.grad is not None
            assert b.grad is not None
            assert (a.grad - b.grad).norm() <= 1e-4 * a.grad.norm() + 1e-9


@pytest.mark.parametrize(("name", "in_place"), [*((name, False) for name in SWITCHES), ("prefix", True), ("all", True)])
def test_losses_and_gradients_stay(name: str, in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_run, "_FEW_MASKS", 0)
    control = _trainer(_config(), in_place=in_place)
    other = _trainer(_config(perf=PerfConfig(**SWITCHES[name])), in_place=in_place)
    one, two = control.step(iter([_tokens()])), other.step(iter([_tokens()]))
    assert one.losses.keys() == two.losses.keys()
    for key, value in one.losses.items():
        assert two.losses[key].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-9), key
    _agree(control, other)


@pytest.mark.parametrize("backend", ["ephemeral_hooks", "persistent_hooks", "inline"])
@pytest.mark.parametrize("faith", [False, True])
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_combination_runs(parts: int, delta: bool, faith: bool, backend: str) -> None:
    for preset in ("none", "all"):
        perf = PRESETS[preset].model_copy(update={"site_backend": backend, "free_intermediates": preset == "all"})
        losses = (*LOSSES[: int(faith)], LOSSES[1], LOSSES[3])
        config = _config(loss_metrics=losses, use_delta_component=delta, gradient_accumulation_steps=parts, perf=perf)
        trainer = _trainer(config)
        result = trainer.step(iter(_tokens().chunk(parts)))
        assert result.total.isfinite()


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.n: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n[func.__name__.split(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def _model(**perf: Any) -> ComponentModel:
    torch.manual_seed(5)
    info = tuple(ModulePattern(module_pattern=name, C=7) for name in SITES)
    return ComponentModel(Net(), info, MLPConfig(hidden_dims=(5,)), perf=PerfConfig(**perf))


def test_what_precedes_the_first_masked_site_is_not_computed_again() -> None:
    counts = []
    for reuse in (False, True):
        model = _model(site_backend="inline", reuse_prefix=reuse)
        run = TargetRun.of(model, _tokens(), "mse")
        infos = make_mask_infos({"head": torch.ones(4, 3, 7)})
        with _Count() as count:
            out = model(_tokens(), mask_infos=infos, known=run.known)
        torch.testing.assert_close(out, model(_tokens(), mask_infos=infos))
        counts.append(count.n)
    assert counts[0]["tanh"] == 2
    assert counts[0]["roll"] == counts[0]["relu"] == 1
    assert not any(counts[1][name] for name in ("tanh", "roll", "relu", "embedding"))


def test_two_sites_that_read_the_same_tensor_share_what_is_known() -> None:
    model = _model(site_backend="inline", reuse_prefix=True, reuse_inner_acts=True, delta_mode="folded")
    run = TargetRun.of(model, _tokens(), "mse")
    g = {name: torch.rand(4, 3, 7) for name in ("up", "gate")}
    infos = stochastic_mask_infos(g, SourceSampler(0), "continuous", FOLDED)
    with _Count() as count:
        model(_tokens(), mask_infos=infos, known=run.known)
    # Once U for each of the two, and the two layers behind them: nothing of their own, and no inner activations.
    assert count.n["mm"] + count.n["addmm"] == 4


def test_tokens_that_come_again_have_one_importance() -> None:
    rows = []
    model = _model(row_dedup=True)
    model.ci_fns["embed"].register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[:-1]))
    tokens = torch.tensor([[1, 1, 2], [2, 1, 1]])
    found = model.calc_causal_importances({"embed": tokens}).pre_sigmoid["embed"]
    assert rows == [(2,)]
    torch.testing.assert_close(found, _model().calc_causal_importances({"embed": tokens}).pre_sigmoid["embed"])


def test_positions_that_are_not_routed_are_left_out_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(site_backend="inline", row_dedup=True, delta_mode="folded")
    g = {name: torch.rand(4, 3, 7) for name in SITES}
    infos = stochastic_mask_infos(g, SourceSampler(0), "continuous", FOLDED, route_uniform_k)
    seen: list[int] = []
    expected: list[int] = []
    for name, components in model.components.items():
        routed = infos[name].routing_mask
        assert isinstance(routed, torch.Tensor)
        expected.append(int(routed.sum()))

        def counted(x: torch.Tensor, inner: Any = components.get_inner_acts) -> torch.Tensor:
            seen.append(len(x))
            return inner(x)  # type: ignore[no-any-return]

        monkeypatch.setattr(components, "get_inner_acts", counted)
    model(_tokens(), mask_infos=infos)
    assert seen == expected
    assert min(seen) < 12


def _kept(trainer: Trainer) -> int:
    """Bytes that a step's losses keep for their backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total, *_ = trainer.losses(_tokens(), 0.0)
    assert total.requires_grad
    return sum(kept.values())


def test_checkpointed_passes_keep_less() -> None:
    losses = (StochasticReconLayerwiseLoss(coeff=1.0), StochasticReconSubsetLoss(coeff=1.0))
    whole, less = (
        _kept(_trainer(_config(loss_metrics=losses, perf=PerfConfig(grad_checkpointing=on)))) for on in (False, True)
    )
    assert less < 0.7 * whole


def test_passes_that_were_let_go_leave_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_run, "_FEW_MASKS", 0)
    model = _model(free_intermediates=True)
    run = TargetRun.of(model, _tokens(), "mse")
    g = model.calc_causal_importances(run.acts).lower_leaky
    loss = run.masked(stochastic_mask_infos(g, SourceSampler(0), "continuous")).total
    assert loss.grad_fn is not None
    assert {type(fn).__name__ for fn, _ in loss.grad_fn.next_functions} <= {
        "AccumulateGrad",
        "AddBackward0",
        "NoneType",
    }
    # A search takes the gradients of its sources, and no others: nothing is taken in advance.
    assert "Settled" not in type(run.masked(make_mask_infos(g), searching=True).total.grad_fn).__name__
    monkeypatch.setattr(target_run, "_FEW_MASKS", 1000)
    assert "Settled" not in type(run.masked(make_mask_infos(g)).total.grad_fn).__name__


def test_importances_outside_their_range_are_named() -> None:
    for skip in (False, True):
        model = _model(skip_range_checks=skip)
        model.sigmoids = SigmoidPair(lambda z: z + 7, lambda z: z, (0.0, 1.0))
        acts = model(_tokens(), cache_type="input").cache
        if skip:
            model.calc_causal_importances(acts)
            continue
        with pytest.raises(ConfigError, match=r"0\.0 to 1\.0; those of embed go"):
            model.calc_causal_importances(acts)


def test_checks_of_a_range_are_two_reads_a_site() -> None:
    reads = []
    for skip in (False, True):
        model = _model(skip_range_checks=skip)
        acts = model(_tokens(), cache_type="input").cache
        with _Count() as count:
            model.calc_causal_importances(acts)
        reads.append(count.n["_local_scalar_dense"] + count.n["is_nonzero"])
    assert reads == [2 * len(SITES), 0]


def _run() -> tuple[TargetRun, dict[str, torch.Tensor]]:
    run = TargetRun.of(_model(), _tokens(), "mse")
    return run, run.model.calc_causal_importances(run.acts).lower_leaky


def test_sources_outside_their_range_are_refused() -> None:
    run, g = _run()

    class Odd(SourceSampler):
        def uniform(self, shape: Any) -> torch.Tensor:
            return super().uniform(shape) + 0.5

    with pytest.raises(SamplingError, match="sources are from 0 to 1"):
        pgd_sum(run, g, sampler=Odd(0), attack=Attack(0.1, 1, check=True))
    assert pgd_sum(run, g, sampler=Odd(0), attack=Attack(0.1, 1)).mean.isfinite()


@pytest.mark.parametrize("scope", ["shared_across_batch", "unique_per_datapoint"])
def test_a_search_on_part_of_a_batch(scope: Any) -> None:
    run, g = _run()
    found = pgd_sum(run, g, sampler=SourceSampler(0), attack=Attack(0.1, 3, mask_scope=scope, batch_fraction=0.5))
    half, half_g = run.part(2), {name: value[:2] for name, value in g.items()}
    shared = scope == "shared_across_batch"
    assert found.count == (run if shared else half).output.numel()
    # By hand: sources from the first half, then their loss on what they are for.
    sampler, sources = SourceSampler(0), {}
    for name in SITES:
        drawn = sampler.uniform((1, 1, 8) if shared else (4, 3, 8))
        sources[name] = drawn if shared else drawn[:2]

    def loss(at: Any, deltas: Any, tried: Any) -> Any:
        return half.masked(mask_infos_of(at, tried, deltas))

    ended = ascend(loss, run.model, half_g, None, sources, Attack(0.1, 3, mask_scope=scope))
    expected = (run if shared else half).masked(mask_infos_of(g if shared else half_g, ended, None))
    torch.testing.assert_close(found.total, expected.total)


def test_the_adversary_begins_with_fewer_and_larger_steps() -> None:
    schedule = PgdSchedule(n_steps_start=2, ramp_frac=0.5, step_size_factor=4.0)
    found = [scheduled_steps(10, 0.1, schedule, f) for f in (0.0, 0.25, 0.5, 1.0)]
    assert [steps for steps, _ in found] == [2, 6, 10, 10]
    assert [size for _, size in found] == pytest.approx([0.4, 0.4, 0.1, 0.1])
    assert scheduled_steps(1, 0.1, schedule, 0.0) == (1, 0.1)
    run, _ = _run()
    ci = run.model.calc_causal_importances(run.acts)
    context = LossContext(
        run, ci, SourceSampler(0), "continuous", None, run.model.calc_weight_deltas, pgd_schedule=schedule,
        pgd_batch_fraction=0.5,
    )  # fmt: skip
    attack = context.attack(PGDReconSubsetLoss(coeff=1.0, step_size=0.1, n_steps=10))["attack"]
    assert (attack.n_steps, attack.step_size, attack.batch_fraction) == (2, pytest.approx(0.4), 0.5)
