"""Entry of `claimbench` and of `python -m claimbench`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main() -> int:
    """Run the command; where typer or rich are not installed, the bare one that can only `run`.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot print a glyph shows a question mark; a measurement must not end over it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    if any(find_spec(name) is None for name in ("typer", "rich")):
        from claimbench import bare

        return bare.main()
    from claimbench import cli

    return cli.main()


if __name__ == "__main__":
    raise SystemExit(main())
