"""The command `tidegate pipeline`."""

from __future__ import annotations

from cyclopts import App

from tidegate.cli import pipeline_trying as trying
from tidegate.cli import pipeline_versions as versions

__all__ = ["pipeline"]

pipeline = App(name="pipeline", help="Try pipelines, improve them, and say which version is in use.")
pipeline.command(trying.run_tests, name="test")
for _command in (
    trying.check,
    trying.run,
    trying.explain,
    trying.diff,
    versions.history,
    versions.define,
    versions.activate,
    versions.rollback,
    versions.optimise,
    versions.reprocess,
):
    pipeline.command(_command)
