"""Runs before the package's tests: one thread, the shape checker over the package, and Triton's interpreter.

The interpreter must be chosen before triton is imported. Where there is a GPU it is not: kernels then run there.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Triton warns at its first compilation where nobody has decided this; 1 is what it does by itself.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
torch.set_num_threads(1)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("resu", "beartype.beartype")

from hypothesis import settings  # noqa: E402

# Shared machines make single examples slow now and then; that is no failure.
settings.register_profile("shared", deadline=None, max_examples=25)
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    """Layers that a test makes without a seed of its own start from the same numbers in any order of the tests."""
    torch.manual_seed(0)
