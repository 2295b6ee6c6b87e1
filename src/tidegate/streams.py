"""Declared streams against the server's: show the difference, apply it.

Invariant: applying never deletes a stream or a message; what the server cannot change in place is reported.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.bus import STREAM_NOT_FOUND, Bus
from tidegate.errors import BusError
from tidegate.subject import Declarations, StreamDeclaration

__all__ = ["Change", "apply", "plan"]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between a declaration and the server."""

    stream: str
    setting: str
    """Empty: the stream itself is missing."""
    server: Any
    declared: Any


def _config(one: StreamDeclaration) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": one.name,
        "description": one.description,
        "subjects": one.subjects,
        "retention": "limits",
        "storage": one.storage,
        "num_replicas": one.replicas,
        "max_age": one.max_age_seconds * 10**9,
        "max_bytes": one.max_bytes,
        "max_msg_size": one.max_message_bytes,
        "duplicate_window": one.duplicate_window_seconds * 10**9,
        "discard": one.discard,
        "allow_direct": True,
        "allow_atomic": one.allow_atomic,
        "allow_rollup_hdrs": one.allow_rollup,
        "allow_msg_ttl": one.allow_ttl,
        "subject_transform": None,
    }
    if one.spread_plain:
        # For servers without the `mappings` of deploy/nats.conf: a plain subject gets a partition by its source.
        config["subject_transform"] = {
            "src": one.subjects[0],
            "dest": one.subjects[0].replace("*", "{{wildcard(1)}}") + f".{{{{partition({one.partitions},1)}}}}",
        }
    return config


async def plan(bus: Bus, declarations: Declarations) -> list[Change]:
    """What differs; empty when the server is as declared."""
    changes = []
    for one in declarations.streams.values():
        try:
            info = await bus.api(f"STREAM.INFO.{one.name}")
        except BusError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            changes.append(Change(stream=one.name, setting="", server=None, declared=", ".join(one.subjects)))
            continue
        server = info["config"]
        for setting, declared in _config(one).items():
            # The server leaves out what is off.
            if server.get(setting) != declared and (declared or server.get(setting)):
                changes.append(Change(stream=one.name, setting=setting, server=server.get(setting), declared=declared))
    return changes


async def apply(bus: Bus, declarations: Declarations) -> list[Change]:
    """Make the server as declared; returns what was changed. Raises BusError with the server's reason."""
    changes = await plan(bus, declarations)
    for name in dict.fromkeys(change.stream for change in changes):
        config = _config(declarations.streams[name])
        created = any(change.stream == name and not change.setting for change in changes)
        await bus.api(f"STREAM.{'CREATE' if created else 'UPDATE'}.{name}", config)
    return changes
