"""What one rank does in the tests of several: `python distributed_rank.py FOLDER`, with torchrun's environment.

Each scenario also runs in the test's own process, as the only one and with all of the data. Two ranks that draw slices
of one stream must then come to the same.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spd.config.losses import (
    FaithfulnessLoss,
    ImportanceMinimalityLoss,
    LossConfig,
    PersistentPGDReconLoss,
    PGDReconLayerwiseLoss,
    PGDReconLoss,
    PGDReconSubsetLoss,
    StochasticHiddenActsReconLoss,
    StochasticReconLayerwiseLoss,
    StochasticReconLoss,
    StochasticReconSubsetLoss,
    UnmaskedReconLoss,
)
from spd.config.models import MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.distributed import Distributed, gathered, gathered_state, shard, share
from spd.errors import RankError
from spd.sampling import SourceSampler
from spd.training import Trainer, build_model

ROWS = 10  # of a rank's microbatch: a length that no other axis has
WORLD = 2

LOSSES: tuple[LossConfig, ...] = (
    FaithfulnessLoss(coeff=0.7),
    ImportanceMinimalityLoss(coeff=1e-2, pnorm=1.5),
    StochasticReconLoss(coeff=1.0),
    StochasticReconLayerwiseLoss(coeff=0.5),
    StochasticReconSubsetLoss(coeff=0.3),
    StochasticHiddenActsReconLoss(coeff=0.2),
    PGDReconSubsetLoss(coeff=0.4, step_size=0.1, n_steps=2),
    PGDReconLayerwiseLoss(coeff=0.4, step_size=0.1, n_steps=1, mask_scope="unique_per_datapoint"),
)
KEPT: tuple[LossConfig, ...] = (
    PersistentPGDReconLoss(coeff=0.1, scope="single", optimizer="adam"),
    PersistentPGDReconLoss(coeff=0.1, scope="unique_per_datapoint", optimizer="sign"),
)
FAST = PerfConfig(site_backend="inline", delta_mode="folded", pgd_detach=True, reuse_prefix=True, optimizer="fused")


class Sliced(SourceSampler):
    """All ranks' draws from one stream, of which each rank takes its rows; draws without rows are shared."""

    def __init__(self, distributed: Distributed) -> None:
        super().__init__(3)
        self._rank, self._parts = distributed.rank, WORLD // distributed.world_size

    def uniform(self, shape: Sequence[int]) -> Tensor:
        rows = ROWS * self._parts
        if rows not in shape:
            return super().uniform(shape)
        axis = list(shape).index(rows)
        everything = super().uniform([*shape[:axis], ROWS * WORLD, *shape[axis + 1 :]])
        return everything.narrow(axis, self._rank * rows, rows)

    def integers(self, high: int, shape: Sequence[int]) -> Tensor:
        return (self.uniform(shape) * high).long()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


class Language(nn.Module):
    """Tokens in, logits out, with blocks between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def trainer_of(language: bool, distributed: Distributed, sampler: SourceSampler, **changes: Any) -> Trainer:
    torch.manual_seed(5)
    toy = (nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 6))
    target: nn.Module = Language() if language else nn.Sequential(*toy)
    names = ("embed", "blocks.*.up", "blocks.2.down") if language else ("0", "2", "4")
    settings: dict[str, Any] = {
        "module_info": tuple(ModulePattern(module_pattern=name, C=7) for name in names),
        "ci": MLPConfig(hidden_dims=(5,)), "output_loss_type": "kl" if language else "mse", "loss_metrics": LOSSES,
        "lr_schedule": LrSchedule(start_val=1e-2), "steps": 20, "batch_size": 40,
        "grad_clip_norm_components": 0.3, "grad_clip_norm_ci_fns": 0.05,
    }  # fmt: skip
    config = Config(**(settings | changes))
    if distributed.rank:
        torch.manual_seed(77)  # ranks that began with other parameters would show, were they not made those of rank 0
    model = build_model(target, config).double()
    if distributed.rank:
        for p in model.parameters():
            p.data.add_(1.0)
    return Trainer(model, config, sampler)


def batches(distributed: Distributed, language: bool = False, copies: bool = False) -> Iterator[Tensor]:
    """This rank's rows of each microbatch; or the same rows for all ranks."""
    generator = torch.Generator().manual_seed(9)
    while True:
        rows = ROWS if copies else ROWS * WORLD
        x = torch.rand(rows, 6, generator=generator).double()
        if language:
            x = torch.randint(11, (rows, 4), generator=generator)
        x = torch.cat([x, x]) if copies else x
        yield x.chunk(distributed.world_size)[distributed.rank]


def trained(
    distributed: Distributed,
    how: Callable[[Trainer, Distributed], None],
    *,
    steps: int = 3,
    before: int = 0,
    language: bool = False,
    copies: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    trainer = trainer_of(language, distributed, Sliced(distributed), **changes)
    if before:  # all ranks do as the only process does
        alone = Distributed()
        trainer = trainer_of(language, alone, Sliced(alone), **changes)
        whole = batches(alone, language)
        for _ in range(before):
            trainer.step(whole)
        trainer.sampler._rank, trainer.sampler._parts = distributed.rank, WORLD // distributed.world_size  # type: ignore[attr-defined]
    how(trainer, distributed)
    stream = batches(distributed, language, copies)
    for _ in range(before):
        next(stream)
    losses = []
    for _ in range(steps):
        result = trainer.step(stream)
        losses.append(distributed.mean({**result.losses, "total": result.total}))
    found: dict[str, Any] = {"losses": losses, "state": gathered_state(trainer, distributed)}
    found["bytes"] = {
        part: sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in parameters)
        for part, parameters in (
            ("target", list(trainer.model.target_model.parameters())),
            ("trained", [p for group in trainer.optimizer.param_groups for p in group["params"]]),
            ("moments", [state["exp_avg"] for state in trainer.optimizer.state.values()]),
        )
    }
    with gathered(trainer) as model, torch.no_grad():
        x = next(batches(Distributed(), language))
        acts = model(x, cache_type="input").cache
        found["importances"] = model.calc_causal_importances(acts).lower_leaky
        found["deltas"] = model.calc_weight_deltas()
    trainer.step(stream)  # an evaluation leaves a trainer that goes on
    return found


def apart(distributed: Distributed) -> dict[str, Any]:
    """As a run does it: draws and data of each rank's own, for 20 steps."""
    sampler = distributed.sampler(3)
    trainer = trainer_of(False, distributed, sampler, loss_metrics=LOSSES[:3] + LOSSES[6:7] + KEPT)
    share(trainer, distributed)
    stream = batches(distributed)
    for _ in range(20):
        trainer.step(stream)
    parameters = {name: p.detach() for name, p in trainer.model.named_parameters()}
    kept = {sources.scope: sources.sources for sources in trainer.persistent.values()}
    return {"parameters": parameters, "draw": distributed.sampler(3).uniform((5,)), "kept": kept}


def begun(distributed: Distributed) -> dict[str, Any]:
    """On data that all ranks have, the loss of an adversary differs only if its shared sources began elsewhere."""
    losses = (PGDReconLoss(coeff=1.0, step_size=0.1, n_steps=1),)
    trainer = trainer_of(False, distributed, distributed.sampler(3), loss_metrics=losses)
    share(trainer, distributed)
    same = batches(Distributed())
    return {"losses": trainer.step(same).losses}


def agreed(distributed: Distributed) -> dict[str, Any]:
    """What is computed over ranks, from what each of them has."""
    own = torch.tensor([1.0, 5.0]) if distributed.is_main else torch.tensor([3.0, -1.0])
    named = {"a": own, "b": own.sum()}
    mixed = {"a": own, "n": own.long()}
    distributed.barrier()
    return {
        "sum": distributed.sum(own), "mean": distributed.mean(named), "min": distributed.min(mixed),
        "broadcast": distributed.broadcast(named), "gather": distributed.gather(own), "own": own,
        "nothing": distributed.mean({}),
    }  # fmt: skip


SCENARIOS: dict[str, Callable[[Distributed], dict[str, Any]]] = {
    "replicas": lambda at: trained(at, share),
    "replicas, two microbatches": lambda at: trained(
        at, share, steps=2, gradient_accumulation_steps=2, perf=FAST,
        loss_metrics=(*LOSSES, *KEPT, PGDReconLoss(coeff=0.2, step_size=0.2, n_steps=2)),
    ),
    "replicas, importances alone": lambda at: trained(
        at, share, copies=True, loss_metrics=(ImportanceMinimalityLoss(coeff=1.0, pnorm=1.5, beta=0.3),)
    ),
    "replicas, components alone": lambda at: trained(
        at, share, loss_metrics=(FaithfulnessLoss(coeff=1.0), UnmaskedReconLoss(coeff=1.0))
    ),
    "shards": lambda at: trained(at, shard, language=True),
    "shards, two microbatches": lambda at: trained(
        at, shard, steps=2, language=True, gradient_accumulation_steps=2, perf=FAST
    ),
    "shards, from the third step": lambda at: trained(
        at, shard, steps=2, before=2, language=True, perf=PerfConfig(optimizer="foreach")
    ),
    "shards, no blocks": lambda at: trained(at, shard, steps=2, perf=PerfConfig(site_backend="persistent_hooks")),
    "apart": apart,
    "begun": begun,
    "agreed": agreed,
}  # fmt: skip


def lose_the_other(distributed: Distributed, folder: Path) -> None:
    """Rank 1 ends without a word in the middle of a run; what does rank 0 say?"""
    trainer = trainer_of(False, distributed, distributed.sampler(0))
    share(trainer, distributed)
    stream = batches(distributed)
    trainer.step(stream)
    try:
        with distributed:
            if distributed.rank:
                os._exit(3)
            for _ in range(3):
                trainer.step(stream)
    except RankError as error:
        (folder / "lost.txt").write_text(str(error))
        raise


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed = Distributed.start(timeout=20)
    for number, scenario in enumerate(SCENARIOS.values()):
        torch.save(scenario(distributed), folder / f"{number}_{distributed.rank}.pt")
    lose_the_other(distributed, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
