"""Evaluations: all losses, everything else that settings name, and nothing that a training would notice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spd.config.evals import (
    CI_L0,
    CEandKLLosses,
    CIHistograms,
    CIMeanPerComponent,
    ComponentActivationDensity,
    DirectionMatchConfig,
    IdentityCI,
    IdentityCIError,
    PermutedCIPlots,
    PGDMultiBatchReconLoss,
    PGDMultiBatchReconSubsetLoss,
    UVPlots,
)
from spd.config.losses import (
    CIMaskedReconLoss,
    FaithfulnessLoss,
    ImportanceMinimalityLoss,
    PersistentPGDReconLoss,
    PGDReconLoss,
    StochasticReconLoss,
    UnmaskedReconLoss,
)
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PRESETS
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import CheckpointError, ConfigError, DataError
from spd.eval import Evaluation, evaluate, measures, read_evaluation, write_evaluation
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model

FEATURES, C = 5, 6

EVERYTHING = (
    CI_L0(groups={"all": ("*",)}),
    IdentityCIError(identity_ci=(IdentityCI(layer_pattern="0", n_features=FEATURES),)),
    DirectionMatchConfig(layer_pattern="0"),
    CIHistograms(),
    CIMeanPerComponent(),
    ComponentActivationDensity(),
    PermutedCIPlots(),
    UVPlots(),
    PGDMultiBatchReconLoss(step_size=0.2, n_steps=2, gradient_accumulation_steps=2),
    PGDMultiBatchReconSubsetLoss(step_size=0.2, n_steps=2, gradient_accumulation_steps=4),
)
LOSSES = (
    FaithfulnessLoss(coeff=0.5),
    ImportanceMinimalityLoss(coeff=1e-3, pnorm=2.0, p_anneal_start_frac=0.0, p_anneal_final_p=1.0),
    StochasticReconLoss(coeff=1.0),
    PGDReconLoss(coeff=0.2, step_size=0.2, n_steps=2),
    PersistentPGDReconLoss(coeff=0.1),
)


def _config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=C) for name in "02"),
        "ci": MLPConfig(hidden_dims=(4,)), "output_loss_type": "mse", "loss_metrics": LOSSES,
        "lr_schedule": LrSchedule(start_val=1e-2), "steps": 10, "batch_size": 8, "eval_metrics": EVERYTHING,
    }  # fmt: skip
    return Config(**(settings | changes))


def _target() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(FEATURES, 3), nn.ReLU(), nn.Linear(3, FEATURES))


def _batches(seed: int = 1, rows: int = 8) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.rand(rows, FEATURES, generator=generator)


def _evaluated(config: Config, n_steps: int = 3, **more: Any) -> Evaluation:
    model = build_model(_target(), config)
    return evaluate(model, config, _batches(), n_steps, SourceSampler(1), **({"slow": True} | more))


def test_a_slow_evaluation_has_everything_and_a_quick_one_no_tables() -> None:
    slow, quick = _evaluated(_config()), _evaluated(_config(), slow=False)
    losses = {f"loss/{loss.classname}" for loss in LOSSES} | {"loss/total"}
    alive = {"CI_alive/0", "CI_alive/2"}
    sparse = {"CI_L0/0", "CI_L0/2", "CI_L0/group/all", "CI_L0/total"}
    truth = {"IdentityCIError/0/0.1", "IdentityCIError/0/0.2", "DirectionMatch/0/mmcs", "DirectionMatch/0/ml2r"}
    assert set(quick.numbers) == losses | alive | sparse | truth
    assert set(slow.numbers) - set(quick.numbers) == {"PGDMultiBatchReconLoss", "PGDMultiBatchReconSubsetLoss"}
    assert not quick.tables
    assert {key.split("/")[0] for key in slow.tables} == {
        "CIHistograms", "CIMeanPerComponent", "ComponentActivationDensity", "PermutedCIPlots", "UVPlots",
    }  # fmt: skip
    assert all(isinstance(value, float) for value in slow.numbers.values())
    # The same sites' importances are drawn, and their components in the same order.
    for site in "02":
        assert torch.equal(slow.tables[f"UVPlots/{site}/order"], slow.tables[f"PermutedCIPlots/{site}/order"])
    total = sum(loss.coeff * slow.numbers[f"loss/{loss.classname}"] for loss in LOSSES)
    assert slow.numbers["loss/total"] == pytest.approx(total)
    assert _evaluated(_config()).numbers == slow.numbers


def test_losses_are_means_over_all_positions_of_batches_of_any_size() -> None:
    losses = (
        UnmaskedReconLoss(coeff=1.0),
        CIMaskedReconLoss(coeff=1.0),
        ImportanceMinimalityLoss(coeff=1.0, pnorm=1.5),
    )
    config = _config(loss_metrics=losses, eval_metrics=())
    model = build_model(_target(), config)
    x = next(_batches(rows=12))
    whole = evaluate(model, config, iter([x]), 1, SourceSampler(0), slow=False).numbers
    parts = evaluate(model, config, iter(x.split((2, 7, 3))), 3, SourceSampler(0), slow=False).numbers
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_loss_that_changes_with_training_is_taken_where_the_training_is() -> None:
    config = _config(eval_metrics=())
    start, end = (_evaluated(config, fraction=at).numbers["loss/ImportanceMinimalityLoss"] for at in (0, 1.0))
    assert start < end  # p falls from 2 to 1, and importances are below 1


def test_switches_of_execution_change_no_number() -> None:
    want = _evaluated(_config())
    found = _evaluated(_config(perf=PRESETS["all"]))
    assert found.numbers == pytest.approx(want.numbers, rel=1e-4, abs=1e-6)
    for key, table in want.tables.items():
        torch.testing.assert_close(found.tables[key], table, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preset", ["none", "all"])
def test_training_is_the_same_with_and_without_an_evaluation_in_between(preset: str) -> None:
    config, after = _config(perf=PRESETS[preset]), []
    for evaluates in (False, True):
        trainer = Trainer(build_model(_target(), config), config, SourceSampler(3))
        stream = _batches(seed=9)
        torch.manual_seed(7)
        for step in range(5):
            trainer.step(stream)
            if evaluates and step in (1, 3):
                evaluate(trainer.model, config, _batches(), 2, SourceSampler(1), slow=True, fraction=step / 5)
        after.append([
            *(p.detach().clone() for p in trainer.model.parameters()), trainer.sampler.generator.get_state(),
            torch.get_rng_state(), *trainer.persistent[4].sources.values(),
        ])  # fmt: skip
        assert all(p.requires_grad for p in trainer.model._components.parameters())
        assert not any(p.requires_grad for p in trainer.model.target_model.parameters())
    for alone, evaluated in zip(*after, strict=True):
        assert torch.equal(alone, evaluated)


def test_an_evaluation_leaves_no_gradients_behind() -> None:
    config = _config()
    model = build_model(_target(), config)
    evaluate(model, config, _batches(), 2, SourceSampler(1), slow=True)
    assert all(p.grad is None for p in model.parameters())


def test_sums_are_averaged_over_ranks_before_they_are_divided() -> None:
    """Two ranks of one batch each, the second one played by a recording, against one process with both."""
    losses = (UnmaskedReconLoss(coeff=1.0),)
    metrics = (CI_L0(), ComponentActivationDensity(), CIHistograms(), IdentityCIError(
        identity_ci=(IdentityCI(layer_pattern="0", n_features=FEATURES),)
    ))  # fmt: skip
    config = _config(loss_metrics=losses, eval_metrics=metrics)
    model = build_model(_target(), config)
    one, two = next(_batches(1, rows=6)), next(_batches(2, rows=2))
    sent: list[torch.Tensor] = []

    def record(tensor: torch.Tensor) -> torch.Tensor:
        sent.append(tensor.clone())
        return tensor

    for batch in (one, two):
        evaluate(model, config, iter([batch]), 1, SourceSampler(0), slow=True, reduce_mean=record)
    assert len(sent) == 2  # one reduction a rank
    mean = (sent[0] + sent[1]) / 2
    ranks = [
        evaluate(model, config, iter([batch]), 1, SourceSampler(0), slow=True, reduce_mean=lambda _: mean)
        for batch in (one, two)
    ]
    both = evaluate(model, config, iter([one, two]), 2, SourceSampler(0), slow=True)
    for rank in ranks:
        assert rank.numbers == pytest.approx(both.numbers, rel=1e-6)
        for key, table in rank.tables.items():
            scale = 2 if key.startswith("CIHistograms") else 1  # counts are those of a rank, on average
            torch.testing.assert_close(table * scale, both.tables[key], rtol=1e-6, atol=1e-9)


def test_a_metric_that_is_asked_for_twice_has_two_names() -> None:
    found = measures(_config(eval_metrics=(CI_L0(), CIHistograms(), CI_L0())), slow=False)
    assert [measure.name for measure in found] == ["CI_L0", "CI_L0_2"]


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="output_loss_type is 'mse'"):
        _evaluated(_config(eval_metrics=(CEandKLLosses(),)))
    with pytest.raises(ConfigError, match="n_features of IdentityCIError"):
        _evaluated(_config(eval_metrics=(IdentityCIError(identity_ci=(IdentityCI(layer_pattern="0", n_features=4),)),)))
    with pytest.raises(DataError, match="at least one batch; n_steps is 0"):
        _evaluated(_config(eval_metrics=()), n_steps=0)
    config = _config()
    model = build_model(_target(), config)
    two = iter([next(_batches()), next(_batches())])
    with pytest.raises(DataError, match="takes 4 batches; they ended after 2"):  # an adversary of four batches
        evaluate(model, config, two, 1, SourceSampler(0), slow=True)


def test_a_language_model_has_no_single_features() -> None:
    target = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    info = tuple(ModulePattern(module_pattern=name, C=C) for name in "01")
    tokens = torch.randint(7, (2, 6))
    for metric, message in ((PermutedCIPlots(), "vector of features"), (UVPlots(), "torch.int64")):
        config = _config(
            module_info=info,
            output_loss_type="kl",
            eval_metrics=(metric,),
            loss_metrics=(StochasticReconLoss(coeff=1.0),),
        )
        model = build_model(target, config)
        with pytest.raises(ConfigError, match=message):
            evaluate(model, config, iter([tokens]), 1, SourceSampler(0), slow=True)
        model.detach_target()
    config = config.model_copy(update={"eval_metrics": (CEandKLLosses(), CI_L0())})
    model = build_model(target, config)
    found = evaluate(model, config, iter([tokens]), 1, SourceSampler(0), slow=True).numbers
    assert found["CEandKLLosses/ce_unrecovered_zero"] == pytest.approx(1.0)
    assert found["CEandKLLosses/kl_zero"] > 0


def test_an_evaluation_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = _evaluated(_config())
    odd = Evaluation(found.numbers | {"undefined": float("nan")}, found.tables, {"a/worst": "b"})
    files = write_evaluation(odd, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in files)
    assert json.loads(files[0].read_text())["numbers"]["undefined"] is None
    again = read_evaluation(tmp_path / "new")
    assert again.numbers == pytest.approx(odd.numbers, nan_ok=True, rel=0)
    assert again.labels == odd.labels
    assert list(again.tables) == list(odd.tables)
    assert all(torch.equal(again.tables[key], table) for key, table in odd.tables.items())
    with pytest.raises(CheckpointError, match="could not be read"):
        read_evaluation(tmp_path)
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(CheckpointError, match="Evaluate again"):
        read_evaluation(tmp_path / "new")
