"""`python -m resu.cli` is the command `resu`."""

from resu.cli import main

if __name__ == "__main__":
    main()
