"""Where a target network is decomposed, and three ways to make its forward pass heed the masks.

A site is a leaf of the target (a linear layer, an embedding, an inserted identity) with the components of its weight.
In a masked pass the components stand in for it; in a pass that keeps a cache its input is remembered.

================= ====================================================================================================
back end          how
================= ====================================================================================================
ephemeral_hooks   forward hooks are registered before each pass and removed after it, as the original does. A hook comes
                  after the layer ran, so that the product with the frozen weight is computed and mostly thrown away
persistent_hooks  the hooks stay, and look at the present instruction
inline            the leaf's forward is ours: the frozen weight is used only where it is needed
================= ====================================================================================================

All three leave the target's tree of modules, its parameters and their names as they were.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from spd.models.components import Components
from spd.models.masks import ComponentsMaskInfo

__all__ = ["BACKENDS", "Backend", "CacheType", "Execution", "Known", "Site", "build_backend"]

Backend = Literal["ephemeral_hooks", "persistent_hooks", "inline"]
CacheType = Literal["none", "input", "output", "component_acts"]


@dataclass(frozen=True)
class Site:
    """A leaf of the target and the components of its weight.

    Args:
        name: its path in the target.
        module: the leaf.
        components: of its weight.
    """

    name: str
    module: nn.Module
    components: Components

    @property
    def weight(self) -> Float[Tensor, "..."]:
        """The leaf's frozen weight."""
        return cast(Tensor, self.module.weight)


@dataclass(frozen=True)
class Known:
    """What is known of a site from the target's own pass over the same batch.

    Args:
        x: the site's input.
        out: the leaf's output.
        h: inner activations of x; None = not computed yet.
    """

    x: Shaped[Tensor, "..."]
    out: Float[Tensor, "... d_out"]
    h: Float[Tensor, "... C"] | None = None


@dataclass
class Execution:
    """What one forward pass is to do, and what it leaves behind.

    Args:
        mask_infos: by site; a site without one keeps its layer.
        cache_type: what to remember.
        known: by site. Up to and with the first site that is masked, inputs are those of the target's pass: outputs of
            layers and inner activations are taken from here. Only the inline back end can leave a product out.
        fused: take an unmasked product as a (V U), where that is cheaper.

    Attributes:
        cache: what was remembered, by site.
        outputs: in a pass that remembers inputs, the sites' outputs.
    """

    mask_infos: Mapping[str, ComponentsMaskInfo] = field(default_factory=dict)
    cache_type: CacheType = "none"
    known: Mapping[str, Known] = field(default_factory=dict)
    fused: bool = False
    cache: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    _moved: bool = False

    def at(
        self, site: Site, x: Shaped[Tensor, "..."], target_out: Callable[[], Float[Tensor, "... d_out"]]
    ) -> Float[Tensor, "... d_out"] | None:
        """One site's part of the pass.

        Args:
            site: which.
            x: its input.
            target_out: computes, or has, what the leaf itself makes of it.

        Returns:
            The output, or None where the leaf's own is to be taken.
        """
        info, known = self.mask_infos.get(site.name), None if self._moved else self.known.get(site.name)
        h = None
        if known is not None:
            x, h, out_of_target = known.x, known.h, known.out

            def target_out() -> Tensor:
                return out_of_target

        self._moved = self._moved or info is not None
        out = None if known is None else target_out()
        if self.cache_type == "component_acts":
            h = self._remember_acts(site, site.components.get_inner_acts(x) if h is None else h)
        if info is not None:
            out = _masked(site.components, x, h, info, target_out, self.fused)
        if self.cache_type == "input":
            out = target_out() if out is None else out
            self.cache[site.name], self.outputs[site.name] = x, out
        elif self.cache_type == "output":
            self.cache[site.name] = out = target_out() if out is None else out
        return out

    def _remember_acts(self, site: Site, h: Tensor) -> Tensor:
        """Both sides of a cut, so that attributions can take gradients up to it and from it."""
        cut = h.detach().requires_grad_()
        self.cache[f"{site.name}_pre_detach"] = h
        self.cache[f"{site.name}_post_detach"] = cut
        return cut


def _masked(
    components: Components,
    x: Tensor,
    h: Tensor | None,
    info: ComponentsMaskInfo,
    target_out: Callable[[], Tensor],
    fused: bool,
) -> Tensor:
    delta = info.weight_delta_and_mask
    if delta is not None and delta[0] is None:
        h = components.get_inner_acts(x) if h is None else h
        out = components.folded(h, info.component_mask, delta[1], target_out())
    elif fused and info.component_mask is None and delta is None and components.fused_is_cheaper(x):
        out = components.unmasked(x)
    elif h is None:
        whole = None if delta is None else (delta[0], delta[1])
        out = components(x, info.component_mask, whole)
    else:
        out = components.from_inner_acts(h, info.component_mask)
        if delta is not None and delta[0] is not None:
            out = out + delta[1].unsqueeze(-1) * components.delta_output(x, delta[0])
        out = out if components.bias is None else out + components.bias
    if isinstance(info.routing_mask, str):
        return out
    return torch.where(info.routing_mask.unsqueeze(-1), out, target_out())


def _input_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else next(iter(kwargs.values()))  # type: ignore[no-any-return]


class _EphemeralHooks:
    """Registers a hook at each site for the time of one pass."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites

    @contextmanager
    def running(self, execution: Execution) -> Iterator[None]:
        handles = []
        try:
            for site in self._sites:
                hook = partial(self._hook, execution, site)
                handles.append(site.module.register_forward_hook(hook, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def _hook(
        execution: Execution, site: Site, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        return execution.at(site, _input_of(args, kwargs), lambda: output)

    def detach(self) -> None:
        """Leaves the target as it was; there is nothing to undo between passes."""


class _Standing:
    """What looks at the present instruction instead of being put there for each pass."""

    def __init__(self) -> None:
        self._present: Execution | None = None

    @contextmanager
    def running(self, execution: Execution) -> Iterator[None]:
        before, self._present = self._present, execution
        try:
            yield
        finally:
            self._present = before


class _PersistentHooks(_Standing):
    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self._handles = [
            site.module.register_forward_hook(partial(self._hook, site), with_kwargs=True) for site in sites
        ]

    def _hook(self, site: Site, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return None if self._present is None else self._present.at(site, _input_of(args, kwargs), lambda: output)

    def detach(self) -> None:
        for handle in self._handles:
            handle.remove()


class _Inline(_Standing):
    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()
        self._sites = sites
        for site in sites:
            site.module.forward = partial(self._forward, site, site.module.forward)

    def _forward(self, site: Site, frozen: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self._present is None:
            return frozen(*args, **kwargs)
        found: list[Tensor] = []

        def target_out() -> Tensor:
            if not found:
                found.append(frozen(*args, **kwargs))
            return found[0]

        out = self._present.at(site, _input_of(args, kwargs), target_out)
        return target_out() if out is None else out

    def detach(self) -> None:
        for site in self._sites:
            del site.module.forward


BACKENDS: dict[str, Callable[[Sequence[Site]], Any]] = {
    "ephemeral_hooks": _EphemeralHooks,
    "persistent_hooks": _PersistentHooks,
    "inline": _Inline,
}
"""The three, by name; each has `running(execution)`, a context, and `detach()`."""


def build_backend(name: Backend, sites: Sequence[Site]) -> Any:
    """Makes a target heed instructions.

    Args:
        name: which way.
        sites: where.

    Returns:
        The back end.
    """
    return BACKENDS[name](sites)
