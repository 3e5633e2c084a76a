"""Cases of neurograph: the note's three optimizations against what was before, and ours."""

from __future__ import annotations

import torch

from claimbench.case import Case
from claimbench.cases.neurograph.accuracy import CASES as ACCURACY
from claimbench.cases.neurograph.credit import CASES as CREDIT
from claimbench.cases.neurograph.future import CASES as FUTURE
from claimbench.cases.neurograph.lookup import CASES as LOOKUP
from claimbench.cases.neurograph.ours import CASES as OURS
from claimbench.cases.neurograph.radiation import CASES as RADIATION
from claimbench.cases.neurograph.sizes import CASES as SIZES
from claimbench.cases.neurograph.steps import CASES as STEPS

__all__ = ["CASES"]

# One thread is the condition under which the figures are stated. A worker is a process of its own: nothing is put back.
torch.set_num_threads(1)

CASES: tuple[Case, ...] = (*LOOKUP, *CREDIT, *SIZES, *RADIATION, *STEPS, *OURS, *FUTURE, *ACCURACY)
