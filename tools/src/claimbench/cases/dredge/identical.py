"""Whether each of the note's changes leaves every result as it was, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from claimbench.case import Case, Counted
from claimbench.cases.dredge.hashing import filled
from claimbench.cases.dredge.problem import not_timed
from claimbench.cases.dredge.training import plain_loop
from claimbench.record import Params
from dredge.quasimoto.data import generate_4d_data
from dredge.reference.original import (
    InterferenceAfter,
    InterferenceBefore,
    chained_4d,
    chained_6d,
    hash_after,
    hash_before,
    in_place_4d,
    in_place_6d,
    train_as_coded,
    zero_to_zeros,
)

__all__ = ["CASES"]

TEXTS, STEPS = 2000, 20


def _other(before: Tensor, after: Tensor) -> int:
    return int((before != after).sum())


def _trained(form: type[nn.Module], train: Callable[..., list[float]] = train_as_coded) -> Tensor:
    """Losses of a training of the basis in three dimensions, always from the same start."""
    *columns, t, y = generate_4d_data(6)
    torch.manual_seed(0)
    return torch.tensor(train(form(3, 8, 1), (torch.stack(columns, dim=1), t), y, STEPS))


def _outputs(form: type[nn.Module]) -> Tensor:
    """Outputs of the basis in three dimensions, widths drawn."""
    torch.manual_seed(0)
    basis = form(3, 8, 1)
    with torch.no_grad():
        basis.get_parameter("log_sigma").normal_(0, 0.3)
        found: Tensor = basis(torch.randn(TEXTS, 3), torch.zeros(1))
    return found


def _differences(_params: Params) -> Iterable[Counted]:
    texts = [filled(16 + number % 300, number % (TEXTS // 2)) for number in range(TEXTS)]
    wrong = sum(hash_after(text) != hash_before(text) for text in texts)
    hash_after.cache_clear()
    yield Counted("hash", wrong, "after", "ids", f"of {TEXTS}, half of them repeats")
    made = {"4D data": (chained_4d(20), in_place_4d(20)), "6D data": (chained_6d(8), in_place_6d(8))}
    for name, (before, after) in made.items():
        yield Counted(name, _other(before, after), "after", "values", f"of {before.numel()}")
    before, after = (_outputs(form) for form in (InterferenceBefore, InterferenceAfter))
    words = f"of {before.numel()}; largest relative difference {float((after / before - 1).abs().max()):.3g}"
    yield Counted("window", _other(before, after), "after", "values", words)
    known = _trained(InterferenceBefore)
    for name, losses in {
        "clipping unused": _trained(InterferenceBefore, plain_loop),
        "gradients of zeros": _trained(InterferenceBefore, partial(train_as_coded, clear=zero_to_zeros)),
    }.items():
        yield Counted(name, _other(known, losses), "after", "losses", f"of {STEPS} of a training")


CASES = (
    Case(
        "dredge.identical",
        "results that differ after each of the note's changes",
        "torch",
        not_timed,
        values=_differences,
        values_grid=({"steps": STEPS},),
        original=(InterferenceBefore, chained_4d, chained_6d, hash_before),
    ),
)
