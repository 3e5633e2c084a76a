"""The cases of neurograph: what is timed is the same work, what is counted is what can be worked out by hand."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("neurograph")

_THREADS = torch.get_num_threads()

from claimbench import gate  # noqa: E402
from claimbench.case import Case  # noqa: E402
from claimbench.cases.neurograph import CASES, accuracy, future, ours, problem, radiation, steps  # noqa: E402
from claimbench.errors import CaseError  # noqa: E402
from claimbench.evaluate import evaluate  # noqa: E402
from claimbench.figures import matches  # noqa: E402
from claimbench.ledger import Claim, Figure, claim_ids, load_claims  # noqa: E402
from claimbench.record import Gate, Params, Value  # noqa: E402
from claimbench.runtimes import load_runtime  # noqa: E402
from claimbench.verdict import Verdict  # noqa: E402
from neurograph.config import Config  # noqa: E402
from neurograph.core.radiation import RadiationCache  # noqa: E402
from neurograph.experiments.digits import DigitsResult  # noqa: E402
from neurograph.reference.original import OriginalCredit, RadiationCaches  # noqa: E402
from neurograph.reference.original.tables import OriginalTables  # noqa: E402

torch.set_num_threads(_THREADS)  # a worker keeps to one thread; the tests of others do not have to

BY_ID = {case.id: case for case in CASES}
CLAIMS = {claim.id: claim for claim in load_claims("neurograph")}
TINY = 80


def _figures(claim: Claim) -> list[Figure]:
    found = [part.figure for part in claim.parts] or ([claim.figure] if claim.figure else [])
    return found + [demand.figure for demand in claim.fidelity]


# --- claims and cases -------------------------------------------------------------------------------------------------


def test_every_id_of_the_ledger_has_its_claim() -> None:
    assert list(CLAIMS) == [name for name in claim_ids() if name.startswith("neurograph.")]


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_every_figure_has_a_case_points_and_variants_to_come_from(claim: Claim) -> None:
    for figure in _figures(claim):
        case = BY_ID[figure.case]
        timed = figure.quantity == "time"
        points = case.grid if timed else (case.values_grid or case.grid)
        if timed:
            assert {figure.candidate, figure.baseline} <= set(case.variants)
        else:
            assert case.values is not None
        if claim.needs == "cpu":
            found = [params for params in points if matches(params, figure.where)]
            assert found, figure
            assert not figure.group or all(figure.group in params for params in found)


def test_every_case_serves_a_claim() -> None:
    assert {figure.case for claim in CLAIMS.values() for figure in _figures(claim)} == set(BY_ID)


def test_the_test_that_answers_a_statement_exists() -> None:
    root = Path(__file__).parents[2]
    answers = [claim.answered_by for claim in CLAIMS.values() if claim.answered_by]
    assert len(answers) == 2
    for answer in answers:
        path, name = answer.split("::")
        assert f"def {name}(" in (root / path).read_text(encoding="utf-8")


def test_claims_on_the_original_carry_its_number_of_queries() -> None:
    for name in ("radiation.forward", "radiation.hit_rate", "overall", "train.ours"):
        (demand,) = CLAIMS[f"neurograph.{name}"].fidelity
        assert demand.bounds() == pytest.approx((297, 363))


def test_only_training_to_a_quality_is_long() -> None:
    assert [claim.id for claim in CLAIMS.values() if claim.duration == "long"] == ["neurograph.accuracy.ours"]


def test_a_quick_run_leaves_the_original_at_its_full_size_alone() -> None:
    for name in ("neurograph.forward", "neurograph.training"):
        assert [params["nodes"] for params in BY_ID[name].points(True)] == [problem.SMALL]
    assert [params["nodes"] for params in BY_ID["neurograph.radiation"].counted_points(True)] == [problem.SMALL]


# --- what is timed ----------------------------------------------------------------------------------------------------


def _gates(case: Case, params: Params) -> dict[str, Gate]:
    found = gate.check(
        case.id, params, case.setup(params), case.variants, case.control, load_runtime("torch", "cpu"), seed=3
    )
    assert all(isinstance(row, Gate) for row in found), found
    return {row.variant: row for row in found if isinstance(row, Gate)}


def _small(case: Case) -> list[Params]:
    points = [dict(params) for params in case.grid]
    for params in points:
        for name, most in (("nodes", 100), ("inputs", 20), ("rows", 1000), ("mag_bins", 1 << 16), ("batch", 2)):
            if name in params and case.id not in {"neurograph.spatial", "neurograph.ann"}:
                params[name] = min(int(params[name]), most)
    return list({str(params): params for params in points if int(params.get("nodes", 0)) <= 1000}.values())


@pytest.mark.parametrize(
    ("case", "params"),
    [(case, params) for case in CASES for params in _small(case)],
    ids=lambda value: value.id if isinstance(value, Case) else "-".join(map(str, value.values())),
)
def test_every_variant_does_the_work(case: Case, params: Params) -> None:
    if "neurograph.spatial" in case.id:
        pytest.importorskip("sklearn")
    if "neurograph.ann" in case.id:
        pytest.importorskip("faiss")
    gates = _gates(case, params)
    assert tuple(gates) == case.variants
    assert {name: row.reason for name, row in gates.items() if not row.equal} == {}


def test_a_step_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: Any, signals: Any, target: Any, cos_sims: Any) -> Any:
        return right(self, signals, target, cos_sims) * 1.001

    right = OriginalCredit._compute_vectorized_cosine_gradients
    monkeypatch.setattr(OriginalCredit, "_compute_vectorized_cosine_gradients", spoilt)
    gates = _gates(BY_ID["neurograph.training"], {"what": "training step", "nodes": TINY, "inputs": 16})
    assert gates["before"].equal
    assert "gradients" in gates["after"].reason


def test_a_cache_that_serves_other_neighbours_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RadiationCaches, "_candidates", lambda self, node, static, store: list(store.ids)[:20])
    gates = _gates(BY_ID["neurograph.forward"], {"what": "forward pass", "nodes": TINY, "inputs": 16})
    assert gates["before"].equal
    assert not gates["after"].equal


def test_credit_that_is_not_accumulated_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgets(self: Any, active: Any, phase_grads: Any, mag_grads: Any) -> None:
        kept(self, active[:-1], phase_grads, mag_grads)

    kept = OriginalCredit._batch_accumulate_gradients
    monkeypatch.setattr(OriginalCredit, "_batch_accumulate_gradients", forgets)
    gates = _gates(BY_ID["neurograph.credit"], {"what": "with accumulation", "nodes": 10})
    assert gates["before"].equal
    assert "nodes has shape (9,)" in gates["after"].reason


def test_variants_are_what_the_note_says() -> None:
    after = steps._setup({"what": "training step", "nodes": TINY, "inputs": 16}).variants["after"]
    context = after({"first": 0}).context
    assert context.optimizations == {"credit", "jit", "cache"}
    assert type(context.engine.tables).__name__ == "CompiledTables"
    assert context.engine.caches.policy == "lru"
    before = steps._setup({"what": "forward pass", "nodes": TINY, "inputs": 16}).variants["before"]({"first": 0})
    assert before.context.engine.caches is None
    assert type(before.context.engine.tables) is OriginalTables


def test_a_stream_goes_on_with_the_same_inputs_and_begins_anew_with_others() -> None:
    stream = steps._Stream({"nodes": TINY, "inputs": 16}, (), train=False)
    given, other = {"first": 0}, {"first": 0}
    first, second, again = (steps._compared(stream(x))["phase"].clone() for x in (given, given, other))
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_missed_neighbours_are_counted() -> None:
    def leaves(*index: int) -> dict[str, np.ndarray]:
        return {"index": np.array([index]), "units": np.array([[-i for i in index]])}

    assert future._lost(leaves(0, 1, 2, 3), leaves(0, 1, 2, 3)) == 0
    assert future._lost(leaves(0, 1, 2, 9), leaves(0, 1, 2, 3)) == pytest.approx(0.25)


def test_cases_of_a_gpu_have_points_only_where_one_is() -> None:
    assert bool(BY_ID["neurograph.gpu"].grid) == torch.cuda.is_available()


# --- what is counted --------------------------------------------------------------------------------------------------


def _values(case: str, **params: Any) -> dict[tuple[str, str], float]:
    found = list(BY_ID[case].values(params))  # type: ignore[misc]
    assert len({(row.name, row.variant) for row in found}) == len(found)
    return {(row.name, row.variant): row.value for row in found}


def test_bytes_of_tables_and_context() -> None:
    assert _values("neurograph.tables", phase_bins=32, mag_bins=512)["tables", "before"] * 2**20 == 4 * 2 * (32 + 512)
    # Adapter 784 × 2000, its bias, scale and shift; 2 · 1000 · 5 indices; the tables; 1000 slots.
    expected = 4 * (784 * 2000 + 3 * 2000) + 2 * 1000 * 5 * 8 + 4352 + 1000 * (2 * 5 * 8 + 4 + 1)
    assert _values("neurograph.context", nodes=1000)["context", "before"] * 2**20 == expected


def test_target_vectors() -> None:
    assert _values("neurograph.credit_targets", samples=30) == {
        ("target_vectors", "before"): 3, ("target_vectors", "after"): 1,
    }  # fmt: skip


def test_allocations_of_credit() -> None:
    found = _values("neurograph.credit_memory", nodes=8)
    assert found["allocations", "after"] < found["allocations", "before"]
    # Both keep 8 · 2 gradients of 5 float32 in the accumulator, and hand them out once more.
    assert min(found["peak", name] for name in ("before", "after")) * 1024 >= 2 * 8 * 2 * 5 * 4


def test_eviction_as_coded_and_as_the_note_says() -> None:
    assert _values("neurograph.eviction", entries=2500) == {
        ("largest", "as_coded"): 1000, ("dropped", "as_coded"): 20, ("refreshed", "as_coded"): 0,
        ("largest", "after"): 1000, ("dropped", "after"): 20, ("refreshed", "after"): 1,
    }  # fmt: skip


def test_queries_played_to_a_cache() -> None:
    def query(first: int, *answer: str) -> radiation.Query:
        return "n1", torch.tensor([first, 0, 0, 0, 0]), list(answer)

    queries = [query(0, "a", "b"), query(3, "a", "c"), query(4, "d", "e"), query(0, "a", "b")]
    exact, coarse = RadiationCaches(quantum=1), RadiationCaches(quantum=4)
    assert radiation._played(queries, exact).wrong == 0
    assert exact.hits["pattern"] == 1
    audit = radiation._played(queries, coarse)
    assert (audit.hits, audit.wrong, audit.mean_overlap) == (2, 1, 0.75)


def test_the_stream_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    radiation._streams.cache_clear()
    monkeypatch.setattr(radiation, "SAMPLES", 4)
    found = _values("neurograph.radiation", nodes=TINY)
    streams = radiation._streams(TINY)
    exact, cached = streams["before"], streams["cache"]
    assert found["queries", "before"] == sum(exact.by_sample) / 4
    assert {name: len(stream.queries) for name, stream in streams.items()} == {
        name: sum(stream.by_sample) for name, stream in streams.items()
    }
    assert exact.context.optimizations == set()
    assert not exact.hits
    assert len(cached.hits) == cached.context.engine.caches.hits["pattern"] == found["audited_hits", "after"]
    for stream in streams.values():
        assert all(0 < part < whole for part, whole in zip(stream.forward, stream.step, strict=True))
    assert exact.by_sample[0] >= TINY // 5 // 2  # inputs by two in a slot
    assert (("wrong_hits", "after") in found) == (found["audited_hits", "after"] > 0)  # no hit, nothing to be wrong
    assert found["growth by the note, high", "after"] == pytest.approx(500 / 41)
    signature = _values("neurograph.signature", nodes=TINY)
    assert signature.get(("wrong_share", "q1"), 0) == 0
    assert signature["wrong_share", "q32"] > 0
    assert signature["hit_rate", "q32"] > signature["hit_rate", "q4"] >= signature["hit_rate", "q1"]
    assert signature["gain", "after"] == signature["hit_rate", "q4"] - signature["hit_rate", "q1"]
    radiation._streams.cache_clear()


def test_time_that_is_saved_is_a_query_s_and_leaves_out_the_first_samples() -> None:
    class Streamed:
        def __init__(self, *by_sample: int) -> None:
            self.by_sample = by_sample

    # Half as many queries in the third sample, each in four fifths of the time; the first two are nonsense.
    streams: Any = (Streamed(10, 10, 20, 10), Streamed(10, 10, 10, 10))
    value, (low, high) = radiation._saved((1.0, 1.0, 4.0, 2.0), (9.0, 9.0, 1.6, 1.6), streams)
    assert value == pytest.approx(20)
    assert (low, high) == pytest.approx((20, 20))


def test_optimizations_that_change_nothing() -> None:
    found = _values("neurograph.identical", nodes=60, samples=3)
    assert {name: value for (_, name), value in found.items() if name != "cache, all levels"} == {
        "credit": 0, "jit, as coded": 0, "jit, compiled": 0, "cache, levels 2 and 3": 0,
    }  # fmt: skip


def test_samples_that_differ_are_seen() -> None:
    one = {"phase": torch.ones(2), "n5": torch.ones(2)}
    assert not radiation._differ(one, {name: value.clone() for name, value in one.items()})
    assert radiation._differ(one, {"phase": torch.ones(2)})
    assert radiation._differ(one, one | {"n5": torch.tensor([1.0, 1.001])})


def test_the_exact_cache_on_revisits() -> None:
    found = _values("neurograph.revisits", samples=5, visits=4)
    assert found["hit_rate", "best"] == 75
    assert (found["wrong_hits", "best"], found["entries", "best"]) == (0, 5)
    assert found["hit_rate in training", "best"] == 0
    assert found["bytes", "best"] * 2**20 >= 5 * 330 * 6 * 2


def test_a_wrong_answer_of_the_exact_cache_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = RadiationCache.answer
    monkeypatch.setattr(RadiationCache, "answer", lambda self, key, *rest, **more: answer(self, "one", *rest, **more))
    assert _values("neurograph.revisits", samples=3, visits=2)["wrong_hits", "best"] == 4  # one of three is right


def test_the_step_is_held_against_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"oracle": 0.1, "ours": 0.032}  # a sample, and a batch of 64
    monkeypatch.setattr(ours, "_seconds", lambda call, calls: spent[call.__name__])
    monkeypatch.setattr(ours, "FEW", 2)
    found = _values("neurograph.training_oracle", rounds=2)
    assert found["times", "best"] == pytest.approx(200)
    assert found["samples a second", "oracle"] == pytest.approx(10)
    assert found["samples a second", "best"] == pytest.approx(2000)
    (bar,) = [
        part.band for part in CLAIMS["neurograph.train.oracle.ours"].parts if part.figure.quantity == "gradients off"
    ]
    assert 0 < found["gradients off", "best"] < bar.at_most
    right = ours.credit_by_node
    monkeypatch.setattr(ours, "credit_by_node", lambda *given, **more: right(*given, **(more | {"scale": 12.1})))
    assert _values("neurograph.training_oracle", rounds=2)["gradients off", "best"] > 10 * bar.at_most


def test_samples_a_second_are_a_ratio_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    # The original is taken for 2 s a sample, ours for 64 ms a batch of 64.
    spent = {"original": 2.0, "ours": 0.064}
    monkeypatch.setattr(ours, "settings_of", lambda _: problem.settings_of(TINY))
    monkeypatch.setattr(ours, "_seconds", lambda call, calls: spent[call.__name__])
    found = {(row.name, row.variant): row for row in BY_ID["neurograph.training_ours"].values({"rounds": 3})}  # type: ignore[misc]
    assert found["samples a second", "before"].value == pytest.approx(0.5)
    assert found["samples a second", "best"].value == pytest.approx(1000)
    assert found["times", "best"].value == pytest.approx(2000)


def test_private_memory_of_tables() -> None:
    found = _values("neurograph.mapped_memory", mag_bins=1 << 16)
    assert found["private", "before"] == 2 * 4 * (512 + (1 << 16)) / 1024
    assert found["private", "best"] == 0


def test_a_mapped_table_that_is_written_to_becomes_private() -> None:
    _, mapped = future._mapped.__wrapped__(1 << 16)
    mapped.mag[5] = 1.0
    assert 1024 <= future._private(mapped.cos) <= 65536  # one page, whatever its size
    assert future._private(torch.zeros(100)) == 400


def test_slopes_of_known_orders() -> None:
    def busy(seconds: float) -> Any:
        def call() -> None:
            until = time.process_time_ns() + int(seconds * 1e9)
            while time.process_time_ns() < until:
                pass

        return call

    slope, (low, high) = problem.slopes({n: busy(2e-5 * n) for n in (10, 20, 40)}, rounds=3)
    assert low <= slope <= high
    assert slope == pytest.approx(1, abs=0.2)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def test_accuracy_is_read_from_the_table_of_the_experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    row = {"accuracy": 0.98, "train_accuracy": 1.0, "integers": 8864, "floats": 0, "seconds": 20.0, "wall": 21.0}
    result = DigitsResult(Config(), ({**row, "seed": 100}, {**row, "seed": 101, "accuracy": 0.97, "seconds": 30.0}))

    def run(**given: Any) -> DigitsResult:
        asked.append(given)
        return replace(result, shuffled=given["shuffled"])

    monkeypatch.setattr(accuracy, "run_digits", run)
    monkeypatch.setenv(accuracy.FOLDER, str(tmp_path))
    found = _values("neurograph.digits", labels="true")
    assert found["mean", "best"] == pytest.approx(97.5)
    assert found["min", "best"] == pytest.approx(97)
    assert (found["integers", "best"], found["floats", "best"], found["seconds", "best"]) == (8864, 0, 30)
    monkeypatch.delenv(accuracy.FOLDER)
    _values("neurograph.digits", labels="shuffled")
    assert asked == [
        {"shuffled": False, "folder": tmp_path}, {"shuffled": True, "folder": accuracy.own_folder()},
    ]  # fmt: skip


def test_a_counted_case_is_not_timed() -> None:
    with pytest.raises(CaseError, match="counted, not timed"):
        BY_ID["neurograph.tables"].setup({})


# --- from rows to verdicts --------------------------------------------------------------------------------------------


def test_verdicts_of_what_is_counted(builder: Any) -> None:
    full: Params = {"nodes": 1000}
    stream = {
        ("queries", "before"): 338, ("hit_rate", "after"): 0.3, ("wrong_hits", "after"): 8, ("growth", "after"): 60,
        ("bytes after 1", "after"): 3.7, ("bytes after 3", "after"): 4.5, ("bytes after 8", "after"): 5.3,
        ("growth by the note, low", "after"): 4.9, ("growth by the note, high", "after"): 12.2,
    }  # fmt: skip
    revisits = {("hit_rate", "best"): 75, ("wrong_hits", "best"): 0, ("entries", "best"): 1000, ("bytes", "best"): 3.8}
    revisits |= {("hit_rate in training", "best"): 0}
    tables: dict[tuple[str, str], float] = {("tables", "before"): 0.004}
    rows = [
        Value(case=case, params=params, name=name, variant=variant, value=value)
        for case, params, values in (
            ("neurograph.radiation", full, stream),
            ("neurograph.revisits", {"samples": 1000, "visits": 4}, revisits),
            ("neurograph.tables", {"phase_bins": 32, "mag_bins": 512}, tables),
        )
        for (name, variant), value in values.items()
    ]
    found = {f.id: f for f in evaluate(builder.write([builder.start(), *rows]), CLAIMS.values()).findings}
    verdicts = {name: found[f"neurograph.{name}"].verdict for name in (
        "radiation.hit_rate", "radiation.wrong_hits", "radiation.memory", "memory_growth", "tables", "radiation.ours",
        "api", "future.gpu", "accuracy.ours",
    )}  # fmt: skip
    assert verdicts == {
        "radiation.hit_rate": Verdict.NOT_REPRODUCED,
        "radiation.wrong_hits": Verdict.NOT_REPRODUCED,
        "radiation.memory": Verdict.PARTLY,
        "memory_growth": Verdict.PARTLY,
        "tables": Verdict.NOT_REPRODUCED,
        "radiation.ours": Verdict.REPRODUCED,
        "api": Verdict.STATED,
        "future.gpu": Verdict.HARDWARE_MISSING,
        "accuracy.ours": Verdict.NOT_RUN_HERE,
    }
    assert all(row.faithful for row in found["neurograph.radiation.hit_rate"].fidelity)


def test_a_rebuilt_engine_that_asks_less_is_no_evidence(builder: Any) -> None:
    rows = [
        Value(case="neurograph.radiation", params={"nodes": 1000}, name=name, variant=variant, value=value)
        for name, variant, value in (("queries", "before", 200.0), ("hit_rate", "after", 0.3))
    ]
    claims = [CLAIMS["neurograph.radiation.hit_rate"]]
    (found,) = evaluate(builder.write([builder.start(), *rows]), claims).findings
    assert found.verdict is Verdict.INCORRECT
    assert "not faithful" in found.reason
