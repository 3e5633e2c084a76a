import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from resu.errors import KernelError
from resu.kernels import backend
from resu.kernels.backend import check_operands, has_compiler, has_triton, interpreted, on_device, resolve


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the surroundings decides, and nothing found under a changed one stays known."""
    for name in ("RESU_BACKEND", "TRITON_INTERPRET", "CXX"):
        monkeypatch.delenv(name, raising=False)
    yield
    backend._find_compiler.cache_clear()
    has_triton.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with or without Triton and a compiler."""

    def have(*, triton: bool = True, compiler: bool = True) -> None:
        monkeypatch.setattr(backend, "has_triton", lambda: triton)
        monkeypatch.setattr(backend, "has_compiler", lambda: compiler)

    return have


@pytest.mark.parametrize(
    ("device", "dtype", "triton", "compiler", "expected"),
    [
        ("cuda", torch.float32, True, True, "triton"),
        ("cuda:1", torch.bfloat16, True, False, "triton"),
        ("cuda", torch.float16, True, False, "triton"),
        ("cuda", torch.float64, True, True, "eager"),
        ("cuda", torch.float32, False, True, "eager"),
        ("cpu", torch.float32, True, True, "compile"),
        ("cpu", torch.float64, False, True, "compile"),
        ("cpu", torch.float32, True, False, "eager"),
        ("mps", torch.float32, True, True, "eager"),
        ("meta", torch.float32, True, True, "eager"),
    ],
)
def test_auto_takes_the_best_that_is_there(
    machine: Callable, device: str, dtype: torch.dtype, triton: bool, compiler: bool, expected: str
) -> None:
    machine(triton=triton, compiler=compiler)
    assert resolve(device=device, dtype=dtype) == expected
    assert resolve("auto", device=torch.device(device), dtype=dtype) == expected


def test_the_variable_decides_what_is_left_open_and_no_more(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setenv("RESU_BACKEND", "eager")
    assert resolve(device="cuda", dtype=torch.float32) == "eager"
    assert resolve("triton", device="cuda", dtype=torch.float32) == "triton"
    assert resolve("compile", device="cpu", dtype=torch.float32) == "compile"
    monkeypatch.setenv("RESU_BACKEND", "auto")
    assert resolve(device="cuda", dtype=torch.float32) == "triton"
    monkeypatch.setenv("RESU_BACKEND", "")
    assert resolve(device="cuda", dtype=torch.float32) == "triton"
    monkeypatch.setenv("RESU_BACKEND", "cuda")
    with pytest.raises(KernelError, match="auto, triton, compile, eager; it is RESU_BACKEND=cuda"):
        resolve(device="cuda", dtype=torch.float32)


def test_what_was_asked_for_by_name_is_never_replaced(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match="auto, triton, compile, eager; it is backend='fast'"):
        resolve("fast", device="cpu", dtype=torch.float32)
    machine(triton=False, compiler=False)
    with pytest.raises(KernelError, match=r"not installed; backend='triton' .* './packages/resu\[gpu\]'"):
        resolve("triton", device="cuda", dtype=torch.float32)
    with pytest.raises(KernelError, match=r"C\+\+ compiler .* backend='compile' was asked for"):
        resolve("compile", device="cpu", dtype=torch.float32)
    machine()
    with pytest.raises(KernelError, match="run on a GPU; backend='triton' is on cpu"):
        resolve("triton", device="cpu", dtype=torch.float32)
    with pytest.raises(KernelError, match=r"the dtype is torch.float64"):
        resolve("triton", device="cuda", dtype=torch.float64)
    monkeypatch.setenv("RESU_BACKEND", "triton")
    with pytest.raises(KernelError, match="RESU_BACKEND=triton is on cpu"):
        resolve(device="cpu", dtype=torch.float32)


def test_the_interpreter_opens_the_cpu_and_closes_bfloat16(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    assert not interpreted()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert interpreted()
    assert resolve("triton", device="cpu", dtype=torch.float32) == "triton"
    with pytest.raises(KernelError, match=r"computes bfloat16 wrongly"):
        resolve("triton", device="cpu", dtype=torch.bfloat16)
    assert resolve(device="cuda", dtype=torch.bfloat16) == "eager"
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not interpreted()


def test_a_compiler_is_found_where_torch_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_compiler()
    mine = tmp_path / "my-c++"
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("CXX", "my-c++")
    headers = backend.Path(backend.sysconfig.get_paths()["include"]) / "Python.h"
    assert has_compiler() == headers.is_file()
    monkeypatch.setattr(backend.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    backend._find_compiler.cache_clear()
    assert not has_compiler()


def test_triton_is_looked_for_without_importing_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    has_triton.cache_clear()
    assert has_triton()
    assert "triton" not in sys.modules
    monkeypatch.setattr(sys, "path", [])
    has_triton.cache_clear()
    assert not has_triton()


def test_operands_that_a_kernel_would_misread_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.zeros(3, 4)
    with pytest.raises(KernelError, match="run on a GPU; w is on cpu"):
        check_operands(w=w)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    check_operands(w=w, m=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(KernelError, match=r"m must be contiguous; its shape is \(4, 3\) with strides \(1, 4\)"):
        check_operands(w=w, m=w.t())
    with pytest.raises(KernelError, match="w is on cpu and m on meta"):
        check_operands(w=w, m=torch.zeros(3, 4, device="meta"))
    with pytest.raises(KernelError, match=r"bfloat16 wrongly, without a word; m is torch.bfloat16"):
        check_operands(w=w, m=w.bfloat16())


def test_nothing_is_switched_off_the_gpu() -> None:
    with on_device(torch.zeros(1)) as switched:
        assert switched is None
