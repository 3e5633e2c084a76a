"""Stock optimizers that leave frozen coordinates alone.

Masking the gradient does not freeze a weight: weight decay, old momentum and the sign of a negative zero still move it.
So an attached optimizer steps the parameters without a mask itself, and for one with a mask its own class is run on
copies of a few rows at a time, of which only the coordinates that the phase allows are taken over. That gives

- frozen coordinates, and their state, that keep every bit, whatever decay, momentum, epsilon and sign of zero;
- written coordinates that move exactly as if the optimizer held them alone, decay in its own place included: active and
  pruned ones count their steps separately, as two optimizers would;
- groups that nobody touches: learning rates and decays may be scheduled, and are the ones in force at the step.

State has the stock layout (`optimizer.state[p]["exp_avg"]` and so on, as large as the weight) and travels with
`optimizer.state_dict()`, next to the steps of either set. Only optimizers that treat every coordinate by itself can be
attached.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from resu.core.phases import Phase, SparseParameter, local, sparse_state
from resu.distributed import any_rank
from resu.errors import OptimizerError
from resu.optim.closures import with_known_loss

__all__ = ["Attachment", "attach"]

_MOMENTS: dict[type[Optimizer], tuple[str | None, str | None]] = {
    SGD: ("momentum_buffer", None),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    NAdam: ("exp_avg", "exp_avg_sq"),
    RAdam: ("exp_avg", "exp_avg_sq"),
    Adamax: ("exp_avg", None),
    RMSprop: (None, None),
    Adagrad: (None, None),
    Adadelta: (None, None),
    Rprop: (None, None),
}
"""What can be attached, and where it keeps the mean of the gradient and that of its square."""

_REASONS = {
    "Adafactor": "Adafactor keeps one second moment a row and a column, so that frozen weights move the others",
    "LBFGS": "LBFGS builds its directions from inner products over all weights",
    "ASGD": "ASGD decays and averages every weight at every step, whatever its gradient",
    "Muon": "Muon orthogonalises the update of a whole matrix",
    "SparseAdam": "SparseAdam takes sparse gradients only, and the gradient of a sparse weight is dense",
}

_DEVICE_ELEMENTS = 1 << 22
"""On a device other than the CPU a step's rows hold this many elements: launches cost more there than memory."""


class Attachment:
    """A stock optimizer that heeds masks and phases; made by `attach`.

    Attributes:
        optimizer: the optimizer, to be used as ever.
        skipped_steps: steps that were left out because a gradient was not finite.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.skipped_steps = 0
        self._hidden: list[tuple[Tensor, Tensor]] = []
        self._due: list[tuple[dict[str, Any], SparseParameter]] = []
        kind = type(optimizer)
        self._mean_name, self._square_name = _MOMENTS[kind]
        # The one that runs on rows: never seen from outside, so the hooks of its class must not run for it.
        self._worker = kind([torch.zeros(1)], lr=1e-3)  # type: ignore[call-arg]
        self._bare_step: Callable[[Optimizer], Any] = getattr(kind.step, "__wrapped__", kind.step)
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self.optimizer.param_groups

    def detach(self) -> None:
        """Gives the optimizer back as it was: from its next step on it moves every coordinate."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # --- the step -----------------------------------------------------------------------------------------------------

    def _held(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                yield group, parameter

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hides from the stock step the gradients that are not its business; all of them where one is not finite."""
        self._hidden.clear()  # left over where a stock step raised; its gradients are then gone, as after zero_grad
        self._due.clear()
        args, kwargs = with_known_loss(args, kwargs)
        moving = [(group, p) for group, p in self._held() if p.grad is not None]
        for group, p in moving:
            sparse = sparse_state(p)
            if sparse is not None:
                _check_steppable(group, sparse)
                self._due.append((group, sparse))
        found_inf = getattr(optimizer, "found_inf", None)
        broken = found_inf is not None and bool(found_inf > 0)
        if any_rank(broken or not _all_finite(moving), [p for _, p in moving]):
            self.skipped_steps += 1
            self._due.clear()
            self._hide([p for _, p in moving])
        else:
            self._hide([sparse.parameter for _, sparse in self._due])
        return args, kwargs

    def _hide(self, parameters: list[Any]) -> None:
        for p in parameters:
            self._hidden.append((p, p.grad))
            p.grad = None

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for p, gradient in self._hidden:
            p.grad = gradient
        due = list(self._due)
        self._hidden.clear()
        self._due.clear()
        scale = getattr(optimizer, "grad_scale", None)
        for group, sparse in due:
            if scale is not None:  # a GradScaler leaves this to fused steps, which write the result back
                local(_gradient(sparse)).mul_(scale.double().reciprocal().float())
            self._step_sparse(group, sparse)

    def _step_sparse(self, group: dict[str, Any], sparse: SparseParameter) -> None:
        state = self._state(sparse)
        lr_pruned = group["lr"] * sparse.pruned_lr_scale
        sets = {
            Phase.TRAIN: [(True, group["lr"])],
            Phase.SHADOW: [(True, group["lr"])],
            Phase.RESU: [(False, lr_pruned)],
            Phase.JOINT: [(True, group["lr"]), (False, lr_pruned)],
        }[sparse.phase]
        weight, gradient = sparse.weight, _by_rows(_gradient(sparse))
        numbers: dict[bool, dict[str, Any]] = {True: {}, False: {}}
        elements = None if weight.device.type == "cpu" else max(_DEVICE_ELEMENTS, weight.numel() // 512)
        for part in sparse.mask.chunks(elements):
            rows = weight[part]
            slope = gradient[part].reshape(rows.shape)
            flags = sparse.mask.row_bool(part)
            for active, lr in sets:
                before = self._before(sparse, state, active, part)
                after, numbers[active] = self._run_rows({**group, "lr": lr}, rows, slope, before)
                written = flags
                if not active:
                    written = ~flags if sparse.subset is None else sparse.subset.row_bool(part)
                torch.where(written, after.pop(""), rows, out=rows)
                for key, moved in after.items():
                    kept = self._array(sparse, state, group, key, moved.dtype)[part]
                    torch.where(written, moved, kept, out=kept)
            if sparse.phase is Phase.SHADOW:
                self._gather_statistics(sparse, state, part, slope, flags)
        for active, _ in sets:
            _keep_numbers(state, numbers[active], active)
        state["steps_active"] += sparse.phase is not Phase.RESU
        state["steps_pruned"] += sparse.phase is not Phase.TRAIN

    def _run_rows(
        self, group: dict[str, Any], rows: Tensor, slope: Tensor, state: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The stock step on a copy of some rows: the rows under "" and their state, and what is no array."""
        copy = nn.Parameter(rows.clone(), requires_grad=False)
        copy.grad = slope.clone()  # Rprop writes to it, and another set may read it yet
        self._worker.param_groups = [{**group, "params": [copy]}]
        self._worker.state = defaultdict(dict, {copy: state})
        self._bare_step(self._worker)
        found = self._worker.state[copy]
        self._worker.param_groups, self._worker.state = [], defaultdict(dict)
        arrays = {key: x for key, x in found.items() if isinstance(x, Tensor) and x.shape == rows.shape}
        return {"": copy.detach(), **arrays}, {key: x for key, x in found.items() if key not in arrays}

    def _gather_statistics(
        self, sparse: SparseParameter, state: dict[str, Any], part: slice, slope: Tensor, active: Tensor
    ) -> None:
        """Takes m ← β m + (1 − β) g and v ← β v + (1 − β)|g| at P, where the optimizer has such arrays."""
        for name, sample in ((self._mean_name, slope), (self._square_name, slope.abs())):
            if name is not None:
                kept = _by_rows(local(state[name]))[part].view(slope.shape)
                torch.where(active, kept, torch.lerp(kept, sample.to(kept.dtype), 1 - sparse.beta), out=kept)

    # --- state --------------------------------------------------------------------------------------------------------

    def _group(self, sparse: SparseParameter) -> dict[str, Any]:
        for group, p in self._held():
            if p is sparse.parameter:
                return group
        raise OptimizerError(_not_held([sparse.name]))

    def _state(self, sparse: SparseParameter) -> dict[str, Any]:
        """The state of a parameter with the steps of either set, also where a stock run began it."""
        state: dict[str, Any] = self.optimizer.state[sparse.parameter]
        if "steps_active" not in state:
            begun = int(state["step"]) if "step" in state else int(bool(self._arrays(sparse, state)))
            state["steps_active"], state["steps_pruned"] = begun, 0
        return state

    def _arrays(self, sparse: SparseParameter, state: dict[str, Any]) -> dict[str, Float[Tensor, "rows cols"]]:
        """The entries that have one value a coordinate."""
        shape = sparse.parameter.shape
        found = {key: x for key, x in state.items() if isinstance(x, Tensor) and x.shape == shape}
        return {key: local(x).view(sparse.mask.rows, sparse.mask.cols) for key, x in found.items()}

    def _array(
        self, sparse: SparseParameter, state: dict[str, Any], group: dict[str, Any], key: str, dtype: torch.dtype
    ) -> Tensor:
        """One of them, made where it is missing."""
        if not isinstance(state.get(key), Tensor):
            state[key] = torch.full_like(sparse.parameter.detach(), self._fresh(key, group), dtype=dtype)
        return local(state[key]).view(sparse.mask.rows, sparse.mask.cols)

    def _before(self, sparse: SparseParameter, state: dict[str, Any], active: bool, part: slice) -> dict[str, Any]:
        """What a set's own optimizer would hold for some rows before its step; nothing before its first."""
        if not state["steps_active" if active else "steps_pruned"]:
            return self._untouched(sparse, part)
        arrays = self._arrays(sparse, state)
        found: dict[str, Any] = {key: x[part].clone() for key, x in arrays.items()}
        for key, x in state.items():
            if key in found or not isinstance(x, Tensor):
                continue
            if active:
                found[key] = x.clone()
            else:
                found[key] = torch.full_like(x, state["steps_pruned"] if key == "step" else state[f"pruned_{key}"])
        return found

    def _untouched(self, sparse: SparseParameter, part: slice) -> dict[str, Any]:
        """Nothing, which makes a stock step begin; only Adagrad begins when it is built."""
        if type(self.optimizer) is not Adagrad:
            return {}
        group, rows = self._group(sparse), sparse.weight[part]
        device = rows.device if group.get("fused") else None
        return {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "sum": torch.full_like(rows, self._fresh("sum", group)),
        }

    def _fresh(self, key: str, group: dict[str, Any]) -> float:
        """What an entry of the state holds at a coordinate that has not been stepped."""
        if key == "sum":
            return float(self.optimizer.defaults["initial_accumulator_value"])
        return float(group["lr"]) if key == "step_size" else 0.0

    def before_phase(self, sparse: SparseParameter, phase: Phase) -> None:
        """Prepares the state for another phase: pruned coordinates start it with none; active ones keep theirs.

        Args:
            sparse: the parameter, still in its present phase.
            phase: the phase to come.

        Raises:
            OptimizerError: an optimizer that does not hold the parameter, or has no place for SHADOW's statistics.
        """
        group = self._group(sparse)
        if phase is Phase.SHADOW and (self._mean_name is None or group.get("momentum") == 0):
            raise OptimizerError(
                "SHADOW gathers statistics of the gradient in the moments of pruned coordinates; "
                f"{type(self.optimizer).__name__} keeps no mean of the gradient here. Use Adam, SGD with momentum, or "
                "resu.optim.masked.MaskedAdamW."
            )
        if not self.optimizer.state.get(sparse.parameter):
            return
        state = self._state(sparse)
        state["steps_pruned"] = 0
        for key in [key for key in state if key.startswith("pruned_")]:
            del state[key]
        for key, array in self._arrays(sparse, state).items():
            for part in sparse.mask.chunks():
                array[part].masked_fill_(~sparse.mask.row_bool(part), self._fresh(key, group))

    def commit_rows(
        self, sparse: SparseParameter, part: slice, was: Bool[Tensor, "part cols"], now: Bool[Tensor, "part cols"]
    ) -> None:
        """Fits the state of some rows to a new mask, before the mask itself changes.

        What was resurrected after steps of its own takes its state along, the moments' bias corrected for the active
        set's step count; after SHADOW it takes (mean |g|)² as its second moment. What left the active set loses its
        state; so does what stays pruned, but for the statistics of SHADOW.

        Args:
            sparse: the parameter, still in the phase that ends.
            part: which rows.
            was: active before.
            now: active from now on.

        Raises:
            OptimizerError: an optimizer that does not hold the parameter.
        """
        group = self._group(sparse)
        if not self.optimizer.state.get(sparse.parameter):
            return
        state = self._state(sparse)
        kept = now | ~was if sparse.phase is Phase.SHADOW else now
        for key, array in self._arrays(sparse, state).items():
            rows, fresh = array[part], self._fresh(key, group)
            carried = self._carried(sparse, state, group, key, rows)
            torch.where(now & ~was, torch.full_like(rows, fresh) if carried is None else carried, rows, out=rows)
            rows.masked_fill_(~kept, fresh)

    def after_commit(self, sparse: SparseParameter) -> None:
        """Called when all rows of a parameter have their new mask; the state fits it already.

        Args:
            sparse: the parameter.
        """

    def _carried(
        self, sparse: SparseParameter, state: dict[str, Any], group: dict[str, Any], key: str, rows: Tensor
    ) -> Tensor | None:
        """Some rows' state as a resurrected coordinate takes it along; None = it takes nothing."""
        pruned, active = state["steps_pruned"], max(state["steps_active"], 1)
        if not pruned:
            return None
        if sparse.phase is Phase.SHADOW:
            return (rows / (1 - sparse.beta**pruned)).square() if key == self._square_name else None
        beta = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}.get(key)
        if beta is None:
            return rows.clone()
        decay = group["betas"][beta]
        return rows * ((1 - decay**active) / (1 - decay**pruned))

    # --- reading ------------------------------------------------------------------------------------------------------

    def moments(self, parameter: Tensor) -> tuple[Float[Tensor, "rows cols"], Float[Tensor, "rows cols"] | None] | None:
        """The mean of a sparse parameter's gradient and that of its square, as the optimizer keeps them.

        Args:
            parameter: the weight.

        Returns:
            Both, sharing the state's storage (None in place of the second where the optimizer has none), or None
            before the first step and where there is no mean.
        """
        sparse, state = sparse_state(parameter), self.optimizer.state.get(parameter)
        if sparse is None or not state or self._mean_name is None:
            return None
        arrays = self._arrays(sparse, state)
        if self._mean_name not in arrays:
            return None
        return arrays[self._mean_name], None if self._square_name is None else arrays[self._square_name]

    def moments_rows(
        self, parameter: Tensor, part: slice
    ) -> tuple[Float[Tensor, "part cols"], Float[Tensor, "part cols"] | None] | None:
        """Some rows of `moments`.

        Args:
            parameter: the weight.
            part: which rows.

        Returns:
            As `moments`.
        """
        found = self.moments(parameter)
        return None if found is None else (found[0][part], None if found[1] is None else found[1][part])


def attach(model: nn.Module, optimizer: Optimizer) -> Attachment:
    """Makes a stock optimizer leave alone what the masks and phases of its parameters freeze.

    Use the optimizer, its schedulers, a GradScaler and clipping as ever; parameters may get their masks before or
    after. A step with a gradient that is not finite is left out as a whole and counted, on all ranks alike. A closure
    is evaluated once, before the step.

    Args:
        model: the model, or the part of it, that the optimizer trains.
        optimizer: SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, NAdam, RAdam or Rprop, with any option but
            `differentiable`.

    Returns:
        The attachment: hand it to `Sparsifier` as its optimizer.

    Raises:
        OptimizerError: another optimizer, a differentiable one, or one that does not hold a parameter with a mask.

    >>> from resu.core.mask import SparseMask
    >>> from resu.core.phases import sparsify
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> nn.init.ones_(layer.weight)
    Parameter containing:
    tensor([[1., 1.]], requires_grad=True)
    >>> _ = sparsify(layer.weight, SparseMask(torch.tensor([[1, 0]])))
    >>> optimizer = SGD(layer.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    >>> attachment = attach(layer, optimizer)
    >>> layer.weight.sum().backward()
    >>> optimizer.step()
    >>> [round(w, 4) for w in layer.weight.tolist()[0]]
    [0.45, 1.0]
    """
    name = type(optimizer).__name__
    if type(optimizer) not in _MOMENTS:
        reason = _REASONS.get(name, f"whether {name} treats every coordinate by itself is not known")
        if type(optimizer).__module__.startswith("resu."):
            raise OptimizerError(
                f"attach takes a stock optimizer; {name} freezes coordinates by itself. Use it without attach."
            )
        raise OptimizerError(
            "an optimizer can be attached when no weight has a say in another's update: "
            f"{', '.join(kind.__name__ for kind in _MOMENTS)} themselves, not classes made from them; {reason}. Use "
            "one of these, or resu.optim.masked.MaskedAdamW."
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in model.named_parameters() if sparse_state(p) is not None and id(p) not in held]
    if missing:
        raise OptimizerError(_not_held(missing))
    for group in optimizer.param_groups:
        _check_group(group)
    return Attachment(optimizer)


def _not_held(names: list[str]) -> str:
    return (
        f"an attached optimizer holds every parameter with a mask; this one does not hold {', '.join(names)}. Build "
        "the optimizer from the model's present parameters (after modules were converted or sharded), or attach it to "
        "the part of the model that it trains."
    )


def _check_group(group: dict[str, Any]) -> None:
    if group.get("differentiable"):
        raise OptimizerError(
            "a step that writes some coordinates only cannot be differentiated; this optimizer has "
            "differentiable=True. Build it without, or use resu.optim.masked.MaskedAdamW."
        )


def _check_steppable(group: dict[str, Any], sparse: SparseParameter) -> None:
    _check_group(group)
    if _gradient(sparse).layout != torch.strided:
        raise OptimizerError(
            f"a masked parameter has a dense gradient; that of {sparse.name} is {_gradient(sparse).layout}. Build the "
            "embedding with sparse=False."
        )


def _gradient(sparse: SparseParameter) -> Tensor:
    gradient = sparse.parameter.grad
    if gradient is None:
        raise OptimizerError(f"a step needs a gradient; {sparse.name} has none. Call backward first.")
    return gradient


def _by_rows(tensor: Tensor) -> Tensor:
    """The same tensor with rows as its first dimension: a vector is one row."""
    plain = local(tensor)
    return plain.unsqueeze(0) if plain.dim() == 1 else plain


def _keep_numbers(state: dict[str, Any], numbers: dict[str, Any], active: bool) -> None:
    """Stores step counts and products: those of the active set where a stock optimizer has them."""
    for key, value in numbers.items():
        if active:
            state[key] = value
            continue
        if isinstance(value, Tensor):
            if key != "step":  # the steps of the pruned set are counted beside it
                state[f"pruned_{key}"] = float(value)
            start = 1.0 if key == "mu_product" else 0.0
            state.setdefault(key, torch.full_like(value, start))


def _all_finite(moving: list[tuple[dict[str, Any], Tensor]]) -> bool:
    """Whether no gradient holds NaN or infinity: one pass over each, no copy, one answer a device."""
    finite: dict[torch.device, list[Tensor]] = defaultdict(list)
    for _, p in moving:
        gradient = local(p.grad)  # type: ignore[arg-type]
        values = gradient._values() if gradient.layout == torch.sparse_coo else gradient
        if values.numel():
            finite[values.device].append(torch.linalg.vector_norm(values.detach(), float("inf")).isfinite())
    return all(bool(torch.stack(answers).all()) for answers in finite.values())
