"""The command line: one function per verb, one exit status per kind of ending."""

from energynets.cli.main import main

__all__ = ["main"]
