"""Runs before the package's tests: one thread, and the shape checker over the package."""

import pytest
import torch

torch.set_num_threads(1)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("neurograph", "beartype.beartype")

from hypothesis import settings  # noqa: E402

# Shared machines make single examples slow now and then; that is no failure.
settings.register_profile("shared", deadline=None, max_examples=25)
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _same_numbers_each_time() -> None:
    """Layers that a test makes without a seed of its own start from the same numbers in any order of the tests."""
    torch.manual_seed(0)
