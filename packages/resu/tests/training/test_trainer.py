"""Trainers and loops around a cycle: other models, closures, an optimizer of its own, and what is refused."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resu.config import CycleConfig
from resu.errors import CheckpointError, ConfigError, OptimizerError
from resu.optim.masked import MaskedAdamW, MaskedSGD
from resu.optim.stock import attach
from resu.sparsifier import Sparsifier
from resu.training.clock import heed_masks
from resu.training.cycle import CyclePhase, RESUCycle, RESUTrainer

Loss = Callable[[nn.Module, Any], Tensor]
Config = Callable[..., CycleConfig]
MakeAdamW = Callable[[nn.Module], MaskedAdamW]


# --- other models, other loops ----------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding, a convolution, and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["default", "paper"])
def test_embeddings_convolutions_and_tied_weights(name: str, config: Config) -> None:
    torch.manual_seed(0)
    net, tokens = Tied(), [torch.randint(20, (4, 6)) for _ in range(3)]

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x).flatten(0, 1), x.flatten())

    trainer = RESUTrainer(net, config(name, target_sparsity=0.5, pruning="wanda"), None, loss)
    assert set(trainer.sparsifier.parameters) == {"embed.weight", "conv.weight"}
    history = trainer.train(tokens)
    numel = 160 + 192
    assert history[-1].sparsity == pytest.approx(round(0.5 * numel) / numel)
    assert net.head.weight is net.embed.weight


@pytest.mark.parametrize("selective", [False, True])
def test_a_loop_with_closures(
    selective: bool, make_some: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss, config: Config
) -> None:
    """The closure makes the gradients inside the step; it is evaluated once, and θ trains all the same."""
    inner = make_some(model.parameters())
    optimizer = heed_masks(model, inner)
    sparsifier = Sparsifier(model, 0.5, optimizer=optimizer)
    cycle = RESUCycle(sparsifier, config(use_selective=selective, freeze_others=True, score="magnitude"), optimizer)
    cycle.start()
    calls = 0
    data: Iterator[Any] = itertools.cycle(batches)
    while cycle.phase is not CyclePhase.RESU or cycle.step < 11:
        batch = next(data)

        def closure(batch: Any = batch) -> float:
            nonlocal calls
            calls += 1
            inner.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss.item()

        loss = inner.step(closure)
        assert loss > 0
        cycle.advance(loss)
    assert calls == 11
    for sparse in sparsifier.parameters.values():
        assert sparse.weight[~sparse.mask.row_bool(slice(None))].any()


# --- the trainer's own optimizer, and refusals ------------------------------------------------------------------------


def test_the_trainer_makes_an_optimizer_with_a_warm_up(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config
) -> None:
    rates: list[float] = []
    settings = config(base_lr=0.02, weight_decay=0.3, warmup_steps=4)

    def recorded(net: nn.Module, batch: Any) -> Tensor:
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return loss_of(net, batch)

    trainer = RESUTrainer(model, settings, None, recorded)
    trainer.train(batches, max_steps=6)
    assert rates == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02, 0.02])
    assert isinstance(trainer.optimizer, MaskedAdamW)
    assert trainer.optimizer.param_groups[0]["weight_decay"] == 0.3


def test_an_optimizer_that_heeds_masks_is_taken_as_it_is(model: nn.Module) -> None:
    masked = MaskedSGD(model.parameters(), lr=0.1)
    assert heed_masks(model, masked) is masked
    attachment = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert heed_masks(model, attachment) is attachment


def test_optimizers_that_cannot_keep_weights_frozen_are_refused(
    model: nn.Module, loss_of: Loss, config: Config
) -> None:
    with pytest.raises(OptimizerError, match="LBFGS"):
        RESUTrainer(model, config(), torch.optim.LBFGS(model.parameters()), loss_of)


@pytest.mark.parametrize(
    ("score", "make", "fits"),
    [
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), True),
        ("momentum", lambda p: torch.optim.Adamax(p), True),
        ("momentum", lambda p: torch.optim.SGD(p, lr=0.1), False),
        ("momentum", lambda p: MaskedSGD(p, lr=0.1), False),
        ("momentum", lambda p: torch.optim.RMSprop(p, momentum=0.9), False),
        ("momentum", lambda p: MaskedAdamW(p, layout="compact"), False),
        ("consistency", lambda p: torch.optim.NAdam(p), True),
        ("consistency", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), False),
    ],
)
def test_a_score_that_could_not_be_had_at_the_commit_is_refused_at_once(
    score: str, make: Callable[[Any], Any], fits: bool, model: nn.Module, batches: Any, loss_of: Loss, config: Config
) -> None:
    if fits:
        trainer = RESUTrainer(model, config(score=score), make(model.parameters()), loss_of)
        assert trainer.train(batches)[-1].resurrected > 0
    else:
        with pytest.raises(OptimizerError, match=f"the score '{score}' reads the mean of .* does not keep that"):
            RESUTrainer(model, config(score=score), make(model.parameters()), loss_of)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_gradients_are_still_there_at_the_commit(
    name: str, make_some: Callable[[Any], Any], model: nn.Module, batches: Any, loss_of: Loss, config: Config
) -> None:
    settings = config(name, score="gradient", prune_first=True, initial_sparsity=0.5)
    history = RESUTrainer(model, settings, make_some(model.parameters()), loss_of).train(batches)
    assert all(stats.resurrected > 0 for stats in history)


def test_a_sparsifier_with_another_optimizer_is_refused(
    model: nn.Module, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    with pytest.raises(ConfigError, match="built with none and the loop steps a MaskedAdamW"):
        RESUTrainer(model, config(), adamw(model), loss_of, sparsifier=Sparsifier(model, 0.5))


def test_a_sparsifier_s_attachment_is_found_again(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sparsifier = Sparsifier(model, 0.5, optimizer=attach(model, optimizer))
    trainer = RESUTrainer(model, config(), optimizer, loss_of, sparsifier=sparsifier)
    assert len(trainer.train(batches)) == 3
    assert trainer.cycle.optimizer is sparsifier.optimizer


def test_an_optimizer_of_another_model_is_refused(
    model: nn.Module, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    with pytest.raises(OptimizerError, match=r"does not hold 0\.weight"):
        RESUTrainer(model, config(), adamw(nn.Linear(2, 2)), loss_of)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: 1.0, "it returned a float"),
        (lambda m, b: m(b[0]), r"a tensor of shape \(16, 4\) with a gradient"),
        (lambda m, b: m(b[0]).sum().detach(), r"a tensor of shape \(\) without a gradient"),
    ],
)
def test_what_is_no_loss_is_refused(
    loss: Any, message: str, model: nn.Module, batches: Any, config: Config, adamw: MakeAdamW
) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss)
    with pytest.raises(ConfigError, match=message):
        trainer.train(batches)


def test_loaders_that_give_nothing_or_once_are_refused(
    model: nn.Module, batches: Any, loss_of: Loss, config: Config, adamw: MakeAdamW
) -> None:
    trainer = RESUTrainer(model, config(), adamw(model), loss_of)
    with pytest.raises(ConfigError, match="this one gives none"):
        trainer.train([])
    with pytest.raises(ConfigError, match="a list_iterator gives them once"):
        trainer.train(iter(batches))


def test_other_settings_are_refused_and_other_intervals_are_not(
    model: nn.Module, config: Config, adamw: MakeAdamW
) -> None:
    optimizer = adamw(model)
    cycle = RESUCycle(Sparsifier(model, 0.5, optimizer=optimizer), config(), optimizer)
    cycle.check_settings(config(log_every=1, checkpoint_steps=3).model_dump(mode="json"))
    with pytest.raises(CheckpointError, match=r"seed was 5 and is 0\. Resume with the same settings"):
        cycle.check_settings(config(seed=5).model_dump(mode="json"))
