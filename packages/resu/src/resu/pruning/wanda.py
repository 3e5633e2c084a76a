"""Wanda: pruning by weight times input norm, within each output row.

A weight's score is |w_ij| ‖x_j‖₂, the norm taken over every input that the layer sees in calibration; scores are
compared within one output row (Sun, Liu, Bair, Kolter 2023, *A simple and effective pruning approach for large language
models*, arXiv 2306.11695). Inputs are read by forward hooks while the model runs on calibration batches. What is kept
of them is a mean and a sum of squares for each input column, merged batch by batch.
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from resu.core.bits import pack_rows
from resu.core.mask import SparseMask, check_sparsity, row_shape
from resu.core.scores import column_rows, tensor_rows
from resu.errors import CalibrationError
from resu.pruning.magnitude import top_per_row

__all__ = ["Calibrated", "ColumnStatistics", "Forward", "calibrate", "wanda", "wanda_mask"]

Forward = Callable[[nn.Module, Any], object]
"""Runs the model on one batch, whatever the batch is."""

Calibrated = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose input columns can be observed."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class ColumnStatistics:
    """Mean and spread of each input column, merged over batches as in Chan, Golub, LeVeque 1983.

    A column is what one weight of an output row multiplies: an input feature of a linear layer, a (channel, kernel
    position) of a convolution, whose padding counts as input. A grouped convolution has one row of columns a group.

    Args:
        count: inputs seen: tokens, or output positions of a convolution.
        mean: mean of each column.
        squares: sum of squared deviations from the mean.
    """

    count: int
    mean: Float64[Tensor, "groups cols"]
    squares: Float64[Tensor, "groups cols"]

    @property
    def norm(self) -> Float64[Tensor, "groups cols"]:
        """‖x_j‖₂ over all inputs."""
        return (self.squares + self.count * self.mean**2).sqrt()

    @property
    def variance(self) -> Float64[Tensor, "groups cols"]:
        """Population variance of each column."""
        return self.squares / max(self.count, 1)

    def merge(self, other: "ColumnStatistics") -> None:
        """Takes in the statistics of further inputs.

        Args:
            other: of the same columns.

        >>> double = torch.float64
        >>> both = ColumnStatistics(2, torch.tensor([[1.5]], dtype=double), torch.tensor([[0.5]], dtype=double))
        >>> both.merge(ColumnStatistics(1, torch.tensor([[6.0]], dtype=double), torch.zeros(1, 1, dtype=double)))
        >>> both.count, both.mean.item(), both.squares.item(), round(both.norm.item() ** 2)
        (3, 3.0, 14.0, 41)
        """
        total = self.count + other.count
        delta = other.mean.to(self.mean.device) - self.mean
        self.squares += other.squares.to(self.mean.device) + delta**2 * (self.count * other.count / total)
        self.mean += delta * (other.count / total)
        self.count = total

    def check_fit(self, rows: int, cols: int, name: str) -> None:
        """Refuses statistics that were not collected on a weight of this shape.

        Args:
            rows: rows of the weight.
            cols: its columns.
            name: the weight's name, for the message.

        Raises:
            CalibrationError: another number of columns, or groups that do not divide the rows.
        """
        groups, columns = self.mean.shape
        if columns != cols or rows % groups:
            raise CalibrationError(
                f"{name} has {rows} rows of {cols} columns; these statistics are of {groups} group(s) of {columns} "
                "columns. Take those that calibrate collected under this name."
            )


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    include: Sequence[str] | None = None,
    forward: Forward | None = None,
) -> dict[str, ColumnStatistics]:
    """Observes the inputs of linear and convolution layers while the model runs, in evaluation mode, on some batches.

    Inputs with leading dimensions of any number count token by token. Layers that share a weight share statistics. The
    model is left as it was: hooks are removed and training flags restored, also after an error.

    Args:
        model: any model.
        batches: calibration data.
        include: globs over parameter names, such as "encoder.*.weight"; None observes every layer that runs.
        forward: how to run a batch; None passes a tensor on as it is, a mapping as keywords, and of a tuple or list, as
            data loaders give them, the first item.

    Returns:
        Statistics by parameter name.

    Raises:
        CalibrationError: no batches; an `include` that matches no observable layer, or one that never ran; inputs that
            are not finite.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> statistics = calibrate(model, [torch.tensor([[3.0, 0.0]]), torch.tensor([[[4.0, 1.0]]])])
    >>> statistics["0.weight"].norm.tolist(), statistics["0.weight"].count
    ([[5.0, 1.0]], 2)
    """
    names = _observable(model, include)
    found: dict[str, ColumnStatistics] = {}
    handles = [
        module.register_forward_pre_hook(_observer(name, found), with_kwargs=True) for module, name in names.items()
    ]
    training = {module: module.training for module in model.modules()}
    run, n_batches = forward or _forward, 0
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                run(model, batch)
                n_batches += 1
    finally:
        for handle in handles:
            handle.remove()
        for module, flag in training.items():
            module.training = flag
    if not n_batches:
        raise CalibrationError(
            "calibration needs at least one batch; got none. An iterator may be used up: pass a list."
        )
    idle = sorted(set(names.values()) - found.keys())
    if not found or (include is not None and idle):
        raise CalibrationError(
            f"calibration reads the inputs of layers that run; over {n_batches} batches {idle} did not. Leave them out "
            "of include, or pass a `forward` that reaches them."
        )
    return found


def wanda_mask(
    weight: Float[Tensor, "..."], statistics: ColumnStatistics, sparsity: float, *, name: str = "weight"
) -> SparseMask:
    """In each output row, prunes the `round(sparsity × cols)` weights of the smallest |w| ‖x‖₂.

    Args:
        weight: the weight; not changed.
        statistics: of the layer's inputs.
        sparsity: share to prune in each row, in [0, 1).
        name: for messages.

    Returns:
        The mask.

    Raises:
        MaskError: a sparsity outside [0, 1).
        CalibrationError: statistics of another layer.

    >>> statistics = ColumnStatistics(1, torch.tensor([[1.0, 10.0]]).double(), torch.zeros(1, 2).double())
    >>> wanda_mask(torch.tensor([[2.0, 1.0], [30.0, 2.0]]), statistics, 0.5).to_bool().tolist()
    [[False, True], [True, False]]
    """
    check_sparsity(sparsity)
    rows, cols = row_shape(weight.shape)
    statistics.check_fit(rows, cols, name)
    norms = statistics.norm.to(weight.device).float()
    mask = SparseMask.zeros(weight.shape, weight.device)
    for part in mask.chunks():
        scores = tensor_rows(weight.detach(), part).abs() * column_rows(norms, part, rows)
        mask.bits[part] = pack_rows(top_per_row(scores, cols - round(sparsity * cols)))
    return mask


def wanda(
    model: nn.Module,
    batches: Iterable[Any],
    sparsity: float | Mapping[str, float],
    *,
    include: Sequence[str] | None = None,
    forward: Forward | None = None,
) -> dict[str, SparseMask]:
    """Calibrates a model and prunes each of its layers.

    All norms come from one pass through the model as it is. To let later layers see what pruning did to earlier ones,
    call this layer by layer, with `include`, and put each mask into force before the next call.

    Args:
        model: any model; not changed.
        batches: calibration data.
        sparsity: share to prune in each row, one for all layers or by parameter name.
        include: globs over parameter names; None takes every layer that runs, or those that `sparsity` names.
        forward: how to run a batch, see `calibrate`.

    Returns:
        Masks by parameter name, as `Sparsifier.set_masks` takes them.

    Raises:
        MaskError: a sparsity outside [0, 1).
        CalibrationError: see `calibrate`; or a layer without a sparsity.

    >>> masks = wanda(nn.Sequential(nn.Linear(8, 4)), [torch.ones(2, 8)], 0.75)
    >>> masks["0.weight"].n_active
    8
    """
    if isinstance(sparsity, Mapping):
        include = list(sparsity) if include is None else include
        for value in sparsity.values():
            check_sparsity(value)
    else:
        check_sparsity(sparsity)
    statistics = calibrate(model, batches, include=include, forward=forward)
    parameters, masks = dict(model.named_parameters()), {}
    for name, columns in statistics.items():
        if isinstance(sparsity, Mapping) and name not in sparsity:
            raise CalibrationError(
                f"each pruned layer has a sparsity; {name} has none among {sorted(sparsity)}. Add it, or leave it out "
                "of include."
            )
        share = sparsity[name] if isinstance(sparsity, Mapping) else sparsity
        masks[name] = wanda_mask(parameters[name], columns, share, name=name)
    return masks


def _observable(model: nn.Module, include: Sequence[str] | None) -> dict[nn.Module, str]:
    """Modules to observe, with the name of their weight; the first name of a shared one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers: dict[nn.Module, str] = {
        module: names[id(module.weight)]
        for module in model.modules()
        if isinstance(module, Calibrated) and id(module.weight) in names
    }
    if include is not None:
        unmatched = [glob for glob in include if not any(fnmatch.fnmatchcase(name, glob) for name in layers.values())]
        if unmatched:
            raise CalibrationError(
                f"include holds globs over the weights of linear and convolution layers; {unmatched} match none of "
                f"{sorted(set(layers.values()))}. Names are those of model.named_parameters()."
            )
        layers = {m: name for m, name in layers.items() if any(fnmatch.fnmatchcase(name, glob) for glob in include)}
    if not layers:
        raise CalibrationError(
            "calibration observes nn.Linear, nn.Conv1d, nn.Conv2d and nn.Conv3d; this model has none of them. Prune it "
            "by magnitude."
        )
    return layers


def _observer(name: str, found: dict[str, ColumnStatistics]) -> Callable[..., None]:
    def observe(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = cast(Tensor, args[0] if args else kwargs["input"]).detach()
        if not x.numel():
            return
        seen = _convolution(module, x) if isinstance(module, _CONVOLUTIONS) else _linear(x)
        if not bool(torch.isfinite(seen.squares).all()):
            raise CalibrationError(
                f"calibration inputs are finite; those of {name} are not. Look for NaN in the data, or run the model "
                "in float32."
            )
        if name in found:
            found[name].merge(seen)
        else:
            found[name] = seen

    return observe


def _linear(x: Tensor) -> ColumnStatistics:
    flat = x.reshape(-1, x.shape[-1]).float()
    variance, mean = torch.var_mean(flat, dim=0, correction=0)
    return ColumnStatistics(flat.shape[0], mean.double()[None], variance.double()[None] * flat.shape[0])


def _convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> ColumnStatistics:
    """Statistics of the unfolded input, one kernel position at a time, without unfolding it."""
    dims = len(module.kernel_size)
    x = (x if x.dim() == dims + 2 else x.unsqueeze(0)).float()
    padding = module._reversed_padding_repeated_twice
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if any(padding):
        x = nn.functional.pad(x, padding, mode=mode)
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    outputs = [
        (size - span - 1) // stride + 1 for size, span, stride in zip(x.shape[2:], spans, module.stride, strict=True)
    ]
    reduced = (0, *range(2, dims + 2))
    means, variances = [], []
    for position in torch.cartesian_prod(*(torch.arange(k) for k in module.kernel_size)).view(-1, dims).tolist():
        starts = [p * d for p, d in zip(position, module.dilation, strict=True)]
        seen = x[
            (
                slice(None),
                slice(None),
                *(
                    slice(start, start + stride * (n - 1) + 1, stride)
                    for start, stride, n in zip(starts, module.stride, outputs, strict=True)
                ),
            )
        ]
        variance, mean = torch.var_mean(seen, dim=reduced, correction=0)
        means.append(mean.double())
        variances.append(variance.double())
    count = x.shape[0]
    for n in outputs:
        count *= n
    mean, variance = (torch.stack(values, dim=1).view(module.groups, -1) for values in (means, variances))
    return ColumnStatistics(count, mean, variance * count)


def _forward(model: nn.Module, batch: Any) -> object:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, tuple | list) else batch)
