"""Records: one row a line, whole or not there, and only rows that can be true."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from claimbench.errors import RecordError
from claimbench.record import (
    CONTROL,
    Compile,
    Done,
    End,
    Failure,
    Gate,
    Memory,
    Probe,
    Samples,
    Start,
    Value,
    Writer,
    parse_row,
    point_name,
    read_record,
)

START = Start(
    run="r", created="2026-03-04T05:06:07+00:00", claims=[], packages=[], device="cpu", quick=False, processes=2,
    seed=0, claimbench="0.1.0", commit="c", dirty=None,
)  # fmt: skip


def series(**changes: Any) -> dict[str, Any]:
    names = ("before", "after", "before" + CONTROL)
    fields: dict[str, Any] = {
        "kind": "samples", "case": "c", "params": {"size": 3}, "process": 0, "calls": dict.fromkeys(names, 2),
        "clocks": {clock: {name: [1.0, 2.0] for name in names} for clock in ("wall", "process")},
        "rounds": 1, "seconds": 1.0, "reached_precision": True, "precision": 0.01, "control": "before",
    }  # fmt: skip
    return fields | changes


def test_every_row_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [
        START,
        Samples.model_validate(series()),
        Gate(case="c", params={"size": 3, "name": "x", "lr": 0.5}, variant="v", against="oracle", equal=False,
             max_abs=math.inf, max_rel=math.inf, reason="shape"),
        Value(case="c", params={}, name="n", value=3),
        Failure(stage="time", reason="ValueError: ü \u2028 \x85 \x0b", detail="line\nline"),
        Done(job="time"),
        End(complete=True, seconds=1.0),
    ]  # fmt: skip
    with Writer(tmp_path / "record.jsonl") as writer:
        for row in rows:
            writer.write(row)
    record = read_record(tmp_path)
    assert record.rows == rows
    assert record.broken == []
    assert record.complete
    assert record.done() == {"time"}
    assert record.start == START


def test_a_writer_appends_and_each_line_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    with Writer(path) as writer:
        writer.write(START)
        assert path.read_bytes().count(b"\n") == 1
    with Writer(path) as writer:
        writer.write(Done(job="a"))
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["start", "done"]


def test_a_torn_last_line_is_tolerated_and_told(tmp_path: Path) -> None:
    text = START.model_dump_json() + "\n" + Done(job="a").model_dump_json() + "\n" + '{"kind": "sam'
    (tmp_path / "record.jsonl").write_text(text)
    record = read_record(tmp_path)
    assert len(record.rows) == 2
    assert record.broken == ['{"kind": "sam']
    assert not record.complete


def test_garbage_in_the_middle_costs_only_its_own_line(tmp_path: Path) -> None:
    lines = [START.model_dump_json().encode(), b"\xff\xfe", b"[1]", b"", b'{"kind":"done","job":"a"}', b""]
    (tmp_path / "record.jsonl").write_bytes(b"\n".join(lines))
    record = read_record(tmp_path)
    assert record.done() == {"a"}
    assert len(record.broken) == 2


def test_the_last_end_counts(tmp_path: Path) -> None:
    with Writer(tmp_path / "record.jsonl") as writer:
        for row in (START, End(complete=True, seconds=1.0), START, End(complete=False, seconds=2.0, reason="stopped")):
            writer.write(row)
    assert not read_record(tmp_path).complete


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is none"),
        ("", "first line must say"),
        ("not a record\n", "first line must say"),
        (End(complete=True, seconds=1.0).model_dump_json() + "\n", "first line must say"),
        (START.model_copy(update={"schema_version": 99}).model_dump_json() + "\n", "schema 1; .* has 99"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "record.jsonl").write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(tmp_path)


def test_a_newer_record_with_unknown_fields_is_read() -> None:
    assert parse_row('{"kind": "done", "job": "a", "colour": "blue"}') == Done(job="a")


@pytest.mark.parametrize("line", ["", "{", "[]", "null", '{"kind": "surprise"}', '{"job": "a"}', "[" * 5000])
def test_a_line_that_is_no_row_is_refused(line: str) -> None:
    with pytest.raises(RecordError, match="one row a line"):
        parse_row(line)


def with_times(clock: str, name: str, values: list[Any]) -> dict[str, Any]:
    row = series()
    row["clocks"][clock][name] = values
    return row


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (with_times("wall", "after", [1.0, -2.0]), "finite and positive"),
        (with_times("process", "after", [1.0, 0.0]), "finite and positive"),
        (with_times("wall", "before", [1.0, "NaN"]), "finite and positive"),
        (with_times("wall", "before", [1.0, "Infinity"]), "finite and positive"),
        (with_times("wall", "after", [1.0]), "differ in length"),
        (with_times("wall", "stranger", [1.0, 2.0]), "one series by each clock"),
        (series(clocks={"wall": {name: [] for name in series()["calls"]}}), "not empty"),
        (series(clocks={"process": series()["clocks"]["process"]}), "wall clock"),
        (series(control="after"), "second series"),
    ],
)
def test_times_that_cannot_be_true_are_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_row(json.dumps(row))


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "memory", "case": "c", "params": {}, "variant": "v", "peak_bytes": -1.0, "method": "m"},
        {"kind": "memory", "case": "c", "params": {}, "variant": "v", "peak_bytes": "Infinity", "method": "m"},
        {"kind": "compile", "case": "c", "params": {}, "variant": "v", "seconds": -1.0},
        {"kind": "compile", "case": "c", "params": {}, "variant": "v", "seconds": "NaN"},
        {"kind": "probe", "name": "copy", "value": 0.0, "unit": "B/s"},
    ],
)
def test_bytes_and_seconds_that_cannot_be_true_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="one row a line"):
        parse_row(json.dumps(row))


def test_true_bytes_and_seconds_are_taken() -> None:
    assert Memory(case="c", params={}, variant="v", peak_bytes=0, method="m").peak_bytes == 0
    assert Compile(case="c", params={}, variant="v", seconds=0.5).seconds == 0.5
    assert Probe(name="copy", value=1e9, unit="B/s").value == 1e9


def test_a_full_disk_leaves_only_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.jsonl"
    with Writer(path) as writer:
        writer.write(START)
        raw = writer._file

        class Full:
            """Takes ten bytes of each write and then has no room, as a disk that fills up does."""

            written = 0

            def write(self, data: memoryview) -> int:
                if self.written:
                    raise OSError(28, os.strerror(28))
                self.written = raw.write(data[:10])
                return self.written

            def __getattr__(self, name: str) -> Any:
                return getattr(raw, name)

        monkeypatch.setattr(writer, "_file", Full())
        with pytest.raises(OSError, match="No space left"):
            writer.write(Done(job="does not fit"))
        monkeypatch.undo()
        writer.write(Done(job="fits again"))
    record = read_record(path)
    assert record.broken == []
    assert record.done() == {"fits again"}


def test_a_point_is_named_by_its_parameters_in_their_order() -> None:
    assert point_name({"b": 1, "a": 0.5, "c": "x"}) == "b=1 a=0.5 c=x"
    assert point_name({}) == ""
