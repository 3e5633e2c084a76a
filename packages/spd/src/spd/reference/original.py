"""The forms that *Performance Optimization Opportunities* (the note) prints or names, where ours are others.

For comparison only. The rest of the note is switches of `spd.config.perf`, whose off position is the original's
execution. Defects are kept, each named where it stands:

- KEYS CHANGE: what `torch.compile` returns is a wrapper, and so are its parameters' names: `….W` becomes
  `…._orig_mod.W` in every checkpoint.
- ONE SITE AT A TIME: the note's persistent hooks look each site up in the masks of a pass; a layerwise loss masks one
  site and has no others. As printed that is a KeyError; here a site without a mask keeps its layer.
- STALE STATE: state is cleared after the target's pass, and not when the pass fails.
- THE CACHE HOLDS ON: `lru_cache` on a method keeps the model alive as long as the cache lives, and keeps weights that
  were on another device, or have been loaded over.
- NOT A COPY: `.cpu()` of a tensor on the CPU is that tensor, so that the thread writes what training has made of it by
  then.
- NO BOUND, NO END, NO ERROR: the queue of the note's saver grows without limit, its thread dies with the process,
  whatever waits, and with the first error, which nobody sees.
- STEPS COMMIT: with `step=` a logger commits a step's row when the next step begins, so that `commit=False` saves
  nothing where each step is logged once.

Only tests and measurements import this module.
"""

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from queue import Queue
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from spd.losses import LossContext, compute_losses, deltas_for, total_loss
from spd.metrics.target_run import TargetRun
from spd.models.component_model import ComponentModel, OutputWithCache
from spd.models.components import LinearComponents
from spd.models.masks import ComponentsMaskInfo
from spd.training import Trainer

__all__ = [
    "AsyncSaver",
    "CachedWeightsModel",
    "HookStateModel",
    "collect_after",
    "collect_before",
    "compile_ci_fns",
    "fused_forward",
    "importances_by_name",
    "importances_in_order",
    "log_batched",
    "log_each",
    "save_at_once",
    "train_freely",
    "weight_deltas_anew",
]

# --- 2.1.1: compiled inner modules ------------------------------------------------------------------------------------


def compile_ci_fns(model: ComponentModel, mode: str | None = None) -> None:
    """Puts each causal-importance function through `torch.compile`. KEYS CHANGE.

    Args:
        model: the decomposed network.
        mode: of `torch.compile`.
    """
    for name, fn in model._ci_fns.items():
        model._ci_fns[name] = cast(nn.Module, torch.compile(fn, mode=mode))


# --- 5.1: hooks that stay, with state on the model --------------------------------------------------------------------


class HookStateModel(ComponentModel):
    """A decomposed network whose hooks are registered once and look at the model's state. STALE STATE.

    Args:
        *args: those of `ComponentModel`.
        **kwargs: those of `ComponentModel`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hook_state: dict[str, dict[str, Any]] = {}
        for name in self.target_module_paths:
            module = self.target_model.get_submodule(name)
            module.register_forward_hook(partial(self._persistent_hook, module_name=name), with_kwargs=True)

    def _persistent_hook(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, module_name: str
    ) -> Any:
        state = self._hook_state.get(module_name)
        if state is None:
            return None
        (x,) = args
        if state["cache_type"] == "input":
            state["cache"]["input"] = x
        info: ComponentsMaskInfo | None = state["mask_info"]
        if info is None:
            return None
        out = self.components[module_name](x, info.component_mask, info.weight_delta_and_mask)
        if isinstance(info.routing_mask, str):
            return out
        return torch.where(info.routing_mask.unsqueeze(-1), out, output)

    def forward(
        self,
        *args: Any,
        mask_infos: Mapping[str, ComponentsMaskInfo] | None = None,
        cache_type: Any = "none",
        known: Any = None,
        **kwargs: Any,
    ) -> Float[Tensor, "..."] | OutputWithCache:
        """Sets the state, runs the target, gathers what was cached, clears the state. ONE SITE AT A TIME.

        Args:
            *args: the target's own.
            mask_infos: by site.
            cache_type: "none" or "input".
            known: not used by hooks.
            **kwargs: the target's own.

        Returns:
            The output; with the cache where one was asked for.
        """
        for name in self.target_module_paths:
            self._hook_state[name] = {
                "mask_info": mask_infos.get(name) if mask_infos else None,
                "cache_type": cache_type,
                "cache": {},
            }
        raw_out = self.target_model(*args, **kwargs)
        cache = {name: self._hook_state[name]["cache"] for name in self.target_module_paths}
        self._hook_state.clear()
        if cache_type == "none":
            return cast(Tensor, raw_out)
        return OutputWithCache(raw_out, {name: found["input"] for name, found in cache.items()}, {})


# --- 6: computation ---------------------------------------------------------------------------------------------------


def weight_deltas_anew(model: ComponentModel) -> dict[str, Float[Tensor, "..."]]:
    """Δ by site, each target weight looked up through the tree of modules, as before the note's 6.1.

    Args:
        model: the decomposed network.

    Returns:
        Δ by site.
    """
    return {
        name: cast(Tensor, model.target_model.get_submodule(name).weight) - components.weight
        for name, components in model.components.items()
    }


class CachedWeightsModel(ComponentModel):
    """A decomposed network that looks its target weights up once, as the note's 6.1 prints it. THE CACHE HOLDS ON."""

    @lru_cache(maxsize=1)  # noqa: B019  # as printed; the leak is the point
    def _cached_target_weights(self) -> dict[str, Tensor]:
        return {name: self.target_weight(name) for name in self.target_module_paths}

    def calc_weight_deltas(self) -> dict[str, Float[Tensor, "..."]]:
        """Δ by site."""
        target_weights = self._cached_target_weights()
        return {name: target_weights[name] - self.components[name].weight for name in self.target_module_paths}


def fused_forward(components: LinearComponents, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
    """The product x (V U) + b where no mask is given, as the note's 6.2 prints it: always, whatever the sizes.

    Args:
        components: of a linear layer.
        x: its input.

    Returns:
        The unmasked output.
    """
    return x @ components.weight.T + (components.bias if components.bias is not None else 0)


def importances_by_name(
    fns: Mapping[str, nn.Module], acts: Mapping[str, Float[Tensor, "..."]]
) -> dict[str, Float[Tensor, "..."]]:
    """Each causal-importance function with the activations of its name, the loop before the note's 6.3.

    Args:
        fns: by site.
        acts: by site.

    Returns:
        z by site.
    """
    found = {}
    for name in acts:
        found[name] = fns[name](acts[name])
    return found


def importances_in_order(
    names: Sequence[str], fns: Sequence[nn.Module], acts: Sequence[Float[Tensor, "..."]]
) -> dict[str, Float[Tensor, "..."]]:
    """The same over ordered lists, the note's 6.3.

    Args:
        names: the sites.
        fns: in their order.
        acts: in their order.

    Returns:
        z by site.
    """
    found: list[Tensor] = [None] * len(names)  # type: ignore[list-item]
    for idx, (_name, act) in enumerate(zip(names, acts, strict=True)):
        found[idx] = fns[idx](act)
    return dict(zip(names, found, strict=True))


# --- 7: files and figures ---------------------------------------------------------------------------------------------


def save_at_once(state_dict: Mapping[str, Shaped[Tensor, "..."]], path: Path) -> None:
    """Writes a checkpoint and returns when it is written.

    Args:
        state_dict: what is written.
        path: where to.
    """
    torch.save(dict(state_dict), path)


class AsyncSaver:
    """The note's 7.1: a thread that writes what is put into a queue. NOT A COPY. NO BOUND, NO END, NO ERROR."""

    def __init__(self) -> None:
        self.queue: Queue[tuple[dict[str, Tensor] | None, Path | None]] = Queue()
        self.thread = threading.Thread(target=self._worker, daemon=True)
        self.thread.start()

    def _worker(self) -> None:
        while True:
            state_dict, path = self.queue.get()
            if state_dict is None:
                break
            torch.save(state_dict, cast(Path, path))
            self.queue.task_done()

    def save(self, state_dict: Mapping[str, Shaped[Tensor, "..."]], path: Path) -> None:
        """Hands a checkpoint to the thread.

        Args:
            state_dict: what is written, from the CPU.
            path: where to.
        """
        self.queue.put(({name: value.cpu() for name, value in state_dict.items()}, path))


def log_each(log: Callable[..., None], rows: Iterable[Mapping[str, float]], first: int = 0) -> None:
    """Logs each step, before the note's 7.2.

    Args:
        log: `wandb.log`, or what has its arguments.
        rows: figures of each step.
        first: the first step.
    """
    for step, row in enumerate(rows, start=first):
        log(row, step=step)


def log_batched(log: Callable[..., None], rows: Iterable[Mapping[str, float]], every: int, first: int = 0) -> None:
    """Logs each step without committing it, and commits every so many steps, the note's 7.2. STEPS COMMIT.

    Args:
        log: `wandb.log`, or what has its arguments.
        rows: figures of each step.
        every: steps between two commits.
        first: the first step.
    """
    for step, row in enumerate(rows, start=first):
        log(row, step=step, commit=False)
        if (step + 1) % every == 0:
            log({}, commit=True)


# --- 8: memory --------------------------------------------------------------------------------------------------------


def collect_before() -> None:
    """Gives memory back, then collects what could have been given back."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    gc.collect()


def collect_after() -> None:
    """The same in the order of the note's 8.1."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def train_freely(trainer: Trainer, batches: Iterator[Shaped[Tensor, "..."]], steps: int, *, delete: bool) -> None:
    """The original's loop, whose names hold on to a step's tensors until the next step replaces them.

    Args:
        trainer: whose network, losses and optimizer are used.
        batches: where data come from.
        steps: how many.
        delete: drop the target's output and the importances after the loss is computed, as the note's 8.3 has it.
    """
    model, config = trainer.model, trainer.config
    for _ in range(steps):
        trainer.optimizer.zero_grad()
        run = TargetRun.of(model, next(batches), config.output_loss_type)
        ci = model.calc_causal_importances(run.acts, config.sampling, sampler=trainer.sampler)
        deltas = deltas_for("materialised", config.use_delta_component, model.calc_weight_deltas)
        weight_deltas = model.calc_weight_deltas
        context = LossContext(run, ci, trainer.sampler, config.sampling, deltas, weight_deltas)
        values = compute_losses(config.loss_metrics, context)
        total = total_loss(config.loss_metrics, values)
        if delete:
            del run, ci, context
        total.backward()  # type: ignore[no-untyped-call]
        trainer.optimizer.step()
