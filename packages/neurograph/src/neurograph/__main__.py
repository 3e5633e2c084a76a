"""`python -m neurograph`."""

from neurograph.cli import main

main()
