"""Exactly the k largest scores, without sorting and without an index vector.

Scores are read as order-preserving 32-bit keys. Four passes over the keys, a byte each, build histograms of the keys
that agree with the bytes found so far; the byte in which the k-th largest falls is the next one (radix select: Alabi,
Blanchard, Gordon, Steinbach, *Fast k-selection algorithms for graphics processing units*, 2012). Histograms add up, so
the same passes give the exact global threshold over shards, and the last one counts the ties. Those are broken by the
lowest candidate, then the lowest flat index. Scores come by slices of rows: nothing as large as the weight is made.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from resu.core.mask import SparseMask, chunk_rows, row_shape
from resu.errors import MaskError

__all__ = ["Candidate", "Score", "Selection", "kth_largest", "plan_top", "select_top"]

Score = Callable[[slice], Tensor]
"""Rows in, their scores out: float32 of shape (rows, cols), larger = better, never NaN."""

_BYTES, _BINS, _SIGN = 4, 256, -(1 << 31)

_DEVICE_ELEMENTS, _DEVICE_SHARE = 1 << 20, 64


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
        """Slices of rows that cover the weight; on a GPU larger ones, since each of their operations is a launch."""
        rows, cols = row_shape(self.shape)
        on_device = self.device.type != "cpu"
        return chunk_rows(rows, cols, max(_DEVICE_ELEMENTS, rows * cols // _DEVICE_SHARE) if on_device else None)


def _keys(scores: Float[Tensor, "part cols"]) -> Int32[Tensor, "part cols"]:
    """Bits whose order as unsigned integers is that of the scores; −0 and 0 are one key."""
    bits = (scores.float() + 0.0).contiguous().view(torch.int32)
    # Negative: all bits flipped, so that the larger magnitude is the smaller key. Positive: the sign bit set.
    return bits.bitwise_xor_((bits >> 31).bitwise_or_(_SIGN))


def _count(candidate: Candidate, place: int, found: int) -> Int64[Tensor, " bins"]:
    """How many keys that begin with the bytes found so far have each value of byte `place`, 0 being the lowest."""
    counts = torch.zeros(_BINS + 1, dtype=torch.int64, device=candidate.device)
    for part in candidate.parts():
        counts += _count_part(candidate, part, place, found)
    counts = counts[:_BINS].cpu()
    # A NaN has eight ones after its sign, of which the highest byte holds seven.
    if place == _BYTES - 1 and bool(counts[0] + counts[-1]):
        _refuse_nan(candidate)
    return counts


def _count_part(candidate: Candidate, part: slice, place: int, found: int) -> Int64[Tensor, " bins"]:
    digits, among = _keys(candidate.score(part)), candidate.taking_part(part)
    above = None
    if place < _BYTES - 1:
        above = (digits >> (8 * place + 8)).bitwise_and_((1 << (24 - 8 * place)) - 1) != found
    digits = digits.bitwise_right_shift_(8 * place).bitwise_and_(0xFF)
    # Whatever does not take part is counted in a bin of its own, which costs less than leaving it out.
    if among is not None:
        digits.masked_fill_(~among, _BINS)
    if above is not None:
        digits.masked_fill_(above, _BINS)
    return torch.bincount(digits.flatten(), minlength=_BINS + 1)


def _refuse_nan(candidate: Candidate) -> None:
    for part in candidate.parts():
        among = candidate.taking_part(part)
        nan = torch.isnan(candidate.score(part))
        if bool((nan if among is None else nan & among).any()):
            raise MaskError(
                "a score is a number; this selection met NaN. Look for weights or gradients that are not finite, and "
                "skip the step that made them."
            )


def _threshold(
    candidates: Sequence[Candidate], k: int, group: dist.ProcessGroup | None
) -> tuple[int, int, Int64[Tensor, " candidates"]]:
    """The k-th largest key, how many with that very key are among the first k, and how many each candidate here has."""
    left, found = k, 0
    ties = torch.zeros(len(candidates), dtype=torch.int64)
    for place in reversed(range(_BYTES)):
        counts = torch.stack([_count(candidate, place, found) for candidate in candidates])
        whole = _summed(counts.sum(0), group)
        from_top = whole.flip(0).cumsum(0).flip(0)
        digit = int((from_top >= left).nonzero().max())
        left -= int(from_top[digit] - whole[digit])
        found = found << 8 | digit
        ties = counts[:, digit]
    return found, left, ties


def _signed(key: int) -> int:
    """A key with its highest bit flipped, as a signed integer."""
    return key + _SIGN


def _on_group_device(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """NCCL reads device memory only, gloo the host's."""
    return values.cuda() if dist.get_backend(group) == "nccl" else values


def _summed(counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if group is None:
        return counts
    shared = _on_group_device(counts, group)
    dist.all_reduce(shared, group=group)
    return shared.cpu()


def _tie_allowance(counts: Int64[Tensor, " candidates"], ties: int, group: dist.ProcessGroup | None) -> list[int]:
    """How many coordinates at the threshold each candidate of this rank may keep."""
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
        key: the threshold, its highest bit flipped so that a signed comparison has the keys' order; None where
            everything or nothing is chosen.
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
            keys, among = _keys(candidate.score(part)).bitwise_xor_(_SIGN), candidate.taking_part(part)
            chosen, tied = keys > self.key, keys == self.key
            if among is not None:
                chosen, tied = chosen & among, tied & among
            if allowed:
                found = int(tied.sum())
                if found > allowed:
                    tied &= (tied.flatten().cumsum(0) <= allowed).view_as(tied)
                chosen |= tied
                allowed -= min(found, allowed)
            del keys, tied, among  # while the caller works on these rows, only the choice is kept
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
    key, left, ties = _threshold(candidates, k, group)
    return Selection(tuple(candidates), _signed(key), tuple(_tie_allowance(ties, left, group)))


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
    key = torch.tensor(_signed(_threshold(candidates, k, group)[0]), dtype=torch.int32)
    return float((key ^ ((key >> 31) & ~_SIGN)).view(torch.float32))
