"""Dead letters in the log: finding them, and publishing them again.

Invariant: a redrive is itself a fact in the log; a letter is never changed or removed.
"""

from __future__ import annotations

import time

import msgspec

from tidegate import frame, origin, subject
from tidegate.bus import Bus
from tidegate.errors import QueryError
from tidegate.event import SUBSCRIPTION_STAGE, DeadLetter, DeadLetterFact, Redriven
from tidegate.log import Log, dead_messages

__all__ = ["ATTEMPTS", "DeadLetters", "Found"]

ATTEMPTS = "Tidegate-Attempts"
"""Header of a redriven record: which attempt it is."""
_FACT: msgspec.json.Decoder[DeadLetterFact] = msgspec.json.Decoder(DeadLetter | Redriven)


class Found(msgspec.Struct, kw_only=True):
    """A dead letter and what has been done about it."""

    letter: DeadLetter
    redrives: int = 0


class DeadLetters:
    """The dead letters of the log."""

    def __init__(self, bus: Bus, log: Log) -> None:
        self._bus = bus
        self._log = log

    async def _all(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        async for message in self._log.read(subject.dead("*")):
            lines = frame.inflate(message.payload, message.headers.get(frame.CONTENT_ENCODING, ""), 2**31)
            for line in frame.split_lines(lines):
                match _FACT.decode(line):
                    case DeadLetter() as letter:
                        found[letter.id] = Found(letter=letter)
                    case Redriven() as redriven if redriven.id in found:
                        found[redriven.id].redrives += 1
        return found

    async def find(
        self, *, source: str | None = None, stage: str | None = None, rule: str | None = None, limit: int = 50
    ) -> tuple[list[Found], int]:
        """The newest `limit` that match, newest last, and how many match in all."""
        matching = [
            one
            for one in (await self._all()).values()
            if source in (None, one.letter.source)
            and stage in (None, one.letter.stage)
            and rule in (None, one.letter.rule)
        ]
        return matching[-limit:] if limit > 0 else [], len(matching)

    async def get(self, letter_id: str) -> Found:
        """The dead letter with this id, or this unique beginning of an id. Raises QueryError."""
        return _pick(await self._all(), letter_id)

    async def redrive(self, letter_ids: list[str] | None) -> int:
        """Publish letters again (None: all that never were, those of subscriptions left out); returns how many.

        1. the original bytes go to the ingest stream, under a message id made of the letter and the attempt, so that a
        second try within the duplicate window stores nothing; 2. the fact goes to the log.
        """
        found = await self._all()
        if letter_ids is None:
            inputs = (one for one in found.values() if one.letter.stage != SUBSCRIPTION_STAGE)
            chosen = [one for one in inputs if not one.redrives]
        else:
            chosen = [_pick(found, letter_id) for letter_id in letter_ids]
        for one in chosen:
            if one.letter.stage == SUBSCRIPTION_STAGE:
                raise QueryError(
                    f"dead letter {one.letter.id} is an event of the log that subscription {one.letter.rule} gave up"
                    f" on: have it delivered again from {one.letter.origin} on with `tidegate subscriptions seek`"
                )
        for number, one in enumerate(chosen):
            letter = one.letter
            attempts = letter.attempts + one.redrives + 1
            headers = {ATTEMPTS: str(attempts), "Nats-Msg-Id": f"redrive-{letter.id}-{attempts}"}
            if letter.content_type:
                headers[frame.CONTENT_TYPE] = letter.content_type
            if letter.content_encoding:
                headers[frame.CONTENT_ENCODING] = letter.content_encoding
            if letter.tenant:
                headers[frame.TENANT] = letter.tenant
            if letter.trace:
                headers[frame.TRACEPARENT] = letter.trace
            if letter.came_from:
                place, _, offset = letter.came_from.rpartition("/")
                headers |= {origin.ORIGIN: place, origin.OFFSETS: offset}
            ack = await self._bus.publish(
                subject.ingest(letter.source, number % self._log.shards), letter.original, headers
            )
            fact = Redriven(id=letter.id, attempts=attempts, sequence=ack.seq, time_ms=int(time.time() * 1000))
            shard = subject.shard_of(letter.id, self._log.shards)
            await self._log.append_facts(dead_messages(shard, [fact], f"{subject.INGEST}/{ack.seq}"))
        return len(chosen)


def _pick(found: dict[str, Found], letter_id: str) -> Found:
    matching = [one for key, one in found.items() if key.startswith(letter_id)]
    if letter_id in found:
        return found[letter_id]
    if len(matching) != 1:
        what = "there is no dead letter" if not matching else f"{len(matching)} dead letters begin with"
        raise QueryError(f"{what} {letter_id!r}; `tidegate dead list` shows them")
    return matching[0]
