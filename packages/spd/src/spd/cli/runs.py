"""Commands that make something and look at it: `list`, `train-target`, `run`, `evaluate`, `plot`, `convert`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from spd.cli.options import AsJson, Device, Overrides, Perf, Require, Resume, device_of, perf_of, seeds_of
from spd.cli.output import draw_pictures, print_files, print_json, progress, results_console

if TYPE_CHECKING:
    from spd.config.run import Config
    from spd.experiments.decompose import SeedRow
    from spd.experiments.verdict import Check

__all__ = ["convert", "evaluate", "names", "plot", "run", "train_target"]

Experiment = Annotated[str, typer.Argument(metavar="NAME", help="A ready experiment (`spd list`), or a YAML file.")]
Folder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]


def names(as_json: AsJson = False) -> None:
    """Lists the ready experiments, and the targets that are shipped.

    Examples:
      spd list
    """
    from spd.experiments import registry
    from spd.experiments.targets import target_names

    rows = []
    for name in registry.names():
        config = registry.load_config(name)
        assert config.task_config is not None
        sites = ", ".join(f"{info.module_pattern} × {info.C}" for info in config.module_info)
        rows.append({"name": name, "task": config.task_config.task_name, "sites": sites, "steps": config.steps})
    if as_json:
        return print_json({"kind": "list", "experiments": rows, "targets": list(target_names())})
    table = Table("experiment", "task", "sites × components", "steps", title="Ready experiments", title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    results_console().print(table)
    typer.echo(f"targets that are shipped: {', '.join(target_names())}")
    return None


def train_target(
    name: Annotated[str, typer.Argument(help="Which target, see `spd list`.")],
    seed: Annotated[int | None, typer.Option(help="Random seed.", show_default="the shipped one's")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of training.", show_default="the shipped one's")] = None,
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="NAME.safetensors")] = None,
    as_json: AsJson = False,
) -> None:
    """Trains a target anew. The shipped ones were made by this command.

    Examples:
      spd train-target tms_5-2
      spd train-target ih --out runs/ih.safetensors
    """
    from spd.experiments.targets import train_target as make

    path = out or Path(f"{name}.safetensors")
    with progress(f"training {name}") as report:
        made = make(name, seed=seed, steps=steps, out=path, progress=lambda done, loss: report(done, 0, f"{loss:.3g}"))
    if as_json:
        return print_json({"kind": "train-target", "name": name, "figures": made.figures, "files": [str(path)]})
    for figure, value in made.figures.items():
        typer.echo(f"{figure}: {value:.6g}")
    return print_files([path])


def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE.pth", help="A checkpoint of the original.")],
    name: Experiment,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="FILE.safetensors")] = None,
    as_json: AsJson = False,
) -> None:
    """Reads a checkpoint that the original wrote, and writes its components as a file of weights.

    NAME says what was decomposed: the same sites, numbers of components and importance functions. Only tensors are
    read; nothing in the file is run. `spd.weights.load_components` loads what was written.

    Examples:
      spd convert model_10000.pth tms_5-2
    """
    from spd.convert import convert_file
    from spd.experiments.registry import load_config
    from spd.experiments.tasks import build_task
    from spd.training import build_model

    config = load_config(name, list(overrides or ()))
    task = build_task(config)
    path = out or file.with_suffix(".safetensors")
    found = convert_file(file, path, build_model(task.target, config, output_attr=task.output_attr))
    if as_json:
        return print_json({"kind": "convert", **vars(found), "files": [str(path)]})
    typer.echo(f"{found.components} tensors of components, {found.ci_fns} of importance functions")
    return print_files([path])


def run(
    name: Experiment,
    overrides: Overrides = None,
    seeds: Annotated[str | None, typer.Option(help="Several runs, 0-9 or 1,5: a table of which passed.")] = None,
    perf: Perf = "all",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/NAME")] = None,
    resume: Resume = False,
    shard: Annotated[
        bool, typer.Option("--shard", help="With torchrun: each process holds a share of all parameters.")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="Draw what was found.")] = True,
    require: Require = False,
    as_json: AsJson = False,
) -> None:
    """Decomposes a network: trains components and their causal importances, evaluates and draws them.

    A killed run goes on from its last checkpoint with --resume.

    Examples:
      spd run tms_5-2
      spd run tms_5-2 --seeds 0-4 --require
      spd run resid_mlp1 --set steps=5000 --set save_freq=500 --perf none
      torchrun --nproc-per-node 2 -m spd run tms_5-2
    """
    from spd.distributed import Distributed
    from spd.experiments.registry import load_config

    switches = perf_of(perf)
    if shard:
        # A sharded target's weights are gathered when they are needed, and not kept whole.
        switches = switches.model_copy(update={"cache_target_weights": False})
    config = load_config(name, ["perf=" + switches.model_dump_json(), *(overrides or ())])
    folder = out or Path("runs") / Path(name).stem
    with Distributed.start(device=None if device == "auto" else device) as distributed:
        how: dict[str, Any] = {"resume": resume, "distributed": distributed, "sharded": shard}
        if seeds is None:
            passed = _run_once(name, config, folder, pictures, as_json, how)
        else:
            passed = _run_seeds(name, config, folder, seeds_of(seeds), as_json, how)
    return _exit(passed, require)


def _run_once(name: str, config: "Config", folder: Path, pictures: bool, as_json: bool, how: dict[str, Any]) -> bool:
    from spd.experiments.decompose import decompose
    from spd.experiments.verdict import checks_of

    distributed = how["distributed"]
    with progress(f"decomposing {name}", shown=distributed.is_main) as report:
        result = decompose(
            config, folder, distributed.device, progress=lambda done, all_, f: report(done, all_, _words(f)), **how
        )
    checks = checks_of(config, result.evaluation.numbers)
    if distributed.is_main:
        files = list(result.files)
        if pictures:
            files += draw_pictures(lambda plots: _pictures(plots, result.evaluation, folder))
        title = f"{name} after {config.steps} steps"
        _print_evaluation("run", title, result.evaluation.numbers, checks, files, as_json, config)
    return all(check.passed for check in checks)


def _run_seeds(name: str, config: "Config", folder: Path, seeds: list[int], as_json: bool, how: dict[str, Any]) -> bool:
    from spd.experiments.decompose import decompose_seeds

    distributed = how["distributed"]
    with progress(f"decomposing {name}", shown=distributed.is_main) as report:
        rows = decompose_seeds(
            config, folder, seeds, distributed.device,
            progress=lambda done, all_, figures, seed: report(done, all_, f"seed {seed}, {_words(figures)}"), **how,
        )  # fmt: skip
    if distributed.is_main:
        _print_seeds(name, rows, folder, as_json)
    return all(row.passed for row in rows)


def evaluate(folder: Folder, device: Device = "auto", require: Require = False, as_json: AsJson = False) -> None:
    """Evaluates a run's last checkpoint, everything that is slow included.

    Examples:
      spd evaluate runs/tms_5-2
      spd evaluate runs/tms_5-2 --require --json
    """
    from spd.experiments.decompose import evaluate_again, open_run
    from spd.experiments.verdict import checks_of

    where = device_of(device)
    opened = open_run(folder, where)
    numbers, config = evaluate_again(opened, where).numbers, opened.trainer.config
    checks = checks_of(config, numbers)
    _print_evaluation("evaluate", f"{folder} at step {opened.trainer.step_count}", numbers, checks, [], as_json, config)
    return _exit(all(check.passed for check in checks), require)


def plot(folder: Folder, device: Device = "auto", as_json: AsJson = False) -> None:
    """Draws a run: importances of single features, U and V, histograms, and the losses over training.

    Examples:
      spd plot runs/tms_5-2
    """
    from spd import plots
    from spd.experiments.decompose import evaluate_again, open_run

    where = device_of(device)
    files = _pictures(plots, evaluate_again(open_run(folder, where), where), folder)
    if as_json:
        return print_json({"kind": "plot", "files": [str(file) for file in files]})
    return print_files(files)


# --- what is printed --------------------------------------------------------------------------------------------------


def _pictures(plots: Any, evaluation: Any, folder: Path) -> list[Path]:
    from spd.run_log import read_log

    return [*plots.draw(evaluation, folder / "figures"), *plots.plot_training(read_log(folder), folder / "figures")]


def _words(figures: Mapping[str, float]) -> str:
    """The losses that matter, in a few words."""
    losses = {name.removeprefix("loss/"): value for name, value in figures.items() if name.startswith("loss/")}
    shown = [("total", losses.pop("total"))]
    shown += [(name.removesuffix("Loss"), value) for name, value in losses.items()]
    shown += [(name, value) for name, value in figures.items() if name.startswith("L0/")]
    return ", ".join(f"{name} {value:.3g}" for name, value in shown[:6])


def _print_evaluation(
    kind: str,
    title: str,
    numbers: Mapping[str, float],
    checks: "Sequence[Check]",
    files: Sequence[Path],
    as_json: bool,
    config: "Config",
) -> None:
    if as_json:
        return print_json({
            "kind": kind, "settings": config.model_dump(mode="json"), "numbers": dict(numbers),
            "checks": [vars(check) for check in checks], "files": [str(file) for file in files],
        })  # fmt: skip
    table = Table("figure", "value", title=title, title_justify="left")
    for name, value in numbers.items():
        table.add_row(name, f"{value:.5g}")
    results_console().print(table)
    if checks:
        table = Table("check", "", "value", "should be", title_justify="left", title="What should hold")
        for check in checks:
            table.add_row(check.name, "ok" if check.passed else "FAILED", f"{check.value:.5g}", check.rule)
        results_console().print(table)
        typer.echo(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed")
    return print_files(list(files))


def _print_seeds(name: str, rows: "Sequence[SeedRow]", folder: Path, as_json: bool) -> None:
    files = [folder / "seeds.json"]
    if as_json:
        found = [
            {"seed": row.seed, "seconds": row.seconds, "passed": row.passed, "checks": [vars(c) for c in row.checks]}
            for row in rows
        ]
        return print_json({"kind": "seeds", "runs": found, "files": [str(file) for file in files]})
    table = Table(title=f"{name}: what should hold, by seed", title_justify="left", padding=(0, 0, 0, 1))
    for heading in ("seed", "", *(_heading(check.name) for check in rows[0].checks), "seconds"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        cells = [f"{check.value:.5g}{'' if check.passed else ' !'}" for check in row.checks]
        table.add_row(str(row.seed), "pass" if row.passed else "FAIL", *cells, f"{row.seconds:.0f}")
    results_console().print(table)
    typer.echo(f"{sum(row.passed for row in rows)} of {len(rows)} seeds passed")
    return print_files(files)


def _heading(name: str) -> str:
    """A check's name on two short lines: what, and where."""
    kind, site, *rest = name.split("/")
    what = {"IdentityCIError": "CI error", "CI_alive": "alive"}.get(kind, "/".join(rest).upper())
    return f"{what}\n{site}"


def _exit(passed: bool, require: bool) -> None:
    if require and not passed:
        raise typer.Exit(1)
