"""Where the files that are not Python are: next to the package when installed, at the top of the tree in a checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder"]


def folder(name: str) -> Path:
    """The shipped folder `name` (`subjects` or `deploy`)."""
    package = Path(__file__).parent
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parents[1] / name
