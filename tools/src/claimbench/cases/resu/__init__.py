"""Cases of resu: bytes, the cached forward pass, θ's gradient, whole training steps, and accuracy."""

from __future__ import annotations

import torch

from claimbench.case import Case
from claimbench.cases.resu.accuracy import CASES as ACCURACY
from claimbench.cases.resu.forward import CASES as FORWARD
from claimbench.cases.resu.gradient import CASES as GRADIENT
from claimbench.cases.resu.memory import CASES as MEMORY
from claimbench.cases.resu.step import CASES as STEP

__all__ = ["CASES"]

# One thread is the condition under which the figures are stated. A worker is a process of its own: nothing is put back.
torch.set_num_threads(1)

CASES: tuple[Case, ...] = (*MEMORY, *GRADIENT, *FORWARD, *STEP, *ACCURACY)
