"""The published forms compute what ours do, and have the defects that are said of them."""

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spd.config.losses import FaithfulnessLoss, ImportanceMinimalityLoss, StochasticReconLayerwiseLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.models.component_model import ComponentModel, OutputWithCache
from spd.models.components import LinearComponents, MLPCiFn
from spd.models.masks import ComponentsMaskInfo
from spd.reference import original
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model

INFO = tuple(ModulePattern(module_pattern=name, C=4) for name in "02")
CI = MLPConfig(hidden_dims=(3,))


def _model(kind: type[ComponentModel] = ComponentModel, **changes: Any) -> Any:
    target = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 5))
    with torch.no_grad():
        for index, parameter in enumerate(target.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter) + index)
    return kind(target, INFO, CI, generator=torch.Generator().manual_seed(1), **changes)


def _infos(model: ComponentModel, *names: str) -> dict[str, ComponentsMaskInfo]:
    deltas = model.calc_weight_deltas()
    routing = torch.tensor([True, False, True])
    return {
        name: ComponentsMaskInfo(torch.full((3, 4), 0.3), routing, (deltas[name], torch.full((3,), 0.6)))
        for name in names
    }


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("0", "2"), ("0",), ("2",)])
def test_hooks_with_state_compute_what_hooks_of_each_pass_do(names: tuple[str, ...]) -> None:
    x = torch.linspace(-1, 1, 15).view(3, 5)
    expected, found = _model(), _model(original.HookStateModel)
    torch.testing.assert_close(
        found(x, mask_infos=_infos(found, *names)), expected(x, mask_infos=_infos(expected, *names))
    )
    cached, ours = found(x, cache_type="input"), expected(x, cache_type="input")
    assert isinstance(cached, OutputWithCache)
    assert cached.cache.keys() == ours.cache.keys()
    assert all(torch.equal(cached.cache[name], ours.cache[name]) for name in ours.cache)
    torch.testing.assert_close(found(x), expected(x))


def test_state_of_a_pass_that_fails_stays() -> None:
    model = _model(original.HookStateModel)
    with pytest.raises(RuntimeError):
        model(torch.ones(3, 4), mask_infos=_infos(model, "0"))
    assert model._hook_state
    x = torch.ones(3, 5)
    assert not torch.allclose(model.target_model(x), _model().target_model(x))  # the target runs masked from now on


# --- computation ------------------------------------------------------------------------------------------------------


def test_weight_deltas_are_the_same_and_the_cache_does_not_heed_a_load() -> None:
    model, plain = _model(original.CachedWeightsModel), _model()
    for name, delta in plain.calc_weight_deltas().items():
        torch.testing.assert_close(model.calc_weight_deltas()[name], delta)
        torch.testing.assert_close(original.weight_deltas_anew(plain)[name], delta)
    model.target_model[0].weight = nn.Parameter(torch.zeros(3, 5), requires_grad=False)
    assert not torch.allclose(model.calc_weight_deltas()["0"], original.weight_deltas_anew(model)["0"])


def test_the_cache_keeps_a_model_alive() -> None:
    kept = []
    for kind in (ComponentModel, original.CachedWeightsModel):
        model = _model(kind)
        model.calc_weight_deltas()
        kept.append(weakref.ref(model))
        del model
    gc.collect()
    assert [reference() is None for reference in kept] == [True, False]
    original.CachedWeightsModel._cached_target_weights.cache_clear()


@pytest.mark.parametrize("bias", [None, torch.ones(2)])
def test_the_fused_product_is_the_unmasked_output(bias: torch.Tensor | None) -> None:
    components = LinearComponents(3, 2, 4, bias=bias, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 15).view(5, 3)
    torch.testing.assert_close(original.fused_forward(components, x), components(x))


def test_loops_by_name_and_in_order_agree() -> None:
    names = ["a", "b", "c"]
    fns = [MLPCiFn(2, (3,), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    acts = [torch.full((4, 2), float(index)) for index in range(3)]
    by_name = original.importances_by_name(dict(zip(names, fns, strict=True)), dict(zip(names, acts, strict=True)))
    in_order = original.importances_in_order(names, fns, acts)
    assert list(in_order) == names
    assert all(torch.equal(by_name[name], in_order[name]) for name in names)


def test_compiled_functions_have_other_names_in_checkpoints() -> None:
    model = _model()
    before = set(model.state_dict())
    original.compile_ci_fns(model)
    changed = set(model.state_dict()) - before
    assert len(changed) == 8
    assert all("._orig_mod." in name for name in changed)


# --- files and figures ------------------------------------------------------------------------------------------------


def test_the_saver_writes_what_it_is_given(tmp_path: Path) -> None:
    saver, state = original.AsyncSaver(), {"w": torch.arange(3.0)}
    saver.save(state, tmp_path / "async.pth")
    saver.queue.join()
    original.save_at_once(state, tmp_path / "waiting.pth")
    for name in ("async", "waiting"):
        assert torch.equal(torch.load(tmp_path / f"{name}.pth", weights_only=True)["w"], state["w"])
    assert saver.queue.maxsize == 0
    assert saver.thread.daemon


def test_on_a_cpu_the_saver_writes_what_training_has_made_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, state, goes_on = original.AsyncSaver(), {"w": torch.zeros(3)}, threading.Event()

    write = torch.save

    def slow(*args: Any, **kwargs: Any) -> None:
        goes_on.wait(10)
        write(*args, **kwargs)

    monkeypatch.setattr(torch, "save", slow)
    saver.save(state, tmp_path / "w.pth")
    state["w"].add_(1)
    goes_on.set()
    saver.queue.join()
    assert torch.load(tmp_path / "w.pth", weights_only=True)["w"].tolist() == [1.0, 1.0, 1.0]


def test_figures_are_committed_at_each_step_or_every_so_many() -> None:
    calls: list[tuple[dict[str, float], dict[str, Any]]] = []

    def log(row: dict[str, float], **how: Any) -> None:
        calls.append((row, how))

    rows = [{"loss": float(index)} for index in range(4)]
    original.log_each(log, rows, first=6)
    assert calls == [(row, {"step": 6 + index}) for index, row in enumerate(rows)]
    calls.clear()
    original.log_batched(log, rows, every=2)
    assert [how.get("commit") for _, how in calls] == [False, False, True, False, False, True]
    assert [row for row, how in calls if not how["commit"]] == rows


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("collect", [original.collect_before, original.collect_after])
def test_both_orders_collect(collect: Any) -> None:
    class Held:
        pass

    held = Held()
    held.itself = held  # type: ignore[attr-defined]
    reference = weakref.ref(held)
    del held
    collect()
    assert reference() is None


@pytest.mark.parametrize("delete", [False, True])
def test_the_loop_of_the_original_trains_as_the_trainer_does(delete: bool) -> None:
    config = Config(
        module_info=INFO, ci=CI, output_loss_type="mse", lr_schedule=LrSchedule(start_val=1e-3), steps=10, batch_size=4,
        loss_metrics=(
            ImportanceMinimalityLoss(coeff=0.1, pnorm=1.0), StochasticReconLayerwiseLoss(coeff=1.0),
            FaithfulnessLoss(coeff=1.0),
        ),
        perf=PerfConfig(),
    )  # fmt: skip
    batches = [torch.rand(4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    results = []
    for freely in (False, True):
        target = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 5))
        torch.manual_seed(0)
        for parameter in target.parameters():
            nn.init.normal_(parameter)
        trainer = Trainer(build_model(target, config), config, SourceSampler(2))
        if freely:
            original.train_freely(trainer, iter(batches), 3, delete=delete)
        else:
            stream = iter(batches)
            for _ in range(3):
                trainer.step(stream)
        results.append([p.detach().clone() for p in trainer.model.parameters() if p.requires_grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
