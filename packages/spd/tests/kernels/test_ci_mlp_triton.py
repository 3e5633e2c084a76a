"""The Triton form, in a process of its own: in Triton's interpreter, and compiled for a GPU that need not be there."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from spd.errors import ConfigError
from spd.kernels import ci_mlp

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

AGREES = """
import torch
from spd.errors import ConfigError
from spd.kernels.ci_mlp import scalar_mlp

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
for n, c, hidden in ((200, 5, 3), (1, 1, 1), (130, 18, 2)):
    shapes = ((n, c), (c, 1, hidden), (c, hidden), (c, hidden, 1), (c, 1))
    operands = [torch.randn(shape, device=device).requires_grad_() for shape in shapes]
    exact = [t.detach().double().requires_grad_() for t in operands]
    weights = torch.randn(n, c, device=device)
    found, expected = scalar_mlp(*operands, "triton"), scalar_mlp(*exact, "einsum")
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad((found * weights).sum(), operands)
    for one, other in zip(gradients, torch.autograd.grad((expected * weights).sum(), exact), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6, (n, c, hidden)
try:
    scalar_mlp(*exact, "triton")
except ConfigError as error:
    assert "float64" in str(error), error
else:
    raise AssertionError("float64 was not refused")
"""

COMPILES = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from spd.kernels import ci_mlp_triton as kernels

for kernel in (kernels._forward_kernel, kernels._backward_kernel):
    constants = {"HIDDEN": 16, "ROWS": kernels._ROWS, "COMPONENTS": kernels._COMPONENTS}
    types = {
        name: "constexpr" if name in constants else "*fp32" if name.endswith("_ptr") else "i32"
        for name in kernel.arg_names
    }
    compiled = triton.compile(ASTSource(kernel, types, constexprs=constants), target=GPUTarget("cuda", 90, 32))
    assert compiled.asm["cubin"]
"""


def _run(program: str, **environment: str) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | {"TRITON_DEFAULT_FP_FUSION": "1"} | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@needs_triton
def test_it_gives_the_numbers_and_the_gradients_of_the_contractions() -> None:
    _run(AGREES, **({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}))


@pytest.mark.slow
@needs_triton
def test_it_compiles_for_a_gpu() -> None:
    _run(COMPILES)


def test_on_a_cpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    operands = [torch.ones(shape) for shape in ((2, 3), (3, 1, 4), (3, 4), (3, 4, 1), (3, 1))]
    if importlib.util.find_spec("triton") is not None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        with pytest.raises(ConfigError, match="runs on a GPU; got tensors on cpu"):
            ci_mlp.scalar_mlp(*operands, "triton")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="is not installed"):
        ci_mlp.scalar_mlp(*operands, "triton")
