"""What an optimizer step of the RESU phase does beside the optimizer's own business.

It hangs on the optimizer's own step, so that it works in every training loop: θ's absolute learning rate, θ's steps by
RESU-Selective, other parameters that stand still, and the deletion of the weights' state on entry (the published note,
*Complete Performance Fix*, its first fix).
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from resu.config import CycleConfig
from resu.core.phases import SparseParameter, local
from resu.core.selective import RESUSelective
from resu.mask_changes import drop_states
from resu.optim.closures import with_known_loss
from resu.sparsifier import Sparsifier

__all__ = ["ThetaStepping"]


class ThetaStepping:
    """Hooks before and after each step of an optimizer, at work between `enter` and `leave`.

    Args:
        sparsifier: whose θ is trained.
        optimizer: the torch optimizer that is stepped; of an attachment, its `optimizer`.
        config: the settings.

    Attributes:
        skipped_steps: steps of RESU-Selective that were left out because a gradient was not finite.
        cleared_states: how many times a weight's state was deleted on entry.
    """

    def __init__(self, sparsifier: Sparsifier, optimizer: Optimizer, config: CycleConfig) -> None:
        self.sparsifier, self.optimizer, self.config = sparsifier, optimizer, config
        self.skipped_steps = self.cleared_states = 0
        self.selective: dict[str, RESUSelective] = {}
        self._active = False
        self._hidden: list[tuple[Tensor, Tensor]] = []
        before = optimizer.register_step_pre_hook(self._before_step)
        # Ahead of an attachment's own hook, which takes note of the gradients that it finds.
        cast("OrderedDict[int, Any]", optimizer._optimizer_step_pre_hooks).move_to_end(before.id, last=False)
        self._handles = [before, optimizer.register_step_post_hook(self._after_step)]

    def close(self) -> None:
        """Takes the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    # --- the phase ----------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Begins the RESU phase: the weights' state goes, where the settings say so, and only then does θ come."""
        config = self.config
        if config.clear_state:
            self._clear_states()
        self.sparsifier.enter_resu(
            init=config.resu_init,
            epsilon=config.resu_epsilon,
            subset=config.resu_subset,
            lr_scale=config.resu_lr_scale,
        )
        self.resume()

    def resume(self) -> None:
        """Takes up a RESU phase that the sparsifier is in already."""
        self._active = True
        if self.config.use_selective:
            self.selective = {
                name: RESUSelective(
                    local(sparse.parameter.detach()),
                    sparse.mask if sparse.subset is None else ~sparse.subset,
                    self.config.selection,
                )
                for name, sparse in self.sparsifier.parameters.items()
            }

    def leave(self) -> None:
        """Ends it; θ's running means are forgotten."""
        self._active = False
        self.selective = {}

    def _clear_states(self) -> None:
        self.cleared_states += drop_states(self.sparsifier.parameters, self.optimizer.state)

    # --- the step -----------------------------------------------------------------------------------------------------

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._hidden.clear()  # left over where a step raised
        if not self._active:
            return None
        args, kwargs = with_known_loss(args, kwargs)
        held = {id(sparse.parameter): sparse for sparse in self.sparsifier.parameters.values()}
        self._set_learning_rates(held)
        if self.config.use_selective:
            self._step_selectively(held)
        if self.config.freeze_others:
            self._hide(p for group in optimizer.param_groups for p in group["params"] if id(p) not in held)
        return args, kwargs

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._hidden.clear()

    def _hide(self, parameters: Iterator[Tensor]) -> None:
        """Gradients out of the optimizer's sight: it leaves such parameters alone, decay and momentum included."""
        for parameter in parameters:
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None

    def _set_learning_rates(self, held: Mapping[int, SparseParameter]) -> None:
        """θ's rate is the settings', whatever a scheduler does to the group's."""
        for group in self.optimizer.param_groups:
            rate = float(group["lr"])
            for parameter in group["params"]:
                sparse = held.get(id(parameter))
                if sparse is None:
                    continue
                if self.config.resu_lr is not None and rate > 0:
                    sparse.pruned_lr_scale = self.config.resu_lr / rate
                if self.config.use_selective:
                    scaled = rate * self.config.resu_lr_scale
                    self.selective[sparse.name].lr = scaled if self.config.resu_lr is None else self.config.resu_lr

    @torch.no_grad()
    def _step_selectively(self, held: Mapping[int, SparseParameter]) -> None:
        """Moves θ itself; where a gradient is not finite nothing moves, other parameters included."""
        due = [sparse for sparse in held.values() if sparse.parameter.grad is not None]
        gradients = [local(sparse.parameter.grad) for sparse in due if sparse.parameter.grad is not None]
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            for sparse, gradient in zip(due, gradients, strict=True):
                self.selective[sparse.name].step(gradient)
            self._hide(sparse.parameter for sparse in due)
        else:
            self.skipped_steps += 1
            self._hide(parameter for group in self.optimizer.param_groups for parameter in group["params"])

    # --- keeping ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The counts and RESU-Selective's running means."""
        return {
            "skipped_steps": self.skipped_steps,
            "cleared_states": self.cleared_states,
            "active": self._active,
            "selective": {name: selective.state_dict() for name, selective in self.selective.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up a state; the sparsifier's has been loaded already.

        Args:
            state: from `state_dict`.
        """
        self.skipped_steps, self.cleared_states = state["skipped_steps"], state["cleared_states"]
        self.leave()
        if state["active"]:
            self.resume()
            for name, kept in state["selective"].items():
                self.selective[name].load_state_dict(kept)
