"""`python -m boolean_nca_cc` is `boolean-nca`."""

from boolean_nca_cc.cli import main

main()
