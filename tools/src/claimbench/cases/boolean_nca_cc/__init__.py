"""Cases of boolean_nca_cc: one update, whole steps, many patterns, packed evaluation, and exactness under knockout."""

from __future__ import annotations

from claimbench.case import Case
from claimbench.cases.boolean_nca_cc.exactness import CASES as EXACTNESS
from claimbench.cases.boolean_nca_cc.steps import CASES as STEPS
from claimbench.cases.boolean_nca_cc.update import CASES as UPDATE

__all__ = ["CASES"]

CASES: tuple[Case, ...] = (*UPDATE, *EXACTNESS, *STEPS)
