"""The note's six future opportunities, each against the plain form, over sizes: where does it begin to pay?

The plain form of a search is ours, one exact matrix product; the original's would lose to it by a factor of fifty.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from claimbench.case import Case, Counted, Lossy, Workload
from claimbench.cases.neurograph.problem import FULL, not_timed
from claimbench.record import Params
from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.incremental import IncrementalPass, propagate_stepwise
from neurograph.core.node_store import NodeStore
from neurograph.core.spatial import Nearest, build_index, recall_at_k

__all__ = ["CASES"]

DIM, TOP_K, QUERIES, BINS = 5, 6, 64, 512


# --- searches ---------------------------------------------------------------------------------------------------------


def _phases(seed: int, rows: int, dim: int) -> torch.Tensor:
    return torch.randint(BINS, (rows, dim), generator=torch.Generator().manual_seed(seed))


@cache
def _index(method: Any, nodes: int, dim: int) -> Any:
    return build_index(method, _phases(1, nodes, dim), BINS)


def _lost(result: Any, reference: Any) -> float:
    """Share of the neighbours that belong there and were not found."""
    found, truth = (
        Nearest(torch.from_numpy(leaves["index"]), torch.from_numpy(leaves["units"])) for leaves in (result, reference)
    )
    return 1 - recall_at_k(found, truth)


def _search(method: str) -> Callable[[Params], Workload]:
    def setup(params: Params) -> Workload:
        nodes, dim = int(params["nodes"]), int(params["dim"])

        def variant(name: str) -> Callable[[Any], Any]:
            index = _index(name, nodes, dim)

            def call(given: Any) -> dict[str, torch.Tensor]:
                found = index.nearest(given["contexts"], TOP_K)
                return {"index": found.index, "units": found.units}

            return call

        return Workload(
            inputs=lambda seed: {"contexts": _phases(seed + 2, QUERIES, dim)},
            variants={"before": variant("exhaustive"), "best": variant(method)},
            lossy={"best": Lossy(_lost, 0.1, "neighbours not found")} if method == "ivf" else {},
        )

    return setup


def _recall(params: Params) -> Iterable[Counted]:
    nodes, dim = int(params["nodes"]), int(params["dim"])
    contexts = _phases(3, 256, dim)
    found, truth = (_index(name, nodes, dim).nearest(contexts, TOP_K) for name in ("ivf", "exhaustive"))
    yield Counted("recall", 100 * recall_at_k(found, truth), "best", "%", f"of 256 contexts, k = {TOP_K}")


# --- passes -----------------------------------------------------------------------------------------------------------


@cache
def _network() -> tuple[Topology, HighResolutionLookupTables, NodeStore]:
    topology = Topology.from_frame(build_static_graph(FULL // 5, FULL - FULL // 5 - 10, 10))
    tables = HighResolutionLookupTables()
    return topology, tables, NodeStore.random(topology, DIM, tables, seed=0)


def _incremental(params: Params) -> Workload:
    """Two inputs by turns that differ in some pixels: each pass follows one that differs in as many.

    `before` sums edge by edge, as the incremental pass does, and so must equal it to the last bit. `strong` is the
    whole pass that is the fastest at this size; it adds in another order, which may take a state to the next bin.
    """
    topology, tables, store = _network()
    batch, changed = int(params["batch"]), int(params["changed"])

    def inputs(seed: int) -> dict[str, Any]:
        x = torch.rand(batch, len(topology.inputs), generator=torch.Generator().manual_seed(seed))
        other = x.clone()
        other[:, :changed] = 1 - other[:, :changed]
        return {"one": x, "other": other}

    def variant(run: Callable[[Any, NodeStore], Any]) -> Callable[[Any], Any]:
        def call(given: Any) -> list[torch.Tensor]:
            with torch.no_grad():
                return [run(given[name], store).planar for name in ("one", "other")]

        return call

    return Workload(
        inputs=inputs,
        variants={
            "before": variant(ForwardEngine(topology, tables, backend="gather")),
            "strong": variant(ForwardEngine(topology, tables, backend="sparse")),
            "best": variant(IncrementalPass(topology, tables)),
        },
        lossy={"strong": Lossy(_off_grid, 0.01, "share of states that lie in another bin")},
        units=2,
    )


def _timesteps(params: Params) -> Workload:
    topology, tables, store = _network()
    engine = ForwardEngine(topology, tables, backend="gather")

    def at_once(given: Any) -> torch.Tensor:
        with torch.no_grad():
            return engine(given["x"], store).planar

    def inputs(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return {"x": torch.rand(int(params["batch"]), len(topology.inputs), generator=generator)}

    return Workload(
        inputs=inputs,
        variants={
            "before": lambda given: propagate_stepwise(given["x"], store, topology, tables).planar,
            "best": at_once,
        },
    )


def _gpu(params: Params) -> Workload:
    """A batch's forward pass on the CPU and on the GPU, from samples on the CPU to read-outs there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    topology, tables, store = _network()
    here = {"before": torch.device("cpu"), "best": device}
    batch = int(params["batch"])

    def variant(where: torch.device) -> Callable[[Any], Any]:
        there = tables.to(where)
        engine, own = ForwardEngine(topology.to(where), there), store.to(where)

        def call(given: Any) -> torch.Tensor:
            with torch.no_grad():
                return engine(given["x"].to(where), own).readout.cpu()

        return call

    return Workload(
        inputs=lambda seed: {
            "x": torch.rand(batch, len(topology.inputs), generator=torch.Generator().manual_seed(seed))
        },
        variants={name: variant(where) for name, where in here.items()},
        lossy={"best": Lossy(_off_grid, 0.01, "share of read-outs that lie in another bin")},
    )


def _off_grid(result: Any, reference: Any) -> float:
    """Share of numbers that are off by more than rounding, of the part where it is largest."""
    return max(float(np.mean(np.abs(result[name] - reference[name]) > 1e-5)) for name in reference)


# --- mapped tables ----------------------------------------------------------------------------------------------------


@cache
def _mapped(mag_bins: int) -> tuple[HighResolutionLookupTables, HighResolutionLookupTables]:
    plain = HighResolutionLookupTables(BINS, mag_bins)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tables.npy"
        plain.save(path)
        return plain, plain.mapped(path)  # a mapping outlives the name of its file


def _lookups(params: Params) -> Workload:
    bins = int(params["mag_bins"])
    plain, mapped = _mapped(bins)

    def inputs(seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        return {"m": torch.randint(bins, (1000, DIM), generator=generator)}

    return Workload(
        inputs=inputs,
        variants={
            "before": lambda given: plain.lookup_magnitude(given["m"]),
            "best": lambda given: mapped.lookup_magnitude(given["m"]),
        },
    )


def _private(table: torch.Tensor) -> float:
    """Bytes of a table that are this process's alone: all of them, or the pages of a mapped file that it changed."""
    address, inside, is_file = table.data_ptr(), False, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8", errors="replace").splitlines():
        span = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)", line)
        if span is not None:
            inside = int(span[1], 16) <= address < int(span[2], 16)
            is_file = span[3] != "0"
        elif inside and is_file and line.startswith("Anonymous:"):
            return 1024 * float(line.split()[1])
    return float(table.numel() * table.element_size())


def _footprint(params: Params) -> Iterable[Counted]:
    """What a process holds of tables that it built, and of tables that it mapped and looked up all over."""
    bins = int(params["mag_bins"])
    plain, mapped = _mapped(bins)
    words = f"tables of {BINS} x {bins} bins, {plain.nbytes / 1024:.0f} KiB"
    for name, tables in (("before", plain), ("best", mapped)):
        tables.lookup_magnitude(torch.arange(0, bins, 64))
        # All tables of a file lie in one mapping.
        parts = [tables.cos] if name == "best" else [tables.cos, tables.sin, tables.mag, tables.mag_slope]
        yield Counted("private", sum(map(_private, parts)) / 1024, name, "KiB", words)
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    resident = float(next(line for line in status if line.startswith("VmRSS")).split()[1])
    share = 100 * plain.nbytes / 1024 / resident
    yield Counted("share", share, "before", "%", f"{words}, over all memory of a process that has torch")


SIZES: tuple[Params, ...] = tuple({"dim": dim, "nodes": nodes} for dim in (2, 5) for nodes in (1000, 10_000))
LARGE: Params = {"dim": 5, "nodes": 100_000}
PASSES: tuple[Params, ...] = tuple({"batch": b, "changed": c} for b in (1, 64) for c in (1, 20, 200))


def _timed(case: str, title: str, setup: Callable[[Params], Workload], grid: tuple[Params, ...], **more: Any) -> Case:
    given: dict[str, Any] = {"variants": ("before", "best"), "original": (setup,)} | more
    return Case(
        case, title, "torch", setup, grid=grid, quick_grid=grid[:1], budget=0.6 * len(grid), precision=0.01,
        processes=3, **given,
    )  # fmt: skip


CASES = (
    _timed("neurograph.spatial", "exact search in a ball tree, against one matrix product", _search("tree"), SIZES),
    _timed(
        "neurograph.ann", "approximate search with FAISS, against one matrix product", _search("ivf"),
        (*SIZES[2:], LARGE), values=_recall, quick_values=SIZES[2:3],
    ),
    _timed(
        "neurograph.incremental", "passes that compute what changed, against whole ones", _incremental, PASSES,
        variants=("before", "strong", "best"),
    ),
    _timed(
        "neurograph.timesteps", "all time steps at once, level by level, against one after another", _timesteps,
        ({"batch": 1}, {"batch": 64}),
    ),
    _timed(
        "neurograph.gpu", "forward pass of a batch on a GPU, against the CPU", _gpu,
        ({"batch": 1024},) if torch.cuda.is_available() else (),
    ),
    _timed(
        "neurograph.mapped", "lookups in memory-mapped tables, against plain ones", _lookups,
        ({"mag_bins": 1024}, {"mag_bins": 1 << 20}),
    ),
    Case(
        "neurograph.mapped_memory",
        "memory of the process's own that tables take",
        "torch",
        not_timed,
        values=_footprint,
        values_grid=({"mag_bins": 1024}, {"mag_bins": 1 << 22}),
        original=(HighResolutionLookupTables,),
        budget=1.0,
    ),
)  # fmt: skip
