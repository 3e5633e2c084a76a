"""Runs before the package's tests: one thread, the shape checker over the package, and no settings of the user's."""

import os
import tempfile

for name in [name for name in os.environ if name.startswith("DREDGE_") and not name.startswith("DREDGE_TEST_")]:
    del os.environ[name]
_HOME = tempfile.mkdtemp(prefix="dredge-tests-")
os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_DATA_HOME"] = _HOME
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("dredge", "beartype.beartype")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# Shared machines make single examples slow now and then; that is no failure.
settings.register_profile("shared", deadline=None, max_examples=25)
settings.load_profile("shared")


@pytest.fixture(autouse=True)
def _known_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that a test registers is known to that test alone."""
    from dredge.insights import encoders

    monkeypatch.setattr(encoders, "_ENCODERS", dict(encoders._ENCODERS))
