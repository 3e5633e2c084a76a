"""The cases of dredge: what is timed is the same work, what is counted is what can be worked out by hand."""

from __future__ import annotations

import json
import math
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dredge")

_THREADS = torch.get_num_threads()

from claimbench import gate, turns  # noqa: E402
from claimbench.case import Case  # noqa: E402
from claimbench.cases.dredge import (  # noqa: E402
    CASES,
    counting,
    envelope,
    hashing,
    identical,
    packets,
    problem,
    service,
    training,
)
from claimbench.errors import CaseError  # noqa: E402
from claimbench.evaluate import evaluate  # noqa: E402
from claimbench.figures import matches  # noqa: E402
from claimbench.ledger import Claim, Figure, claim_ids, load_claims  # noqa: E402
from claimbench.record import Gate, Params, Value  # noqa: E402
from claimbench.runtimes import load_runtime  # noqa: E402
from claimbench.runtimes.torch_memory import peak_bytes  # noqa: E402
from claimbench.verdict import Verdict  # noqa: E402
from dredge.reference import original  # noqa: E402

torch.set_num_threads(_THREADS)  # a worker keeps to one thread; the tests of others do not have to

BY_ID = {case.id: case for case in CASES}
CLAIMS = {claim.id: claim for claim in load_claims("dredge")}
LONG = [
    "dredge.future.distributed", "dredge.packets.ours", "dredge.heldout.ours", "dredge.search.ours",
    "dredge.serve.ours",
]  # fmt: skip


def _figures(claim: Claim) -> list[Figure]:
    return [part.figure for part in claim.parts] or ([claim.figure] if claim.figure else [])


# --- claims and cases -------------------------------------------------------------------------------------------------


def test_every_id_of_the_ledger_has_its_claim() -> None:
    assert list(CLAIMS) == [name for name in claim_ids() if name.startswith("dredge.")]
    assert len(BY_ID) == len(CASES)


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
        if figure.case != "dredge.amp_cpu" or not torch.cuda.is_available():
            assert [params for params in points if matches(params, figure.where)], figure


def test_every_case_serves_a_claim() -> None:
    assert {figure.case for claim in CLAIMS.values() for figure in _figures(claim)} == set(BY_ID)


def test_the_test_that_answers_a_statement_exists() -> None:
    (answer,) = [claim.answered_by for claim in CLAIMS.values() if claim.answered_by]
    path, name = answer.split("::")
    assert f"def {name}(" in (Path(__file__).parents[2] / path).read_text(encoding="utf-8")


def test_what_takes_long_is_left_to_long_runs() -> None:
    assert [claim.id for claim in CLAIMS.values() if claim.duration == "long"] == LONG


def test_a_redesign_of_ours_never_stands_for_what_was_published() -> None:
    for claim in CLAIMS.values():
        candidates = {figure.candidate for figure in _figures(claim)}
        assert claim.ours or candidates <= {"after", "as_coded"}, claim.id


def test_what_was_stated_for_a_gpu_needs_one() -> None:
    needy = [claim.id for claim in CLAIMS.values() if claim.needs == "cuda"]
    assert needy == ["dredge.amp.speed", "dredge.amp.memory", "dredge.amp.accuracy", "dredge.future.distributed"]


def test_how_the_authors_came_by_each_figure() -> None:
    published = [claim for claim in CLAIMS.values() if not claim.ours]
    found = {claim.id.removeprefix("dredge."): claim.source.provenance for claim in published}
    stated = {
        "hash.request", "hash.always", "clip.nan", "clip.stability", "clip.overhead", "datagen.time", "identical",
        "tests",
    }  # fmt: skip
    assert {name for name, how in found.items() if how == "measured"} == {"hash.repeat"}
    assert {name for name, how in found.items() if how == "stated"} == stated
    assert set(found.values()) == {"measured", "stated", "expected"}


# --- what is timed ----------------------------------------------------------------------------------------------------


def _gates(case: Case, params: Params) -> dict[str, Gate]:
    found = gate.check(
        case.id, params, case.setup(params), case.variants, case.control, load_runtime("torch", "cpu"), seed=3
    )
    assert all(isinstance(row, Gate) for row in found), found
    return {row.variant: row for row in found if isinstance(row, Gate)}


def _small(case: Case) -> list[Params]:
    points = [{**params, **({"bytes": 2000} if params.get("bytes") == 100_000 else {})} for params in case.grid]
    return [params for params in points if params.get("size") != 80 and params.get("width") != 256]


@pytest.mark.parametrize(
    ("case", "params"),
    [(case, params) for case in CASES for params in _small(case)],
    ids=lambda value: value.id if isinstance(value, Case) else "-".join(map(str, value.values())),
)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning", "ignore:torch.q:DeprecationWarning")
def test_every_variant_does_the_work(case: Case, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "WIDE", 128)
    gates = _gates(case, params)
    assert tuple(gates) == case.variants
    assert {name: row.reason for name, row in gates.items() if not row.equal} == {}


def test_forms_of_the_loop_are_held_to_the_last_bit() -> None:
    for name in ("dredge.clip", "dredge.amp_cpu"):
        for params in BY_ID[name].grid:
            assert all(row.max_abs == 0 for row in _gates(BY_ID[name], params).values())


def test_a_window_that_is_off_by_a_thousandth_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    norm = original.InterferenceAfter.norm
    monkeypatch.setattr(original.InterferenceAfter, "norm", lambda self, sigma: 1.001 * norm(self, sigma))
    for params in BY_ID["dredge.envelope"].grid:
        gates = _gates(BY_ID["dredge.envelope"], params)
        assert gates["best"].equal
        assert not gates["after"].equal


def test_an_id_that_is_another_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "hash_after", original.lru_cache(lambda text: original.hash_before(text + " ")))
    assert not _gates(BY_ID["dredge.hash_request"], {"bytes": 39, "repeats": 70})["after"].equal
    with pytest.raises(CaseError, match="the SHA-256 of its text"):
        list(hashing._micro({"bytes": 20}))


# --- streams of requests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [0, 35, 70, 100])
def test_a_stream_has_its_share_of_repeats_and_nothing_else_is_remembered(repeats: int) -> None:
    texts = [json.loads(body)["insight_text"] for body in hashing._stream(39, repeats, 0)]
    original.hash_after.cache_clear()
    for text in texts:
        original.hash_after(text)
    before = original.hash_after.cache_info()
    for text in texts:
        original.hash_after(text)
    after = original.hash_after.cache_info()
    original.hash_after.cache_clear()
    assert (after.hits - before.hits) / len(texts) == pytest.approx(repeats / 100, abs=0.01)


def test_requests_have_each_share_of_repeats_at_each_length() -> None:
    points = {(params["bytes"], params["repeats"]) for params in BY_ID["dredge.hash_request"].grid}
    assert points == {(size, share) for size in (39, 100_000) for share in (0, 35, 70, 100)}


def test_texts_have_their_size_and_differ() -> None:
    assert {len(hashing.filled(size, 7)) for size in (16, 39, 100_000)} == {16, 39, 100_000}
    assert hashing.filled(16, 1) != hashing.filled(16, 2)
    assert len(service.sentence(5, 39)) >= 39
    assert len({service.sentence(number, 16) for number in range(1000)}) == 1000


def test_equal_strings_are_other_objects() -> None:
    text = hashing.filled(39, 0)
    found = hashing._fresh(text, 5)
    assert set(found) == {text}
    assert len({id(one) for one in [text, *found]}) == 6


def test_an_answer_that_is_not_200_is_an_error() -> None:
    ask = problem.Requests(hashing._application(original.hash_before))
    assert json.loads(ask("POST", "/lift", b'{"insight_text": "a"}'))["id"] == original.hash_before("a")
    with pytest.raises(CaseError, match="answers 200; got 400"):
        ask("POST", "/lift", b"{}")


# --- what is counted --------------------------------------------------------------------------------------------------


def _values(case: str, **params: Any) -> dict[tuple[str, str], float]:
    found = list(BY_ID[case].values(params))  # type: ignore[misc]
    assert len({(row.name, row.variant) for row in found}) == len(found)
    for row in found:
        assert row.interval is None or row.interval[0] <= row.value <= row.interval[1]
    return {(row.name, row.variant): row.value for row in found}


def test_a_cache_holds_the_texts() -> None:
    found = _values("dredge.hash_memory", bytes=1000)
    # 1024 texts of 1000 bytes with a string's header of 49, ids of 64 bytes with theirs, and an entry for each.
    least = hashing.ENTRIES * (1049 + 113) / 1000
    assert least < found["held", "after"] < 1.3 * least


@pytest.mark.parametrize("size", [20, 1_000_000])
def test_gain_and_break_even_are_numbers(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "ROUNDS", 4)
    found = _values("dredge.hash", bytes=size)
    assert found["gain", "after"] > 0
    assert math.isfinite(found["break_even", "after"])


def test_tensors_that_a_call_makes() -> None:
    x = torch.ones(10)
    found = counting.made(lambda: (x + 1).view(2, 5).mul_(2).sum())
    assert (found.tensors, found.bytes) == (2, 44)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its allocator is asked")
def test_most_bytes_at_once() -> None:
    x = torch.ones(1000)
    assert peak_bytes(lambda: ((x + 1) + 1) + 1) == pytest.approx(2 * 4000, rel=0.01)


def test_windows_by_hand() -> None:
    for form in envelope.FORMS.values():
        exact = math.exp(-envelope.EXPONENT) / (0.5 * math.sqrt(2 * math.pi)) ** 3
        assert envelope._window(form, 3, 0.5) == pytest.approx(exact, rel=1e-4)


def test_where_the_published_windows_leave_single_precision() -> None:
    found = _values("dredge.envelope_range", sigma=0.001, most=20)
    # 10⁻³ᵈ is below the smallest number of float32, 1.4·10⁻⁴⁵, from d = 15 on; (2.5·10⁻³)ᵈ is coarse from 17 on.
    assert found["right", "after"] == 14
    assert found["right", "before"] == 16
    assert found["right", "best"] == 20
    assert found["gained", "after"] == -2


def test_wide_windows_are_right_in_both_published_forms() -> None:
    found = _values("dredge.envelope_range", sigma=100.0, most=15)
    # (250.7)¹⁵ = 9.7·10³⁵ fits into float32, and its reciprocal too.
    assert [found["right", name] for name in ("before", "after", "best")] == [15, 15, 15]
    assert found["gained", "after"] == 0


@pytest.mark.parametrize(("target", "size", "columns"), [("4D", 12, 3), ("6D", 5, 5)])
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its allocator rounds up")
def test_both_forms_of_the_targets_hold_as_much_at_their_peak(target: str, size: int, columns: int) -> None:
    found = _values("dredge.datagen_memory", target=target, size=size)
    # The coordinates, the product so far, and a factor with what it is made of or the next product.
    assert found["peak", "before"] == found["peak", "after"] == columns + 3


def test_both_forms_of_the_window_make_as_many_tensors() -> None:
    found = _values("dredge.envelope_memory", dims=3)
    assert found["tensors", "before"] == found["tensors", "after"]
    # σ √2π has 12 bytes; (∏ σ) (2π)^(D/2) has 4.
    assert found["bytes", "before"] - found["bytes", "after"] == 8


def test_clipping_makes_nan_of_an_infinite_gradient() -> None:
    found = _values("dredge.clip_nan", clip=1.0)
    assert found["not_finite", "after"] > 0
    assert found["not_finite", "best"] == 0


def test_a_gradient_is_spoiled_in_one_step_only() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    training._spoil(model, 1, 10.0)
    norms = []
    for _ in range(3):
        model.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        norms.append(float(model.weight.grad))
    assert norms == [1, 10, 1]


def test_an_infinite_gradient_is_no_nan_before_it_is_clipped() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    training._spoil(model, 0, math.inf)
    model(torch.tensor([[2.0, 0.0]])).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.tolist() == [[math.inf, 0]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU its allocator rounds up")
def test_the_peak_of_a_step_is_the_same_whatever_was_there_before(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _values("dredge.amp_memory", model="ensemble")
    # As coded it is the same step: on a CPU the switch does nothing.
    assert found["peak", "before"] == found["peak", "as_coded"]

    def task(_name: str) -> Any:
        return torch.nn.Linear(1000, 1, bias=False), (torch.ones(1, 1000),), torch.ones(1, 1)

    monkeypatch.setattr(training, "_task", task)
    found = _values("dredge.amp_memory", model="of 4000 bytes")
    # Gradients, Adam's two moments, the second one's root, and what that is divided to: five times the weights.
    assert found["peak", "before"] * 2**20 == pytest.approx(5 * 4000, rel=0.01)


def test_gradients_that_are_cleared_are_held_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []

    def clear(optimizer: torch.optim.Optimizer) -> None:
        held = [weakref.ref(p.grad) for group in optimizer.param_groups for p in group["params"]]
        optimizer.zero_grad(set_to_none=True)
        left.append(any(one() is not None for one in held))

    monkeypatch.setattr(training, "CLEARINGS", 1)
    monkeypatch.setattr(training, "zero_to_none", clear)
    _values("dredge.zero_grad", model="ensemble")
    assert left
    assert not any(left)


def test_cleared_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CLEARINGS", 1)
    found = _values("dredge.zero_grad", model="ensemble")
    assert (found["not_none", "before"], found["not_none", "after"]) == (130, 0)


def test_what_is_other_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identical, "STEPS", 3)
    found = _values("dredge.identical", steps=3)
    assert found.pop(("window", "after")) > 0
    assert set(found.values()) == {0}


def test_turns_are_taken_and_the_first_is_thrown_away() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = turns.in_turns({"a": lambda: turn("a"), "b": lambda: turn("b")}, 2)
    assert "".join(order) == "baabba"
    assert found["a"].tolist() == [3, 6]


def test_a_share_and_its_interval() -> None:
    share, (low, high) = turns.share_saved(np.array([2.0, 4.0, 8.0]), np.array([1.0, 2.0, 4.0]))
    assert (share, low, high) == pytest.approx((50, 50, 50))


# --- the service ------------------------------------------------------------------------------------------------------


def test_rows_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BATCH", 10)
    monkeypatch.setattr(service, "SINGLES", 2)
    found = _values("dredge.store", rows=10)
    assert found["rows", "best"] > 0
    assert {variant for name, variant in found if name == "put"} == {"full", "normal"}


@pytest.mark.parametrize("kept", ["yes", "no"])
def test_requests_to_lift(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PART", 3)
    monkeypatch.setattr(service, "PARTS", 3)
    monkeypatch.setenv("DREDGE_AUTH__TOKENS", '["that-only-this-machine-asks-for"]')
    assert _values("dredge.lift", kept=kept, bytes=39)["taken", "best"] > 0


def test_a_real_server_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREDGE_LIMITS__RATE_PER_MINUTE", "1")
    found = _values("dredge.serve", seconds=1)
    assert (found["failed", "best"], found["refused", "best"], found["lost", "best"]) == (0, 0, 0)
    assert found["reads", "best"] > 0 < found["writes", "best"]


def test_searches_have_their_times() -> None:
    found = _values("dredge.search", rows=200)
    assert {variant for name, variant in found if name == "wall_p95"} == {"hybrid", "text", "vector"}


def test_shares_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [service.sentence(number) for number in range(40)]
    monkeypatch.setattr(service, "measure_recall", partial(service.measure_recall, texts=texts))
    rows = {(row.name, row.variant): row for row in BY_ID["dredge.recall"].values({"queries": 20})}  # type: ignore[misc]
    assert rows["unedited", "hybrid"].value == 100
    # Wilson's interval at 99 %, of a share of 1: from 1 / (1 + z² / n), z = 2.5758.
    assert rows["unedited", "hybrid"].interval == pytest.approx((100 / (1 + 2.5758**2 / 20), 100), rel=1e-4)
    assert rows["against_better_part", "hybrid"].value <= 0


# --- fits -------------------------------------------------------------------------------------------------------------


def test_rows_of_fits_have_the_names_that_claims_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, options in (
        (packets.fit1d, {"atoms": (2,), "epochs": 2}),
        (packets.fit4d, {"seeds": 2, "epochs": 6, "grid_size": 5}),
        (packets.fit6d, {"seconds": 0.1, "grid_size": 3, "packets": 4}),
    ):
        monkeypatch.setattr(module, "run", partial(_overridden, module.run, options))
    asked = {(f.where["target"], f.quantity, f.candidate) for f in _figures(CLAIMS["dredge.packets.ours"])}
    found = {
        (target, *key) for target in ("chirp", "published", "shifted", "odd", "6D")
        for key in _values("dredge.packets", target=target)
    }  # fmt: skip
    assert asked <= found


def _overridden(run: Any, options: dict[str, Any], **given: Any) -> Any:
    return run(**{**given, **options})


def test_rows_of_pictures_have_the_names_that_claims_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    monkeypatch.setattr(packets.heldout, "run", partial(packets.heldout.run, seconds=0.2, side=16))
    asked = {(f.quantity, f.candidate) for f in _figures(CLAIMS["dredge.heldout.ours"])}
    assert asked <= set(_values("dredge.heldout", picture="camera"))


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_verdicts_of_what_the_study_found(builder: Any) -> None:
    rows: list[Any] = [
        Value(case=case, params=params, name=name, variant=variant, value=value)
        for case, params, name, variant, value in (
            ("dredge.hash", {"bytes": 20}, "gain", "after", 7.3),
            ("dredge.hash", {"bytes": 1_000_000}, "gain", "after", 1.07),
            ("dredge.hash", {"bytes": 20}, "break_even", "after", 33.0),
            ("dredge.hash_memory", {"bytes": 45}, "held", "after", 295.0),
            ("dredge.envelope_range", {"sigma": 0.001}, "gained", "after", -2),
            ("dredge.clip_nan", {"clip": 1.0}, "not_finite", "after", 70),
            ("dredge.zero_grad", {"model": "ensemble"}, "not_none", "after", 0),
            ("dredge.datagen_taken", {"size": 20}, "taken", "after", 0.064),
            ("dredge.amp_accuracy", {"model": "ensemble"}, "loss_off", "after", 0.1),
        )
    ]
    found = {one.id: one for one in evaluate(builder.write([builder.start(), *rows]), CLAIMS.values()).findings}
    assert found["dredge.hash.repeat"].verdict is Verdict.PARTLY
    for name in ("hash.always", "hash.memory", "envelope.stability", "clip.nan"):
        assert found[f"dredge.{name}"].verdict is Verdict.NOT_REPRODUCED, name
    for name in ("zero_grad.none", "datagen.time"):
        assert found[f"dredge.{name}"].verdict is Verdict.REPRODUCED, name
    assert found["dredge.amp.accuracy"].verdict is Verdict.HARDWARE_MISSING
    assert found["dredge.tests"].verdict is Verdict.STATED
