"""Which parameters of a model take part, and whether an optimizer holds them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from torch import nn

from resu.core.reports import SparsityOptimizer
from resu.errors import ConfigError, OptimizerError

__all__ = ["check_optimizer", "choose_parameters"]


def choose_parameters(model: nn.Module, include: Sequence[str], exclude: Sequence[str]) -> dict[str, nn.Parameter]:
    """The weights of linear, convolution and embedding layers, and what patterns add or take away; shared ones once.

    Args:
        model: the model.
        include: patterns of names to add.
        exclude: patterns of names to leave out.

    Returns:
        Parameters by name.

    Raises:
        ConfigError: none is left.
    """
    kinds = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding)
    chosen: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    by_kind = {
        id(module.weight) for module in model.modules() if isinstance(module, kinds) and module.weight is not None
    }
    for name, parameter in model.named_parameters():
        wanted = id(parameter) in by_kind or any(fnmatchcase(name, pattern) for pattern in include)
        if wanted and id(parameter) not in seen and not any(fnmatchcase(name, pattern) for pattern in exclude):
            seen.add(id(parameter))
            chosen[name] = parameter
    if not chosen:
        raise ConfigError(
            "a Sparsifier needs at least one weight of a linear, convolution or embedding layer, or one that include "
            f"names; include is {list(include)}, exclude {list(exclude)}. Look at model.named_parameters()."
        )
    return chosen


def check_optimizer(optimizer: Any, chosen: Mapping[str, nn.Parameter]) -> SparsityOptimizer | None:
    """Refuses an optimizer that knows nothing of masks, or does not hold every chosen weight.

    Args:
        optimizer: a masked optimizer, an attachment, or None.
        chosen: weights by name.

    Returns:
        The optimizer.

    Raises:
        OptimizerError: as said.
    """
    if optimizer is None:
        return None
    if not hasattr(optimizer, "commit_rows"):
        raise OptimizerError(
            f"a Sparsifier works with MaskedAdamW, MaskedSGD or what attach(model, optimizer) returns; got "
            f"{type(optimizer).__name__}. Wrap it: resu.optim.stock.attach(model, optimizer)."
        )
    groups = optimizer.param_groups
    held = {id(parameter) for group in groups for parameter in group["params"]}
    for name, parameter in chosen.items():
        if id(parameter) not in held:
            raise OptimizerError(
                f"an optimizer must hold every weight that is sparsified; it does not hold {name}. It may have been "
                "built before the model was converted: build it from model.parameters() now."
            )
    return cast(SparsityOptimizer, optimizer)
