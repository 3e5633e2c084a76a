"""The command `claimbench`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from claimbench.bare import STOPPED, PlainProgress
from claimbench.errors import ClaimbenchError, RecordError
from claimbench.findings import Evaluation
from claimbench.ledger import claim_ids, load_claims, packages, select
from claimbench.reading import (
    exit_code,
    judge_record,
    newest,
    newest_of_each_package,
    stopped_words,
    write_beside,
    write_into,
)
from claimbench.record import read_record
from claimbench.tables import markdown_table, plain_table, terminal_table

__all__ = ["app", "main"]

app = typer.Typer(
    help="Hold published performance claims to account: measure before and after on this machine, and give verdicts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Device(StrEnum):
    """Where to measure."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _print_table(evaluation: Evaluation) -> None:
    console = Console()
    if console.is_terminal:
        console.print(terminal_table(evaluation))
    else:
        print(plain_table(evaluation))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


@contextmanager
def _progress() -> Iterator[Any]:
    """A bar with the time left on a terminal, plain lines elsewhere; both on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainProgress()
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=escape(what))


@app.command(
    epilog="Examples: `claimbench run` · `claimbench run boolean.update --quick` · "
    "`claimbench run --package boolean_nca_cc --careful` · `claimbench run --long --resume bench/long`"
)
def run(
    ids: Annotated[list[str] | None, typer.Argument(help="Claims, or beginnings of their ids; none is all.")] = None,
    package: Annotated[list[str] | None, typer.Option(help="Only this package; may be given several times.")] = None,
    device: Annotated[Device, typer.Option(help="Where to measure.")] = Device.AUTO,
    quick: Annotated[bool, typer.Option("--quick", help="One process a claim: a first look, no winner.")] = False,
    careful: Annotated[bool, typer.Option("--careful", help="More processes.")] = False,
    long: Annotated[bool, typer.Option("--long", help="Also the claims that train to a quality.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the record; a new one below bench/ by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a record to go on with.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of inputs, orders and resampling.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 for an error or an incorrect variant.")] = False,
) -> None:
    """Measure claims, print the verdicts, and write record, report and tables.

    Exit 0 when the run came to its end, whatever the verdicts; 1 when nothing could be measured; 2 for an error that
    says what to do; 130 when it was stopped.
    """
    from claimbench.run import RunOptions, run_claims

    options = RunOptions(
        claims=tuple(ids or ()),
        packages=tuple(package or ()),
        device=device.value,
        quick=quick,
        careful=careful,
        long=long,
        out=out,
        resume=resume,
        seed=seed,
    )
    try:
        with _progress() as progress:
            folder = run_claims(options, progress)
    except KeyboardInterrupt:
        print(f"claimbench: {stopped_words(resume or out)}", file=sys.stderr)
        raise typer.Exit(STOPPED) from None
    record = read_record(folder)
    evaluation = judge_record(record)
    _print_table(evaluation)
    print(f"\nrecord: {record.path}")
    for path in write_beside(evaluation, record):
        if path.suffix == ".html":
            print(f"report: {path}")
    raise typer.Exit(exit_code(evaluation, record, strict=strict))


@app.command(name="list", epilog="Examples: `claimbench list boolean` · `claimbench list --json`")
def list_claims(
    ids: Annotated[list[str] | None, typer.Argument(help="Claims, or beginnings of their ids; none is all.")] = None,
    as_json: Json = False,
) -> None:
    """List the claims, the cases that measure them, and what needs a GPU; then the ids without a claim."""
    written = load_claims()
    claims = select(written, ids or ())
    missing = [name for name in claim_ids() if name not in {claim.id for claim in written}]
    if as_json:
        _print_json({"claims": [claim.model_dump(mode="json") for claim in claims], "missing": missing})
        return
    for name in packages():
        own = [claim for claim in claims if claim.package == name]
        if not own:
            continue
        print(f"{name}")
        wide = max(len(claim.id) for claim in own)
        for claim in own:
            case = claim.figure.case if claim.figure else "answered by a test"
            marks = [
                *(["needs a GPU"] if claim.needs == "cuda" else []),
                *([claim.duration] * (claim.duration != "normal")),
            ]
            print(f"  {claim.id:{wide}}  {claim.published} · {case}{''.join(f' · {mark}' for mark in marks)}")
    if missing and not ids:
        print(f"\nnot there yet: {len(missing)} ids of the ledger")
        for prefix, names in groupby(missing, key=lambda name: name.split(".")[0]):
            print(textwrap.fill(f"{prefix}: {', '.join(names)}", 110, initial_indent="  ", subsequent_indent="    "))


@app.command(
    epilog="Examples: `claimbench report bench/xeon-2c-20260101-120000` · `claimbench report A B --out machines.html`"
)
def report(
    records: Annotated[list[Path], typer.Argument(help="Records, or the folders that hold them.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; beside the first record by default.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Also write Markdown, JSON and SVG beside each.")] = False,
) -> None:
    """Make the offline HTML report of a record, or one page that sets several machines side by side."""
    from claimbench.report import write_report

    read = [read_record(path) for path in records]
    evaluations = [judge_record(record) for record in read]
    name = "report.html" if len(read) == 1 else "comparison.html"
    if tables:
        for evaluation, record in zip(evaluations, read, strict=True):
            for path in write_beside(evaluation, record):
                print(path)
    path = out or read[0].path.parent / name
    if not path.parent.is_dir():
        raise RecordError(f"a report is written into a folder that exists; got {path}; make {path.parent} first")
    print(write_report(evaluations, read, path))


@app.command(epilog="Examples: `claimbench claims` · `claimbench claims results/h100 --markdown --package resu`")
def claims(
    record: Annotated[Path | None, typer.Argument(help="A record; the newest below bench/ or results/.")] = None,
    package: Annotated[str | None, typer.Option(help="Only this package.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the Markdown table of a README.")] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            help="Write tables into the generated block of this file: those of each package's newest record, or of one."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the verdict table of a record, the newest by default."""
    if package not in (None, *packages()):
        raise RecordError(f"a package is one of {', '.join(packages())}; got {package!r}; choose one of them")
    if write is not None:
        # A record may be the newest of one package and hold older findings of another: each package is told once.
        newest_of = newest_of_each_package([Path("results")]) if record is None else {}
        chosen = [read_record(record)] if record is not None else list({id(r): r for r in newest_of.values()}.values())
        found = []
        for one in chosen:
            evaluation = judge_record(one)
            kept = [
                f for f in evaluation.findings if newest_of.get(f.package, one) is one and package in (None, f.package)
            ]
            if kept:
                found.append(evaluation.model_copy(update={"findings": kept}))
        if not found:
            raise RecordError(f"no record is about {package}; `claimbench run --package {package}` makes one")
        write_into(write, "\n".join(markdown_table(one, package) for one in found))
        print(write)
        return
    read = newest() if record is None else read_record(record)
    evaluation = judge_record(read)
    if package is not None:
        kept = [finding for finding in evaluation.findings if finding.package == package]
        evaluation = evaluation.model_copy(update={"findings": kept})
    if as_json:
        _print_json(evaluation.model_dump(mode="json"))
    elif markdown:
        print(markdown_table(evaluation), end="")
    else:
        _print_table(evaluation)
        print(f"\nrecord: {read.path}")


@app.command(
    epilog="Examples: `claimbench compare bench/before bench/after` · `claimbench compare A B --absolute --json`"
)
def compare(
    first: Annotated[Path, typer.Argument(help="The earlier record.")],
    second: Annotated[Path, typer.Argument(help="The later record.")],
    absolute: Annotated[bool, typer.Option("--absolute", help="Compare times, not ratios to the control.")] = False,
    override: Annotated[bool, typer.Option("--override", help="Show them even where device or code differ.")] = False,
    as_json: Json = False,
) -> None:
    """Compare two records of one device; exit 1 for a slowdown outside both intervals."""
    from claimbench.compare import compare as compare_records
    from claimbench.compare import comparison_text

    found = compare_records(read_record(first), read_record(second), normalise=not absolute, override=override)
    if as_json:
        _print_json({**found.model_dump(mode="json"), "regressions": len(found.regressions)})
    else:
        print(comparison_text(found))
    raise typer.Exit(1 if found.regressions else 0)


@app.command(epilog="Example: `claimbench selftest --runs 200`")
def selftest(
    runs: Annotated[int, typer.Option(min=1, help="Simulated runs of each kind.")] = 2000,
) -> None:
    """Prove the tool on this machine: simulated noise, planted slowdowns, broken workers; exit 1 when it fails."""
    from claimbench.selftest import Check, run_selftest

    def say(check: Check) -> None:
        print(f"{'✓' if check.passed else '✗'} {check.name}: {check.found}", flush=True)

    raise typer.Exit(0 if run_selftest(runs=runs, report=say) else 1)


@app.command(epilog="Example: `claimbench doctor`")
def doctor(as_json: Json = False) -> None:
    """Say whether this machine is fit to measure; exit 1 when it is not."""
    from claimbench.doctor import checkup, fit

    found = checkup()
    if as_json:
        _print_json({"fit": fit(found), "checks": [vars(check) for check in found]})
    else:
        glyphs = {"ok": "✓", "warn": "▲", "bad": "✗"}
        for check in found:
            print(f"{glyphs[check.state]} {check.state:4}  {check.name}: {check.found}")
            if check.advice:
                print(f"         → {check.advice}")
        print("\nfit to measure" if fit(found) else "\nnot fit to measure: see what is bad above")
    raise typer.Exit(0 if fit(found) else 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit code; 2 with one paragraph on stderr for an error of ours.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name="claimbench")
    except ClaimbenchError as error:
        print(f"claimbench: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0
