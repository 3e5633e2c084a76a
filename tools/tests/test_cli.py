"""The command: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import claimbench
from claimbench import bare, cli
from claimbench.findings import Evaluation
from claimbench.ledger import claim_ids
from claimbench.reading import exit_code, judge_record, newest, newest_of_each_package, records_below
from claimbench.record import End, Failure, Record
from claimbench.run import RunOptions
from claimbench.verdict import Verdict


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, builder: Any, tmp_path: Path) -> list[RunOptions]:
    """Runs are not run: they "measure" the synthetic record. The options they were given are kept."""
    monkeypatch.chdir(tmp_path)
    for module in ("reading", "cli", "report"):
        monkeypatch.setattr(f"claimbench.{module}.load_claims", builder.ledger)
    kept: list[RunOptions] = []

    def run_claims(options: RunOptions, progress: Any) -> Path:
        kept.append(options)
        progress(0, 1, "the only job")
        progress(1, 1, "the only job")
        return builder.write(builder.rows(), f"bench/run{len(kept)}").path.parent

    monkeypatch.setattr("claimbench.run.run_claims", run_claims)
    return kept


def _words(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


OPTIONS = [
    "boolean.update", "resu", "--package", "boolean_nca_cc", "--package", "resu", "--device", "cpu", "--careful",
    "--long", "--out", "a", "--resume", "b", "--seed", "7",
]  # fmt: skip


@pytest.mark.parametrize("main", [cli.main, bare.main], ids=["rich", "bare"])
def test_run_measures_judges_and_writes(main: Any, asked: list[RunOptions], capsys, tmp_path: Path):
    assert main(["run", *OPTIONS]) == 0
    assert asked == [
        RunOptions(
            claims=("boolean.update", "resu"), packages=("boolean_nca_cc", "resu"), device="cpu", quick=False,
            careful=True, long=True, out=Path("a"), resume=Path("b"), seed=7,
        )
    ]  # fmt: skip
    out, err = _words(capsys)
    assert "✗ not reproduced" in out
    folder = tmp_path / "bench" / "run1"
    assert f"record: {folder / 'record.jsonl'}" in out
    assert err.splitlines() == ["[0/1] the only job", "[1/1] the only job"]
    written = {path.name for path in folder.iterdir()}
    assert written == {"record.jsonl", "report.html", "verdicts.md", "verdicts.json", "boolean_nca_cc.svg", "resu.svg"}
    assert json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))["findings"][0]["verdict"] == "reproduced"


@pytest.mark.parametrize("main", [cli.main, bare.main], ids=["rich", "bare"])
def test_defaults_and_strict(main: Any, asked: list[RunOptions]):
    assert main(["run"]) == 0
    assert asked == [RunOptions()]
    assert main(["run", "--quick", "--strict"]) == 1  # the synthetic record holds an incorrect variant
    assert asked[1] == RunOptions(quick=True)


@pytest.mark.parametrize("main", [cli.main, bare.main], ids=["rich", "bare"])
def test_an_error_of_ours_is_one_paragraph(main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "boolean.nowhere"]) == 2
    out, err = _words(capsys)
    assert out == ""
    assert err.startswith("claimbench: no claim is called 'boolean.nowhere'")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("main", [cli.main, bare.main], ids=["rich", "bare"])
@pytest.mark.parametrize("out", [["--out", "bench/mine"], []], ids=["named", "default"])
def test_ctrl_c_says_how_to_go_on(main: Any, out: list[str], asked, builder, monkeypatch: pytest.MonkeyPatch, capsys):
    def stop(*_: Any) -> None:
        builder.write([builder.start()], "bench/mine")
        raise KeyboardInterrupt

    monkeypatch.setattr("claimbench.run.run_claims", stop)
    assert main(["run", *out]) == 130
    assert "`claimbench run --resume bench/mine` goes on from it" in _words(capsys)[1]


def test_ctrl_c_before_the_first_line(asked, monkeypatch: pytest.MonkeyPatch, capsys):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("claimbench.run.run_claims", stop)
    assert cli.main(["run"]) == 130
    assert "before anything was measured" in _words(capsys)[1]


def test_exit_codes(builder, evaluated: tuple[Evaluation, Record]):
    evaluation, record = evaluated
    assert exit_code(evaluation, record) == 0
    assert exit_code(evaluation, record, strict=True) == 1
    fine = evaluation.model_copy(
        update={"findings": [f for f in evaluation.findings if f.verdict not in {Verdict.ERROR, Verdict.INCORRECT}]}
    )
    assert exit_code(fine, record, strict=True) == 0
    nothing = [builder.start(), Failure(stage="import", reason="absent"), End(complete=True, seconds=1)]
    other, empty = builder.evaluated(nothing, name="empty")
    assert exit_code(other, empty) == 1
    stated = other.model_copy(update={"findings": [f for f in other.findings if f.verdict is Verdict.STATED]})
    assert stated.findings
    assert exit_code(stated, empty) == 0


def test_a_record_is_judged_by_the_claims_it_was_asked_for(asked, builder):
    rows = [
        builder.start(claims=["boolean.partly"]),
        *builder.rows()[1:],
        builder.start(claims=["resu.memory"], resumed=True),
    ]
    evaluation = judge_record(builder.write(rows))
    assert [finding.id for finding in evaluation.findings] == ["boolean.partly", "resu.memory"]
    assert set(evaluation.missing).isdisjoint(finding.id for finding in evaluation.findings)


def test_a_long_claim_is_shown_from_the_newest_committed_record(asked, builder):
    older = [
        builder.start(created="2026-01-02T00:00:00+00:00"),
        *builder.timed({"after": 0.2}, params={"size": "nowhere"}),
    ]
    builder.write(older, "results/older")
    finding = next(f for f in judge_record(builder.write(builder.rows())).findings if f.id == "boolean.not_run")
    assert finding.verdict is Verdict.NOT_RUN_HERE
    assert "2026-01-02 on cpu" in finding.reason
    assert finding.from_record == "older"


def test_a_run_of_a_whole_package_shows_its_long_claims_and_a_run_of_some_claims_does_not(asked, builder):
    names = [claim.id for claim in builder.ledger() if claim.package == "boolean_nca_cc"]
    rest = [name for name in names if name != "boolean.not_run"]
    for claims, shown in ((rest, names), (rest[1:], rest[1:]), ([*rest, "resu.memory"], [*names, "resu.memory"])):
        record = builder.write([builder.start(claims=claims), *builder.rows()[1:]], f"bench/{len(claims)}")
        assert [finding.id for finding in judge_record(record).findings] == shown


def test_the_newest_record_is_found_by_its_date(asked, builder, tmp_path: Path):
    assert cli.main(["claims"]) == 2
    for name, created in (("bench/a", "2026-02-01"), ("results/b", "2026-03-01"), ("bench/c", "2026-01-01")):
        builder.write([builder.start(created=f"{created}T00:00:00+00:00")], name)
    (tmp_path / "bench" / "killed").mkdir()
    (tmp_path / "bench" / "killed" / "record.jsonl").touch()
    assert newest().path.parent.name == "b"
    assert [record.path.parent.name for record in records_below()] == ["b", "a", "c"]


def test_claims_prints_the_newest_record(asked, builder, capsys):
    builder.write(builder.rows(), "bench/x")
    assert cli.main(["claims", "--package", "resu"]) == 0
    out, _ = _words(capsys)
    assert "resu.memory" in out
    assert "boolean." not in out
    assert cli.main(["claims", "--json"]) == 0
    assert len(json.loads(_words(capsys)[0])["findings"]) == len(builder.ledger())
    assert cli.main(["claims", "bench/x", "--markdown"]) == 0
    assert _words(capsys)[0].startswith("| Claim |")
    assert cli.main(["claims", "--package", "nowhere"]) == 2


def test_the_readme_shows_each_packages_newest_whole_record(asked, builder, tmp_path, capsys, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- generated by claimbench -->\nold\n<!-- end of what is generated -->\n")
    assert cli.main(["claims", "--write", str(readme)]) == 2
    assert "is about a whole package" in _words(capsys)[1]
    ids = [claim.id for claim in builder.ledger() if claim.duration != "long"]
    both = builder.start(claims=ids, created="2026-01-01T00:00:00+00:00")
    part = builder.start(claims=ids[:1], created="2026-02-01T00:00:00+00:00")
    builder.write([both, *builder.rows()[1:]], "results/both")
    builder.write([part, *builder.rows()[1:]], "results/part")
    chosen = newest_of_each_package([Path("results")])
    assert {record.path.parent.name for record in chosen.values()} == {"both"}
    assert cli.main(["claims", "--write", str(readme)]) == 0
    text = readme.read_text()
    assert text.count("| Claim |") == 1
    assert "old" not in text
    assert "boolean." in text
    own = [name for name in ids if name.startswith("resu.")]
    builder.write(
        [builder.start(claims=own, created="2026-03-01T00:00:00+00:00"), *builder.rows()[1:]], "results/newer"
    )
    assert cli.main(["claims", "--write", str(readme)]) == 0
    assert readme.read_text().count("`resu.memory`") == 1, "a package is told from its newest record alone"
    assert cli.main(["claims", "--write", str(readme), "--package", "resu"]) == 0
    assert "`resu.memory`" in readme.read_text()
    assert "boolean." not in readme.read_text()
    assert cli.main(["claims", "--write", str(readme), "--package", "dredge"]) == 2
    assert "--package dredge" in _words(capsys)[1]


def test_claims_says_when_there_is_no_record(asked, capsys):
    assert cli.main(["claims"]) == 2
    assert "`claimbench run` makes one" in _words(capsys)[1]


def test_list_names_claims_cases_devices_and_what_is_missing(asked, capsys):
    assert cli.main(["list"]) == 0
    out, _ = _words(capsys)
    (line,) = [line for line in out.splitlines() if line.split()[:1] == ["boolean.hardware"]]
    assert line.endswith("boolean.update · needs a GPU")
    assert f"not there yet: {len(claim_ids())} ids" in out
    assert "boolean.update.mean" in out
    assert cli.main(["list", "resu", "--json"]) == 0
    found = json.loads(_words(capsys)[0])
    assert [claim["id"] for claim in found["claims"]] == ["resu.memory"]
    assert len(found["missing"]) == len(claim_ids())
    assert cli.main(["list", "nowhere"]) == 2


def test_report_of_one_and_of_several(asked, builder, capsys, tmp_path: Path):
    first, second = builder.write(builder.rows(), "a").path.parent, builder.write(builder.rows(), "b").path.parent
    assert cli.main(["report", str(first)]) == 0
    assert _words(capsys)[0].strip() == str(first / "report.html")
    assert cli.main(["report", str(first), str(second / "record.jsonl")]) == 0
    assert "Verdict, B" in (first / "comparison.html").read_text(encoding="utf-8")
    _words(capsys)
    assert cli.main(["report", str(first), "--out", str(tmp_path / "x.html"), "--tables"]) == 0
    assert (tmp_path / "x.html").is_file()
    assert (first / "verdicts.md").is_file()
    assert cli.main(["report", str(first), "--out", str(tmp_path / "no" / "x.html")]) == 2
    assert cli.main(["report", str(tmp_path / "no")]) == 2


def test_compare_ends_with_one_for_a_regression(builder, capsys):
    def write(name: str, ratio: float, **changes: Any) -> str:
        return str(
            builder.write([builder.start(**changes), *builder.timed({"after": ratio}, seed=len(name))], name).path
        )

    first, same, slower = write("a", 0.5), write("bb", 0.5), write("ccc", 0.7)
    other = write("dddd", 0.5, code={"boolean.update": "changed"})
    assert cli.main(["compare", first, same]) == 0
    assert "nothing is slower" in _words(capsys)[0]
    assert cli.main(["compare", first, slower, "--json"]) == 1
    assert json.loads(_words(capsys)[0])["regressions"] == 2
    assert cli.main(["compare", first, other]) == 2
    assert "code of `before`" in _words(capsys)[1]
    assert cli.main(["compare", first, other, "--override"]) == 0
    assert cli.main(["compare", first, slower, "--absolute"]) == 1


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1)])
def test_selftest_prints_each_check(monkeypatch: pytest.MonkeyPatch, capsys, passed: bool, code: int):
    from claimbench.selftest import Check

    def run_selftest(*, runs: int, report: Any) -> bool:
        report(Check(f"{runs} runs", passed, "0.1 %"))
        return passed

    monkeypatch.setattr("claimbench.selftest.run_selftest", run_selftest)
    assert cli.main(["selftest", "--runs", "5"]) == code
    assert _words(capsys)[0] == f"{'✓' if passed else '✗'} 5 runs: 0.1 %\n"


@pytest.mark.parametrize(("state", "code"), [("warn", 0), ("bad", 1)])
def test_doctor_ends_with_one_for_an_unfit_machine(monkeypatch: pytest.MonkeyPatch, capsys, state: Any, code: int):
    from claimbench.doctor import Check

    monkeypatch.setattr("claimbench.doctor.checkup", lambda: [Check("load", state, "3.0", "stop it")])
    assert cli.main(["doctor"]) == code
    assert "→ stop it" in _words(capsys)[0]
    assert cli.main(["doctor", "--json"]) == code
    assert json.loads(_words(capsys)[0])["fit"] is (code == 0)


COMMANDS = ("run", "list", "report", "claims", "compare", "selftest", "doctor")


def test_help_has_examples(capsys):
    assert cli.main(["--help"]) == 0
    out, _ = _words(capsys)
    for command in COMMANDS:
        assert command in out
        assert cli.main([command, "--help"]) == 0
        assert f"claimbench {command}" in " ".join(_words(capsys)[0].split("Example")[1].split())


@pytest.mark.parametrize("arguments", [["run", "--device", "abacus"], ["compare", "a"], ["nowhere"]])
def test_wrong_usage_is_two(arguments: list[str], capsys):
    assert cli.main(arguments) == 2
    assert _words(capsys)[1]


BARE = """
import sys
for name in ("typer", "rich", "jinja2", "plotly", "pandas", "psutil", "cpuinfo", "pynvml"):
    sys.modules[name] = None
from claimbench.__main__ import main
sys.argv = ["claimbench", *sys.argv[1:]]
raise SystemExit(main())
"""


def _bare(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    source = Path(claimbench.__file__).parents[1]
    environ = {**os.environ, "PYTHONPATH": str(source), "PYTHONIOENCODING": "ascii"}
    return subprocess.run(
        [sys.executable, "-c", BARE, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def test_without_typer_and_rich_there_is_still_run(tmp_path: Path):
    shown = _bare("run", "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    for option in (
        "--package",
        "--device",
        "--quick",
        "--careful",
        "--long",
        "--out",
        "--resume",
        "--seed",
        "--strict",
    ):
        assert option in shown.stdout
    refused = _bare("run", "boolean.nowhere", cwd=tmp_path)
    assert refused.returncode == 2
    assert "no claim is called" in refused.stderr
    assert _bare("doctor", cwd=tmp_path).returncode == 2  # argparse: no such command


def test_the_installed_command_and_the_module_are_the_same(tmp_path: Path):
    script = shutil.which("claimbench", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("claimbench runs from its sources here, and no command is installed")
    for command in ([script], [sys.executable, "-m", "claimbench"]):
        done = subprocess.run(
            [*command, "claims"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 2
        assert done.stderr.startswith("claimbench: a verdict needs a record")
