"""What is said of the machine, and what is never imported to say it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from claimbench import environment

FRAMEWORKS = ("jax", "jaxlib", "torch", "triton", "optax", "flax", "flask")

ENGINE = """
import json, sys
from importlib import import_module
from pathlib import Path
import claimbench

root = Path(claimbench.__file__).parent
chosen = []
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    if parts[0] == "__main__" or (parts[0] == "cases" and parts[1:] != ("planted",)) or parts[-1].endswith("_runtime"):
        continue
    chosen.append(".".join(("claimbench", *parts)).removesuffix(".__init__"))
    import_module(chosen[-1])
print(json.dumps({"imported": chosen, "loaded": sorted(sys.modules)}))
"""


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **options)


def test_the_engine_imports_no_framework_and_no_package_under_test() -> None:
    found = json.loads(python(ENGINE).stdout)
    assert {"claimbench.worker", "claimbench.run", "claimbench.evaluate", "claimbench.report"} <= set(found["imported"])
    packages = ("boolean_nca_cc", "neurograph", "resu", "spd", "dredge")
    assert {name.split(".")[0] for name in found["loaded"]} & {*FRAMEWORKS, *packages} == set()


def test_a_worker_does_not_pay_for_what_only_the_parent_needs() -> None:
    loaded = json.loads(python("import sys, json, claimbench.worker; print(json.dumps(sorted(sys.modules)))").stdout)
    heavy = {
        "scipy.stats",
        "scipy.special",
        "pandas",
        "plotly",
        "jinja2",
        "rich",
        "typer",
        "psutil",
        "cpuinfo",
        "pynvml",
    }
    assert not set(loaded) & heavy


def test_facts_are_plain_json_without_names_of_people_hosts_or_paths() -> None:
    import getpass
    import socket

    text = json.dumps(environment.facts())
    assert str(Path.home()) not in text
    assert sys.prefix not in text
    if len(socket.gethostname()) > 3:
        assert socket.gethostname() not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text


def test_facts_name_machine_python_and_versions() -> None:
    facts = environment.facts()
    assert facts["python"] == sys.version.split()[0]
    assert facts["cpu"]["cores"] >= 1
    assert facts["cpu"]["name"]
    assert facts["memory_gib"] > 0
    assert {"numpy", "scipy", "pydantic"} <= set(facts["versions"])


def test_thread_settings_are_told_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    threads = environment.facts()["threads"]
    assert threads["OMP_NUM_THREADS"] == "3"
    assert "MKL_NUM_THREADS" not in threads


def test_a_commit_that_travelled_by_name_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAIMBENCH_COMMIT", "abc123")
    assert environment.commit() == ("abc123", None)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """What git says to each of its subcommands; None where it fails."""
    said: dict[str, str | None] = {"ls-files": "environment.py", "rev-parse": "f" * 40, "status": ""}
    monkeypatch.delenv("CLAIMBENCH_COMMIT", raising=False)
    monkeypatch.setattr(environment, "_run", lambda _git, command, *_rest, cwd: said[command])
    return said


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("f" * 40, False)),
        ({"status": " M tools/x.py"}, ("f" * 40, True)),
        ({"status": None}, ("f" * 40, None)),
        ({"rev-parse": None}, ("unknown", None)),  # a repository without a commit
        ({"ls-files": None}, ("unknown", None)),  # installed below somebody else's repository
    ],
)
def test_the_commit_and_whether_the_tree_differs(
    answers: dict[str, str | None], changes: dict[str, str | None], expected: tuple[str, bool | None]
) -> None:
    answers |= changes
    assert environment.commit() == expected


@pytest.mark.parametrize(
    "failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 20), PermissionError("git")]
)
def test_a_git_that_cannot_be_run_is_no_error(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fails(*_args: Any, **_options: Any) -> Any:
        raise failure

    monkeypatch.delenv("CLAIMBENCH_COMMIT", raising=False)
    monkeypatch.setattr("claimbench.environment.subprocess.run", fails)
    assert environment.commit() == ("unknown", None)


class FakeNvml:
    """Two devices, of which the second fell off its bus."""

    class NVMLError(Exception):
        """What NVML raises."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    closed = False

    def __init__(self, driver: bool = True) -> None:
        self.driver = driver

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("no driver")

    def nvmlShutdown(self) -> None:
        self.closed = True

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index:
            raise self.NVMLError("lost")
        return index

    def nvmlDeviceGetName(self, _handle: int) -> str:
        return "NVIDIA H100 80GB HBM3"

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> Any:
        return SimpleNamespace(total=80 << 30)

    def nvmlDeviceGetClockInfo(self, _handle: int, _which: int) -> int:
        return 1980

    def nvmlDeviceGetTemperature(self, _handle: int, _sensor: int) -> int:
        return 40

    def nvmlDeviceGetPersistenceMode(self, _handle: int) -> int:
        raise self.NVMLError("not supported")


def test_a_lost_device_or_an_unsupported_reading_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
    (device,) = environment.cuda_devices()
    assert device["name"] == "NVIDIA H100 80GB HBM3"
    assert (device["driver"], device["memory_bytes"], device["sm_clock_mhz"]) == ("570.1", 80 << 30, 1980)
    assert device["temperature_c"] == 40
    assert not {"persistence", "throttle_reasons"} & set(device)  # refused, and not there in this version
    assert nvml.closed
    assert environment.slug("cuda") == "nvidia-h100-80gb-hbm3"


def test_no_driver_and_no_library_mean_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))  # type: ignore[arg-type]
    assert environment.cuda_devices() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert environment.cuda_devices() == []


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", "intel-xeon-e5-2686-v4-2-30ghz-4c"),
        ("AMD EPYC 7B13 Processor", "amd-epyc-7b13-4c"),
        ("A" * 80, "a" * 40),
        ("", "4c"),
    ],
)
def test_a_device_has_a_name_for_folders(monkeypatch: pytest.MonkeyPatch, name: str, slug: str) -> None:
    monkeypatch.setattr(environment, "_cpu", lambda: {"name": name})
    monkeypatch.setattr("claimbench.environment.os.cpu_count", lambda: 4)
    assert environment.slug("cpu") == slug
