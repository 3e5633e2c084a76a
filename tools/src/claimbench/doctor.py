"""Is this machine fit to measure? Each finding says what was seen and what to do about it.

Nothing here needs more than the standard library; a file that cannot be read is a finding, never an error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Check", "checkup", "fit"]

State = Literal["ok", "warn", "bad"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
GOOD_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "timebase"}
HOT_C, WARM_C = 95, 85
# NVML's bits for "idle" and "application clocks", neither of which slows a kernel that runs.
HARMLESS_THROTTLING = 0x1 | 0x2


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: ok, warn (figures will be noisier) or bad (figures will be wrong).
        found: What was seen.
        advice: What to do; empty where all is well.
    """

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class _Machine:
    """Where the checks look."""

    root: Path
    environ: Mapping[str, str]
    cores: int

    def text(self, path: str) -> str | None:
        """The stripped text of a file below the root, or None where it cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def texts(self, folder: str, pattern: str) -> list[tuple[Path, str]]:
        """All files of a pattern that can be read."""
        found = []
        with suppress(OSError):
            for path in sorted((self.root / folder).glob(pattern)):
                with suppress(OSError):
                    found.append((path, path.read_text(encoding="utf-8", errors="replace").strip()))
        return found

    def number(self, path: str) -> float | None:
        """The first number of a file, or None."""
        text = self.text(path)
        try:
            return float(text.split()[0]) if text else None
        except ValueError:
            return None


def _governor(machine: _Machine) -> Check:
    found = {text for _, text in machine.texts("sys/devices/system/cpu", "cpu[0-9]*/cpufreq/scaling_governor")}
    if not found:
        return Check("CPU governor", "warn", "cannot be read here", "trust the noise floor of a run, not this check")
    if found == {"performance"}:
        return Check("CPU governor", "ok", "performance")
    return Check(
        "CPU governor", "warn", ", ".join(sorted(found)),
        "the clock follows the load; `sudo cpupower frequency-set -g performance` while measuring",
    )  # fmt: skip


def _turbo(machine: _Machine) -> Check:
    intel = machine.number("sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = machine.number("sys/devices/system/cpu/cpufreq/boost")
    if intel is None and boost is None:
        return Check("turbo", "ok", "not under this system's control")
    if intel == 0 or boost == 1:
        return Check("turbo", "warn", "on", "the clock depends on temperature; switch turbo off for --careful runs")
    return Check("turbo", "ok", "off")


def _throttling(machine: _Machine) -> Check:
    counts = [
        text for _, text in machine.texts("sys/devices/system/cpu", "cpu[0-9]*/thermal_throttle/*_throttle_count")
    ]
    throttled = sum(int(text) for text in counts if text.isdigit())
    zones = machine.texts("sys/class/thermal", "thermal_zone*/temp")
    hottest = max((int(text) / 1000 for _, text in zones if text.lstrip("-").isdigit()), default=None)
    seen = "temperature cannot be read here" if hottest is None else f"hottest sensor {hottest:.0f} °C"
    if hottest is not None and hottest >= HOT_C:
        return Check("heat", "bad", seen, "let the machine cool down, and look after its fans")
    if throttled:
        return Check("heat", "warn", f"{seen}; throttled {throttled} times since boot", "watch it during a run")
    if hottest is not None and hottest >= WARM_C:
        return Check("heat", "warn", seen, "it will throttle soon; let it cool down")
    return Check("heat", "ok", seen)


def _load(machine: _Machine) -> Check:
    load = machine.number("proc/loadavg")
    if load is None:
        return Check("load", "warn", "cannot be read here", "make sure that nothing else runs")
    seen = f"{load:.2f} on {machine.cores} CPUs"
    if load > 0.5 * machine.cores:
        return Check("load", "bad", seen, "other work takes the time that would be measured; stop it first")
    if load > 0.1 * machine.cores:
        return Check("load", "warn", seen, "something else runs; stop it, or wait a minute")
    return Check("load", "ok", seen)


def _threads(machine: _Machine) -> Check:
    values = {name: machine.environ[name] for name in THREAD_VARIABLES if machine.environ.get(name)}
    if not values:
        return Check("thread settings", "ok", "unset: each library takes every CPU that it may use")
    seen = ", ".join(f"{name}={value}" for name, value in values.items())
    wrong = [name for name, value in values.items() if not value.split(",")[0].isdigit()]
    if wrong:
        return Check("thread settings", "bad", seen, f"{wrong[0]} is not a number; unset it")
    counts = {int(value.split(",")[0]) for value in values.values()}
    if max(counts) > machine.cores:
        return Check("thread settings", "bad", seen, f"more threads than the {machine.cores} usable CPUs; unset them")
    if len(counts) > 1:
        return Check("thread settings", "warn", seen, "libraries run with different thread counts; set one for all")
    return Check("thread settings", "ok", seen)


def _own_groups(machine: _Machine) -> list[str]:
    """Folders of the control groups of this process, from the innermost to the root: each may hold a quota."""
    lines = (machine.text("proc/self/cgroup") or "").splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::/")), "/")
    parts = [part for part in own.split("/") if part not in {"", ".."}]
    return ["/".join(["sys/fs/cgroup", *parts[:count]]) for count in range(len(parts), -1, -1)]


def _quotas(machine: _Machine) -> list[float]:
    """CPUs that each control group allows, where it limits them."""
    found = []
    for group in _own_groups(machine):
        words = (machine.text(f"{group}/cpu.max") or "max").split()
        with suppress(ValueError, IndexError, ZeroDivisionError):
            found += [float(words[0]) / float(words[1])] if words[0] != "max" else []
    quota = machine.number("sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = machine.number("sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return [*found, quota / period] if quota and period and quota > 0 else found


def _quota(machine: _Machine) -> Check:
    cpus = min(_quotas(machine), default=None)
    if cpus is None:
        return Check("CPU quota", "ok", "none is seen")
    seen = f"{cpus:g} of {machine.cores} CPUs"
    if cpus < machine.cores:
        whole = max(1, int(cpus))
        return Check(
            "CPU quota", "bad", seen,
            f"threads beyond the quota are stopped mid-measurement; pin the run with `taskset -c 0-{whole - 1}`",
        )  # fmt: skip
    return Check("CPU quota", "ok", seen)


def _memory(machine: _Machine) -> Check:
    sizes: dict[str, float] = {}
    for line in (machine.text("proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        with suppress(ValueError, IndexError):
            sizes[name] = float(rest.split()[0]) / 2**20
    if "MemAvailable" not in sizes or "MemTotal" not in sizes:
        return Check("memory", "warn", "cannot be read here", "make sure that nothing is swapped out")
    swapped = sizes.get("SwapTotal", 0.0) - sizes.get("SwapFree", 0.0)
    seen = f"{sizes['MemAvailable']:.1f} of {sizes['MemTotal']:.1f} GiB free, {swapped:.1f} GiB swapped out"
    if sizes["MemAvailable"] < 0.1 * sizes["MemTotal"]:
        return Check("memory", "bad", seen, "a run may swap or be killed; close what holds the memory")
    if swapped > 0.1:
        return Check("memory", "warn", seen, "pages come back from swap while measuring; `sudo swapoff -a` helps")
    return Check("memory", "ok", seen)


def _battery(machine: _Machine) -> Check:
    supplies = machine.texts("sys/class/power_supply", "*/type")
    batteries = [path.parent for path, text in supplies if text == "Battery"]
    states = [machine.text(str((path / "status").relative_to(machine.root))) for path in batteries]
    if not batteries:
        return Check("power", "ok", "no battery")
    if "Discharging" in states:
        return Check("power", "bad", "on battery", "plug the machine in: on battery the clock is held down")
    return Check("power", "ok", "plugged in")


def _virtual(machine: _Machine) -> Check:
    flags = next((line for line in (machine.text("proc/cpuinfo") or "").splitlines() if line.startswith("flags")), "")
    virtual = "hypervisor" in flags.split()
    stat = (machine.text("proc/stat") or "").splitlines()
    stolen = 0.0
    with suppress(ValueError, IndexError, ZeroDivisionError):
        ticks = [float(value) for value in stat[0].split()[1:9]]
        stolen = ticks[7] / sum(ticks)
    if stolen > 0.01:
        return Check(
            "virtual machine", "bad", f"{stolen:.1%} of the CPU time was taken by other guests",
            "measure on a machine of your own, or read wall-clock figures with care",
        )  # fmt: skip
    if virtual:
        return Check(
            "virtual machine", "warn", "yes", "neighbours cannot be seen from here; prefer --careful and CPU time"
        )
    return Check("virtual machine", "ok", "none is seen")


def _timer(machine: _Machine) -> Check:
    source = machine.text("sys/devices/system/clocksource/clocksource0/current_clocksource")
    steps = []
    for _ in range(200):
        before = time.perf_counter_ns()
        while (after := time.perf_counter_ns()) == before:
            pass
        steps.append(after - before)
    step = sorted(steps)[len(steps) // 2]
    seen = f"smallest step {step} ns" + (f", source {source}" if source else "")
    if step > 10_000:
        return Check("timer", "bad", seen, "too coarse to time a call; choose another clock source")
    if step > 1_000 or (source is not None and source not in GOOD_CLOCKS):
        return Check("timer", "warn", seen, "blocks will be long; the clock source `tsc` is finer")
    return Check("timer", "ok", seen)


def _nvml_devices() -> list[dict[str, Any]]:
    from claimbench.environment import cuda_devices

    return cuda_devices()


def _gpus(devices: Sequence[Mapping[str, Any]]) -> list[Check]:
    checks = []
    for index, device in enumerate(devices):
        name = f"GPU {index}"
        reasons = int(device.get("throttle_reasons", 0)) & ~HARMLESS_THROTTLING
        temperature = device.get("temperature_c")
        seen = str(device.get("name", "a GPU"))
        seen += f", {device['sm_clock_mhz']} MHz" if "sm_clock_mhz" in device else ""
        seen += f", {temperature} °C" if temperature is not None else ""
        if reasons:
            advice = "the clock is held down (power, heat or a limit); `nvidia-smi -q -d PERFORMANCE` says by what"
            checks.append(Check(name, "bad", f"{seen}, throttled (0x{reasons:x})", advice))
        elif temperature is not None and temperature >= WARM_C:
            checks.append(Check(name, "warn", seen, "it will throttle soon; let it cool down"))
        elif device.get("persistence") == 0:
            advice = "the first call pays for waking the driver; `sudo nvidia-smi -pm 1` keeps it awake"
            checks.append(Check(name, "warn", f"{seen}, persistence mode off", advice))
        else:
            checks.append(Check(name, "ok", seen))
    return checks or [Check("GPU", "ok", "none is seen; claims that need one will say so")]


CHECKS: tuple[Callable[[_Machine], Check], ...] = (
    _governor, _turbo, _throttling, _load, _threads, _quota, _memory, _battery, _virtual, _timer,
)  # fmt: skip


def _usable_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def checkup(
    root: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
    cores: int | None = None,
    gpus: Callable[[], Sequence[Mapping[str, Any]]] = _nvml_devices,
) -> list[Check]:
    """Look at everything that makes figures noisy or wrong.

    Args:
        root: Where `/proc` and `/sys` are looked for.
        environ: Environment variables; the process's own by default.
        cores: CPUs that this process may use; asked from the system by default.
        gpus: Gives the CUDA devices, as `claimbench.environment.cuda_devices` does.

    Returns:
        One check a thing, in a fixed order.

    Example:
        >>> {check.name for check in checkup()} >= {"load", "timer"}
        True
    """
    machine = _Machine(root, os.environ if environ is None else environ, cores or _usable_cores())
    return [*(check(machine) for check in CHECKS), *_gpus(gpus())]


def fit(checks: Sequence[Check]) -> bool:
    """Whether a machine may be measured on: nothing is bad.

    Args:
        checks: What `checkup` found.

    Example:
        >>> fit([Check("load", "warn", "0.9")])
        True
    """
    return all(check.state != "bad" for check in checks)
