"""Exactly the k largest scores, without sorting and without an index vector.

Scores are read as order-preserving 32-bit keys. Four passes over the keys, a byte each, build histograms of the keys
that agree with the bytes found so far; the byte in which the k-th largest falls is the next one (radix select: Alabi,
Blanchard, Gordon, Steinbach, *Fast k-selection algorithms for graphics processing units*, 2012). Histograms add up, so
the same passes give the exact global threshold over shards. Ties are broken by the lowest candidate, then the lowest
flat index. Scores come by slices of rows: nothing as large as the weight is made.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from resu.core.mask import SparseMask, chunk_rows, row_shape
from resu.errors import MaskError

__all__ = ["Candidate", "Score", "Selection", "kth_largest", "plan_top", "select_top"]

Score = Callable[[slice], Tensor]
"""Rows in, their scores out: float32 of shape (rows, cols), larger = better, never NaN."""

_BYTES = 4


@dataclass(frozen=True)
class Candidate:
    """Coordinates that take part in a selection.

    Args:
        score: the scores, by slices of rows.
        shape: the weight's shape.
        device: where the scores live.
        among: only these coordinates take part; None = all.
        pruned: only coordinates that `among` prunes take part, instead of its active ones.
    """

    score: Score
    shape: tuple[int, ...]
    device: torch.device
    among: SparseMask | None = None
    pruned: bool = False

    @property
    def size(self) -> int:
        """How many coordinates take part."""
        if self.among is None:
            rows, cols = row_shape(self.shape)
            return rows * cols
        return self.among.n_pruned if self.pruned else self.among.n_active

    def taking_part(self, part: slice) -> Bool[Tensor, "part cols"] | None:
        """Which coordinates of some rows take part; None = all."""
        if self.among is None:
            return None
        return ~self.among.row_bool(part) if self.pruned else self.among.row_bool(part)

    def parts(self) -> Iterator[slice]:
        """Slices of rows that cover the weight."""
        return chunk_rows(*row_shape(self.shape))


def _keys(scores: Float[Tensor, "part cols"]) -> Int32[Tensor, "part cols"]:
    """Signed integers in the order of the scores; −0 and 0 are one key."""
    bits = (scores.float() + 0.0).contiguous().view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _digit(keys: Tensor, place: int) -> Tensor:
    """Byte `place` of the keys, the highest one shifted so that its order is the keys' own."""
    digit = (keys >> (8 * place)) & 0xFF
    return digit ^ 0x80 if place == _BYTES - 1 else digit


def _part_keys(candidate: Candidate, part: slice) -> tuple[Tensor, Tensor | None]:
    scores = candidate.score(part)
    if bool(torch.isnan(scores).any()):
        raise MaskError(
            "a score is a number; this selection met NaN. Look for weights or gradients that are not finite, and skip "
            "the step that made them."
        )
    return _keys(scores), candidate.taking_part(part)


def _threshold(candidates: Sequence[Candidate], k: int, group: dist.ProcessGroup | None) -> tuple[int, int]:
    """The k-th largest key, and how many coordinates with that very key are among the first k."""
    left, prefix = k, 0
    for place in reversed(range(_BYTES)):
        counts: Int[Tensor, 256] = torch.zeros(256, dtype=torch.int64)
        for candidate in candidates:
            for part in candidate.parts():
                keys, among = _part_keys(candidate, part)
                keys = keys.flatten() if among is None else keys[among]
                if place < _BYTES - 1:
                    keys = keys[(keys >> (8 * (place + 1))) == prefix]
                counts += torch.bincount(_digit(keys, place), minlength=256).cpu()
        counts = _summed(counts, group)
        above = counts.flip(0).cumsum(0).flip(0)
        digit = int((above >= left).nonzero().max())
        left -= int(above[digit] - counts[digit])
        if place == _BYTES - 1:
            prefix = (digit ^ 0x80) - 256 if (digit ^ 0x80) >= 128 else digit ^ 0x80
        else:
            prefix = (prefix << 8) | digit
    return prefix, left


def _on_group_device(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """NCCL reads device memory only, gloo the host's."""
    return values.cuda() if dist.get_backend(group) == "nccl" else values


def _summed(counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is None:
        return counts
    shared = _on_group_device(counts, group)
    dist.all_reduce(shared, group=group)
    return shared.cpu()


def _tie_allowance(candidates: Sequence[Candidate], key: int, ties: int, group: dist.ProcessGroup | None) -> list[int]:
    """How many coordinates at the threshold each candidate of this rank may keep."""
    counts = torch.zeros(len(candidates), dtype=torch.int64)
    for index, candidate in enumerate(candidates):
        for part in candidate.parts():
            keys, among = _part_keys(candidate, part)
            tied = keys == key
            counts[index] += int((tied if among is None else tied & among).sum())
    rank, table = 0, counts[None]
    if group is not None:
        rank = dist.get_rank(group)
        shared = _on_group_device(counts, group)
        gathered = [torch.empty_like(shared) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, shared, group=group)
        table = torch.stack(gathered).cpu()
    # Candidate by candidate, and within one by rank, which is by row.
    order = table.T.reshape(-1)
    before = order.cumsum(0) - order
    allowed = (ties - before).clamp(min=0).minimum(order).reshape(table.T.shape)
    return [int(n) for n in allowed[:, rank]]


def _total(candidates: Sequence[Candidate], group: dist.ProcessGroup | None) -> int:
    return int(_summed(torch.tensor([sum(candidate.size for candidate in candidates)]), group))


@dataclass(frozen=True)
class Selection:
    """The k largest scores, found but not yet written down anywhere.

    Args:
        candidates: what takes part.
        key: the threshold; None where everything or nothing is chosen.
        allowed: for each candidate, how many coordinates at the very threshold are chosen; where the threshold is
            None, whether all are.
    """

    candidates: tuple[Candidate, ...]
    key: int | None
    allowed: tuple[int, ...]

    def rows(self, index: int) -> Iterator[tuple[slice, Bool[Tensor, "part cols"]]]:
        """Walks over a candidate from its first row to its last; scores are asked for just before their rows come.

        Whoever changes the weight as it walks changes no choice, as long as only rows that have come are changed.

        Args:
            index: which candidate.

        Yields:
            Rows, and which of their coordinates are chosen.
        """
        candidate, allowed = self.candidates[index], self.allowed[index]
        cols = row_shape(candidate.shape)[1]
        for part in candidate.parts():
            if self.key is None:
                size = (part.stop - part.start, cols)
                among = candidate.taking_part(part) if allowed else None
                yield part, (torch.full(size, bool(allowed), device=candidate.device) if among is None else among)
                continue
            keys, among = _part_keys(candidate, part)
            chosen, tied = keys > self.key, keys == self.key
            if among is not None:
                chosen, tied = chosen & among, tied & among
            if allowed:
                found = int(tied.sum())
                if found > allowed:
                    tied &= (tied.flatten().cumsum(0) <= allowed).view_as(tied)
                chosen |= tied
                allowed -= min(found, allowed)
            yield part, chosen


def plan_top(candidates: Sequence[Candidate], k: int, *, group: dist.ProcessGroup | None = None) -> Selection:
    """Finds the k largest scores over all candidates together; see `select_top`.

    Args:
        candidates: what takes part; with a group, this rank's rows of each.
        k: how many coordinates to choose.
        group: ranks that hold the other rows, in the order of the rows.

    Returns:
        The selection, to be walked over.

    Raises:
        MaskError: k below 0 or above the number of coordinates, or a score that is NaN.
    """
    total = _total(candidates, group)
    if not 0 <= k <= total:
        raise MaskError(
            f"a selection takes from 0 to all of its {total} coordinates; got k = {k}. Lower k, or let more "
            "coordinates take part."
        )
    if k in (0, total):
        return Selection(tuple(candidates), None, tuple(int(k > 0) for _ in candidates))
    key, ties = _threshold(candidates, k, group)
    return Selection(tuple(candidates), key, tuple(_tie_allowance(candidates, key, ties, group)))


def select_top(candidates: Sequence[Candidate], k: int, *, group: dist.ProcessGroup | None = None) -> list[SparseMask]:
    """Marks exactly the k coordinates with the largest scores, over all candidates together.

    Args:
        candidates: what takes part; with a group, this rank's rows of each.
        k: how many coordinates to mark.
        group: ranks that hold the other rows, in the order of the rows; the selection is then the global one.

    Returns:
        One mask a candidate, active where chosen.

    Raises:
        MaskError: k below 0 or above the number of coordinates, or a score that is NaN.

    >>> scores = torch.tensor([[3.0, 1.0, 2.0, 2.0]])
    >>> (mask,) = select_top([Candidate(lambda part: scores[part], (1, 4), scores.device)], 2)
    >>> mask.active_indices.tolist()
    [0, 2]
    """
    selection = plan_top(candidates, k, group=group)
    chosen = []
    for index, candidate in enumerate(candidates):
        mask = SparseMask.zeros(candidate.shape, candidate.device)
        for part, flags in selection.rows(index):
            mask.set_rows(part, flags)
        chosen.append(mask)
    return chosen


def kth_largest(candidates: Sequence[Candidate], k: int, *, group: dist.ProcessGroup | None = None) -> float:
    """The k-th largest score, exactly.

    Args:
        candidates: what takes part.
        k: rank of the score, 1 = the largest.
        group: as for `select_top`.

    Returns:
        The score.

    Raises:
        MaskError: k below 1 or above the number of coordinates, or a score that is NaN.

    >>> scores = torch.tensor([[3.0, -1.0, 2.0]])
    >>> kth_largest([Candidate(lambda part: scores[part], (1, 3), scores.device)], 3)
    -1.0
    """
    total = _total(candidates, group)
    if not 1 <= k <= total:
        raise MaskError(f"the k-th largest of {total} scores has k from 1 to {total}; got {k}. Choose one of them.")
    key, _ = _threshold(candidates, k, group)
    bits = torch.tensor([key], dtype=torch.int32)
    return float((bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32))
