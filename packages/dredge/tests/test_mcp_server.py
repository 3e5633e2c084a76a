"""The tools through the protocol's official client: within the process, over standard input and output, over HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import httpx
import numpy as np
import pytest

from dredge.config import Settings
from dredge.errors import ConfigError
from dredge.insights.encoders import HashedNgramEncoder, register_encoder
from dredge.insights.store import Store
from dredge.mcp_server import make_mcp_server, run_mcp_server

pytestmark = pytest.mark.needs_extra("mcp")

TOOLS = {"lift", "lift_batch", "recall", "similar", "get", "fit_signal"}


def _settings(folder: Path, **sections: Any) -> Settings:
    return Settings(database={"url": f"sqlite:///{folder / 'notes.db'}"}, **sections)


async def _answer(client: Any, tool: str, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    found = result.structured_content
    return found["result"] if set(found) == {"result"} else found


async def _refusal(client: Any, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


def test_all_tools_within_the_process(tmp_path: Path) -> None:
    from mcp import Client

    async def talk() -> None:
        settings = _settings(tmp_path, limits={"batch_items": 3, "text_bytes": 200, "query_chars": 50})
        with Store.open(settings.database) as store:
            async with Client(make_mcp_server(settings, store)) as client:
                assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
                first = await _answer(client, "lift", text="waves bend at the edge of the shelf")
                again = await _answer(client, "lift", text="waves bend at the edge of the shelf")
                assert (first["created"], again["created"], again["seen"]) == (True, False, 2)
                batch = await _answer(client, "lift_batch", texts=["a list of tuples is sorted", " ", "x" * 201])
                assert (batch["kept"], batch["errors"]) == (1, 2)
                assert batch["items"][0]["created"]
                assert "something that can be seen" in batch["items"][1]["error"]
                found = await _answer(client, "recall", query="wafes bent at the egde", limit=1)
                assert found[0]["id"] == first["id"]
                near = await _answer(client, "similar", id=first["id"])
                assert [one["id"] for one in near] == [batch["items"][0]["id"]]
                record = await _answer(client, "get", id=first["id"])
                assert (record["text"], record["kind"], record["seen"]) == (first["text"], "text", 2)
                assert "no" in await _refusal(client, "get", id="0" * 64)
                assert "can be seen" in await _refusal(client, "lift", text="\n")
                assert "1 to 3 texts; got 4" in await _refusal(client, "lift_batch", texts=["a"] * 4)
                assert await _refusal(client, "recall", query="x", limit=0)
                assert "at most 50 characters; got 51" in await _refusal(client, "recall", query="x" * 51)
            assert store.count() == 2

    anyio.run(talk)


def test_the_encoder_is_that_of_the_settings(tmp_path: Path) -> None:
    from mcp import Client

    class Other(HashedNgramEncoder):
        version = "other-for-tools"

    register_encoder(Other.version, Other)

    async def talk() -> None:
        async with Client(make_mcp_server(_settings(tmp_path, search={"encoder": Other.version}))) as client:
            await _answer(client, "lift", text="kept with another encoder")

    anyio.run(talk)
    with Store.open(tmp_path / "notes.db") as store:
        assert store.page(limit=1).items[0].encoder == Other.version


@pytest.mark.parametrize(
    "document", [{"packets": 5}, {"packets": [1], "residual": [2]}, {"residual": {"rms": "x"}}, {}]
)
def test_a_foreign_document_is_read_without_what_it_lacks(tmp_path: Path, document: dict[str, Any]) -> None:
    from mcp import Client

    async def talk() -> None:
        with Store.open(tmp_path / "notes.db") as store:
            store.put_signal("a" * 64, "from elsewhere", document)
            async with Client(make_mcp_server(_settings(tmp_path), store)) as client:
                record = await _answer(client, "get", id="a" * 64)
        assert (record["kind"], record["packets"]) == ("signal", None)
        assert not record["residual"]

    anyio.run(talk)


def test_a_title_is_looked_at_before_the_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp import Client

    def read(*_: Any, **__: Any) -> Any:
        raise AssertionError("the samples were read")

    monkeypatch.setattr("dredge.signals.samples_of", read)

    async def talk() -> None:
        with Store.open(tmp_path / "notes.db") as store:
            async with Client(make_mcp_server(_settings(tmp_path), store)) as client:
                for title, told in (("x" * 201, "at most 200 characters"), ("a\0b", "U+0000"), (" ", "can be seen")):
                    found = await _refusal(client, "fit_signal", coords=[0, 1], values=[0, 1], title=title)
                    assert told in found

    anyio.run(talk)


def test_one_signal_is_fitted_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp import Client

    running: list[int] = []
    together: list[int] = []

    def fitted(*_: Any, title: str, **__: Any) -> Any:
        running.append(1)
        time.sleep(0.05)
        together.append(len(running))
        running.pop()
        return SimpleNamespace(id=title * 64, text=title, document={})

    monkeypatch.setattr("dredge.signals.lift_signal", fitted)

    async def talk() -> None:
        with Store.open(tmp_path / "notes.db") as store:
            async with (
                Client(make_mcp_server(_settings(tmp_path), store)) as client,
                anyio.create_task_group() as group,
            ):
                for title in "abc":
                    group.start_soon(
                        lambda title=title: _answer(client, "fit_signal", coords=[0], values=[0], title=title)
                    )
            assert store.count() == 3

    anyio.run(talk)
    assert together == [1, 1, 1]


@pytest.mark.needs_extra("torch")
def test_a_signal_becomes_packets_and_is_found(tmp_path: Path) -> None:
    from mcp import Client

    x = np.linspace(-5, 5, 200)
    y = np.exp(-(x**2)) * np.cos(6 * x)

    async def talk() -> None:
        settings = _settings(tmp_path)
        async with Client(make_mcp_server(settings)) as client:
            kept = await _answer(client, "fit_signal", coords=x.tolist(), values=y.tolist(), title="burst at the pier")
            record = await _answer(client, "get", id=kept["id"])
            assert record["kind"] == "signal"
            assert len(record["packets"]) >= 1
            assert record["residual"]["explained"] > 0.99
            found = await _answer(client, "recall", query="burst at the pier", limit=1)
            assert found[0]["id"] == kept["id"]
            assert "at least 4 samples; got 3" in await _refusal(
                client, "fit_signal", coords=[0, 1, 2], values=[0, 1, 0]
            )

    anyio.run(talk)


def test_over_standard_input_and_output(tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters

    async def talk() -> None:
        command = ["-m", "dredge", "mcp", "--db", str(tmp_path / "notes.db")]
        server = StdioServerParameters(
            command=sys.executable, args=command, env={**os.environ, "DREDGE_LOG__LEVEL": "ERROR"}
        )
        async with Client(server) as client:
            kept = await _answer(client, "lift", text="kept over a pipe")
            assert (await _answer(client, "recall", query="kept over a pipe"))[0]["id"] == kept["id"]

    anyio.run(talk)
    with Store.open(tmp_path / "notes.db") as store:
        assert store.count() == 1


@contextmanager
def _served(folder: Path, **environment: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dredge", "mcp", "--transport", "http", "--port", str(port), "--db"]
    server = subprocess.Popen([*command, str(folder / "notes.db")], env={**os.environ, **environment})
    try:
        for _ in range(1200):
            assert server.poll() is None, "the server ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            pytest.fail("waited for a server in vain")
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_over_http_two_clients_share_a_store(tmp_path: Path) -> None:
    from mcp import Client

    async def talk(url: str) -> None:
        async with Client(url) as one, Client(url) as other:
            kept = await _answer(one, "lift", text="kept over HTTP")
            assert (await _answer(other, "get", id=kept["id"]))["text"] == "kept over HTTP"

    with _served(tmp_path) as url:
        anyio.run(talk, url)


def test_over_http_tokens_hold(tmp_path: Path) -> None:
    token = "a-token-of-enough-characters"
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    accept = {"Accept": "application/json, text/event-stream"}
    with _served(tmp_path, DREDGE_AUTH__TOKENS=json.dumps([token])) as url:
        refused = httpx.post(url, json=call, headers=accept)
        wrong = httpx.post(url, json=call, headers={**accept, "Authorization": "Bearer another-token-of-16"})
        let_in = httpx.post(url, json=call, headers={**accept, "Authorization": f"Bearer {token}"})
    assert (refused.status_code, wrong.status_code) == (401, 401)
    assert "token" in refused.json()["error"]
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert let_in.status_code == 200
    assert '"serverInfo"' in let_in.text


def test_it_is_not_open_to_others_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only with tokens; got host '0\.0\.0\.0'"):
        run_mcp_server(_settings(tmp_path), transport="http", host="0.0.0.0")
