"""Small decompositions for tests of switches."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """What `small_tasks.py` beside this file makes."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_tasks.py"))))
