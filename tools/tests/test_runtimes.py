"""How frameworks are synchronised, read and asked for their memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from claimbench.errors import CaseError, RunError
from claimbench.runtimes import load_runtime
from claimbench.runtimes.base import Runtime, flatten, peak_resident

MIB = 1 << 20


class Pair(NamedTuple):
    first: Any
    second: Any


def test_leaves_have_their_paths() -> None:
    tree = {"a": [1, (2, None)], "p": Pair(3, {"x": 4}), 5: 6}
    assert flatten(tree) == {"a/0": 1, "a/1/0": 2, "p/first": 3, "p/second/x": 4, "5": 6}
    assert flatten(7) == {"value": 7}
    assert flatten(None) == flatten([]) == flatten({"a": None}) == {}


def test_a_runtime_that_does_not_exist_is_refused() -> None:
    with pytest.raises(CaseError, match="one of host, jax, torch; got 'numpy'"):
        load_runtime("numpy", "cpu")


def test_the_host_has_no_gpu() -> None:
    with pytest.raises(RunError, match="got device 'cuda'"):
        load_runtime("host", "cuda")


@pytest.mark.parametrize("size", [16, 64])
def test_peak_resident_memory_is_what_a_call_takes_at_once(size: int) -> None:
    def call() -> float:
        return float(np.ones(size * MIB, np.int8).sum())

    call()
    peak, method = peak_resident(call)
    assert peak == pytest.approx(size * MIB, rel=0.1, abs=MIB)
    assert method == "VmHWM after a reset"


def test_memory_that_is_given_back_before_the_peak_does_not_count_twice() -> None:
    def call() -> None:
        for _ in range(4):
            np.ones(16 * MIB, np.int8).sum()

    call()
    assert peak_resident(call)[0] == pytest.approx(16 * MIB, rel=0.1, abs=MIB)


def probed(runtime: Runtime) -> None:
    probes = runtime.probes()
    assert set(probes) == {"copy", "matmul"}
    for call, work, unit in probes.values():
        runtime.synchronise(call())
        assert work > 0
        assert unit in {"B/s", "flop/s"}
    assert probes["matmul"][1] == 2 * 1024**3
    assert probes["copy"][1] == 2 * 4 * (1 << 24)  # 2²⁴ floats are read and written


def test_the_host_reads_and_probes() -> None:
    runtime = load_runtime("host", "cpu")
    leaves = runtime.leaves({"a": 1.5, "b": [np.arange(3)]})
    assert {name: leaf.tolist() for name, leaf in leaves.items()} == {"a": 1.5, "b/0": [0, 1, 2]}
    assert runtime.facts()["device"] == "cpu"
    probed(runtime)


@pytest.fixture(scope="module")
def jax_runtime() -> Runtime:
    pytest.importorskip("jax", reason="jax is not installed here")
    return load_runtime("jax", "cpu")


@pytest.mark.needs_extra("jax")
def test_jax_arrays_and_keys_are_read(jax_runtime: Runtime) -> None:
    import jax
    import jax.numpy as jnp

    tree = {"x": jnp.arange(3.0), "key": jax.random.key(7), "half": jnp.ones(2, jnp.bfloat16), "n": 4}
    leaves = jax_runtime.leaves(tree)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
    np.testing.assert_array_equal(leaves["x"], [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(leaves["key"], np.asarray(jax.random.key_data(jax.random.key(7))))
    np.testing.assert_array_equal(leaves["half"].astype(np.float64), [1.0, 1.0])
    assert jax_runtime.facts()["device"].startswith("cpu")
    assert jax_runtime.facts()["jax"] == jax.__version__


@pytest.mark.needs_extra("jax")
def test_jax_waits_for_what_a_call_returns(jax_runtime: Runtime) -> None:
    import jax.numpy as jnp

    waited: list[Any] = []

    class Lazy:
        def block_until_ready(self) -> Lazy:
            waited.append(self)
            return self

    lazy = Lazy()
    jax_runtime.synchronise({"a": lazy, "b": (jnp.ones(2),)})
    assert waited == [lazy]
    jax_runtime.time_block(lambda: lazy, 3)
    assert waited == [lazy] * 4  # every call is waited for, not only the last


@pytest.mark.needs_extra("jax")
def test_jax_memory_on_the_cpu_is_what_a_call_takes(jax_runtime: Runtime) -> None:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def call(x: Any) -> Any:
        return jnp.sin(x)

    x = jnp.ones(64 * MIB // 4)
    jax_runtime.synchronise(call(x))
    peak, method = jax_runtime.peak_memory(lambda: call(x))
    assert peak == pytest.approx(64 * MIB, rel=0.1)
    assert method


@pytest.mark.needs_extra("jax")
def test_jax_probes_and_refuses_a_gpu_that_is_not_there(jax_runtime: Runtime) -> None:
    import jax

    probed(jax_runtime)
    if {device.platform for device in jax.devices()} <= {"cpu"}:
        with pytest.raises(RunError, match="JAX sees no CUDA device, only cpu"):
            load_runtime("jax", "cuda")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def torch_runtime(request: pytest.FixtureRequest) -> Runtime:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed here")
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return load_runtime("torch", request.param)


def test_torch_tensors_are_read(torch_runtime: Runtime) -> None:
    import torch

    tensor = torch.arange(3.0, device=torch_runtime.device, requires_grad=True)
    leaves = torch_runtime.leaves({"x": tensor, "half": tensor.detach().to(torch.bfloat16)})
    np.testing.assert_array_equal(leaves["x"], [0.0, 1.0, 2.0])
    assert leaves["half"].dtype == np.float64


def test_torch_memory_is_what_a_call_takes(torch_runtime: Runtime) -> None:
    import torch

    x = torch.ones(64 * MIB // 4, device=torch_runtime.device)
    call: Callable[[], Any] = lambda: torch.sin(x)  # noqa: E731 - typed once for both uses
    torch_runtime.synchronise(call())
    assert torch_runtime.peak_memory(call)[0] == pytest.approx(64 * MIB, rel=0.1)


def test_torch_blocks_take_time_by_both_clocks(torch_runtime: Runtime) -> None:
    import torch

    x = torch.ones(1 << 20, device=torch_runtime.device)
    torch_runtime.before_sample()
    wall, process = torch_runtime.time_block(lambda: x + 1, 10)
    assert wall > 0
    assert process > 0
