"""Marks what came of a tenant's frame as that tenant's, whatever its records say of themselves.

Invariant: an event of a tenant's frame has `metadata.tenant_uid` of that tenant, and an id and a correlation id that no
frame of another tenant can lead to: those that a publisher may choose are put behind the tenant's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from tidegate.event import DeadLetter

__all__ = ["marked", "scoped", "signed"]

_EVENT = msgspec.json.Decoder(dict[str, Raw])
_TEXT = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode


def scoped(tenant: str, name: str) -> str:
    """`name` as an id among those of `tenant`: `<tenant>:<name>`, unless it is one already."""
    prefix = f"{tenant}:"
    return name if name.startswith(prefix) else prefix + name


def marked(lines: Sequence[Sequence[bytes]], tenant: str, fresh: tuple[str, ...], into: list[list[bytes]]) -> None:
    """Puts encoded events into `into`, by the shard of their new correlation id.

    `fresh`: how the ids begin that the pipeline has made itself; they are unique and stay.
    """
    shards = len(into)
    mark = Raw(_encode(tenant))
    for line in (line for shard in lines for line in shard):
        event = _EVENT.decode(line)
        metadata = _EVENT.decode(event["metadata"])
        uid = _TEXT.decode(metadata["uid"])
        correlation = scoped(tenant, _TEXT.decode(metadata["correlation_uid"]))
        if not uid.startswith(fresh):
            metadata["uid"] = Raw(_encode(scoped(tenant, uid)))
        metadata["correlation_uid"] = Raw(_encode(correlation))
        metadata["tenant_uid"] = mark
        event["metadata"] = Raw(_encode(metadata))
        into[crc32(correlation.encode()) % shards].append(_encode(event))


def signed(letters: Sequence[Sequence[DeadLetter]], tenant: str, into: list[list[DeadLetter]]) -> None:
    """Puts dead letters into `into`, each with the tenant that it is of."""
    for shard, some in enumerate(letters):
        into[shard] += [replace(one, tenant=tenant) for one in some]
