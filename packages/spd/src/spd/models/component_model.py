"""A frozen target network whose chosen weights are decomposed, and can be run with any of their components ablated."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from spd.config.models import CiConfig, MLPConfig, ModulePattern
from spd.config.perf import PerfConfig
from spd.errors import ConfigError, TargetError
from spd.models.building import GLOBAL, build_ci_fns, build_sites
from spd.models.components import Components, EmbeddingComponents
from spd.models.identity_insertion import input_width
from spd.models.masks import ComponentsMaskInfo
from spd.models.prefix import Recorder, Replayer, Stretches
from spd.models.sigmoids import SigmoidType, sigmoid_pair
from spd.models.sites import CacheType, Execution, Known, KnownSites, build_backend
from spd.sampling import Sampling, SourceSampler

__all__ = ["CIOutputs", "ComponentModel", "OutputWithCache"]


@dataclass(frozen=True)
class OutputWithCache:
    """What a pass gave, and what it remembered.

    Args:
        output: the target's output.
        cache: by site; for component activations by site and "_pre_detach" or "_post_detach".
        outputs: of the sites, in a pass that remembers their inputs.
        versions: of inputs and outputs in such a pass, see `spd.models.sites.Known`.
        repeated: sites that such a pass came to more than once.
        stretches: what it computed between sites, where that was recorded.
    """

    output: Float[Tensor, "..."]
    cache: dict[str, Shaped[Tensor, "..."]]
    outputs: dict[str, Float[Tensor, "..."]]
    versions: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    stretches: Stretches | None = None


@dataclass(frozen=True)
class CIOutputs:
    """Causal importances, by site.

    Args:
        lower_leaky: g, which makes the masks.
        upper_leaky: ḡ, which is penalised.
        pre_sigmoid: z.
        at_zero: g and ḡ of an input of zeros, where they were asked for.
    """

    lower_leaky: dict[str, Float[Tensor, "... _"]]
    upper_leaky: dict[str, Float[Tensor, "... _"]]
    pre_sigmoid: dict[str, Float[Tensor, "... _"]]
    at_zero: dict[str, tuple[Float[Tensor, " _"], Float[Tensor, " _"]]] = field(default_factory=dict)


class ComponentModel(nn.Module):
    """A target network and the components of its weights.

    Linear layers, embeddings, Hugging Face's transposed `Conv1D` and inserted identities can be decomposed. The target
    is frozen and put into evaluation mode; its modules, parameters and their names stay as they are.

    Args:
        target_model: the trained network.
        module_info: which modules, and into how many components each.
        ci: the causal-importance functions.
        sigmoid_type: from z to importances, see `spd.models.sigmoids`.
        output_attr: of what the target returns: None = itself, an attribute's name, or "idx_0" for an element.
        tied_weights: pairs of sites; the second one's components are the first one's, transposed.
        perf: how to run.
        generator: draws all initial parameters.

    Attributes:
        target_model: the network.
        target_module_paths: the sites' names, in the order of the target's modules.
        components: by site.
        ci_fns: by site, or one under "global".

    Raises:
        TargetError: a pattern that matches nothing, a module that two patterns match, or one that cannot be decomposed.
        ConfigError: a kind of causal-importance function that cannot read an embedding's tokens.

    >>> target = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 5))
    >>> model = ComponentModel(target, (ModulePattern(module_pattern="*", C=10),), MLPConfig(hidden_dims=(16,)))
    Traceback (most recent call last):
    ...
    spd.errors.TargetError: a decomposed module is a linear layer, an embedding, a Conv1D or an inserted identity; '*' \
matches 1, a ReLU. Narrow the pattern.
    >>> info = tuple(ModulePattern(module_pattern=name, C=10) for name in ("0", "2"))
    >>> model = ComponentModel(target, info, MLPConfig(hidden_dims=(16,)))
    >>> x = torch.ones(3, 5)
    >>> importances = model.calc_causal_importances(model(x, cache_type="input").cache).lower_leaky
    >>> importances["2"].shape
    torch.Size([3, 10])
    """

    def __init__(
        self,
        target_model: nn.Module,
        module_info: Sequence[ModulePattern],
        ci: CiConfig,
        *,
        sigmoid_type: SigmoidType = "leaky_hard",
        output_attr: str | None = None,
        tied_weights: Sequence[tuple[str, str]] = (),
        perf: PerfConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.perf = perf or PerfConfig()
        self.target_model = target_model.requires_grad_(False).eval()
        self.output_attr, self.sigmoids = output_attr, sigmoid_pair(sigmoid_type)
        self.tied_weights = tuple(tied_weights)
        self._sites = build_sites(target_model, module_info, self.tied_weights, generator)
        self.module_to_c = {name: site.components.C for name, site in self._sites.items()}
        self._components = nn.ModuleDict({_key(name): site.components for name, site in self._sites.items()})
        self._ci_fns = nn.ModuleDict(
            {_key(name): fn for name, fn in build_ci_fns(self._sites, ci, self.perf, generator).items()}
        )
        parameter = next(target_model.parameters(), None)
        if parameter is not None:
            self._components.to(parameter.device)
            self._ci_fns.to(parameter.device)
        self._reads_acts = isinstance(ci, MLPConfig)
        self._weights: dict[str, Tensor] = {}
        self._names = tuple(self._sites)
        self._backend = build_backend(self.perf.site_backend, tuple(self._sites.values()))

    # --- what is there ------------------------------------------------------------------------------------------------

    @property
    def target_module_paths(self) -> list[str]:
        """The sites' names."""
        return list(self._sites)

    @property
    def components(self) -> dict[str, Components]:
        """Components by site."""
        return {name: site.components for name, site in self._sites.items()}

    @property
    def ci_fns(self) -> dict[str, nn.Module]:
        """Causal-importance functions by site, or the one for all under "global"."""
        names = [GLOBAL] if GLOBAL in self._ci_fns else self.target_module_paths
        return {name: self._ci_fns[_key(name)] for name in names}

    @property
    def tied_parameters(self) -> set[int]:
        """Identities of the parameters that two sites share."""
        return {id(p) for first, _ in self.tied_weights for p in self._sites[first].components.parameters()}

    def parameters_of(self, names: Collection[str]) -> list[nn.Parameter]:
        """The components' parameters that masked sites are computed from, each once.

        Args:
            names: of sites.

        Returns:
            Those that take gradients.
        """
        owner = {second: first for first, second in self.tied_weights}
        owners = dict.fromkeys(owner.get(name, name) for name in names)
        return [p for name in owners for p in self._sites[name].components.parameters() if p.requires_grad]

    @property
    def input_width(self) -> int | None:
        """Numbers that the first site reads; None where it reads tokens."""
        return input_width(next(iter(self._sites.values())).module)

    def target_weight(self, name: str) -> Float[Tensor, "..."]:
        """A site's frozen weight.

        Args:
            name: the site.

        Returns:
            The weight, in the target's form.

        Raises:
            TargetError: no such site.
        """
        if name not in self._sites:
            raise TargetError(f"a site is one of {', '.join(self._sites)}; got {name!r}. Name one of them.")
        if not self.perf.cache_target_weights:
            return self._sites[name].weight.detach()
        if name not in self._weights:
            self._weights[name] = self._sites[name].weight.detach()
        return self._weights[name]

    def calc_weight_deltas(self) -> dict[str, Float[Tensor, "..."]]:
        """Δ = W − (V U)ᵀ for each site, in the form of the target's weight, with gradients for V and U."""
        return {name: self.target_weight(name) - site.components.weight for name, site in self._sites.items()}

    # --- running ------------------------------------------------------------------------------------------------------

    def forward(
        self,
        *args: Any,
        mask_infos: Mapping[str, ComponentsMaskInfo] | None = None,
        cache_type: CacheType = "none",
        known: Mapping[str, Known] | None = None,
        **kwargs: Any,
    ) -> Float[Tensor, "..."] | OutputWithCache:
        """Runs the target, with components in place of the sites that have masks.

        Args:
            *args: the target's own.
            mask_infos: by site; a site that is left out keeps its layer.
            cache_type: "input" or "output" of each site, or "component_acts": inner activations on both sides of a cut
                of the gradient.
            known: by site, what the target's own pass over the same batch showed; see `known_sites`.
            **kwargs: the target's own.

        Returns:
            The output; with the cache where one was asked for.

        Raises:
            TargetError: masks of a site that does not exist.
        """
        if mask_infos is None and cache_type == "none":
            return self._picked(self.target_model(*args, **kwargs))
        tape = self._tape(mask_infos, cache_type, known)
        execution = self._execution(self._checked(mask_infos), cache_type, known or {}, tape)
        with self._backend.running(execution):
            output = self._picked(self.target_model(*args, **kwargs))
        if cache_type == "none":
            return output
        stretches = tape.stretches if isinstance(tape, Recorder) else None
        return OutputWithCache(
            output, execution.cache, execution.outputs, execution.versions, frozenset(execution.repeated), stretches
        )

    def _execution(
        self,
        mask_infos: Mapping[str, ComponentsMaskInfo],
        cache_type: CacheType = "none",
        known: Mapping[str, Known] | None = None,
        tape: Recorder | Replayer | None = None,
    ) -> Execution:
        perf = self.perf
        return Execution(
            mask_infos, cache_type, known or {}, fused=perf.fused_unmasked, by_hand=self.by_hand,
            compact=perf.row_dedup and self.looks_at_data, ordered=self._names if perf.ordered_sites else None,
            tape=tape,
        )  # fmt: skip

    @property
    def by_hand(self) -> bool:
        """Whether gradients written by hand are used: a compiler is given the plain operations instead."""
        return not (self.perf.compile_step or torch.compiler.is_compiling())

    @property
    def looks_at_data(self) -> bool:
        """Whether shapes may depend on numbers: a GPU would be waited for, and a compiler cannot follow."""
        return self.by_hand and next(self._components.parameters()).device.type == "cpu"

    def _tape(self, mask_infos: Any, cache_type: CacheType, known: Mapping[str, Known] | None) -> Any:
        perf = self.perf
        if not perf.reuse_prefix or perf.site_backend != "inline" or perf.compile_target or not self.by_hand:
            return None  # compiled code runs no operation by itself
        if isinstance(known, KnownSites) and known.stretches is not None:
            return Replayer(known.stretches) if known.precedes(mask_infos or {}) else None
        return Recorder() if mask_infos is None and cache_type == "input" and not torch.is_grad_enabled() else None

    def known_sites(self, run: OutputWithCache) -> KnownSites:
        """What the target's own pass showed of its sites, for masked passes over the same batch.

        Args:
            run: of a pass without masks and with cache_type="input".

        Returns:
            By site; outputs of layers where `reuse_prefix` is on, inner activations where `reuse_inner_acts` is.
            Nothing where neither is, or where a back end of hooks computes everything anyway, and nothing of a site
            that the target comes to more than once.
        """
        perf = self.perf
        if perf.site_backend != "inline" or not (perf.reuse_prefix or perf.reuse_inner_acts):
            return KnownSites()
        found = {}
        for name, x in run.cache.items():
            if name not in run.repeated:
                h = self.components[name].get_inner_acts(x) if perf.reuse_inner_acts else None
                found[name] = Known(x, run.outputs[name], h, run.versions[name])
        return KnownSites(found, run.stretches)

    @contextmanager
    def masked(self, mask_infos: Mapping[str, ComponentsMaskInfo]) -> Iterator[nn.Module]:
        """Within the context, whatever is called of the target runs with components in place.

        Args:
            mask_infos: by site.

        Yields:
            The target.

        Raises:
            TargetError: masks of a site that does not exist.
        """
        with self._backend.running(self._execution(self._checked(mask_infos))):
            yield self.target_model

    def calc_causal_importances(
        self,
        pre_weight_acts: Mapping[str, Shaped[Tensor, "..."]],
        sampling: Sampling = "continuous",
        *,
        detach_inputs: bool = False,
        sampler: SourceSampler | None = None,
        known: Mapping[str, Known] | None = None,
        at_zero: bool = False,
    ) -> CIOutputs:
        """How important each component is at each position.

        With binomial sampling the function for the masks sees z' = 1.05 z − 0.05 u, u ~ U(0, 1).

        Args:
            pre_weight_acts: the sites' inputs, as `forward(…, cache_type="input")` remembers them.
            sampling: how masks will be drawn.
            detach_inputs: no gradient reaches what is before the causal-importance functions.
            sampler: draws u; needed for binomial sampling.
            known: inner activations that were computed already, by site.
            at_zero: also those of an input of zeros, as one more row; inputs have one axis of positions then.

        Returns:
            The importances.

        Raises:
            ConfigError: binomial sampling without a sampler, or importances outside the range of their sigmoid.
        """
        if sampling == "binomial" and sampler is None:
            raise ConfigError("binomial sampling draws u; no sampler was given. Pass a SourceSampler.")
        z = self._pre_sigmoid(pre_weight_acts, detach_inputs, known or {}, at_zero)
        by_hand = self.by_hand and self.perf.ci_kernel != "einsum" and sampling == "continuous"
        both = self.sigmoids.both if by_hand else None
        lower, upper, zero = {}, {}, {}
        for name, values in z.items():
            noisy = values
            if sampling == "binomial" and sampler is not None:
                rows = values[:-1] if at_zero else values
                noisy = 1.05 * rows - 0.05 * sampler.uniform(rows.shape)
                noisy = torch.cat([noisy, values[-1:]]) if at_zero else noisy
            g, penalised = (self.sigmoids.masks(noisy), self.sigmoids.penalty(values)) if both is None else both(values)
            if at_zero:
                (g, g_zero), (penalised, penalised_zero) = (t.split([t.shape[0] - 1, 1]) for t in (g, penalised))
                zero[name] = g_zero[0], penalised_zero[0]
            lower[name], upper[name] = g, penalised
        z = {name: values[:-1] for name, values in z.items()} if at_zero else z
        if not self.perf.skip_range_checks and self.by_hand:
            for name, g in lower.items():
                _check_range(name, g, *self.sigmoids.range)
        return CIOutputs(lower, upper, z, zero)

    def _pre_sigmoid(
        self, acts: Mapping[str, Tensor], detach: bool, known: Mapping[str, Known], at_zero: bool
    ) -> dict[str, Tensor]:
        read: dict[str, Tensor] = {}
        places: dict[str, Tensor] = {}
        for name, x in acts.items():
            components = self._sites[name].components
            as_acts = self._reads_acts or isinstance(components, EmbeddingComponents)
            found = x
            if self._by_token(x):
                tokens, places[name] = x.unique(return_inverse=True)
                found = components.get_inner_acts(tokens)
            elif as_acts:
                h = known[name].h if name in known else None
                found = components.get_inner_acts(x) if h is None else h
            found = torch.cat([found, found.new_zeros(1, found.shape[-1])]) if at_zero else found
            read[name] = found.detach() if detach else found
        if GLOBAL in self._ci_fns:
            return cast("dict[str, Tensor]", self._ci_fns[GLOBAL](read))
        z = {name: self._ci_fns[_key(name)](x) for name, x in read.items()}
        return z | {name: functional.embedding(place, z[name]) for name, place in places.items()}

    def _by_token(self, x: Tensor) -> bool:
        """Whether equal tokens have their importances computed once."""
        return not x.is_floating_point() and self.perf.row_dedup and self._reads_acts and self.looks_at_data

    def _checked(self, mask_infos: Mapping[str, ComponentsMaskInfo] | None) -> Mapping[str, ComponentsMaskInfo]:
        odd = sorted(set(mask_infos or {}) - set(self._sites))
        if odd:
            raise TargetError(
                f"masks belong to sites, which are {', '.join(self._sites)}; got some for {odd[0]!r}. Correct the name."
            )
        return mask_infos or {}

    def _picked(self, output: Any) -> Tensor:
        if self.output_attr is None:
            return cast(Tensor, output)
        if self.output_attr.startswith("idx_"):
            return cast(Tensor, output[int(self.output_attr.removeprefix("idx_"))])
        return cast(Tensor, getattr(output, self.output_attr))

    # --- moving and letting go ----------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> "ComponentModel":
        """Sets the mode of everything but the target, which stays in evaluation mode."""
        super().train(mode)
        self.target_model.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "ComponentModel":
        self._weights.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As for any module; frozen weights that were looked up before are looked up again."""
        self._weights.clear()
        return super().load_state_dict(*args, **kwargs)

    def detach_target(self) -> nn.Module:
        """Leaves the target as it was before it was decomposed.

        Returns:
            The target.
        """
        self._backend.detach()
        return self.target_model


def _check_range(name: str, g: Tensor, low: float, high: float) -> None:
    # Numbers that are none are not judged here: the losses they end in are named by the training step.
    if bool(g.max() > high) or bool(g.min() < low):
        raise ConfigError(
            f"importances that make masks are within the range of their sigmoid, {low} to {high}; those of {name} go "
            f"from {g.min().item():.4g} to {g.max().item():.4g}. Correct the sigmoid, or choose another."
        )


def _key(name: str) -> str:
    """Module names may hold no dots."""
    return name.replace(".", "-")
