"""The machine and the software that a figure was measured with. Nothing here raises: what cannot be read is absent."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["commit", "cuda_devices", "facts", "slug"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "XLA_FLAGS", "JAX_PLATFORMS")


def _run(*command: str, cwd: Path) -> str | None:
    """What a command prints; None where it cannot be run or fails."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> tuple[str, bool | None]:
    """The commit under test and whether the tree differs from it.

    `CLAIMBENCH_COMMIT` stands in where the sources travelled without their history.

    Returns:
        Hash, and True, False or None where that is unknown.
    """
    named = os.environ.get("CLAIMBENCH_COMMIT")
    if named:
        return named, None
    here = Path(__file__).resolve()
    # Installed into an environment inside some other repository, this file is not that repository's.
    if _run("git", "ls-files", "--error-unmatch", here.name, cwd=here.parent) is None:
        return "unknown", None
    found = _run("git", "rev-parse", "HEAD", cwd=here.parent)
    changed = _run("git", "status", "--porcelain", cwd=here.parent)
    return found or "unknown", None if not found or changed is None else bool(changed)


def _cpu() -> dict[str, Any]:
    found: dict[str, Any] = {"machine": platform.machine(), "cores": os.cpu_count()}
    with suppress(AttributeError, OSError):
        found["usable_cores"] = len(os.sched_getaffinity(0))
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found["name"] = next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    if "name" not in found:
        with suppress(ImportError, OSError, ValueError):
            import cpuinfo

            found["name"] = cpuinfo.get_cpu_info().get("brand_raw", "")
    with suppress(OSError):
        governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        found["governor"] = governor.read_text(encoding="ascii").strip()
    return found


def _memory_gib() -> float | None:
    with suppress(OSError, ValueError):
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    return None


def cuda_devices() -> list[dict[str, Any]]:
    """CUDA devices by NVML: name, driver, memory, clocks, power and what throttles them.

    Returns:
        One dict a device; empty without a driver or without `nvidia-ml-py`.
    """
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    devices: list[dict[str, Any]] = []
    # A device that fell off its bus answers nothing: it is left out, and the others are kept.
    with suppress(pynvml.NVMLError):
        driver = pynvml.nvmlSystemGetDriverVersion()
        for index in range(pynvml.nvmlDeviceGetCount()):
            with suppress(pynvml.NVMLError):
                devices.append(_cuda_device(pynvml, index, driver))
    with suppress(pynvml.NVMLError):
        pynvml.nvmlShutdown()
    return devices


def _cuda_device(nvml: Any, index: int, driver: str) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    device: dict[str, Any] = {"name": nvml.nvmlDeviceGetName(handle), "driver": driver}
    readings = {
        "memory_bytes": lambda h: nvml.nvmlDeviceGetMemoryInfo(h).total,
        "sm_clock_mhz": lambda h: nvml.nvmlDeviceGetClockInfo(h, nvml.NVML_CLOCK_SM),
        "temperature_c": lambda h: nvml.nvmlDeviceGetTemperature(h, nvml.NVML_TEMPERATURE_GPU),
        "throttle_reasons": lambda h: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(h),
        "persistence": lambda h: nvml.nvmlDeviceGetPersistenceMode(h),
    }
    for name, read in readings.items():
        with suppress(nvml.NVMLError, AttributeError):  # names of readings differ between versions of the library
            device[name] = read(handle)
    return device


def facts() -> dict[str, Any]:
    """Everything about this machine and interpreter that a reader of a figure may ask for.

    Returns:
        Plain JSON values. Paths, user and host names are left out.
    """
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()}",
        "cpu": _cpu(),
        "memory_gib": _memory_gib(),
        "cuda": cuda_devices(),
        "threads": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "versions": {},
    }
    with suppress(OSError, AttributeError):
        found["load"] = [round(value, 2) for value in os.getloadavg()]
    for name in ("numpy", "scipy", "pydantic", "jax", "jaxlib", "optax", "torch", "triton"):
        with suppress(metadata.PackageNotFoundError):
            found["versions"][name] = metadata.version(name)
    return found


def slug(device: str) -> str:
    """Short name of the device for folders, for example `xeon-2c` or `nvidia-h100`.

    Args:
        device: `cpu` or `cuda`.
    """
    cuda = cuda_devices()
    text = cuda[0]["name"] if device == "cuda" and cuda else f"{_cpu().get('name', 'cpu')} {os.cpu_count()}c"
    for noise in ("(R)", "(TM)", "CPU", "Processor", "@", "Core"):
        text = text.replace(noise, " ")
    words = "".join(char if char.isalnum() else " " for char in text.lower()).split()
    return "-".join(words)[:40].strip("-")
