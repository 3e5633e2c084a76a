"""Targets to decompose: those that are shipped, how each was made, and files for others.

A target is one safetensors file. Its header holds, as JSON, what kind of network it is, the arguments that build it,
how it was trained, what was measured of it then, and a SHA-256 of all tensors' bytes. What can be made again exactly
is not in the file: the second of two tied weights, and random directions that come from a seed. Numbers are stored as
float16 where that loses nothing, because the network was rounded before it was measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from spd.config.base import Frozen
from spd.errors import CheckpointError, TargetError
from spd.experiments.ih.model import InductionTransformer
from spd.experiments.ih.train_ih import IHTrainConfig, ih_figures, train_ih
from spd.experiments.lm.model import SimpleLM
from spd.experiments.lm.text import VOCAB_SIZE
from spd.experiments.lm.train_text import TextTrainConfig, text_figures, train_text
from spd.experiments.resid_mlp.model import ResidMLP
from spd.experiments.resid_mlp.train_resid_mlp import ResidMLPTrainConfig, resid_mlp_loss, train_resid_mlp
from spd.experiments.tms.model import TMSModel
from spd.experiments.tms.train_tms import TMSTrainConfig, tms_loss, train_tms
from spd.tensor_files import TensorFile, digest

__all__ = [
    "FORMAT_VERSION",
    "Progress",
    "TargetDescription",
    "TrainedTarget",
    "describe_target",
    "load_target",
    "measure_target",
    "save_target",
    "target_names",
    "train_target",
]

FORMAT_VERSION = 1
_SHIPPED = Path(__file__).parent / "targets_data"
_SUFFIX = ".safetensors"

Progress = Callable[[int, float], None]
"""Is told the step and the loss now and then."""


@dataclass(frozen=True)
class TargetDescription:
    """What a file says of its target.

    Args:
        kind: "tms", "resid_mlp", "ih" or "text".
        settings: the arguments that build the network.
        train_settings: how it was trained.
        figures: what was measured of it.
        path: the file.
    """

    kind: str
    settings: dict[str, Any]
    train_settings: dict[str, Any]
    figures: dict[str, float]
    path: Path


@dataclass(frozen=True)
class TrainedTarget:
    """A target that was just made.

    Args:
        model: in evaluation mode.
        kind: of network.
        settings: the arguments that build it.
        train_settings: how it was trained.
        figures: what was measured of it on fresh data.
        path: the file; None where none was asked for.
    """

    model: nn.Module
    kind: str
    settings: dict[str, Any]
    train_settings: dict[str, Any]
    figures: dict[str, float]
    path: Path | None


# --- kinds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """A kind of network: the class, and which of its tensors a file leaves out."""

    build: Callable[..., nn.Module]
    train_config: type[Frozen]
    train: Callable[[Any, Progress | None], tuple[Any, dict[str, float]]]
    settings: Callable[[Any], dict[str, Any]]
    measure: Callable[[Any, Any], dict[str, float]]
    left_out: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda settings: ()


def _train_tms(config: TMSTrainConfig, progress: Progress | None) -> tuple[TMSModel, dict[str, float]]:
    model, loss = train_tms(config, progress)
    return model, {"loss": loss}


_KINDS: dict[str, _Kind] = {
    "tms": _Kind(
        TMSModel,
        TMSTrainConfig,
        _train_tms,
        lambda c: {"n_features": c.n_features, "n_hidden": c.n_hidden, "n_hidden_layers": c.n_hidden_layers},
        lambda model, c: {"loss": tms_loss(model, c)},
        lambda settings: ("linear2.weight",),
    ),
    "resid_mlp": _Kind(
        ResidMLP,
        ResidMLPTrainConfig,
        train_resid_mlp,
        lambda c: {
            "n_features": c.n_features, "d_embed": c.d_embed, "d_mlp": c.d_mlp, "n_layers": c.n_layers,
            "embedding_seed": c.seed,
        },
        lambda model, c: {"loss": resid_mlp_loss(model, c)},
        lambda settings: () if settings.get("embedding_seed") is None else ("W_E",),
    ),
    "ih": _Kind(
        InductionTransformer,
        IHTrainConfig,
        train_ih,
        lambda c: {
            "vocab_size": c.vocab_size, "d_model": c.d_model, "n_heads": c.n_heads, "n_layers": c.n_layers,
            "seq_len": c.seq_len,
        },
        ih_figures,
    ),
    "text": _Kind(
        SimpleLM,
        TextTrainConfig,
        train_text,
        lambda c: {
            "vocab_size": VOCAB_SIZE, "d_model": c.d_model, "n_heads": c.n_heads, "d_mlp": c.d_mlp,
            "n_layers": c.n_layers,
        },
        text_figures,
    ),
}  # fmt: skip

_RECIPES: dict[str, tuple[str, Frozen]] = {
    "tms_5-2": ("tms", TMSTrainConfig(zero_bias=True)),
    "tms_5-2-id": ("tms", TMSTrainConfig(zero_bias=True, n_hidden_layers=1)),
    "tms_40-10": ("tms", TMSTrainConfig(n_features=40, n_hidden=10, zero_bias=True, batch_size=8192)),
    "tms_40-10-id": (
        "tms",
        TMSTrainConfig(n_features=40, n_hidden=10, n_hidden_layers=1, zero_bias=True, batch_size=8192),
    ),
    "resid_mlp1": ("resid_mlp", ResidMLPTrainConfig()),
    "resid_mlp2": ("resid_mlp", ResidMLPTrainConfig(n_layers=2, d_mlp=25)),
    "resid_mlp3": ("resid_mlp", ResidMLPTrainConfig(n_layers=3, n_features=102, d_mlp=17, steps=10_000)),
    "ih": ("ih", IHTrainConfig()),
    "text": ("text", TextTrainConfig()),
}


def target_names() -> tuple[str, ...]:
    """Targets that are shipped and can be trained anew.

    >>> target_names()[0]
    'tms_5-2'
    """
    return tuple(_RECIPES)


_FILE = TensorFile(
    "spd.target", FORMAT_VERSION, "a target", f"Name another file, or one of {', '.join(_RECIPES)}, or make it again."
)


# --- making -----------------------------------------------------------------------------------------------------------


def train_target(
    name: str,
    *,
    seed: int | None = None,
    steps: int | None = None,
    out: Path | None = None,
    progress: Progress | None = None,
) -> TrainedTarget:
    """Makes a target anew, as the shipped one was made.

    Args:
        name: one of `target_names`.
        seed: of weights and data; None = the shipped one's.
        steps: of training; None = as many as the shipped one had.
        out: the file to write; None = none.
        progress: told how training goes.

    Returns:
        The target and what was measured of it.

    Raises:
        TargetError: no such target.

    >>> train_target("tms_5-2", steps=1).figures["loss"] > 0.01
    True
    """
    if name not in _RECIPES:
        raise TargetError(f"a target that can be trained is one of {', '.join(_RECIPES)}; got {name!r}. Name one.")
    kind_name, recipe = _RECIPES[name]
    changes = {key: value for key, value in (("seed", seed), ("steps", steps)) if value is not None}
    config = type(recipe).model_validate(recipe.model_dump() | changes)
    kind = _KINDS[kind_name]
    model, figures = kind.train(config, progress)
    settings, train_settings = kind.settings(config), config.model_dump(mode="json")
    if out is not None:
        save_target(model, out, kind=kind_name, settings=settings, train_settings=train_settings, figures=figures)
    return TrainedTarget(model, kind_name, settings, train_settings, figures, out)


def measure_target(name_or_path: str | Path) -> dict[str, float]:
    """Measures a target once more, on data that it was not trained on.

    Args:
        name_or_path: of the target.

    Returns:
        The figures, by their names in the file's header.

    Raises:
        CheckpointError: see `load_target`.
    """
    said = describe_target(name_or_path)
    kind = _KINDS[said.kind]
    return kind.measure(load_target(name_or_path), kind.train_config.model_validate(said.train_settings))


# --- files ------------------------------------------------------------------------------------------------------------


def save_target(
    model: nn.Module,
    path: Path,
    *,
    kind: str,
    settings: Mapping[str, Any],
    train_settings: Mapping[str, Any] | None = None,
    figures: Mapping[str, float] | None = None,
) -> Path:
    """Writes a target, whole or not at all.

    Args:
        model: the network.
        path: the file; its folder is made where it is missing.
        kind: "tms", "resid_mlp", "ih" or "text".
        settings: the arguments that build the network.
        train_settings: how it was trained.
        figures: what was measured of it.

    Returns:
        The file.

    Raises:
        TargetError: no such kind, or settings that build another network than this one.
    """
    built = _build(kind, settings, "the settings of a target")
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    expected = built.state_dict()
    wrong = [name for name in state.keys() | expected.keys() if not _same_shape(state.get(name), expected.get(name))]
    wrong += [name for name in _KINDS[kind].left_out(settings) if not wrong and not _made_again(name, state, expected)]
    if wrong:
        raise TargetError(
            f"the settings of a target build it again; {dict(settings)} build another {kind}, which differs at "
            f"{min(wrong)}. Give the model's own."
        )
    kept = {n: _smallest(value) for n, value in state.items() if n not in _KINDS[kind].left_out(settings)}
    header = {
        "kind": kind,
        "settings": dict(settings),
        "train_settings": dict(train_settings or {}),
        "figures": {name: float(value) for name, value in (figures or {}).items()},
        "sha256": _digest_of(state),
    }
    _FILE.write(path, kept, header)
    return path


def describe_target(name_or_path: str | Path) -> TargetDescription:
    """What a target's file says of it.

    Args:
        name_or_path: a shipped target's name, or a file.

    Returns:
        Kind, settings and figures.

    Raises:
        CheckpointError: no such target, or a file that is foreign, truncated or too new.
    """
    path = _path_of(name_or_path)
    header = _FILE.header(path)
    figures = {name: float(value) for name, value in header["figures"].items()}
    return TargetDescription(header["kind"], header["settings"], header["train_settings"], figures, path)


def load_target(name_or_path: str | Path) -> nn.Module:
    """A trained network.

    Args:
        name_or_path: a shipped target's name, or a file that `save_target` wrote.

    Returns:
        The network in float32, frozen and in evaluation mode.

    Raises:
        CheckpointError: no such target, or a file that is foreign, truncated, damaged or too new.

    >>> load_target("tms_5-2").linear1.weight.shape
    torch.Size([2, 5])
    """
    path = _path_of(name_or_path)
    header = _FILE.header(path)
    model = _build(header["kind"], header["settings"], f"{path}'s header")
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # not a mapping
        left_out = set(_KINDS[header["kind"]].left_out(header["settings"]))
        missing, unexpected = model.load_state_dict(stored, strict=False)
        if set(missing) != left_out or unexpected:
            raise RuntimeError(f"tensors {sorted({*missing, *unexpected} ^ left_out)} are missing or foreign")
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"a target's file holds the tensors of the network that its header describes; {path} does not: {error}. "
            "Make it again."
        ) from error
    if _digest_of(model.state_dict()) != header["sha256"]:
        raise CheckpointError(
            f"a target's tensors have the SHA-256 that its header says; those of {path} do not: it is damaged. Make it "
            "again."
        )
    return model.requires_grad_(False).eval()


def _path_of(name_or_path: str | Path) -> Path:
    path = _SHIPPED / f"{name_or_path}{_SUFFIX}" if str(name_or_path) in _RECIPES else Path(name_or_path)
    if not path.is_file():
        raise CheckpointError(
            f"a target is a file, or one of {', '.join(_RECIPES)}; {str(name_or_path)!r} is neither. Name one, or make "
            "a file with `spd train-target`."
        )
    return path


def _build(kind: str, settings: Mapping[str, Any], whose: str) -> nn.Module:
    if kind not in _KINDS:
        raise TargetError(f"a kind of target is one of {', '.join(_KINDS)}; got {kind!r}. Name one.")
    try:
        return _KINDS[kind].build(**settings).eval()
    except TypeError as error:
        raise TargetError(f"{whose} are arguments of a {kind}; got {dict(settings)}: {error}. Correct them.") from error


def _digest_of(state: Mapping[str, Tensor]) -> str:
    """Of the network as it is built, with what its file leaves out."""
    return digest({name: value.detach().contiguous() for name, value in state.items()})


def _same_shape(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape


def _made_again(name: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    if name == "linear2.weight":
        return torch.equal(state[name], state["linear1.weight"].T)
    return torch.equal(state[name], expected[name])


def _smallest(value: Tensor) -> Tensor:
    """The tensor as float16 where every number is one of float16's."""
    half = value.half()
    return (half if torch.equal(half.to(value.dtype), value) else value).contiguous()
