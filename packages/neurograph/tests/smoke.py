"""Run by itself, from any directory, against the installed wheel."""

import neurograph

if neurograph.__all__:
    raise SystemExit("neurograph says that it is not there yet, but exports " + ", ".join(neurograph.__all__))
print("neurograph: an empty module, as its README says")
