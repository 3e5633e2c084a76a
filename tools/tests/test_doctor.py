"""The doctor sees what a machine shows, and never stumbles over what it hides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from claimbench.doctor import Check, checkup, fit

MEMINFO = "MemTotal: 16777216 kB\nMemAvailable: {available} kB\nSwapTotal: 4194304 kB\nSwapFree: {free} kB\n"
HEALTHY = {
    "proc/loadavg": "0.10 0.10 0.10 1/100 1",
    "proc/meminfo": MEMINFO.format(available=12582912, free=4194304),
    "proc/cpuinfo": "processor : 0\nflags : fpu tsc\n",
    "proc/stat": "cpu 1000 0 1000 98000 0 0 0 0 0 0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "0",
    "sys/class/thermal/thermal_zone0/temp": "45000",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "sys/fs/cgroup/cpu.max": "max 100000",
}


def _look(root: Path, changes: dict[str, str | None], **options: Any) -> dict[str, Check]:
    for name, text in {**HEALTHY, **changes}.items():
        if text is not None:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    options = {"environ": {}, "cores": 4, "gpus": list, **options}
    return {check.name: check for check in checkup(root, **options)}


def test_a_healthy_machine_is_fit(tmp_path: Path):
    checks = _look(tmp_path, {})
    # The timer is this machine's own, and not part of the fake root.
    assert {name: c.state for name, c in checks.items() if name != "timer" and c.state != "ok"} == {}
    assert all(not check.advice for check in checks.values() if check.state == "ok")


CGROUP = "proc/self/cgroup"
THROTTLED = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"


@pytest.mark.parametrize(
    ("changes", "name", "state", "seen"),
    [
        ({"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave"}, "CPU governor", "warn", "powersave"),
        ({"sys/devices/system/cpu/intel_pstate/no_turbo": "0"}, "turbo", "warn", "on"),
        (
            {"sys/devices/system/cpu/intel_pstate/no_turbo": None, "sys/devices/system/cpu/cpufreq/boost": "1"},
            "turbo", "warn", "on",
        ),
        ({THROTTLED: "7"}, "heat", "warn", "throttled 7 times"),
        ({"sys/class/thermal/thermal_zone0/temp": "88000"}, "heat", "warn", "88 °C"),
        ({"sys/class/thermal/thermal_zone0/temp": "99000"}, "heat", "bad", "99 °C"),
        ({"proc/loadavg": "0.9 0 0 1/1 1"}, "load", "warn", "0.90 on 4 CPUs"),
        ({"proc/loadavg": "3.5 0 0 1/1 1"}, "load", "bad", "3.50 on 4 CPUs"),
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, "CPU quota", "bad", "1.5 of 4 CPUs"),
        ({"sys/fs/cgroup/cpu.max": "400000 100000"}, "CPU quota", "ok", "4 of 4 CPUs"),
        (
            {CGROUP: "0::/outer/inner\n", "sys/fs/cgroup/outer/cpu.max": "200000 100000",
             "sys/fs/cgroup/outer/inner/cpu.max": "300000 100000"},
            "CPU quota", "bad", "2 of 4 CPUs",
        ),
        (
            {"sys/fs/cgroup/cpu.max": None, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000",
             "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            "CPU quota", "bad", "2.5 of 4 CPUs",
        ),
        (
            {"sys/fs/cgroup/cpu.max": None, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
             "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            "CPU quota", "ok", "none",
        ),
        ({"proc/meminfo": MEMINFO.format(available=1048576, free=4194304)}, "memory", "bad", "1.0 of 16.0 GiB free"),
        ({"proc/meminfo": MEMINFO.format(available=12582912, free=3145728)}, "memory", "warn", "1.0 GiB swapped out"),
        (
            {"sys/class/power_supply/BAT0/type": "Battery", "sys/class/power_supply/BAT0/status": "Discharging"},
            "power", "bad", "on battery",
        ),
        (
            {"sys/class/power_supply/BAT0/type": "Battery", "sys/class/power_supply/BAT0/status": "Charging"},
            "power", "ok", "plugged in",
        ),
        ({"proc/cpuinfo": "flags\t\t: fpu hypervisor tsc\n"}, "virtual machine", "warn", "yes"),
        ({"proc/stat": "cpu 1000 0 1000 93000 0 0 0 5000 0 0\n"}, "virtual machine", "bad", "5.0%"),
    ],
)  # fmt: skip
def test_each_trouble_is_named(tmp_path: Path, changes: dict[str, str | None], name: str, state: str, seen: str):
    check = _look(tmp_path, changes)[name]
    assert (check.state, seen in check.found) == (state, True), check
    assert bool(check.advice) == (state != "ok")


@pytest.mark.parametrize(
    ("environ", "state"),
    [
        ({"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}, "ok"),
        ({"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "4"}, "warn"),
        ({"OMP_NUM_THREADS": "8"}, "bad"),
        ({"OMP_NUM_THREADS": "many"}, "bad"),
        ({"OMP_NUM_THREADS": "4,2"}, "ok"),
        ({"OMP_NUM_THREADS": ""}, "ok"),
    ],
)
def test_thread_settings(tmp_path: Path, environ: dict[str, str], state: str):
    assert _look(tmp_path, {}, environ=environ)["thread settings"].state == state


def test_a_coarse_clock_source_is_named(tmp_path: Path):
    name = "sys/devices/system/clocksource/clocksource0/current_clocksource"
    check = _look(tmp_path, {name: "hpet"})["timer"]
    assert check.state != "ok"
    assert "hpet" in check.found


@pytest.mark.parametrize(
    ("device", "state", "seen"),
    [
        ({"sm_clock_mhz": 1980, "temperature_c": 40, "persistence": 1, "throttle_reasons": 1}, "ok", "1980 MHz"),
        ({"name": "H100", "throttle_reasons": 0x4}, "bad", "throttled (0x4)"),
        ({"name": "H100", "temperature_c": 90}, "warn", "90 °C"),
        ({"name": "H100", "persistence": 0}, "warn", "persistence mode off"),
        ({}, "ok", "a GPU"),
    ],
)  # fmt: skip
def test_gpus(tmp_path: Path, device: dict[str, Any], state: str, seen: str):
    check = _look(tmp_path, {}, gpus=lambda: [device])["GPU 0"]
    assert (check.state, seen in check.found) == (state, True), check


def test_an_empty_machine_is_no_error(tmp_path: Path):
    checks = checkup(tmp_path / "nothing", environ={}, cores=1, gpus=list)
    assert len({check.name for check in checks}) == len(checks) == 11
    assert {check.state for check in checks} <= {"ok", "warn"}


def test_garbage_is_no_error(tmp_path: Path):
    for path in [*HEALTHY, "proc/self/cgroup", "sys/class/power_supply/BAT0/type"]:
        target = tmp_path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"\xff\x00 nonsense : : \n\n")
    assert len(checkup(tmp_path, environ={}, cores=1, gpus=list)) == 11


def test_a_folder_where_a_file_should_be_is_no_error(tmp_path: Path):
    for path in HEALTHY:
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    assert len(checkup(tmp_path, environ={}, cores=1, gpus=list)) == 11


def test_only_what_is_bad_makes_a_machine_unfit():
    assert fit([Check("a", "ok", ""), Check("b", "warn", "")])
    assert not fit([Check("a", "ok", ""), Check("b", "bad", "")])
