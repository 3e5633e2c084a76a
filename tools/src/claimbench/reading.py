"""Records on disk: find them, judge them, and write what is made from them beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from claimbench.errors import RecordError
from claimbench.evaluate import evaluate
from claimbench.findings import Evaluation
from claimbench.ledger import load_claims, packages
from claimbench.record import Compile, Memory, Record, Samples, Start, Value, read_record
from claimbench.tables import markdown_table, packages_of, summary_svg
from claimbench.verdict import Verdict

__all__ = [
    "PLACES",
    "exit_code",
    "judge_record",
    "newest",
    "newest_of_each_package",
    "records_below",
    "stopped_words",
    "write_beside",
    "write_into",
]

PLACES = (Path("bench"), Path("results"))
"""Where runs leave their records, and where records are committed, seen from the root of a checkout."""


def records_below(places: Iterable[Path] = PLACES) -> list[Record]:
    """Every record below some folders, newest first.

    Args:
        places: Folders; those that do not exist hold none.

    Returns:
        Records that could be read; a file that is no record of this schema is passed over.
    """
    found = []
    for place in places:
        for path in place.glob("**/record.jsonl"):
            try:
                found.append(read_record(path))
            except RecordError:
                continue  # a run that was killed before its first line leaves an empty file
    return sorted(found, key=lambda record: [start.created for start in record.of(Start)][-1], reverse=True)


def newest(places: Iterable[Path] = PLACES) -> Record:
    """The newest record.

    Args:
        places: Folders to look below.

    Raises:
        RecordError: When there is none.
    """
    places = tuple(places)
    found = records_below(places)
    if not found:
        looked = " and ".join(f"{place}/" for place in places)
        raise RecordError(f"a verdict needs a record; there is none below {looked}; `claimbench run` makes one")
    return found[0]


def newest_of_each_package(places: Iterable[Path] = PLACES) -> dict[str, Record]:
    """For each package the newest record of a run that was about all its claims, the long ones apart.

    Args:
        places: Folders to look below.

    Returns:
        Records by package, where there is one.

    Raises:
        RecordError: When there is none.
    """
    places, chosen = tuple(places), dict[str, Record]()
    found = records_below(places)
    for package in packages():
        wanted = {claim.id for claim in load_claims() if claim.package == package and claim.duration != "long"}
        for record in found:
            if wanted and wanted <= {name for start in record.of(Start) for name in start.claims}:
                chosen[package] = record
                break
    if not chosen:
        looked = " and ".join(f"{place}/" for place in places)
        raise RecordError(f"no record below {looked} is about a whole package; `claimbench run --package X` makes one")
    return chosen


def judge_record(record: Record, committed: Sequence[Record] | None = None) -> Evaluation:
    """Judge the claims that a record is about.

    Args:
        record: What was measured.
        committed: Older records, newest first, that long claims are shown from; those below `results/` by default.

    Returns:
        Findings for the claims that the run was asked for, and for the long claims of a package of which it was asked
        for all others.
    """
    older = records_below([Path("results")]) if committed is None else committed
    older = [other for other in older if other.path.resolve() != record.path.resolve()]
    # Judged over the whole ledger, so that "missing" means not written yet, and not merely not asked for.
    evaluation = evaluate(record, load_claims(), committed=older, seed=record.start.seed)
    asked = {name for start in record.of(Start) for name in start.claims}
    if not asked:
        return evaluation
    asked |= _long_beside(asked)
    return evaluation.model_copy(update={"findings": [f for f in evaluation.findings if f.id in asked]})


def _long_beside(asked: set[str]) -> set[str]:
    """Long claims of packages that a run was about as a whole: not run, but shown from their committed record."""
    found: set[str] = set()
    for package in packages():
        claims = [claim for claim in load_claims() if claim.package == package]
        rest = {claim.id for claim in claims if claim.duration != "long"}
        if rest and rest <= asked:
            found |= {claim.id for claim in claims if claim.duration == "long"}
    return found


def exit_code(evaluation: Evaluation, record: Record, *, strict: bool = False) -> int:
    """What a run ends with: verdicts are results, not failures.

    Args:
        evaluation: What was found.
        record: What was measured.
        strict: Whether an error or an incorrect variant counts as a failure.

    Returns:
        1 when nothing that was to be measured could be, or with `strict` for an error or an incorrect variant; else 0.
    """
    verdicts = {finding.verdict for finding in evaluation.findings}
    if strict and verdicts & {Verdict.ERROR, Verdict.INCORRECT}:
        return 1
    measured = any(True for kind in (Samples, Value, Memory, Compile) for _ in record.of(kind))
    return 0 if measured or verdicts <= {Verdict.STATED} else 1


def stopped_words(folder: Path | None) -> str:
    """What to tell somebody who stopped a run.

    Args:
        folder: Where the run was told to write; None for the newest record below `bench/`.

    Returns:
        One sentence on how to go on.
    """
    if folder is None:
        found = records_below([Path("bench")])
        folder = found[0].path.parent if found else None
    if folder is None or not (folder / "record.jsonl").is_file():
        return "stopped before anything was measured"
    return f"stopped; what was finished is in {folder}, and `claimbench run --resume {folder}` goes on from it"


def write_beside(evaluation: Evaluation, record: Record) -> list[Path]:
    """Write report, tables and pictures into the folder of a record.

    Args:
        evaluation: What was found.
        record: The record; its folder receives the files.

    Returns:
        What was written. The report is left out where jinja2 or plotly are not installed.
    """
    folder = record.path.parent
    written = []
    if all(find_spec(name) is not None for name in ("jinja2", "plotly")):
        from claimbench.report import write_report

        written.append(write_report([evaluation], [record], folder / "report.html"))
    outputs = {"verdicts.md": markdown_table(evaluation), "verdicts.json": _json(evaluation)}
    outputs |= {f"{name}.svg": summary_svg(evaluation, name) for name in packages_of([evaluation])}
    for name, text in outputs.items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    return written


def _json(evaluation: Evaluation) -> str:
    # Pairs are in the record; without them the file stays small enough to be read by a person.
    slim = evaluation.model_dump(mode="json", exclude={"findings": {"__all__": {"rows": {"__all__": {"pairs"}}}}})
    return json.dumps(slim, indent=1, ensure_ascii=False) + "\n"


def write_into(path: Path, table: str) -> None:
    """Replace the generated block of a README by a table.

    Args:
        path: The README; the block lies between its two markers.
        table: Markdown.

    Raises:
        RecordError: When the markers are not there.
    """
    text = path.read_text(encoding="utf-8")
    found = re.search(r"(<!-- generated by claimbench[^>]*-->).*?(<!-- end of what is generated -->)", text, re.DOTALL)
    if found is None:
        raise RecordError(
            "a generated block stands between '<!-- generated by claimbench … -->' and '<!-- end of what is "
            f"generated -->'; {path} has none; add both lines where the table belongs"
        )
    block = f"{found[1]}\n\n{table.rstrip()}\n\n{found[2]}"
    path.write_text(text[: found.start()] + block + text[found.end() :], encoding="utf-8")
