"""`claimbench run` for a machine that must not install anything: argparse, plain lines, no report.

It needs what a run needs, numpy, scipy, pydantic and the package under test. The report is made from the record
afterwards, on any machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from claimbench.errors import ClaimbenchError

__all__ = ["STOPPED", "PlainProgress", "main"]

SECONDS_BETWEEN_LINES = 30.0
STOPPED = 130  # what a shell reports for a program that Ctrl-C ended


class PlainProgress:
    """A line whenever a job ends, and a sign of life every half minute in between."""

    def __init__(self) -> None:
        self._done, self._said = -1, time.monotonic()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Take a step; the arguments are those of `claimbench.run.Progress`."""
        now = time.monotonic()
        if done != self._done or now - self._said > SECONDS_BETWEEN_LINES:
            sys.stderr.write(f"[{done}/{total}] {what}\n")
            sys.stderr.flush()
            self._done, self._said = done, now


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="claimbench",
        description="Hold performance claims to account. Only `run` is there: typer and rich are not installed here.",
    )
    run = parser.add_subparsers(dest="command", required=True).add_parser(
        "run",
        help="measure claims",
        epilog="example: python -m claimbench run boolean.update --package boolean_nca_cc --quick",
    )
    run.add_argument("ids", nargs="*", metavar="IDS", help="claims, or beginnings of their ids; none is all")
    run.add_argument("--package", action="append", default=[], help="only this package; may be given several times")
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to measure")
    run.add_argument("--quick", action="store_true", help="one process a claim: a first look, no winner is declared")
    run.add_argument("--careful", action="store_true", help="more processes")
    run.add_argument("--long", action="store_true", help="also the claims that train to a quality")
    run.add_argument("--out", type=Path, help="folder of the record; a new one below bench/ by default")
    run.add_argument("--resume", type=Path, help="folder of a record to go on with")
    run.add_argument("--seed", type=int, default=0, help="seed of inputs, orders and resampling")
    run.add_argument("--strict", action="store_true", help="exit 1 when a claim ends in an error or is incorrect")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from claimbench.reading import exit_code, judge_record, stopped_words, write_beside
    from claimbench.record import read_record
    from claimbench.run import RunOptions, run_claims
    from claimbench.tables import plain_table

    options = RunOptions(
        claims=tuple(arguments.ids),
        packages=tuple(arguments.package),
        device=arguments.device,
        quick=arguments.quick,
        careful=arguments.careful,
        long=arguments.long,
        out=arguments.out,
        resume=arguments.resume,
        seed=arguments.seed,
    )
    try:
        folder = run_claims(options, PlainProgress())
    except KeyboardInterrupt:
        sys.stderr.write(f"claimbench: {stopped_words(options.resume or options.out)}\n")
        return STOPPED
    record = read_record(folder)
    evaluation = judge_record(record)
    sys.stdout.write(f"{plain_table(evaluation)}\n\nrecord: {record.path}\n")
    written = write_beside(evaluation, record)
    if not any(path.suffix == ".html" for path in written):
        sys.stdout.write("report: `claimbench report RECORD` makes it where jinja2 and plotly are installed\n")
    return exit_code(evaluation, record, strict=arguments.strict)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        0 when the run came to its end, 1 when nothing could be measured, 2 for an error that says what to do, 130 when
        it was stopped.
    """
    try:
        return _run(_parser().parse_args(argv))
    except ClaimbenchError as error:
        sys.stderr.write(f"claimbench: {error}\n")
        return 2
