"""Cycles: when masks are made, by whom, and from which inputs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resu.config import CycleConfig
from resu.core.mask import SparseMask
from resu.errors import ConfigError
from resu.optim.masked import MaskedAdamW
from resu.pruning.wanda import wanda
from resu.sparsifier import Sparsifier
from resu.training.cycle import RESUCycle, RESUTrainer

Loss = Callable[[nn.Module, Any], Tensor]
Config = Callable[..., CycleConfig]
MakeAdamW = Callable[[nn.Module], MaskedAdamW]


def test_masks_near_enough_are_left_alone(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    for tolerance, prunes in ((0.0, 1), (0.2, 0)):
        calls: list[float] = []
        sparsifier = Sparsifier(model, 0.5, distribution="uniform", optimizer=adamw(model))
        sparsifier.prune(sparsity=0.4)
        settings = config(target_sparsity=0.5, prune_tolerance=tolerance, num_cycles=1, distribution="uniform")

        def pruner(sparse: Sparsifier, sparsity: float, calls: list[float] = calls) -> dict[str, SparseMask]:
            calls.append(sparsity)
            return {name: SparseMask.random(s.mask.shape, sparsity) for name, s in sparse.parameters.items()}

        trainer = RESUTrainer(model, settings, sparsifier.optimizer, loss_of, pruner, sparsifier=sparsifier)  # type: ignore[arg-type]
        assert trainer.train(batches)[0].sparsity == 0.5
        assert calls == [0.5] * prunes
        trainer.cycle.close()
        sparsifier.detach()


def test_a_stabilizer_may_give_better_masks(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    calls: list[float] = []

    def stabilizer(sparsifier: Sparsifier) -> dict[str, SparseMask]:
        calls.append(sparsifier.sparsity)
        return {name: SparseMask.random(s.mask.shape, 0.5, seed=9) for name, s in sparsifier.parameters.items()}

    settings = config(target_sparsity=0.5, num_cycles=2, distribution="uniform")
    trainer = RESUTrainer(model, settings, adamw(model), loss_of, stabilizer=stabilizer)
    trainer.train(batches, max_steps=1)
    for sparse in trainer.sparsifier.parameters.values():
        assert sparse.mask == SparseMask.random(sparse.mask.shape, 0.5, seed=9)
    trainer.train(batches)
    assert calls == [0.5]  # after the one PRUNE that there was


def test_wanda_takes_its_inputs_from_the_loader(
    model: nn.Sequential, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    """An input that is always 0 has no say, so its weights are pruned first."""
    quiet = [(torch.where(torch.arange(12) < 6, x, 0.0), y) for x, y in batches]
    settings = config(pruning="wanda", target_sparsity=0.5, distribution="uniform", calibration_batches=2)
    trainer = RESUTrainer(model, settings, adamw(model), loss_of)
    trainer.train(quiet, max_steps=1)
    mask = trainer.sparsifier.parameters["0.weight"].mask
    assert mask.to_bool()[:, :6].all()
    assert not mask.to_bool()[:, 6:].any()


def test_a_pruner_may_be_one_of_the_package_s_own(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    def pruner(sparsifier: Sparsifier, sparsity: float) -> dict[str, SparseMask]:
        return wanda(model, batches, sparsity)

    trainer = RESUTrainer(model, config(target_sparsity=0.5, distribution="uniform"), adamw(model), loss_of, pruner)
    trainer.train(batches, max_steps=1)
    assert trainer.sparsifier.sparsity == 0.5


def test_whole_rows_may_be_pruned(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    settings = config(granularity="row", target_sparsity=0.5, distribution="uniform")
    trainer = RESUTrainer(model, settings, adamw(model), loss_of)
    trainer.train(batches, max_steps=1)
    for sparse in trainer.sparsifier.parameters.values():
        kept = sparse.mask.to_bool().float().mean(1)
        assert sorted(kept.tolist()) == [0.0] * (sparse.mask.rows // 2) + [1.0] * (sparse.mask.rows // 2)


def test_wanda_without_inputs_is_refused(model: nn.Module, adamw: MakeAdamW) -> None:
    optimizer = adamw(model)
    with pytest.raises(ConfigError, match="neither a pruner nor calibration was given"):
        RESUCycle(Sparsifier(model, 0.5, optimizer=optimizer), CycleConfig.preset("paper"), optimizer)
