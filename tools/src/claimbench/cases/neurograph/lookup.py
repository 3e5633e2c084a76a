"""The note's optimization #2: the two lookups as they were, as they were decorated, and compiled as the note says."""

from __future__ import annotations

from typing import Any

import torch

from claimbench.case import Case, Tolerance, Workload
from claimbench.record import Params
from neurograph.reference.original.tables import (
    MAG_BINS,
    PHASE_BINS,
    OriginalTables,
    compiled_lookups,
    jit_compile_if_enabled,
    make_tables,
)

__all__ = ["CASES"]

DIM = 5
FORMS = {"before": "off", "as_coded": "as_coded", "after": "compiled"}


def _setup(params: Params) -> Workload:
    rows, what = int(params["rows"]), params["what"]

    def inputs(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return {
            "phase": torch.randint(PHASE_BINS, (rows, DIM), generator=generator),
            "mag": torch.randint(MAG_BINS, (rows, DIM), generator=generator),
            "upstream": torch.randn(rows, DIM, generator=generator),
        }

    def variant(tables: OriginalTables) -> Any:
        if what == "signal":
            return lambda given: tables.get_signal_vector(given["phase"], given["mag"])
        return lambda given: tables.compute_signal_gradients(given["phase"], given["mag"], given["upstream"])

    return Workload(
        inputs=inputs,
        variants={name: variant(make_tables(form)) for name, form in FORMS.items()},  # type: ignore[arg-type]
        tolerance=Tolerance(relative=1e-6, reason="a compiler may reorder products of float32"),
    )


def _points(*rows: int) -> tuple[Params, ...]:
    return tuple({"what": what, "rows": n} for what in ("signal", "gradients") for n in rows)


CASES = (
    Case(
        "neurograph.lookup",
        "table lookups: plain, decorated as coded, compiled as the note says",
        "torch",
        _setup,
        grid=_points(64, 1000, 100_000),
        quick_grid=_points(1000),
        variants=("before", "as_coded", "after"),
        original=(OriginalTables, compiled_lookups, jit_compile_if_enabled),
        budget=3.0,
        processes=5,
    ),
)
