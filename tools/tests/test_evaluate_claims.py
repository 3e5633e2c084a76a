"""What decides a claim beside its figure: parts, holes, faithfulness, outputs, failures, hardware and older records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from claimbench.evaluate import evaluate
from claimbench.findings import Finding
from claimbench.ledger import Band, Claim, Fidelity, Figure, Part, claim_ids
from claimbench.record import End, Environment, Failure, Gate, Probe, Record, Samples, Value
from claimbench.verdict import Verdict

Find = Callable[..., Finding]
Grid = Callable[..., list[Samples]]
END = End(complete=True, seconds=1.0)


# --- parts, and grids with holes --------------------------------------------------------------------------------------


def part(label: str, where: dict[str, Any], band: Band, **figure: Any) -> Part:
    fields = {
        "case": "boolean.update",
        "candidate": "after",
        "baseline": "before",
        "transform": "speedup",
        "where": where,
    }
    return Part(label=label, figure=Figure.model_validate(fields | figure), band=band, unit="×", better="higher")


def parted(builder: Any, *parts: Part) -> Claim:
    fields = builder.claim("boolean.parts", Band(open=True)).model_dump(exclude={"figure", "band", "parts"})
    return Claim.model_validate(fields | {"parts": [p.model_dump() for p in parts]})


def test_parts_are_judged_by_their_own_bands(builder: Any, grid: Grid) -> None:
    claim = parted(
        builder,
        part("small", {"size": "s"}, Band(at_least=4.0)),
        part("large", {"size": "l"}, Band(at_least=4.0)),
    )
    record = builder.write([builder.start(), *grid(builder, {"s": 0.2, "l": 0.5}), END])
    (found,) = evaluate(record, [claim]).findings
    assert [(row.label, row.verdict) for row in found.rows] == [
        ("small", Verdict.REPRODUCED),
        ("large", Verdict.NOT_REPRODUCED),
    ]
    assert [row.estimate for row in found.rows] == pytest.approx([5.0, 2.0], rel=0.03)
    assert [row.band for row in found.rows] == ["at least 4×"] * 2
    assert found.verdict is Verdict.PARTLY


@pytest.mark.parametrize("failed", [True, False])
def test_a_part_without_a_measurement_is_not_dropped(builder: Any, failed: bool, grid: Grid) -> None:
    claim = parted(
        builder, part("small", {"size": "s"}, Band(at_least=4.0)), part("large", {"size": "l"}, Band(at_least=4.0))
    )
    rows: list[Any] = grid(builder, {"s": 0.2})
    if failed:
        rows += [Failure(case="boolean.update", params={"size": "l"}, stage="time", reason="MemoryError: no")]
    (found,) = evaluate(builder.write([builder.start(), *rows, END]), [claim]).findings
    assert found.verdict is (Verdict.ERROR if failed else Verdict.INCONCLUSIVE)
    assert "× (reproduced)" in found.reason
    assert "large (not measured)" in found.reason


@pytest.mark.parametrize("aggregate", ["mean", "worst", "each"])
def test_a_grid_with_a_hole_is_not_called_reproduced(builder: Any, find: Find, aggregate: str, grid: Grid) -> None:
    hole = Failure(case="boolean.update", params={"size": "l"}, stage="time", reason="the worker died of SIGKILL")
    found = find([*grid(builder, {"s": 0.2, "m": 0.2}), hole], Band(at_least=50.0), aggregate=aggregate)
    assert found.verdict is (Verdict.ERROR if aggregate == "each" else Verdict.INCONCLUSIVE)
    assert "size=l" in found.reason
    assert len(found.rows) == 2


# --- reconstructions and outputs that are wrong -----------------------------------------------------------------------
FAITHFUL = Figure(case="boolean.update", candidate="before", baseline="none", transform="overhead")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (300, 700, Verdict.INCORRECT),  # before is +100 % over none
        (60, 150, Verdict.REPRODUCED),
        (108, 150, Verdict.REPRODUCED),  # within the slack of 10 %: 97.2
        (118, 150, Verdict.INCORRECT),  # 106.2
    ],
)
def test_an_unfaithful_reconstruction_is_incorrect_and_its_numbers_are_printed(
    builder: Any, find: Find, low: float, high: float, verdict: Verdict
) -> None:
    demand = Fidelity(figure=FAITHFUL, low=low, high=high, source="its table")
    rows = builder.timed({"none": 0.5, "after": 0.2}, noise=0.005)
    found = find(rows, Band(at_least=50.0), fidelity=(demand,))
    assert found.verdict is verdict
    assert found.estimate == pytest.approx(80, abs=1)
    assert found.fidelity[0].estimate == pytest.approx(100, abs=2)
    if verdict is Verdict.INCORRECT:
        assert "not faithful enough" in found.reason
        assert "80" in found.reason


def test_a_fidelity_that_could_not_be_measured_is_not_taken_for_granted(builder: Any, find: Find) -> None:
    demand = Fidelity(figure=FAITHFUL, low=60, high=150, source="its table")
    found = find(builder.timed({"after": 0.2}), Band(at_least=50.0), fidelity=(demand,))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "faithful could not be measured" in found.reason


def test_counted_fidelity_is_held_to_its_range(builder: Any, find: Find) -> None:
    demand = Fidelity(
        figure=Figure(case="boolean.update", quantity="ops", candidate="before", transform="value"),
        low=613, high=613, source="operations of the original",
    )  # fmt: skip
    for ops, verdict in ((613, Verdict.REPRODUCED), (700, Verdict.INCORRECT)):
        counted = Value(case="boolean.update", params={}, name="ops", variant="before", value=ops)
        found = find([*builder.timed({"after": 0.2}), counted], Band(at_least=50.0), fidelity=(demand,))
        assert found.verdict is verdict


def wrong(variant: str, **fields: Any) -> Gate:
    values = {"case": "boolean.update", "params": {}, "variant": variant, "against": "oracle", "equal": False}
    return Gate.model_validate(values | {"reason": "4 of 4 values are off"} | fields)


@pytest.mark.parametrize("variant", ["after", "before"])
def test_a_wrong_variant_makes_the_claim_incorrect_but_is_timed(builder: Any, find: Find, variant: str) -> None:
    found = find([*builder.timed({"after": 0.2}), wrong(variant)], Band(at_least=50.0))
    assert found.verdict is Verdict.INCORRECT
    assert found.reason.startswith(f"{variant} is wrong: 4 of 4 values are off; timed all the same: 79.7 %")
    assert found.estimate == pytest.approx(80, abs=1)


def test_a_wrong_variant_elsewhere_does_not(builder: Any, find: Find) -> None:
    rows = [*builder.timed({"after": 0.2}), wrong("best"), wrong("after", case="boolean.other")]
    found = find(rows, Band(at_least=50.0))
    assert found.verdict is Verdict.REPRODUCED
    assert found.gates == []


def test_a_wrong_row_outside_the_claims_part_of_the_grid_does_not_count(builder: Any, find: Find, grid: Grid) -> None:
    rows = [*grid(builder, {"s": 0.2, "l": 0.2}), wrong("after", params={"size": "l"})]
    assert find(rows, Band(at_least=50.0), where={"size": "s"}).verdict is Verdict.REPRODUCED
    assert find(rows, Band(at_least=50.0)).verdict is Verdict.INCORRECT


# --- failures, hardware, statements, older records --------------------------------------------------------------------


def test_only_failures_are_an_error_with_the_first_reason(find: Find) -> None:
    failures = [
        Failure(case="boolean.update", stage="time", reason="the worker died of SIGSEGV"),
        Failure(case="boolean.update", stage="time", reason="second"),
    ]
    found = find(failures, Band(at_least=50.0))
    assert found.verdict is Verdict.ERROR
    assert found.reason == "time failed: the worker died of SIGSEGV"
    assert found.failures == failures
    assert found.estimate is None


@pytest.mark.parametrize(
    ("failure", "concerns"),
    [
        (Failure(case="boolean.update", stage="time", reason="r"), True),
        (Failure(case="boolean.update", stage="gate", variant="after", reason="r"), True),
        (Failure(case="boolean.update", stage="gate", variant="best", reason="r"), False),
        (Failure(case="boolean.update", stage="memory", variant="after", reason="r"), False),
        (Failure(case="boolean.other", stage="time", reason="r"), False),
        (Failure(stage="import", package="boolean_nca_cc", reason="r"), True),
        (Failure(stage="import", package="resu", reason="resu is not installed here"), False),
        (Failure(stage="worker", reason="r"), True),
        (Failure(stage="probe", package="boolean_nca_cc", reason="r"), False),
    ],
)
def test_only_failures_that_concern_a_claim_are_told_with_it(
    builder: Any, find: Find, failure: Failure, concerns: bool
) -> None:
    measured = find([*builder.timed({"after": 0.2}), failure], Band(at_least=50.0))
    assert ("failed" in measured.reason) is concerns
    assert find([failure], Band(at_least=50.0)).verdict is (Verdict.ERROR if concerns else Verdict.NOT_RUN_HERE)


def test_hardware_that_is_missing_is_said_whatever_was_measured(builder: Any, find: Find) -> None:
    nothing = find([], Band(at_least=50.0), needs="cuda")
    assert nothing.verdict is Verdict.HARDWARE_MISSING
    assert "--device cuda" in nothing.reason
    measured = find(builder.timed({"after": 0.2}), Band(at_least=50.0), needs="cuda")
    assert measured.verdict is Verdict.HARDWARE_MISSING
    assert measured.estimate == pytest.approx(80, abs=1)
    on_gpu = find(builder.timed({"after": 0.2}), Band(at_least=50.0), needs="cuda", start={"device": "cuda"})
    assert on_gpu.verdict is Verdict.REPRODUCED


def test_a_statement_names_the_test_that_answers_it(builder: Any) -> None:
    claim = builder.claim(
        "boolean.api", Band(open=True), figure=None, kind="statement", answered_by="tests/test_api.py::test_drop_in"
    )
    (found,) = evaluate(builder.write([builder.start(), END]), [claim]).findings
    assert found.verdict is Verdict.STATED
    assert "tests/test_api.py::test_drop_in" in found.reason


def committed(builder: Any, rows: list[Any], name: str, **start: Any) -> Record:
    return builder.write([builder.start(**start), *rows, END], name=name)


def test_a_claim_not_run_here_shows_the_newest_record_that_has_it(builder: Any) -> None:
    here = builder.write([builder.start(), END], name="here")
    claim = builder.claim("boolean.x", Band(at_least=50.0))
    older = [
        committed(builder, [], "without", created="2026-03-03T00:00:00+00:00"),
        committed(builder, [Failure(case="boolean.update", stage="time", reason="died")], "broken"),
        committed(builder, builder.timed({"after": 0.2}), "newest", created="2026-03-02T00:00:00+00:00", device="cuda"),
        committed(builder, builder.timed({"after": 0.9}), "oldest", created="2026-03-01T00:00:00+00:00"),
    ]
    (found,) = evaluate(here, [claim], committed=older).findings
    assert found.verdict is Verdict.NOT_RUN_HERE
    assert found.from_record == "newest"
    assert found.reason.startswith("not run here; 2026-03-02 on cuda: reproduced – 79.7 %")
    assert found.estimate == pytest.approx(80, abs=1)


def test_a_claim_that_no_record_has_is_not_run_here(builder: Any, find: Find) -> None:
    found = find([], Band(at_least=50.0))
    assert found.verdict is Verdict.NOT_RUN_HERE
    assert found.estimate is None


def test_what_was_run_here_is_not_taken_from_an_older_record(builder: Any) -> None:
    here = builder.write([builder.start(), *builder.timed({"after": 0.5}), END], name="here")
    older = committed(builder, builder.timed({"after": 0.2}), "older")
    (found,) = evaluate(here, [builder.claim("boolean.x", Band(open=True))], committed=[older]).findings
    assert found.from_record == ""
    assert found.estimate == pytest.approx(50, abs=1.5)


# --- whole evaluations ------------------------------------------------------------------------------------------------


def test_two_evaluations_of_a_record_are_the_same(evaluated: Any, builder: Any) -> None:
    evaluation, record = evaluated
    assert evaluate(record, builder.ledger()) == evaluation


def test_the_whole_evaluation(builder: Any) -> None:
    rows = [
        builder.start(quick=True),
        Environment(where="parent", facts={"python": "3"}),
        Probe(name="copy", value=1e9, unit="B/s"),
        *builder.timed({"after": 0.2}),
    ]
    record = builder.write(rows, garbage='{"kind": "sam')
    slow = record.rows[-1]
    slow.reached_precision, slow.load = False, (3.25, 1.0)
    claims = [
        builder.claim("boolean.update.mean", Band(open=True)),
        builder.claim("boolean.update.sgd_saved", Band(at_least=50.0), needs="cuda"),
    ]
    evaluation = evaluate(record, claims)
    assert not evaluation.complete
    assert evaluation.counts() == {"reproduced": 1, "hardware_missing": 1}
    assert set(evaluation.missing) == set(claim_ids()) - {"boolean.update.mean", "boolean.update.sgd_saved"}
    assert [probe.name for probe in evaluation.probes] == ["copy"]
    assert [e.where for e in evaluation.environments] == ["parent"]
    warnings = "\n".join(evaluation.warnings)
    for words in (
        "quick run",
        "did not come to its end",
        "1 lines of the record could not be read",
        "1 measurements used up their budget before their precision (boolean.update)",
        "other work ran beside 1 measurements (load average up to 3.2)",
    ):
        assert words in warnings
    assert len(evaluation.warnings) == 5


def test_a_good_record_has_no_warnings(builder: Any) -> None:
    record = builder.write([builder.start(), *builder.timed({"after": 0.2}), END])
    assert evaluate(record, [builder.claim("boolean.x", Band(open=True))]).warnings == []
