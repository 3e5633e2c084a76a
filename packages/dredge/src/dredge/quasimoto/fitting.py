"""One loop that trains any model of coordinates: Adam, batches, and what a long or a short training needs around it.

Averages of weights: EMA, and SWA (Izmailov et al., *Averaging weights leads to wider optima and better generalization*,
2018, arXiv:1803.05407). The cosine schedule is that of Loshchilov & Hutter, *SGDR*, 2017 (arXiv:1608.03983), without
restarts. Under `torchrun` every process computes its share of each batch, and gradients are averaged.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dredge.errors import DivergenceError, ModelError
from dredge.quasimoto.processes import Processes

__all__ = ["EpochRow", "FitResult", "fit", "mixed_precision"]

_log = logging.getLogger(__name__)

_MOST_SKIPPED = 50
"""Steps in a row that may be left out because their gradient is not finite."""
_SWA_FROM = 0.75
_FLOOR = 0.01
"""The cosine schedule ends at this fraction of the learning rate."""


@dataclass(frozen=True)
class EpochRow:
    """What an epoch came to.

    Args:
        epoch: from 1.
        loss: mean squared error over its batches, each before its step.
        validation: mean squared error on the samples that were held back, of averaged weights as soon as there are
            any; None without.
    """

    epoch: int
    loss: float
    validation: float | None


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Args:
        history: one row an epoch.
        best: lowest validation error, or the lowest loss where nothing was held back.
        best_epoch: where that was.
        steps: of the optimizer.
        steps_skipped: left out because the gradient was not finite.
        stopped: "epochs", "seconds" or "patience".
        seconds: taken, by the clock that was asked for.
        device: of the model.
        precision: of the products under autocast, "bfloat16" or "float16"; None = that of the parameters.
        peak_memory: bytes on a CUDA device at most; None on a CPU.
    """

    history: tuple[EpochRow, ...]
    best: float
    best_epoch: int
    steps: int
    steps_skipped: int
    stopped: str
    seconds: float
    device: str
    precision: str | None
    peak_memory: int | None


def fit(
    model: nn.Module,
    coords: Float[Tensor, "points dim"],
    values: Float[Tensor, "points out"],
    *,
    epochs: int | None = None,
    seconds: float | int | None = None,
    clock: str = "wall",
    batch_size: int | None = None,
    lr: float = 1e-2,
    schedule: str = "cosine",
    grad_clip: float | int | None = None,
    weight_decay: float | int = 0.0,
    use_amp: bool = False,
    ema: float | None = None,
    swa: bool = False,
    val_fraction: float | int = 0.0,
    patience: int | None = None,
    compile: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> FitResult:
    """Trains a model in place on the mean squared error.

    Args:
        model: takes points and returns values. It ends with the weights of the best validation, where samples are held
            back; else with the last or the averaged ones.
        coords: points.
        values: at these points.
        epochs: passes over the samples; None = as many as `seconds` allow.
        seconds: to take at most; the schedule then follows time. The result depends on the machine.
        clock: of `seconds`: "wall", or "cpu" = this process's processor time.
        batch_size: samples of a step; None = all.
        lr: of Adam, at first.
        schedule: "cosine" = down to 1 % of it, or "constant".
        grad_clip: longest gradient; None = any. A step whose gradient is not finite is always left out and counted,
            because clipping an infinite gradient makes it NaN.
        weight_decay: of AdamW, which shrinks weights by lr × this at each step.
        use_amp: matrix products in bfloat16 (float16 on older GPUs) where that is faster; else the reason is logged.
        ema: decay of an exponential average of the weights, e.g. 0.999.
        swa: the plain average of the weights over the last quarter; before it there is none.
        val_fraction: share of the samples that is held back.
        patience: epochs without a better validation after which to stop.
        compile: through `torch.compile`. It takes a minute or so before it gains anything.
        seed: of the order of samples and of what is held back.
        device: "auto" = CUDA where there is one; or its name.

    Returns:
        What it came to. On a CPU the same seed, epochs and threads give the same weights.

    Raises:
        ModelError: options that do not go together, or a model whose values have another shape.
        DivergenceError: fifty steps in a row had gradients that are not finite.

    >>> x = torch.linspace(-1, 1, 50)[:, None]
    >>> result = fit(nn.Linear(1, 1), x, 2 * x + 1, epochs=300, lr=0.1)
    >>> result.stopped, result.history[-1].loss < 1e-4
    ('epochs', True)
    """
    _check(model, coords, values, epochs, seconds, clock, batch_size, lr, schedule, grad_clip, weight_decay, ema,
           swa, val_fraction, patience)  # fmt: skip
    processes = Processes()
    where = processes.device(device)
    now = time.process_time if clock == "cpu" else time.monotonic
    began = now()
    model.to(where)
    coords, values = coords.to(where), values.to(where)
    random = torch.Generator().manual_seed(seed)
    train, held = _split(len(coords), val_fraction, random)
    shape = model(coords[:1]).shape
    if shape != values[:1].shape:
        raise ModelError(f"a model returns a row of {values.shape[1]} for each point; got the shape {tuple(shape)}.")
    dtype = mixed_precision(model, where) if use_amp else None
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    step = _Steps(
        model, processes.wrapped(torch.compile(model) if compile else model), processes, where, dtype,
        weight_decay=float(weight_decay), grad_clip=math.inf if grad_clip is None else float(grad_clip),
    )  # fmt: skip
    average = _average(model, ema, swa)
    rows: list[EpochRow] = []
    best, best_epoch, best_state = math.inf, 0, None
    stopped, size = "epochs", batch_size or len(train)
    batches_an_epoch = math.ceil(len(train) / size)
    while epochs is None or len(rows) < epochs:
        total = 0.0
        for number, batch in enumerate(_batches(train, size, random)):
            elapsed = now() - began
            done = (len(rows) + number / batches_an_epoch) / epochs if epochs is not None else 0.0
            if seconds is not None:
                done = max(done, elapsed / seconds)
                if processes.agreed(elapsed >= seconds, where) and step.taken:
                    stopped = "seconds"
                    break
            loss, stepped = step(coords, values, batch, lr * _rate(schedule, min(done, 1.0), swa))
            if stepped and average is not None and (ema is not None or done >= _SWA_FROM):
                average.update_parameters(model)
            total += loss * len(batch)
        if stopped == "seconds" and number == 0:
            break
        seen = len(train) if stopped != "seconds" else number * size
        # An average of nothing is the start, which is not what was trained.
        watched = average if average is not None and int(average.n_averaged) > 0 else model
        validation = _error(watched, coords, values, held) if len(held) else None
        row = EpochRow(len(rows) + 1, total / seen, validation)
        rows.append(row)
        score = row.loss if validation is None else validation
        if score < best:
            best, best_epoch = score, row.epoch
            best_state = copy.deepcopy(_weights(watched)) if validation is not None else None
        if stopped == "seconds":
            break
        if patience is not None and row.epoch - best_epoch >= patience:
            stopped = "patience"
            break
    if best_state is not None:
        model.load_state_dict(best_state)
    elif average is not None and int(average.n_averaged) > 0:
        model.load_state_dict(_weights(average))
    return FitResult(
        tuple(rows), best, best_epoch, step.taken, step.skipped, stopped, now() - began, str(where),
        None if dtype is None else str(dtype).removeprefix("torch."),
        torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None,
    )  # fmt: skip


class _Steps:
    """Steps of the optimizer: takes them, leaves out those whose gradient is not finite, and counts both.

    Args:
        model: whose parameters are moved.
        run: it, compiled and wrapped.
        processes: that share each batch.
        where: the device.
        dtype: of products under autocast; None = without.
        weight_decay: of AdamW.
        grad_clip: longest gradient.
    """

    def __init__(
        self, model: nn.Module, run: Callable[..., Any], processes: Processes, where: torch.device,
        dtype: torch.dtype | None, *, weight_decay: float, grad_clip: float,
    ) -> None:  # fmt: skip
        self._run, self._processes, self._where, self._dtype = run, processes, where, dtype
        self._grad_clip = grad_clip
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=weight_decay)
        self._scaler = torch.amp.GradScaler(where.type, enabled=dtype is torch.float16)
        self.taken = self.skipped = self._in_a_row = 0

    def __call__(
        self, coords: Float[Tensor, "points dim"], values: Float[Tensor, "points out"], batch: Int[Tensor, "batch"],
        lr: float,
    ) -> tuple[float, bool]:  # fmt: skip
        """One step.

        Args:
            coords: all points.
            values: at these points.
            batch: which of them, over all processes.
            lr: of Adam.

        Returns:
            The loss before the step, and whether the step was taken.

        Raises:
            DivergenceError: too many in a row were not.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        mine = self._processes.share(batch).to(self._where)
        self._optimizer.zero_grad(set_to_none=True)
        short = nullcontext() if self._dtype is None else torch.autocast(self._where.type, dtype=self._dtype)
        with short:
            found = self._run(coords[mine])
        # Shares of a batch may differ by one sample; weighted so, their mean is that of the batch.
        weight = self._processes.count / (len(batch) * values.shape[1])
        loss = (found.to(values.dtype) - values[mine]).square().sum() * weight
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(self._parameters, self._grad_clip)))
        if finite:
            self._scaler.step(self._optimizer)
            self.taken, self._in_a_row = self.taken + 1, 0
        else:
            self.skipped, self._in_a_row = self.skipped + 1, self._in_a_row + 1
            if self._in_a_row >= _MOST_SKIPPED:
                raise DivergenceError(
                    f"gradients are finite; {self._in_a_row} in a row were not, after {self.taken} steps. Lower "
                    f"lr={lr:g}, or scale the samples."
                )
        self._scaler.update()
        return self._processes.mean(loss.detach()).item(), finite


def mixed_precision(model: nn.Module, device: torch.device) -> torch.dtype | None:
    """The short type in which matrix products are faster on a device.

    Args:
        model: whose parameters are looked at.
        device: where it runs.

    Returns:
        bfloat16, float16 on GPUs without it, or None where neither gains; the reason is then logged as a warning.
    """
    reason = None
    if any(p.dtype is not torch.float32 for p in model.parameters()):
        reason = "its parameters are not all float32"
    elif device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    elif device.type != "cpu":
        reason = f"the device {device.type} is not known to gain"
    elif not _bf16_instructions():
        reason = "this CPU has no instructions for bfloat16 (AVX512-BF16, AMX or SVE-BF16)"
    if reason is None:
        return torch.bfloat16
    _log.warning("mixed precision is off: %s", reason)
    return None


def _bf16_instructions() -> bool:
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text("ascii", "ignore").splitlines() if listed.is_file() else []
    flags = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _split(points: int, fraction: float | int, random: torch.Generator) -> tuple[Int[Tensor, "a"], Int[Tensor, "b"]]:
    if not fraction:
        return torch.arange(points), torch.arange(0)
    order = torch.randperm(points, generator=random)
    held = min(points - 1, max(1, round(points * fraction)))
    return order[held:].sort().values, order[:held].sort().values


def _batches(train: Int[Tensor, "n"], size: int, random: torch.Generator) -> Iterator[Int[Tensor, "batch"]]:
    # A full batch in another order would only cost the copying.
    yield from ([train] if size >= len(train) else train[torch.randperm(len(train), generator=random)].split(size))


def _rate(schedule: str, done: float, swa: bool) -> float:
    if schedule == "constant":
        return 1.0
    # Averaged weights are taken at one rate, half-way down, so that they are spread around the minimum.
    done = min(done / _SWA_FROM / 2, 0.5) if swa else done
    return _FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


def _average(model: nn.Module, ema: float | None, swa: bool) -> AveragedModel | None:
    if ema is not None:
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema))
    return AveragedModel(model) if swa else None


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return (model.module if isinstance(model, AveragedModel) else model).state_dict()


def _error(
    model: nn.Module, coords: Float[Tensor, "points dim"], values: Float[Tensor, "points out"], held: Int[Tensor, "n"]
) -> float:
    with torch.no_grad():
        pieces = [(model(coords[part]) - values[part]).square().sum() for part in held.to(coords.device).split(1 << 15)]
    return float(torch.stack(pieces).sum() / (len(held) * values.shape[1]))


def _check(
    model: nn.Module, coords: Float[Tensor, "points dim"], values: Float[Tensor, "points out"], epochs: int | None,
    seconds: float | int | None, clock: str, batch_size: int | None, lr: float, schedule: str,
    grad_clip: float | int | None, weight_decay: float | int, ema: float | None, swa: bool,
    val_fraction: float | int, patience: int | None,
) -> None:  # fmt: skip
    wrong = None
    if epochs is None and seconds is None:
        wrong = "training ends after epochs or seconds; got neither. Give one"
    elif epochs is not None and epochs < 1:
        wrong = f"training takes at least one epoch; got {epochs}. Take more"
    elif seconds is not None and not seconds > 0:
        wrong = f"training takes more than 0 seconds; got {seconds}. Take more"
    elif clock not in ("wall", "cpu"):
        wrong = f"a clock is 'wall' or 'cpu'; got {clock!r}. Use one of them"
    elif batch_size is not None and batch_size < 1:
        wrong = f"a batch has at least one sample; got {batch_size}. Take more"
    elif not (0 < lr < math.inf):
        wrong = f"a learning rate is positive; got {lr}. Take 1e-2 or so"
    elif schedule not in ("cosine", "constant"):
        wrong = f"a schedule is 'cosine' or 'constant'; got {schedule!r}. Use one of them"
    elif grad_clip is not None and not grad_clip > 0:
        wrong = f"grad_clip is a positive norm, or None; got {grad_clip}. Change it"
    elif weight_decay < 0:
        wrong = f"weight_decay is not negative; got {weight_decay}. Take 0.1 or so"
    elif ema is not None and not 0 < ema < 1:
        wrong = f"a decay lies between 0 and 1; got {ema}. Take 0.999 or so"
    elif ema is not None and swa:
        wrong = "weights are averaged by ema or by swa; got both. Choose one"
    elif not 0 <= val_fraction < 1:
        wrong = f"val_fraction lies in [0, 1); got {val_fraction}. Take 0.1 or so"
    elif patience is not None and (patience < 1 or not val_fraction):
        wrong = (
            f"patience counts epochs of a validation; got {patience} with val_fraction={val_fraction}. Hold some back"
        )
    elif coords.ndim != 2 or values.ndim != 2 or len(coords) != len(values):
        wrong = (
            f"points and values are rows, as many of one as of the other; got the shapes {tuple(coords.shape)} and "
            f"{tuple(values.shape)}. Reshape them"
        )
    elif len(coords) < 2:
        wrong = f"training takes at least 2 samples; got {len(coords)}. Give more"
    elif not any(p.requires_grad for p in model.parameters()):
        wrong = "a model has parameters to train; this one has none. Unfreeze some"
    elif not (bool(torch.isfinite(coords).all()) and bool(torch.isfinite(values).all())):
        wrong = "points and values are finite numbers; got NaN or infinity. Leave these samples out"
    if wrong:
        raise ModelError(f"{wrong}.")
