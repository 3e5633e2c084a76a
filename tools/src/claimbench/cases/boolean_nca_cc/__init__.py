"""Cases of boolean_nca_cc: updates, steps, patterns, exactness under knockout, packed speed, studies, exports."""

from __future__ import annotations

from claimbench.case import Case
from claimbench.cases.boolean_nca_cc.exactness import CASES as EXACTNESS
from claimbench.cases.boolean_nca_cc.exports import CASES as EXPORTS
from claimbench.cases.boolean_nca_cc.growth import CASES as GROWTH
from claimbench.cases.boolean_nca_cc.life import CASES as LIFE
from claimbench.cases.boolean_nca_cc.meta import CASES as META
from claimbench.cases.boolean_nca_cc.steps import CASES as STEPS
from claimbench.cases.boolean_nca_cc.studies import CASES as STUDIES
from claimbench.cases.boolean_nca_cc.update import CASES as UPDATE

__all__ = ["CASES"]

CASES: tuple[Case, ...] = (*UPDATE, *EXACTNESS, *STEPS, *STUDIES, *EXPORTS, *LIFE, *GROWTH, *META)
