"""What keeps a process from joining others; two that do join are in test_spreading.py."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from boolean_nca_cc.errors import ConfigError
from boolean_nca_cc.meta.hosts import is_main_process, join_hosts


@pytest.mark.parametrize(
    "address", ["", "somewhere", "10.0.0.1:", ":1234", "10.0.0.1:port", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:-1"]
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    with pytest.raises(ConfigError, match=r"host:port, with a port from 1 to 65535; it is '.*'\. Take the address"):
        join_hosts(address, 2, 0)


def test_a_host_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"can be looked up; 'no such host' cannot: .* Take the address of process 0"):
        join_hosts("no such host:1234", 2, 0)


@pytest.mark.parametrize(("processes", "number"), [(2, 2), (2, -1), (0, 0), (-1, 0)])
def test_numbers_that_are_out_of_range(processes: int, number: int) -> None:
    with pytest.raises(ConfigError, match=rf"this is number {number} of {processes}\. Start as many"):
        join_hosts("127.0.0.1:1234", processes, number)


def test_a_process_that_has_computed_already() -> None:
    assert is_main_process()  # which asks for the devices
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=r"joins before anything is computed; this one has .* Join at the start"):
        join_hosts(f"127.0.0.1:{port}", 2, 0)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens at."""
    with socket.create_server(("", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken(taken: int) -> None:
    with pytest.raises(ConfigError, match=rf"at 127\.0\.0\.1:{taken} it cannot: .* Take a free port, the same for all"):
        join_hosts(f"127.0.0.1:{taken}", 2, 0)


def test_a_process_0_that_does_not_come() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"nobody listened at {address} for 0 s: .* Start process 0 there"):
            join_hosts(address, 2, 1, timeout=0)


def test_a_process_0_that_comes_late(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for; then this process, which has computed, is refused."""
    tries, connect = [], socket.create_connection

    def late(*args: Any, **kwargs: Any) -> socket.socket:
        tries.append(args)
        if len(tries) < 3:
            raise ConnectionRefusedError("not yet")
        return connect(*args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", late)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert is_main_process()
    with pytest.raises(ConfigError, match="this one has computed already"):
        join_hosts(f"127.0.0.1:{taken}", 2, 1, timeout=60)
    assert len(tries) == 3
