"""Cases of our own claims about boolean_nca_cc: what is counted is what can be worked out by hand, and errors show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("boolean_nca_cc")

from boolean_nca_cc.circuits.spec import CircuitSpec
from boolean_nca_cc.config import FitConfig
from boolean_nca_cc.experiments.packed_throughput import LARGE
from boolean_nca_cc.experiments.settings import TrainSettings
from claimbench.cases.boolean_nca_cc import CASES, exports, studies
from claimbench.cases.boolean_nca_cc.circuits import SIZES
from claimbench.errors import CaseError
from claimbench.evaluate import evaluate
from claimbench.figures import matches
from claimbench.ledger import Claim, Figure, claim_ids, load_claims
from claimbench.record import Failure, Value
from claimbench.verdict import Verdict

BY_ID = {case.id: case for case in CASES}
CLAIMS = {claim.id: claim for claim in load_claims("boolean_nca_cc")}
TINY = TrainSettings(task="gray", bits=3, arity=2, hidden=2, width=1, fit=FitConfig(steps=60))


def _figures(claim: Claim) -> list[Figure]:
    found = [part.figure for part in claim.parts] or ([claim.figure] if claim.figure else [])
    return found + [demand.figure for demand in claim.fidelity]


def _values(case: str, **params: Any) -> dict[str, float]:
    found = list(BY_ID[case].values(params))  # type: ignore[misc]
    assert len({row.name for row in found}) == len(found)
    assert {row.variant for row in found} == {"best"}
    return {row.name: row.value for row in found}


def _asked(claim: str, case: str) -> set[str]:
    return {figure.quantity for figure in _figures(CLAIMS[claim]) if figure.case == case}


# --- claims and cases -------------------------------------------------------------------------------------------------


def test_every_id_of_the_ledger_has_its_claim() -> None:
    assert set(CLAIMS) == {name for name in claim_ids() if name.startswith("boolean.")}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_every_figure_has_a_case_points_and_variants_to_come_from(claim: Claim) -> None:
    for figure in _figures(claim):
        case = BY_ID[figure.case]
        if figure.quantity == "time":
            assert {figure.candidate, figure.baseline} <= set(case.variants)
            points = case.grid
        elif figure.quantity == "memory":
            points = case.memory_grid
        else:
            assert case.values is not None
            points = case.values_grid or case.grid
        found = [params for params in points if matches(params, figure.where)]
        assert found, figure
        assert not figure.group or any(figure.group in params for params in found)


def test_every_case_serves_a_claim() -> None:
    assert {figure.case for claim in CLAIMS.values() for figure in _figures(claim)} == set(BY_ID)


def test_only_the_study_and_the_trainings_are_long() -> None:
    long = [claim.id for claim in CLAIMS.values() if claim.duration == "long"]
    assert long == ["boolean.study.ours", "boolean.meta_learning.ours", "boolean.growth.ours"]


def test_a_quick_run_takes_little_of_the_others() -> None:
    assert len(BY_ID["boolean.analysis"].counted_points(True)) == 1
    full, quick = (BY_ID["boolean.packed_rate"].counted_points(short)[0]["rounds"] for short in (False, True))
    assert int(quick) < int(full)


# --- exports ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the small circuits, of 64 cases and 3 outputs."""
    monkeypatch.setattr(exports, "DEAD", {"small": 5})
    exports.exported.cache_clear()
    yield
    exports.exported.cache_clear()


@pytest.mark.usefixtures("small")
def test_every_format_is_right_and_an_error_in_each_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, whole_pruned, damaged, damaged_pruned = exports.exported()
    assert len(whole.netlist.gates) == len(damaged.netlist.gates) == 48
    assert len(whole_pruned.netlist.gates) < 48
    assert (whole.expected != damaged.expected).any()
    assert (damaged.expected == damaged_pruned.expected).all()
    for form in exports.READERS:
        assert _values("boolean.export", format=form) == {"differing_bits": 0, "planted_seen": 1}

    # Output 0 the other way round is wrong in each of the 64 cases, in each of the four circuits.
    spoil: dict[str, Callable[[str], str]] = {
        "C by gcc": lambda text: text.replace("y[0] = ", "y[0] = ~"),
        "Verilog by iverilog": lambda text: text.replace("assign y[0] = ", "assign y[0] = ~"),
        "BLIF": lambda text: "\n".join(_with_y0_inverted(text.splitlines())) + "\n",
    }
    write = exports.files_of
    for form, change in spoil.items():

        def spoilt(*given: Any, change: Callable[[str], str] = change) -> dict[str, str]:
            files = write(*given)
            return {name: text if name.endswith("_tb.v") else change(text) for name, text in files.items()}

        monkeypatch.setattr(exports, "files_of", spoilt)
        assert _values("boolean.export", format=form)["differing_bits"] == 4 * 64


def _with_y0_inverted(lines: list[str]) -> list[str]:
    place = next(place for place, line in enumerate(lines) if line.startswith(".names ") and line.endswith(" y0"))
    assert lines[place + 1] == "1 1"
    return [*lines[: place + 1], "0 1", *lines[place + 2 :]]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("form", "message"),
    [("C by gcc", "gcc, which is not on the path"), ("Verilog by iverilog", "install it .Debian: iverilog")],
)
def test_a_tool_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, form: str, message: str) -> None:
    monkeypatch.setattr(exports.shutil, "which", lambda _name: None)
    with pytest.raises(CaseError, match=message):
        _values("boolean.export", format=form)


def test_a_format_that_could_not_be_read_leaves_the_claim_open(builder: Any) -> None:
    rows: list[Any] = [
        Value(case="boolean.export", params={"format": form}, name=name, variant="best", value=value)
        for form in ("C by gcc", "BLIF", "JSON")
        for name, value in (("differing_bits", 0), ("planted_seen", 1))
    ]
    claim = CLAIMS["boolean.export.ours"]
    missing = Failure(
        case="boolean.export", params={"format": "Verilog by iverilog"}, stage="values", reason="CaseError: iverilog"
    )
    (found,) = evaluate(builder.write([builder.start(), *rows, missing]), [claim]).findings
    assert found.verdict is Verdict.ERROR
    assert "differing bits, Verilog by iverilog (not measured)" in found.reason
    verilog = {"params": {"format": "Verilog by iverilog"}}
    other = [row.model_copy(update=verilog) for row in rows if row.params["format"] == "BLIF"]
    (found,) = evaluate(builder.write([builder.start(), *rows, *other], "other"), [claim]).findings
    assert found.verdict is Verdict.REPRODUCED


# --- speed, study, analysis -------------------------------------------------------------------------------------------


def test_the_large_circuit_is_the_same_in_both_cases_of_packed_evaluation() -> None:
    n_in, n_out, arity, hidden, width = SIZES["large"]
    assert CircuitSpec.default(n_in, n_out, arity=arity, hidden=hidden, width=width) == LARGE
    assert BY_ID["boolean.packed_rate"].values_grid[0]["threads"] == 2


def test_packed_evaluation_has_a_rate_roofs_and_no_wrong_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "LARGE", CircuitSpec(((6, 1), (8, 4), (2, 1)), arity=3))
    found = _values("boolean.packed_rate", threads=1, rounds=1)
    assert _asked("boolean.packed.ours", "boolean.packed_rate") <= set(found)
    assert found["differing_bits"] == 0
    roof = min(found["arithmetic_roof"], found["memory_roof"])
    assert found["share"] == pytest.approx(100 * found["rate"] / roof)
    right = studies.evaluate_packed
    monkeypatch.setattr(studies, "evaluate_packed", lambda *given: right(*given) ^ 1)
    # Case 0 of each word of each output: two words, two outputs.
    assert _values("boolean.packed_rate", threads=1, rounds=1)["differing_bits"] == 4


@pytest.mark.slow
def test_a_study_is_timed_and_its_sample_is_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "MEDIUM", TINY)
    monkeypatch.setattr(studies, "DEAD", (5, 40))
    monkeypatch.setattr(studies, "SAMPLE", 2)
    with pytest.raises(ValueError, match="dead asks for 40"):
        _values("boolean.study", patterns=4, steps=10)
    monkeypatch.setattr(studies, "DEAD", (2, 5))
    found = _values("boolean.study", patterns=4, steps=10)
    assert _asked("boolean.study.ours", "boolean.study") - {"retrained_40"} <= set(found)
    assert found["pattern_steps"] == pytest.approx(40 / found["seconds"])
    assert found["sample_off"] == pytest.approx(0, abs=1e-6)
    others = studies.fit

    def elsewhere(*given: Any, alive: Any = None) -> Any:
        return others(*given) if alive is None else others(*given, alive=np.ones_like(alive))

    monkeypatch.setattr(studies, "fit", elsewhere)
    assert _values("boolean.study", patterns=4, steps=10)["sample_off"] > 0


def test_worst_damage_is_no_better_than_chance_and_criticality_is_that_of_floats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(studies, "MEDIUM", TINY)
    monkeypatch.setattr(studies, "RANDOM_PATTERNS", 8)
    found = _values("boolean.analysis", wiring=0, dead=3)
    assert _asked("boolean.analysis.ours", "boolean.analysis") <= set(found)
    assert found["times_the_mean"] >= found["times_the_worst"] >= 1
    assert found["criticality_off"] < 1e-9
