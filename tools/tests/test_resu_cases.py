"""The cases of resu at small sizes: what is timed is right, what is counted is what can be worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("resu")

_THREADS = torch.get_num_threads()

from claimbench import gate  # noqa: E402
from claimbench.case import Case  # noqa: E402
from claimbench.cases.resu import CASES, accuracy, step  # noqa: E402
from claimbench.errors import CaseError  # noqa: E402
from claimbench.evaluate import evaluate  # noqa: E402
from claimbench.figures import matches  # noqa: E402
from claimbench.ledger import Figure, load_claims  # noqa: E402
from claimbench.protocol import Job  # noqa: E402
from claimbench.record import Gate, Params, Value  # noqa: E402
from claimbench.runtimes import load_runtime  # noqa: E402
from claimbench.supervisor import Outcome, Supervisor  # noqa: E402
from claimbench.verdict import Verdict  # noqa: E402
from resu.experiments.settings import AccuracySettings  # noqa: E402
from resu.experiments.table import AccuracyRow, AccuracyTable  # noqa: E402

torch.set_num_threads(_THREADS)  # a worker keeps to one thread; the tests of others do not have to

BY_ID = {case.id: case for case in CASES}
SIZE = 64


def _figures() -> list[Figure]:
    claims = load_claims("resu")
    found = [part.figure for claim in claims for part in claim.parts]
    found += [claim.figure for claim in claims if claim.figure is not None]
    return found + [demand.figure for claim in claims for demand in claim.fidelity]


@pytest.mark.parametrize("figure", _figures(), ids=lambda f: f"{f.case} {f.quantity} {f.candidate} {f.where}")
def test_every_figure_has_points_and_variants_to_come_from(figure: Figure) -> None:
    case = BY_ID[figure.case]
    timed = figure.quantity == "time"
    points = case.grid if timed else case.values_grid
    found = [params for params in points if matches(params, figure.where)]
    assert found
    assert not figure.group or all(figure.group in params for params in found)
    if timed:
        assert {figure.candidate, figure.baseline} <= set(case.variants)
    else:
        assert case.values is not None


def test_the_test_that_answers_a_statement_exists() -> None:
    root = Path(__file__).parents[2]
    answers = [claim.answered_by for claim in load_claims("resu") if claim.answered_by]
    assert len(answers) == 1
    for answer in answers:
        path, name = answer.split("::")
        assert f"def {name}(" in (root / path).read_text(encoding="utf-8")


def test_a_quick_run_compiles_nothing_and_stays_small() -> None:
    for case in CASES:
        quick = [*(case.points(True) if case.grid else ()), *(case.counted_points(True) if case.values else ())]
        if case.id != "resu.accuracy":
            assert quick, case.id
            assert all(params.get("back_end") != "compile" for params in quick)
        if case.grid:
            assert all(params["size"] == 1024 for params in case.points(True))


# --- what is timed ----------------------------------------------------------------------------------------------------


def _gates(case: Case, params: Params, size: int = SIZE) -> dict[str, Gate]:
    params = params | {"size": size}
    found = gate.check(
        case.id, params, case.setup(params), case.variants, case.control, load_runtime("torch", "cpu"), seed=3
    )
    assert all(isinstance(row, Gate) for row in found), found
    return {row.variant: row for row in found if isinstance(row, Gate)}


@pytest.mark.parametrize(
    ("case", "params"),
    [
        (case, params)
        for case in CASES
        for params in case.grid
        if params["size"] == 1024 and params.get("back_end") != "compile"
    ],
    ids=lambda value: value.id if isinstance(value, Case) else "-".join(str(v) for v in value.values()),
)
def test_every_variant_does_the_work(case: Case, params: Params) -> None:
    gates = _gates(case, params)
    assert tuple(gates) == case.variants
    assert {name: row.reason for name, row in gates.items() if not row.equal} == {}
    assert all(row.against == "oracle" for row in gates.values())


@pytest.mark.parametrize("case", ["resu.step", "resu.step_original"])
def test_a_large_step_is_looked_at_in_some_rows(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "WHOLE", SIZE - 1)
    rows = step._Rows({"size": SIZE, "sparsity": 0.5, **step.batch(SIZE, 128)})
    assert rows.gradient.shape == (SIZE // 16, SIZE)
    gates = _gates(BY_ID[case], {"sparsity": 0.5, "back_end": "eager"})
    assert {name: row.reason for name, row in gates.items() if not row.equal} == {}


def _spoiled(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> dict[str, Gate]:
    """Gates of the steps in RESU, whose every step does something more."""
    build = step._ours

    def spoilt(inputs: dict[str, Any], phase: Any, compiled: bool) -> Any:
        trained = build(inputs, phase, compiled)
        honest = trained.step

        def call() -> None:
            honest()
            spoil(trained.parameter.data, step.mask_of(SIZE, 0.5).to_bool())

        trained.step = call
        return trained

    monkeypatch.setattr(step, "_ours", spoilt)
    return _gates(BY_ID["resu.step"], {"sparsity": 0.5, "back_end": "eager"})


def test_one_frozen_weight_that_moves_by_its_last_bit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(weight: Any, active: Any) -> None:
        row, column = active.nonzero()[7].tolist()
        weight[row, column] = torch.nextafter(weight[row, column], torch.tensor(9.0))

    gates = _spoiled(monkeypatch, spoil)
    assert "frozen weights that moved" in gates["best"].reason
    assert gates["train"].equal


def test_one_trained_weight_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(weight: Any, active: Any) -> None:
        row, column = (~active).nonzero()[7].tolist()
        weight[row, column] += 1e-3

    reason = _spoiled(monkeypatch, spoil)["best"].reason
    assert "values of weight are off by up to 0.001" in reason


def test_the_gradient_of_a_batch_is_exact_in_any_order() -> None:
    data = step.batch(SIZE, 128)
    gradient = data["upstream"].T @ data["x"]
    shuffled = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gradient, data["upstream"][shuffled].T @ data["x"][shuffled])
    assert torch.equal(gradient.double(), data["upstream"].double().T @ data["x"].double())


def test_what_was_built_is_built_again_for_another_seed_only() -> None:
    built: list[Any] = []
    prepared = step.Prepared(lambda inputs: built.append(inputs) or len(built))
    assert [prepared({"seed": seed}) for seed in (0, 0, 1, 1, 0)] == [1, 1, 2, 2, 3]


# --- what is counted --------------------------------------------------------------------------------------------------


def _values(case: str, **params: Any) -> dict[tuple[str, str], float]:
    found = list(BY_ID[case].values(params))  # type: ignore[misc]
    assert len({(row.name, row.variant) for row in found}) == len(found)
    return {(row.name, row.variant): row.value for row in found}


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_bytes_of_the_original(sparsity: float) -> None:
    size, s = 512, sparsity  # W is 1 MiB
    found = _values("resu.memory", size=size, sparsity=sparsity)
    expected = {
        ("tally", "none"): 3, ("tally", "before"): 3 + 4 * s, ("tally", "after"): 1 + 4 * s,
        ("states", "before"): 2 + 3 * s, ("states", "after"): 3 * s,
        ("cleared", "before"): 0, ("cleared", "after"): 2,
        ("live", "none"): 3, ("live", "before"): 7 + 4 * s, ("live", "after"): 5 + 4 * s,
        ("live_in_w", "before"): 7 + 4 * s, ("live_in_w", "after"): 5 + 4 * s,
        ("over_dense", "before"): 400 * s / 3, ("over_dense", "after"): 100 * (4 * s - 2) / 3,
        ("over_w", "before"): 400 * s, ("over_w", "after"): 100 * (4 * s - 2),
        ("live_over_dense", "before"): 100 * (4 + 4 * s) / 3, ("live_over_dense", "after"): 100 * (2 + 4 * s) / 3,
        ("state_over_w", "before"): 100 * (2 + 4 * s), ("state_over_w", "after"): 400 * s,
        ("tally_share", "before"): 100 * (3 + 4 * s) / 3, ("tally_share", "after"): 100 * (1 + 4 * s) / 3,
        ("double_states", "before"): 1, ("double_states", "after"): 0,
    }  # fmt: skip
    # Parameters and ties at the threshold come in whole numbers; shares do not.
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-2)
    assert found["cleared", "after"] == 2.0
    # One pass needs at least the effective weight beside what is there at rest, and the same before and after.
    beyond = {v: found["live_peak", v] - found["live", v] for v in ("before", "after")}
    assert beyond["before"] == pytest.approx(beyond["after"], abs=0.01)
    assert beyond["before"] > 2


def test_gradients_of_theta() -> None:
    assert _values("resu.gradient", size=48, sparsity=0.7) == {
        ("gradient_present", "before"): 0, ("gradient_present", "after"): 1, ("gradient_present", "best"): 1,
        ("largest_difference", "after"): 0, ("largest_difference", "best"): 0,
    }  # fmt: skip


def test_bytes_of_ours_are_in_units_of_the_weight() -> None:
    point = {"back_end": "eager", "size": SIZE, "sparsity": 0.75}
    dense = _values("resu.phases", **point, layout="dense")
    assert dense["steady", "best"] == 3 + 1 / 32
    for what, names in (("steps", ("TRAIN", "RESU", "JOINT", "SHADOW")),
                        ("transitions", ("prune", "enter RESU", "commit", "regrow"))):  # fmt: skip
        assert dense[f"peak of {what}", "best"] == max(dense[f"peak in {name}", "best"] for name in names)
    assert dense["peak in SHADOW", "best"] >= 3 + 1 / 32
    compact = _values("resu.phases", **point, layout="compact")
    assert compact["steady", "best"] == 3 + 1 / 32  # JOINT writes everything
    assert compact["peak in RESU", "best"] >= 1 + 1 / 32 + 2 * 0.75
    assert ("peak in SHADOW", "best") not in compact
    assert _values("resu.phases", **point, layout="torch")["peak of steps", "none"] == pytest.approx(3, abs=0.01)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def _row(method: Any, *values: float, task: Any = "digits") -> AccuracyRow:
    return AccuracyRow(task, 0.98, method, sum(values) / len(values), 0.1, values, 2e-3, False, {})


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """A table made by hand stands in for training; what was asked for is kept."""
    rows = (
        _row("rigl", 96.0, 97.0), _row("shadow", 96.5, 97.9), _row("resu", 95.9, 96.7),
        _row("rigl", 2.9, 2.8, task="characters"), _row("shadow", 2.7, 2.7, task="characters"),
    )  # fmt: skip
    made = AccuracyTable(AccuracySettings(), {}, rows)
    asked: list[Any] = []
    monkeypatch.setattr(accuracy, "run_accuracy", lambda settings, folder: asked.append((settings, folder)) or made)
    monkeypatch.setattr(accuracy, "read_accuracy", lambda folder: asked.append(folder) or made)
    monkeypatch.delenv(accuracy.FOLDER, raising=False)
    return asked


def test_margins_over_rigl_are_paired_by_seed_and_positive_where_better(table: list[Any]) -> None:
    digits = _values("resu.accuracy", task="digits", sparsity=0.98)
    assert digits["score", "rigl"] == 96.5
    assert digits["margin", "shadow"] == pytest.approx(0.7)
    assert digits["margin", "resu"] == pytest.approx(-0.2)
    assert _values("resu.accuracy", task="characters", sparsity=0.98)["margin", "shadow"] == pytest.approx(0.15)
    (settings, folder), _ = table
    assert (settings.tasks, settings.sparsities, settings.seeds) == (("digits",), (0.98,), 8)
    assert folder == accuracy.own_folder()


def test_a_margin_has_the_interval_of_student_over_its_seeds(table: list[Any]) -> None:
    (case,) = (case for case in CASES if case.id == "resu.accuracy")
    assert case.values is not None
    counted = {(n.name, n.variant): n for n in case.values({"task": "digits", "sparsity": 0.98})}
    # 0.5 and 0.9: mean 0.7, standard error 0.2; with one degree of freedom 99 % lie within 63.657 of them.
    assert counted["margin", "shadow"].interval == pytest.approx((0.7 - 63.657 * 0.2, 0.7 + 63.657 * 0.2), abs=1e-3)


def test_a_folder_that_is_named_is_read_and_nothing_is_trained(
    table: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(accuracy.FOLDER, str(tmp_path))
    assert _values("resu.accuracy", task="digits", sparsity=0.98)["score", "rigl"] == 96.5
    assert table == [tmp_path]


def test_a_table_without_an_entry_is_an_error(table: list[Any]) -> None:
    with pytest.raises(CaseError, match=r"no entry for digits at 0\.5"):
        _values("resu.accuracy", task="digits", sparsity=0.5)


# --- from counts to verdicts ------------------------------------------------------------------------------------------


def test_verdicts_of_what_is_counted(builder: Any, table: list[Any]) -> None:
    points = [("resu.memory", {"size": 512, "sparsity": s}) for s in (0.5, 0.9)]
    points += [("resu.gradient", {"size": 32, "sparsity": 0.5})]
    points += [("resu.accuracy", {"task": task, "sparsity": 0.98}) for task in ("digits", "characters")]
    rows = [
        Value(case=case, params=params, name=name, variant=variant, value=value)
        for case, params in points
        for (name, variant), value in _values(case, **params).items()
    ]
    found = {f.id: f for f in evaluate(builder.write([builder.start(), *rows]), load_claims("resu")).findings}
    verdicts = {name: found[name].verdict for name in (
        "resu.memory.total_live", "resu.memory.overhead", "resu.memory.state_share", "resu.memory.no_double",
        "resu.grad", "resu.tests", "resu.accuracy.ours", "resu.forward.cached",
    )}  # fmt: skip
    assert verdicts == {
        "resu.memory.total_live": Verdict.NOT_REPRODUCED,
        "resu.memory.overhead": Verdict.PARTLY,
        "resu.memory.state_share": Verdict.PARTLY,
        "resu.memory.no_double": Verdict.REPRODUCED,
        "resu.grad": Verdict.REPRODUCED,
        "resu.tests": Verdict.STATED,
        "resu.accuracy.ours": Verdict.REPRODUCED,
        "resu.forward.cached": Verdict.NOT_RUN_HERE,
    }
    fidelity = found["resu.memory.total_live"].fidelity
    assert [row.estimate for row in fidelity] == pytest.approx([9.0, 7.0, 10.6, 8.6], rel=1e-4)
    assert all(row.faithful for row in fidelity)


def test_a_rebuilt_form_that_holds_less_is_no_evidence(builder: Any) -> None:
    values = {
        ("live", "before"): 5.0,
        ("live", "after"): 3.0,
        ("live_peak", "before"): 5.0,
        ("live_peak", "after"): 3.0,
    }
    values |= {("live_in_w", "before"): 5.0, ("live_in_w", "after"): 3.0}
    rows = [
        Value(case="resu.memory", params={"sparsity": s}, name=name, variant=variant, value=value)
        for s in (0.5, 0.9)
        for (name, variant), value in values.items()
    ]
    claims = [claim for claim in load_claims("resu") if claim.id == "resu.memory.total_live"]
    (found,) = evaluate(builder.write([builder.start(), *rows]), claims).findings
    assert found.verdict is Verdict.INCORRECT
    assert "not faithful" in found.reason


def test_a_worker_keeps_to_one_thread(tmp_path: Path) -> None:
    job = Job(mode="plan", module="claimbench.cases.resu", cases=[], device="cpu", results=Path())
    outcome = Supervisor(tmp_path).run(job, 120, Outcome())
    assert outcome.plan is not None, outcome.rows
    assert outcome.plan.facts["torch"]["threads"] == 1
    assert {case.id for case in outcome.plan.cases} == set(BY_ID)
    assert all(case.code for case in outcome.plan.cases)
