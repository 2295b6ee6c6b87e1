"""Commands for the declared streams and their schemas: plan, apply, schema, compatibility."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from tidegate.config import Settings

__all__ = ["subjects"]

Given = Annotated[Settings, Parameter(parse=False)]

subjects = App(name="subjects", help="The declared streams: compare with the server, apply, generate schemas.")


@subjects.command
async def plan(*, settings: Given) -> int:
    """Show what differs between subjects/*.toml and the server. Exits with 1 when something does."""
    from tidegate import streams
    from tidegate.app import declarations
    from tidegate.bus import connect

    async with connect(settings.nats_url, credentials_file=settings.nats.credentials_file) as bus:
        changes = await streams.plan(bus, declarations(settings))
    for change in changes:
        print(_line(change))
    if not changes:
        print("the server is as declared")
    return int(bool(changes))


@subjects.command
async def apply(*, settings: Given) -> int:
    """Make the server as declared in subjects/*.toml. Deletes nothing."""
    from tidegate import streams
    from tidegate.app import declarations
    from tidegate.bus import connect

    async with connect(settings.nats_url, credentials_file=settings.nats.credentials_file) as bus:
        changes = await streams.apply(bus, declarations(settings))
    for change in changes:
        print(_line(change))
    print(f"{len(changes)} changes applied" if changes else "nothing to change: the server is as declared")
    return 0


@subjects.command
def schema(
    *,
    check: Annotated[bool, Parameter(negative="")] = False,
    release: Annotated[bool, Parameter(negative="")] = False,
    to: Path | None = None,
    settings: Given,
) -> int:
    """Generate JSON Schema, AsyncAPI, Avro and Protobuf from the code into subjects/schema.

    Parameters
    ----------
    check
        Write nothing; exit with 1 when the files there differ.
    release
        Also keep the Avro schemas as a new version in history/, if they are fully compatible with all before.
    to
        Another folder.
    """
    from tidegate import resources
    from tidegate import schema as schemas
    from tidegate.app import declarations

    declared = declarations(settings)
    folder = to or resources.folder("subjects") / "schema"
    if check:
        differing = schemas.drift(folder, declared)
        print("\n".join(f"differs: {folder / name}" for name in differing) or "the schemas are up to date")
        if any(name.startswith("history/") for name in differing):
            print("an Avro schema is no released version; run `tidegate subjects schema --release`")
        return int(bool(differing))
    schemas.write(folder, declared)
    print(f"{len(schemas.generate(declared))} files written to {folder}")
    if release:
        if problems := schemas.compatibility(folder, "full"):
            print("\n".join(problems))
            return 1
        for path in schemas.release(folder):
            print(f"released: {path}")
    return 0


@subjects.command
def compatibility(*, mode: Literal["backward", "forward", "full"] = "full") -> int:
    """Check the Avro and Protobuf schemas against every released version. Exits with 1 when one is not compatible.

    Parameters
    ----------
    mode
        backward: new code reads old data; forward: old code reads new data; full: both.
    """
    from tidegate import resources
    from tidegate import schema as schemas

    problems = schemas.compatibility(resources.folder("subjects") / "schema", mode)
    print("\n".join(problems) or f"the schemas are compatible ({mode}) with all released versions")
    return int(bool(problems))


def _line(change: object) -> str:
    from tidegate.streams import Change

    assert isinstance(change, Change)
    if not change.setting:
        return f"+ stream {change.stream} ({change.declared})"
    return f"~ {change.stream}.{change.setting}: {change.server!r} -> {change.declared!r}"
