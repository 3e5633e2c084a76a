"""Commands that take time to measure something: `bench`, `claims`, `tune`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from neurograph.cli.options import AsJson, ConfigName, DataName, Device, Overrides, Root, Seed, Threads, settings_of
from neurograph.cli.output import print_facts, print_files, print_frame, print_json, progress, write_frame

__all__ = ["bench", "claims", "tune"]

CLAIMBENCH = (
    "The published claims about speed, memory and accuracy are measured by claimbench, the tool of the workspace, with "
    "noise floors, intervals and a check of equality: make bench-neurograph."
)
"""Who measures, and how to have it measured."""


class Method(StrEnum):
    """How settings are searched for; see `neurograph.tuner`."""

    genetic = "genetic"
    random = "random"


def bench(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    blocks: Annotated[int, typer.Option(min=1, help="Turns that the back ends take.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Batches of a turn.")] = 5,
    seed: Seed = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Times training steps and classification with each back end, in turns. A first look.

    The published claims about speed, memory and accuracy are measured by claimbench, the tool of the workspace, with
    noise floors, intervals and a check of equality: make bench-neurograph.

    Examples:
      neurograph bench
      neurograph bench --config note --blocks 3 --json
    """
    import pandas as pd

    from neurograph.cli.timing import time_backends

    settings = settings_of(config, overrides, seed=seed, threads=threads, device=device)
    with progress("timing", blocks) as report:
        rows = time_backends(
            settings, blocks=blocks, steps=steps, progress=lambda done: report(done, "turns of each back end")
        )
    facts = {"device": settings.device, "threads": settings.threads, "batch": settings.train.batch_size}
    if as_json:
        return print_json({"kind": "bench", **facts, "blocks": blocks, "steps": steps, "rows": rows})
    print_frame(f"{config}, batches of {facts['batch']} on {facts['device']}", pd.DataFrame(rows))
    typer.echo(CLAIMBENCH)
    return None


def claims(as_json: AsJson = False) -> None:
    """Says where the published claims are held to account: in claimbench, the tool of the workspace.

    Examples:
      neurograph claims
      claimbench claims --package neurograph
    """
    commands = {"measure": "make bench-neurograph", "table": "claimbench claims --package neurograph"}
    if as_json:
        return print_json({"kind": "claims", "measured_by": "claimbench", "commands": commands})
    typer.echo(CLAIMBENCH)
    typer.echo(f"The table of verdicts: {commands['table']}")
    return None


def tune(
    config: ConfigName = "digits-small",
    data: DataName = None,
    root: Root = None,
    overrides: Overrides = None,
    budget: Annotated[int, typer.Option(min=1, help="Different settings that are tried.")] = 24,
    method: Annotated[Method, typer.Option(help="How the next ones are chosen.")] = Method.genetic,
    population: Annotated[int, typer.Option(min=2, help="Settings of a generation.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Of each short training.")] = 4,
    repeats: Annotated[
        int, typer.Option(min=1, help="Short trainings of each, on splits of the training samples.")
    ] = 2,
    max_integers: Annotated[int, typer.Option(min=1, help="Larger networks are not tried.")] = 10_000,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to.", show_default="runs/tune-NAME of the data"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Searches for settings by short trainings on training samples alone; the test samples are never looked at.

    The best settings are written as YAML for `neurograph train --config`. What was tried is remembered in the folder,
    so that a search that was killed goes on.

    Examples:
      neurograph tune --budget 24
      neurograph tune --data wine --method random --seed 1
      neurograph train --config runs/tune-digits/best.yaml
    """
    from neurograph.cli import running
    from neurograph.config import write_config
    from neurograph.tuner import tune as look

    settings = settings_of(config, overrides, data=data, root=root, seed=seed, threads=threads, device=device)
    samples = running.load_data(settings)
    settings = running.fitted(settings, samples)
    folder = out or Path("runs") / f"tune-{settings.data.name}"
    with progress("tuning", budget) as report:
        found = look(
            settings, samples.train_x, samples.train_y, budget=budget, seed=settings.seed, method=method.value,
            population=population, max_integers=max_integers, epochs=epochs, repeats=repeats,
            cache=folder / "fitness.jsonl",
            progress=lambda trial: report(trial.number, f"fitness {trial.fitness:.4f}"),
        )  # fmt: skip
    files = [folder / "best.yaml", write_frame(folder / "trials.csv", found.to_frame())]
    assert found.config is not None
    write_config(files[0], found.config)
    best = found.best
    if as_json:
        return print_json({
            "kind": "tune", "method": found.method, "budget": budget, "fitness": best.fitness, "genome": best.genome,
            "trials": len(found.trials), "files": [str(file) for file in files],
        })  # fmt: skip
    ranked = found.to_frame().sort_values(["fitness", "trial"], ascending=[False, True]).head(10)
    columns = ["trial", "generation", "fitness", "width", "hidden_layers", "dim", "phase_bins", "mag_bins"]
    print_frame("The best of all that was tried; the rest of their settings is in trials.csv", ranked[columns])
    print_facts(f"best of {len(found.trials)}, {found.method}", {"fitness": best.fitness, **best.genome})
    return print_files(files)
