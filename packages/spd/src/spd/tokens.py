"""Rows of tokens in batches: held in memory, so that a run can begin at any of them, or streamed."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from spd.config.tasks import LMTask
from spd.errors import DataError
from spd.texts import cut_into_rows, documents_of, load_tokenizer, open_texts, read_rows

__all__ = ["StreamedTokens", "TokenStream", "text_stream"]

_BLOCK_CHARACTERS, _BLOCK_EXAMPLES = 256, 64
"""Size of a block of a streamed set: characters for each token of a row, or examples that are tokens already."""


class TokenStream:
    """Rows of tokens in batches: each pass over the rows is a permutation that depends on the seed and on the pass.

    The batches of index i of all ranks, one after the other, are batch i of one process with batches as large as all of
    theirs together. Rows that fill no batch at the end of a pass are left out of it.

    Args:
        tokens: all rows, the same on each rank.
        batch_size: rows of a batch, on one rank.
        seed: of the permutations.
        rank: which process of several.
        world_size: how many.
        shuffle_each_epoch: another permutation in every pass.

    Attributes:
        batches_per_epoch: batches of a pass.

    Raises:
        DataError: too few rows for one batch on each rank.

    >>> stream = TokenStream(torch.arange(12).view(6, 2), batch_size=3)
    >>> sorted(torch.cat([stream.batch(2), stream.batch(3)])[:, 0].tolist())  # the second pass
    [0, 2, 4, 6, 8, 10]
    """

    def __init__(
        self,
        tokens: Int[Tensor, "rows seq"],
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        *,
        shuffle_each_epoch: bool = True,
    ) -> None:
        self.batches_per_epoch = len(tokens) // (batch_size * world_size)
        if not self.batches_per_epoch:
            raise DataError(
                f"a pass has at least one batch for each rank, {world_size} times {batch_size} rows; there are "
                f"{len(tokens)}. Name a longer text, or use smaller batches or shorter rows."
            )
        self.tokens, self.batch_size, self.seed = tokens, batch_size, seed
        self.rank, self.world_size, self.shuffle_each_epoch = rank, world_size, shuffle_each_epoch
        self._order: tuple[int, Tensor] | None = None

    def batch(self, index: int) -> Int64[Tensor, "batch seq"]:
        """The batch with this index.

        Args:
            index: from 0, over all passes.

        Returns:
            The rows.
        """
        epoch, at = divmod(index, self.batches_per_epoch)
        first = (at * self.world_size + self.rank) * self.batch_size
        return self.tokens[self._permutation(epoch)[first : first + self.batch_size]].long()

    def _permutation(self, epoch: int) -> Tensor:
        if not self.shuffle_each_epoch:
            epoch = 0
        if self._order is None or self._order[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.tokens))
            self._order = epoch, torch.from_numpy(order)
        return self._order[1]


class StreamedTokens:
    """Batches of a set that is not held in memory: read, shuffled within a buffer, and tokenised on the way.

    Documents are read in one order by everybody and parted into blocks of about 64 rows, each joined, cut and its tail
    dropped by itself. Block b belongs to share b mod (ranks · workers). So the rows of all shares together are the same
    for any number of ranks and workers, and none comes twice; each share still reads all documents, and tokenises its
    own.

    A stream has no place to jump to. `batch(index)` reads on from the last index that was asked for, and begins anew
    for a smaller one: a run that is resumed reads, and tokenises, what it has seen before, and then gets the same
    batches. Asked for batches by index in several worker processes, each of them reads everything: one worker is as
    good as many.

    Args:
        task: the set, its column, the length of a row, the buffer and whether each pass has another order.
        split: the split.
        tokenizer: unless the column holds tokens already.
        batch_size: rows of a batch.
        seed: of the order.
        rank: which process of several.
        world_size: how many.

    Raises:
        DataError: no such data.
        MissingExtraError: datasets is not installed.
    """

    def __init__(
        self,
        task: LMTask,
        split: str,
        tokenizer: Any,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._texts = open_texts(task.model_copy(update={"streaming": True}), split)
        self._task, self._tokenizer, self.batch_size = task, tokenizer, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._batches: Iterator[Tensor] | None = None
        self._next = 0
        self._last: Tensor | None = None

    def batch(self, index: int) -> Int64[Tensor, "batch seq"]:
        """The batch with this index, over all passes.

        Args:
            index: from 0.

        Returns:
            The rows.

        Raises:
            DataError: this rank's share of a pass fills no batch.
        """
        if self._last is not None and index == self._next - 1:
            return self._last
        if self._batches is None or index < self._next:
            self._batches, self._next = self._endless(), 0
        while self._next <= index:
            self._last = next(self._batches)
            self._next += 1
        assert self._last is not None
        return self._last

    def _endless(self) -> Iterator[Tensor]:
        for epoch in count():
            empty = True
            for found in self.one_pass(epoch):
                empty = False
                yield found
            if empty:
                raise DataError(
                    f"a rank's share of a pass fills at least one batch of {self.batch_size}; that of rank {self.rank} "
                    f"of {self.world_size} in {self._task.dataset_name!r} does not. Name a longer text, or use smaller "
                    "batches or fewer ranks."
                )

    def one_pass(self, epoch: int, worker: int = 0, n_workers: int = 1) -> Iterator[Int64[Tensor, "batch seq"]]:
        """The batches of one pass over the data that are this rank's and one worker's.

        Args:
            epoch: which pass, from 0.
            worker: which of the rank's workers.
            n_workers: how many there are.

        Yields:
            Batches; what fills none at the end is dropped.
        """
        share, shares = self.rank * n_workers + worker, self.world_size * n_workers
        order = np.random.default_rng((self.seed, epoch if self._task.shuffle_each_epoch else 0))
        texts = self._texts.shuffle(generator=order, buffer_size=self._task.buffer_size)
        left = torch.zeros(0, self._task.max_seq_len, dtype=torch.int64)
        for number, block in enumerate(self._blocks(documents_of(texts, self._task.column_name))):
            if number % shares != share:
                continue
            left = torch.cat([left, cut_into_rows(block, self._task, self._tokenizer).long()])
            whole = len(left) // self.batch_size * self.batch_size
            if whole:
                yield from left[:whole].split(self.batch_size)
                left = left[whole:]

    def _blocks(self, documents: Iterable[Any]) -> Iterator[list[Any]]:
        limit = _BLOCK_EXAMPLES if self._task.is_tokenized else _BLOCK_CHARACTERS * self._task.max_seq_len
        block: list[Any] = []
        size = 0
        for document in documents:
            block.append(document)
            size += 1 if self._task.is_tokenized else len(document)
            if size >= limit:
                yield block
                block, size = [], 0
        if block:
            yield block

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_batches": None, "_next": 0, "_last": None}


def text_stream(
    task: LMTask,
    batch_size: int,
    *,
    split: Literal["train", "eval"] = "train",
    tokenizer: Any = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TokenStream | StreamedTokens:
    """Batches of a task's text.

    Args:
        task: the set of texts.
        batch_size: rows of a batch, on one rank.
        split: which of the task's two.
        tokenizer: None = the task's own, where one is needed.
        seed: of all orders.
        rank: which process of several.
        world_size: how many.

    Returns:
        A stream that can begin at any batch; where the task streams, one that reads up to it.

    Raises:
        DataError: data that is missing, or too little of it.
        MissingExtraError: the extra `lm` is not installed.
    """
    if tokenizer is None and not task.is_tokenized:
        tokenizer = load_tokenizer(task)
    name = task.train_split if split == "train" else task.eval_split
    if task.streaming:
        return StreamedTokens(task, name, tokenizer, batch_size, seed=seed, rank=rank, world_size=world_size)
    rows = read_rows(task, name, tokenizer, seed=seed)
    return TokenStream(rows, batch_size, seed, rank, world_size, shuffle_each_epoch=task.shuffle_each_epoch)
