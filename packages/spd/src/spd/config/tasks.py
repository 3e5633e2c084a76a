"""Settings of what is decomposed and on which data, told apart by `task_name`."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from spd.config.base import Frozen

__all__ = ["IHTask", "LMTask", "ResidMLPTask", "TMSTask", "TaskConfig", "TextTask"]

_Chance = Annotated[float, Field(ge=0, le=1)]
_Count = Literal[
    "at_least_zero_active", "exactly_one_active", "exactly_two_active", "exactly_three_active", "exactly_four_active",
    "exactly_five_active",
]  # fmt: skip


class TMSTask(Frozen):
    """The toy model of superposition, see `spd.experiments.tms`.

    Args:
        target: name of a target that is shipped, or the path of one that was trained.
        feature_probability: chance that a feature is active.
        data_generation_type: how many features are active at once.
        synced_inputs: groups of features that are active together.
    """

    task_name: Literal["tms"] = "tms"
    target: str
    feature_probability: _Chance = 0.05
    data_generation_type: _Count = "at_least_zero_active"
    synced_inputs: tuple[tuple[NonNegativeInt, ...], ...] = ()


class ResidMLPTask(Frozen):
    """The residual network that computes more functions than it has neurons, see `spd.experiments.resid_mlp`.

    Args:
        target: name of a target that is shipped, or the path of one that was trained.
        feature_probability: chance that a feature is active.
        data_generation_type: how many features are active at once.
    """

    task_name: Literal["resid_mlp"] = "resid_mlp"
    target: str
    feature_probability: _Chance = 0.01
    data_generation_type: _Count = "at_least_zero_active"


class IHTask(Frozen):
    """The two-layer transformer with an induction head, see `spd.experiments.ih`.

    Args:
        target: name of a target that is shipped, or the path of one that was trained.
        prefix_window: positions at the beginning among which the first repeated token may stand; None = all.
    """

    task_name: Literal["ih"] = "ih"
    target: str
    prefix_window: PositiveInt | None = None


class TextTask(Frozen):
    """The small transformer over characters of the text that Python brings with it, see `spd.experiments.lm`.

    Args:
        target: name of a target that is shipped, or the path of one that was trained.
        seq_len: characters of an example.
    """

    task_name: Literal["text"] = "text"
    target: str
    seq_len: PositiveInt = 64


class LMTask(Frozen):
    """Any causal language model that transformers loads, and a set of texts; needs the extra `lm`.

    Args:
        pretrained_model_class: import path of the class, whose `from_pretrained` is called.
        pretrained_model_name: a folder, or a name on the Hugging Face Hub.
        pretrained_model_output_attr: of what the model returns; "logits" for all of transformers' own.
        tokenizer_name: a folder or a name; None = the model's.
        dataset_name: a folder of files, one file (.txt, .jsonl, .parquet), or a name on the Hub.
        dataset_config: the part of a set on the Hub.
        column_name: the column that holds text, or tokens.
        train_split: name of the split.
        eval_split: name of the split.
        max_seq_len: tokens of an example.
        is_tokenized: the column holds tokens already, examples at least `max_seq_len` long.
        streaming: do not hold the set in memory.
        buffer_size: examples that are shuffled among each other where the set is streamed.
        shuffle_each_epoch: another order in every pass over the data.
    """

    task_name: Literal["lm"] = "lm"
    pretrained_model_class: str = "transformers.AutoModelForCausalLM"
    pretrained_model_name: str
    pretrained_model_output_attr: str | None = "logits"
    tokenizer_name: str | None = None
    dataset_name: str
    dataset_config: str | None = None
    column_name: str = "text"
    train_split: str = "train"
    eval_split: str = "test"
    max_seq_len: PositiveInt = 512
    is_tokenized: bool = False
    streaming: bool = False
    buffer_size: PositiveInt = 1000
    shuffle_each_epoch: bool = True

    @model_validator(mode="after")
    def _class_has_a_module(self) -> "LMTask":
        if "." not in self.pretrained_model_class:
            raise ValueError(
                "pretrained_model_class is an import path, transformers.AutoModelForCausalLM for example; got "
                f"{self.pretrained_model_class!r}. Put its module before it."
            )
        return self


TaskConfig = Annotated[TMSTask | ResidMLPTask | IHTask | TextTask | LMTask, Field(discriminator="task_name")]
"""Any task."""
