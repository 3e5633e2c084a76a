"""One AdamW or SGD step that writes only the coordinates that it may.

For a coordinate that may be written, t steps of its set so far, g its gradient (Kingma & Ba, *Adam*, 2014,
arXiv:1412.6980; decay as in Loshchilov & Hutter, *Decoupled Weight Decay Regularization*, 2017, arXiv:1711.05101):

    w ← w (1 − η λ)
    m ← β₁ m + (1 − β₁) g            v ← β₂ v + (1 − β₂) g²
    w ← w − η · (m / (1 − β₁ᵗ)) / (√v / √(1 − β₂ᵗ) + ε)

Any other coordinate keeps every bit of w, m and v: masking the gradient alone would not do, since decay and old
momentum still move a weight. In SHADOW the free moments of pruned coordinates gather m ← β m + (1 − β) g, v ← β v + (1
− β)|g|.

Three forms: chunks of rows in eager mode, one fused loop through torch.compile, and Triton on a GPU. Which set is
written, learning rates and step counts are data to all of them, so that a change of phase compiles nothing. SGD, with
one state array to stream at most, has no compiled form of its own and runs there as in eager mode.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.optim.adamw import adamw

from resu.core.bits import unpack_rows
from resu.core.mask import SparseMask, chunk_rows
from resu.core.phases import Phase
from resu.kernels.backend import Backend

__all__ = ["AdamStep", "block_offsets", "masked_adamw", "masked_adamw_compact", "masked_sgd"]

_EAGER_ELEMENTS = 1 << 16
"""Elements of an eager chunk: small enough for the cache, large enough that calls from Python do not outweigh it."""

_COMPACT_ELEMENTS = 1 << 12
_BLOCK = 1024


@dataclass(frozen=True)
class AdamStep:
    """The numbers of one step.

    Args:
        phase: which coordinates are written.
        lr: learning rate of active coordinates.
        lr_pruned: learning rate of pruned ones.
        beta1: decay of m.
        beta2: decay of v.
        eps: added to the root of v.
        weight_decay: decoupled decay λ.
        step_active: t of the active set, this step included.
        step_pruned: t of the pruned set, this step included.
        shadow_beta: β of the statistics in SHADOW.
    """

    phase: Phase
    lr: float
    lr_pruned: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    step_active: int
    step_pruned: int
    shadow_beta: float = 0.98

    def of(self, active: bool) -> tuple[float, int]:
        """Learning rate and step count of a set."""
        return (self.lr, self.step_active) if active else (self.lr_pruned, self.step_pruned)

    def numbers(self, active: bool) -> list[float]:
        """What the fused loop reads to write one set: first how its weights move, then its moments, then the others'.

        Moments move by m ← m + c (g − m) and v ← v + d (q − v). The others' c and d are 0, but for the statistics that
        SHADOW gathers.
        """
        lr, t = self.of(active)
        gathered = 1 - self.shadow_beta if self.phase is Phase.SHADOW else 0.0
        return [1 - lr * self.weight_decay, lr / (1 - self.beta1**t), 1 / math.sqrt(1 - self.beta2**t), self.eps,
                1 - self.beta1, 1 - self.beta2, gathered]  # fmt: skip


def masked_adamw(
    w: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    m: Float[Tensor, "rows cols"],
    v: Float[Tensor, "rows cols"],
    words: Int32[Tensor, "rows words"] | None,
    step: AdamStep,
    *,
    backend: Backend,
    subset: Int32[Tensor, "rows words"] | None = None,
) -> None:
    """One step in place, with moments of the weight's shape.

    Args:
        w: the weight, contiguous.
        g: its gradient, contiguous; not changed.
        m: first moments.
        v: second moments; with `words` None, their sign bit is the mask: set = pruned.
        words: the packed mask; None reads it from the sign of v.
        step: the step's numbers.
        backend: which form.
        subset: in RESU, the only coordinates that are written; None = all pruned ones.
    """
    if backend == "triton":
        from resu.kernels import triton_masked_adam

        triton_masked_adam.launch(
            w, g, m, v, words, invert=step.phase is Phase.RESU, everything=step.phase is Phase.JOINT,
            shadow=step.phase is Phase.SHADOW, subset=subset, lr=step.lr, lr_pruned=step.lr_pruned, beta1=step.beta1,
            beta2=step.beta2, eps=step.eps, weight_decay=step.weight_decay, step_active=step.step_active,
            step_pruned=step.step_pruned, shadow_beta=step.shadow_beta, signbit=words is None,
        )  # fmt: skip
    elif backend == "compile":
        _compiled_adamw(w, g, m, v, words, subset, step)
    else:
        _eager_adamw(w, g, m, v, words, subset, step)


# --- eager ------------------------------------------------------------------------------------------------------------


def _torch_adamw(w: Tensor, g: Tensor, m: Tensor, v: Tensor, lr: float, t: int, step: AdamStep) -> None:
    """Torch's own fused kernel on some rows; t includes this step."""
    adamw(
        [w], [g], [m], [v], [], [torch.tensor(float(t - 1), device=w.device)], fused=True, amsgrad=False,
        beta1=step.beta1, beta2=step.beta2, lr=lr, weight_decay=step.weight_decay, eps=step.eps, maximize=False,
    )  # fmt: skip


def _eager_adamw(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, words: Tensor | None, subset: Tensor | None, step: AdamStep
) -> None:
    rows, cols = w.shape
    for part in chunk_rows(rows, cols, _EAGER_ELEMENTS):
        w_c, g_c, m_c, v_c = w[part], g[part], m[part], v[part]
        active = torch.signbit(v_c).logical_not_() if words is None else unpack_rows(words[part], cols)
        if words is None:
            v_c.abs_()
        if step.phase is Phase.JOINT:
            _both_sets(w_c, g_c, m_c, v_c, active, step)
        elif step.phase is Phase.SHADOW:
            _shadow_rows(w_c, g_c, m_c, v_c, active, step)
        else:
            written = active
            if step.phase is Phase.RESU:
                written = ~active if subset is None else unpack_rows(subset[part], cols)
            _one_set(w_c, g_c, m_c, v_c, written, step, step.phase is not Phase.RESU)
        if words is None:
            v_c.copysign_(active.to(v_c.dtype).sub_(0.5))


def _take(target: Tensor, source: Tensor, taken: Tensor) -> None:
    """Copies the bits of `source`, which is used up, to where `taken` is all ones; elsewhere `target` keeps its own.

    Three integer operations: in eager mode a third of what `torch.where` costs, and as exact for NaN as for any number.
    """
    into, difference = target.view(taken.dtype), source.view(taken.dtype)
    into.bitwise_xor_(difference.bitwise_xor_(into).bitwise_and_(taken))


def _all_ones(flags: Tensor, like: Tensor) -> Tensor:
    """An integer of the other's width a flag: all ones where it is set, else 0."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return flags.to(integers[like.element_size()]).neg_()


def _one_set(w: Tensor, g: Tensor, m: Tensor, v: Tensor, written: Tensor, step: AdamStep, active: bool) -> None:
    """PyTorch's fused kernel on copies, from which only what may be written is taken."""
    lr, t = step.of(active)
    moved = [x.clone() for x in (w, m, v)]
    _torch_adamw(moved[0], g, moved[1], moved[2], lr, t, step)
    taken = _all_ones(written, w)
    for target, source in zip((w, m, v), moved, strict=True):
        _take(target, source, taken)


def _both_sets(w: Tensor, g: Tensor, m: Tensor, v: Tensor, active: Tensor, step: AdamStep) -> None:
    _one_set(w, g, m, v, active, step, active=True)
    _one_set(w, g, m, v, ~active, step, active=False)


def _shadow_rows(w: Tensor, g: Tensor, m: Tensor, v: Tensor, active: Tensor, step: AdamStep) -> None:
    gathered = [
        torch.lerp(m, g.to(m.dtype), 1 - step.shadow_beta),
        torch.lerp(v, g.abs().to(v.dtype), 1 - step.shadow_beta),
    ]
    _one_set(w, g, m, v, active, step, active=True)
    pruned = _all_ones(~active, m)
    for target, source in zip((m, v), gathered, strict=True):
        _take(target, source, pruned)


def masked_adamw_compact(
    w: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    m: Float[Tensor, " written"],
    v: Float[Tensor, " written"],
    words: Int32[Tensor, "rows words"],
    step: AdamStep,
    *,
    backend: Backend,
    block_offsets: Int32[Tensor, " blocks"] | None = None,
) -> None:
    """One step in place, with moments for the written coordinates alone.

    Args:
        w: the weight, contiguous.
        g: its gradient, contiguous; not changed.
        m: first moments of the written coordinates, by ascending flat index.
        v: second moments.
        words: the coordinates that are written, packed.
        step: the step's numbers; the phase says whose learning rate and step count apply.
        backend: which form; there is no compiled one, which runs as the eager one.
        block_offsets: for Triton, written coordinates before each block of 1024.
    """
    active = step.phase is not Phase.RESU
    lr, t = step.of(active)
    if backend == "triton" and block_offsets is not None:
        from resu.kernels import triton_masked_adam

        triton_masked_adam.launch_compact(
            w, g, m, v, words, block_offsets, lr=lr, beta1=step.beta1, beta2=step.beta2, eps=step.eps,
            weight_decay=step.weight_decay, step=t,
        )  # fmt: skip
        return
    rows, cols = w.shape
    done = 0
    # Small slices: whoever chooses this layout chooses memory over time.
    for part in chunk_rows(rows, cols, max(_COMPACT_ELEMENTS, rows * cols // 512)):
        written = unpack_rows(words[part], cols)
        w_c = w[part][written]
        slots = slice(done, done + w_c.numel())
        done = slots.stop
        if w_c.numel():
            _torch_adamw(w_c, g[part][written], m[slots], v[slots], lr, t, step)
            w[part].masked_scatter_(written, w_c)


def block_offsets(written: SparseMask) -> Int32[Tensor, " blocks"]:
    """Written coordinates before each block of 1024, in flat order: where a block's compact moments begin.

    Args:
        written: the coordinates that have moments.

    Returns:
        One number a block.

    >>> block_offsets(SparseMask(torch.ones(3, 1000, dtype=torch.bool))).tolist()
    [0, 1024, 2048]
    """
    blocks = -(-written.numel // _BLOCK)
    counts = torch.zeros(blocks, dtype=torch.int64, device=written.device)
    for part in written.chunks():
        flags = written.row_bool(part).flatten()
        index = torch.arange(part.start * written.cols, part.stop * written.cols, device=written.device) // _BLOCK
        counts.index_add_(0, index, flags.to(torch.int64))
    return (counts.cumsum(0) - counts).to(torch.int32)


# --- one fused loop through torch.compile -----------------------------------------------------------------------------


def _compiled_adamw(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, words: Tensor | None, subset: Tensor | None, step: AdamStep
) -> None:
    if words is None and subset is not None:  # rare enough beside a sign-bit mask for the plain form
        _eager_adamw(w, g, m, v, words, subset, step)
        return
    sets = {Phase.RESU: (False,), Phase.JOINT: (True, False)}.get(step.phase, (True,))
    for active in sets:
        numbers = torch.tensor(step.numbers(active), dtype=torch.float32, device=w.device)
        flip = _flip(not active and subset is None, w.device)
        chosen = words if subset is None else subset
        if chosen is None:
            _compiled(_signbit_body)(w, g, m, v, numbers, flip)
        elif w.shape[1] % 32:
            _compiled(_ragged_body)(w, g, m, v, chosen, numbers, flip)
        else:
            # Seen so from outside: a view inside a body for any shape costs its loop the vector instructions.
            lanes = (w.shape[0], -1, 32)
            _compiled(_lanes_body)(w.view(lanes), g.view(lanes), m.view(lanes), v.view(lanes), chosen, numbers, flip)


@cache
def _flip(flip: bool, device: torch.device) -> Tensor:
    """What a word is combined with by ^ to hold a one for each coordinate that is written.

    Data, as the numbers are, so that another phase compiles nothing.
    """
    return torch.tensor(-1 if flip else 0, dtype=torch.int32, device=device)


@cache
def _compiled(body: Callable[..., None]) -> Any:
    return torch.compile(body, dynamic=True, fullgraph=True)


def _update(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, written: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The new w, m and v; elementwise, so that it compiles into one loop."""
    keep, rate, root, eps, c, d, gathered = numbers.unbind()
    w32, g32, m32, v32 = w.float(), g.float(), m.float(), v.float()
    m_new = m32 + torch.where(written, c, gathered) * (g32 - m32)
    square = torch.where(written, g32 * g32, g32.abs())
    v_new = v32 + torch.where(written, d, gathered) * (square - v32)
    w_new = w32 * keep - rate * m_new / (v_new.sqrt() * root + eps)
    return torch.where(written, w_new.to(w.dtype), w), m_new.to(m.dtype), v_new.to(v.dtype)


def _lanes_body(w: Tensor, g: Tensor, m: Tensor, v: Tensor, words: Tensor, numbers: Tensor, flip: Tensor) -> None:
    """Rows of whole words, seen as (rows, words, 32)."""
    bit = 1 << torch.arange(32, dtype=torch.int32, device=w.device)
    written = ((words ^ flip).unsqueeze(-1) & bit) != 0
    for target, source in zip((w, m, v), _update(w, g, m, v, written, numbers), strict=True):
        target.copy_(source)


def _ragged_body(w: Tensor, g: Tensor, m: Tensor, v: Tensor, words: Tensor, numbers: Tensor, flip: Tensor) -> None:
    """Rows that end within a word: each column looks its word up."""
    column = torch.arange(w.shape[1], dtype=torch.int32, device=w.device)
    written = (((words[:, column // 32] ^ flip) >> (column % 32)) & 1) != 0
    for target, source in zip((w, m, v), _update(w, g, m, v, written, numbers), strict=True):
        target.copy_(source)


def _signbit_body(w: Tensor, g: Tensor, m: Tensor, v: Tensor, numbers: Tensor, flip: Tensor) -> None:
    """The mask is the sign of v, which as a mean of squares needs none of its own."""
    # Compared as an integer: the compiler has no vector form of torch.signbit.
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[v.element_size()]
    pruned = v.view(integer) < 0
    w_new, m_new, v_new = _update(w, g, m, v.abs(), pruned == (flip != 0), numbers)
    w.copy_(w_new)
    m.copy_(m_new)
    v.copy_(torch.where(pruned, -v_new, v_new))


# --- SGD --------------------------------------------------------------------------------------------------------------


def masked_sgd(
    w: Float[Tensor, "rows cols"],
    g: Float[Tensor, "rows cols"],
    m: Float[Tensor, "rows cols"] | None,
    words: Int32[Tensor, "rows words"],
    phase: Phase,
    *,
    lr: float,
    lr_pruned: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    first: bool,
    backend: Backend,
    subset: Int32[Tensor, "rows words"] | None = None,
    shadow_beta: float = 0.98,
) -> None:
    """One SGD step in place: g ← g + λ w, m ← μ m + g, w ← w − η m (or w − η (g + μ m) with Nesterov's momentum).

    Args:
        w: the weight, contiguous.
        g: its gradient, contiguous; not changed.
        m: momentum, or None without.
        words: the packed mask.
        phase: which coordinates are written.
        lr: learning rate of active coordinates.
        lr_pruned: learning rate of pruned ones.
        momentum: μ.
        weight_decay: coupled decay λ.
        nesterov: whether the step looks ahead.
        first: whether m is to be g, as torch has it on the first step of a set.
        backend: which form; there is no compiled one, which runs as the eager one.
        subset: in RESU, the only coordinates that are written.
        shadow_beta: β of the gradient's mean in SHADOW, which needs momentum.
    """
    if backend == "triton":
        from resu.kernels import triton_masked_sgd

        triton_masked_sgd.launch(
            w, g, m, words, invert=phase is Phase.RESU, everything=phase is Phase.JOINT, shadow=phase is Phase.SHADOW,
            lr=lr, lr_pruned=lr_pruned, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, first=first,
            shadow_beta=shadow_beta, subset=subset,
        )  # fmt: skip
        return
    rows, cols = w.shape
    for part in chunk_rows(rows, cols, _EAGER_ELEMENTS):
        w_c, g_c = w[part], g[part]
        active = unpack_rows(words[part], cols)
        written = active
        if phase is Phase.RESU:
            written = ~active if subset is None else unpack_rows(subset[part], cols)
        elif phase is Phase.JOINT:
            written = torch.ones_like(active)
        rate = torch.where(active, lr, lr_pruned).to(w.dtype)
        d = torch.add(g_c, w_c, alpha=weight_decay) if weight_decay else g_c
        if m is not None:
            m_c = m[part]
            moved = d.clone() if first else torch.add(d, m_c, alpha=momentum)
            kept = torch.lerp(m_c, g_c, 1 - shadow_beta) if phase is Phase.SHADOW else m_c
            torch.where(written, moved, kept, out=m_c)
            d = torch.add(d, moved, alpha=momentum) if nesterov else moved
        torch.where(written, w_c - rate * d, w_c, out=w_c)
