"""Commands that look into a network or take it elsewhere: `graph`, `tables`, `diagnose`, `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurograph.cli.options import (
    AsJson,
    ConfigName,
    Device,
    Folder,
    Overrides,
    Seed,
    Threads,
    device_of,
    set_threads,
    settings_of,
)
from neurograph.cli.output import print_facts, print_files, print_frame, print_json

if TYPE_CHECKING:
    import pandas as pd

    from neurograph.config import GraphConfig

__all__ = ["diagnose", "export", "graph", "tables"]

graph = typer.Typer(name="graph", no_args_is_help=True, help="Builds graphs, and says how their inputs reach outputs.")
tables = typer.Typer(name="tables", no_args_is_help=True, help="Says what indices mean.")

GraphSeed = Annotated[int | None, typer.Option("--seed", help="Of the random edges.", show_default="the settings' own")]


@graph.command()
def build(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    seed: GraphSeed = None,
    out: Annotated[Path, typer.Option(metavar="FILE.json", help="The file.")] = Path("graph.json"),
    pictures: Annotated[bool, typer.Option("--picture", help="Draw it beside the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Builds the graph of some settings, and writes its frame as JSON: node_id, input_connections, is_input, is_output.

    Examples:
      neurograph graph build --config note --out note.json
      neurograph graph build --set graph.widths=[64,32,10] --set graph.cardinality=8 --picture
    """
    from neurograph.core.graph import Topology
    from neurograph.files import write_whole

    frame = _frame(settings_of(config, _seeded(overrides, seed)).graph)
    write_whole(out, lambda temporary: frame.to_json(temporary, orient="records", indent=1))
    files, topology = [out], Topology.from_frame(frame)
    if pictures:
        from neurograph.plots import plot_graph

        files += plot_graph(topology, out.with_suffix(""))
    facts = {"nodes": topology.n_nodes, "edges": len(topology.src), "levels": len(topology.levels)}
    if as_json:
        return print_json({"kind": "graph", **facts, "files": [str(file) for file in files]})
    print_facts("graph", facts)
    return print_files(files)


@graph.command()
def report(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE.json]", help="A frame that `graph build` wrote, or one like it.")
    ] = None,
    config: ConfigName = "digits",
    overrides: Overrides = None,
    seed: GraphSeed = None,
    as_json: AsJson = False,
) -> None:
    """Says how inputs reach outputs, in a graph from a file or from settings.

    Examples:
      neurograph graph report --config note
      neurograph graph report graph.json --json
    """
    from neurograph.core.graph import Topology, connectivity_report

    frame = _frame(settings_of(config, _seeded(overrides, seed)).graph) if file is None else _read(file)
    topology = Topology.from_frame(frame)
    found = connectivity_report(topology)
    facts: dict[str, Any] = {
        "nodes": topology.n_nodes,
        "inputs": len(topology.inputs),
        "outputs": len(topology.outputs),
        "edges": len(topology.src),
        "levels": found.depth,
        "outputs reached": len(found.reached),
        "outputs that listen to an input": len(found.direct),
        "mean hops": found.mean_hops,
        "nodes that reach no output": len(found.unheard),
    }
    if as_json:
        return print_json({"kind": "report", **facts, "hops": found.hops, "unheard": list(found.unheard)})
    print_facts(f"connectivity of {config if file is None else file}", facts)
    return print_frame("Outputs", found.to_frame())


@tables.command()
def info(config: ConfigName = "digits", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Says what indices mean: bins, steps, the range of magnitudes, bytes, and whether look-ups are compiled.

    Examples:
      neurograph tables info
      neurograph tables info --set tables.phase_bins=16 --set tables.mag_bins=16
    """
    import pandas as pd

    from neurograph.core.high_res_tables import HighResolutionLookupTables
    from neurograph.core.jit import MIN_ELEMENTS, jit_status

    settings = settings_of(config, overrides).tables
    made = HighResolutionLookupTables(
        settings.phase_bins, settings.mag_bins, magnitude=settings.magnitude, grid=settings.grid
    )
    facts = {
        **settings.model_dump(),
        "phase_step": made.phase_step,
        "mag_step": made.mag_step,
        "lowest_magnitude": float(made.mag.min()),
        "highest_magnitude": float(made.mag.max()),
        "bytes": made.nbytes,
        "compiled_from_elements": MIN_ELEMENTS,
    }
    functions = [{"function": name, **vars(entry)} for name, entry in jit_status().items()]
    if as_json:
        return print_json({"kind": "tables", **facts, "compilation": functions})
    print_facts("look-up tables", facts)
    return print_frame("Compiled at their first large call", pd.DataFrame(functions))


def diagnose(
    folder: Folder,
    steps: Annotated[int, typer.Option(min=1, help="Steps that are tried on a copy of the integers.")] = 20,
    fresh: Annotated[bool, typer.Option("--fresh", help="Look at the network before training instead.")] = False,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Looks at gradients and states level by level, and at how far indices go against how far they were asked to go.

    Update effectiveness of 1 means that they go exactly that far.

    Examples:
      neurograph diagnose runs/digits
      neurograph diagnose runs/digits --fresh --steps 100
    """
    from neurograph.cli import running
    from neurograph.diagnostics import diagnose as look
    from neurograph.model import Model
    from neurograph.train.credit import credit_named

    set_threads(threads)
    run = running.open_run(folder, device_of(device))
    config, samples = run.checkpoint.config, running.load_data(run.checkpoint.config)
    running.evaluated(run.model, samples)
    model = Model.build(config, n_classes=len(samples.classes)) if fresh else run.model
    credit = credit_named(config.train.credit, config.seed)
    found = look(model, samples.train_x, samples.train_y, config.train, credit=credit, steps=steps, seed=seed or 0)
    effect = vars(found.effectiveness)
    if as_json:
        return print_json({
            "kind": "diagnose", "flow": found.flow, "levels": found.levels, "bottlenecks": list(found.bottlenecks),
            "alerts": [str(alert) for alert in found.alerts], "effectiveness": effect, "losses": found.losses,
        })  # fmt: skip
    print_frame(f"Levels of {folder}", found.to_frame())
    facts = {"flow of gradients": found.flow, "nodes that no gradient reaches": len(found.bottlenecks)}
    facts |= {f"update effectiveness, {name.replace('_', ', ')}": value for name, value in effect.items()}
    print_facts("Updates", facts)
    for alert in found.alerts:
        typer.echo(f"alert: {alert}")
    return None


def export(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to.", show_default="integers in the run's folder")
    ] = None,
    c_header: Annotated[
        Path | None, typer.Option(metavar="FILE.h", help="Also write one C header with the whole network.")
    ] = None,
    checks: Annotated[int, typer.Option(min=0, help="Test samples in the header's self-check.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Writes a trained network as whole numbers: indices, tables and codes, for machines without floating point.

    What was written is read back, and classifies the test samples beside the network; the exit code is 1 where they
    differ.

    Examples:
      neurograph export runs/digits
      neurograph export runs/digits --c-header digits.h
      gcc -DNEUROGRAPH_SELF_CHECK -x c digits.h -o check && ./check
    """
    import numpy as np

    from neurograph.cli import running
    from neurograph.export import export_integers, load_exported

    run = running.open_run(folder, "cpu")
    samples = running.load_data(run.checkpoint.config)
    accuracy = running.evaluated(run.model, samples).accuracy
    where = out or run.folder / "integers"
    sizes = export_integers(run.model, where)
    said = load_exported(where).predict(samples.test_x.numpy())
    same = float(np.mean(said == run.model.predict(samples.test_x).numpy()))
    facts: dict[str, Any] = {
        "trained integers": sizes.n_integers,
        "bytes of the trained integers": sizes.integers,
        "bytes of the graph": sizes.topology,
        "bytes of all files": sizes.total,
        "accuracy of the network": accuracy,
        "accuracy of the export": float(np.mean(said == samples.test_y.numpy())),
        "samples of which both say the same": same,
    }
    files = [where]
    if c_header is not None:
        from neurograph.export_c import export_c_header

        some = samples.test_x[:checks].numpy() if checks else None
        facts["bytes of the header's constants"] = export_c_header(run.model, c_header, samples=some)
        files.append(c_header)
    if as_json:
        print_json({"kind": "export", "figures": facts, "files": [str(file) for file in files]})
    else:
        print_facts(f"{folder} in integers", facts)
        print_files(files)
    if same < 1:
        raise typer.Exit(1)


def _seeded(overrides: list[str] | None, seed: int | None) -> list[str]:
    return [*(overrides or ()), *([] if seed is None else [f"graph.seed={seed}"])]


def _frame(settings: "GraphConfig") -> "pd.DataFrame":
    from neurograph.core.graph import build_static_graph, layered_graph

    if settings.widths is not None:
        return layered_graph(settings.widths, cardinality=settings.cardinality, seed=settings.seed)
    return build_static_graph(
        settings.inputs, settings.n_hidden or 0, settings.outputs, cardinality=settings.cardinality,
        blocks=settings.blocks, seed=settings.seed,
    )  # fmt: skip


def _read(file: Path) -> "pd.DataFrame":
    import json

    import pandas as pd

    from neurograph.errors import GraphError

    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GraphError(f"a frame is a JSON list of nodes; {file} could not be read: {error}. Correct it.") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise GraphError(f"a frame is a JSON list of nodes, each with names and values; {file} is not. Correct it.")
    return pd.DataFrame(rows)
