"""Which modules of a target are decomposed, and what stands beside them: components and causal-importance functions."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor, nn

from spd.config.models import (
    CiConfig,
    GlobalSharedMLPConfig,
    GlobalTransformerConfig,
    MLPConfig,
    ModulePattern,
    SharedMLPConfig,
    VectorMLPConfig,
)
from spd.config.perf import PerfConfig
from spd.errors import ConfigError, TargetError
from spd.models.components import (
    Components,
    EmbeddingComponents,
    Identity,
    LinearComponents,
    MLPCiFn,
    TiedComponents,
    VectorMLPCiFn,
    VectorSharedMLPCiFn,
)
from spd.models.global_ci import GlobalSharedMLPCiFn, GlobalSharedTransformerCiFn
from spd.models.identity_insertion import input_width, is_transposed
from spd.models.sites import Site

__all__ = ["GLOBAL", "build_ci_fns", "build_sites"]

GLOBAL = "global"
"""The name of a causal-importance function for all sites."""


def build_sites(
    target: nn.Module,
    module_info: Sequence[ModulePattern],
    tied_weights: Sequence[tuple[str, str]],
    generator: torch.Generator | None,
) -> dict[str, Site]:
    """Sites with fresh components.

    Args:
        target: the network.
        module_info: which modules, and into how many components each.
        tied_weights: pairs of sites; the second one's components are the first one's, transposed.
        generator: draws the components.

    Returns:
        By path, in the order of the target's modules.

    Raises:
        TargetError: a pattern that matches nothing, a module that two patterns match, or one that cannot be decomposed;
            a pair that is not each other's transpose.
    """
    sites = {
        name: Site(name, module, _components_of(module, c, generator), number)
        for number, (name, (module, c)) in enumerate(_matched(target, module_info).items())
    }
    for first, second in tied_weights:
        sites[second] = _tied(sites, first, second)
    return sites


def _matched(model: nn.Module, module_info: Sequence[ModulePattern]) -> dict[str, tuple[nn.Module, int]]:
    """Modules to decompose, by path, in the model's own order."""
    owner: dict[str, ModulePattern] = {}
    paths = {name: module for name, module in model.named_modules() if name}
    for info in module_info:
        names = [name for name in paths if fnmatchcase(name, info.module_pattern)]
        if not names:
            raise TargetError(
                f"a pattern matches at least one module; {info.module_pattern!r} matches none of {', '.join(paths)}. "
                "Correct it."
            )
        for name in names:
            if name in owner:
                raise TargetError(
                    f"a module is matched by one pattern; {name} is matched by {owner[name].module_pattern!r} and by "
                    f"{info.module_pattern!r}. Narrow one of them."
                )
            if not _decomposable(paths[name]):
                raise TargetError(
                    "a decomposed module is a linear layer, an embedding, a Conv1D or an inserted identity; "
                    f"{info.module_pattern!r} matches {name}, a {type(paths[name]).__name__}. Narrow the pattern."
                )
            owner[name] = info
    return {name: (paths[name], owner[name].C) for name in paths if name in owner}


def _decomposable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Embedding | Identity) or is_transposed(module)


def _components_of(module: nn.Module, c: int, generator: torch.Generator | None) -> Components:
    if isinstance(module, nn.Embedding):
        return EmbeddingComponents(module.num_embeddings, module.embedding_dim, c, generator=generator)
    if isinstance(module, Identity):
        return LinearComponents(module.d, module.d, c, generator=generator)
    weight, bias = cast(Tensor, module.weight), cast("Tensor | None", module.bias)
    transposed = is_transposed(module)
    d_in, d_out = weight.shape if transposed else reversed(weight.shape)
    return LinearComponents(d_in, d_out, c, bias=bias, transposed=transposed, generator=generator)


def _tied(sites: Mapping[str, Site], first: str, second: str) -> Site:
    for name in (first, second):
        if name not in sites:
            raise TargetError(f"tied weights are sites, {', '.join(sites)}; got {name!r}. Name two of them.")
    one, other = sites[first], sites[second]
    if not isinstance(one.components, LinearComponents) or not torch.equal(one.weight, other.weight.T):
        raise TargetError(
            f"tied weights are each other's transposes; those of {first} and {second} are not. Leave the pair out."
        )
    components = TiedComponents(one.components, bias=other.components.bias)
    return Site(second, other.module, components, other.number)


def build_ci_fns(
    sites: Mapping[str, Site], ci: CiConfig, perf: PerfConfig, generator: torch.Generator | None
) -> dict[str, nn.Module]:
    """Causal-importance functions as settings say.

    Args:
        sites: what they are for, by name.
        ci: the settings.
        perf: how to run.
        generator: draws their weights.

    Returns:
        By site, or one under `GLOBAL`.

    Raises:
        ConfigError: a kind that cannot read an embedding's tokens.
    """
    cs = {name: site.components.C for name, site in sites.items()}
    embeddings = [name for name, site in sites.items() if isinstance(site.components, EmbeddingComponents)]
    if embeddings and isinstance(ci, VectorMLPConfig | SharedMLPConfig):
        raise ConfigError(
            f"an embedding's input is a token, which only the kind 'mlp' and the global ones read, as inner "
            f"activations; got {ci.ci_fn_type!r} for {embeddings[0]}. Choose another kind, or leave the embedding out."
        )
    if isinstance(ci, MLPConfig):
        return {name: MLPCiFn(c, ci.hidden_dims, kernel=perf.ci_kernel, generator=generator) for name, c in cs.items()}
    widths = {name: cs[name] if name in embeddings else input_width(site.module) for name, site in sites.items()}
    dims = {name: width for name, width in widths.items() if width is not None}
    if isinstance(ci, VectorMLPConfig):
        return {
            name: VectorMLPCiFn(c, dims[name], ci.hidden_dims, kernel=perf.ci_kernel, generator=generator)
            for name, c in cs.items()
        }
    if isinstance(ci, SharedMLPConfig):
        return {name: VectorSharedMLPCiFn(c, dims[name], ci.hidden_dims, generator=generator) for name, c in cs.items()}
    if isinstance(ci, GlobalSharedMLPConfig):
        return {GLOBAL: GlobalSharedMLPCiFn(dims, cs, ci.hidden_dims, generator=generator)}
    assert isinstance(ci, GlobalTransformerConfig)
    return {
        GLOBAL: GlobalSharedTransformerCiFn(
            dims, cs, d_model=ci.d_model, n_blocks=ci.n_blocks, n_heads=ci.n_heads, d_mlp=ci.d_mlp, generator=generator
        )
    }
