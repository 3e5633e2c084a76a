"""How the published code did it, before and after its note: a reconstruction, defects included, for comparison only.

It is rebuilt from *NeuroGraph Performance Optimizations Summary* (the note), whose names and code blocks it follows,
and from what was found in the original's source at the commit of the note. Each of the note's three optimizations can
be switched on by itself: `OriginalTrainContext(settings, optimizations={"credit", "jit", "cache"})`.

Unlike the original it gives the same numbers in every process; the original's depended on PYTHONHASHSEED.

Defects kept on purpose, because they are what the figures are about, each named where it stands:

- `graph`: LOOKED UP BY SCANNING.
- `activation`: SLOT SHARED BY TWO NODES.
- `engine`: STATIC EDGES BACKWARDS, OVERWRITE, NOTHING INHIBITS.
- `radiation`: COARSE SIGNATURE, NEVER INVALID, FIRST IN FIRST OUT (SET ORDER is the one that is not kept).
- `tables`: a decorator that compiles nothing.
- `inputs`: ADAPTER NEVER TRAINED, DROPOUT LEFT ON, TOO MANY CODES.
- `credit`: OWN INDICES, LOOP AROUND THE ACCUMULATOR.
- `accumulator`: NEVER FIRES, NUMBERS AGAINST NAMES, NEVER CLEARED.
- `training`: WRONG OUTPUTS, LABEL DROPPED, NOTHING CHANGES.

Only tests and measurements import this package.
"""

from neurograph.reference.original.credit import OriginalCredit
from neurograph.reference.original.engine import OriginalEngine
from neurograph.reference.original.radiation import Audit, RadiationCaches
from neurograph.reference.original.settings import OPTIMIZATIONS, OriginalSettings
from neurograph.reference.original.training import OriginalTrainContext

__all__ = [
    "OPTIMIZATIONS",
    "Audit",
    "OriginalCredit",
    "OriginalEngine",
    "OriginalSettings",
    "OriginalTrainContext",
    "RadiationCaches",
]
