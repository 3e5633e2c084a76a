"""Commands about signals: fit one, make a model's file smaller."""

from pathlib import Path
from typing import Annotated

import typer

from dredge.cli.options import AsJson, ConfigFile, DatabaseUrl, settings_of
from dredge.cli.output import print_facts, print_json, print_table, say

__all__ = ["compress", "fit"]


def fit(
    signal: Annotated[Path, typer.Argument(help="Samples: .npy, .csv, .wav, .png or .jpg.")],
    title: Annotated[str | None, typer.Option(help="Of the record.", show_default="the file's name")] = None,
    packets: Annotated[int, typer.Option(min=1, max=64, help="Most packets.")] = 12,
    seconds: Annotated[float | None, typer.Option(help="For the search.", show_default="as set, 20")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th sample.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="Folder of the picture and the model.")] = Path(),
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep it in the database.")] = True,
    as_json: AsJson = False,
    db: DatabaseUrl = None,
    config: ConfigFile = None,
) -> None:
    """Fit a signal with a few wave packets, draw them, and keep it.

    A table of numbers has a column for each coordinate, then the values; one column alone is sampled at 0, 1, 2, …. A
    picture with more pixels than a signal may have samples is made smaller.

    Examples:
      dredge fit chirp.csv
      dredge fit recording.wav --every 8 --packets 20 --out figures
    """
    from dredge.errors import needed

    torch = needed("torch", "inr", "dredge fit")
    from dredge.quasimoto.plots import plot_packets
    from dredge.quasimoto.signal_files import read_signal
    from dredge.quasimoto.tensor_files import save_model
    from dredge.signals import lift_signal, samples_of

    # The matrices are small: more threads wait for each other longer than they work.
    torch.set_num_threads(1)
    settings = settings_of(config, db, limits={"fit_seconds": seconds})
    coords, values = read_signal(signal, most=settings.limits.signal_points)
    coords, values = coords[::every], values[::every]
    say(f"fitting {len(values):,} samples; at most {settings.limits.fit_seconds:g} s")
    lifted = lift_signal(
        coords, values, title=signal.name if title is None else title, max_packets=packets, limits=settings.limits
    )
    stem, model = out / f"{signal.stem}-packets", lifted.model()
    ordered = samples_of(coords, values)
    files = [*plot_packets(model, *ordered, stem, title=title or signal.name), save_model(model, f"{stem}.json")]
    if keep:
        from dredge.cli.notes import opened

        with opened(settings) as store:
            store.put_signal(lifted.id, lifted.text, lifted.document)
    if as_json:
        found = {"id": lifted.id, "text": lifted.text, "packets": lifted.packets, "residual": lifted.residual}
        print_json(found | {"explained": lifted.document["residual"]["explained"], "files": [str(f) for f in files]})
        return
    typer.echo(lifted.id)
    head = ("where", "width", "cycles per unit", "amplitude", "phase")
    rows = [
        (*(_numbers(packet[name]) for name in ("centre", "width", "cycles")), packet["amplitude"], packet["phase"])
        for packet in lifted.packets
    ]
    explained = lifted.document["residual"]["explained"]
    said = "1 packet explains" if len(rows) == 1 else f"{len(rows)} packets explain"
    print_table(f"{said} {explained:.2%}; residual {lifted.residual:.3g}", head, rows)
    for file in files:
        typer.echo(f"wrote {file}")
    say(f"kept; see it again: dredge get {lifted.id}, or in the page of dredge serve" if keep else "not kept")


def compress(
    model: Annotated[Path, typer.Argument(help="File of a model: .safetensors or .json.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="NAME-int8")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model again with its weights in 8 bits.

    Examples:
      dredge compress siren.safetensors
    """
    from dredge.quasimoto.tensor_files import compress_file

    target = out or model.with_name(f"{model.stem}-int8{model.suffix}")
    before, after = compress_file(model, target)
    facts = {"file": str(target), "bytes_before": before, "bytes_after": after}
    if as_json:
        print_json(facts)
    else:
        print_facts("", {name.replace("_", " "): value for name, value in facts.items()})


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
