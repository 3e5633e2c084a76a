"""Files that are whole or absent, and files of lines, whatever kills the process that writes them."""

import subprocess
import sys
from pathlib import Path

import pytest

from neurograph.errors import CheckpointError
from neurograph.files import write_whole
from neurograph.json_lines import append_line, read_lines

KILLED = -9


def killed(code: str, path: Path) -> None:
    """Runs code that kills its own process."""
    whole = f"import os, signal, pathlib\npath = pathlib.Path({str(path)!r})\n{code}"
    assert subprocess.run([sys.executable, "-c", whole], check=False).returncode == KILLED


@pytest.mark.parametrize("moment", ["in the middle of writing", "before the name is given"])
def test_a_killed_process_leaves_the_old_file(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import neurograph.files as files\n"
        "die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "def write(temporary):\n    temporary.write_text('ne')\n"
    )
    code += "    die()\n" if moment == "in the middle of writing" else "files.os.fsync = die\n"
    killed(code + "files.write_whole(path, write)", path)
    assert path.read_text() == "old"
    rest = [other.name for other in tmp_path.iterdir() if other != path]
    assert len(rest) == 1
    assert rest[0].startswith(".file.")
    assert rest[0].endswith(".part")
    write_whole(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"


def test_a_write_that_fails_leaves_nothing_but_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_whole(path, lambda temporary: temporary.write_text("old"))

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_whole(path, write)
    assert [other.name for other in path.parent.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_lines_are_read_back_and_a_cut_one_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    assert read_lines(path, "a") == []
    rows = [{"a": 1, "b": "x\n\u2028y"}, {"a": [2.5, None]}]
    for row in rows:
        append_line(path, row)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert read_lines(path, "a") == rows[:kept]
        assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:kept])
    append_line(path, rows[1])
    assert read_lines(path, "a") == [rows[0], rows[1]]


@pytest.mark.parametrize("line", ['"key fitness"', '["key", "fitness"]', "3", "null", "{", '{"key": 1}', "", "\xff"])
def test_lines_that_are_no_objects_with_the_keys_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"key": 0, "fitness": 1}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(CheckpointError, match=r"with key, fitness; one of .*rows\.jsonl is not"):
        read_lines(path, "key", "fitness")
