"""Databases for the tests of this folder, of each kind."""

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location("dredge_tests_postgresql", Path(__file__).parents[1] / "postgresql.py")
assert _SPEC is not None
assert _SPEC.loader is not None
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

postgresql_server = _MODULE.postgresql_server
postgresql_url = _MODULE.postgresql_url
database_url = _MODULE.database_url
