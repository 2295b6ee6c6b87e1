"""The command line."""

from tidegate.cli.main import main

__all__ = ["main"]
