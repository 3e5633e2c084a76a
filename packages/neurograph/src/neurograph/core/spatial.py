"""Other ways to find the nodes that resonate most, behind one form, with what they find measured.

Each node is a point (cos b, sin b) of 2D numbers and each context a point (cos a, −sin a), all of length √D. So

    |x − y|² = 2D − 2 s,

and the largest score s is the nearest neighbour: any index for inner products or for distances will do.

=========== ======== ================ ==================================================================================
method      extra    finds            how
=========== ======== ================ ==================================================================================
exhaustive  –        exactly          one matrix product and whole numbers (`neurograph.core.resonance`)
tree        sklearn  exactly          a ball tree; more neighbours are asked for until none can have been missed
flat        faiss    exactly          FAISS, all inner products in single precision, checked in the same way
ivf         faiss    most             FAISS, the lists of the cells nearest to the context
hnsw        faiss    most             FAISS, a walk through a navigable small-world graph
=========== ======== ================ ==================================================================================

Exact ones agree to the last node, ties included. A tree pays in few dimensions: seen on one core with random phases, it
overtakes the product at about 10⁴ nodes for D = 2 and 4, and never up to 10⁵ for D = 8, where in 16 dimensions there is
little to skip. The approximate ones answer sooner from some thousands of nodes on, and miss some: see `recall_at_k`.

>>> own = torch.tensor([[0, 0], [4, 4], [1, 7]])
>>> nearest(torch.tensor([[0, 2]]), own, 8, 2).index.tolist()
[[2, 0]]
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from neurograph.core.resonance import NONE, UNIT, best, phasor_rows, unit_scores
from neurograph.errors import ConfigError, MissingExtraError, TableError

__all__ = [
    "METHODS", "ExhaustiveIndex", "FaissIndex", "Method", "Nearest", "SpatialIndex", "TreeIndex", "build_index",
    "nearest", "recall_at_k",
]  # fmt: skip

Method = Literal["exhaustive", "tree", "flat", "ivf", "hnsw"]
METHODS: tuple[Method, ...] = ("exhaustive", "tree", "flat", "ivf", "hnsw")
"""By name; all but the first need an extra."""

_MORE = 8
"""Neighbours asked for beyond k."""

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Nearest:
    """Nodes of highest score, best first.

    Args:
        index: rows; −1 where there are fewer than k nodes, or an approximate search found fewer.
        units: whole-number scores, in 2⁻³⁰.
    """

    index: Int64[Tensor, "Q k"]
    units: Int64[Tensor, "Q k"]

    @property
    def score(self) -> Float[Tensor, "Q k"]:
        """Σ_d cos(…); −inf where there is no node."""
        return (self.units.double() * UNIT).masked_fill(self.index < 0, -torch.inf)


@runtime_checkable
class SpatialIndex(Protocol):
    """Nodes, laid out for one way of searching."""

    def nearest(self, ctx: Int[Tensor, "Q D"], k: int) -> Nearest:
        """Nodes of highest score for each context.

        Args:
            ctx: phase indices of contexts; they are taken modulo P.
            k: how many.

        Returns:
            Rows and scores.

        Raises:
            ConfigError: k < 1.
            TableError: contexts of another length than the nodes' phases, or not integers.
        """


def _nodes(phase: Tensor, phase_bins: int) -> Tensor:
    if phase.is_floating_point() or phase.dim() != 2 or 0 in phase.shape:
        raise TableError(
            f"nodes to search are a table of phase indices, nodes × D; got {phase.dtype} of {tuple(phase.shape)}. "
            "Quantise phases first, and give at least one node."
        )
    return phase.long().remainder(phase_bins)


def _asked(ctx: Tensor, owner: Any, k: int) -> Tensor:
    if k < 1:
        raise ConfigError(f"a search asks for at least one node; got k = {k}. Ask for more.")
    if ctx.is_floating_point() or ctx.dim() != 2 or ctx.shape[1] != owner.phase.shape[1]:
        raise TableError(
            f"contexts are {owner.phase.shape[1]} phase indices each, one row a context; got {ctx.dtype} of "
            f"{tuple(ctx.shape)}. Quantise states to phases first."
        )
    return ctx.long().remainder(owner.phase_bins)


@dataclass
class ExhaustiveIndex:
    """All scores.

    Args:
        phase: own phase indices of nodes; they are taken modulo P.
        phase_bins: P.
    """

    phase: Int[Tensor, "N D"]
    phase_bins: int

    def __post_init__(self) -> None:
        self.phase = _nodes(self.phase, self.phase_bins)

    def nearest(self, ctx: Int[Tensor, "Q D"], k: int) -> Nearest:
        """See `SpatialIndex.nearest`."""
        found = best(_asked(ctx, self, k)[:, None], self.phase, self.phase_bins, k)
        return Nearest(found.index[:, 0], found.units[:, 0])


class TreeIndex:
    """A ball tree of scikit-learn.

    Args:
        phase: own phase indices of nodes; they are taken modulo P.
        phase_bins: P.
        leaf_size: nodes that are compared one by one.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """

    def __init__(self, phase: Int[Tensor, "N D"], phase_bins: int, *, leaf_size: int = 40) -> None:
        try:
            from sklearn.neighbors import BallTree  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError(
                "method='tree' needs scikit-learn, which is not installed. Install the extra `sklearn` "
                "(pip install './packages/neurograph[sklearn]'), or search with method='exhaustive'."
            ) from error
        self.phase, self.phase_bins = _nodes(phase, phase_bins), phase_bins
        self._tree = BallTree(phasor_rows(self.phase, phase_bins).cpu().numpy(), leaf_size=leaf_size)

    def nearest(self, ctx: Int[Tensor, "Q D"], k: int) -> Nearest:
        """See `SpatialIndex.nearest`."""
        dim = self.phase.shape[1]

        def ask(points: _Array, m: int) -> tuple[_Array, _Array]:
            distance, index = self._tree.query(points, m)
            return index, dim - distance[:, -1] ** 2 / 2

        # Distances of double precision: what is not found scores less than the last one found, but for rounding.
        return _certified(ask, self, ctx, k, np.float64, 1e-9 * dim)


class FaissIndex:
    """An index of FAISS over inner products, on the CPU.

    Args:
        phase: own phase indices of nodes; they are taken modulo P.
        phase_bins: P.
        kind: flat, ivf or hnsw.
        lists: cells of ivf; None = √N.
        probes: cells that ivf looks into.
        links: of each node, for hnsw.
        effort: nodes that hnsw keeps in view, at least.

    Raises:
        MissingExtraError: FAISS is not installed.

    Reference: J. Johnson, M. Douze, H. Jégou, *Billion-scale similarity search with GPUs*, 2017, arXiv:1702.08734;
    Y. Malkov, D. Yashunin, *Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
    World graphs*, 2016, arXiv:1603.09320.
    """

    def __init__(
        self,
        phase: Int[Tensor, "N D"],
        phase_bins: int,
        *,
        kind: Literal["flat", "ivf", "hnsw"] = "flat",
        lists: int | None = None,
        probes: int = 8,
        links: int = 32,
        effort: int = 64,
    ) -> None:
        faiss = _faiss(kind)
        for name, value in {
            "lists": 1 if lists is None else lists,
            "probes": probes,
            "links": links,
            "effort": effort,
        }.items():
            if value < 1:
                raise ConfigError(f"FAISS looks into at least one of its parts; got {name} = {value}. Give more.")
        self.phase, self.phase_bins, self.kind = _nodes(phase, phase_bins), phase_bins, kind
        n, width = len(phase), 2 * phase.shape[1]
        rows = phasor_rows(self.phase, phase_bins, dtype=torch.float32).cpu().numpy()
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # several build another graph each time
        try:
            if kind == "flat":
                self._index = faiss.IndexFlatIP(width)
            elif kind == "hnsw":
                self._index = faiss.IndexHNSWFlat(width, links, faiss.METRIC_INNER_PRODUCT)
                self._index.hnsw.efSearch = effort
            else:
                cells = min(n, round(n**0.5) if lists is None else lists)
                self._quantizer = faiss.IndexFlatIP(width)
                self._index = faiss.IndexIVFFlat(self._quantizer, width, cells, faiss.METRIC_INNER_PRODUCT)
                self._index.cp.min_points_per_centroid = 1
                self._index.nprobe = min(cells, probes)
                self._index.train(rows)
            self._index.add(rows)
        finally:
            faiss.omp_set_num_threads(threads)

    def nearest(self, ctx: Int[Tensor, "Q D"], k: int) -> Nearest:
        """See `SpatialIndex.nearest`."""
        dim = self.phase.shape[1]

        def ask(points: _Array, m: int) -> tuple[_Array, _Array]:
            product, index = self._index.search(points, m)
            return index, product[:, -1]

        if self.kind == "flat":
            # As `float_bound`, for rows that are rounded from double precision: each number is off by u = 2⁻²⁴.
            return _certified(ask, self, ctx, k, np.float32, 1.01 * dim * (3 * dim + 8) * 2.0**-24)
        context = _asked(ctx, self, k)
        points = phasor_rows(context, self.phase_bins, conjugate=True, dtype=torch.float32).cpu().numpy()
        index, _ = ask(points, min(k, len(self.phase)))
        return _ranked(context, torch.from_numpy(index).to(context.device), self, k)


def _faiss(kind: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its generated bindings warn on newer Pythons
            import faiss
    except ImportError as error:
        raise MissingExtraError(
            f"method={kind!r} needs FAISS, which is not installed. Install the extra `faiss` "
            "(pip install './packages/neurograph[faiss]'), or search with method='exhaustive'."
        ) from error
    return faiss


def _ranked(context: Tensor, index: Tensor, owner: Any, k: int) -> Nearest:
    """The k best of some rows, by whole numbers, ties by row."""
    index = index.sort(dim=1).values
    units = unit_scores(context[:, None], owner.phase[index.clamp(min=0)], owner.phase_bins)
    units.masked_fill_(index < 0, NONE)
    place = units.sort(dim=1, descending=True, stable=True)
    found = Nearest(index.gather(1, place.indices)[:, :k], place.values[:, :k])
    short = k - found.index.shape[1]
    if short <= 0:
        return found
    pad = (0, short)
    return Nearest(
        torch.nn.functional.pad(found.index, pad, value=-1), torch.nn.functional.pad(found.units, pad, value=NONE)
    )


def _certified(
    ask: Callable[[_Array, int], tuple[_Array, _Array]], owner: Any, ctx: Tensor, k: int, dtype: Any, slack: float
) -> Nearest:
    """Asks for more and more neighbours, until what was not returned scores less than the k-th best for certain."""
    context = _asked(ctx, owner, k)
    points = phasor_rows(context, owner.phase_bins, conjugate=True).cpu().numpy().astype(dtype)
    n, m = len(owner.phase), min(len(owner.phase), k + _MORE)
    index = torch.full((len(context), k), -1, dtype=torch.long, device=context.device)
    units = torch.full_like(index, NONE)
    open_ = np.arange(len(context))
    while len(open_):
        rows, last = ask(points[open_], m)
        where = torch.from_numpy(open_).to(context.device)
        found = _ranked(context[where], torch.from_numpy(rows).to(context.device).long(), owner, k)
        index[where], units[where] = found.index, found.units
        worst = found.units[:, -1].cpu().numpy() * UNIT
        open_ = open_[(m < n) & (worst <= last + slack)]
        m = min(n, 2 * m)
    return Nearest(index, units)


def build_index(method: Method, phase: Int[Tensor, "N D"], phase_bins: int, **settings: Any) -> SpatialIndex:
    """Lays nodes out for searching.

    Args:
        method: one of `METHODS`.
        phase: own phase indices of nodes.
        phase_bins: P.
        settings: of the method's class.

    Returns:
        The index. It does not follow later changes of the phases.

    Raises:
        ConfigError: a method that does not exist, or settings below 1.
        MissingExtraError: what the method needs is not installed.
        TableError: nodes that are no table of indices, or none at all.
    """
    if method not in METHODS:
        raise ConfigError(f"a search is one of {', '.join(METHODS)}; got {method!r}. Choose one of them.")
    if method == "exhaustive":
        return ExhaustiveIndex(phase, phase_bins, **settings)
    if method == "tree":
        return TreeIndex(phase, phase_bins, **settings)
    return FaissIndex(phase, phase_bins, kind=cast(Any, method), **settings)


def nearest(
    ctx: Int[Tensor, "Q D"],
    phase: Int[Tensor, "N D"],
    phase_bins: int,
    k: int,
    *,
    method: Method = "exhaustive",
    **settings: Any,
) -> Nearest:
    """Builds an index and searches it.

    Args:
        ctx: phase indices of contexts.
        phase: own phase indices of nodes.
        phase_bins: P.
        k: how many.
        method: one of `METHODS`.
        settings: of the method's class.

    Returns:
        Rows and scores.

    Raises:
        ConfigError: a method that does not exist, or k < 1.
        MissingExtraError: what the method needs is not installed.
        TableError: contexts of another length than the nodes' phases, or not integers.
    """
    return build_index(method, phase, phase_bins, **settings).nearest(ctx, k)


def recall_at_k(found: Nearest, truth: Nearest) -> float:
    """Share of what was found that belongs there: nodes that score at least what the k-th best node does.

    Args:
        found: by any search.
        truth: by an exact one, of the same contexts and k.

    Returns:
        From 0 to 1; nodes that tie with the k-th best count as right.
    """
    there = truth.index >= 0
    least = truth.units.masked_fill(~there, 1 << 62).amin(1, keepdim=True)
    return float(((found.index >= 0) & (found.units >= least)).sum()) / max(1, int(there.sum()))
