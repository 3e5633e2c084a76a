"""Cases of dredge: the note's six changes before and after, its five opportunities, and ours."""

from __future__ import annotations

import torch

from claimbench.case import Case
from claimbench.cases.dredge.datagen import CASES as DATAGEN
from claimbench.cases.dredge.envelope import CASES as ENVELOPE
from claimbench.cases.dredge.future import CASES as FUTURE
from claimbench.cases.dredge.hashing import CASES as HASHING
from claimbench.cases.dredge.identical import CASES as IDENTICAL
from claimbench.cases.dredge.packets import CASES as PACKETS
from claimbench.cases.dredge.service import CASES as SERVICE
from claimbench.cases.dredge.training import CASES as TRAINING

__all__ = ["CASES"]

# One thread is the condition under which the figures are stated. A worker is a process of its own: nothing is put back.
torch.set_num_threads(1)

CASES: tuple[Case, ...] = (
    *HASHING, *ENVELOPE, *TRAINING, *DATAGEN, *IDENTICAL, *FUTURE, *SERVICE, *PACKETS,
)  # fmt: skip
