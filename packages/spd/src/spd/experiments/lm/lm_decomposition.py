"""Any causal language model that transformers loads, and texts of any kind, as a task. Needs the extra `lm`.

The target is loaded here and computes as it was saved, but in float32 and without a cache of keys and values: a
decomposition reads whole sequences. It is compiled, where `perf.compile_target` asks for that, when it is decomposed.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn

from spd.config.run import Config
from spd.config.tasks import LMTask
from spd.errors import ConfigError, TargetError
from spd.experiments.task import Task, per_rank_batch_sizes
from spd.texts import import_lm, load_tokenizer
from spd.tokens import text_stream

__all__ = ["build_lm_task", "load_hf_model"]


def load_hf_model(class_path: str, name: str) -> nn.Module:
    """A trained language model.

    Args:
        class_path: import path of its class, "transformers.AutoModelForCausalLM" for example.
        name: a folder, or a name on the Hugging Face Hub.

    Returns:
        The model, in evaluation mode.

    Raises:
        TargetError: no such class, one that loads nothing, or no such model.
        MissingExtraError: transformers is not installed.
    """
    from_pretrained = _loader_of(class_path)
    try:
        model = from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TargetError(
            f"a target is a folder that save_pretrained wrote, or a name on the Hugging Face Hub; {name!r} gave no "
            f"model: {error}. Correct pretrained_model_name."
        ) from error
    if not isinstance(model, nn.Module):
        raise TargetError(
            f"a target is a torch.nn.Module; {class_path} gave a {type(model).__name__}. Name another class."
        )
    settings = getattr(model, "config", None)
    if hasattr(settings, "use_cache"):
        cast(Any, settings).use_cache = False
    return model.float().eval()


def _loader_of(class_path: str) -> Callable[[str], Any]:
    package, _, name = class_path.rpartition(".")
    if package.partition(".")[0] == "transformers":
        import_lm("transformers")
    try:
        found = getattr(getattr(importlib.import_module(package), name), "from_pretrained")  # noqa: B009
    except (ImportError, AttributeError, ValueError) as error:
        raise TargetError(
            f"pretrained_model_class is the import path of a class with from_pretrained; {class_path!r} is none: "
            f"{error}. Correct it."
        ) from error
    return cast("Callable[[str], Any]", found)


def build_lm_task(config: Config, *, rank: int = 0, world_size: int = 1) -> Task:
    """The target and the data of a language-model decomposition.

    Args:
        config: settings whose `task_config` is of a language model. Data of training follow `seed`, data of
            evaluations `eval_seed`.
        rank: which process of several.
        world_size: how many; each gets its share of every batch.

    Returns:
        The task.

    Raises:
        ConfigError: another task, or batches that do not part evenly.
        TargetError: a model that cannot be loaded.
        DataError: texts that are missing, or too short.
        MissingExtraError: the extra `lm` is not installed.
    """
    task = config.task_config
    if not isinstance(task, LMTask):
        raise ConfigError(
            f"a language model is decomposed with task_name 'lm'; got {None if task is None else task.task_name!r}. "
            "Set task_config."
        )
    own, own_eval = per_rank_batch_sizes(config, world_size)
    target = load_hf_model(task.pretrained_model_class, task.pretrained_model_name)
    tokenizer = None if task.is_tokenized else load_tokenizer(task)
    stream = partial(text_stream, task, tokenizer=tokenizer, rank=rank, world_size=world_size)
    return Task(
        target, stream(own, split="train", seed=config.seed), stream(own_eval, split="eval", seed=config.eval_seed),
        task.pretrained_model_output_attr,
    )  # fmt: skip
