"""Commands that train: `train` and `demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from resu.cli.options import (
    AsJson,
    Backend,
    Eager,
    Force,
    LearningRate,
    Method,
    Require,
    Resume,
    Seed,
    Sparsity,
    Steps,
    Task,
)
from resu.cli.output import by_column, draw_pictures, print_files, print_json, progress, results_console
from resu.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from resu.experiments.demo import DemoResult

__all__ = ["demo", "train"]


def train(
    task: Annotated[Task, typer.Option(help="What to learn.")] = Task.digits,
    method: Annotated[
        Method, typer.Option(metavar="METHOD", help=f"How masks come about: {', '.join(Method)}.")
    ] = Method.shadow,
    sparsity: Sparsity = 0.95,
    steps: Steps = None,
    batch: Annotated[
        int | None, typer.Option(help="Examples of a step.", show_default="64 digits, 256 characters")
    ] = None,
    learning_rate: LearningRate = 4e-3,
    seed: Seed = 0,
    backend: Eager = Backend.eager,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 250,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run.", show_default="runs/TASK-METHOD-SPARSITY-SEED")
    ] = None,
    resume: Resume = False,
    force: Force = False,
    require: Require = None,
    as_json: AsJson = False,
) -> None:
    """Trains a small network sparsely.

    Writes checkpoint, weights with their masks, result and pictures. A killed run goes on with --resume.

    Examples:
      resu train
      resu train --method rigl --sparsity 0.98 --out runs/rigl --require 90
      resu train --task characters --method resu --resume
    """
    from resu.experiments.training_run import RunSettings, run_training

    if resume and force:
        raise ConfigError("--resume goes on with a run and --force replaces it; both were given. Give one of them.")
    usual = {"steps": 1500, "batch": 64} if task is Task.digits else {"steps": 1200, "batch": 256}
    given = {"task": task.value, "method": method.value, "sparsity": sparsity, "learning_rate": learning_rate}
    given |= {"seed": seed, "backend": backend.value, "checkpoint_every": checkpoint_every}
    given |= {"steps": usual["steps"] if steps is None else steps, "batch": usual["batch"] if batch is None else batch}
    settings = RunSettings.model_validate(given)
    folder = out or Path("runs") / f"{task.value}-{method.value}-{sparsity:g}-{seed}"
    with progress(f"training {task.value}") as report:
        outcome = run_training(settings, folder, resume=resume, force=force, report=report)
    files = list(outcome.files)
    title = f"{task.value}, {method.value}, {outcome.sparsity:.1%} pruned"
    points = by_column(outcome.points, ("step", "score", "sparsity"))
    files += draw_pictures(lambda plots: plots.score_curve(points, folder / "score", title, outcome.metric))
    changes = [vars(change) for change in outcome.changes]
    if changes:
        names = ("step", "sparsity", "churn", "resurrection_rate")
        files += draw_pictures(lambda plots: plots.mask_curves(by_column(changes, names), folder / "masks", title))
    if as_json:
        print_json({"kind": "train", **outcome.as_dict(), "files": [str(file) for file in files]})
    else:
        table = Table("measure", "value", title=f"{title}, {settings.steps} steps", title_justify="left")
        table.add_row(outcome.metric, f"{outcome.score:.3f}")
        table.add_row("changes of the masks", str(len(changes)))
        table.add_row("weights that came back, summed over changes", str(sum(one["resurrected"] for one in changes)))
        results_console().print(table)
        print_files(files)
    _require(outcome.score, require, larger=task is Task.digits)


def demo(
    task: Annotated[Task, typer.Argument(help="What to learn.")] = Task.digits,
    sparsity: Sparsity = 0.95,
    cycles: Annotated[int, typer.Option(help="Commits.")] = 15,
    steps: Steps = None,
    seed: Seed = 0,
    backend: Eager = Backend.eager,
    out: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="runs/demo-TASK")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Trains, prunes and resurrects, cycle by cycle, and draws what came back.

    Examples:
      resu demo digits
      resu demo characters --sparsity 0.9 --cycles 20 --out runs/text
    """
    from resu.experiments.demo import RESULT, run_demo

    folder = out or Path("runs") / f"demo-{task.value}"
    if (folder / RESULT).exists() and not force:
        raise CheckpointError(
            f"a demonstration has a folder of its own; {folder} already has one ({RESULT}). Replace it (--force), or "
            "name another folder (--out)."
        )
    with progress(f"demo {task.value}") as report:
        result = run_demo(
            task.value, folder, sparsity=sparsity, cycles=cycles, steps=steps, seed=seed, backend=backend.value,
            progress=report,
        )  # fmt: skip
    files = [*result.files, *draw_pictures(lambda plots: _demo_pictures(plots, result, folder))]
    if as_json:
        return print_json({"kind": "demo", **result.as_dict(), "files": [str(file) for file in files]})
    table = Table("cycle", "step", "pruned", "came back", "rate", "churn", "score", title_justify="left")
    table.title = f"{task.value}: {len(result.history)} cycles"
    for one in result.history:
        table.add_row(
            str(one.cycle), str(one.step), f"{one.sparsity:.2%}", str(one.resurrected), f"{one.resurrection_rate:.2%}",
            f"{one.churn:.2%}", f"{one.score:.3f}",
        )  # fmt: skip
    results_console().print(table)
    typer.echo(f"score: {result.score:.3f} ({result.metric})")
    typer.echo(f"active at the end: {result.active} of {result.weights} weights")
    typer.echo(f"came back at least once: {result.resurrected}; of these still active: {result.survivors}")
    typer.echo(f"score without those {result.survivors}: {result.score_without_survivors:.3f}")
    return print_files(files)


def _demo_pictures(plots: Any, result: "DemoResult", folder: Path) -> list[Path]:
    names = ("step", "sparsity", "churn", "resurrection_rate")
    rows = [vars(one) for one in result.history]
    files: list[Path] = plots.mask_curves(by_column(rows, names), folder / "cycles", f"{result.task}: what commits did")
    for name, layer in result.layers.items():
        shape = layer.last.shape
        flags = (mask.to_bool().numpy() for mask in (layer.first, layer.last, layer.came_back))
        title = f"{result.task}: what came back in {name} ({shape[0]} × {shape[1]})"
        pixels = (8, 8) if result.task == "digits" and shape[1] == 64 else None
        short = name.removesuffix(".weight").replace(".", "-")
        files += plots.what_came_back(*flags, folder / f"back-{short}", title, pixels)
    return files


def _require(value: float, required: float | None, *, larger: bool) -> None:
    if required is not None and not (value >= required if larger else value <= required):
        typer.echo(f"the score {value:.3f} is {'below' if larger else 'above'} the required {required}", err=True)
        raise typer.Exit(1)
