"""Several processes, on one host or on many, that train one rule together.

Each process runs the same program: it joins, makes the same state from the same seed, spreads it over the devices of
all (`boolean_nca_cc.meta.spreading`) and runs the same epochs. Only the main process writes plain files and prints;
checkpoints of what lies spread are written by all (`boolean_nca_cc.meta.sharded_checkpoint`).
"""

import socket
import time

import jax

from boolean_nca_cc.errors import ConfigError

__all__ = ["is_main_process", "join_hosts"]

_COLLECTIVES = "jax_cpu_collectives_implementation"


def join_hosts(coordinator: str, processes: int, number: int, *, timeout: int = 300) -> None:
    """Joins the other processes; from then on `jax.devices` are those of all.

    To be called before anything is computed. CPUs exchange sums by gloo unless JAX is told otherwise
    (`jax_cpu_collectives_implementation`). When a process ends, it waits for the others to end; when one dies, JAX ends
    the others, and a process 0 for which the others do not come in time.

    Args:
        coordinator: host and port, "10.0.0.1:1234": where process 0 listens and all others call. Process 0 listens on
            all addresses of its host, and whoever reaches the port can take part: use it within a trusted network.
        processes: how many there are in all.
        number: which of them this is, from 0.
        timeout: seconds to wait for the others.

    Raises:
        ConfigError: an address that is none or is not known, a number out of range; a process that has joined already,
            or has already computed something; a port that is taken, a process 0 that is not found in time.

    >>> join_hosts("10.0.0.1", processes=2, number=0)
    Traceback (most recent call last):
        ...
    boolean_nca_cc.errors.ConfigError: a coordinator is host:port, with a port from 1 to 65535; it is '10.0.0.1'. Take \
the address of process 0's host and a free port of it, like 10.0.0.1:1234.
    """
    host, port = _address(coordinator)
    if processes < 1 or not 0 <= number < processes:
        raise ConfigError(
            f"processes are numbered from 0 to one below how many there are; this is number {number} of {processes}. "
            "Start as many processes as you name, each with its own number."
        )
    if jax.distributed.is_initialized():
        raise ConfigError(
            f"a process joins once; this one has joined as number {jax.process_index()} of {jax.process_count()}. "
            "Join at the start of the program only."
        )
    if getattr(jax.config, _COLLECTIVES) in (None, "none"):  # what older versions of jax begin with
        jax.config.update(_COLLECTIVES, "gloo")
    # JAX would wait for either without a word, and then abort the interpreter.
    if number == 0:
        _check_free(port, coordinator)
    else:
        _wait_for(host, port, coordinator, timeout)
    try:
        jax.distributed.initialize(coordinator, processes, number, initialization_timeout=timeout)
    except RuntimeError as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            raise
        raise ConfigError(
            f"a process joins before anything is computed; this one has computed already: {error} Join at the start of "
            "the program."
        ) from error


def is_main_process() -> bool:
    """Whether this process is the one that writes files and prints: number 0, or the only one.

    >>> is_main_process()
    True
    """
    return jax.process_index() == 0


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")  # around an IPv6 address
    if not (host and port.isdecimal() and 1 <= int(port) <= 65535):
        raise ConfigError(
            f"a coordinator is host:port, with a port from 1 to 65535; it is {coordinator!r}. Take the address of "
            "process 0's host and a free port of it, like 10.0.0.1:1234."
        )
    try:
        socket.getaddrinfo(host, int(port))
    except OSError as error:
        raise ConfigError(
            f"a coordinator's host can be looked up; {host!r} cannot: {error}. Take the address of process 0's host."
        ) from error
    return host, int(port)


def _check_free(port: int, coordinator: str) -> None:
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConfigError(
            f"process 0 listens at the coordinator's port; at {coordinator} it cannot: {error}. Take a free port, the "
            "same for all processes."
        ) from error


def _wait_for(host: str, port: int, coordinator: str, timeout: int) -> None:
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=timeout).close()
        except OSError as error:
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            raise ConfigError(
                f"all processes meet at the coordinator's address; nobody listened at {coordinator} for {timeout} s: "
                f"{error}. Start process 0 there, and let its port be reached."
            ) from error
        return
