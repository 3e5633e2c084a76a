"""What commands let one choose from, and the options that several of them have."""

from enum import StrEnum
from typing import Annotated

import typer

__all__ = [
    "AsJson",
    "Backend",
    "Eager",
    "Force",
    "Form",
    "Layout",
    "LearningRate",
    "Method",
    "Require",
    "Resume",
    "Seed",
    "Sparsity",
    "Spread",
    "Steps",
    "Task",
]


class Task(StrEnum):
    """What to train on."""

    digits = "digits"
    characters = "characters"


class Method(StrEnum):
    """How to train; see `resu.baselines`."""

    dense = "dense"
    static = "static"
    set = "set"
    rigl = "rigl"
    snfs = "snfs"
    shadow = "shadow"
    gmp = "gmp"
    acdc = "acdc"
    topkast = "topkast"
    resu = "resu"
    resu_paper = "resu_paper"


class Backend(StrEnum):
    """What runs the optimizer's update."""

    auto = "auto"
    eager = "eager"
    compile = "compile"
    triton = "triton"


class Spread(StrEnum):
    """How a sparsity is spread over layers."""

    use_global = "global"
    erk = "erk"
    uniform = "uniform"


class Layout(StrEnum):
    """Where `MaskedAdamW` keeps its moments."""

    dense = "dense"
    signbit = "signbit"
    compact = "compact"


class Form(StrEnum):
    """What to export to."""

    csr = "csr"
    pairs = "2:4"
    safetensors = "safetensors"


Sparsity = Annotated[float, typer.Option(help="Share of pruned weights.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.", show_default="1500 digits, 1200 characters")]
LearningRate = Annotated[float, typer.Option(help="At the start; it falls along a cosine.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Eager = Annotated[Backend, typer.Option(help="What runs the update; small networks gain nothing from compiling.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, if there is one.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Require = Annotated[float | None, typer.Option(help="Exit with 1 if the score is worse than this.")]
