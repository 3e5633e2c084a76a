"""A trial: its networks, its scores, and dense training as torch alone would do it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from resu.baselines import method_config
from resu.experiments.data import Part, TaskData
from resu.experiments.models import CharacterModel, build_model, mlp, score
from resu.experiments.trial import Trial, TrialSettings, cosine


def settings(name: str, sparsity: float = 0.9, seed: int = 0, steps: int = 30, **changes: object) -> TrialSettings:
    return TrialSettings(
        method_config(name, **changes), sparsity, learning_rate=0.01, seed=seed, steps=steps, batch=16, backend="eager"
    )


def test_a_dense_trial_is_torchs_own_training(small_task: TaskData) -> None:
    trial = Trial(small_task, "tune", settings("dense", sparsity=0.0))
    model = build_model(small_task, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    batches = torch.randint(120, (30, 16), generator=torch.Generator().manual_seed(0))
    for step, rows in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.005 * (1 + math.cos(math.pi * step / 30))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(small_task.train.inputs[rows]), small_task.train.targets[rows]).backward()
        optimizer.step()
    trial.run()
    for ours, theirs in zip(trial.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_a_seed_decides_weights_masks_and_batches(small_task: TaskData) -> None:
    scores, masks = [], []
    for seed in (1, 1, 2):
        trial = Trial(small_task, "test", settings("rigl", seed=seed, interval=5))
        scores.append(trial.run())
        masks.append([sparse.mask for sparse in trial.sparsifier.parameters.values()])
    assert scores[0] == scores[1]
    assert masks[0] == masks[1]
    assert masks[0] != masks[2]


def test_sparse_layers_start_rescaled(small_task: TaskData) -> None:
    trial = Trial(small_task, "tune", settings("static", sparsity=0.9))
    dense = build_model(small_task, seed=0)
    for name, sparse in trial.sparsifier.parameters.items():
        active = sparse.mask.row_bool(slice(None))
        original = dict(dense.named_parameters())[name].detach()
        assert sparse.mask.n_active == trial.sparsifier.counts()[name]
        expected = original[active] / math.sqrt(sparse.mask.density)
        torch.testing.assert_close(sparse.weight[active], expected)


def test_stages_learn_and_score_on_their_parts(small_task: TaskData) -> None:
    tune, test = (Trial(small_task, stage, settings("dense")) for stage in ("tune", "test"))
    assert (tune.learn, tune.judge) == (small_task.train, small_task.validation)
    assert (test.learn, test.judge) == (small_task.both, small_task.test)


def test_networks_have_the_stated_sizes(small_task: TaskData) -> None:
    shapes = [tuple(p.shape) for p in build_model(small_task, 0).parameters()]
    assert shapes == [(300, 64), (300,), (100, 300), (100,), (10, 100), (10,)]
    model = CharacterModel(97, torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [(384, 192), (384, 384), (97, 384)]
    assert tuple(model.embedding.shape) == (97, 16)
    assert not any(parameter is model.embedding for parameter in model.parameters())


def test_weights_start_with_he_variance() -> None:
    layer = mlp((400, 300), torch.Generator().manual_seed(1))[0]
    assert isinstance(layer, nn.Linear)
    assert float(layer.weight.detach().double().var()) == pytest.approx(2 / 400, rel=0.03)
    assert not layer.bias.any()


def test_scores_are_per_cent_and_bits(small_task: TaskData) -> None:
    model = build_model(small_task, 0)
    part = small_task.test
    with torch.no_grad():
        logits = model(part.inputs).double().numpy()
    targets = part.targets.numpy()
    assert score(model, small_task, part) == pytest.approx(100 * (logits.argmax(1) == targets).mean())

    codes = torch.randint(5, (40, 12), generator=torch.Generator().manual_seed(0))
    text = Part(codes, codes[:, 0].clone(), torch.arange(40))
    task = TaskData(name="characters", train=text, validation=text, both=text, test=text, classes=5, source={})
    network = build_model(task, 0)
    with torch.no_grad():
        logits = network(codes).double().numpy()
    chosen = logits[np.arange(40), text.targets.numpy()]
    bits = (np.log(np.exp(logits).sum(1)) - chosen).mean() / np.log(2)
    assert score(network, task, text) == pytest.approx(bits, rel=1e-5)


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    assert cosine(0.2, 0, 8) == 0.2
    assert cosine(0.2, 4, 8) == pytest.approx(0.1)
    assert cosine(0.2, 8, 8) == pytest.approx(0, abs=1e-12)
