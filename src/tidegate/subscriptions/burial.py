"""Dead letters of events that no handler could process.

Invariant: the id of a letter follows from the subscription and the place of the event, so that a batch that is given up
twice, because of a crash in between, leaves one letter an event.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from tidegate import frame, subject
from tidegate.event import SUBSCRIPTION_STAGE, DeadLetter
from tidegate.head import lenient_heads
from tidegate.log import Log, dead_messages
from tidegate.subscriptions.hand import Part

__all__ = ["bury"]


async def bury(log: Log, uid: str, parts: Sequence[Part], error: str, attempts: int) -> None:
    """Append a dead letter for each event."""
    by_shard: defaultdict[int, list[DeadLetter]] = defaultdict(list)
    for part in parts:
        shared = part.held.shared
        lines = part.lines()
        indices = part.held.chosen[part.held.done : part.upto]
        for index, line, head in zip(indices, lines, lenient_heads(lines), strict=True):
            origin = f"{shared.stream}/{shared.sequence}#{index}"
            letter = DeadLetter(
                id=hashlib.blake2b(f"{uid} {origin}".encode(), digest_size=16).hexdigest(),
                source=head.source or "log",
                stage=SUBSCRIPTION_STAGE,
                rule=uid,
                error=error,
                original=line,
                content_type=frame.JSON,
                attempts=attempts,
                received_ms=shared.time_ms,
                origin=origin,
                trace=(shared.message.headers or {}).get(frame.TRACEPARENT, ""),
            )
            by_shard[subject.shard_of(letter.id, log.shards)].append(letter)
    messages = [one for shard, letters in by_shard.items() for one in dead_messages(shard, letters, uid)]
    await log.append_facts(messages)
