"""The commands `boolean-nca life` and `boolean-nca grow`: cellular automata made of logic circuits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from boolean_nca_cc.automata.settings import GrowSettings, LifeSettings
from boolean_nca_cc.cli.output import (
    AsJson,
    LearningRate,
    Require,
    Resume,
    Seed,
    check_required,
    console,
    pictures_if_possible,
    print_files,
    print_json,
    progress,
)
from boolean_nca_cc.config import FitConfig

if TYPE_CHECKING:
    from boolean_nca_cc.automata.growth import Repair
    from boolean_nca_cc.experiments.growth_run import GrowthOutcome
    from boolean_nca_cc.experiments.life_run import LifeOutcome

__all__ = ["app"]

app = typer.Typer()

_DEFAULT = GrowSettings()

Height = Annotated[int, typer.Option(help="Rows of cells.")]
Width = Annotated[int, typer.Option(help="Columns of cells.")]
Widths = Annotated[str, typer.Option(help="Gates of each layer, separated by commas.")]


@app.command()
def life(
    layers: Widths = "36,32,16,4",
    steps: Annotated[int, typer.Option(help="Training steps, at most.")] = 500,
    learning_rate: LearningRate = 1.0,
    seed: Seed = 0,
    soups: Annotated[int, typer.Option(help="Random grids to compare on.")] = 32,
    height: Height = 64,
    width: Width = 64,
    density: Annotated[float, typer.Option(help="Share of living cells at the start.")] = 0.35,
    generations: Annotated[int, typer.Option(help="How long the soups run.")] = 1000,
    boundary: Annotated[str, typer.Option(help="torus (opposite edges meet) or fixed (0 outside).")] = "torus",
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/life-SEED")] = None,
    resume: Resume = False,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Learns the Game of Life from its 512 neighbourhoods, counts the gates, and runs it beside the rule.

    Training ends when every case is right. The circuit then runs on random soups, 32 a machine word, and is compared
    with counting neighbours; a soup is drawn as animation and contact sheet.

    Examples:
      boolean-nca life
      boolean-nca life --seed 3 --generations 5000 --require 1.0
      boolean-nca life --layers 24,16,8,4 --steps 2000 --json
    """
    settings = LifeSettings.model_validate(
        {
            "layers": _widths(layers),
            "seed": seed,
            "fit": FitConfig.model_validate({"steps": steps, "optimizer": {"learning_rate": learning_rate}}),
            "soups": soups,
            "height": height,
            "width": width,
            "density": density,
            "generations": generations,
            "boundary": boundary,
        }
    )
    from boolean_nca_cc.experiments.life_run import draw_life, run_life

    folder = out or Path("runs") / f"life-{seed}"
    with progress("learning life") as report:
        outcome = run_life(settings, folder, resume=resume, report=report)
    files = outcome.files + pictures_if_possible(lambda: draw_life(settings, outcome.circuit, folder), "animation")
    if as_json:
        document = {"kind": "life", "settings": settings.model_dump(mode="json"), **outcome.as_dict()}
        print_json(document | {"files": [str(file) for file in files]})
    else:
        _print_life(outcome)
        print_files(files)
    check_required(outcome.hard_accuracy, require)


@app.command()
def grow(
    pattern: Annotated[str, typer.Argument(help="checkerboard, lizard, heart, or one character.")],
    scale: Annotated[
        int | None, typer.Option(help="Cells on a side of a dot, or of a square.", show_default="1, checkerboard 2")
    ] = None,
    height: Height = _DEFAULT.height,
    width: Width = _DEFAULT.width,
    guide: Annotated[
        str | None,
        typer.Option(
            help="none, or place: train the other bits to tell a cell its column and row.",
            show_default="place, checkerboard none",
        ),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Bits of a cell.", show_default="as many as needed")] = None,
    perceive: Annotated[str | None, typer.Option(help="Gates of each perceive layer, for every channel.")] = None,
    update: Annotated[str | None, typer.Option(help="Gates of each update layer.")] = None,
    time_steps: Annotated[int | None, typer.Option(help="Time steps to grow in.")] = None,
    unroll: Annotated[int | None, typer.Option(help="Time steps of a training run.")] = None,
    fire_rate: Annotated[float, typer.Option(help="Share of cells that update in a training step.")] = 1.0,
    damage: Annotated[int, typer.Option(help="Side of the square to damage and repair.")] = _DEFAULT.damage,
    batch: Annotated[int | None, typer.Option(help="Runs of a training step.")] = None,
    train_steps: Annotated[int | None, typer.Option(help="Training steps, at most.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Logits a step.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Training steps between checkpoints.")] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/grow-PATTERN-SEED")] = None,
    resume: Resume = False,
    require: Annotated[
        float | None, typer.Option(help="Exit with 1 if fewer cells are right in the worst grid, grown or repaired.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trains cells of logic gates to grow a picture from any state, to keep it, and to repair it.

    Soft gates learn by gradients through the time steps; what is drawn and measured is the hard automaton.

    Examples:
      boolean-nca grow checkerboard
      boolean-nca grow lizard --seed 1 --require 1.0
      boolean-nca grow G --scale 2 --damage 8 --resume
    """
    from boolean_nca_cc.experiments.growth_run import draw_growth, grow_settings, run_growth

    settings = grow_settings(
        pattern,
        scale=scale,
        height=height,
        width=width,
        guide=guide,
        channels=channels,
        perceive=None if perceive is None else _widths(perceive),
        update=None if update is None else _widths(update),
        steps=time_steps,
        unroll=unroll,
        fire_rate=fire_rate,
        damage=damage,
        batch=batch,
        train_steps=train_steps,
        learning_rate=learning_rate,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    folder = out or Path("runs") / f"grow-{pattern if pattern.isalnum() else pattern.encode().hex()}-{seed}"
    with progress(f"growing {pattern}") as report:
        outcome = run_growth(settings, folder, resume=resume, report=report)
    files = outcome.files + pictures_if_possible(lambda: draw_growth(settings, outcome.circuit, folder), "animation")
    if as_json:
        document = {"kind": "grow", "settings": settings.model_dump(mode="json"), **outcome.as_dict()}
        print_json(document | {"files": [str(file) for file in files]})
    else:
        _print_growth(outcome)
        print_files(files)
    check_required(outcome.hard_accuracy, require)


def _widths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError as error:
        raise typer.BadParameter(
            f"widths are whole numbers separated by commas, as in 64,32; it is {text!r}."
        ) from error


def _print_life(outcome: "LifeOutcome") -> None:
    gates, comparison = outcome.gates, outcome.comparison
    table = Table("measure", "value", title=f"Game of Life after {outcome.step} steps", title_justify="left")
    table.add_row("cases right", f"{outcome.hard_accuracy:.4f} of 512")
    table.add_row("gates of four inputs", f"{gates.trained}, pruned {gates.pruned}, simplified {gates.simplified}")
    table.add_row(
        "gates of two inputs, at most",
        f"pruned {gates.pruned_two_input}, simplified {gates.simplified_two_input} "
        f"(arXiv:2506.04912: {gates.published_two_input})",
    )
    table.add_row(
        "cells that differ from the rule",
        f"{comparison.differing.sum()} in {outcome.settings.soups} soups, {comparison.generations[-1]} generations",
    )
    console().print(table)


def _print_growth(outcome: "GrowthOutcome") -> None:
    title = f"{outcome.settings.pattern} after {outcome.step} training steps"
    table = Table("cells right, hard automaton", "all at once", "six in ten", title=title, title_justify="left")
    both: tuple[Repair, Repair] = (outcome.synchronous, outcome.asynchronous)
    for name in ("grown", "kept", "damaged", "repaired"):
        shares = [getattr(repair, name) for repair in both]
        table.add_row(name, *(f"{share.mean():.4f}, worst {share.min():.4f}" for share in shares))
    table.add_row("grids repaired exactly", *(f"{(repair.repaired == 1).mean():.4f}" for repair in both))
    table.add_row("gates of a cell", f"{outcome.spec.n_gates}, pruned {outcome.pruned}", "")
    console().print(table)
