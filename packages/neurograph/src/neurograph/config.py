"""All settings, as YAML and on a command line.

Groups are frozen and know their keys: one that does not exist is refused with the nearest that does, when the settings
are built and not when they are used.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from neurograph.errors import ConfigError
from neurograph.files import write_whole

__all__ = [
    "Config",
    "DataConfig",
    "GraphConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RadiationConfig",
    "TablesConfig",
    "TrainConfig",
    "load_config",
    "overridden",
    "read_config",
    "ready_configs",
    "write_config",
]

Bins = Annotated[int, Field(ge=2, le=32767)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, lt=1)]

_READY = Path(__file__).parent / "configs"
_SUFFIX = ".yaml"


class _Frozen(BaseModel):
    """A group of settings that does not change after it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"a setting is one that exists; {str(key)!r} does not. {_nearest(key, cls)}")
        return values


class GraphConfig(_Frozen):
    """Which nodes there are, and who listens to whom.

    Either `widths`, for a graph of levels, or the three counts, for one of blocks. Where a count is given and no
    widths are, the graph is one of blocks.

    Args:
        widths: nodes of each level, inputs first and outputs last; None = a graph of blocks.
        n_inputs: input nodes of a graph of blocks.
        n_hidden: its nodes between.
        n_outputs: its output nodes.
        blocks: into how many blocks its hidden nodes are cut; each listens to the blocks before it.
        cardinality: how many nodes a node listens to, or all that come before it where they are fewer.
        seed: of the random edges.
    """

    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] | None = (64, 256, 256, 10)
    n_inputs: PositiveInt | None = None
    n_hidden: NonNegativeInt | None = None
    n_outputs: PositiveInt | None = None
    blocks: PositiveInt = 4
    cardinality: PositiveInt = 16
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _counts_alone_mean_blocks(cls, values: Any) -> Any:
        if isinstance(values, dict) and "widths" not in values:
            counts = (values.get("n_inputs"), values.get("n_hidden"), values.get("n_outputs"))
            if any(count is not None for count in counts):
                return {**values, "widths": None}
        return values

    @model_validator(mode="after")
    def _one_kind(self) -> "GraphConfig":
        counts = {"n_inputs": self.n_inputs, "n_hidden": self.n_hidden, "n_outputs": self.n_outputs}
        given = [name for name, count in counts.items() if count is not None]
        if self.widths is not None and given:
            raise ValueError(
                f"a graph has widths, or the counts n_inputs, n_hidden and n_outputs; got widths {self.widths} and "
                f"{', '.join(given)}. Set widths to null, or leave the counts out."
            )
        if self.widths is None and len(given) < len(counts):
            raise ValueError(
                f"a graph without widths has n_inputs, n_hidden and n_outputs; got {', '.join(given) or 'none'}. "
                "Give all three, or widths."
            )
        return self

    @property
    def inputs(self) -> int:
        """Number of input nodes of either kind."""
        return self.widths[0] if self.widths is not None else self.n_inputs or 0

    @property
    def outputs(self) -> int:
        """Number of output nodes of either kind."""
        return self.widths[-1] if self.widths is not None else self.n_outputs or 0


class TablesConfig(_Frozen):
    """What an index means.

    Args:
        phase_bins: phases on the circle.
        mag_bins: magnitudes.
        magnitude: the curve that magnitudes lie on.
        grid: `half_open`: magnitudes wrap around as phases do; `inclusive`: both ends are on the grid, and indices
            stop there.
    """

    phase_bins: Bins = 512
    mag_bins: Bins = 1024
    magnitude: Literal["exp_sin", "exp", "sigmoid"] = "exp_sin"
    grid: Literal["half_open", "inclusive"] = "half_open"


class ModelConfig(_Frozen):
    """How states are made and read.

    Args:
        dim: D, phasors of a node.
        merge: `superpose`: messages are added as phasors; `modular`: their indices are added, as the original did.
        backend: how messages are summed; all agree.
        snap: whether states are put on the grid of the tables.
        scale: cosines with the class codes are multiplied by it to be logits.
    """

    dim: PositiveInt = 8
    merge: Literal["superpose", "modular"] = "superpose"
    backend: Literal["dense", "sparse", "gather"] = "dense"
    snap: bool = True
    scale: PositiveFloat = 12.0


class RadiationConfig(_Frozen):
    """Links that are chosen by content, beside the static edges.

    Args:
        top_k: how many nodes a node radiates to.
        gain: how much the radiated message weighs against the static ones.
        beta: how sharply scores become weights; softmax(beta · score).
    """

    top_k: PositiveInt = 4
    gain: NonNegativeFloat = 0.25
    beta: PositiveFloat = 4.0


class OptimizerConfig(_Frozen):
    """How gradients move indices. Rates are in index steps, so that fewer bins want smaller ones.

    Args:
        kind: `adam` or plain `sgd`; both carry what is less than a whole step on to the next.
        lr_phase: rate of phases.
        lr_mag: rate of magnitudes.
        schedule: `cosine`: falls to 0 over the run; `constant`.
        betas: Adam's two decays.
    """

    kind: Literal["adam", "sgd"] = "adam"
    lr_phase: PositiveFloat = 4.0
    lr_mag: PositiveFloat = 6.0
    schedule: Literal["cosine", "constant"] = "cosine"
    betas: tuple[Share, Share] = (0.9, 0.999)


class TrainConfig(_Frozen):
    """How a network is trained.

    Args:
        epochs: passes over the training samples.
        batch_size: samples of a step.
        credit: whose gradient moves a node: `exact`, of the loss; `contrastive`, of a local loss against all class
            codes; `cosine`, of the similarity with the true class's code alone, as the original had it.
        label_smoothing: share of the target that is spread over all classes.
        shift_augment: move each training picture by at most one pixel; for square pictures.
        accumulation: steps whose gradients are collected before indices move, by the mean times √N.
        optimizer: how gradients move indices.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    credit: Literal["exact", "contrastive", "cosine"] = "exact"
    label_smoothing: Share = 0.0
    shift_augment: bool = False
    accumulation: PositiveInt = 1
    optimizer: OptimizerConfig = OptimizerConfig()


class DataConfig(_Frozen):
    """Which samples.

    Args:
        name: a bundled set, or `idx` for files in MNIST's format; see `neurograph.data.dataset_names`.
        root: the folder of those files.
        test_share: share of samples that are held out; files in MNIST's format have test samples of their own.
    """

    name: str = "digits"
    root: Path | None = None
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Config(_Frozen):
    """Everything that makes a run; the default network is that for scikit-learn's digits.

    Args:
        graph: nodes and edges.
        tables: what an index means.
        model: how states are made and read.
        radiation: links by content; None = none.
        train: how it is trained.
        data: on what.
        seed: of the split, the first indices and the order of samples.
        threads: of torch; None = as many as it likes.
        device: where tensors live.

    Raises:
        pydantic.ValidationError: unknown keys, values out of range, or values that contradict each other.

    >>> Config().train.optimizer.lr_phase
    4.0
    """

    graph: GraphConfig = GraphConfig()
    tables: TablesConfig = TablesConfig()
    model: ModelConfig = ModelConfig()
    radiation: RadiationConfig | None = None
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    seed: Seed = 0
    threads: PositiveInt | None = None
    device: str = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> "Config":
        if self.radiation is not None and self.model.merge == "modular":
            raise ValueError(
                "radiated messages are phasors, which the modular merge does not add; got radiation with "
                "model.merge modular. Set radiation to null, or model.merge to superpose."
            )
        return self


def ready_configs() -> tuple[str, ...]:
    """Names of the settings that are shipped.

    >>> ready_configs()
    ('digits', 'digits-small', 'note')
    """
    return tuple(sorted(path.stem for path in _READY.glob(f"*{_SUFFIX}")))


def load_config(name_or_path: str | Path = "digits", overrides: Sequence[str] = ()) -> Config:
    """Shipped settings, or a file's, with changes.

    Args:
        name_or_path: one of `ready_configs`, or a YAML file.
        overrides: changes `a.b=c`; c is read as YAML.

    Returns:
        The settings.

    Raises:
        ConfigError: no such settings, a change of a key that is not there, or values that are refused.

    >>> load_config("digits-small", ["train.epochs=3", "graph.widths=[64, 32, 10]"]).graph.widths
    (64, 32, 10)
    """
    shipped = str(name_or_path) in ready_configs()
    path = _READY / f"{name_or_path}{_SUFFIX}" if shipped else Path(name_or_path)
    if not path.is_file():
        near = difflib.get_close_matches(str(name_or_path), ready_configs(), n=1)
        raise ConfigError(
            f"settings are a YAML file, or one of {', '.join(ready_configs())}; {str(name_or_path)!r} is neither. "
            f"{f'Did you mean {near[0]}?' if near else 'Name one.'}"
        )
    return overridden(read_config(path), overrides)


def read_config(path: str | Path) -> Config:
    """Settings from a YAML file; what is not in it has its default.

    Args:
        path: the file.

    Returns:
        The settings.

    Raises:
        ConfigError: no YAML, unknown keys, or values that are refused.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"settings are a YAML file; {path} could not be read: {error}. Correct it.") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"settings are names with values; {path} holds {tree!r}. Write lines such as seed: 1.")
    return _built(tree, str(path))


def write_config(path: str | Path, config: Config) -> None:
    """Writes settings as YAML, whole or not at all.

    Args:
        path: the file, replaced where it exists.
        config: the settings, all of them.
    """
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, default_flow_style=None)
    write_whole(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Settings with changes.

    Args:
        config: the settings.
        overrides: see `load_config`.

    Returns:
        New settings.

    Raises:
        ConfigError: a change of a key that is not there, or values that are refused.
    """
    if not overrides:
        return config
    tree: dict[str, Any] = config.model_dump(mode="json")
    for override in overrides:
        _change(tree, override)
    return _built(tree, ", ".join(overrides))


def _built(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        said = [_said(".".join(map(str, one["loc"])), one) for one in error.errors()]
        raise ConfigError(f"settings that cannot be run, in {source}: {'; '.join(said)}") from error


def _said(where: str, error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    # A message of ours says everything; one of pydantic's lacks the value, and what to do.
    if error["type"] != "value_error":
        message = f"{message}; got {error['input']!r}. Correct it."
    return f"{where}: {message}" if where else message


def _change(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"a change of settings is written key=value; got {override!r}. Write train.epochs=5.")
    *path, last = key.split(".")
    at = tree
    for depth, part in enumerate(path):
        inner = at.get(part, {})
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{'.'.join(path[: depth + 1])} is a single value, {inner!r}, with nothing inside; got {override!r}. "
                "Change it as a whole."
            )
        # What does not exist is refused with everything else when the settings are built, with the nearest name.
        at[part] = inner
        at = inner
    try:
        at[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"a setting's value is YAML; in {override!r} it is not: {error}. Quote it.") from error


def _nearest(key: object, group: type[BaseModel]) -> str:
    near = difflib.get_close_matches(str(key), group.model_fields, n=2, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"Choose from {', '.join(group.model_fields)}."
