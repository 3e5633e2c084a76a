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
    Root,
    Threads,
    device_of,
    set_threads,
    settings_of,
    with_data,
)
from neurograph.cli.output import print_facts, print_files, print_frame, print_json, say

if TYPE_CHECKING:
    import pandas as pd

    from neurograph.config import GraphConfig

__all__ = ["diagnose", "export", "graph", "tables"]

graph = typer.Typer(name="graph", no_args_is_help=True, help="Builds graphs, and says how their inputs reach outputs.")
tables = typer.Typer(name="tables", no_args_is_help=True, help="Says what indices mean.")

GraphSeed = Annotated[
    int | None,
    typer.Option("--seed", min=0, max=2**32 - 1, help="Of the random edges.", show_default="the settings' own"),
]


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
        Path | None, typer.Argument(metavar="FILE.json", help="A frame that `graph build` wrote, or one like it.")
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
        "outputs_reached": len(found.reached),
        "outputs_that_listen_to_an_input": len(found.direct),
        "mean_hops": found.mean_hops,
        "nodes_that_reach_no_output": len(found.unheard),
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
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the steps' batches.")] = 0,
    root: Root = None,
    threads: Threads = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Looks at gradients and states level by level, and at how far indices go against how far they were asked to go.

    Update effectiveness is the way that indices went over the way they were asked to go: 1 is right.

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
    config = run.checkpoint.config
    samples = running.load_data(with_data(config, None, root))
    running.check_fit(run.model, samples)
    model = run.model
    if fresh:
        here = config.model_copy(update={"device": str(model.codes.device)})
        model = Model.build(here, n_classes=len(samples.classes))
    credit = credit_named(config.train.credit, config.seed)
    found = look(model, samples.train_x, samples.train_y, config.train, credit=credit, steps=steps, seed=seed)
    if as_json:
        return print_json({
            "kind": "diagnose", "flow": found.flow, "levels": found.levels, "bottlenecks": list(found.bottlenecks),
            "alerts": [str(alert) for alert in found.alerts], "effectiveness": vars(found.effectiveness),
            "losses": found.losses,
        })  # fmt: skip
    print_frame(f"Levels of {folder}", found.to_frame())
    facts: dict[str, Any] = {
        "flow of gradients": found.flow,
        "nodes that no gradient reaches": len(found.bottlenecks),
        "steps tried": found.effectiveness.steps,
        "update effectiveness of phases": found.effectiveness.phase,
        "update effectiveness of magnitudes": found.effectiveness.mag,
        "cosine of changes with updates, phases": found.effectiveness.phase_cosine,
        "cosine of changes with updates, magnitudes": found.effectiveness.mag_cosine,
    }
    print_facts("All trained nodes", facts)
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
    root: Root = None,
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
    samples = running.load_data(with_data(run.checkpoint.config, None, root))
    accuracy = running.evaluated(run.model, samples).accuracy
    where = out or run.folder / "integers"
    sizes = export_integers(run.model, where)
    said = load_exported(where).predict(samples.test_x.numpy())
    same = float(np.mean(said == run.model.predict(samples.test_x).numpy()))
    facts: dict[str, Any] = {
        "trained_integers": sizes.n_integers,
        "bytes_of_trained_integers": sizes.integers,
        "bytes_of_graph": sizes.topology,
        "bytes_of_export": sizes.total,
        "accuracy_of_network": accuracy,
        "accuracy_of_export": float(np.mean(said == samples.test_y.numpy())),
        "share_of_equal_predictions": same,
    }
    files = [where]
    if c_header is not None:
        from neurograph.export_c import export_c_header

        some = samples.test_x[:checks].numpy() if checks else None
        facts["bytes_of_header_constants"] = export_c_header(run.model, c_header, samples=some)
        files.append(c_header)
    if as_json:
        print_json({"kind": "export", "figures": facts, "files": [str(file) for file in files]})
    else:
        print_facts(f"{folder} in integers", facts)
        print_files(files)
    if same < 1:
        say(f"the export classifies {1 - same:.2%} of the test samples otherwise than the network")
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
