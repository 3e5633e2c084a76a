"""How the published code ran its RESU phase: a reconstruction, defects included, for comparison only.

It is rebuilt from "Complete Performance Fix" (the note), whose code blocks it follows, and from what was found in the
original's source. Three ways of forming the effective weight are told apart (`Forward`), which are the note's fixes #2
and #3, and two of entering the phase (`clear_state`), which is its fix #1. How many dense operations the form without a
cache dispatched is not known to the last one; here it is one product M ⊙ W more than the cached form, and one autograd
node less, which is what the note's words say and what its measured times bear out.

Defects kept on purpose, because they are what the figures are about, each named where it stands:

- THREE COPIES OF THE MASK: float32 M, int64 indices of A and int64 indices of P take 3 |W| beside the weight.
- CACHE OF M ⊙ W: another |W|, and the cached forward still runs the whole blend M ⊙ x + (1 − M) ⊙ φ.
- HIDDEN θ STATE: RESU-Selective keeps m, v and C, three vectors as long as θ, from the moment of entry.
- STATE KEPT: with W frozen, the optimizer's 2 |W| of state for it stay alive unless they are deleted; only the trainer
  deletes them, so that who uses the layer by itself leaks them.
- HOST SYNC IN THE SCATTER: each call reads the largest index back, and casts the indices to int64.
- PLAIN SCATTER: without an autograd function, θ gets no gradient at all.
- θ NEVER UPDATED: the trainer's RESU phase steps θ only where W has a gradient, and W is frozen.
- θ.grad NEVER ZEROED: what backward leaves there adds up over the phase.
- NOISE COMMITTED: what the phase then merges into W is the noise that θ began with.
- FIXED LEARNING RATE: a plain `resu_step` moves by 1e-4, whatever was asked for.
- ALL ELSE FROZEN: the main optimizer is not stepped during the phase, biases included.
- TIES PRUNED: the magnitude threshold is the k-th smallest, and only what is strictly larger stays.
- NOTHING SAVED: mask, θ and mode are in no state dict.

Only tests and measurements import this module.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.autograd import Function
from torch.optim import Optimizer

__all__ = [
    "BlendFunction",
    "EffectiveWeightFunction",
    "Forward",
    "NoteTally",
    "OriginalRESULinear",
    "OriginalSelective",
    "PhiScatterFunction",
    "Rebuilt",
    "SparseMask",
    "build",
    "enter_resu_phase",
    "live_bytes",
    "live_parts",
    "live_tensors",
    "note_tally",
    "phi_inverse_gather",
    "phi_scatter",
    "resu_phase",
]

_FIXED_LR = 1e-4


class Forward(StrEnum):
    """How the effective weight is formed in each forward pass.

    RECOMPUTE is the state before the cache: M ⊙ W anew, then the blend, in one autograd node. CACHED_PLAIN is the first
    cached form, whose scatter breaks the flow of the gradient. CACHED is the published one.
    """

    RECOMPUTE = "recompute"
    CACHED_PLAIN = "cached, plain scatter"
    CACHED = "cached"


class SparseMask:
    """THREE COPIES OF THE MASK: float32, and both index vectors, all alive as long as the mask.

    Args:
        mask: float32, 1 = active.
    """

    def __init__(self, mask: Float[Tensor, "out in"]) -> None:
        self.mask = mask
        self.shape = tuple(mask.shape)
        flat = mask.flatten()
        self.active_indices: Int64[Tensor, " active"] = (flat > 0.5).nonzero().flatten()
        self.pruned_indices: Int64[Tensor, " pruned"] = (flat <= 0.5).nonzero().flatten()

    @classmethod
    def from_magnitude(cls, weight: Float[Tensor, "out in"], sparsity: float) -> "SparseMask":
        """TIES PRUNED: keeps what is strictly larger than the k-th smallest |w|, k = ⌊s N⌋.

        Args:
            weight: W.
            sparsity: s.

        Returns:
            The mask.

        >>> SparseMask.from_magnitude(torch.ones(2, 2), 0.25).mask.sum().item()
        0.0
        """
        magnitude = weight.detach().abs().flatten()
        k = int(sparsity * magnitude.numel())
        if k == 0:
            return cls(torch.ones_like(weight.detach()))
        threshold = torch.kthvalue(magnitude, k).values
        return cls((weight.detach().abs() > threshold).float())


def phi_scatter(
    theta: Float[Tensor, " pruned"], indices: Int64[Tensor, " pruned"], shape: tuple[int, ...]
) -> Float[Tensor, "..."]:
    """PLAIN SCATTER of θ into a dense matrix, with the HOST SYNC IN THE SCATTER.

    Args:
        theta: θ.
        indices: flat indices of P.
        shape: the matrix's shape.

    Returns:
        φ(θ), cut off from autograd as a kernel's output is.

    Raises:
        IndexError: an index beyond the matrix.
    """
    with torch.no_grad():
        out = torch.zeros(shape, dtype=theta.dtype, device=theta.device)
        if indices.numel() and int(indices.max()) >= out.numel():
            raise IndexError("an index is larger than the matrix")
        out.view(-1)[indices.to(torch.int64)] = theta
        return out


def phi_inverse_gather(dense: Float[Tensor, "..."], indices: Int64[Tensor, " pruned"]) -> Float[Tensor, " pruned"]:
    """φ⁻¹: the pruned coordinates of a dense matrix.

    Args:
        dense: any matrix of W's shape.
        indices: flat indices of P.

    Returns:
        One value a pruned coordinate.
    """
    with torch.no_grad():
        return dense.contiguous().view(-1)[indices.to(torch.int64)]


class PhiScatterFunction(Function):
    """The note's fix #2: autograd for φ(θ), whose backward is the gather."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, indices: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Scatters."""
        ctx.save_for_backward(indices)
        return phi_scatter(theta, indices, shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Gathers."""
        (indices,) = ctx.saved_tensors
        return phi_inverse_gather(grad_outputs[0], indices), None, None


def _blend(mask: Tensor, active: Tensor, phi_theta: Tensor) -> Tensor:
    """Four passes over dense matrices: M ⊙ x + (1 − M) ⊙ φ."""
    return mask * active + (1 - mask) * phi_theta


class BlendFunction(Function):
    """CACHE OF M ⊙ W: the blend in full, although x is 0 at P and φ is 0 at A; a second autograd node."""

    @staticmethod
    def forward(ctx: Any, active: Tensor, phi_theta: Tensor, mask: Tensor, freeze_active: bool) -> Tensor:
        """Blends."""
        ctx.save_for_backward(mask)
        ctx.freeze_active = freeze_active
        return _blend(mask, active, phi_theta)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Two more dense products, and a third where A is not frozen."""
        (mask,) = ctx.saved_tensors
        grad = grad_outputs[0]
        return None if ctx.freeze_active else mask * grad, (1 - mask) * grad, None, None


class EffectiveWeightFunction(Function):
    """The form without a cache: M ⊙ W anew in each forward, then the blend, in one node whose backward gathers."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, theta: Tensor, mask: Tensor, indices: Tensor, freeze_active: bool) -> Tensor:
        """M ⊙ W, scatter, blend."""
        ctx.save_for_backward(mask, indices)
        ctx.freeze_active = freeze_active
        return _blend(mask, mask * weight, phi_scatter(theta, indices, tuple(weight.shape)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        """Gathers."""
        mask, indices = ctx.saved_tensors
        grad = grad_outputs[0]
        grad_weight = None if ctx.freeze_active else mask * grad
        return grad_weight, phi_inverse_gather(grad, indices), None, None, None


class OriginalSelective:
    """RESU-Selective with its HIDDEN θ STATE: m and v, and C as well, which is a function of the two.

    Args:
        theta: θ, for its length.
    """

    beta, delta, tau, screen, select = 0.9, 1e-8, 0.5, 0.5, 0.2

    def __init__(self, theta: Float[Tensor, " pruned"]) -> None:
        self.mean = torch.zeros_like(theta.detach())
        self.mean_abs = torch.zeros_like(theta.detach())
        self.consistency = torch.zeros_like(theta.detach())

    def step(self, theta: Float[Tensor, " pruned"], grad: Float[Tensor, " pruned"], lr: float) -> int:
        """Moves what passes the filters by −η C g.

        Args:
            theta: θ, changed in place.
            grad: its gradient.
            lr: η.

        Returns:
            How many coordinates moved.
        """
        self.mean.mul_(self.beta).add_(grad, alpha=1 - self.beta)
        self.mean_abs.mul_(self.beta).add_(grad.abs(), alpha=1 - self.beta)
        self.consistency.copy_(self.mean.abs() / (self.mean_abs + self.delta))
        p, size = theta.numel(), grad.abs()
        large = torch.zeros_like(theta, dtype=torch.bool)
        large[torch.topk(size, max(1, int(self.screen * p))).indices] = True
        chosen = (large & (self.consistency > self.tau)).nonzero().flatten()
        most = max(1, int(self.select * p))
        if chosen.numel() > most:
            chosen = chosen[torch.topk(size[chosen], most).indices]
        theta.data[chosen] -= lr * self.consistency[chosen] * grad[chosen]
        return int(chosen.numel())


class _Resurrection:
    """θ with the way back into the matrix.

    Args:
        mask: the layer's mask.
        std: σ_A.
        epsilon: size of the noise that θ starts with, over σ_A.
    """

    def __init__(self, mask: SparseMask, std: float, epsilon: float) -> None:
        self.mask = mask
        noise = torch.randn(mask.pruned_indices.numel(), device=mask.mask.device)
        self.theta = nn.Parameter(noise * (epsilon * std))

    def phi(self, with_gradient: bool) -> Tensor:
        if with_gradient:
            return cast(Tensor, PhiScatterFunction.apply(self.theta, self.mask.pruned_indices, self.mask.shape))
        return phi_scatter(self.theta, self.mask.pruned_indices, self.mask.shape)


class OriginalRESULinear(nn.Linear):
    """The original's layer in its modes: dense, sparse and RESU.

    NOTHING SAVED: its state dict has weight and bias only. In sparse mode each forward multiplies by the mask, and
    above 70 % builds a COO matrix anew.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
        forward_form: how the effective weight is formed in RESU.

    >>> layer = OriginalRESULinear(4, 2, forward_form=Forward.CACHED)
    >>> layer.prune_by_magnitude(0.5)
    >>> layer.enter_resu_mode()
    >>> layer(torch.ones(1, 4)).sum().backward()
    >>> layer.resurrection.theta.grad.tolist()
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, forward_form: Forward = Forward.CACHED
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.forward_form = forward_form
        self.mask: SparseMask | None = None
        self.resurrection: Any = None
        self.selective: OriginalSelective | None = None
        self.active_cached: Tensor | None = None

    def prune_by_magnitude(self, sparsity: float) -> None:
        """TIES PRUNED; see `SparseMask.from_magnitude`.

        Args:
            sparsity: s.
        """
        self.mask = SparseMask.from_magnitude(self.weight, sparsity)

    def enter_resu_mode(self, epsilon: float = 0.1, use_selective: bool = True) -> None:
        """Freezes W, and makes θ, its hidden state and the cache. STATE KEPT: no optimizer is told.

        Args:
            epsilon: size of θ's noise over the standard deviation of the active weights.
            use_selective: whether RESU-Selective is on, as it is by default.
        """
        mask = cast(SparseMask, self.mask)
        self.weight.requires_grad_(False)
        active = self.weight.detach().flatten()[mask.active_indices]
        self.resurrection = _Resurrection(mask, float(active.std()) if active.numel() > 1 else 1.0, epsilon)
        self.selective = OriginalSelective(self.resurrection.theta) if use_selective else None
        if self.forward_form is not Forward.RECOMPUTE:
            self.active_cached = mask.mask * self.weight.detach()

    def effective_weight(self) -> Float[Tensor, "out in"]:
        """W_eff of the present mode, in the chosen form."""
        if self.resurrection is None:
            return self.weight if self.mask is None else self.mask.mask * self.weight
        mask: SparseMask = self.resurrection.mask
        if self.active_cached is None:
            return cast(
                Tensor,
                EffectiveWeightFunction.apply(
                    self.weight, self.resurrection.theta, mask.mask, mask.pruned_indices, True
                ),
            )
        phi_theta = self.resurrection.phi(self.forward_form is Forward.CACHED)
        return cast(Tensor, BlendFunction.apply(self.active_cached, phi_theta, mask.mask, True))

    def forward(self, input: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The layer's output in its present mode.

        Args:
            input: any number of leading dimensions.

        Returns:
            The output.
        """
        weight = self.effective_weight()
        if self.resurrection is None and self.mask is not None and float(1 - self.mask.mask.mean()) > 0.7:
            flat = input.reshape(-1, input.shape[-1])
            out = torch.sparse.mm(weight.to_sparse(), flat.T).T.reshape(*input.shape[:-1], -1)
            return out if self.bias is None else out + self.bias
        return nn.functional.linear(input, weight, self.bias)

    def resu_step(self, grad: Float[Tensor, "out in"]) -> None:
        """One step of θ with its FIXED LEARNING RATE of 1e-4.

        Args:
            grad: gradient of the effective weight.
        """
        theta = self.resurrection.theta
        gathered = phi_inverse_gather(grad, self.resurrection.mask.pruned_indices)
        if self.selective is not None:
            self.selective.step(theta, gathered, _FIXED_LR)
        else:
            theta.data -= _FIXED_LR * gathered

    def exit_resu_mode(self, commit: bool = True) -> None:
        """NOISE COMMITTED: merges θ, which nothing has trained, into W, or drops it.

        Args:
            commit: whether to merge.
        """
        if commit:
            self.weight.data.copy_(self.effective_weight().detach())
        self.resurrection = self.selective = self.active_cached = None
        self.weight.requires_grad_(True)


def enter_resu_phase(layers: Iterable[OriginalRESULinear], optimizer: Optimizer, clear_state: bool) -> None:
    """The trainer's entry: the note's fix #1 where `clear_state` is set, STATE KEPT where it is not.

    Args:
        layers: layers with a mask.
        optimizer: the main optimizer.
        clear_state: delete its state of W before θ is made.
    """
    layers = list(layers)
    if clear_state:
        for layer in layers:
            if layer.weight in optimizer.state:
                del optimizer.state[layer.weight]
    for layer in layers:
        layer.enter_resu_mode()


def resu_phase(model: nn.Module, batches: Iterable[Any], loss_fn: Callable[[nn.Module, Any], Float[Tensor, ""]]) -> int:
    """The trainer's RESU phase. θ NEVER UPDATED, θ.grad NEVER ZEROED, ALL ELSE FROZEN.

    Args:
        model: holds layers in RESU mode.
        batches: one a step.
        loss_fn: model and batch → loss.

    Returns:
        How many updates of θ were made: none.
    """
    updates = 0
    layers = [module for module in model.modules() if isinstance(module, OriginalRESULinear)]
    for batch in batches:
        loss_fn(model, batch).backward()
        for layer in layers:
            if layer.weight.grad is not None:
                layer.resu_step(layer.weight.grad)
                updates += 1
    return updates


class Rebuilt(NamedTuple):
    """A layer of the original in its RESU phase, with the optimizer that trained it before.

    Args:
        layer: in RESU mode.
        optimizer: AdamW over weight and bias, after one step.
    """

    layer: OriginalRESULinear
    optimizer: Optimizer


def build(
    in_features: int,
    out_features: int,
    sparsity: float,
    *,
    forward_form: Forward = Forward.CACHED,
    clear_state: bool = True,
    bias: bool = False,
    seed: int = 0,
) -> Rebuilt:
    """A layer that was trained densely for one step of AdamW, pruned by magnitude, and has entered RESU.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        sparsity: s.
        forward_form: how the effective weight is formed.
        clear_state: the note's fix #1.
        bias: whether the layer has a bias.
        seed: of weights, data and noise; the global generator is put back afterwards.

    Returns:
        Layer and optimizer.

    >>> live_parts(build(8, 8, 0.5))["cached M*W"]
    256
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = OriginalRESULinear(in_features, out_features, bias, forward_form)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
        layer(torch.randn(4, in_features)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        layer.prune_by_magnitude(sparsity)
        enter_resu_phase([layer], optimizer, clear_state)
    return Rebuilt(layer, optimizer)


# --- memory -----------------------------------------------------------------------------------------------------------


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
