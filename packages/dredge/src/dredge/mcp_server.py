"""The store as tools of the Model Context Protocol, by the protocol's own SDK. Needs the extra `mcp`.

=========== ==========================================================
tool        what it does
=========== ==========================================================
lift        keeps a text and answers its id
lift_batch  keeps many texts; an item that cannot be kept does not stop the others
recall      finds what was kept, despite misspellings
similar     finds records near to one
get         reads one record
fit_signal  keeps a signal as a short list of wave packets
=========== ==========================================================

Over standard input and output for a client on this machine, or over streamable HTTP at `/mcp`, where the settings'
bearer tokens hold as they do for the service.
"""

import atexit
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from dredge import __version__
from dredge.config import Settings, load_settings
from dredge.errors import ConfigError, DredgeError, InsightError, needed
from dredge.insights.ids import check_text
from dredge.insights.records import Hit, Insight, Stored
from dredge.insights.search import Searcher, check_query
from dredge.insights.store import Store

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

__all__ = ["Batch", "BatchItem", "Found", "Kept", "Record", "make_mcp_server", "run_mcp_server"]

_INSTRUCTIONS = (
    "Keeps notes, findings and signals on this machine and finds them again. Lift what should be remembered; recall by "
    "words, misspelt or not. The id of a text is its SHA-256, so that the same text is kept once."
)

_R = TypeVar("_R")
_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Kept(BaseModel):
    """What lifting came to.

    Args:
        id: of the record.
        text: as kept; of a signal, its packets in words.
        created: whether it is new.
        seen: how often it was lifted.
    """

    id: str
    text: str
    created: bool
    seen: int


class BatchItem(BaseModel):
    """One item of a batch.

    Args:
        id: of the record; None where there is an error.
        created: whether it is new.
        seen: how often it was lifted.
        error: why it was not kept.
    """

    id: str | None = None
    created: bool = False
    seen: int = 0
    error: str | None = None


class Batch(BaseModel):
    """What a batch came to.

    Args:
        items: in the order of the texts.
        kept: how many were kept.
        errors: how many were not.
    """

    items: list[BatchItem]
    kept: int
    errors: int


class Record(BaseModel):
    """One record.

    Args:
        id: SHA-256 of the text or of the samples.
        text: as received; of a signal, its packets in words.
        kind: what was lifted.
        created: when it was first lifted.
        seen: how often it was lifted.
        packets: of a signal, the strongest first; None where an archive brought none.
        residual: of a signal, how far its packets are from its samples.
    """

    id: str
    text: str
    kind: Literal["text", "signal"]
    created: datetime
    seen: int
    packets: list[dict[str, Any]] | None = None
    residual: dict[str, float] | None = None


class Found(BaseModel):
    """One thing that was found.

    Args:
        id: of the record.
        text: of the record.
        score: in [0, 1].
    """

    id: str
    text: str
    score: float


def make_mcp_server(settings: Settings | None = None, store: Store | None = None) -> "MCPServer":
    """A server with the tools of a store.

    Args:
        settings: all of them; None = from the environment and the user's file.
        store: where insights are kept; None = opened by the settings, and closed when the process ends.

    Returns:
        The server, to be run or to be connected to within the process.

    Raises:
        MissingExtraError: the SDK is not installed.
        ConfigError: settings that cannot be used.
        StoreError: a database that cannot be used.
    """
    needed("mcp.server.mcpserver", "mcp", "an MCP server")
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    settings = settings or load_settings()
    if store is None:
        store = Store.of(settings)
        atexit.register(store.close)
    opened = store
    searcher, limits = Searcher(opened, settings.search), settings.limits
    # The SDK runs each call in a thread of its own; several fits at once would only take longer.
    fitting = Lock()
    server = MCPServer("dredge", version=__version__, instructions=_INSTRUCTIONS, log_level=settings.log.level)

    def told(work: Callable[[], _R]) -> _R:
        # An error on purpose is the tool's answer; anything else is a fault, which the SDK reports as one.
        try:
            return work()
        except DredgeError as error:
            raise ToolError(str(error)) from error

    @server.tool()
    def lift(text: str) -> Kept:
        """Keep a text. Answers its id; the same text again is counted, not kept twice."""
        return told(lambda: _kept(opened.put(_checked(text, limits.text_bytes))))

    @server.tool()
    def lift_batch(texts: list[str]) -> Batch:
        """Keep many texts at once. An item that cannot be kept is answered with an error; the others are kept."""
        return told(lambda: _batch(opened, texts, limits.text_bytes, limits.batch_items))

    @server.tool()
    def recall(query: str, limit: int = 10, mode: Literal["hybrid", "text", "vector"] = "hybrid") -> list[Found]:
        """Find what was kept, the best first. Misspelt words are found too."""

        def work() -> list[Found]:
            check_query(query, limits.query_chars)
            return _found(searcher.search(query, limit=min(limit, limits.page_items), mode=mode))

        return told(work)

    @server.tool()
    def similar(id: str, limit: int = 10) -> list[Found]:
        """Find records that are near to the one with this id."""
        return told(lambda: _found(searcher.similar(id, min(limit, limits.page_items))))

    @server.tool()
    def get(id: str) -> Record:
        """Read the record with this id; of a signal, its packets too."""
        return told(lambda: _record(opened.get(id)))

    @server.tool()
    def fit_signal(
        coords: list[float] | list[list[float]], values: list[float], title: str = "", max_packets: int = 12
    ) -> Kept:
        """Keep a signal: finds the few wave packets (where, how wide, what frequency, how strong) that explain it.

        coords has a number for each sample, or a list with one for each axis.
        """

        def work() -> Kept:
            from dredge.signals import lift_signal

            with fitting:
                lifted = lift_signal(coords, values, title=title, max_packets=max_packets, limits=limits)
            return _kept(opened.put_signal(lifted.id, lifted.text, lifted.document))

        return told(work)

    return server


def run_mcp_server(
    settings: Settings | None = None,
    *,
    transport: Literal["stdio", "http"] = "stdio",
    host: str = "127.0.0.1",
    port: int = 3002,
) -> None:
    """Serves until its input ends, or until SIGTERM or SIGINT.

    Args:
        settings: all of them; None = from the environment and the user's file.
        transport: standard input and output, or streamable HTTP at `/mcp`.
        host: address to listen on; of HTTP only.
        port: to listen on; of HTTP only.

    Raises:
        MissingExtraError: the SDK is not installed.
        ConfigError: settings that cannot be used, or an address other than loopback without tokens.
        StoreError: a database that cannot be used.
    """
    needed("mcp.server.mcpserver", "mcp", "an MCP server")
    settings = settings or load_settings()
    if transport == "http" and host not in ("127.0.0.1", "::1", "localhost") and not settings.auth.tokens:
        raise ConfigError(
            f"tools that write are open beyond this machine only with tokens; got host {host!r} and none. "
            "Set auth.tokens, or listen on 127.0.0.1."
        )
    with Store.of(settings) as store:
        server = make_mcp_server(settings, store)
        if transport == "stdio":
            server.run("stdio")
            return
        import uvicorn  # the SDK brings it

        app = _guarded(
            server.streamable_http_app(host=host, max_request_body_size=settings.limits.body_bytes),
            settings.auth.tokens,
        )
        uvicorn.run(app, host=host, port=port, log_level=settings.log.level.lower())


def _guarded(app: _App, tokens: tuple[str, ...]) -> _App:
    """The application behind bearer tokens."""
    if not tokens:
        return app
    from dredge.api.auth import Gate
    from dredge.api.errors import RefusedError

    gate = Gate(tokens)

    async def guarded(scope: _Scope, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        if scope["type"] == "http":
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            environ = {"REQUEST_METHOD": scope["method"], "HTTP_AUTHORIZATION": headers.get("authorization", "")}
            try:
                gate.check(environ)
            except RefusedError as refusal:
                body = json.dumps({"error": refusal.message}).encode()
                told = {"content-type": "application/json", **refusal.headers}
                lines = [(name.lower().encode(), value.encode()) for name, value in told.items()]
                await send({"type": "http.response.start", "status": refusal.status, "headers": lines})
                await send({"type": "http.response.body", "body": body})
                return
        await app(scope, receive, send)

    return guarded


# --- answers ----------------------------------------------------------------------------------------------------------


def _checked(text: str, most: int) -> str:
    check_text(text, most)
    return text


def _kept(stored: Stored) -> Kept:
    one = stored.insight
    return Kept(id=one.id, text=one.text, created=stored.created, seen=one.seen)


def _batch(store: Store, texts: list[str], text_bytes: int, most: int) -> Batch:
    if not 1 <= len(texts) <= most:
        raise InsightError(f"a batch has 1 to {most} texts; got {len(texts)}. Split it.")
    items = [BatchItem() for _ in texts]
    good = []
    for place, text in enumerate(texts):
        try:
            check_text(text, text_bytes)
        except DredgeError as error:
            items[place] = BatchItem(error=str(error))
        else:
            good.append(place)
    for place, stored in zip(good, store.put_many([texts[place] for place in good]), strict=True):
        one = stored.insight
        items[place] = BatchItem(id=one.id, created=stored.created, seen=one.seen)
    return Batch(items=items, kept=len(good), errors=len(texts) - len(good))


def _found(hits: list[Hit]) -> list[Found]:
    return [Found(id=hit.insight.id, text=hit.insight.text, score=hit.score) for hit in hits]


def _record(insight: Insight) -> Record:
    signal = insight.signal or {}
    # An archive may have brought any document: what is none of ours is left out.
    packets, residual = signal.get("packets"), signal.get("residual")
    if not (isinstance(packets, list) and all(isinstance(packet, dict) for packet in packets)):
        packets = None
    numbers = None
    if isinstance(residual, Mapping):
        numbers = {name: value for name, value in residual.items() if isinstance(value, int | float)}
    return Record(
        id=insight.id, text=insight.text, kind=insight.kind, created=insight.created, seen=insight.seen,
        packets=packets, residual=numbers,
    )  # fmt: skip
