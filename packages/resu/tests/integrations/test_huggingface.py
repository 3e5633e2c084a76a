"""The callback in a real `transformers.Trainer`, over a tiny model that knows nothing."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from resu.config import CycleConfig
from resu.errors import CheckpointError, ConfigError
from resu.optim.masked import MaskedAdamW

pytestmark = [pytest.mark.needs_extra("transformers", "accelerate"), pytest.mark.filterwarnings("default")]

CONFIG = CycleConfig.preset("quick", num_cycles=2, target_sparsity=0.5)
STEPS = 24


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESU_BACKEND", "eager")


def build(folder: Path, masked: bool = False, config: CycleConfig | None = CONFIG) -> tuple[Any, Any]:
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from resu.integrations.huggingface import RESUCallback

    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            max_position_embeddings=8,
        )
    )  # fmt: skip
    tokens = torch.randint(32, (40, 6), generator=torch.Generator().manual_seed(1))
    data = [{"input_ids": x, "labels": int(x[0]) % 2} for x in tokens]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, gradient_accumulation_steps=2,
        learning_rate=1e-2, save_steps=8, logging_steps=12, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    callback = RESUCallback(config)
    optimizers = (MaskedAdamW(model.parameters(), lr=1e-2), None) if masked else (None, None)
    return Trainer(model, arguments, train_dataset=data, callbacks=[callback], optimizers=optimizers), callback


class Run(NamedTuple):
    """A training that is over."""

    trainer: Any
    callback: Any
    moved: dict[int, float]
    """Share of pruned weights that were not 0 after each step."""


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: sparse.weight.clone() for name, sparse in run.callback.driver.sparsifier.parameters.items()}


def train(folder: Path, masked: bool = False, resume: Path | None = None) -> Run:
    from transformers import TrainerCallback

    moved: dict[int, float] = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            layers = callback.driver.sparsifier.parameters.values()
            pruned = sum(sparse.mask.n_pruned for sparse in layers)
            more = sum(int((sparse.weight != 0).sum()) - sparse.mask.n_active for sparse in layers)
            moved[state.global_step] = more / pruned

    trainer, callback = build(folder, masked)
    trainer.add_callback(Watch())
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return Run(trainer, callback, moved)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESU_BACKEND", "eager")
        return train(tmp_path_factory.mktemp("whole"))


def check(run: Run) -> None:
    cycle, sparsifier = run.callback.driver.cycle, run.callback.driver.sparsifier
    assert (cycle.step, cycle.done, len(run.callback.history)) == (STEPS, True, 2)
    assert all(stats.resurrected > 0 for stats in run.callback.history)
    numel = sum(sparse.parameter.numel() for sparse in sparsifier.parameters.values())
    zeros = sum(int((weight == 0).sum()) for weight in weights(run).values())
    assert zeros / numel == pytest.approx(0.5, abs=1e-3)
    # θ is at 0 before RESU, has left it after one step, and either came back or is 0 again after the commit.
    resu = cycle.config.phase_steps["resu"]
    first = cycle.config.steps_per_cycle - resu
    assert abs(run.moved[first]) < 0.01  # a few active weights are 0 as well
    assert run.moved[first + 1] > 0.5  # positions and words that no batch has shown have no gradient
    assert abs(run.moved[first + resu]) < 0.01


def test_a_trainer_drives_the_phases(whole: Run) -> None:
    check(whole)
    sparse = whole.callback.driver.sparsifier.parameters["bert.encoder.layer.0.intermediate.dense.weight"]
    assert sparse.parameter is whole.trainer.model.bert.encoder.layer[0].intermediate.dense.weight
    told = [entry for entry in whole.trainer.state.log_history if "resu_sparsity" in entry]
    assert [entry["resu_cycle"] for entry in told] == [0, 1]
    state = json.loads((Path(whole.trainer.args.output_dir) / "checkpoint-16" / "trainer_state.json").read_text())
    assert any("resu_churn" in entry for entry in state["log_history"])


def test_a_trainer_with_a_masked_optimizer(tmp_path: Path) -> None:
    run = train(tmp_path, masked=True)
    check(run)
    assert isinstance(run.callback.driver.cycle.optimizer, MaskedAdamW)


def test_a_trainer_goes_on_from_its_checkpoint(whole: Run) -> None:
    folder = Path(whole.trainer.args.output_dir)
    resumed = train(folder, resume=folder / "checkpoint-8")
    assert min(resumed.moved) == 9
    assert resumed.callback.history == whole.callback.history
    assert resumed.callback.driver.cycle.step == STEPS
    whole_weights = weights(whole)
    assert all(torch.equal(weight, whole_weights[name]) for name, weight in weights(resumed).items())
    (folder / "checkpoint-16" / "resu.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint-16/resu\.safetensors is none"):
        train(folder, resume=folder / "checkpoint-16")


def test_a_score_by_gradients_is_refused() -> None:
    from resu.integrations.huggingface import RESUCallback

    with pytest.raises(ConfigError, match="Trainer has thrown them away by then"):
        RESUCallback(CycleConfig(score="gradient"))
