"""Commands that say what this machine does: `verify`, and `bench` with `memory`, `throughput` and `accuracy`."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from resu.cli.options import AsJson, Backend, Layout, Method, Sparsity, Task
from resu.cli.output import draw_pictures, print_files, print_json, progress, results_console
from resu.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from resu.experiments.table import AccuracyTable

__all__ = ["accuracy", "bench", "memory", "throughput", "verify"]

bench = typer.Typer(no_args_is_help=True, help="Measures memory, time and accuracy on this machine.")


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
    with progress("checking") as report:
        checks = self_check(chosen, report)  # type: ignore[arg-type]  # refused by typer where it is none
    there = back_ends()
    passed = all(check.passed for check in checks)
    if as_json:
        rows = [vars(check) for check in checks]
        found = {name: absent or "present" for name, absent in there.items()}
        print_json({"kind": "verify", "passed": passed, "back_ends": found, "checks": rows})
    else:
        table = Table("check", "", "seen", title_justify="left", title="Self-check")
        for check in checks:
            table.add_row(check.name, "ok" if check.passed else "FAILED", check.detail)
        results_console().print(table)
        ends = (f"{name} ({absent})" if absent else f"{name}" for name, absent in there.items())
        typer.echo(f"back ends: {', '.join(ends)}")
        typer.echo(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed")
    if not passed:
        raise typer.Exit(1)


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
    with progress("counting") as report:
        report(0, 4, "dense")
        columns: dict[str, Mapping[str, Any]] = {"dense training": {"TRAIN": dense_bytes(size, device=device)}}
        for done, layout in enumerate(Layout, start=1):
            report(done, 4, f"layout {layout.value}")
            columns[layout.value] = phase_bytes(size, sparsity, layout.value, backend=runs, device=device)
    peaks = {name: {phase: one.peak / weight for phase, one in found.items()} for name, found in columns.items()}
    if as_json:
        tally = {form: sum(part.bytes for part in parts) for form, parts in published_tally(1.0, sparsity).items()}
        facts = {"kind": "bench memory", "size": size, "sparsity": sparsity, "backend": runs, "device": device}
        return print_json({**facts, "peak_in_weights": peaks, "published_tally_in_weights": tally})
    table = Table("peak, in units of W", *columns, title_justify="left")
    table.title = f"{size} × {size}, {sparsity:.0%} pruned, AdamW, {runs}, {device}"
    for phase in PHASES:
        table.add_row(phase, *(f"{found[phase]:.3f}" if phase in found else "–" for found in peaks.values()))
    results_console().print(table)
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
    with progress("timing") as report:
        times = step_times(
            size, sparsity, batch=batch, rounds=rounds, layout=layout.value, backend=runs, device=device,
            progress=report,
        )  # fmt: skip
    facts = {"size": size, "sparsity": sparsity, "batch": batch, "rounds": rounds, "layout": layout.value}
    if as_json:
        found = [vars(one) for one in times]
        return print_json({"kind": "bench throughput", **facts, "backend": runs, "device": device, "steps": found})
    table = Table("step", "ms", "over dense", title_justify="left")
    table.title = f"{size} × {size}, batch {batch}, {sparsity:.0%} pruned, {layout.value} layout, {runs}, {device}"
    for one in times:
        table.add_row(one.form, f"{1e3 * one.seconds:.3f}", f"{one.ratio:.2f}")
    results_console().print(table)
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
    with progress("comparing") as report:
        found = run_accuracy(settings, out, report, shard=(index, count))
    text = found.markdown(f"resu {' '.join(_quoted(sys.argv[1:]))}" if sys.argv[1:2] == ["bench"] else None)
    (out / "accuracy.md").write_text(text, encoding="utf-8")
    files = [out / "accuracy.md", *draw_pictures(lambda plots: _accuracy_pictures(plots, found, out))]
    if as_json:
        rows = [{**vars(row), "variant": dict(row.variant)} for row in found.rows]
        return print_json({"kind": "bench accuracy", "rows": rows, "files": [str(file) for file in files]})
    typer.echo(text)
    return print_files(files)


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


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _quoted(arguments: Iterable[str]) -> list[str]:
    from shlex import quote

    return [quote(argument) for argument in arguments]
