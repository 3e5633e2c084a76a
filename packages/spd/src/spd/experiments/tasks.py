"""From settings to the target that they decompose and its data."""

from torch import nn

from spd.config.run import Config
from spd.config.tasks import IHTask, LMTask, ResidMLPTask, TaskConfig, TextTask, TMSTask
from spd.data import BatchStream, SparseFeatures, mixed_seed
from spd.errors import ConfigError, TargetError
from spd.experiments.ih.model import InductionBatches, InductionTransformer
from spd.experiments.lm.text import TextBatches
from spd.experiments.resid_mlp.model import ResidMLP
from spd.experiments.targets import load_target
from spd.experiments.task import Task, per_rank_batch_sizes
from spd.experiments.tms.model import TMSModel

__all__ = ["build_task"]


def build_task(config: Config, *, rank: int = 0, world_size: int = 1) -> Task:
    """Loads the target and makes its data.

    Args:
        config: the settings, with a task.
        rank: which process.
        world_size: processes in all.

    Returns:
        Target and data.

    Raises:
        ConfigError: no task, or a batch that the ranks do not share evenly.
        CheckpointError: no such target.
        TargetError: a target of another kind than the task's.
    """
    task = config.task_config
    if task is None:
        raise ConfigError(
            "settings name what is decomposed under task_config; here it is null. Add one, or hand target and data to "
            "spd.run_spd.optimize."
        )
    if isinstance(task, LMTask):
        # Lazily: transformers is an extra.
        from spd.experiments.lm.lm_decomposition import build_lm_task

        return build_lm_task(config, rank=rank, world_size=world_size)
    train_size, eval_size = per_rank_batch_sizes(config, world_size)
    target = load_target(task.target)
    # Whatever the two seeds are, an evaluation sees other data than training does.
    train_seed, eval_seed = mixed_seed("train", config.seed), mixed_seed("eval", config.eval_seed)
    return Task(
        target,
        _stream(task, target, train_size, train_seed, rank, held_out=False),
        _stream(task, target, eval_size, eval_seed, rank, held_out=True),
    )


def _stream(
    task: TaskConfig, target: nn.Module, batch_size: int, seed: int, rank: int, *, held_out: bool
) -> BatchStream:
    if isinstance(task, TMSTask) and isinstance(target, TMSModel):
        return SparseFeatures(
            target.linear1.in_features, batch_size, task.feature_probability, active=task.data_generation_type,
            synced_inputs=task.synced_inputs, seed=seed, rank=rank,
        )  # fmt: skip
    if isinstance(task, ResidMLPTask) and isinstance(target, ResidMLP):
        return SparseFeatures(
            target.W_E.shape[0], batch_size, task.feature_probability, active=task.data_generation_type,
            value_range=(-1.0, 1.0), seed=seed, rank=rank,
        )  # fmt: skip
    if isinstance(task, IHTask) and isinstance(target, InductionTransformer):
        return InductionBatches(
            target.embed.num_embeddings - 2, batch_size, target.seq_len, prefix_window=task.prefix_window, seed=seed,
            rank=rank,
        )  # fmt: skip
    if isinstance(task, TextTask):
        return TextBatches(batch_size, task.seq_len, split="held_out" if held_out else "train", seed=seed, rank=rank)
    raise TargetError(
        f"a task {task.task_name!r} decomposes a target of its own kind; {getattr(task, 'target', None)!r} is a "
        f"{type(target).__name__}. Name another target, or another task."
    )
