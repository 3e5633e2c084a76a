"""Ours: accuracy per parameter of wave packets, and pictures of which half was not seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from claimbench.case import Case, Counted
from claimbench.cases.dredge.problem import not_timed
from claimbench.record import Params
from dredge.bench import fit1d, fit4d, fit6d, heldout
from dredge.bench.fit1d import FitRow

__all__ = ["CASES"]


def _short(name: str) -> str:
    """The variant that a row's model is: ours, ours by pursuit, the published ensemble, or a network of sines."""
    if name.startswith("packets"):
        return "pursuit" if "pursuit" in name else "best"
    if name.startswith("SIREN"):
        return "sines"
    return "before_tenfold_rate" if "1e-2" in name or "0.01" in name else "before"


def _rows(target: str) -> Iterator[FitRow]:
    match target:
        case "chirp":
            yield from fit1d.run(atoms=(24,))
        case "6D":
            yield from fit6d.run()
        case _:
            yield from fit4d.run(targets=(target,))


def _fitted(params: Params) -> Iterable[Counted]:
    rows: dict[str, list[FitRow]] = defaultdict(list)
    for row in _rows(str(params["target"])):
        rows[_short(row.model)].append(row)
    for name, some in rows.items():
        errors = [row.mse for row in some]
        words = f"{some[0].model}, {some[0].parameters} parameters; predicting zero {some[0].zero:.3g}"
        if len(some) > 1:
            words += f"; median of {len(some)} starts, from {min(errors):.3g} to {max(errors):.3g}"
        yield Counted("mse", float(np.median(errors)), name, "", words)
        yield Counted("parameters", max(row.parameters for row in some), name, "", some[0].model)
        yield Counted("seconds", max(row.cpu_seconds for row in some), name, "s", "of the processor, longest fit")


def _held_out(params: Params) -> Iterable[Counted]:
    """Each picture; and whether ours is ahead of both networks on it."""
    name = str(params["picture"])
    found: dict[str, float] = {}
    for row in heldout.run(pictures=(name,)):
        method = "best" if row.method.startswith("ours") else row.method.split()[0].lower()
        found[method] = row.psnr
        words = row.method + ("" if row.parameters is None else f", {row.parameters} parameters")
        yield Counted("psnr", row.psnr, method, "dB", f"{words}; {row.cpu_seconds:.3g} s of the processor")
        if row.parameters is not None:
            yield Counted("parameters", row.parameters, method, "", row.method)
    yield Counted(
        "ahead_of_networks", found["best"] - max(found["siren"], found["wire"]), "best", "dB", "of the better"
    )
    yield Counted(
        "ahead_of_rbf", found["best"] - found["rbf"], "best", "dB", "of thin plates over the 32 nearest pixels"
    )


CASES = (
    Case(
        "dredge.packets",
        "mean squared error of fits to the published targets, and to two that are moved and odd",
        "torch",
        not_timed,
        values=_fitted,
        values_grid=tuple({"target": target} for target in ("chirp", *fit4d.TARGETS, "6D")),
        original=(fit1d.run, fit4d.run, fit6d.run),
        budget=400.0,
    ),
    Case(
        "dredge.heldout",
        "unseen pixels of pictures of which half was seen",
        "torch",
        not_timed,
        values=_held_out,
        values_grid=tuple({"picture": name} for name in heldout.REPORTED),
        original=(heldout.run,),
        budget=500.0,
    ),
)
