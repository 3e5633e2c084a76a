"""Waves, wave packets, and what fits, judges, stores and draws them. Needs the extra `inr`."""

from importlib.util import find_spec

from dredge.errors import needed

# Looked for and not imported: reading a table of numbers needs no torch, and each model's module imports it.
if find_spec("torch") is None:
    needed("torch", "inr", "dredge.quasimoto")
