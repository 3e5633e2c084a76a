"""The package as a whole: it imports light, and the service starts from nothing but defaults."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import dredge.server
from dredge.server import create_app, run_server


def test_the_names_of_the_original_are_there() -> None:
    assert callable(create_app)
    assert callable(run_server)
    assert callable(dredge.server._compute_insight_hash)


def test_the_service_loads_no_torch_and_no_mcp() -> None:
    code = "import sys, dredge.server; print(sorted({'torch', 'mcp', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_an_application_without_settings_uses_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "folder" / "notes.db"
    monkeypatch.setenv("DREDGE_DATABASE__URL", f"sqlite:///{file}")
    monkeypatch.setenv("DREDGE_LOG__LEVEL", "ERROR")
    client = create_app().test_client()
    assert client.post("/lift", json={"insight_text": "kept"}).status_code == 200
    assert file.is_file()
    assert client.get("/health").json == {"status": "healthy", "version": version("dredge")}


def test_nothing_is_written_outside_the_database(tmp_path: Path) -> None:
    code = "from dredge.server import create_app; create_app().test_client().get('/health')"
    environment = {**os.environ, "DREDGE_DATABASE__URL": f"sqlite:///{tmp_path}/db/notes.db", "HOME": str(tmp_path)}
    folder = tmp_path / "here"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, timeout=60, check=True)
    assert list(folder.iterdir()) == []
