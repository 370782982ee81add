"""The command line: `commands` says what there is, `jobs` does it."""

from daskgmm.cli.commands import gmm, main

__all__ = ["gmm", "main"]
