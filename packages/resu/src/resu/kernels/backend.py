"""Which of three back ends runs an update: Triton kernels, torch.compile, or plain torch.

On a GPU it is Triton where it is installed, on a CPU torch.compile where it finds a C++ compiler, else plain torch. The
environment variable RESU_BACKEND overrides that for every caller that leaves the choice open. What a kernel would get
wrong in silence (strides, mixed devices, bfloat16 under Triton's interpreter) is refused here.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from resu.errors import KernelError

__all__ = ["Backend", "check_operands", "has_compiler", "has_triton", "interpreted", "on_device", "resolve"]

Backend = Literal["triton", "compile", "eager"]

_VARIABLE = "RESU_BACKEND"
# The kernels compute in float32, whatever they store: float64 would lose half of its digits.
_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Says whether Triton kernels run in its interpreter: TRITON_INTERPRET=1, set before Triton is imported.

    Returns:
        True where the variable says yes.

    >>> import os
    >>> interpreted() == (os.environ.get("TRITON_INTERPRET") == "1")
    True
    """
    return os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}


@cache
def has_triton() -> bool:
    """Says whether Triton is installed, without importing it.

    Returns:
        True where it can be found.

    >>> isinstance(has_triton(), bool)
    True
    """
    return importlib.util.find_spec("triton") is not None


def has_compiler() -> bool:
    """Says whether torch.compile can build code for the CPU: a C++ compiler, and the headers of this Python.

    The compiler is the one of the environment variable CXX, else g++ (clang++ on macOS), which is where torch looks.

    Returns:
        True where both are found.

    >>> isinstance(has_compiler(), bool)
    True
    """
    default = "clang++" if sys.platform == "darwin" else "g++"
    return _find_compiler(os.environ.get("CXX") or default, os.environ.get("PATH", ""))


@cache
def _find_compiler(compiler: str, path: str) -> bool:
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return shutil.which(compiler, path=path) is not None and headers.is_file()


def resolve(backend: str = "auto", *, device: torch.device | str, dtype: torch.dtype) -> Backend:
    """Chooses the back end for tensors of this device and dtype.

    Args:
        backend: triton, compile or eager; auto reads RESU_BACKEND and, where that is unset or auto itself, takes
            Triton on a GPU, torch.compile on a CPU, and plain torch where those are absent or cannot do the dtype.
        device: where the weight is.
        dtype: the weight's.

    Returns:
        The back end. One that was asked for by name is never replaced by another.

    Raises:
        KernelError: no such back end, or the one asked for is absent or cannot do this device or dtype.

    >>> resolve("eager", device="cpu", dtype=torch.float64)
    'eager'
    """
    device = torch.device(device)
    source = f"backend={backend!r}"
    if backend == "auto" and os.environ.get(_VARIABLE):
        backend = os.environ[_VARIABLE].strip().lower()
        source = f"{_VARIABLE}={backend}"
    if backend == "auto":
        return _best(device, dtype)
    if backend not in get_args(Backend):
        raise KernelError(
            f"a back end is auto, {', '.join(get_args(Backend))}; it is {source}. Name one of these, or leave it auto."
        )
    if backend == "triton":
        _check_triton(device, dtype, source)
    if backend == "compile" and device.type == "cpu" and not has_compiler():
        raise KernelError(
            f"torch.compile needs a C++ compiler and Python's headers on a CPU; {source} was asked for and none were "
            "found. Install them (Debian: g++ and python3-dev), set CXX, or use backend='eager'."
        )
    return cast("Backend", backend)


def _best(device: torch.device, dtype: torch.dtype) -> Backend:
    if device.type == "cuda":
        return "triton" if has_triton() and dtype in _TRITON_DTYPES and _exact(dtype) else "eager"
    return "compile" if device.type == "cpu" and has_compiler() else "eager"


def _exact(dtype: torch.dtype) -> bool:
    return not (interpreted() and dtype == torch.bfloat16)


def _check_triton(device: torch.device, dtype: torch.dtype, source: str) -> None:
    if not has_triton():
        raise KernelError(
            f"the Triton back end needs the package triton, which is not installed; {source} was asked for. Install "
            "the extra with pip install './packages/resu[gpu]', or use backend='compile' or 'eager'."
        )
    _check_place(device, source)
    if dtype not in _TRITON_DTYPES:
        raise KernelError(
            f"Triton kernels compute in float32 and take float32, bfloat16 and float16; the dtype is {dtype}. Use "
            "backend='compile' or 'eager' for it."
        )
    _check_dtype("the weight", dtype)


def _check_place(device: torch.device, what: str) -> None:
    if device.type != "cuda" and not interpreted():
        raise KernelError(
            f"Triton kernels run on a GPU; {what} is on {device}. Use backend='compile' or 'eager' there, or set "
            "TRITON_INTERPRET=1 before Python starts to run them in Triton's interpreter, slowly."
        )


def _check_dtype(what: str, dtype: torch.dtype) -> None:
    if not _exact(dtype):
        raise KernelError(
            f"Triton's interpreter computes bfloat16 wrongly, without a word; {what} is {dtype}. Use float32 under "
            "TRITON_INTERPRET=1, unset it on a GPU, or use backend='eager'."
        )


def check_operands(**tensors: Tensor) -> None:
    """Refuses operands that a Triton kernel would read or write wrongly without an error.

    Args:
        **tensors: the operands by the names that messages should use; the first says which device is meant.

    Raises:
        KernelError: operands of several devices, on a CPU outside the interpreter, bfloat16 in it, or not contiguous.
    """
    leader, first = next(iter(tensors.items()))
    _check_place(first.device, leader)
    for name, tensor in tensors.items():
        if tensor.device != first.device:
            raise KernelError(
                f"a kernel's operands must be on one device; {leader} is on {first.device} and {name} on "
                f"{tensor.device}. Move {name} with {name}.to({str(first.device)!r})."
            )
        if not tensor.is_contiguous():
            raise KernelError(
                f"a kernel goes by storage order, so {name} must be contiguous; its shape is {tuple(tensor.shape)} "
                f"with strides {tensor.stride()}. Pass {name}.contiguous()."
            )
        _check_dtype(name, tensor.dtype)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, since Triton launches there and not where the operands are.

    Args:
        tensor: any operand.

    Returns:
        A context manager; it does nothing off the GPU.

    >>> with on_device(torch.zeros(1)) as nothing:
    ...     nothing is None
    True
    """
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()
