"""The command `boolean-nca analyse`: which gates matter, what the worst damage costs, how far circuits are apart."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from boolean_nca_cc.cli.output import AsJson, console, pictures_if_possible, print_files, print_json

if TYPE_CHECKING:
    from boolean_nca_cc.analysis import Criticality, HammingDistance, LayerLiveness, WorstDamage

__all__ = ["app"]

app = typer.Typer()


@app.command()
def analyse(
    checkpoint: Annotated[Path, typer.Argument(help="Folder or checkpoint of a training run.")],
    dead: Annotated[int, typer.Option(help="Gates to kill in the greedy worst order.")] = 20,
    random_orders: Annotated[int, typer.Option(help="Random orders beside the greedy one.")] = 32,
    against: Annotated[
        Path | None, typer.Option(help="Another run on the same wires, to compare with.", show_default="none")
    ] = None,
    top: Annotated[int, typer.Option(help="Critical gates to list.")] = 10,
    seed: Annotated[int, typer.Option(help="Random seed of the random orders.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the files.", show_default="analysis/ beside it")] = None,
    as_json: AsJson = False,
) -> None:
    """Analyses a trained circuit: liveness, critical gates, greedy worst damage, and its distance to another.

    Examples:
      boolean-nca analyse runs/add-8-0
      boolean-nca analyse runs/add-8-0 --dead 40 --random-orders 128
      boolean-nca analyse runs/add-8-0 --against runs/other --json
    """
    import jax

    from boolean_nca_cc import analysis
    from boolean_nca_cc.checkpoint import write_atomically
    from boolean_nca_cc.experiments.training_run import load_run, task_of

    settings, saved = load_run(checkpoint)
    circuit, spec, data = saved.circuit, saved.spec, task_of(settings)
    layers = analysis.liveness_by_layer(circuit, spec)
    worth = analysis.criticality(circuit, spec, data.x, data.y)
    damage = analysis.worst_damage(jax.random.key(seed), circuit, spec, data.x, data.y, dead, random_orders)
    distance = None
    if against is not None:
        distance = analysis.hamming_distance(circuit, load_run(against)[1].circuit, spec, data.x)
    document: dict[str, Any] = {
        "kind": "analysis",
        "checkpoint": str(checkpoint),
        "against": None if against is None else str(against),
        "liveness": [layer.as_dict() for layer in layers],
        "criticality": worth.as_dict(top),
        "worst_damage": damage.as_dict(),
        "hamming": None if distance is None else distance.as_dict(),
    }
    folder = out or (checkpoint if checkpoint.is_dir() else checkpoint.parent) / "analysis"
    result = folder / "analysis.json"
    write_atomically(result, (json.dumps(document, indent=2) + "\n").encode())
    files = [result, *_pictures(folder, settings.task, layers, worth, damage, distance)]
    if as_json:
        return print_json(document | {"files": [str(file) for file in files]})
    for table in _tables(layers, worth, damage, distance, top):
        console().print(table)
    return print_files(files)


def _pictures(
    folder: Path,
    task: str,
    layers: "list[LayerLiveness]",
    worth: "Criticality",
    damage: "WorstDamage",
    distance: "HammingDistance | None",
) -> list[Path]:
    from boolean_nca_cc import plots_analysis as plots

    def draw() -> list[Path]:
        files = plots.liveness_bars(layers, folder / "liveness", f"{task}: what each layer contributes")
        files += plots.criticality_map(worth, folder / "criticality", f"{task}: hard accuracy lost with each gate")
        files += plots.worst_damage_curve(damage, folder / "worst_damage", f"{task}: greedy worst damage")
        if distance is not None:
            files += plots.hamming_bars(distance, folder / "hamming", f"{task}: distance of two configurations")
        return files

    return pictures_if_possible(draw)


def _tables(
    layers: "list[LayerLiveness]",
    worth: "Criticality",
    damage: "WorstDamage",
    distance: "HammingDistance | None",
    top: int,
) -> list[Table]:
    summary = worth.as_dict(top)
    live = Table("layer", "nodes", "wired", "live", "critical", "worst loss", title="Layers", title_justify="left")
    for layer in layers:
        row = [str(layer.layer), str(layer.nodes), str(layer.wired), str(layer.live)]
        critical = summary["layers"][layer.layer - 1] if layer.layer else None
        live.add_row(
            *row, *(["–", "–"] if critical is None else [str(critical["critical"]), f"{critical['worst']:.4f}"])
        )
    gates = Table(
        "node", "hard accuracy lost", title=f"Most critical of {summary['gates']} gates", title_justify="left"
    )
    for gate in summary["worst"]:
        gates.add_row(str(gate["node"]), f"{gate['lost']:.4f}")
    worst = Table("dead gates", "greedy worst", "random, mean", title="Hard accuracy", title_justify="left")
    for dead in sorted({0, 1, 2, 5, 10, 20, len(damage.order)} & set(damage.dead.tolist())):
        random = f"{damage.random[:, dead].mean():.4f}" if len(damage.random) else "–"
        worst.add_row(str(dead), f"{damage.accuracy[dead]:.4f}", random)
    tables = [live, gates, worst]
    if distance is not None:
        apart = Table("layer", "tables", "read entries", "behaviour", title="Hamming distance", title_justify="left")
        for layer_index, row_values in enumerate(zip(*distance.by_layer().values(), strict=True), 1):
            apart.add_row(str(layer_index), *(f"{value:.4f}" for value in row_values))
        tables.append(apart)
    return tables
