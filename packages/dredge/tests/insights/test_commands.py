"""What `dredge lift`, `batch`, `export`, `import` and `reindex` do with bytes, long texts and long work."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dredge.cli import main, notes
from dredge.insights.encoders import HashedNgramEncoder
from dredge.insights.ids import insight_id
from dredge.insights.store import Store

Run = Callable[..., tuple[str, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str, code: int = 0, given: bytes = b"", encoding: str = "utf-8") -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding=encoding))
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--db", str(tmp_path / "notes.db")])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return out, err

    return call


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[], list[str]]:
    def call() -> list[str]:
        with Store.open(tmp_path / "notes.db") as store:
            return sorted(insight.text for insight in store.page(limit=100).items)

    return call


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("text", ["caf\u00e9\r\nau lait", "\u2028one\rline", " blanks "])
def test_the_id_is_of_the_bytes_that_came(run: Run, text: str, encoding: str) -> None:
    for end in ("", "\n", "\r\n"):
        out, _ = run("lift", "-", given=(text + end).encode(), encoding=encoding)
        assert out.split() == [insight_id(text)]


def test_bytes_that_are_no_text_are_refused(run: Run, kept: Callable[[], list[str]]) -> None:
    out, err = run("lift", "-", given=b"caf\xe9", code=2)
    assert (out, err) == ("", "dredge: a text is UTF-8; byte 4 of this one is not. Convert it.\n")
    assert kept() == []


def test_a_line_that_is_no_utf8_is_named_and_the_others_are_kept(
    run: Run, kept: Callable[[], list[str]], tmp_path: Path
) -> None:
    lines = b'"one"\n"caf\xe9"\r\n"two \xe2\x80\xa8 three"\r\n'
    (tmp_path / "lines").write_bytes(lines)
    for arguments, given in ((["batch", "-"], lines), (["batch", str(tmp_path / "lines")], b"")):
        out, err = run(*arguments, "--json", given=given, code=1, encoding="latin-1")
        assert [error["line"] for error in json.loads(out)["errors"]] == [2]
        assert err.startswith("line 2: a line is JSON in UTF-8; this one is not")
    assert kept() == ["one", "two \u2028 three"]


def test_long_texts_are_kept_a_few_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    put_many = Store.put_many

    def spy(store: Store, texts: Any) -> Any:
        sizes.append(len(texts))
        return put_many(store, texts)

    monkeypatch.setattr(Store, "put_many", spy)
    monkeypatch.setattr(notes, "_CHARACTERS", 10)
    lines = "\n".join(json.dumps(text) for text in ("five1", "five2", "five3", "x" * 50, "five4"))
    out, _ = run("batch", "-", "--json", given=lines.encode())
    assert json.loads(out) == {"lines": 5, "new": 5, "known": 0, "errors": []}
    assert sizes == [3, 1, 1]
    sizes.clear()
    monkeypatch.setenv("DREDGE_LIMITS__BATCH_ITEMS", "2")
    monkeypatch.setattr(notes, "_CHARACTERS", 1000)
    assert json.loads(run("batch", "-", "--json", given=lines.encode())[0])["known"] == 5
    assert sizes == [2, 2, 1]
    assert json.loads(run("batch", "-", "--json", given=b"\n")[0]) == {"lines": 0, "new": 0, "known": 0, "errors": []}


def test_an_archive_goes_through_a_pipe_whatever_its_encoding(
    run: Run, kept: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["caf\u00e9 \u2615", "line\r\nend \x85 \u2028"]
    with Store.open(tmp_path / "notes.db") as store:
        store.put_many(texts)
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="ascii", newline="\r\n"))
    run("export")
    sys.stdout.flush()
    archive = pipe.getvalue()
    monkeypatch.undo()
    (tmp_path / "notes.db").unlink()
    run("import", "-", given=archive, encoding="latin-1")
    assert kept() == sorted(texts)
    assert archive.count(b"\n") == 4
    assert b"\r" not in archive
    damaged = archive.replace("\u00e9".encode(), b"\xe9")
    _, err = run("import", "-", given=damaged, code=2)
    assert err.startswith("dredge: line 2: a line is UTF-8; byte ")
    assert "Nothing was imported" in err


def test_encoding_anew_tells_how_far_it_is(run: Run, tmp_path: Path) -> None:
    class Older(HashedNgramEncoder):
        version = "older"

    with Store.open(tmp_path / "notes.db", encoder=Older()) as store:
        store.put_many(["one", "two", "three"])
    assert run("reindex")[1] == "encoding: 3 of 3\n3 records have new vectors\n"


def test_encoding_anew_draws_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with notes._progress("encoding") as told:
        told(1, 2)
    assert "encoding" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
