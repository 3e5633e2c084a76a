"""A short self-check: does this machine compute what the formulas say?

Each check works its expectation out anew, in float64, and says in one line what it saw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.core.phases import Phase
from resu.core.select import Candidate, select_top
from resu.errors import KernelError, ResuError
from resu.kernels.backend import Backend, has_compiler, has_triton, interpreted
from resu.kernels.embedding import phi_inverse_gather, phi_scatter
from resu.optim.masked import MaskedAdamW
from resu.sparsifier import Sparsifier

__all__ = ["Check", "back_ends", "self_check"]

_LR, _DECAY, _B1, _B2, _EPS = 1e-2, 0.1, 0.9, 0.999, 1e-8
_SHAPE, _SPARSITY, _STEPS = (33, 45), 0.7, 5
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: what was checked.
        passed: whether it holds.
        detail: what was seen.
    """

    name: str
    passed: bool
    detail: str


def back_ends() -> dict[Backend, str]:
    """Which back ends this machine has, and why the others are absent: an empty text means that it is there."""
    cuda = torch.cuda.is_available()
    triton = "" if has_triton() else "the package triton is not installed"
    if not triton and not (cuda or interpreted()):
        triton = "no GPU"
    compiler = "" if has_compiler() or cuda else "no C++ compiler"
    return {"eager": "", "compile": compiler, "triton": triton}


def self_check(
    backends: tuple[Backend, ...] | None = None, progress: Callable[[int, int, str], None] | None = None
) -> list[Check]:
    """Checks masks, φ, the masked step in every phase, and that θ really trains.

    Args:
        backends: which to check; None = all that are there.
        progress: called with checks done, checks in all and the name of the one that comes next.

    Returns:
        The checks, in order; one that raised an error of this package counts as failed.
    """
    wanted = backends or tuple(name for name, absent in back_ends().items() if not absent)
    found: list[Check] = []
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("masks count exactly", _masks), ("selection is exact", _selection), ("φ⁻¹(φ(θ)) = θ, adjoint", _phi),
    ]  # fmt: skip
    for backend in wanted:
        checks += [
            (f"{backend}: step equals the formula", partial(_step, backend)),
            (f"{backend}: frozen weights keep every bit", partial(_frozen, backend)),
            (f"{backend}: θ trains", partial(_theta, backend)),
        ]
    for name, call in checks:
        if progress is not None:
            progress(len(found), len(checks), name)
        try:
            passed, detail = call()
        except ResuError as error:
            passed, detail = False, str(error)
        found.append(Check(name, passed, detail))
    return found


def _masks() -> tuple[bool, str]:
    mask = SparseMask.random(_SHAPE, _SPARSITY, seed=1)
    wanted = mask.numel - round(_SPARSITY * mask.numel)
    again = SparseMask.from_state_dict(mask.state_dict())
    return mask.n_active == int(mask.to_bool().sum()) == wanted and again == mask, f"{mask.n_active} of {mask.numel}"


def _selection() -> tuple[bool, str]:
    scores = torch.randn(_SHAPE, generator=torch.Generator().manual_seed(2)).round(decimals=1).abs()  # many ties
    k = 500
    (mask,) = select_top([Candidate(lambda part: scores[part], _SHAPE, scores.device)], k)
    order = scores.flatten().sort(descending=True, stable=True).indices[:k].sort().values
    return bool(torch.equal(order, mask.active_indices)), f"{mask.n_active} of {mask.numel}, ties by lowest index"


def _phi() -> tuple[bool, str]:
    generator = torch.Generator().manual_seed(3)
    mask = SparseMask.random(_SHAPE, _SPARSITY, seed=3)
    theta = torch.randn(mask.n_pruned, generator=generator, dtype=torch.float64)
    dense = torch.randn(_SHAPE, generator=generator, dtype=torch.float64)
    placed = phi_scatter(theta, mask.pruned_indices, _SHAPE)
    back = phi_inverse_gather(placed, mask.pruned_indices)
    gap = float(((placed * dense).sum() - (theta * phi_inverse_gather(dense, mask.pruned_indices)).sum()).abs())
    return torch.equal(back, theta) and gap < 1e-10, f"{theta.numel()} entries, adjoint to {gap:.0e}"


def _step(backend: Backend) -> tuple[bool, str]:
    worst = 0.0
    for phase in Phase:
        layer, sparsifier, optimizer = _built(backend)
        mask = sparsifier.parameters["weight"].mask.to_bool().cpu()
        w = layer.weight.detach().double().cpu()
        written = {Phase.RESU: ~mask, Phase.JOINT: torch.ones_like(mask)}.get(phase, mask)
        m, v = torch.zeros_like(w), torch.zeros_like(w)
        _enter(sparsifier, phase)
        for t, g in enumerate(_gradients(), start=1):
            layer.weight.grad = g.to(layer.weight.device)
            optimizer.step()
            m, v = _B1 * m + (1 - _B1) * g.double(), _B2 * v + (1 - _B2) * g.double() ** 2
            moved = w * (1 - _LR * _DECAY) - _LR * (m / (1 - _B1**t)) / ((v / (1 - _B2**t)).sqrt() + _EPS)
            w = torch.where(written, moved, w)
        worst = max(worst, float((layer.weight.detach().double().cpu() - w).abs().max() / w.abs().max()))
    return worst < _TOLERANCE, f"{_STEPS} steps in each of {len(Phase)} phases, to {worst:.0e}"


def _frozen(backend: Backend) -> tuple[bool, str]:
    frozen = 0
    for phase in (Phase.TRAIN, Phase.RESU):
        layer, sparsifier, optimizer = _built(backend)
        for g in _gradients():  # momentum from before must move nothing either
            layer.weight.grad = g.to(layer.weight.device)
            optimizer.step()
        mask = sparsifier.parameters["weight"].mask.to_bool()
        _enter(sparsifier, phase)
        still = mask if phase is Phase.RESU else ~mask
        before = layer.weight.detach().clone()
        for g in _gradients():
            layer.weight.grad = g.to(layer.weight.device)
            optimizer.step()
        if not torch.equal(layer.weight.detach()[still].view(torch.int32), before[still].view(torch.int32)):
            return False, f"some moved in {phase.value.upper()}"
        frozen += int(still.sum())
    return True, f"{frozen} weights, with weight decay and old momentum"


def _theta(backend: Backend) -> tuple[bool, str]:
    layer, sparsifier, optimizer = _built(backend)
    pruned = ~sparsifier.parameters["weight"].mask.to_bool()
    sparsifier.enter_resu()
    for g in _gradients():
        layer.weight.grad = g.to(layer.weight.device)
        optimizer.step()
    moved, total = int((layer.weight.detach()[pruned] != 0).sum()), int(pruned.sum())
    return moved >= 0.99 * total, f"{moved} of {total} pruned weights moved in {_STEPS} steps"


def _built(backend: Backend) -> tuple[nn.Linear, Sparsifier, MaskedAdamW]:
    if (absent := back_ends()[backend]) != "":
        raise KernelError(f"a back end must be there to be checked; {backend} is not: {absent}. Name another one.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layer = nn.Linear(_SHAPE[1], _SHAPE[0], bias=False, device=device)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(_SHAPE, generator=torch.Generator().manual_seed(4)))
    optimizer = MaskedAdamW(
        layer.parameters(), _LR, (_B1, _B2), _EPS, _DECAY, layout="dense", backend=backend
    )  # fmt: skip
    sparsifier = Sparsifier(layer, _SPARSITY, distribution="uniform", optimizer=optimizer)
    sparsifier.prune()
    return layer, sparsifier, optimizer


def _enter(sparsifier: Sparsifier, phase: Phase) -> None:
    {
        Phase.TRAIN: sparsifier.train, Phase.RESU: sparsifier.enter_resu, Phase.JOINT: sparsifier.joint,
        Phase.SHADOW: sparsifier.shadow,
    }[phase]()  # fmt: skip


def _gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(_SHAPE, generator=generator) for _ in range(_STEPS)]
