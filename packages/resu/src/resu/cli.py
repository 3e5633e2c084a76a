"""The command `resu`: train sparsely, prune, look at files, export, measure, check, demonstrate.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 a result below what was required, 2 bad
usage or input. Frameworks are imported inside the commands, so that help is quick.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from resu import __version__
from resu.errors import CheckpointError, ConfigError, MissingExtraError, ResuError

if TYPE_CHECKING:
    from resu.experiments.demo import DemoResult
    from resu.experiments.table import AccuracyTable

__all__ = ["app", "main"]

app = typer.Typer(
    name="resu",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench = typer.Typer(no_args_is_help=True, help="Measures memory, time and accuracy on this machine.")
app.add_typer(bench, name="bench")


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        arguments: the command line without the program's name; None = the process's own.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="resu")
    except ValidationError as error:
        _fail("; ".join(_setting_error(one) for one in error.errors()))
    except (ResuError, OSError) as error:
        _fail(str(error))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Sparse training in which pruned weights compete to come back.

    Examples:
      resu demo digits
      resu train --method shadow --sparsity 0.98
      resu verify
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
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
    with _progress(f"training {task.value}") as report:
        outcome = run_training(settings, folder, resume=resume, force=force, report=report)
    files = list(outcome.files)
    title = f"{task.value}, {method.value}, {outcome.sparsity:.1%} pruned"
    points = _columns(outcome.points, ("step", "score", "sparsity"))
    files += _pictures(lambda plots: plots.score_curve(points, folder / "score", title, outcome.metric))
    changes = [vars(change) for change in outcome.changes]
    if changes:
        names = ("step", "sparsity", "churn", "resurrection_rate")
        files += _pictures(lambda plots: plots.mask_curves(_columns(changes, names), folder / "masks", title))
    if as_json:
        _print_json({"kind": "train", **outcome.as_dict(), "files": [str(file) for file in files]})
    else:
        table = Table("measure", "value", title=f"{title}, {settings.steps} steps", title_justify="left")
        table.add_row(outcome.metric, f"{outcome.score:.3f}")
        table.add_row("changes of the masks", str(len(changes)))
        table.add_row("weights that came back, summed over changes", str(sum(one["resurrected"] for one in changes)))
        _console().print(table)
        _print_files(files)
    _require(outcome.score, require, larger=task is Task.digits)


@app.command()
def prune(
    file: Annotated[Path, typer.Argument(help="Weights: any safetensors file.")],
    sparsity: Sparsity = 0.9,
    spread: Annotated[Spread, typer.Option(help="How it is spread over layers.")] = Spread.use_global,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of names to leave out; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="What to write.", show_default="FILE-pruned.safetensors")] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Prunes the smallest weights of a file, in exact number.

    All tensors of floats with two and more dimensions take part. Writes weights and packed masks.

    Examples:
      resu prune model.safetensors --sparsity 0.9
      resu prune model.safetensors --spread uniform --exclude 'head.*' --out sparse.safetensors
    """
    from resu.experiments.weight_files import prune_file

    out = out or file.with_name(f"{file.stem}-pruned.safetensors")
    report = prune_file(file, out, sparsity, distribution=spread.value, exclude=exclude or (), force=force)
    layers = {name: {"active": one.n_active, "pruned": one.lost} for name, one in report.layers.items()}
    if as_json:
        return _print_json({"kind": "prune", "active": report.n_active, "layers": layers, "files": [str(out)]})
    table = Table("weight", "active", "pruned", "sparsity", title=f"{file} pruned by magnitude", title_justify="left")
    for name, one in layers.items():
        _count_row(table, name, one["active"], one["pruned"])
    if len(layers) > 1:
        _count_row(table, "all", report.n_active, sum(one["pruned"] for one in layers.values()))
    _console().print(table)
    return _print_files([out])


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="Weights, a checkpoint, or any safetensors file.")],
    as_json: AsJson = False,
) -> None:
    """Says what a file holds: layers, shapes, sparsity, phase.

    Examples:
      resu info runs/digits-shadow-0.95-0/weights.safetensors
      resu info runs/digits-shadow-0.95-0/checkpoint.safetensors --json
    """
    from resu.experiments.weight_files import read_file, weight_rows

    content = read_file(file)
    rows = weight_rows(content)
    if as_json:
        layers = [{**vars(row), "shape": list(row.shape), "mask": row.name in content.masks} for row in rows]
        return _print_json(
            {"kind": "info", "file": str(file), "holds": content.kind, "about": content.about, "tensors": layers}
        )
    what = {
        "weights": "weights", "checkpoint": "checkpoint of a training", "csr": "weights in compressed sparse rows",
        "safetensors": "safetensors of another origin",
    }  # fmt: skip
    table = Table("tensor", "shape", "dtype", "sparsity", "mask, phase", title_justify="left")
    table.title = f"{file}: {what[content.kind]}"
    for row in rows:
        shape, mask = " × ".join(str(size) for size in row.shape) or "one number", row.phase or "–"
        zeros = f"{row.sparsity:.4f}" if row.name in content.masks or len(row.shape) > 1 else "–"
        table.add_row(row.name, shape, row.dtype, zeros, mask)
    _console().print(table)
    for name, value in content.about.items():
        typer.echo(f"{name}: {value if not isinstance(value, dict) else json.dumps(value)}")
    return None


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Weights, a checkpoint, or any safetensors file.")],
    to: Annotated[Form, typer.Option(help="What to write.")],
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="FILE-FORM.safetensors")] = None,
    dense_below: Annotated[float, typer.Option(help="With csr: weights less sparse than this stay dense.")] = 0.85,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Writes weights in another form.

    csr: compressed sparse rows with int32 indices, under the names of `resu.export.csr.csr_model`. 2:4: the larger two
    of every four neighbours, with masks; packed when loaded on a GPU. safetensors: plain weights without masks.

    Examples:
      resu export weights.safetensors --to csr
      resu export weights.safetensors --to 2:4 --out pairs.safetensors
      resu export checkpoint.safetensors --to safetensors
    """
    from resu.experiments.weight_files import export_file

    out = out or file.with_name(f"{file.stem}-{to.value.replace(':', '-of-')}.safetensors")
    before = file.stat().st_size if file.is_file() else 0
    changed = export_file(file, out, to.value, dense_below=dense_below, force=force)
    after = out.stat().st_size
    if as_json:
        facts = {"kind": "export", "to": to.value, "changed": changed, "bytes_before": before, "bytes_after": after}
        return _print_json({**facts, "files": [str(out)]})
    words = {
        Form.csr: "now in compressed rows", Form.pairs: "cut to two of four", Form.safetensors: "written as they are"
    }[to]  # fmt: skip
    typer.echo(f"{words}: {', '.join(changed) or 'none had to be'}")
    typer.echo(f"wrote {out} ({after:,} bytes, from {before:,})")
    return None


@app.command()
def verify(
    backend: Annotated[
        list[Backend] | None, typer.Option(help="Check this one; may be repeated.", show_default="all that are there")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Checks that this machine computes what the formulas say.

    Exits with 1 if anything differs. Compiling takes some seconds; `--backend eager` leaves it out.

    Examples:
      resu verify
      resu verify --backend eager --json
    """
    from resu.experiments.self_check import back_ends, self_check

    chosen = None
    if backend:
        chosen = tuple(one.value for one in backend)
        if "auto" in chosen:
            raise ConfigError("a check names back ends; auto is none. Give eager, compile or triton, or leave it out.")
    with _progress("checking") as report:
        checks = self_check(chosen, report)  # type: ignore[arg-type]  # refused by typer where it is none
    there = back_ends()
    passed = all(check.passed for check in checks)
    if as_json:
        rows = [vars(check) for check in checks]
        found = {name: absent or "present" for name, absent in there.items()}
        _print_json({"kind": "verify", "passed": passed, "back_ends": found, "checks": rows})
    else:
        table = Table("check", "", "seen", title_justify="left", title="Self-check")
        for check in checks:
            table.add_row(check.name, "ok" if check.passed else "FAILED", check.detail)
        _console().print(table)
        ends = (f"{name} ({absent})" if absent else f"{name}" for name, absent in there.items())
        typer.echo(f"back ends: {', '.join(ends)}")
        typer.echo(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed")
    if not passed:
        raise typer.Exit(1)


@app.command()
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
    with _progress(f"demo {task.value}") as report:
        result = run_demo(
            task.value, folder, sparsity=sparsity, cycles=cycles, steps=steps, seed=seed, backend=backend.value,
            progress=report,
        )  # fmt: skip
    files = [*result.files, *_pictures(lambda plots: _demo_pictures(plots, result, folder))]
    if as_json:
        return _print_json({"kind": "demo", **result.as_dict(), "files": [str(file) for file in files]})
    table = Table("cycle", "step", "pruned", "came back", "rate", "churn", "score", title_justify="left")
    table.title = f"{task.value}: {len(result.history)} cycles"
    for one in result.history:
        table.add_row(
            str(one.cycle), str(one.step), f"{one.sparsity:.2%}", str(one.resurrected), f"{one.resurrection_rate:.2%}",
            f"{one.churn:.2%}", f"{one.score:.3f}",
        )  # fmt: skip
    _console().print(table)
    typer.echo(f"score: {result.score:.3f} ({result.metric})")
    typer.echo(f"active at the end: {result.active} of {result.weights} weights")
    typer.echo(f"came back at least once: {result.resurrected}; of these still active: {result.survivors}")
    typer.echo(f"score without those {result.survivors}: {result.score_without_survivors:.3f}")
    return _print_files(files)


@bench.command()
def memory(
    size: Annotated[int, typer.Option(help="Rows and columns of the weight W.")] = 1024,
    sparsity: Sparsity = 0.5,
    backend: Annotated[Backend, typer.Option(help="What runs the update.")] = Backend.auto,
    as_json: AsJson = False,
) -> None:
    """Counts the bytes of every phase: weights, optimizer state, mask and temporaries, at the peak.

    In units of the weight W, for each layout of `MaskedAdamW`. Beside it the tally that the note "Complete Performance
    Fix" published. On a CPU every operation is followed, which takes a minute or two; a smaller --size is quicker, but
    temporaries have a smallest size that shows in small weights.

    Examples:
      resu bench memory
      resu bench memory --size 512 --sparsity 0.9 --json
    """
    import torch

    from resu.experiments.memory import parts_table, published_tally
    from resu.experiments.phase_memory import PHASES, dense_bytes, phase_bytes
    from resu.kernels.backend import resolve

    if size < 1:
        raise ConfigError(f"a weight has at least one row; size is {size}. Give 1024, say.")
    device, weight = _device(), 4.0 * size**2
    runs = resolve(backend.value, device=device, dtype=torch.float32)
    with _progress("counting") as report:
        report(0, 4, "dense")
        columns: dict[str, Mapping[str, Any]] = {"dense training": {"TRAIN": dense_bytes(size, device=device)}}
        for done, layout in enumerate(Layout, start=1):
            report(done, 4, f"layout {layout.value}")
            columns[layout.value] = phase_bytes(size, sparsity, layout.value, backend=runs, device=device)
    peaks = {name: {phase: one.peak / weight for phase, one in found.items()} for name, found in columns.items()}
    if as_json:
        tally = {form: sum(part.bytes for part in parts) for form, parts in published_tally(1.0, sparsity).items()}
        facts = {"kind": "bench memory", "size": size, "sparsity": sparsity, "backend": runs, "device": device}
        return _print_json({**facts, "peak_in_weights": peaks, "published_tally_in_weights": tally})
    table = Table("peak, in units of W", *columns, title_justify="left")
    table.title = f"{size} × {size}, {sparsity:.0%} pruned, AdamW, {runs}, {device}"
    for phase in PHASES:
        table.add_row(phase, *(f"{found[phase]:.3f}" if phase in found else "–" for found in peaks.values()))
    _console().print(table)
    typer.echo('\nThe tally of "Complete Performance Fix", in units of W:\n')
    typer.echo(parts_table(published_tally(1.0, sparsity), unit=1, digits=2))
    return None


@bench.command()
def throughput(
    size: Annotated[int, typer.Option(help="Rows and columns of the weight.")] = 1024,
    sparsity: Sparsity = 0.5,
    batch: Annotated[int, typer.Option(help="Examples of a step.")] = 128,
    rounds: Annotated[int, typer.Option(help="Timed steps of each form.")] = 20,
    layout: Annotated[Layout, typer.Option(help="Where moments are kept.")] = Layout.dense,
    backend: Annotated[Backend, typer.Option(help="What runs the update.")] = Backend.auto,
    as_json: AsJson = False,
) -> None:
    """Times a training step of one linear layer in every phase, next to a dense step.

    Forward, backward and AdamW, in turns, on one thread.

    Examples:
      resu bench throughput
      resu bench throughput --size 4096 --backend eager --json
    """
    import torch

    from resu.experiments.step_time import step_times
    from resu.kernels.backend import resolve

    device = _device()
    runs = resolve(backend.value, device=device, dtype=torch.float32)
    torch.set_num_threads(1)
    with _progress("timing") as report:
        times = step_times(
            size, sparsity, batch=batch, rounds=rounds, layout=layout.value, backend=runs, device=device,
            progress=report,
        )  # fmt: skip
    facts = {"size": size, "sparsity": sparsity, "batch": batch, "rounds": rounds, "layout": layout.value}
    if as_json:
        found = [vars(one) for one in times]
        return _print_json({"kind": "bench throughput", **facts, "backend": runs, "device": device, "steps": found})
    table = Table("step", "ms", "over dense", title_justify="left")
    table.title = f"{size} × {size}, batch {batch}, {sparsity:.0%} pruned, {layout.value} layout, {runs}, {device}"
    for one in times:
        table.add_row(one.form, f"{1e3 * one.seconds:.3f}", f"{one.ratio:.2f}")
    _console().print(table)
    return None


@bench.command()
def accuracy(
    task: Annotated[list[Task] | None, typer.Option(help="Task; may be repeated.", show_default="both")] = None,
    method: Annotated[
        list[Method] | None,
        typer.Option(metavar="METHOD", help=f"{', '.join(Method)}; may be repeated.", show_default="all"),
    ] = None,
    sparsity: Annotated[
        list[float] | None, typer.Option(help="Sparsity; may be repeated.", show_default="0.9, 0.95, 0.98")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Trainings that are reported, for each entry.")] = 8,
    steps: Annotated[
        int | None, typer.Option(help="Steps of a training.", show_default="1500 digits, 1200 characters")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="What runs the update.")] = Backend.auto,
    shard: Annotated[str, typer.Option(help="I/N: only the I-th of N shards, from 0; for several processes.")] = "0/1",
    out: Annotated[Path, typer.Option(help="Folder of the table.")] = Path("runs/accuracy"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the table in --out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compares methods at equal steps, each with its learning rate tuned on a validation split.

    The whole table takes hours. A killed run goes on with --resume; finished trainings are not repeated.

    Examples:
      resu bench accuracy --task digits --method rigl --method shadow --sparsity 0.98
      resu bench accuracy --out runs/accuracy --resume
      resu bench accuracy --shard 0/2 --resume
    """
    from resu.experiments.accuracy import SETTINGS, run_accuracy
    from resu.experiments.settings import AccuracySettings

    if (out / SETTINGS).exists() and not resume:
        raise CheckpointError(
            f"a table has a folder of its own; {out} already has one ({SETTINGS}). Go on with it (--resume), or name "
            "another folder (--out)."
        )
    given: dict[str, Any] = {"seeds": seeds, "backend": backend.value}
    given |= {"tasks": tuple(one.value for one in task)} if task else {}
    given |= {"methods": tuple(one.value for one in method)} if method else {}
    given |= {"sparsities": tuple(sparsity)} if sparsity else {}
    settings = AccuracySettings.model_validate(given)
    if steps is not None:
        each = {name: {**one.model_dump(), "steps": steps} for name, one in settings.task_settings.items()}
        settings = AccuracySettings.model_validate({**given, "task_settings": each})
    try:
        index, count = (int(part) for part in shard.split("/"))
    except ValueError:
        raise ConfigError(f"a shard is I/N, two whole numbers; got {shard!r}. Give 0/1 for everything.") from None
    with _progress("comparing") as report:
        found = run_accuracy(settings, out, report, shard=(index, count))
    text = found.markdown(f"resu {' '.join(_quoted(sys.argv[1:]))}" if sys.argv[1:2] == ["bench"] else None)
    (out / "accuracy.md").write_text(text, encoding="utf-8")
    files = [out / "accuracy.md", *_pictures(lambda plots: _accuracy_pictures(plots, found, out))]
    if as_json:
        rows = [{**vars(row), "variant": dict(row.variant)} for row in found.rows]
        return _print_json({"kind": "bench accuracy", "rows": rows, "files": [str(file) for file in files]})
    typer.echo(text)
    return _print_files(files)


def _demo_pictures(plots: Any, result: "DemoResult", folder: Path) -> list[Path]:
    names = ("step", "sparsity", "churn", "resurrection_rate")
    rows = [vars(one) for one in result.history]
    files: list[Path] = plots.mask_curves(_columns(rows, names), folder / "cycles", f"{result.task}: what commits did")
    for name, layer in result.layers.items():
        shape = layer.last.shape
        flags = (mask.to_bool().numpy() for mask in (layer.first, layer.last, layer.came_back))
        title = f"{result.task}: what came back in {name} ({shape[0]} × {shape[1]})"
        pixels = (8, 8) if result.task == "digits" and shape[1] == 64 else None
        short = name.removesuffix(".weight").replace(".", "-")
        files += plots.what_came_back(*flags, folder / f"back-{short}", title, pixels)
    return files


def _accuracy_pictures(plots: Any, table: "AccuracyTable", folder: Path) -> list[Path]:
    from resu.experiments.table import METRICS

    files: list[Path] = []
    for task in table.settings.tasks:
        curves: dict[str, list[tuple[float, float, float]]] = {}
        dense = None
        for row in table.rows:
            if row.task != task:
                continue
            if row.method == "dense":
                dense = ("dense", row.mean)
            else:
                curves.setdefault(row.method, []).append((row.sparsity, row.mean, row.error))
        if curves:
            title = f"{task}: accuracy against sparsity"
            files += plots.accuracy_against_sparsity(curves, folder / f"accuracy-{task}", title, METRICS[task], dense)
    return files


def _columns(rows: Iterable[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[float | int]]:
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in names}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _quoted(arguments: Iterable[str]) -> list[str]:
    from shlex import quote

    return [quote(argument) for argument in arguments]


def _pictures(draw: Callable[[Any], list[Path]]) -> list[Path]:
    """Pictures are an extra: without it a run says so and is whole all the same."""
    from resu import plots

    try:
        return draw(plots)
    except MissingExtraError as error:
        typer.echo(f"no pictures: {error}", err=True)
        return []


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, plain lines elsewhere; both on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total, words: typer.echo(f"{what}: {done}/{total}, {words}", err=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        line = bar.add_task(what, total=None, words="starting")
        yield lambda done, total, words: bar.update(line, completed=done, total=total, words=words)


def _console() -> Console:
    # A file or a pipe has no width of its own; rich would take 80 columns.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(soft_wrap=not sys.stdout.isatty(), width=width)


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2))


def _count_row(table: Table, name: str, active: int, pruned: int) -> None:
    table.add_row(name, f"{active:,}", f"{pruned:,}", f"{pruned / max(active + pruned, 1):.4f}")


def _print_files(files: list[Path]) -> None:
    for file in files:
        typer.echo(f"wrote {file}")


def _require(value: float, required: float | None, *, larger: bool) -> None:
    if required is not None and not (value >= required if larger else value <= required):
        typer.echo(f"the score {value:.3f} is {'below' if larger else 'above'} the required {required}", err=True)
        raise typer.Exit(1)


def _setting_error(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "settings"
    return f"{where}: {error['msg']}; it is {error['input']!r}" if error["loc"] else error["msg"]


def _fail(message: str) -> None:
    typer.echo(f"resu: {message}", err=True)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
