"""The cases of spd: what is timed is the same work, what is counted is what can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("spd")

_THREADS = torch.get_num_threads()

from claimbench import gate, turns, worker  # noqa: E402
from claimbench.case import SLOW_PROCESSES, Case, Workload  # noqa: E402
from claimbench.cases.spd import CASES, adversary, counting, loading, parts, priority, problem  # noqa: E402
from claimbench.errors import CaseError  # noqa: E402
from claimbench.evaluate import evaluate  # noqa: E402
from claimbench.figures import matches  # noqa: E402
from claimbench.ledger import Claim, Figure, load_claims  # noqa: E402
from claimbench.protocol import Job, parse_line  # noqa: E402
from claimbench.record import Gate, Params, Samples, Value, Writer, parse_row  # noqa: E402
from claimbench.runtimes import load_runtime  # noqa: E402
from claimbench.runtimes.torch_memory import peak_bytes  # noqa: E402
from claimbench.verdict import Verdict  # noqa: E402
from spd.training import Trainer  # noqa: E402

torch.set_num_threads(_THREADS)  # a worker keeps to one thread; the tests of others do not have to

BY_ID = {case.id: case for case in CASES}
CLAIMS = {claim.id: claim for claim in load_claims("spd")}


def _figures(claim: Claim) -> list[Figure]:
    found = [part.figure for part in claim.parts] or ([claim.figure] if claim.figure else [])
    return found + [demand.figure for demand in claim.fidelity]


# --- claims and cases -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.id)
def test_every_figure_has_a_case_points_and_variants_to_come_from(claim: Claim) -> None:
    for figure in _figures(claim):
        case = BY_ID[figure.case]
        timed = figure.quantity == "time"
        if timed:
            only_there = {"fp16"} if claim.needs == "cuda" else set()
            assert {figure.candidate, figure.baseline} <= set(case.variants) | only_there
        elif figure.quantity == "memory":
            assert {figure.candidate, figure.baseline} <= set(case.memory_variants)
        points = (
            case.grid if timed else case.memory_grid if figure.quantity == "memory" else (case.values_grid or case.grid)
        )
        if claim.needs == "cpu":
            assert timed or case.values is not None
            assert [params for params in points if matches(params, figure.where)], figure


def test_every_case_serves_a_claim() -> None:
    assert {figure.case for claim in CLAIMS.values() for figure in _figures(claim)} == set(BY_ID)


def test_what_compiles_is_left_to_long_runs_or_to_a_gpu() -> None:
    for claim in CLAIMS.values():
        if {"spd.compile", "spd.priority", "spd.quick_start", "spd.modes"} & set(claim.cases):
            assert claim.duration == "long" or claim.needs == "cuda", claim.id


def test_the_rating_of_the_note_stands_in_each_of_its_claims() -> None:
    rated = [c for c in CLAIMS.values() if not c.ours]
    words = ("impact", "not rated", "profile first", "immediate speedup", "a ranking")
    assert all(any(word in claim.published.lower() for word in words) for claim in rated)
    assert sum("impact" in claim.published.lower() for claim in rated) >= 10


# --- what is timed ----------------------------------------------------------------------------------------------------


def _gates(case: Case, params: Params, workload: Workload | None = None) -> dict[str, Gate]:
    runtime = load_runtime("torch", "cpu")
    workload = workload or case.setup(params)
    found = gate.check(case.id, params, workload, case.variants, case.control, runtime, seed=3)
    assert all(isinstance(row, Gate) for row in found), found
    return {row.variant: row for row in found if isinstance(row, Gate)}


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("spd.switches", {}), ("spd.all", {}), ("spd.hooks", {"rows": 1}), ("spd.deltas", {"task": "tms_5-2"}),
        ("spd.fused", {}), ("spd.lists", {}), ("spd.folding", {}), ("spd.pgd", {}), ("spd.amp", {}),
        ("spd.checkpointing", {}), ("spd.gc", {}),
    ],
)  # fmt: skip
def test_every_variant_does_the_same_work(name: str, where: Params) -> None:
    case = BY_ID[name]
    for params in case.grid:
        if matches(params, where):
            gates = _gates(case, params)
            assert tuple(gates) == case.variants
            assert {name: row.reason for name, row in gates.items() if not row.equal} == {}


def test_the_kernel_in_all_its_forms() -> None:
    params: Params = {"rows": 100, "C": 6, "H": 16}
    assert all(row.equal for row in _gates(BY_ID["spd.ci_kernel"], params).values())


@pytest.mark.parametrize("spoil", ["gradient", "loss"])
def test_a_step_that_is_off_by_a_thousandth_is_seen(spoil: str) -> None:
    def spoilt(inputs: dict[str, Any]) -> problem.Started:
        def prepare(trainer: Trainer) -> None:
            honest = trainer.losses

            def losses(*args: Any) -> Any:
                total, values, g = honest(*args)
                if spoil == "gradient":
                    return 1.001 * total, values, g
                return total, {name: 1.001 * value for name, value in values.items()}, g

            trainer.losses = losses

        return problem.start(inputs, "tms_5-2", prepare=prepare)

    builds = {"before": lambda inputs: problem.start(inputs, "tms_5-2"), "best": spoilt}
    gates = _gates(BY_ID["spd.all"], {}, problem.step_workload("tms_5-2", builds))
    assert gates["before"].equal
    assert not gates["best"].equal
    assert ("gradient" if spoil == "loss" else "loss") not in gates["best"].reason


def test_draws_of_rows_that_are_kept_are_those_of_the_whole_batch() -> None:
    batch = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
    whole, kept = (problem._WholeBatch(5, batch) for _ in range(2))
    assert torch.equal(kept.uniform((2, 4)), whole.uniform((3, 4))[[0, 2]])
    assert torch.equal(kept.uniform((2,)), whole.uniform((3,))[[0, 2]])


def test_copies_to_a_gpu_do_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SIZE", 16)
    for name, params in (
        ("spd.pinned", {}), ("spd.nonblocking", {"memory": "pinned"}), ("spd.nonblocking", {"memory": "pageable"}),
        ("spd.prefetch", {}),
    ):  # fmt: skip
        assert all(row.equal for row in _gates(BY_ID[name], params).values()), name


def test_cases_of_a_gpu_have_points_only_where_one_is() -> None:
    for name in ("spd.pinned", "spd.nonblocking", "spd.prefetch", "spd.quick_start", "spd.modes"):
        assert bool(BY_ID[name].grid) == torch.cuda.is_available()
    assert BY_ID["spd.gc_order"].values is None or torch.cuda.is_available()


def test_less_of_the_adversary_is_bounded_by_what_it_finds() -> None:
    leaf = {adversary.LOSS: np.array(10 * np.log(0.8))}
    assert adversary._lost(leaf, {adversary.LOSS: np.array(0.0)}) == pytest.approx(0.2)


# --- what is counted --------------------------------------------------------------------------------------------------


def _values(case: str, **params: Any) -> dict[tuple[str, str], float]:
    found = list(BY_ID[case].values(params))  # type: ignore[misc]
    assert len({(row.name, row.variant) for row in found}) == len(found)
    return {(row.name, row.variant): row.value for row in found}


@pytest.mark.parametrize(("task", "operations"), [("tms_5-2", 613), ("resid_mlp1", 611)])
def test_the_control_is_as_slow_as_the_original(task: str, operations: int) -> None:
    found = _values("spd.counts", task=task)
    assert found["operations", "before"] == pytest.approx(operations, rel=0.1)
    assert found["reads", "before"] == 22
    assert found["frozen_products", "before"] == 4  # the target's pass, the full loss, and one for each of two sites
    assert found["reads", "best"] == 0
    assert found["frozen_products", "best"] == 1


@pytest.mark.slow
def test_the_control_is_as_slow_as_the_original_on_a_transformer() -> None:
    found = _values("spd.counts", task="lm")
    assert found["operations", "before"] == pytest.approx(6976, rel=0.1)
    assert found["reads", "before"] == 123
    assert found["reads", "best"] == 0


def test_operations_reads_and_products_of_a_call() -> None:
    weight, x = torch.ones(3, 2), torch.ones(4, 3)
    found = counting.operations(lambda: float((x @ weight).sum() + (x @ torch.ones(3, 2)).sum()), weight)
    assert (found.products, found.reads) == (1, 1)
    assert found.found["aten.mm.default"] == 2
    assert found.all_aten == sum(found.found.values())


def test_bytes_that_are_kept_for_the_backward_pass() -> None:
    x = torch.ones(1000, requires_grad=True)
    # exp keeps its result, sin its input, which is that result; cos of it is kept by nobody.
    assert counting.saved_bytes(lambda: x.exp().sin()) == 4000


def test_the_peak_of_a_call() -> None:
    def call() -> None:
        held = [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(3)]
        del held[0]
        held.append(torch.empty(1 << 19, dtype=torch.uint8))

    assert peak_bytes(call) == pytest.approx(3 << 20, rel=0.01)


def test_the_kernel_keeps_a_hidden_layer_less() -> None:
    found = _values("spd.ci_kernel", rows=512, C=20, H=16)
    assert found["saved", "before"] / found["saved", "best"] > 10


def test_registrations_of_hooks() -> None:
    # Four passes through two sites: the target's, the full loss's, and one for each site.
    assert _values("spd.hooks", task="tms_5-2") == {
        ("registrations", "before"): 8, ("registrations", "after"): 0, ("registrations", "inline"): 0,
    }  # fmt: skip


def test_the_rule_of_the_fused_product() -> None:
    found = {site: _values("spd.fused", site=site)["rule", "after"] for site in parts.SITES}
    assert found == {"tms_5-2": 1, "resid_mlp1": 1, "lm": 1, "few": 0}


def test_files_that_hold_another_state_than_was_saved() -> None:
    found = _values("spd.saving", task="tms_5-2")
    assert (found["torn", "after"], found["torn", "best"]) == (1, 0)
    assert found["stall", "before"] > 0


def test_errors_in_sixteen_bits() -> None:
    found = _values("spd.stability", amp="bf16")
    assert found["divergence", "after"] < 2
    assert found["faithfulness", "after"] < 2
    assert found["toy", "after"] > 100


@pytest.mark.slow
def test_tensors_that_are_let_go_cost_no_memory() -> None:
    found = _values("spd.freeing", steps=2)
    assert found["peak tms_5-2", "after"] <= found["peak tms_5-2", "before"]


@pytest.mark.slow
def test_a_pass_that_is_run_again_takes_less_memory() -> None:
    found = _values("spd.checkpointing", task="recon_lm")
    assert found["peak", "after"] < 0.9 * found["peak", "before"]
    assert found["largest", "before"] == 16
    assert found["largest", "after"] > 16


# --- figures of one process -------------------------------------------------------------------------------------------


def test_calls_take_turns_and_the_first_round_is_thrown_away() -> None:
    order: list[str] = []

    def call(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = turns.in_turns({name: lambda at=name: call(at) for name in "abc"}, rounds=2)  # type: ignore[misc]
    assert "".join(order) == "cbaabccba"
    assert {name: values.tolist() for name, values in found.items()} == {"a": [4, 9], "b": [5, 8], "c": [6, 7]}


def test_a_share_that_is_saved() -> None:
    before = np.array([1.0, 2.0, 4.0])
    share, (low, high) = turns.share_saved(before, before / 4)
    assert (share, low, high) == pytest.approx((75, 75, 75))
    share, (low, high) = turns.share_saved(before, before * np.array([0.5, 0.6, 0.7]))
    assert low < share < high


def test_agreement_of_ranks() -> None:
    # Classes 3, 3, 3, 3, 2, 1, 1: of 21 pairs 7 are ties of class; with the rest in order τ-b = 14 / √(14 · 21).
    shares = {name: float(7 - index) for index, name in enumerate(priority.CLASSES)}
    assert priority.agreement(shares) == pytest.approx(14 / np.sqrt(14 * 21))
    assert priority.agreement({name: -share for name, share in shares.items()}) == pytest.approx(-14 / np.sqrt(14 * 21))


def test_shares_of_the_ranking_at_the_published_intervals() -> None:
    rounds = np.ones(6)
    times = {"before": 1.0, "save": 3.0, "hand over": 1.0, "collect": 5.0}
    times |= dict.fromkeys(("compile ci_fns", "compile target", "persistent hooks", "fused product"), 0.75)
    times["less of the adversary"] = 0.5
    found = priority._shares({name: np.log(value * rounds) for name, value in times.items()})
    assert found["compile ci_fns"] == pytest.approx(25)
    assert found["less of the adversary"] == pytest.approx(50)
    assert found["async checkpointing"] == pytest.approx(0.2)  # two of a thousand
    assert found["fewer gc.collect()"] == pytest.approx(0.5)
    assert list(found) == list(priority.CLASSES)


# --- from rows to verdicts --------------------------------------------------------------------------------------------


def _verdicts(builder: Any, rows: list[Any]) -> dict[str, Any]:
    return {f.id: f for f in evaluate(builder.write([builder.start(), *rows]), CLAIMS.values()).findings}


def test_verdicts_of_what_is_counted(builder: Any) -> None:
    counts = {
        "tms_5-2": {"operations": 600, "reads": 22, "frozen_products": 4},
        "resid_mlp1": {"operations": 611, "reads": 22, "frozen_products": 4},
        "lm": {"operations": 7000, "reads": 123, "frozen_products": 7},
    }
    rows = [
        Value(case="spd.counts", params={"task": task}, name=name, variant=variant, value=value * (variant == "before"))
        for task, names in counts.items()
        for name, value in names.items()
        for variant in ("before", "best")
    ]
    stable = {"divergence": 0.1, "faithfulness": 0.0, "toy": 4000.0}
    rows += [
        Value(case="spd.stability", params={"amp": "bf16"}, name=name, variant="after", value=value)
        for name, value in stable.items()
    ]
    found = _verdicts(builder, rows)
    assert found["spd.host_reads.ours"].verdict is Verdict.REPRODUCED
    assert all(row.faithful for row in found["spd.host_reads.ours"].fidelity)
    assert found["spd.amp.stability"].verdict is Verdict.PARTLY
    for name, claim in CLAIMS.items():
        if claim.needs == "cuda":
            assert found[name].verdict is Verdict.HARDWARE_MISSING
            assert "--device cuda" in found[name].reason


def test_a_control_with_other_counts_is_no_evidence(builder: Any) -> None:
    rows = [
        Value(case="spd.counts", params={"task": task}, name=name, variant=variant, value=value)
        for task in ("tms_5-2", "resid_mlp1", "lm")
        for name, before in (("operations", 613), ("reads", 40), ("frozen_products", 4))
        for variant, value in (("before", before), ("best", 0))
    ]
    found = _verdicts(builder, rows)["spd.host_reads.ours"]
    assert found.verdict is Verdict.INCORRECT
    assert "not faithful" in found.reason


# --- a case that fewer processes time ---------------------------------------------------------------------------------


def test_a_case_is_timed_by_its_first_processes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_ID["spd.lists"]
    module = ModuleType("few")
    module.CASES = (replace(case, processes=2, budget=0.01),)  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "few", module)
    monkeypatch.setattr(worker, "PROBE_SECONDS", 0.001)
    timed = []
    for process in range(3):
        path = tmp_path / f"{process}.jsonl"
        job = Job.model_validate(
            {"mode": "time", "module": "few", "cases": [case.id], "results": path, "process": process, "device": "cpu"}
        )
        with Writer(path) as writer:
            worker.Worker(job, writer).run()
        lines = [parse_line(line) or parse_row(line) for line in path.read_text().splitlines()]
        timed.append(sum(isinstance(line, Samples) for line in lines))
    assert timed == [1, 1, 0]


def test_slow_points_are_timed_by_the_first_processes_only() -> None:
    case = BY_ID["spd.all_large"]
    slow, other = case.grid[0], case.grid[1]
    some = replace(case, processes=None, slow_grid=(slow,))
    assert [some.timed_by(process, slow) for process in range(7)] == [True] * SLOW_PROCESSES + [False] * 3
    assert all(some.timed_by(process, other) for process in range(7))
    with pytest.raises(CaseError, match="a slow point is one of the grid"):
        replace(case, slow_grid=({"task": "none"},))


def test_one_process_is_too_few() -> None:
    with pytest.raises(CaseError, match="spread between processes is unknown"):
        replace(BY_ID["spd.lists"], processes=1)
