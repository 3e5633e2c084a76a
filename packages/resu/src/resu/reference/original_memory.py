"""What the original held in memory: every live byte of a layer in RESU, part by part, and the note's own tally."""

from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

from jaxtyping import Shaped
from torch import Tensor

from resu.reference.original_training import Rebuilt

__all__ = [
    "NoteTally",
    "live_bytes",
    "live_parts",
    "live_tensors",
    "note_tally",
]

_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float, complex)


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, MethodType):
        return [value.__self__]
    found = list(getattr(value, "__dict__", {}).values())
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    return found + [getattr(value, name) for name in slots if isinstance(name, str) and hasattr(value, name)]


def live_tensors(*roots: Any, gradients: bool = True) -> list[Shaped[Tensor, "..."]]:
    """Every tensor that can be reached from some objects, whatever holds it.

    Modules, optimizers, mappings, sequences and plain objects are followed through all their attributes, parameters
    through theirs as well. Autograd graphs are not.

    Args:
        roots: layers, optimizers, anything.
        gradients: whether `.grad` counts.

    Returns:
        The tensors, each object once; some may share their storage.

    >>> from torch import nn
    >>> layer = nn.Linear(2, 2)
    >>> len(live_tensors({"layer": layer, "again": layer.weight}))
    2
    """
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting: list[Any] = list(roots)
    while waiting:
        value = waiting.pop()
        if value is None or isinstance(value, _OPAQUE) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found.append(value)
            waiting += vars(value).values()
            if gradients and value.is_leaf:
                waiting.append(value.grad)
        else:
            waiting += _children(value)
    return found


def live_bytes(*roots: Any, gradients: bool = True) -> int:
    """Bytes of the distinct storages that can be reached from some objects.

    Args:
        roots: layers, optimizers, anything.
        gradients: whether `.grad` counts.

    Returns:
        The bytes; a view costs nothing beside what it is a view of.

    >>> import torch
    >>> x = torch.zeros(8)
    >>> live_bytes([x, x[:4], x.view(2, 4)])
    32
    """
    storages = {}
    for tensor in live_tensors(*roots, gradients=gradients):
        storage = tensor.untyped_storage()
        storages[tensor.device, storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def live_parts(rebuilt: Rebuilt) -> dict[str, int]:
    """The live bytes of a layer in RESU, part by part; together they are `live_bytes(layer, optimizer)`.

    In units of |W|, at sparsity s, without a bias:

    ===================== ======= ==========================================
    weight                1
    mask, float32         1       not in the note's tally
    indices of A and P    2       (1 − s) N and s N int64; not in the tally
    cached M*W            1       not in the note's tally; 0 without a cache
    θ                     s
    selective m, v, C     3 s     what the note calls the states of θ
    AdamW state of W      2       0 where it was cleared
    ===================== ======= ==========================================

    With the cache that is 7 + 4 s where the state is kept, and 5 + 4 s where it is cleared: 9.0 and 7.0 at s = 0.5,
    10.6 and 8.6 at s = 0.9. A backward pass adds s for θ's gradient.

    Args:
        rebuilt: from `build`.

    Returns:
        Bytes by part.

    >>> from resu.reference.original_training import build
    >>> parts = live_parts(build(16, 16, 0.5, clear_state=False))
    >>> sum(parts.values()) == live_bytes(*build(16, 16, 0.5, clear_state=False))
    True
    """
    layer, optimizer = rebuilt
    mask, resurrection = layer.mask, layer.resurrection
    state = optimizer.state.get(layer.weight, {})
    others = {p: s for p, s in optimizer.state.items() if p is not layer.weight}
    return {
        "weight": live_bytes(layer.weight, gradients=False),
        "bias and its state": live_bytes(layer.bias, list(others.values()), gradients=False),
        "mask float32": live_bytes(None if mask is None else mask.mask),
        "indices of A and P": live_bytes(None if mask is None else [mask.active_indices, mask.pruned_indices]),
        "cached M*W": live_bytes(layer.active_cached),
        "theta": live_bytes(None if resurrection is None else resurrection.theta, gradients=False),
        "state of theta": live_bytes(layer.selective),
        "state of weight": live_bytes(state),
        "gradients": live_bytes(
            [p.grad for p in layer.parameters()], None if resurrection is None else resurrection.theta.grad
        ),
    }


class NoteTally(NamedTuple):
    """Memory as the note counts it, in the unit that W was given in.

    Args:
        dense: W and its two moments.
        before: W, its moments, θ and three states of θ.
        after: the same without W's moments.
        states_before: states alone, of W and of θ.
        states_after: states alone, of θ.
    """

    dense: float
    before: float
    after: float
    states_before: float
    states_after: float


def note_tally(weight: float = 64.0, sparsity: float = 0.5) -> NoteTally:
    """The note's tally: W + 2 W + s W + 3 s W before its fix, W + s W + 3 s W after it, 3 W for dense training.

    It leaves out the mask, both index vectors and the cache of M ⊙ W, which together are 4 |W|; see `live_parts`.

    Args:
        weight: size of W; 64 is a float32 matrix of 4096² in MiB, which the note calls MB.
        sparsity: s.

    Returns:
        The tally.

    >>> note_tally()
    NoteTally(dense=192.0, before=320.0, after=192.0, states_before=224.0, states_after=96.0)
    """
    of_weight, theta, of_theta = 2 * weight, sparsity * weight, 3 * sparsity * weight
    return NoteTally(
        dense=weight + of_weight,
        before=weight + of_weight + theta + of_theta,
        after=weight + theta + of_theta,
        states_before=of_weight + of_theta,
        states_after=of_theta,
    )
