"""The work of an intake cell: raw frames of one partition through the pipeline, into the log.

Invariant: every record of every frame ends as an event, a filtered count or a dead letter, and all of them are stored
in one atomic batch with the position of the input.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec
import zstandard

from tidegate import frame, origin, subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.bus import Bus, Outgoing
from tidegate.config import Settings
from tidegate.deadletters import ATTEMPTS
from tidegate.errors import FrameError
from tidegate.event import DeadLetter
from tidegate.log import Log, Progress, check_position, dead_messages, event_messages
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame, record_id

__all__ = ["KIND", "IntakeWork"]

KIND = "intake"
MAX_RECORD_BYTES = 1024 * 1024
MAX_COMMIT_BYTES = 16 * 1024 * 1024
MAX_RECORDS = 20_000
"""A commit is closed by the frame that reaches either, whatever the headers of its frames say."""
MAX_ROUTES = 32
"""Likewise; each destination makes a message for each shard, and an atomic batch holds 1,000."""


class IntakeWork(Work):
    """Feeds the log from one partition of the ingest stream."""

    def __init__(self, bus: Bus, log: Log, rules: Callable[[], Pipeline], partition: int, settings: Settings) -> None:
        """`rules` gives those in use, and is asked for each frame."""
        self._bus = bus
        self._log = log
        self._rules = rules
        self._partition = partition
        self._max_inflated = settings.ingest.max_inflated_bytes
        self.limit = settings.intake.batch_records
        self.progress = Progress(stream=subject.INGEST, created="", sequence=0)
        self._expected = 0

    def weigh(self, message: Delivered) -> int:
        count = message.headers.get(frame.COUNT, "")
        # The count is the publisher's word, so it is only used to shape batches; without it, guess from the size.
        return int(count) if count.isdigit() and len(count) < 7 else 1 + len(message.payload) // 500

    async def recover(self) -> Positions:
        """Raises PositionError when the ingest stream is not the one that the last progress record speaks of."""
        self._expected, found = await self._log.progress(KIND, self._partition)
        state = await self._bus.stream(subject.INGEST)
        if found is None:
            self.progress = Progress(stream=subject.INGEST, created=state.created, sequence=0)
        else:
            check_position(state, found.created, found.sequence)
            self.progress = found
        return {subject.INGEST: self.progress.sequence}

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        """Events and dead letters; of a batch that turns out to be much larger than its headers said, in parts."""
        part: list[Delivered] = []
        outcome = Outcome(self._log.shards)
        size = 0
        began = time.monotonic()
        for one in batch:
            size += self.take(one, outcome)
            part.append(one)
            # Let heartbeats and the other cells in between frames: deciding one takes milliseconds.
            await asyncio.sleep(0)
            if size >= MAX_COMMIT_BYTES or outcome.records >= MAX_RECORDS or len(outcome.routed) >= MAX_ROUTES:
                yield Step(part, outcome, began)
                part, outcome, size, began = [], Outcome(self._log.shards), 0, time.monotonic()
        if part:
            yield Step(part, outcome, began)

    async def commit(self, step: Step) -> None:
        """Events, dead letters and the progress record, in one atomic batch."""
        batch, outcome, began = step
        cell = f"{KIND}.{self._partition}"
        parents = list(dict.fromkeys(t for one in batch if (t := one.headers.get(frame.TRACEPARENT))))
        with telemetry.span(
            "intake commit",
            parent=parents[0] if parents else None,
            links=parents[1:],
            attributes={"tidegate.cell": cell, "tidegate.frames": len(batch)},
        ) as span:
            events = outcome.events
            dead = sum(map(len, outcome.dead))
            filtered = sum(outcome.filtered.values())
            cause = f"{subject.INGEST}/{batch[0].sequence}-{batch[-1].sequence}"
            messages: list[Outgoing] = []
            for shard in range(self._log.shards):
                for to, lines in outcome.groups():
                    messages += event_messages(shard, lines[shard], cause, span.traceparent, to)
                messages += dead_messages(shard, outcome.dead[shard], cause, span.traceparent)
            before = self.progress
            after = msgspec.structs.replace(
                before,
                sequence=batch[-1].sequence,
                frames=before.frames + len(batch),
                records=before.records + outcome.records,
                events=before.events + events,
                dead=before.dead + dead,
                filtered=before.filtered + filtered,
                time_ms=int(time.time() * 1000),
            )
            self._expected = await self._log.append(KIND, self._partition, messages, after, self._expected)
            self.progress = after
            span.set(**{"tidegate.records": outcome.records, "tidegate.events": events, "tidegate.dead": dead})
            telemetry.emit(
                telemetry.IntakeCommitted(
                    cell=cell,
                    frames=len(batch),
                    records=outcome.records,
                    events=events,
                    dead=dead,
                    filtered=filtered,
                    bytes=sum(len(one.payload) for one in batch),
                    seconds=time.monotonic() - began,
                )
            )
            for flow in self._rules().flows:
                for stage, told in flow.news():
                    telemetry.emit(
                        telemetry.StageRan(
                            pipeline=flow.name,
                            stage=stage,
                            taken=told.taken,
                            passed=told.passed,
                            filtered=told.filtered,
                            failed=told.failed,
                            retries=told.retries,
                            seconds=told.seconds,
                        )
                    )

    def take(self, message: Delivered, outcome: Outcome) -> int:
        """Put what becomes of the frame into `outcome`; returns the size of its records in bytes."""
        if origin.ORIGIN not in message.headers:
            return self._open(message, outcome)
        before = list(map(len, outcome.dead))
        size = self._open(message, outcome)
        for letters, known in zip(outcome.dead, before, strict=True):
            letters[known:] = [origin.traced(one, message.headers) for one in letters[known:]]
        return size

    def _open(self, message: Delivered, outcome: Outcome) -> int:
        headers = message.headers
        source = subject.source_from(message.subject)
        content_type = headers.get(frame.CONTENT_TYPE, "")
        content_encoding = headers.get(frame.CONTENT_ENCODING, "")
        place = f"{subject.INGEST}/{self.progress.created}/{message.sequence}"
        attempts = headers.get(ATTEMPTS, "1")
        raw = RawFrame(
            source=source,
            codec="json",
            records=[],
            received_ms=message.time_ms,
            origin=place,
            attempts=int(attempts) if attempts.isdigit() and len(attempts) < 6 else 1,
            trace=headers.get(frame.TRACEPARENT, ""),
            tenant=headers.get(frame.TENANT, ""),
        )
        if raw.tenant and not subject.valid_tenant(raw.tenant):
            # It must not become an event of no tenant, nor of one whose name it nearly is.
            problem = f"{raw.tenant[:80]!r} in the header {frame.TENANT} is no tenant's name"
            raw = msgspec.structs.replace(raw, tenant="")
            self._refuse(raw, 0, "tenant", problem, message.payload, content_type, content_encoding, outcome)
            return len(message.payload)
        if refused := headers.get(origin.REFUSED):
            rule, _, problem = refused.partition(": ")
            self._refuse(raw, 0, rule, problem, message.payload, content_type, content_encoding, outcome)
            return len(message.payload)
        try:
            codec, records = frame.open_frame(message.payload, content_type, content_encoding, self._max_inflated)
        except FrameError as error:
            self._refuse(raw, 0, error.rule, error.problem, message.payload, content_type, content_encoding, outcome)
            return len(message.payload)
        if frame.is_envelopes(content_type):
            content_type = frame.JSON  # what its records are from here on
        size = sum(map(len, records))
        if max(map(len, records)) > MAX_RECORD_BYTES:
            for index, record in enumerate(records):
                if len(record) > MAX_RECORD_BYTES:
                    problem = f"the record has {len(record)} bytes, more than {MAX_RECORD_BYTES}; publish it in parts"
                    packed = zstandard.compress(record, 1)
                    self._refuse(raw, index, "record_size", problem, packed, content_type, "zstd", outcome)
            records = [record for record in records if len(record) <= MAX_RECORD_BYTES]
            # Index numbers of the remaining records move up; give them a range of their own.
            raw = msgspec.structs.replace(raw, origin=f"{place}/rest")
        if records:
            self._rules().run(msgspec.structs.replace(raw, codec=codec, records=records), outcome)
        return size

    def _refuse(
        self,
        raw: RawFrame,
        index: int,
        rule: str,
        problem: str,
        original: bytes,
        content_type: str,
        content_encoding: str,
        outcome: Outcome,
    ) -> None:
        letter = DeadLetter(
            id=record_id(raw, index),
            source=raw.source,
            stage="frame",
            rule=rule,
            error=problem,
            original=original,
            content_type=content_type,
            content_encoding=content_encoding,
            attempts=raw.attempts,
            received_ms=raw.received_ms,
            origin=f"{raw.origin}#{index}",
            trace=raw.trace,
            tenant=raw.tenant,
        )
        outcome.records += 1
        outcome.dead[subject.shard_of(letter.id, self._log.shards)].append(letter)
        telemetry.emit(telemetry.FrameRefused(cell=f"{KIND}.{self._partition}", rule=rule, error=problem))
