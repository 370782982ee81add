"""The command line: `commands` declares it, `jobs` does the work."""

from daskgmm.cli.commands import gmm, main

__all__ = ["gmm", "main"]
