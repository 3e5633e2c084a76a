"""Rules are networks of flax; collecting a test imports what it tests."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("flax") else ["test_*.py"]
