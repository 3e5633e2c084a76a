"""Bytes of tables and of a training context."""

from __future__ import annotations

from collections.abc import Iterable

from claimbench.case import Case, Counted
from claimbench.cases.neurograph.problem import FULL, not_timed, settings_of
from claimbench.record import Params
from neurograph.reference.original import OriginalTrainContext
from neurograph.reference.original.tables import OriginalTables

__all__ = ["CASES"]

MIB = 2**20


def _tables(params: Params) -> Iterable[Counted]:
    tables = OriginalTables(int(params["phase_bins"]), int(params["mag_bins"]))
    yield Counted("tables", tables.nbytes / MIB, "before", "MiB", f"{tables.nbytes} bytes, four tables of float32")


def _context(params: Params) -> Iterable[Counted]:
    context = OriginalTrainContext(settings_of(int(params["nodes"])))
    parts = context.context_bytes
    total = sum(parts.values())
    listing = ", ".join(f"{name} {size / MIB:.2f}" for name, size in parts.items())
    yield Counted("context", total / MIB, "before", "MiB", f"MiB: {listing}")


CASES = (
    Case(
        "neurograph.tables",
        "bytes of the lookup tables",
        "torch",
        not_timed,
        values=_tables,
        values_grid=(
            {"phase_bins": 32, "mag_bins": 512},
            {"phase_bins": 64, "mag_bins": 1024},
            {"phase_bins": 512, "mag_bins": 1024},
        ),
        original=(OriginalTables,),
        budget=1.0,
    ),
    Case(
        "neurograph.context",
        "bytes of a training context",
        "torch",
        not_timed,
        values=_context,
        values_grid=({"nodes": FULL},),
        original=(OriginalTrainContext,),
        budget=1.0,
    ),
)
