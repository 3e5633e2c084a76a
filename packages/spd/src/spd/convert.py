"""Reads checkpoints of the original, `.pth` files of a whole decomposed network, into a `ComponentModel`.

===================================== ==================================== =============================================
there                                 older                                here
===================================== ==================================== =============================================
`target_model.<path>.weight`          `patched_model.<path>[.original].…`  the same, with the first prefix
`_components.<path>.{V,U,bias}`       `<path>.components.{V,U}`            the same; dots of a path are `-`
`_ci_fns.<path>.layers.<k>.{W,b}`     `_gates.<path>.layers.<k>.{W,b}`     the same, k counted without non-linearities
===================================== ==================================== =============================================

Shapes are the same in both. Sites that are tied have tensors of their own there; here the second has none, and what
came for it must be the first one's, transposed.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spd.errors import CheckpointError
from spd.models.component_model import ComponentModel
from spd.weights import save_components

__all__ = ["Converted", "convert_file", "convert_original"]

_TARGET, _COMPONENTS, _CI_FNS = "target_model.", "_components.", "_ci_fns."
_LAYER = re.compile(r"(?P<fn>_ci_fns\..+?\.layers\.)(?P<k>\d+)\.(?P<name>[Wb])")


@dataclass(frozen=True)
class Converted:
    """What a checkpoint held.

    Args:
        target: tensors of the frozen network.
        components: tensors of the components, without those of tied sites.
        ci_fns: tensors of the causal-importance functions.
        tied: sites that were checked to be another one's transposes.
    """

    target: int
    components: int
    ci_fns: int
    tied: tuple[str, ...]


def convert_original(path: Path, model: ComponentModel) -> Converted:
    """Loads a checkpoint of the original.

    Args:
        path: the `.pth` file. Only tensors are read from it; nothing in it is run.
        model: of the same target, sites, numbers of components and kind of causal-importance functions. Everything is
            replaced, the target's weights included.

    Returns:
        What was loaded.

    Raises:
        CheckpointError: a file that holds anything but named tensors, a name that does not fit, a shape that does not
            fit, a name that is missing, or tied sites that are not transposes. Nothing is changed then.
    """
    found = _present_names(_read(path), path)
    tied = _without_tied(found, model, path)
    present = model.state_dict()
    copies = {name for name in present if name.startswith(_COMPONENTS) and name.endswith(".bias")}
    for name in sorted(found.keys() | (present.keys() - copies)):
        _refuse_misfit(name, found.get(name), present.get(name), path)
    for site in model.components:
        name = f"{_COMPONENTS}{_key(site)}.bias"
        if name in copies - found.keys():
            found[name] = found[f"{_TARGET}{site}.bias"]
    model.load_state_dict({**present, **found})
    target, components, ci_fns = (
        sum(name.startswith(prefix) for name in found) for prefix in (_TARGET, _COMPONENTS, _CI_FNS)
    )
    return Converted(target, components, ci_fns, tied)


def convert_file(path: Path, out: Path, model: ComponentModel) -> Converted:
    """Loads a checkpoint of the original and writes it as a file of weights, see `spd.weights`.

    Args:
        path: the `.pth` file.
        out: the safetensors file to write.
        model: as in `convert_original`; it holds the checkpoint's parameters afterwards.

    Returns:
        What was loaded.

    Raises:
        CheckpointError: as in `convert_original`. Nothing is written then.
    """
    converted = convert_original(path, model)
    save_components(model, out)
    return converted


# --- names ------------------------------------------------------------------------------------------------------------


def _key(site: str) -> str:
    return site.replace(".", "-")


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"a checkpoint of the original is a .pth file of named tensors and nothing else; {path} could not be read "
            f"as one: {error}. Name another file, or save the state_dict of what is in it."
        ) from error
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"a checkpoint of the original is a mapping from names to tensors; {path} holds a {type(found).__name__}. "
            "Save a state_dict."
        )
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"a checkpoint of the original is a mapping from names to tensors; in {path} {name!r} is a "
                f"{type(value).__name__}. Save a state_dict."
            )
    return found


def _present_names(found: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Under our names; layers of causal-importance functions are numbered without what is between them."""
    renamed: dict[str, Tensor] = {}
    for name, value in found.items():
        now = _renamed(name)
        if now in renamed:
            raise CheckpointError(
                f"each tensor has one name; {path} has {now} under an old name and under a new one. Save it again."
            )
        renamed[now] = value
    numbers: dict[str, set[int]] = {}
    matches = {name: match for name in renamed if (match := _LAYER.fullmatch(name))}
    for match in matches.values():
        numbers.setdefault(match["fn"], set()).add(int(match["k"]))
    return {
        f"{match['fn']}{sorted(numbers[match['fn']]).index(int(match['k']))}.{match['name']}"
        if (match := matches.get(name))
        else name: value
        for name, value in renamed.items()
    }


def _renamed(name: str) -> str:
    for old, new in (("_gates.", _CI_FNS), ("patched_model.", _TARGET)):
        if name.startswith(old):
            name = new + name.removeprefix(old)
    if name.startswith(_TARGET):
        owner, _, last = name.removeprefix(_TARGET).rpartition(".")
        if owner.endswith(".components"):
            return f"{_COMPONENTS}{_key(owner.removesuffix('.components'))}.{last}"
        return f"{_TARGET}{owner.removesuffix('.original')}.{last}"
    return name


def _without_tied(found: dict[str, Tensor], model: ComponentModel, path: Path) -> tuple[str, ...]:
    """Takes out what came for the second of two tied sites, having looked whether it is right."""
    for first, second in model.tied_weights:
        for own, others in (("V", "U"), ("U", "V")):
            name, of = f"{_COMPONENTS}{_key(second)}.{own}", f"{_COMPONENTS}{_key(first)}.{others}"
            came, expected = found.pop(name, None), found.get(of)
            wanted = getattr(model.components[second], own)
            _refuse_misfit(name, came, wanted, path)
            _refuse_misfit(of, expected, wanted.T, path)
            if came is not None and expected is not None and not torch.equal(came, expected.T):
                raise CheckpointError(
                    f"{second} is tied to {first}, whose components are its own, transposed; in {path} {name} is not "
                    f"the transpose of {of}. Leave the pair out of tied_weights."
                )
    return tuple(second for _, second in model.tied_weights)


def _refuse_misfit(name: str, came: Tensor | None, wanted: Tensor | None, path: Path) -> None:
    shapes = [None if value is None else tuple(value.shape) for value in (came, wanted)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"a checkpoint fits the decomposition that it is loaded into; {name} came with shape {shapes[0]} in "
            f"{path}, and shape {shapes[1]} is needed (None: it is not there). Build the model with the checkpoint's "
            "target, module_info and causal-importance functions."
        )
