"""Settings of what is decomposed, and of the causal-importance functions."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from spd.config.base import Frozen

__all__ = [
    "CiConfig",
    "GlobalSharedMLPConfig",
    "GlobalTransformerConfig",
    "MLPConfig",
    "ModulePattern",
    "SharedMLPConfig",
    "VectorMLPConfig",
]

_Widths = tuple[PositiveInt, ...]


class ModulePattern(Frozen):
    """Which modules are decomposed, and into how many components each.

    Args:
        module_pattern: in the manner of file names (`*.mlp.down`), over the paths of the target's modules.
        C: components of each.

    >>> ModulePattern(module_pattern="linear*", C=20).C
    20
    """

    module_pattern: str = Field(min_length=1)
    C: PositiveInt


class MLPConfig(Frozen):
    """A network for each component, which reads the component's inner activation.

    Args:
        hidden_dims: widths of the hidden layers.
    """

    ci_fn_type: Literal["mlp"] = "mlp"
    hidden_dims: Annotated[_Widths, Field(min_length=1)] = (8,)


class VectorMLPConfig(Frozen):
    """A network for each component, which reads the layer's whole input.

    Args:
        hidden_dims: widths of the hidden layers.
    """

    ci_fn_type: Literal["vector_mlp"] = "vector_mlp"
    hidden_dims: Annotated[_Widths, Field(min_length=1)] = (8,)


class SharedMLPConfig(Frozen):
    """One network a layer, which reads the layer's whole input.

    Args:
        hidden_dims: widths of the hidden layers; none makes it an affine map.
    """

    ci_fn_type: Literal["shared_mlp"] = "shared_mlp"
    hidden_dims: _Widths = (8,)


class GlobalSharedMLPConfig(Frozen):
    """One network for all layers, which reads all their inputs.

    Args:
        hidden_dims: widths of the hidden layers; none makes it an affine map.
    """

    ci_fn_type: Literal["global_shared_mlp"] = "global_shared_mlp"
    hidden_dims: _Widths = (8,)


class GlobalTransformerConfig(Frozen):
    """A transformer over positions, in both directions, which reads all layers' inputs.

    Args:
        d_model: width of its residual stream.
        n_blocks: blocks of attention and MLP.
        n_heads: attention heads; d_model is a multiple of twice their number.
        d_mlp: width of the MLPs.
    """

    ci_fn_type: Literal["global_transformer"] = "global_transformer"
    d_model: PositiveInt = 64
    n_blocks: PositiveInt = 2
    n_heads: PositiveInt = 4
    d_mlp: PositiveInt = 256


CiConfig = Annotated[
    MLPConfig | VectorMLPConfig | SharedMLPConfig | GlobalSharedMLPConfig | GlobalTransformerConfig,
    Field(discriminator="ci_fn_type"),
]
"""Any kind of causal-importance function."""
