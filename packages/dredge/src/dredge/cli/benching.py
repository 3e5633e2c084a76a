"""`dredge bench`: the study's figures, measured here. Before and after of published claims are claimbench's."""

from collections.abc import Iterable
from dataclasses import asdict
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any

import typer

from dredge.cli.options import AsJson
from dredge.cli.output import print_json, print_table, say
from dredge.errors import needed

__all__ = ["app"]

app = typer.Typer(name="bench", help="Measure the figures of the study on this machine.", no_args_is_help=True)


@app.command(name="hash")
def hashes(as_json: AsJson = False) -> None:
    """What remembering ids is worth, in microseconds a call, by length of the text.

    Examples:
      dredge bench hash
    """
    from dredge.bench.hash import measure_hashes

    rows = measure_hashes()
    if as_json:
        print_json([{**asdict(row), "gain": row.gain, "loss": row.loss, "break_even": row.break_even} for row in rows])
        return
    head = ("bytes", "SHA-256", "hit, same object", "hit, new object", "gain", "miss", "miss / SHA-256", "pays from")
    table = [
        (row.size, row.plain, row.same, row.fresh, f"{row.gain:.1f}×", row.miss, f"{row.loss:.2f}×",
         f"{row.break_even:.0%}")
        for row in rows
    ]  # fmt: skip
    print_table("µs a call; gain is of a new object, as a server sees it", head, table)


@app.command()
def recall(as_json: AsJson = False) -> None:
    """How often a stored sentence is found by what is left of it, and how long a search takes at 100,000 rows.

    Examples:
      dredge bench recall
    """
    from dredge.bench.recall import measure_latency, measure_recall

    _print(measure_recall(), as_json)
    _print(measure_latency(), as_json)


@app.command()
def fit1d(as_json: AsJson = False) -> None:
    """Error by parameters on the published chirp, in one dimension.

    Examples:
      dredge bench fit1d
    """
    _print(_measurement("fit1d").run(), as_json)


@app.command()
def fit4d(as_json: AsJson = False) -> None:
    """The same on the published target in three dimensions and time, and on its shifted and odd variants.

    Examples:
      dredge bench fit4d
    """
    _print(_measurement("fit4d").run(), as_json)


@app.command()
def fit6d(as_json: AsJson = False) -> None:
    """Error after 30 s of the processor on the published target in five dimensions and time.

    Examples:
      dredge bench fit6d
    """
    _print(_measurement("fit6d").run(), as_json)


@app.command()
def heldout(
    choose: Annotated[
        bool, typer.Option("--choose", help="Try settings on other pictures than those reported; about a quarter hour.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pictures from half of their pixels, judged on the other half: networks and interpolation.

    Examples:
      dredge bench heldout
      dredge bench heldout --choose
    """
    module = _measurement("heldout")
    _print(module.choose() if choose else module.run(), as_json)


def _measurement(name: str) -> ModuleType:
    needed("torch", "inr", f"dredge bench {name}")
    return import_module(f"dredge.bench.{name}")


def _print(rows: Iterable[Any], as_json: bool) -> None:
    values = []
    for row in rows:
        values.append(asdict(row))
        say(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values[-1].items() if value is not None))
    if as_json:
        print_json(values)
        return
    head = [name.replace("_", " ") for name in values[0]]
    print_table("", head, [["" if value is None else value for value in row.values()] for row in values])
