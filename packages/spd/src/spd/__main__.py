"""`python -m spd`, for `torchrun -m spd run …`."""

from spd.cli import main

main()
