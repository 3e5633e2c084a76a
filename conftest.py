"""Options that every test run of the workspace understands."""

import importlib.util

import pytest

# `--doctest-modules` imports what it collects, and a kernel's module imports Triton.
if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["packages/resu/src/resu/kernels/triton_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--require-extras`."""
    parser.addoption(
        "--require-extras", action="store_true", help="fail, not skip, tests marked needs_extra whose module is absent"
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or with `--require-extras` fail, a test whose optional dependency is absent."""
    for mark in item.iter_markers("needs_extra"):
        for module in mark.args:
            if importlib.util.find_spec(module) is None:
                message = f"needs {module}, which an extra of the package installs"
                if item.config.getoption("--require-extras"):
                    pytest.fail(message)
                pytest.skip(message)
