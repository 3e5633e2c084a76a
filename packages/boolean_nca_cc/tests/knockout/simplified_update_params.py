"""The forms of `update_params` side by side, as "Gate Knockout Performance Optimization" names this file.

The forms live in `boolean_nca_cc.reference.original` (before and after, as published; no commit of the original holds
"before", so it is a reconstruction) and in `boolean_nca_cc.circuits.train` (ours). `test_update_params.py` holds them
against each other; `performance_comparison_simplified.py` times them.
"""

from boolean_nca_cc.circuits.train import update_params as update_params_ours
from boolean_nca_cc.reference.original import update_params_after, update_params_before, update_params_none

FORMS = {
    "none": update_params_none,
    "before": update_params_before,
    "after": update_params_after,
    "ours": update_params_ours,
}
