"""Where commands put what they found: results on standard output, progress and complaints on standard error."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from dredge.insights.records import Hit, Insight

__all__ = ["insight_values", "print_facts", "print_hits", "print_json", "print_table", "say"]


def say(words: str) -> None:
    """Says something that is no result.

    Args:
        words: a line.
    """
    typer.echo(words, err=True)


def print_json(document: Any) -> None:
    """Prints what `--json` asks for.

    Args:
        document: JSON values.
    """
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table.

    Args:
        title: above it.
        head: names of the columns.
        rows: their values.
    """
    table = Table(*head, title=title or None, title_justify="left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    _results().print(table)


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Prints figures by name.

    Args:
        title: above them.
        facts: text or numbers.
    """
    print_table(title, ("", "value"), facts.items())


def print_hits(title: str, hits: Sequence[Hit]) -> None:
    """Prints what a search found, a line or two each.

    Args:
        title: above.
        hits: the best first.
    """
    rows = [(f"{hit.score:.3f}", hit.insight.id[:12], hit.insight.seen, _short(hit.insight.text)) for hit in hits]
    print_table(title, ("score", "id", "seen", "text"), rows)


def insight_values(insight: Insight) -> dict[str, Any]:
    """A record as JSON values.

    Args:
        insight: the record.

    Returns:
        Its fields; times as ISO 8601 in UTC.
    """
    values = {
        "id": insight.id, "text": insight.text, "kind": insight.kind, "created": _time(insight.created),
        "seen": insight.seen, "last_seen": _time(insight.last_seen), "encoder": insight.encoder,
    }  # fmt: skip
    return values if insight.signal is None else values | {"signal": insight.signal}


def _time(moment: Any) -> str:
    return str(moment.isoformat().replace("+00:00", "Z"))


def _short(text: str, most: int = 160) -> str:
    # Control characters would move the cursor of the terminal that they are shown on.
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        # Counters of a service are whole numbers, and floats.
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _results() -> Console:
    # A file or a pipe has no width of its own; rich would take 80 columns.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    # Texts are shown as they are: neither [b] nor :smile: in one means anything.
    return Console(soft_wrap=not sys.stdout.isatty(), width=width, markup=False, highlight=False, emoji=False)
