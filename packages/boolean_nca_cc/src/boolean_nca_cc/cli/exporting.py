"""The command `boolean-nca export`: a trained circuit as C, Verilog, BLIF, JSON, DOT or SVG."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from boolean_nca_cc.cli.output import AsJson, print_files, print_json

__all__ = ["app"]

app = typer.Typer()


class Format(StrEnum):
    """The formats of `boolean_nca_cc.export`, which is not imported for a help text."""

    C = "c"
    VERILOG = "verilog"
    BLIF = "blif"
    JSON = "json"
    DOT = "dot"
    SVG = "svg"


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder or checkpoint of a training run.")],
    form: Annotated[Format, typer.Option("--format", help="What to write.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the files.", show_default="export/ beside it")] = None,
    name: Annotated[str | None, typer.Option(help="Of function or module.", show_default="the task")] = None,
    pruned: Annotated[bool, typer.Option("--prune", help="Without the gates that no output depends on.")] = False,
    rounded: Annotated[
        bool, typer.Option("--rounded", help="Take the hard circuit where the soft one is undecided.")
    ] = False,
    check: Annotated[bool, typer.Option(help="Write all cases into C's check and Verilog's test bench.")] = True,
    dead: Annotated[int, typer.Option(help="Knock this many gates out (shotgun); they are constants.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of the knockout.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Writes a trained circuit in another language.

    What is exported is the hard circuit. Where the soft outputs do not say the same in every case the command stops,
    unless --prune or --rounded takes the hard circuit at its word.

    Examples:
      boolean-nca export runs/add-8-0 --format c --prune
      boolean-nca export runs/add-8-0 --format verilog --name adder --out rtl
      boolean-nca export runs/add-8-0 --format blif --dead 20 --rounded
    """
    import jax
    import numpy as np

    from boolean_nca_cc.checkpoint import write_atomically
    from boolean_nca_cc.experiments.training_run import load_run, task_of
    from boolean_nca_cc.export import files_of, netlist_of, truth_table
    from boolean_nca_cc.knockout import prune, shotgun

    settings, saved = load_run(checkpoint)
    alive = np.asarray(shotgun(jax.random.key(seed), saved.spec, dead))
    title = name or settings.task
    if pruned:
        small = prune(saved.circuit, saved.spec, alive)
        netlist = netlist_of(small.circuit, small.spec, name=title, ids=small.kept, rounded=True)
    else:
        netlist = netlist_of(saved.circuit, saved.spec, alive, name=title, rounded=rounded)
    table = truth_table(saved.circuit, saved.spec, alive)
    accuracy = float((table == np.asarray(task_of(settings).y)).mean())
    folder = out or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "export"
    files = []
    for file_name, text in files_of(netlist, form.value, table if check else None).items():
        write_atomically(folder / file_name, text.encode())
        files.append(folder / file_name)
    if as_json:
        document = {
            "kind": "export",
            "format": form.value,
            "name": netlist.name,
            "inputs": len(netlist.inputs),
            "outputs": len(netlist.outputs),
            "gates": len(netlist.gates),
            "layers": netlist.depth,
            "hard_accuracy": accuracy,
            "files": [str(file) for file in files],
        }
        return print_json(document)
    typer.echo(f"{netlist.name}: {netlist.summary}; hard accuracy {accuracy:.4f} on {len(table)} cases")
    return print_files(files)
