"""Batches: each a function of a seed and of its index, so that a run can be resumed at any step with the same data.

Nothing about a stream of batches is remembered between them. Worker processes, prefetching and a restart in the middle
therefore change when a batch is made, never what is in it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from spd.config.perf import PerfConfig
from spd.config.tasks import LMTask
from spd.errors import DataError
from spd.texts import load_tokenizer
from spd.tokens import StreamedTokens, text_stream

__all__ = [
    "BatchStream",
    "FeatureCount",
    "SparseFeatures",
    "batches",
    "create_data_loader",
    "extract_batch_data",
    "loop_data_loader",
    "mixed_seed",
    "to_device",
]

FeatureCount = Literal[
    "at_least_zero_active", "exactly_one_active", "exactly_two_active", "exactly_three_active", "exactly_four_active",
    "exactly_five_active",
]  # fmt: skip
"""Every feature on its own with a chance, or so many of them, chosen without preference."""

_COUNTS = {name: count for count, name in enumerate(FeatureCount.__args__)}  # type: ignore[attr-defined]


@runtime_checkable
class BatchStream(Protocol):
    """Batches by index."""

    def batch(self, index: int) -> Any:
        """The batch with this index, from 0; the same each time, in any process."""


def mixed_seed(*parts: int | str) -> int:
    """A seed that depends on all its parts: 63 bits of BLAKE2b.

    Args:
        *parts: a run's seed, a rank, an index, a name.

    Returns:
        The seed.

    >>> mixed_seed(0, 1) != mixed_seed(1, 0)
    True
    """
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SparseFeatures:
    """Vectors of which most numbers are 0, and the others uniform: the toy models' data.

    Args:
        n_features: numbers of a vector.
        batch_size: vectors of a batch.
        feature_probability: chance that a feature, or a group of synchronised ones, is active.
        active: each with that chance, or exactly so many.
        value_range: of active features.
        synced_inputs: groups of features that are active together.
        seed: of the stream.
        rank: which process of several, each with data of its own.

    Raises:
        DataError: a chance outside [0, 1], more active features than there are, or groups that overlap.

    >>> x = SparseFeatures(5, 1000, 0.1).batch(0)
    >>> x.shape, 0.05 < (x > 0).float().mean().item() < 0.15
    (torch.Size([1000, 5]), True)
    """

    def __init__(
        self,
        n_features: int,
        batch_size: int,
        feature_probability: float | int,
        *,
        active: FeatureCount = "at_least_zero_active",
        value_range: tuple[float, float] = (0.0, 1.0),
        synced_inputs: Sequence[Sequence[int]] = (),
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        if not 0 <= feature_probability <= 1:
            raise DataError(
                f"feature_probability is a chance, from 0 to 1; got {feature_probability}. Give 0.05 for one in twenty."
            )
        if _COUNTS[active] > n_features:
            raise DataError(f"{active} needs as many features; there are {n_features}. Add features, or ask for fewer.")
        members = [feature for group in synced_inputs for feature in group]
        if len(set(members)) < len(members) or not set(members) <= set(range(n_features)):
            raise DataError(
                f"synchronised groups are disjoint and hold features from 0 to {n_features - 1}; got {synced_inputs}. "
                "Name each feature once."
            )
        if synced_inputs and active != "at_least_zero_active":
            raise DataError(
                f"synchronised groups need features that are active by chance; got {active}. Leave one out."
            )
        self.n_features, self.batch_size, self.feature_probability = n_features, batch_size, float(feature_probability)
        self.active, self.value_range, self.seed, self.rank = active, value_range, seed, rank
        self.synced_inputs = tuple(tuple(group) for group in synced_inputs)

    def batch(self, index: int) -> Float[Tensor, "batch features"]:
        """The batch with this index.

        Args:
            index: from 0.

        Returns:
            The vectors.
        """
        generator = torch.Generator().manual_seed(mixed_seed("features", self.seed, self.rank, index))
        shape = (self.batch_size, self.n_features)
        low, high = self.value_range
        values = torch.rand(shape, generator=generator).mul_(high - low).add_(low)
        chosen = torch.rand(shape, generator=generator)
        if self.active != "at_least_zero_active":
            count = _COUNTS[self.active]
            return torch.zeros(shape).scatter_(1, first := chosen.argsort(1)[:, :count], values.gather(1, first))
        for group in self.synced_inputs:
            chosen[:, group[1:]] = chosen[:, group[:1]]
        return values.mul_(chosen < self.feature_probability)


def extract_batch_data(item: Any, input_key: str = "input_ids") -> Shaped[Tensor, "..."]:
    """A model's input from whatever a loader gives: a tensor, a pair of input and label, or a mapping.

    Args:
        item: what the loader gave.
        input_key: the input's name in a mapping.

    Returns:
        The input.

    Raises:
        DataError: none of these, or a mapping without that name.

    >>> extract_batch_data((torch.ones(2), torch.zeros(2))).tolist()
    [1.0, 1.0]
    """
    if isinstance(item, Tensor):
        return item
    if isinstance(item, Mapping):
        if input_key not in item:
            raise DataError(f"a batch holds {input_key!r}; this one has {', '.join(item)}. Name the column to read.")
        item = item[input_key]
    elif isinstance(item, tuple | list) and item:
        item = item[0]
    if not isinstance(item, Tensor):
        raise DataError(
            f"a batch is a tensor, a tuple that begins with one, or a mapping to one; got a {type(item).__name__}. "
            "Give tensors."
        )
    return item


def to_device(
    tensor: Shaped[Tensor, "..."], device: torch.device | str, *, non_blocking: bool = False
) -> Shaped[Tensor, "..."]:
    """Copies a batch to where it is used; every batch of training and evaluation goes through here.

    Args:
        tensor: the batch.
        device: where to.
        non_blocking: do not wait for the copy, which pays for page-locked memory only.

    Returns:
        The batch there.
    """
    return tensor.to(device, non_blocking=non_blocking)


class _ByIndex(Dataset[Any]):
    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream

    def __getitem__(self, index: int) -> Any:
        return self._stream.batch(index)


class _From(Sampler[int]):
    """All indices from one on."""

    def __init__(self, start: int) -> None:
        self._start = start

    def __iter__(self) -> Iterator[int]:
        index = self._start
        while True:
            yield index
            index += 1


def batches(
    stream: BatchStream, device: torch.device | str, perf: PerfConfig | None = None, *, start: int = 0
) -> Iterator[Shaped[Tensor, "..."]]:
    """A stream's batches on a device, without end.

    Args:
        stream: where they come from.
        device: where they go.
        perf: workers, page-locked memory, copies that are not waited for, and one batch in advance.
        start: index of the first.

    Yields:
        Batches, in the order of their indices.
    """
    perf = perf or PerfConfig()
    pin = perf.pin_memory and torch.cuda.is_available()
    loader = DataLoader(
        _ByIndex(stream), batch_size=None, sampler=_From(start), num_workers=perf.num_workers, pin_memory=pin,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip  # a generator of its own: a loader without one draws from everybody's
    moved = (to_device(extract_batch_data(item), device, non_blocking=perf.non_blocking) for item in loader)
    if not perf.device_prefetch:
        yield from moved
        return
    following = next(moved)
    while True:
        present, following = following, next(moved)
        yield present


# --- text -------------------------------------------------------------------------------------------------------------


class _Epochs(Sampler[int]):
    """The indices of one pass."""

    def __init__(self, batches: int) -> None:
        self.batches, self._epoch, self._start = batches, 0, 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        return self.batches - self._start

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * self.batches
        yield from range(first + self._start, first + self.batches)


class _ByPass(IterableDataset[Any]):
    """The batches of one pass over a stream, parted among workers."""

    def __init__(self, stream: StreamedTokens) -> None:
        self._stream = stream
        # Shared, so that workers that stay for many passes see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        who = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return self._stream.one_pass(int(self._epoch), *who)


def create_data_loader(
    dataset_config: LMTask,
    batch_size: int,
    buffer_size: int | None = None,
    *,
    split: Literal["train", "eval"] = "train",
    rank: int = 0,
    world_size: int = 1,
    global_seed: int = 0,
    pin_memory: bool | Literal["auto"] = "auto",
    num_workers: int = 0,
    prefetch_factor: int | None = None,
    persistent_workers: bool | None = None,
) -> tuple[DataLoader[Any], Any]:
    """A loader for one pass after another over a task's text; `loop_data_loader` makes them one.

    Ranks and workers get shares that do not overlap. Workers change no batch, nor the order of batches, where the text
    is held in memory. Where it is streamed, shares are blocks of documents (see `spd.tokens.StreamedTokens`): all rows
    come once, in an order that depends on the number of workers, and ranks may have passes of different lengths. What
    fills no batch is dropped in both cases.

    Args:
        dataset_config: the set of texts, its tokenizer and the length of a row.
        batch_size: rows of a batch, on one rank.
        buffer_size: documents that are shuffled among each other where the set is streamed; None = the task's.
        split: which of the task's two.
        rank: which process of several.
        world_size: how many.
        global_seed: of all orders; the evaluation's is one more.
        pin_memory: page-locked batches; "auto" = where CUDA is. Without CUDA there are none.
        num_workers: processes that load; 0 loads in this one.
        prefetch_factor: batches that each worker makes in advance; None = torch's choice.
        persistent_workers: workers stay between passes; None = where there are any.

    Returns:
        The loader, whose batches are tensors of tokens, and the tokenizer.

    Raises:
        DataError: data that is missing, or too little of it, or settings of workers without workers.
        MissingExtraError: the extra `lm` is not installed.
    """
    if num_workers == 0 and (prefetch_factor is not None or persistent_workers):
        raise DataError(
            f"prefetch_factor and persistent_workers are of workers; got {prefetch_factor} and {persistent_workers} "
            "with num_workers=0. Add workers, or leave both out."
        )
    tokenizer = load_tokenizer(dataset_config)
    task = dataset_config if buffer_size is None else dataset_config.model_copy(update={"buffer_size": buffer_size})
    seed = global_seed + (split == "eval")
    stream = text_stream(
        task, batch_size, split=split, tokenizer=tokenizer, seed=seed, rank=rank, world_size=world_size
    )
    dataset, sampler = (
        (_ByPass(stream), None)
        if isinstance(stream, StreamedTokens)
        else (_ByIndex(stream), _Epochs(stream.batches_per_epoch))
    )
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=pin_memory is not False and torch.cuda.is_available(),
        prefetch_factor=prefetch_factor,
        persistent_workers=num_workers > 0 if persistent_workers is None else persistent_workers,
        generator=torch.Generator().manual_seed(mixed_seed("workers", seed, rank)),
    )
    return loader, tokenizer


def loop_data_loader(loader: DataLoader[Any], *, start: int = 0) -> Iterator[Int64[Tensor, "batch seq"]]:
    """All passes of a loader that `create_data_loader` made, one after the other without end.

    Args:
        loader: the loader.
        start: batches to begin after. Where the text is held in memory they are not loaded; where it is streamed they
            are read and thrown away, and are the same as before for the same number of workers only.

    Yields:
        Batches.

    Raises:
        DataError: a pass without a batch.
    """
    if isinstance(loader.sampler, _Epochs):
        yield from _passes(loader, *divmod(start, loader.sampler.batches))
    else:
        yield from islice(_passes(loader, 0, 0), start, None)


def _passes(loader: DataLoader[Any], first: int, skipped: int) -> Iterator[Tensor]:
    for epoch in count(first):
        if isinstance(loader.sampler, _Epochs):
            loader.sampler.set_epoch(epoch, skipped if epoch == first else 0)
        elif isinstance(loader.dataset, _ByPass):
            loader.dataset.set_epoch(epoch)
        empty = True
        for found in loader:
            empty = False
            yield found
        if empty:
            raise DataError("a pass has at least one batch; this rank's share has none. Use smaller batches.")
