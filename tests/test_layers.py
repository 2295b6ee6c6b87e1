"""Who may import whom: the order of the layers, as data, held against every import in the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import tidegate

SOURCE = Path(tidegate.__file__).parent

# Top first. A module imports only from lines below its own; modules on one line never import each other.
LAYERS = """
    __main__
    cli
    demo bench
    app
    local
    edges
    gateway
    service
    privacy
    query rederive reprocess
    rebuild
    verify
    tiers
    optimising
    auth projector intake forwarder lifecycle sample
    memory testing schema subscriptions
    pipeline
    entities
    actor
    publisher streams deadletters history presence
    log
    groupcommit
    head
    reader projection
    bus
    frame origin
    codec
    generator
    ocsf event subject
    telemetry
    traces
    proto
    config
    tomlfile resources
    errors
"""
RANKS = {room: rank for rank, line in enumerate(LAYERS.split("\n")) for room in line.split()}
FACE = {"publisher", "event", "subscriptions"}
"""What `tidegate/__init__.py` may show."""


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and room of every import of Tidegate's own modules, those inside functions included."""
    for node in ast.walk(tree):
        names: list[str] = []
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module="tidegate"):
                names = [f"tidegate.{alias.name}" for alias in node.names]
            case ast.ImportFrom(module=str(module)):
                names = [module]
            case _:
                continue
        yield from ((node.lineno, name.split(".")[1]) for name in names if name.startswith("tidegate."))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_every_module_has_its_place_in_the_layers() -> None:
    assert {room_of(path) for path in SOURCE.rglob("*.py")} == {*RANKS, "__init__"}


def test_modules_import_only_from_the_layers_below() -> None:
    wrong = []
    for path in sorted(SOURCE.rglob("*.py")):
        room = room_of(path)
        for line, other in imported(ast.parse(path.read_text(encoding="utf-8"))):
            allowed = other in FACE if room == "__init__" else other == room or RANKS[room] < RANKS[other]
            if not allowed:
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {other}")
    assert wrong == []
