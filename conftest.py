"""Options that every test run of the workspace understands."""

import importlib.util

import pytest

# `--doctest-modules` imports what it collects: a kernel imports Triton, and learned rules are networks of flax.
_BOOLEAN = "packages/boolean_nca_cc"
_NEEDS = {
    "triton": ["packages/resu/src/resu/kernels/triton_*.py"],
    "flax": [
        f"{_BOOLEAN}/src/boolean_nca_cc/models/*",
        f"{_BOOLEAN}/src/boolean_nca_cc/meta/*",
        f"{_BOOLEAN}/src/boolean_nca_cc/experiments/meta_run.py",
        f"{_BOOLEAN}/src/boolean_nca_cc/experiments/repair_run.py",
        f"{_BOOLEAN}/src/boolean_nca_cc/reference/eager_meta.py",
        f"{_BOOLEAN}/tests/models/*",
        f"{_BOOLEAN}/tests/meta/*",
        f"{_BOOLEAN}/tests/reference/test_eager_meta.py",
        f"{_BOOLEAN}/tests/experiments/test_meta_run.py",
        f"{_BOOLEAN}/tests/test_cli_meta.py",
    ],
}
collect_ignore_glob = [
    path for module, paths in _NEEDS.items() if importlib.util.find_spec(module) is None for path in paths
]


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
