"""Run by itself, from any directory, against the installed wheel."""

import dredge

if dredge.__all__:
    raise SystemExit("dredge says that it is not there yet, but exports " + ", ".join(dredge.__all__))
print("dredge: an empty module, as its README says")
