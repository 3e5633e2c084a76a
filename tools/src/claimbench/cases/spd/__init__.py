"""Cases of spd: training steps with the switches of the note and ours, and the parts of a step one by one."""

from __future__ import annotations

import torch

from claimbench.case import Case
from claimbench.cases.spd.adversary import CASES as ADVERSARY
from claimbench.cases.spd.compiling import CASES as COMPILING
from claimbench.cases.spd.counts import CASES as COUNTS
from claimbench.cases.spd.loading import CASES as LOADING
from claimbench.cases.spd.memory import CASES as MEMORY
from claimbench.cases.spd.parts import CASES as PARTS
from claimbench.cases.spd.precision import CASES as PRECISION
from claimbench.cases.spd.priority import CASES as PRIORITY
from claimbench.cases.spd.steps import CASES as STEPS
from claimbench.cases.spd.writing import CASES as WRITING

__all__ = ["CASES"]

# One thread is the condition under which the figures are stated. A worker is a process of its own: nothing is put back.
torch.set_num_threads(1)

# Small tasks come first: a process that freed large tensors before keeps their memory, and then pays less for small
# ones, which is not how a run of a small task begins.
CASES: tuple[Case, ...] = (
    *STEPS,
    *COUNTS,
    *PARTS,
    *ADVERSARY,
    *MEMORY,
    *PRECISION,
    *WRITING,
    *LOADING,
    *COMPILING,
    *PRIORITY,
)
