"""The service: an application for WSGI servers, and how it is run.

For gunicorn, `dredge.server:create_app()` is the factory:
`gunicorn --workers 2 --threads 4 --worker-class gthread 'dredge.server:create_app()'`. With several workers set
`PROMETHEUS_MULTIPROC_DIR` to an empty folder, so that `/metrics` of one answers for all; do not use `--preload`, since
a database connection does not survive a fork.
"""

import atexit
import importlib
import logging.config
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import Any

from flask import Flask, Request
from werkzeug.routing import MapAdapter

from dredge.api import errors, exchange
from dredge.api.ids_cache import ids_through
from dredge.api.insights import keeping
from dredge.api.lift import lifting
from dredge.api.ops import operating
from dredge.api.pages import pages
from dredge.api.search import searching
from dredge.api.services import EXTENSION, Services
from dredge.api.signals import signalling
from dredge.config import ServerSettings, Settings, load_settings
from dredge.errors import ConfigError
from dredge.insights.ids import insight_id
from dredge.insights.search import Searcher
from dredge.insights.store import Store
from dredge.logs import make_logger, standard_logging
from dredge.metrics import Metrics, share_between_processes, shared_folder

__all__ = ["create_app", "run_server"]

_CACHED_HASHES = 1024


@lru_cache(maxsize=_CACHED_HASHES)
def _compute_insight_hash(insight_text: str) -> str:
    return insight_id(insight_text)


class _Application(Flask):
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        # No view and no hook here is a coroutine; finding that out costs more than calling it.
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        # No route here depends on the host, and none is redirected.
        if request is None:
            return None
        return MapAdapter(
            self.url_map, server_name="localhost", script_name=request.root_path or "/", subdomain="",
            url_scheme=request.scheme, path_info=request.path, default_method=request.method,
        )  # fmt: skip


def create_app(settings: Settings | None = None, store: Store | None = None) -> Flask:
    """Makes the application.

    Args:
        settings: all of them; None = from the environment and the user's file.
        store: where insights are kept; None = opened by the settings, and closed when the process ends.

    Returns:
        The application; `app.extensions["dredge"]` has its `Services`.

    Raises:
        ConfigError: settings that cannot be used.
        StoreError: a database that cannot be used.
    """
    settings = settings or load_settings()
    if store is None:
        store = Store.of(settings)
        atexit.register(store.close)
    app = _Application("dredge", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.limits.body_bytes
    app.config["MAX_FORM_MEMORY_SIZE"] = settings.limits.body_bytes
    # A path with two slashes is another path, not a redirection.
    app.url_map.merge_slashes = False
    services = Services(
        settings=settings,
        store=store,
        searcher=Searcher(store, settings.search),
        ids=ids_through(settings.search.hash_cache, _compute_insight_hash, _CACHED_HASHES),
        metrics=Metrics(kept=store.count),
        log=make_logger(settings.log).bind(pid=os.getpid()),
    )
    app.extensions[EXTENSION] = services
    errors.register(app)
    exchange.register(app, services)
    for blueprint in (lifting, keeping, searching, signalling, operating, pages):
        app.register_blueprint(blueprint)
    return app


def run_server(
    host: str | Settings = "127.0.0.1", port: int = 3001, debug: bool = False, *, settings: Settings | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, and finishes requests in progress first.

    granian waits for them as long as the settings say, waitress for five seconds, flask not at all.

    Args:
        host: address to listen on; or settings, for short.
        port: to listen on; 0 = any free one, which the log names.
        debug: with the server of Flask and whole tracebacks in the log; on loopback only.
        settings: all of them, host and port included; None = from the environment and the user's file, with the host
            and port given here.

    Raises:
        ConfigError: settings that cannot be used, or an address that cannot be listened on.
        StoreError: a database that cannot be used.
    """
    if isinstance(host, Settings):
        settings = host
    if settings is None:
        settings = load_settings(server={"host": host, "port": port})
    if debug:
        settings = _for_debugging(settings)
    _check_server(settings.server)
    # Here once, so that workers find a database of the present version, and a bad one is told at once.
    Store.of(settings).close()
    with _reserved(settings.server) as free_port:
        server = settings.server.model_copy(update={"port": free_port})
        log = make_logger(settings.log)
        if not (settings.auth.tokens or _is_loopback(server.host)):
            log.warning("open to all who reach this machine; set auth.tokens", host=server.host)
        log.info("listening", url=_url(server), backend=server.backend, workers=server.workers, pid=os.getpid())
        _BACKENDS[server.backend](settings.model_copy(update={"server": server}))


def _granian(settings: Settings) -> None:
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    server, folder = settings.server, None
    with ExitStack() as stack:
        if server.workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dredge-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            stack.callback(os.environ.pop, "PROMETHEUS_MULTIPROC_DIR")
        Granian(
            "dredge.server:create_app",
            address=_address(server.host),
            port=server.port,
            interface=Interfaces.WSGI,
            workers=server.workers,
            blocking_threads=server.threads,
            websockets=False,
            workers_kill_timeout=server.graceful_seconds,
            respawn_failed_workers=True,
            log_level=LogLevels(settings.log.level.lower()),
            log_dictconfig=standard_logging(settings.log),
        ).serve(target_loader=partial(_worker, settings, folder), wrap_loader=False)


def _worker(settings: Settings, folder: str | None) -> Flask:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent, folder), name="parent", daemon=True).start()
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        share_between_processes()
    return create_app(settings)


def _end_with(parent: Any, folder: str | None) -> None:
    # A parent that was killed cannot tell its workers; without this they would hold the port and the database, and
    # the folder of their metrics would stay.
    parent.join()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _waitress(settings: Settings) -> None:
    try:
        waitress = importlib.import_module("waitress")
    except ImportError as error:
        raise ConfigError(
            "the backend waitress needs the package waitress; it is not installed. Install it, or set server.backend "
            "to granian."
        ) from error
    server = settings.server
    logging.config.dictConfig(standard_logging(settings.log))
    with _interrupted_by_sigterm():
        waitress.serve(create_app(settings), host=server.host, port=server.port, threads=server.threads, ident=None)


def _flask(settings: Settings) -> None:
    server = settings.server
    logging.config.dictConfig(standard_logging(settings.log))
    with _interrupted_by_sigterm():
        create_app(settings).run(server.host, server.port, threaded=True, use_reloader=False, use_debugger=False)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """For servers that end in good order at SIGINT alone."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_BACKENDS = {"granian": _granian, "waitress": _waitress, "flask": _flask}


def _check_server(server: ServerSettings) -> None:
    shared_folder()
    if not server.host:
        raise ConfigError("a server listens on an address or a name; got none. Use 127.0.0.1, or 0.0.0.0 for all.")
    if server.workers > 1 and server.backend != "granian":
        raise ConfigError(
            f"the backend {server.backend} has one process; got {server.workers} workers. Set server.workers to 1, or "
            "server.backend to granian."
        )


def _for_debugging(settings: Settings) -> Settings:
    if not _is_loopback(settings.server.host):
        raise ConfigError(
            f"debugging is for this machine alone; got host {settings.server.host}. Use 127.0.0.1, or leave it off."
        )
    return settings.model_copy(
        update={
            "server": settings.server.model_copy(update={"backend": "flask", "workers": 1}),
            "log": settings.log.model_copy(update={"level": "DEBUG"}),
        }
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(host: str) -> str:
    """The address of a host that could be listened on; granian knows no names."""
    return str(socket.getaddrinfo(host, None, _family(host))[0][4][0])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextmanager
def _reserved(server: ServerSettings) -> Iterator[int]:
    """A port that is free, and stays ours while workers open it: bound, and not listened on."""
    family = _family(server.host)
    with socket.socket(family, socket.SOCK_STREAM) as held:
        try:
            _is_free(family, server)
            if hasattr(socket, "SO_REUSEPORT"):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind((server.host, server.port))
        except OSError as error:
            raise ConfigError(
                f"a server listens on an address of this machine and a port that is free; {server.host} port "
                f"{server.port} is not: {error.strerror or error}. Choose another with --host and --port."
            ) from error
        free = held.getsockname()[1]
        if server.backend != "granian" or not hasattr(socket, "SO_REUSEPORT"):
            # These servers do not share a port.
            held.close()
        yield free


def _is_free(family: socket.AddressFamily, server: ServerSettings) -> None:
    # Without SO_REUSEPORT: with it, another server of this user on the same port would go unseen.
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind((server.host, server.port))


def _url(server: ServerSettings) -> str:
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"http://{host}:{server.port}"
