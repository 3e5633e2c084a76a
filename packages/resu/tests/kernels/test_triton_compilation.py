import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.needs_extra("triton")
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="the assembler for GPUs comes with Triton's wheels",
)
def test_every_kernel_compiles_for_a_gpu_without_one(tmp_path: Path) -> None:
    if tuple(int(part) for part in version("triton").split(".")[:2]) < (3, 3):
        pytest.skip("the compiler's own interface was another before Triton 3.3")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("compile_kernels.py"))],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 34
    assert {name for name, _ in lines} == {
        "_pack_kernel", "_unpack_kernel", "_popcount_kernel", "_count_kernel", "_adam_kernel", "_sgd_kernel",
        "_update_kernel", "_consistency_kernel", "_histogram_kernel", "_ties_kernel", "_choose_kernel",
        "_scatter_kernel", "_gather_kernel",
    }  # fmt: skip
    assert all(int(size) > 0 for _, size in lines)
