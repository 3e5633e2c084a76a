"""The self-test passes on a tool that is right and fails on one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from claimbench import selftest
from claimbench.ledger import Claim
from claimbench.selftest import Check, planted_claims, run_selftest


def failed(checks: list[Check]) -> list[str]:
    return [f"{check.name}: {check.found}" for check in checks if not check.passed]


@pytest.mark.slow  # seven processes and real clocks: half a minute on a quiet machine, and a busy one may be too noisy
def test_the_tool_proves_itself_on_this_machine() -> None:
    checks: list[Check] = []
    assert run_selftest(runs=200, report=checks.append), failed(checks)
    assert len(checks) > 15


def test_known_truths_have_a_claim_and_an_expectation_each() -> None:
    claims: tuple[Claim, ...] = planted_claims()
    assert {claim.id for claim in claims} == set(selftest.EXPECTED)


def test_statistics_that_always_find_a_winner_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claimbench.simulate.finds_a_winner", lambda *_args, **_options: True)
    false, found = selftest.simulated(5)
    assert not false.passed
    assert false.found.startswith("100.00%")
    assert found.passed


def test_statistics_that_never_find_a_winner_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("claimbench.simulate.finds_a_winner", lambda *_args, **_options: False)
    false, found = selftest.simulated(5)
    assert false.passed
    assert not found.passed


def steps(monkeypatch: pytest.MonkeyPatch, *checks: Check) -> None:
    monkeypatch.setattr(selftest, "simulated", lambda _runs: [checks[0]])
    monkeypatch.setattr(selftest, "survival", lambda _folder, _limit: [checks[1]])
    monkeypatch.setattr(selftest, "real", lambda _folder: [checks[2]])


@pytest.mark.parametrize("bad", [None, 0, 1, 2])
def test_one_check_that_fails_fails_the_self_test_and_all_are_told(
    monkeypatch: pytest.MonkeyPatch, bad: int | None
) -> None:
    checks = [Check(f"check {i}", i != bad, "found") for i in range(3)]
    steps(monkeypatch, *checks)
    told: list[Check] = []
    assert run_selftest(report=told.append) is (bad is None)
    assert told == checks


def test_a_worker_that_is_not_reported_dead_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run that lost every failure row: each death must be missed by its own check.
    def loses_failures(folder: Path) -> Path:
        folder.mkdir(parents=True)
        (folder / "record.jsonl").write_text(
            '{"kind":"start","run":"r","created":"c","claims":[],"packages":[],"device":"cpu","quick":true,"processes":1,'
            '"seed":0,"claimbench":"0","commit":"c","dirty":null}\n{"kind":"end","complete":true,"seconds":1.0}\n'
        )
        return folder

    monkeypatch.setattr(selftest, "measure", lambda options, *_rest, **_more: loses_failures(options.out))
    checks = selftest.survival(tmp_path / "run", 1.0)
    assert [check.passed for check in checks] == [False] * (len(selftest.DEATHS) + 1)
