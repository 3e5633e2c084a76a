"""Where the bytes of sparse training are: the published tally, and storages that are really alive.

The note "Complete Performance Fix" adds up what it means to hold: W, the optimizer's state of W, θ and θ's own state.
What a process holds is another matter: masks, index vectors and caches are bytes as well. Here both are counted, the
tally by its own formula and the rest storage by storage, at rest (`live_bytes`) and at the peak between two lines of
code: `LiveStorages` follows operations and says what is alive, `allocated_peak` asks the allocator, and so sees what
kernels take for themselves and what compiled code does.
"""

import itertools
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["MIB", "LiveStorages", "Part", "allocated_peak", "live_bytes", "parts_table", "published_tally"]

MIB = 1 << 20
"""What the note calls MB: a weight of 4096 × 4096 floats has 64 of them."""

_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, str, bytes)


@dataclass(frozen=True)
class Part:
    """One line of a tally.

    Args:
        what: what it is.
        bytes: how much it takes.
    """

    what: str
    bytes: float | int


def published_tally(weight_bytes: float | int, sparsity: float = 0.5) -> dict[str, tuple[Part, ...]]:
    """What the note counts: W + 2W in dense training, W + 2W + sW + 3sW in RESU before its fix, W + sW + 3sW after.

    θ holds s = p / N of the weights, and has three vectors of its own: two running means and the consistency.

    Args:
        weight_bytes: bytes of W.
        sparsity: share s of pruned weights.

    Returns:
        The parts of "dense", "RESU before" and "RESU after".

    >>> {form: sum(part.bytes for part in parts) for form, parts in published_tally(64).items()}
    {'dense': 192, 'RESU before': 320.0, 'RESU after': 192.0}
    """
    weight, state = Part("W", weight_bytes), Part("optimizer state of W", 2 * weight_bytes)
    theta = (Part("θ", sparsity * weight_bytes), Part("state of θ", 3 * sparsity * weight_bytes))
    return {"dense": (weight, state), "RESU before": (weight, state, *theta), "RESU after": (weight, *theta)}


def parts_table(columns: Mapping[str, Sequence[Part]], unit: float | int = MIB, digits: int = 1) -> str:
    """Tallies beside each other, as plain text with a line for the sums.

    Args:
        columns: name of a form → its parts.
        unit: bytes of one unit.
        digits: decimals.

    Returns:
        The table.

    >>> print(parts_table({"dense": [Part("W", 4), Part("m", 4)], "ours": [Part("W", 4)]}, unit=1, digits=0))
           dense  ours
    W          4     4
    m          4     –
    total      8     4
    """
    names = list(dict.fromkeys(part.what for parts in columns.values() for part in parts))
    sums = [
        {name: sum(part.bytes for part in parts if part.what == name) for name in {part.what for part in parts}}
        for parts in columns.values()
    ]
    rows = [(name, [f"{found[name] / unit:.{digits}f}" if name in found else "–" for found in sums]) for name in names]
    rows.append(("total", [f"{sum(found.values()) / unit:.{digits}f}" for found in sums]))
    wide = max(len(name) for name, _ in rows)
    widths = [max(len(head), *(len(cells[i]) for _, cells in rows)) for i, head in enumerate(columns)]
    lines = [" " * wide + "".join(f"  {head:>{width}}" for head, width in zip(columns, widths, strict=True))]
    for name, cells in rows:
        lines.append(f"{name:<{wide}}" + "".join(f"  {c:>{width}}" for c, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)


# --- at rest ----------------------------------------------------------------------------------------------------------


def _tensors(objects: Sequence[Any], gradients: bool) -> Iterator[Tensor]:
    """Every tensor that can be reached: through containers, attributes, and what hangs on a parameter."""
    waiting, seen = list(objects), set[int]()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _CODE):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            yield thing
            if gradients and thing.is_leaf and thing.grad is not None:
                waiting.append(thing.grad)
        if isinstance(thing, Mapping):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, Sequence | Set):
            waiting += thing
        else:
            waiting += getattr(thing, "__dict__", {}).values()
            slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting += [getattr(thing, name, None) for name in slots if not name.startswith("__")]


def _storages(tensor: Tensor) -> list[torch.UntypedStorage]:
    if tensor.layout is torch.strided:
        return [tensor.untyped_storage()]
    if tensor.layout is torch.sparse_coo:
        return [part.untyped_storage() for part in (tensor._indices(), tensor._values())]
    return [part.untyped_storage() for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values())]


def live_bytes(*objects: Any, gradients: bool = False) -> int:
    """Bytes of all storages that objects hold, each storage once, however many views of it there are.

    Args:
        objects: modules, optimizers, masks, tensors, or containers of them; attributes are followed.
        gradients: whether gradients count.

    Returns:
        The bytes.

    >>> layer = torch.nn.Linear(8, 4, bias=False)
    >>> live_bytes(layer), live_bytes(layer, layer.weight.view(-1), {"mask": torch.ones(4, 8)})
    (128, 256)
    """
    found = {s._cdata: s.nbytes() for tensor in _tensors(objects, gradients) for s in _storages(tensor)}
    return sum(found.values())


# --- at the peak ------------------------------------------------------------------------------------------------------


@dataclass
class _Alive:
    """A storage that was alive when last seen."""

    reference: StorageWeakRef
    number: int
    bytes: int = 0


class LiveStorages(TorchDispatchMode):
    """Counts storages while code runs: those of some objects from the start, and every one that an operation makes.

    What a kernel takes and returns within one operation is not seen, and compiled code runs as it was written.

    Args:
        objects: what is alive when counting begins, as for `live_bytes`.

    >>> weight = torch.zeros(256)
    >>> with LiveStorages(weight) as live:
    ...     doubled = weight + weight
    ...     _ = (doubled * 2).sum()
    >>> live.peak, live.now
    (3076, 2052)
    """

    def __init__(self, *objects: Any) -> None:
        super().__init__()
        self._alive: dict[int, _Alive] = {}
        self._excluded: set[int] = set()
        self._changes: list[tuple[int, int]] = []
        self._numbers = itertools.count()
        for tensor in _tensors(objects, gradients=False):
            self._add(tensor)

    def _add(self, tensor: Tensor) -> list[int]:
        """Takes a tensor's storages in, and returns their numbers."""
        numbers = []
        for storage in _storages(tensor):
            found = self._alive.get(storage._cdata)
            if found is None:
                self._bury()
                found = self._alive[storage._cdata] = _Alive(StorageWeakRef(storage), next(self._numbers))
            self._change(found, storage.nbytes())
            numbers.append(found.number)
        return numbers

    def _change(self, storage: "_Alive", size: int) -> None:
        if size != storage.bytes:
            self._changes.append((storage.number, size - storage.bytes))
            storage.bytes = size

    def _bury(self) -> None:
        # The address of a storage is not given away again while there is a weak reference to it.
        if dead := [key for key, storage in self._alive.items() if storage.reference.expired()]:
            for key in dead:
                self._change(self._alive.pop(key), 0)

    def exclude(self, *objects: Any) -> None:
        """Leaves the storages of some objects out of the count, from its beginning.

        Args:
            objects: inputs or gradients, as for `live_bytes`; call it while they are alive.
        """
        self._bury()
        for tensor in _tensors(objects, gradients=False):
            self._excluded.update(self._add(tensor))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an operation; then what has died is taken off, and what it made is added.

        An operation that makes nothing, as writing in place and taking views do, cannot raise the peak, and there are
        many of them: what died is looked for only beside something new.
        """
        result = func(*args, **(kwargs or {}))
        for leaf in [result] if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf)
        return result

    @property
    def peak(self) -> int:
        """The most bytes that were alive at once."""
        return max(itertools.accumulate(self._counted()), default=0)

    @property
    def now(self) -> int:
        """Bytes that are alive."""
        self._bury()
        return sum(self._counted())

    def _counted(self) -> Iterator[int]:
        return (0 if number in self._excluded else change for number, change in self._changes)


def allocated_peak(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that a call had allocated at once beyond what there was before it, by the allocator's own account.

    Args:
        call: what to run; what it returns is dropped.
        device: whose allocator is asked. On a GPU it rounds each request up to 512 bytes.

    Returns:
        The bytes; 0 where the call gave back before it took.

    >>> allocated_peak(lambda: torch.ones(100) + torch.ones(100))
    1200
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler complains of GPUs that it does not find
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        call()
    results = watched.profiler.kineto_results if watched.profiler is not None else None
    events = [] if results is None else [event for event in results.events() if event.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(itertools.accumulate(changes), default=0)
