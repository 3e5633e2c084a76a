"""Commands for files of weights: `prune`, `info` and `export`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from resu.cli.options import AsJson, Force, Form, Sparsity, Spread
from resu.cli.output import print_files, print_json, results_console

__all__ = ["export", "info", "prune"]


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
        return print_json({"kind": "prune", "active": report.n_active, "layers": layers, "files": [str(out)]})
    table = Table("weight", "active", "pruned", "sparsity", title=f"{file} pruned by magnitude", title_justify="left")
    for name, one in layers.items():
        _count_row(table, name, one["active"], one["pruned"])
    if len(layers) > 1:
        _count_row(table, "all", report.n_active, sum(one["pruned"] for one in layers.values()))
    results_console().print(table)
    return print_files([out])


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
        return print_json(
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
    results_console().print(table)
    for name, value in content.about.items():
        typer.echo(f"{name}: {value if not isinstance(value, dict) else json.dumps(value)}")
    return None


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
        return print_json({**facts, "files": [str(out)]})
    words = {
        Form.csr: "now in compressed rows", Form.pairs: "cut to two of four", Form.safetensors: "written as they are"
    }[to]  # fmt: skip
    typer.echo(f"{words}: {', '.join(changed) or 'none had to be'}")
    typer.echo(f"wrote {out} ({after:,} bytes, from {before:,})")
    return None


def _count_row(table: Table, name: str, active: int, pruned: int) -> None:
    table.add_row(name, f"{active:,}", f"{pruned:,}", f"{pruned / max(active + pruned, 1):.4f}")
