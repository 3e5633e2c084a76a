"""Ways to train sparsely, on one `resu.sparsifier.Sparsifier` and behind one interface, so that they can be compared.

========== ===================================================================== ==============
name       method                                                                source
========== ===================================================================== ==============
dense      no sparsity: the reference
static     a random mask
set        drop by |w|, grow at random                                           1707.04780
rigl       drop by |w|, grow by one batch's |gradient|                           1911.11134
snfs       drop by |w|, grow by |momentum|, layers win and lose                  1907.04840
shadow     drop by |w|, grow by consistent gradients gathered in free moments    ours
gmp        dense, then gradually pruned by |w|                                   1710.01878
acdc       sparse and dense phases by turns                                      2106.12379
topkast    sparse forward, less sparse backward                                  2106.03517
resu       pruned weights train by turns and compete to come back                ours
resu_paper the same with the published settings
========== ===================================================================== ==============
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter

from resu.baselines.acdc import ACDC, ACDCConfig
from resu.baselines.cycles import ResuConfig, ResuCycles, ResuPaperConfig
from resu.baselines.gmp import GMP, GMPConfig
from resu.baselines.method import Method, MethodConfig
from resu.baselines.regrowth import SET, RigL, RigLConfig, SETConfig, Shadow, ShadowConfig
from resu.baselines.snfs import SNFS, SNFSConfig
from resu.baselines.static import Dense, DenseConfig, Static, StaticConfig
from resu.baselines.topkast import TopKAST, TopKASTConfig
from resu.errors import ConfigError
from resu.sparsifier import Sparsifier

__all__ = ["METHODS", "AnyConfig", "Method", "MethodConfig", "MethodName", "build_method", "method_config"]

MethodName = Literal["dense", "static", "set", "rigl", "snfs", "shadow", "gmp", "acdc", "topkast", "resu", "resu_paper"]

AnyConfig = Annotated[
    DenseConfig
    | StaticConfig
    | SETConfig
    | RigLConfig
    | SNFSConfig
    | ShadowConfig
    | GMPConfig
    | ACDCConfig
    | TopKASTConfig
    | ResuConfig
    | ResuPaperConfig,
    Field(discriminator="name"),
]
"""The settings of any method, told apart by `name`."""

METHODS: dict[str, type[Method[Any]]] = {
    "dense": Dense,
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "snfs": SNFS,
    "shadow": Shadow,
    "gmp": GMP,
    "acdc": ACDC,
    "topkast": TopKAST,
    "resu": ResuCycles,
    "resu_paper": ResuCycles,
}

_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyConfig)


def method_config(name: str, **settings: Any) -> MethodConfig:
    """The settings of a method, by its name.

    Args:
        name: a key of `METHODS`.
        settings: those that differ from the defaults.

    Returns:
        The settings.

    Raises:
        ConfigError: no such method.
        pydantic.ValidationError: a value out of range or an unknown field.

    >>> method_config("rigl", interval=100)
    RigLConfig(interval=100, end=0.75, name='rigl', fraction=0.3)
    """
    if name not in METHODS:
        raise ConfigError(f"a method is one of {', '.join(get_args(MethodName))}; got {name!r}. Choose one of them.")
    return _ADAPTER.validate_python({"name": name, **settings})


def build_method(config: MethodConfig, sparsifier: Sparsifier, *, steps: int) -> Method[Any]:
    """A method on a model: brings its masks and weights to where training begins.

    Args:
        config: the method's settings, from `method_config` or by their own class.
        sparsifier: holds the model's masks, all active so far, the sparsity to end at, and the optimizer that is
            stepped.
        steps: steps of the whole training.

    Returns:
        The method, whose three calls belong into the training loop; see `resu.baselines.method`.

    Raises:
        ConfigError: settings of no method, or a training too short for them.

    >>> import torch
    >>> from resu.optim.masked import MaskedAdamW
    >>> model = torch.nn.Linear(20, 10)
    >>> sparsifier = Sparsifier(model, 0.8, optimizer=MaskedAdamW(model.parameters(), backend="eager"))
    >>> method = build_method(method_config("static"), sparsifier, steps=10)
    >>> int((model.weight != 0).sum())
    40
    """
    name = getattr(config, "name", None)
    if name not in METHODS:
        raise ConfigError(f"a method is built from its settings; got {config!r}. Make them with method_config(name).")
    return METHODS[name](sparsifier, steps, config)
