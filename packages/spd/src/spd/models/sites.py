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

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from spd.kernels.folded import folded_output, take_rows
from spd.models.components import Components
from spd.models.masks import ComponentsMaskInfo, Interpolated, whole_mask
from spd.models.prefix import Recorder, Replayer, Stretches, versions_of

__all__ = ["BACKENDS", "Backend", "CacheType", "Execution", "Known", "KnownSites", "Site", "build_backend"]

Backend = Literal["ephemeral_hooks", "persistent_hooks", "inline"]
CacheType = Literal["none", "input", "output", "component_acts"]


@dataclass(frozen=True)
class Site:
    """A leaf of the target and the components of its weight.

    Args:
        name: its path in the target.
        module: the leaf.
        components: of its weight.
        number: its place among the sites.
    """

    name: str
    module: nn.Module
    components: Components
    number: int = 0

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
        versions: of x and out when they were read, see `spd.models.prefix.versions_of`.
    """

    x: Shaped[Tensor, "..."]
    out: Float[Tensor, "... d_out"]
    h: Float[Tensor, "... C"] | None = None
    versions: tuple[int, ...] | None = None

    @property
    def holds(self) -> bool:
        """Whether neither was changed in place since."""
        return self.versions is not None and versions_of((self.x, self.out)) == self.versions


class KnownSites(dict[str, Known]):
    """What is known of all sites, by name.

    Args:
        found: by name.
        stretches: what the target computed between its sites; None = not recorded.
    """

    def __init__(self, found: Mapping[str, Known] | None = None, stretches: Stretches | None = None) -> None:
        super().__init__(found or {})
        self.stretches = stretches

    def precedes(self, sites: Container[str]) -> bool:
        """Whether anything was recorded before the first of some sites.

        Args:
            sites: their names.

        Returns:
            The answer.
        """
        for name, stretch in zip(self, self.stretches or [], strict=False):
            if stretch:
                return True
            if name in sites:
                return False
        return False


@dataclass
class Execution:
    """What one forward pass is to do, and what it leaves behind.

    Args:
        mask_infos: by site; a site without one keeps its layer.
        cache_type: what to remember.
        known: by site. Up to and with the first site that is masked, and wherever the very same tensor is read again,
            inputs are those of the target's pass: outputs of layers and inner activations are taken from here. Only the
            inline back end can leave a product out.
        fused: take an unmasked product as a (V U), where that is cheaper.
        by_hand: take the folded form's gradients from `spd.kernels.folded`, and look whether what is known was changed
            in place; a compiler follows neither.
        compact: leave out of a masked product the positions at which the layer itself is taken.
        ordered: the sites' names by their numbers: instructions are laid out in lists, and found by number.
        tape: records, or gives out, what is computed between sites.

    Attributes:
        cache: what was remembered, by site.
        outputs: in a pass that remembers inputs, the sites' outputs.
        versions: in such a pass, see `Known`.
        moved: whether a site was masked.
        repeated: sites that a pass which remembers inputs came to more than once.
    """

    mask_infos: Mapping[str, ComponentsMaskInfo] = field(default_factory=dict)
    cache_type: CacheType = "none"
    known: Mapping[str, Known] = field(default_factory=dict)
    fused: bool = False
    by_hand: bool = False
    compact: bool = False
    ordered: Sequence[str] | None = None
    tape: Recorder | Replayer | None = None
    cache: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    versions: dict[str, tuple[int, ...] | None] = field(default_factory=dict)
    moved: bool = False
    repeated: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.ordered is not None:
            self._infos = [self.mask_infos.get(name) for name in self.ordered]
            self._knowns = [self.known.get(name) for name in self.ordered]

    def _found(self, site: Site) -> tuple[ComponentsMaskInfo | None, Known | None]:
        if self.ordered is not None:
            return self._infos[site.number], self._knowns[site.number]
        return self.mask_infos.get(site.name), self.known.get(site.name)

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
        info, known = self._found(site)
        if known is not None and ((self.moved and known.x is not x) or (self.by_hand and not known.holds)):
            known = None
        h = None
        if known is not None:
            x, h, out_of_target = known.x, known.h, known.out

            def target_out() -> Tensor:
                return out_of_target

        self.moved = self.moved or info is not None
        out = None if known is None else target_out()
        if self.cache_type == "component_acts":
            h = self._remember_acts(site, site.components.get_inner_acts(x) if h is None else h)
        if info is not None:
            out = self._masked(site.components, x, h, info, target_out)
        if self.cache_type == "input":
            out = target_out() if out is None else out
            if site.name in self.cache:
                self.repeated.add(site.name)
            self.cache[site.name], self.outputs[site.name] = x, out
            self.versions[site.name] = versions_of((x, out)) if self.by_hand else None
        elif self.cache_type == "output":
            self.cache[site.name] = out = target_out() if out is None else out
        return out

    def _masked(
        self,
        components: Components,
        x: Tensor,
        h: Tensor | None,
        info: ComponentsMaskInfo,
        target_out: Callable[[], Tensor],
    ) -> Tensor:
        delta, mask, routing = info.weight_delta_and_mask, info.component_mask, info.routing_mask
        if delta is not None and delta[0] is None:
            if self.by_hand and isinstance(mask, Interpolated):
                rows = (
                    routing.reshape(-1).nonzero().squeeze(1) if self.compact and not isinstance(routing, str) else None
                )
                out = _folded(components, x, h, mask, delta[1], target_out(), rows)
                return out if rows is not None else _routed(out, info, target_out)
            h = components.get_inner_acts(x) if h is None else h
            out = components.folded(h, whole_mask(mask), delta[1], target_out())
        elif self.fused and mask is None and delta is None and components.fused_is_cheaper(x):
            out = components.unmasked(x)
        elif h is None:
            whole = None if delta is None else (delta[0], delta[1])
            out = components(x, whole_mask(mask), whole)
        else:
            out = components.from_inner_acts(h, whole_mask(mask))
            if delta is not None and delta[0] is not None:
                out = out + delta[1].unsqueeze(-1) * components.delta_output(x, delta[0])
            out = out if components.bias is None else out + components.bias
        return _routed(out, info, target_out)

    def _remember_acts(self, site: Site, h: Tensor) -> Tensor:
        """Both sides of a cut, so that attributions can take gradients up to it and from it."""
        cut = h.detach().requires_grad_()
        self.cache[f"{site.name}_pre_detach"] = h
        self.cache[f"{site.name}_post_detach"] = cut
        return cut


def _routed(out: Tensor, info: ComponentsMaskInfo, target_out: Callable[[], Tensor]) -> Tensor:
    if isinstance(info.routing_mask, str):
        return out
    return torch.where(info.routing_mask.unsqueeze(-1), out, target_out())


def _folded(
    components: Components,
    x: Tensor,
    h: Tensor | None,
    mask: Interpolated,
    d: Tensor,
    y: Tensor,
    rows: Int64[Tensor, " R"] | None,
) -> Tensor:
    """The folded form over flat positions; with rows, over those alone."""
    g, r, positions = mask.importance, mask.sources, y.shape[:-1]
    if r.shape != g.shape and r.numel() != components.C:
        r = r.expand(g.shape)
    if h is None:
        flat = x.reshape(-1, x.shape[-1]) if x.is_floating_point() else x.reshape(-1)
        if rows is not None:
            flat = take_rows(flat, rows) if x.is_floating_point() else flat.index_select(0, rows)
        h = components.get_inner_acts(flat)
    else:
        h = h.reshape(-1, components.C)
        h = h if rows is None else take_rows(h, rows)
    out = folded_output(
        h, g.reshape(-1, components.C), r.reshape(-1, components.C), d.expand(positions).reshape(-1), components.U,
        y.reshape(-1, y.shape[-1]), components.bias, rows,
    )  # fmt: skip
    return out.view(y.shape)


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
            with nullcontext() if execution.tape is None else execution.tape:
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

        tape = self._present.tape
        if tape is not None:
            tape.enter_site()
        out = self._present.at(site, _input_of(args, kwargs), target_out)
        out = target_out() if out is None else out
        if tape is not None:
            tape.leave_site(self._present.moved)
        return out

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
