"""Shipped settings: each runs, and changes on a command line do what they say or are refused."""

from pathlib import Path

import pytest
import torch

from spd.config.losses import ImportanceMinimalityLoss, PGDReconLoss, PGDReconSubsetLoss
from spd.config.perf import PerfConfig
from spd.config.run import write_config
from spd.config.tasks import LMTask
from spd.data import BatchStream, batches
from spd.errors import CheckpointError, ConfigError, TargetError
from spd.experiments.ih.model import InductionBatches
from spd.experiments.registry import load_config, names, overridden
from spd.experiments.targets import save_target
from spd.experiments.task import per_rank_batch_sizes
from spd.experiments.tasks import build_task
from spd.experiments.tms.train_tms import TMSTrainConfig, train_tms
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model

OFFLINE = [name for name in names() if not isinstance(load_config(name).task_config, LMTask)]


def test_all_settings_are_there() -> None:
    assert names() == (
        "tms_5-2", "tms_5-2-id", "tms_40-10", "tms_40-10-id", "resid_mlp1", "resid_mlp2", "resid_mlp3", "ih", "text",
        "gpt2",
    )  # fmt: skip
    assert set(names()) - set(OFFLINE) == {"gpt2"}


@pytest.mark.parametrize("name", names())
def test_settings_run_as_the_original_did_unless_asked(name: str) -> None:
    config = load_config(name)
    assert config.perf == PerfConfig()
    assert config.task_config is not None
    assert config.eval_metrics


@pytest.mark.parametrize("name", OFFLINE)
def test_two_steps_of_each(name: str) -> None:
    changes = ["batch_size=16", "eval_batch_size=16", "perf.site_backend=inline", "perf.delta_mode=folded"]
    config = load_config(name, changes)
    task = build_task(config)
    trainer = Trainer(build_model(task.target, config), config, SourceSampler(0))
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    stream = batches(task.train, "cpu")
    for _ in range(2):
        result = trainer.step(stream)
        assert all(bool(value.isfinite()) for value in result.losses.values())
    assert set(result.losses) == {loss.classname for loss in config.loss_metrics}
    moved = [n for n, p in trainer.model.named_parameters() if n in before and not torch.equal(p, before[n])]
    assert any(n.startswith("_components") for n in moved)
    assert any(n.startswith("_ci_fns") for n in moved)


def test_published_numbers() -> None:
    one, two, gpt2 = load_config("tms_40-10-id"), load_config("resid_mlp2"), load_config("gpt2")
    assert (one.steps, one.module_info[2].C, one.tied_weights) == (20_000, 200, (("linear1", "linear2"),))
    sparse = one.loss_metrics[0]
    assert isinstance(sparse, ImportanceMinimalityLoss)
    assert (sparse.coeff, sparse.pnorm) == (1e-4, 2.0)
    attack = two.loss_metrics[2]
    assert isinstance(attack, PGDReconSubsetLoss)
    assert (attack.coeff, attack.init, attack.step_size, attack.n_steps) == (2.0, "random", 1.0, 1)
    assert [loss.n_steps for loss in gpt2.loss_metrics if isinstance(loss, PGDReconLoss)] == [20]


def test_changes() -> None:
    config = load_config("tms_5-2", ["steps=7", "loss_metrics.0.coeff=1e-3", "task_config.feature_probability=0.5",
                                     "lr_schedule={start_val: 0.5, fn_type: linear}", "eval_metrics=[]",
                                     "perf.pgd_schedule.ramp_frac=0.25", "save_freq=null"])  # fmt: skip
    assert (config.steps, config.loss_metrics[0].coeff, config.eval_metrics) == (7, 1e-3, ())
    assert config.task_config is not None
    assert config.task_config.feature_probability == 0.5  # type: ignore[union-attr]
    assert config.lr_schedule.fn_type == "linear"
    assert config.perf.pgd_schedule is not None
    assert config.perf.pgd_schedule.ramp_frac == 0.25
    assert config.loss_metrics[1:] == load_config("tms_5-2").loss_metrics[1:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("stepz=3", "'stepz' does not. Did you mean steps"),
        ("perff.amp=off", "'perff' does not. Did you mean perf"),
        ("perf.ampp=bf16", r"perf\.ampp.*Did you mean amp"),
        ("loss_metrics.0.coef=1", r"coef: .*Did you mean coeff"),
        ("loss_metrics.3.coeff=1", "from 0 to 2"),
        ("loss_metrics.first.coeff=1", "from 0 to 2"),
        ("steps.a=1", "steps is a single value, 10000"),
        ("steps", "key=value"),
        ("steps=[", "is not"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("perf.amp=bf16", "Switch it off"),
    ],
)
def test_a_change_that_cannot_be_meant_is_refused(change: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("tms_5-2", [change])


def test_one_change_may_make_room_for_another() -> None:
    config = load_config("resid_mlp1", ["ci={ci_fn_type: global_transformer}", "ci.d_model=32"])
    assert config.ci.model_dump()["d_model"] == 32


def test_settings_from_a_file(tmp_path: Path) -> None:
    config = load_config("tms_5-2")
    write_config(config, tmp_path / "mine.yaml")
    assert load_config(tmp_path / "mine.yaml") == config
    with pytest.raises(ConfigError, match="Did you mean tms_5-2"):
        load_config("tms_5_2")


def _equal(one: BatchStream, other: BatchStream) -> bool:
    return torch.equal(one.batch(0), other.batch(0))


@pytest.mark.parametrize("name", ["tms_5-2", "resid_mlp1", "ih", "text"])
def test_ranks_and_evaluations_have_data_of_their_own(name: str) -> None:
    config = load_config(name, ["batch_size=64", "gradient_accumulation_steps=2", "eval_seed=0", "eval_batch_size=32"])
    alone, first, second = build_task(config), *(build_task(config, rank=r, world_size=2) for r in (0, 1))
    assert [len(task.train.batch(0)) for task in (alone, first, second)] == [32, 16, 16]
    assert [len(task.eval.batch(0)) for task in (alone, first, second)] == [32, 16, 16]
    assert not _equal(first.train, second.train)
    assert not _equal(first.eval, second.eval)
    assert not _equal(alone.train, alone.eval)  # although the seeds are the same
    assert not _equal(alone.train, build_task(overridden(config, ["seed=1"])).train)
    assert _equal(alone.eval, build_task(overridden(config, ["seed=1"])).eval)


def test_a_batch_is_shared_evenly() -> None:
    config = load_config("tms_5-2", ["batch_size=96", "eval_batch_size=40"])
    assert per_rank_batch_sizes(config, 4) == (24, 10)
    with pytest.raises(ConfigError, match="eval_batch_size is 40, to be shared by 3"):
        per_rank_batch_sizes(config, 3)
    with pytest.raises(ConfigError, match="batch_size is 96, to be shared by 5"):
        build_task(config, world_size=5)


def test_a_task_has_a_target_of_its_kind() -> None:
    with pytest.raises(TargetError, match=r"'tms' .* 'resid_mlp1' is a ResidMLP"):
        build_task(load_config("tms_5-2", ["task_config.target=resid_mlp1"]))
    with pytest.raises(CheckpointError, match="tms_5-2-id"):
        build_task(load_config("tms_5-2", ["task_config.target=tms_6-2"]))
    with pytest.raises(ConfigError, match="task_config"):
        build_task(load_config("tms_5-2", ["task_config=null"]))


def test_a_target_of_ones_own(tmp_path: Path) -> None:
    model, _ = train_tms(TMSTrainConfig(n_features=6, n_hidden=3, steps=1))
    path = save_target(model, tmp_path / "own.safetensors", kind="tms", settings={"n_features": 6, "n_hidden": 3})
    task = build_task(load_config("tms_5-2", [f"task_config.target={path}", "batch_size=8"]))
    assert task.train.batch(0).shape == (8, 6)


def test_the_window_of_the_first_s() -> None:
    task = build_task(load_config("ih", ["batch_size=512", "task_config.prefix_window=3"]))
    assert isinstance(task.train, InductionBatches)
    first = (task.train.batch(0) == 129).int().argmax(1)
    assert set(first.tolist()) == {1, 2, 3}
