"""dredge from its wheel: with its extras everything works, and without one what needs it says its name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.wheels, pytest.mark.slow]

CHIRP = "x,y\n" + "".join(f"{x / 20},{(x % 7) / 7 + (x % 3)}\n" for x in range(60))
CLIENT = """
import asyncio, json, sys
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

async def main() -> None:
    server = StdioServerParameters(command=sys.argv[1], args=["mcp", "--db", "notes.db"])
    async with Client(stdio_client(server)) as client:
        tools = await client.list_tools()
        print(sorted(tool.name for tool in tools.tools))
        found = await client.call_tool("recall", {"query": "shelve wafes"})
        print(found.content[0].text)

asyncio.run(main())
"""


class Shell:
    """Runs the command in a folder of its own, with settings of nobody.

    Args:
        wheels: The environments.
        programs: Of one.
        folder: To work in, and home.
    """

    def __init__(self, wheels: Any, programs: Path, folder: Path) -> None:
        self.wheels, self.programs, self.folder = wheels, programs, folder
        folder.mkdir()
        (folder / "chirp.csv").write_text(CHIRP)
        (folder / "notes.jsonl").write_text('"gravity waves"\n{"text": "a list of tuples"}\n')
        self.variables = {
            "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"), "XDG_CONFIG_HOME": str(folder / "config"),
            "MPLCONFIGDIR": str(folder / "matplotlib"), "COLUMNS": "160",
        }  # fmt: skip

    def __call__(self, *arguments: str, code: int = 0) -> str:
        printed: str = self.wheels.run(
            [str(self.programs / "dredge"), *arguments], self.folder, code=code, **self.variables
        )
        return printed

    @contextmanager
    def served(self) -> Iterator[str]:
        """`dredge serve`, and its address."""
        command = [str(self.programs / "dredge"), "serve", "--port", "0", "--db", "notes.db"]
        variables = {**os.environ, **self.variables, "DREDGE_LOG__FORMAT": "json"}
        with (self.folder / "log").open("w") as log:
            server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, env=variables)
        try:
            yield self._address(server)
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0

    def _address(self, server: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            for line in (self.folder / "log").read_text().splitlines():
                told = json.loads(line) if line.startswith("{") else {}
                if told.get("event") == "listening":
                    try:
                        ask(f"{told['url']}/health")
                    except OSError:
                        break
                    return str(told["url"])
            time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text())


def ask(url: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and answer of a request."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_without_extras_all_but_signals_works_and_each_extra_is_named(root: Path, wheels: Any, tmp_path: Path) -> None:
    wheel = wheels.build(root / "packages/dredge", tmp_path / "dist")
    dredge = Shell(wheels, wheels.install(str(wheel), tmp_path / "env"), tmp_path / "work")

    kept = dredge("lift", "waves bend at the shelf's edge").split()[0]
    dredge("batch", "notes.jsonl")
    assert kept in dredge("search", "shelve wafes", "--json")
    for arguments in (["similar", kept], ["get", kept], ["stats"], ["export"], ["openapi"], ["config", "show"]):
        assert dredge(*arguments)

    for extra, arguments in (
        ("inr", ["fit", "chirp.csv"]), ("inr", ["compress", "model.safetensors"]), ("inr", ["bench", "fit1d"]),
        ("inr", ["bench", "fit4d"]), ("inr", ["bench", "fit6d"]), ("inr", ["bench", "heldout"]), ("mcp", ["mcp"]),
        ("postgres", ["stats", "--db", "postgresql://localhost/notes"]),
    ):  # fmt: skip
        printed = " ".join(dredge(*arguments, code=2).split())
        assert f"the extra '{extra}' installs" in printed, printed
        assert f"[{extra}]" in printed, printed

    with dredge.served() as url:
        assert ask(f"{url}/lift", {"insight_text": "x"})[0] == 200
        assert ask(f"{url}/", Accept="text/html")[0] == 200
        x = list(range(20))
        status, answer = ask(f"{url}/lift/signal", {"coords": x, "values": [i % 3 for i in x]})
        assert (status, json.loads(answer)["code"]) == (501, "missing_extra"), answer
        assert "'inr'" in answer


def test_with_its_extras_everything_works(root: Path, wheels: Any, tmp_path: Path) -> None:
    wheel = wheels.build(root / "packages/dredge", tmp_path / "dist")
    programs = wheels.install(f"{wheel}[inr,mcp]", tmp_path / "env")
    dredge = Shell(wheels, programs, tmp_path / "work")
    here = ["--db", "notes.db"]

    kept = dredge("lift", "waves bend at the shelf's edge", *here).split()[0]
    dredge("batch", "notes.jsonl", *here)
    assert kept in dredge("search", "shelve wafes", "--json", *here)
    assert kept in dredge("similar", dredge("lift", "waves bend at the edge", *here).split()[0], "--json", *here)
    fitted = json.loads(dredge("fit", "chirp.csv", "--packets", "3", "--json", *here))
    assert len(fitted["packets"]) == 3
    assert {Path(file).suffix for file in fitted["files"]} == {".json", ".png", ".svg"}
    dredge("compress", "chirp-packets.json")
    assert (dredge.folder / "chirp-packets-int8.json").stat().st_size > 0
    dredge("export", "--out", "all.jsonl", *here)
    dredge("import", "all.jsonl", "--db", "other.db")
    dredge("backup", "copy.db", *here)
    dredge("reindex", *here)
    stats = [json.loads(dredge("stats", "--json", "--db", name)) for name in ("notes.db", "other.db", "copy.db")]
    assert [found["insights"] for found in stats] == [5, 5, 5]
    assert "int" in dredge("openapi")
    dredge("config", "init")
    for arguments in (["config", "show"], ["config", "path"], ["bench", "hash"]):
        assert dredge(*arguments)
    assert "'bench'" in dredge("bench", "heldout", code=2)

    (dredge.folder / "client.py").write_text(CLIENT)
    printed = wheels.run(
        [str(programs / "python"), "client.py", str(programs / "dredge")], dredge.folder, **dredge.variables
    )
    assert "'fit_signal'" in printed
    assert kept in printed

    with dredge.served() as url:
        page = ask(f"{url}/notes/{fitted['id']}", Accept="text/html")
        assert page[0] == 200
        assert "<svg" in page[1]
        assert ask(f"{url}/static/dredge.css")[0] == 200
        x = list(range(40))
        status, answer = ask(f"{url}/lift/signal", {"coords": x, "values": [i % 5 for i in x], "max_packets": 2})
        assert (status, len(json.loads(answer)["packets"])) == (200, 2), answer
        assert "ready" in dredge("health", "--url", url)
        assert "hits" in dredge("stats", "--url", url)
