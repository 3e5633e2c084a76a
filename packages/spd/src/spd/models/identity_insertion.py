"""Puts an operation that does nothing before chosen modules, so that it can be decomposed like a weight.

What a network passes on unchanged has no weight to decompose; an inserted identity has one. Its path is the module's
own and `.pre_identity`.
"""

from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from spd.errors import TargetError
from spd.models.components import Identity

__all__ = ["PRE_IDENTITY", "input_width", "insert_identities"]

PRE_IDENTITY = "pre_identity"


def input_width(module: nn.Module) -> int | None:
    """How many numbers a layer reads at each position.

    Args:
        module: any module.

    Returns:
        The width of a linear layer's input, also of a transposed one; None for any other module.

    >>> input_width(nn.Linear(3, 4)), input_width(nn.ReLU())
    (3, None)
    """
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, Identity):
        return module.d
    if is_transposed(module):
        return int(cast(Tensor, module.weight).shape[0])
    return None


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is Hugging Face's `Conv1D`: a linear layer whose weight is stored as (d_in, d_out).

    Told by its name, so that transformers need not be there.
    """
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.dim() == 2


def _through_identity(module: nn.Module, args: tuple[Any, ...]) -> tuple[Shaped[Tensor, "..."], ...]:
    first, *rest = args
    return (module.get_submodule(PRE_IDENTITY)(first), *rest)


def insert_identities(model: nn.Module, patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Inserts identities before the modules that patterns match.

    Args:
        model: the target, which is changed in place and computes what it did before.
        patterns: in the manner of file names (`*.mlp`), over the modules' paths.

    Returns:
        Paths of the identities.

    Raises:
        TargetError: a pattern that matches nothing, a module that is not linear, or one that has an identity already.

    >>> model = nn.Sequential(nn.Linear(3, 4))
    >>> insert_identities(model, ("0",))
    ('0.pre_identity',)
    """
    found = []
    for pattern in patterns:
        matched = [(name, module) for name, module in model.named_modules() if name and fnmatchcase(name, pattern)]
        if not matched:
            raise TargetError(
                f"a pattern matches at least one module; {pattern!r} matches none of "
                f"{', '.join(name for name, _ in model.named_modules() if name)}. Correct it."
            )
        for name, module in matched:
            width = input_width(module)
            if width is None:
                raise TargetError(
                    f"an identity is put before a linear layer, whose width is known; {name} is a "
                    f"{type(module).__name__}. Choose linear layers."
                )
            if hasattr(module, PRE_IDENTITY):
                raise TargetError(
                    f"a module has one identity before it; {name} has one already. Name it in one pattern only."
                )
            weight = next(module.parameters(), torch.zeros(()))
            module.add_module(PRE_IDENTITY, Identity(width).to(weight.device, weight.dtype))
            module.register_forward_pre_hook(_through_identity)
            found.append(f"{name}.{PRE_IDENTITY}")
    return tuple(found)
