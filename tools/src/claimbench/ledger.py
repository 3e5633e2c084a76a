"""The ledger: every published figure as a claim, kept as strict TOML beside the code.

Bands are read into one form, the closed interval [low, high] of the figure in its own unit, so that a verdict is a
comparison of two intervals.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from claimbench.errors import LedgerError

__all__ = [
    "DEFAULT_TOLERANCE",
    "Band",
    "Claim",
    "Fidelity",
    "Figure",
    "Part",
    "Source",
    "claim_ids",
    "figure_of_log_ratio",
    "load_claims",
    "packages",
    "select",
]

DEFAULT_TOLERANCE = 0.2
"""Share of the published effect, as a log ratio, by which an "about" figure may be missed."""

PACKAGES = ("boolean_nca_cc", "neurograph", "resu", "spd", "dredge")

Transform = Literal["ratio", "speedup", "less_time", "overhead", "value"]


def figure_of_log_ratio(log_ratio: float, transform: Transform) -> float:
    """Turn log(candidate / baseline) into the figure a note prints.

    Args:
        log_ratio: Natural logarithm of candidate time (or bytes, or count) over baseline.
        transform: `ratio` e^L; `speedup` e^−L; `less_time` 100·(1 − e^L) in per cent; `overhead` 100·(e^L − 1) in per
            cent; `value` leaves the number alone.

    Returns:
        The figure.

    Example:
        >>> figure_of_log_ratio(math.log(0.5), "less_time")
        50.0
    """
    match transform:
        case "ratio":
            return math.exp(log_ratio)
        case "speedup":
            return math.exp(-log_ratio)
        case "less_time":
            return 100 * (1 - math.exp(log_ratio))
        case "overhead":
            return 100 * (math.exp(log_ratio) - 1)
        case "value":
            return log_ratio


def _log_ratio_of_figure(figure: float, transform: Transform) -> float:
    match transform:
        case "ratio":
            return math.log(figure)
        case "speedup":
            return -math.log(figure)
        case "less_time":
            return math.log(1 - figure / 100)
        case "overhead":
            return math.log(1 + figure / 100)
        case "value":
            return figure


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Strict):
    """Where a figure was published and how it came about.

    Attributes:
        note: Title of the note; empty for a claim of ours.
        where: Heading under which the figure stands.
        provenance: measured by its authors, expected, derived from other figures, stated without a figure's source, or
            ours.
        hardware: Hardware that the note names, empty where it names none.
    """

    note: str
    where: str
    provenance: Literal["measured", "expected", "derived", "stated", "ours"]
    hardware: str = ""


class Band(_Strict):
    """How a published figure is read. Exactly one reading is given.

    Attributes:
        about: The figure itself; ± `points` in its own unit, or ± `tolerance` of the effect as a log ratio.
        between: Lower and upper end, as published.
        at_least: Lower end.
        at_most: Upper end.
        up_to: Upper end of a benefit; anything above no effect counts.
        same: No difference, within this margin in the figure's unit.
        exact: Exactly this number.
        open: A claim of ours without a bar: the figure is reported, and no band judges it.
        points: Half width of an "about" band in the figure's own unit.
        tolerance: Half width of an "about" band as a share of the log ratio.
        tolerance_reason: Why the half width is not the default.
    """

    about: float | None = None
    between: tuple[float, float] | None = None
    at_least: float | None = None
    at_most: float | None = None
    up_to: float | None = None
    same: float | None = Field(default=None, gt=0)
    exact: float | None = None
    open: bool = False
    points: float | None = Field(default=None, gt=0)
    tolerance: float | None = Field(default=None, gt=0)
    tolerance_reason: str = ""

    @model_validator(mode="after")
    def _one_reading(self) -> Band:
        readings = [
            name
            for name in ("about", "between", "at_least", "at_most", "up_to", "same", "exact")
            if getattr(self, name) is not None
        ]
        if len(readings) + self.open != 1:
            raise ValueError(f"a band has exactly one reading; got {readings or 'none'}; keep one")
        if self.about is None and (self.points is not None or self.tolerance is not None):
            raise ValueError("points and tolerance belong to an 'about' band; remove them or use about")
        if self.points is not None and self.tolerance is not None:
            raise ValueError("an 'about' band has points or a tolerance, not both; keep one")
        if (self.points is not None or self.tolerance is not None) and not self.tolerance_reason:
            raise ValueError("a band other than ±20 % of the effect needs a written tolerance_reason")
        if self.between is not None and not self.between[0] < self.between[1]:
            raise ValueError(f"between needs a lower end below the upper one; got {self.between}")
        return self

    def bounds(self, transform: Transform) -> tuple[float, float]:
        """The band as [low, high] in the figure's own unit.

        Args:
            transform: How the figure comes from a log ratio; an "about" band is symmetric in the log ratio.

        Returns:
            Lower and upper end, infinite where there is none.
        """
        if self.about is not None:
            if self.points is not None:
                return self.about - self.points, self.about + self.points
            share = DEFAULT_TOLERANCE if self.tolerance is None else self.tolerance
            centre = _log_ratio_of_figure(self.about, transform)
            ends = [figure_of_log_ratio(centre * factor, transform) for factor in (1 - share, 1 + share)]
            return min(ends), max(ends)
        if self.between is not None:
            return self.between
        if self.at_least is not None:
            return self.at_least, math.inf
        if self.at_most is not None:
            return -math.inf, self.at_most
        if self.up_to is not None:
            return figure_of_log_ratio(0.0, transform), self.up_to
        if self.same is not None:
            centre = figure_of_log_ratio(0.0, transform)
            return centre - self.same, centre + self.same
        if self.exact is not None:
            return self.exact, self.exact
        return -math.inf, math.inf

    def words(self, unit: str) -> str:
        """The band in words, for tables.

        Args:
            unit: Unit printed after each number.

        Returns:
            For example `about 55.9 %, ±10`.
        """
        if self.about is not None:
            width = f"±{self.points:g}" if self.points is not None else f"±{(self.tolerance or DEFAULT_TOLERANCE):.0%}"
            suffix = "" if self.points is not None else " of the effect"
            return f"about {self.about:g}{unit}, {width}{suffix}"
        if self.between is not None:
            return f"{self.between[0]:g} to {self.between[1]:g}{unit}"
        for name, word in (("at_least", "at least"), ("at_most", "at most"), ("up_to", "up to"), ("exact", "exactly")):
            value = getattr(self, name)
            if value is not None:
                return f"{word} {value:g}{unit}"
        return f"same, ±{self.same:g}{unit}" if self.same is not None else "no bar"


class Figure(_Strict):
    """How the figure is made from what a run measured.

    Attributes:
        case: The case that measures it.
        quantity: `time` (pair ratios), `memory` (peak bytes of a process of its own), `compile` (first call), or the
            name of a value that the case counts or checks.
        candidate: The variant in the numerator.
        baseline: The variant in the denominator; empty for a plain value.
        minus: A second candidate whose figure is taken off the first one's (a gain in points).
        transform: How the figure comes from the ratio.
        where: Only rows of the grid with these parameters.
        aggregate: `mean` over the rows, the `worst` row (largest value), `each` row on its own, or the `spread`
            (largest distance of a group's mean from the mean of all groups).
        group: Parameter that makes the groups of a spread, or the rows of `each`.
        clock: `process` CPU time of all threads, or `wall`; on a GPU the device's own clock stands for both.
    """

    case: str
    quantity: str = "time"
    candidate: str = ""
    baseline: str = ""
    minus: str = ""
    transform: Transform = "ratio"
    where: dict[str, str | int | float] = Field(default_factory=dict)
    aggregate: Literal["mean", "worst", "each", "spread"] = "mean"
    group: str = ""
    clock: Literal["process", "wall"] = "process"

    @model_validator(mode="after")
    def _fits(self) -> Figure:
        if self.minus and (self.quantity != "time" or self.transform not in {"less_time", "overhead"}):
            raise ValueError("a gain in points is a difference of percentages of time; use less_time or overhead")
        if self.transform == "value" and self.baseline:
            raise ValueError("a plain value has no baseline; remove it or choose a ratio transform")
        if self.transform != "value" and not (self.candidate and self.baseline):
            raise ValueError(f"{self.transform} needs a candidate and a baseline; name both variants")
        if self.aggregate == "spread" and not self.group:
            raise ValueError("a spread needs the parameter that makes its groups; set group")
        return self


class Part(_Strict):
    """One of several figures that a claim makes together.

    Attributes:
        label: What it is.
        figure: How it is measured.
        band: How it is read.
        unit: Its unit.
        better: Which direction is better.
    """

    label: str
    figure: Figure
    band: Band
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"


class Fidelity(_Strict):
    """A machine-independent figure of the original that a rebuilt variant must carry.

    Attributes:
        figure: What is compared.
        low: Lowest value of the original.
        high: Highest value of the original.
        slack: How far outside the range, as a share of its nearer end, is still faithful.
        source: Where the range comes from.
    """

    figure: Figure
    low: float
    high: float
    slack: float = 0.1
    source: str

    def bounds(self) -> tuple[float, float]:
        """The range with its slack."""
        return self.low - self.slack * abs(self.low), self.high + self.slack * abs(self.high)


def _check_band(name: str, band: Band, transform: Transform) -> None:
    """Refuse a band that no figure of this transform can lie in, when it is built and not when it is judged."""
    try:
        low, high = band.bounds(transform)
    except ValueError as error:
        raise ValueError(f"{name}: about {band.about:g} is no {transform} that time can have; correct it") from error
    if low > high or (low == high and band.exact is None):
        raise ValueError(f"{name}: a band has a lower end below its upper one; got {low:g} to {high:g}; correct it")


class Claim(_Strict):
    """One published figure, or one of ours, with everything needed to judge it.

    Attributes:
        id: Its name in the ledger, for example `boolean.update.mean`.
        title: One line for a table.
        published: The figure as printed, in words.
        unit: Unit of the figure, printed after numbers.
        source: Where it comes from.
        kind: What sort of figure it is.
        band: How it is read.
        better: Which direction is better, where one is; beyond the band on that side the verdict is `exceeded`.
        figure: How it is measured; absent for a `stated` claim.
        answered_by: For a `stated` claim, the test that answers it, as `path::name`.
        parts: For a claim that makes several figures together, each with its own band; `figure` is then the first.
        fidelity: Figures of the original that a rebuilt variant must carry.
        duration: `quick` and `normal` belong to every bench, `long` to `make bench-long`.
        needs: Device without which the verdict is `hardware_missing`.
        plain: One plain sentence on what the figure means to a user.
        expected: What a study with throw-away code found, in words.
    """

    id: Annotated[str, Field(pattern=r"^[a-z]+(\.[a-z0-9_]+)+$")]
    title: str
    published: str
    unit: str = ""
    source: Source
    kind: Literal["ratio", "percentage", "bytes", "count", "time", "slope", "exactness", "statement"]
    band: Band = Band(open=True)
    better: Literal["higher", "lower", "neither"] = "neither"
    figure: Figure | None = None
    answered_by: str = ""
    parts: tuple[Part, ...] = ()
    fidelity: tuple[Fidelity, ...] = ()
    duration: Literal["quick", "normal", "long"] = "normal"
    needs: Literal["cpu", "cuda"] = "cpu"
    plain: str
    expected: str = ""

    @model_validator(mode="before")
    @classmethod
    def _first_part_is_the_figure(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and fields.get("parts"):
            if "figure" in fields or "band" in fields:
                raise ValueError("a claim with parts has its figures and bands in them; remove figure and band")
            first = fields["parts"][0]
            unit = fields.get("unit") or first.get("unit", "")
            fields = fields | {"figure": first["figure"], "band": first["band"], "unit": unit}
        return fields

    @model_validator(mode="after")
    def _answerable(self) -> Claim:
        if (self.figure is None) == (not self.answered_by):
            raise ValueError(f"{self.id}: a claim has a figure or the test that answers it; give exactly one")
        if self.kind == "statement" and self.figure is not None:
            raise ValueError(f"{self.id}: a statement is answered by a test; remove its figure")
        labels = [part.label for part in self.parts]
        if len(set(labels)) != len(labels):
            raise ValueError(f"{self.id}: each part has a label of its own; got {labels}")
        for part in self.parts or ((self,) if self.figure else ()):
            _check_band(self.id, part.band, part.figure.transform if part.figure else "value")
        return self

    @property
    def package(self) -> str:
        """Import name of the package that the claim is about."""
        prefix = self.id.split(".")[0]
        return next((name for name in PACKAGES if name.split("_")[0] == prefix), prefix)

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases that its figures, and the fidelity of what was rebuilt, are measured by."""
        figures = [self.figure] if self.figure else []
        figures += [part.figure for part in self.parts] + [demand.figure for demand in self.fidelity]
        return tuple(dict.fromkeys(figure.case for figure in figures))

    @property
    def ours(self) -> bool:
        """Whether the claim is of our own redesign, never a stand-in for a published figure."""
        return self.source.provenance == "ours"

    def limits(self) -> tuple[float, float]:
        """The band in the figure's own unit."""
        return self.band.bounds(self.figure.transform if self.figure else "value")


def packages() -> tuple[str, ...]:
    """Import names of the packages under test, in the order of the tables."""
    return PACKAGES


@cache
def claim_ids() -> tuple[str, ...]:
    """Every id of the ledger, built or not, in its order.

    Returns:
        The ids of `claims/ids.txt`.
    """
    text = resources.files("claimbench").joinpath("claims/ids.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


@cache
def load_claims(package: str | None = None) -> tuple[Claim, ...]:
    """Read the claims of one package, or of all.

    Args:
        package: Import name, or None for all.

    Returns:
        The claims in the order of the ledger.

    Raises:
        LedgerError: For TOML that does not parse, a field that does not fit, or an id given twice.
    """
    found: list[Claim] = []
    for name in PACKAGES if package is None else (package,):
        path = resources.files("claimbench").joinpath(f"claims/{name}.toml")
        if not path.is_file():
            continue
        try:
            found += [Claim.model_validate(row) for row in tomllib.loads(path.read_text(encoding="utf-8"))["claim"]]
        except (tomllib.TOMLDecodeError, ValidationError, KeyError) as error:
            raise LedgerError(f"claims/{name}.toml cannot be read: {error}; correct it") from error
    ids = [claim.id for claim in found]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise LedgerError(f"each id stands once in the ledger; given twice: {', '.join(twice)}; remove one of each")
    return tuple(found)


def select(claims: Iterable[Claim], patterns: Iterable[str]) -> tuple[Claim, ...]:
    """Choose claims by id or by the beginning of an id.

    Args:
        claims: The claims to choose from.
        patterns: Ids, or beginnings that end at a dot (`boolean.update`); none chooses all.

    Returns:
        The chosen claims in ledger order.

    Raises:
        LedgerError: For a pattern that no claim answers to.
    """
    claims, patterns = tuple(claims), tuple(patterns)
    if not patterns:
        return claims

    def answers(claim: Claim, pattern: str) -> bool:
        return claim.id == pattern or claim.id.startswith(pattern.rstrip(".") + ".")

    for pattern in patterns:
        if not any(answers(claim, pattern) for claim in claims):
            known = ", ".join(claim.id for claim in claims[:5])
            raise LedgerError(f"no claim is called {pattern!r}; `claimbench list` prints all (such as {known})")
    return tuple(claim for claim in claims if any(answers(claim, pattern) for pattern in patterns))
