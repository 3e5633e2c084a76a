"""Commands that say what this machine does: `profile` and `bench`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from spd.cli.options import AsJson, Device, Overrides, Perf, device_of, perf_of
from spd.cli.output import print_files, print_json, progress, results_console
from spd.errors import ConfigError

__all__ = ["bench", "profile"]


class Mode(StrEnum):
    """How to look; see `spd.profiling`."""

    trace = "trace"
    events = "events"
    timer = "timer"


def profile(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A ready experiment (`spd list`), or a YAML file.")],
    mode: Annotated[
        Mode, typer.Option(help="A trace of operations, times of phases, or times of steps.")
    ] = Mode.events,
    overrides: Overrides = None,
    perf: Perf = "all",
    steps: Annotated[int, typer.Option(help="Steps that are looked at.")] = 20,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Folder of the trace.", show_default="runs/profile-NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Says where the time of a training step goes.

    Examples:
      spd profile tms_5-2
      spd profile resid_mlp1 --mode trace --perf none
    """
    from spd.data import batches
    from spd.experiments.registry import load_config
    from spd.experiments.tasks import build_task
    from spd.profiling import profile as look
    from spd.run_spd import start_trainer

    config = load_config(
        name, ["perf=" + perf_of(perf).model_dump_json(), "faithfulness_warmup_steps=0", *(overrides or ())]
    )
    where, task = device_of(device), build_task(config)
    trainer = start_trainer(task.target, config, where, output_attr=task.output_attr)
    folder = out or Path("runs") / f"profile-{Path(name).stem}"
    found = look(trainer, batches(task.train, where, config.perf), mode=mode.value, steps=steps, out=folder)
    if as_json:
        return print_json({"kind": "profile", "mode": mode.value, **found.as_dict()})
    table = Table(*found.columns, title=f"{name}, {mode.value}, {where}", title_justify="left")
    for row in found.rows:
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    results_console().print(table)
    return print_files(found.files)


def bench(
    task: Annotated[str, typer.Option(help="A ready experiment (`spd list`), or a YAML file.")] = "tms_5-2",
    flags: Annotated[
        str,
        typer.Option(help="all, quick-start, a YAML file of switches, or names of single ones with commas between."),
    ] = "all",
    ablate: Annotated[bool, typer.Option("--ablate", help="Also each switch on its own.")] = False,
    blocks: Annotated[int, typer.Option(help="Turns that the variants take.")] = 5,
    steps: Annotated[int, typer.Option(help="Steps of a turn.")] = 10,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Times training steps with switches on and off, in turns.

    A first look. claimbench holds every switch to account: with noise floors, intervals and a check of equality.

    Examples:
      spd bench
      spd bench --task resid_mlp1 --ablate
      spd bench --flags delta_mode,ci_kernel --json
    """
    import torch

    from spd.config.perf import PRESETS
    from spd.experiments.ablation import ablate as measure
    from spd.experiments.ablation import single_switches
    from spd.experiments.registry import load_config

    singles = single_switches()
    chosen = flags.split(",")
    if flags in PRESETS or Path(flags).is_file():
        variants = {flags: perf_of(flags)}
    elif set(chosen) <= singles.keys():
        variants = {name: singles[name] for name in chosen}
    else:
        odd = sorted(set(chosen) - singles.keys())
        raise ConfigError(
            f"--flags are {', '.join(PRESETS)}, a file, or some of {', '.join(singles)}; got {odd[0]!r}. Correct it."
        )
    variants.pop("none", None)
    if ablate:
        variants = {**singles, **variants}
    if min(blocks, steps, threads) < 1:
        raise ConfigError(
            f"turns, steps and threads are at least 1; got {blocks}, {steps} and {threads}. Raise the one below."
        )
    torch.set_num_threads(threads)
    where = device_of(device)
    with progress("timing") as report:
        rows = measure(load_config(task), variants, blocks=blocks, steps=steps, device=where, progress=report)
    if as_json:
        facts = {"task": task, "device": where, "threads": threads, "blocks": blocks, "steps": steps}
        return print_json({"kind": "bench", **facts, "variants": [vars(row) for row in rows]})
    table = Table(
        "switched on", "first steps, ms", "process ms a step", "ms on the clock", "times as fast", "lowest, highest",
        title=f"{task} on {where}, {threads} thread{'s' if threads > 1 else ''}", title_justify="left",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row.name, f"{row.first_ms:.0f}", f"{row.cpu_ms:.2f}", f"{row.wall_ms:.2f}", f"{row.ratio:.2f}",
            f"{row.low:.2f}, {row.high:.2f}",
        )  # fmt: skip
    results_console().print(table)
    return None
