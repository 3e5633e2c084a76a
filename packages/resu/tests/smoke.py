"""Run by itself, from any directory, against the installed wheel."""

import resu

if resu.__all__:
    raise SystemExit("resu says that it is not there yet, but exports " + ", ".join(resu.__all__))
print("resu: an empty module, as its README says")
