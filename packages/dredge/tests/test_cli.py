"""The command as its users call it: in processes of their own where that matters, within this one elsewhere."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dredge.cli import app, main
from dredge.cli.output import print_facts
from dredge.insights.store import Store


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str, code: int = 0, db: bool = True) -> tuple[str, str]:
        line = [*arguments, *(["--db", str(tmp_path / "notes.db")] if db else [])]
        with pytest.raises(SystemExit) as end:
            main(line)
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return out, err

    return call


def test_a_note_is_kept_found_and_deleted(run) -> None:
    out, err = run("lift", "waves bend at the edge of the shelf")
    (kept,) = out.split()
    # By hand: printf 'waves bend at the edge of the shelf' | sha256sum
    assert kept == "dfeccfdc4139f5dc4a93616aaed161bcda85b85ccd36518bc07156edb4fc3a38"
    assert err == "kept\n"
    assert "lifted 2 times" in run("lift", "waves bend at the edge of the shelf")[1]
    run("lift", "a list of tuples is sorted")
    found = json.loads(run("search", "wafes bent at the egde", "-n", "1", "--json")[0])
    assert [hit["id"] for hit in found] == [kept]
    assert 0 < found[0]["score"] <= 1
    assert "waves bend" in run("search", "waves")[0]
    assert "tuples" in run("similar", kept)[0]
    assert run("get", kept)[0] == "waves bend at the edge of the shelf\n"
    record = json.loads(run("get", kept, "--json")[0])
    assert (record["seen"], record["kind"], record["created"][-1]) == (2, "text", "Z")
    assert json.loads(run("stats", "--json")[0])["insights"] == 2
    assert run("get", kept[:12]) == run("get", kept)
    assert "tuples" in run("similar", kept[:8].upper())[0]
    assert "none has 'dfecc'" in run("get", kept[:5], code=2)[1]
    assert run("delete", kept[:12])[1] == f"deleted {kept}\n"
    assert kept[:8] in run("get", kept, code=2)[1]
    assert run("search", "zzzz", "--mode", "text")[1] == "nothing found\n"


def test_the_beginning_of_several_ids_is_refused(run, tmp_path: Path) -> None:
    with Store.open(tmp_path / "notes.db") as store:
        for last in "01":
            store.put_signal("ab" * 31 + "c" + last, f"signal {last}", {"x": 1})
    assert "is of several. Give more digits" in run("get", "abababab", code=2)[1]
    assert run("get", "ab" * 31 + "c1")[0] == "signal 1\n"


def test_text_comes_from_standard_input(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"two\r\nlines\n")))
    (kept,) = run("lift", "-")[0].split()
    assert run("get", kept)[0] == "two\r\nlines\n"


def test_a_batch_keeps_what_can_be_kept(run, tmp_path: Path) -> None:
    lines = ['"one note"', '{"text": "another note"}', '{"insight_text": "one note"}', "", "{", "5", '" "']
    file = tmp_path / "notes.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    out, err = run("batch", str(file), "--json", code=1)
    found = json.loads(out)
    assert (found["lines"], found["new"], found["known"]) == (6, 2, 1)
    assert [error["line"] for error in found["errors"]] == [5, 6, 7]
    assert "line 5: a line is JSON" in err
    assert "no.jsonl" in run("batch", str(tmp_path / "no.jsonl"), code=2)[1]


def test_an_export_comes_back_whole(run, tmp_path: Path) -> None:
    for text in ("first", "second", "naïve café ☕"):
        run("lift", text)
    file = tmp_path / "out.jsonl"
    run("export", "--out", str(file))
    assert run("export")[0] == file.read_text(encoding="utf-8")
    main_arguments = ["import", str(file), "--json", "--db", str(tmp_path / "other.db")]
    with pytest.raises(SystemExit):
        main(main_arguments)
    with Store.open(tmp_path / "other.db") as other, Store.open(tmp_path / "notes.db") as store:
        assert other.page(limit=9).items == store.page(limit=9).items
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert "Nothing was imported" in run("import", str(file), code=2)[1]


def test_upkeep(run, tmp_path: Path) -> None:
    run("lift", "a note")
    assert run("reindex")[1] == "0 records have new vectors\n"
    run("backup", str(tmp_path / "copy.db"))
    with Store.open(tmp_path / "copy.db") as copy:
        assert copy.count() == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lift", " "], "something that can be seen"),
        (["search", ""], "a query is"),
        (["similar", "0" * 64], "0" * 8),
        (["stats", "--url", "ftp://x"], "begins with http"),
        (["stats", "--url", "http://127.0.0.1:9"], "Start it: dredge serve"),
        (["lift", "x", "--config", "no.toml"], "no.toml is not"),
        (["health", "--url", "http://127.0.0.1:x"], "Start it: dredge serve"),
        (["health", "--url", "http://[::1"], "Start it: dredge serve"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(run, arguments: list[str], message: str) -> None:
    out, err = run(*arguments, code=2, db=arguments[0] != "health")
    assert out == ""
    assert message in err
    assert err.startswith("dredge: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("path", ["", "what?.db"])
def test_a_path_that_is_none_opens_no_other_file(run, tmp_path: Path, path: str) -> None:
    wanted = path and str(tmp_path / path)
    assert "holds no '?'" in run("lift", "x", "--db", wanted, code=2, db=False)[1]
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_shown_as_it_is(run) -> None:
    run("lift", "[bold]note[/bold] :warning: with \x1b[31m")
    assert "[bold]note[/bold] :warning: with [31m" in run("search", "note")[0]


def test_whole_numbers_are_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts("", {"counter": 1234567.0, "count": 1234567, "rate": 0.123456, "nothing": 0.0})
    shown = capsys.readouterr().out
    assert shown.count("1,234,567") == 2
    assert "0.1235" in shown


def test_settings_are_written_shown_and_read(run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    run("config", "init", "--path", str(file), db=False)
    assert "Give --force" in run("config", "init", "--path", str(file), code=2, db=False)[1]
    shown = run("config", "show", "--config", str(file), db=False)[0]
    assert shown == file.read_text(encoding="utf-8")
    token = "a-secret-of-enough-characters"
    file.write_text(shown.replace("tokens = []", f'tokens = ["{token}"]').replace("3001", "4001"), encoding="utf-8")
    values = json.loads(run("config", "show", "--config", str(file), "--json", db=False)[0])
    assert (values["auth"]["tokens"], values["server"]["port"]) == (["…"], 4001)
    file.write_text("[server]\nprot = 1\n", encoding="utf-8")
    assert "server.prot" in run("config", "show", "--config", str(file), code=2, db=False)[1]
    assert run("config", "path", db=False)[0].strip().endswith("dredge/config.toml")


def test_settings_are_shown_as_toml_without_what_is_secret(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREDGE_DATABASE__URL", "postgresql://me:a-secret@host:5432/notes")
    monkeypatch.setenv("DREDGE_SERVER__HOST", '😀 "\\ \x7f')
    shown = run("config", "show", db=False)[0]
    values = tomllib.loads(shown)
    assert values == json.loads(run("config", "show", "--json", db=False)[0])
    assert values["server"]["host"] == '😀 "\\ \x7f'
    assert values["database"]["url"] == "postgresql://me:…@host:5432/notes"
    assert "a-secret" not in shown


def test_every_command_has_a_help_with_examples(run) -> None:
    names = {command.name for command in app.registered_commands}
    groups = {group.typer_instance.info.name: group.typer_instance for group in app.registered_groups}
    wanted = "serve mcp lift batch search similar export stats fit compress bench health config"
    assert set(wanted.split()) <= names | set(groups)
    lines = [[name] for name in names]
    for group, inner in groups.items():
        lines += [[group, command.name or command.callback.__name__] for command in inner.registered_commands]
    for line in lines:
        assert "Examples:" in run(*line, "--help", db=False)[0]


_LOADED = """
import sys
heavy = {"torch", "flask", "mcp", "granian", "matplotlib", "scipy"}

def loaded():
    return sorted(heavy & {name.split(".")[0] for name in sys.modules})

from dredge.cli import main
for arguments in (["lift", "a quick note"], ["search", "note"], ["similar", sys.argv[1]], ["stats"], ["--version"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
    print("loaded by", arguments[0], loaded())
import dredge.mcp_server
print("loaded by tools", loaded())
import dredge.server
print("loaded by service", loaded())
"""


def test_no_framework_is_loaded_that_is_not_needed(tmp_path: Path) -> None:
    line = [sys.executable, "-c", _LOADED, hashlib.sha256(b"a quick note").hexdigest()]
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    done = subprocess.run(line, check=True, env=environment, capture_output=True, text=True)
    told = [line.removeprefix("loaded by ") for line in done.stdout.splitlines() if line.startswith("loaded by ")]
    assert told == [
        "lift []", "search []", "similar []", "stats []", "--version []", "tools []", "service ['flask']",
    ]  # fmt: skip
