"""Every test of a Triton kernel is there twice: in Triton's interpreter on the CPU, and compiled on a GPU.

Which of the two a process runs is settled when Triton is imported, and chosen by the package's conftest: the
interpreter where there is no GPU, or where TRITON_INTERPRET=1 asks for it.
"""

import importlib.util
import os

import pytest
import torch

# Modules that their tests import or run where Triton is; `--doctest-modules` would import them anywhere.
if importlib.util.find_spec("triton") is None:
    collect_ignore = ["compile_kernels.py", "stochastic_rounding.py"]

# Triton 3.9 warns at its first compilation where neither is chosen, and warnings are errors here.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def kernel_device(request: pytest.FixtureRequest) -> str:
    """Where a test's tensors are."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; the same test runs on the CPU in Triton's interpreter")
    if request.param == "cuda" and interpreted:
        pytest.skip("TRITON_INTERPRET=1 keeps kernels from being compiled for the GPU")
    if request.param == "cpu" and not interpreted:
        pytest.skip("kernels are compiled for the GPU in this process; TRITON_INTERPRET=1 runs them on the CPU")
    return request.param
