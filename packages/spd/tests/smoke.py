"""Run by itself, from any directory, against the installed wheel."""

import spd

if spd.__all__:
    raise SystemExit("spd says that it is not there yet, but exports " + ", ".join(spd.__all__))
print("spd: an empty module, as its README says")
