"""`python -m dredge` is `dredge`."""

from dredge.cli import main

main()
