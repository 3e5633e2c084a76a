"""Files are whole or absent, and what others write at the same time is in nobody's way."""

import threading
from pathlib import Path

import pytest

from dredge.files import write_whole


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "notes.txt"
    write_whole(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, fail)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_threads_that_write_one_file_leave_one_of_the_two(tmp_path: Path) -> None:
    path, both = tmp_path / "notes.txt", threading.Barrier(2)
    failed: list[Exception] = []

    def write(content: str) -> None:
        def slowly(temporary: Path) -> None:
            temporary.write_text(content)
            both.wait(timeout=30)  # the other has written too
            assert temporary.read_text() == content

        try:
            write_whole(path, slowly)
        except (OSError, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [path]
