"""Databases for the tests of this folder, of each kind, and an encoder that tells what it was asked."""

import importlib.util
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32

from dredge.config import DatabaseSettings
from dredge.insights.store import Store

_SPEC = importlib.util.spec_from_file_location("dredge_tests_postgresql", Path(__file__).parents[1] / "postgresql.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

postgresql_server = _MODULE.postgresql_server
postgresql_url = _MODULE.postgresql_url
database_url = _MODULE.database_url


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_extra("psycopg"))])
def shared_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a database of each kind, for tests of one file that change nothing."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('shared') / 'insights.db'}"
        return
    import psycopg

    server = request.getfixturevalue("postgresql_server")
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        try:
            yield f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{name}"
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE")


class LetterEncoder:
    """Counts letters; `calls` tells what was encoded."""

    dim = 26

    def __init__(self, version: str = "letters-v1") -> None:
        self.version = version
        self.calls: list[str] = []

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 26"]:
        self.calls += texts
        counts = np.array([[1 + text.lower().count(chr(97 + letter)) for letter in range(26)] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def letters() -> type[LetterEncoder]:
    return LetterEncoder


@pytest.fixture
def encoder() -> LetterEncoder:
    """That of `store`."""
    return LetterEncoder()


@pytest.fixture
def opened() -> Callable[..., Store]:
    """Opens a database; waiting for the disk is tested where it matters."""

    def call(url: str, version: str = "letters-v1") -> Store:
        return Store.open(DatabaseSettings(url=url, synchronous="NORMAL"), encoder=LetterEncoder(version))

    return call


@pytest.fixture
def store(database_url: str, encoder: LetterEncoder) -> Iterator[Store]:
    with Store.open(DatabaseSettings(url=database_url, synchronous="NORMAL"), encoder=encoder) as store:
        yield store
