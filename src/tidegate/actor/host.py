"""The work of an entity cell: commands and events of the log into changes of its entities, in the log again.

Invariant: a change is answered for, and shows in a snapshot, only once it is in the log together with the positions of
the inputs. States run ahead of that, one step; whatever was not committed is taken back before anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import anyio.to_thread
import msgspec

from tidegate import frame, subject, telemetry
from tidegate.actor.cell import Step, Work
from tidegate.actor.entity import NO_COMMAND, Change, Codec, Command, Context, Entity
from tidegate.actor.mailbox import Positions
from tidegate.actor.pulling import Delivered
from tidegate.actor.snapshots import Objects, Snapshots
from tidegate.bus import Outgoing, Stored, StreamState
from tidegate.errors import CommandRefusedError, FrameError, TidegateError
from tidegate.log import Log, change_messages, check_position, lines_of

__all__ = ["AGAIN", "REPLY", "Answer", "Bus", "EntityProgress", "EntityWork", "Refusal", "answers"]

REPLY = "Tidegate-Reply"
"""Header of a command: the subject for its answer."""
AGAIN = "Tidegate-Again"
"""Header of changes that a rebuild has derived anew: history, and no news to those who react to changes."""
_KNOWN_COMMANDS = 10_000
_MAX_COMMANDS_BYTES = 4 * 1024 * 1024
_COMMANDS = msgspec.json.Decoder(Command)


class Bus(Objects, Protocol):
    """What an entity cell needs of a bus."""

    async def stream(self, name: str) -> StreamState: ...

    async def send(self, subject: str, payload: bytes = b"", reply: str = "") -> None: ...


class EntityProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an entity cell has read its inputs, and how far event time has come."""

    created: dict[str, str]
    """Stream -> its creation time."""
    positions: dict[str, int]
    """Stream -> sequence of the last message taken in."""
    watermark_ms: int = 0
    lag_ms: int | None = None
    """How far event time was behind the log when it last came further; None: not known."""
    changes: int = 0
    """Since the beginning."""
    serves: bool = True
    """Whether commands and new events are decided on here: not where another generation does (`generations`)."""


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a command was refused."""

    code: str
    problem: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What became of a command."""

    id: str = ""
    version: int = 0
    """Of the entity, after the command. 0: nothing is known of it."""
    sequence: int = 0
    """Where the log stands with it: wait for this position to read what the command has changed."""
    events: msgspec.Raw = msgspec.Raw(b"[]")
    state: msgspec.Raw = msgspec.Raw(b"null")
    """Only where no command was given: the state was asked for."""
    duplicate: bool = False
    """The command had been given before; its events are not told again."""
    refused: Refusal | None = None


class _Decided(NamedTuple):
    lines: list[bytes]
    replies: list[tuple[str, list[Answer]]]
    progress: EntityProgress
    commands: int


class _Undo(NamedTuple):
    """What takes a step back."""

    entities: dict[str, tuple[int, Any] | None]
    commands: list[str]


def answers(payload: bytes) -> list[Answer]:
    """The answers in a reply, one for each command."""
    return [msgspec.json.decode(line, type=Answer) for line in payload.split(b"\n") if line]


class EntityWork(Work):
    """Hosts the entities of one kind and shard.

    `limit` shapes its batches, in events and commands. `name` is what its changes and its progress are kept under.
    """

    def __init__(
        self,
        bus: Bus,
        log: Log,
        entity: Entity[Any, Any, Any],
        shard: int,
        *,
        limit: int = 8_000,
        name: str = "",
    ) -> None:
        self._bus = bus
        self._log = log
        self._entity = entity
        self._shard = shard
        self.name = name or entity.kind
        self._cell = f"{self.name}.{shard}"
        self._codec = Codec(entity)
        self._snapshots = Snapshots(bus, entity, self._cell)
        self.limit = limit
        self.idle_seconds = entity.idle_seconds
        self._streams = (subject.COMMAND, subject.LOG) if entity.follows else (subject.COMMAND,)
        self._entities: dict[str, tuple[int, Any]] = {}
        """Id -> version and state, decided ones included."""
        self._known: OrderedDict[str, int] = OrderedDict()
        """Command id -> version that it led to."""
        self._undo: deque[_Undo] = deque()
        """Of each step that is decided and not committed, oldest first."""
        self._waiting: list[tuple[int, str]] = []
        """Heap of (due event time, entity); what is out of date in it is found out when its time comes."""
        self._timed: dict[str, int] = {}
        """Entity -> the earliest time in the heap at which it is to be looked at."""
        self._folded = 0
        """Sequence up to which the log's changes are in the states; 0 before the first recovery."""
        self._known_changes = 0
        """How many those are."""
        self._expected = 0
        self._progress = EntityProgress(created={}, positions={})
        self._decided = self._progress
        self._commands = 0
        """Taken in by the step that is being decided."""
        self._lag_ms: int | None = None
        self._unsaved = 0
        self._saving: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._entities)

    @property
    def progress(self) -> tuple[int, EntityProgress]:
        """The last progress record, and its sequence in the log; 0 before the first."""
        return self._expected, self._progress

    def items(self) -> Iterator[tuple[str, Any]]:
        """Id and state of all entities, one step ahead of the log at most."""
        return ((entity_id, state) for entity_id, (_, state) in self._entities.items())

    def weigh(self, message: Delivered) -> int:
        count = message.headers.get(frame.COUNT, "1")
        return int(count) if count.isdigit() and len(count) < 7 else 1

    # -- recovery -----------------------------------------------------------------------------------------------

    async def recover(self) -> Positions:
        """Snapshot, then the changes after it. Raises PositionError when the positions are of other streams."""
        while self._undo:
            self._take_back(self._undo.pop())
        self._expected, found = await self._log.newest(self.name, self._shard, EntityProgress)
        states = {name: await self._bus.stream(name) for name in self._streams}
        created = {name: state.created for name, state in states.items()}
        if found is None:
            found = EntityProgress(created=created, positions=dict.fromkeys(states, 0))
        for name, state in states.items():
            check_position(state, found.created.get(name, state.created), found.positions.get(name, 0))
        if self._folded == 0 or self._folded > self._expected:
            await self._load_snapshot()
        remembered = self._folded > 0
        await self._fold_changes()
        if remembered and self._known_changes != found.changes:
            # The log was restored from an older copy and has grown since: what was remembered took another course.
            reason = f"with the changes since then it has {self._known_changes}, but the log {found.changes}"
            telemetry.emit(telemetry.SnapshotIgnored(cell=self._cell, reason=reason))
            self._forget()
            await self._fold_changes()
        self._lag_ms = found.lag_ms
        self._progress = self._decided = msgspec.structs.replace(
            found, created=created, positions={**dict.fromkeys(states, 0), **found.positions}
        )
        return self._progress.positions

    def _forget(self) -> None:
        self._entities, self._known, self._folded = {}, OrderedDict(), 0
        self._waiting, self._timed = [], {}
        self._known_changes, self._unsaved = 0, 0

    async def _load_snapshot(self) -> None:
        self._forget()
        log = await self._log.state()
        found = await self._snapshots.newest(log.created, self._expected)
        if found is not None:
            snapshot, self._entities = found
            self._folded, self._known_changes = snapshot.sequence, snapshot.changes
            self._known.update(snapshot.commands)
            for entity_id, (_, state) in self._entities.items():
                self._wait(entity_id, state)

    async def _fold_changes(self) -> None:
        if self._folded == self._expected:
            return
        began, count = time.monotonic(), 0
        changes = self._log.read(subject.entity(self.name, self._shard), self._folded + 1, self._expected)
        async with contextlib.aclosing(changes):
            async for message in changes:
                for line in lines_of(message):
                    change = self._codec.change(line)
                    self._apply(change.id, change.version, change.events)
                    if change.command:
                        self._remember(change.command, change.version)
                    count += 1
                await asyncio.sleep(0)
        self._folded = self._expected
        self._unsaved += count
        self._known_changes += count
        telemetry.emit(
            telemetry.EntitiesRecovered(
                cell=self._cell, entities=len(self._entities), changes=count, seconds=time.monotonic() - began
            )
        )

    def _take_back(self, undo: _Undo) -> None:
        for entity_id, before in undo.entities.items():
            if before is None:
                self._entities.pop(entity_id, None)
            else:
                self._entities[entity_id] = before
                self._wait(entity_id, before[1])
        for command_id in undo.commands:
            self._known.pop(command_id, None)

    # -- deciding -----------------------------------------------------------------------------------------------

    async def decide(self, batch: Sequence[Delivered]) -> AsyncGenerator[Step, None]:
        """One step: what all commands and events of the batch change, in order."""
        began = time.monotonic()
        self._undo.append(_Undo({}, []))
        decided = _Decided([], [], self._decided, 0)
        self._commands = 0
        positions = dict(self._decided.positions)
        watermark = self._decided.watermark_ms
        for message in batch:
            watermark = self._take(message, watermark, decided)
            positions[message.stream] = message.sequence
            # Let heartbeats and the other cells in between messages: a frame takes milliseconds.
            await asyncio.sleep(0)
        if not batch:
            # Nothing has come for a while: event time goes on as far behind the clock as it was.
            if self._lag_ms is not None:
                watermark = max(watermark, int(time.time() * 1000) - self._lag_ms)
            self._tell_the_time(watermark, "idle", decided)
        self._decided = msgspec.structs.replace(
            self._decided,
            positions=positions,
            watermark_ms=watermark,
            lag_ms=self._lag_ms,
            changes=self._decided.changes + len(decided.lines),
        )
        yield Step(batch, decided._replace(progress=self._decided, commands=self._commands), began)

    def _take(self, message: Delivered, watermark: int, decided: _Decided) -> int:
        """Decide on one message; returns how far event time has come."""
        if message.stream == subject.LOG:
            return self._react(message, watermark, decided)
        self._take_commands(message, watermark, decided)
        return watermark

    def _take_commands(self, message: Delivered, watermark: int, decided: _Decided) -> None:
        reply = message.headers.get(REPLY, "")
        found: list[Answer] = []
        for number, line in enumerate(self._lines(message, found)):
            cause = f"{message.stream}/{message.sequence}#{number}"
            try:
                command = _COMMANDS.decode(line)
            except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
                found.append(Answer(refused=Refusal("invalid", f"not a command: {error}")))
                continue
            try:
                found.append(self._obey(command, message.time_ms, watermark, cause, decided))
            except CommandRefusedError as error:
                version = self._entities.get(command.id, (0, None))[0]
                found.append(Answer(id=command.id, version=version, refused=Refusal(error.code, error.problem)))
            except Exception as error:  # noqa: BLE001 - whatever a bug in the entity raises
                # A command comes from outside; one that the entity stumbles over must not stop the others.
                telemetry.emit(telemetry.CommandFailed(cell=self._cell, error=f"{type(error).__name__}: {error}"))
                version = self._entities.get(command.id, (0, None))[0]
                refusal = Refusal("failed", f"{type(error).__name__}: {error}")
                found.append(Answer(id=command.id, version=version, refused=refusal))
        if reply:
            decided.replies.append((reply, found))
        self._commands += len(found)

    def _lines(self, message: Delivered, found: list[Answer]) -> list[bytes]:
        try:
            encoding = message.headers.get(frame.CONTENT_ENCODING, "")
            return frame.split_lines(frame.inflate(message.payload, encoding, _MAX_COMMANDS_BYTES))
        except FrameError as error:
            found.append(Answer(refused=Refusal("invalid", error.problem)))
            return []

    def _obey(self, command: Command, time_ms: int, watermark: int, cause: str, decided: _Decided) -> Answer:
        version, state = self._entities.get(command.id, (0, None))
        if command.command == NO_COMMAND:
            return Answer(id=command.id, version=version, state=msgspec.Raw(self._codec.encode(state)))
        if not command.id:
            raise CommandRefusedError("invalid", "the id of the entity is missing")
        if command.command_id and (known := self._known.get(command.command_id)) is not None:
            return Answer(id=command.id, version=known, duplicate=True)
        if command.expected_version is not None and command.expected_version != version:
            problem = f"version {command.expected_version} was expected, but it is {version}"
            raise CommandRefusedError("version", problem)
        context = Context(id=command.id, version=version, time_ms=time_ms, watermark_ms=watermark, cause=cause)
        state = self._entity.initial(command.id) if state is None else state
        events = self._entity.decide(state, self._codec.command(command.command), context)
        if not events:
            return Answer(id=command.id, version=version)
        encoded = self._change(command.id, version, time_ms, events, command.command_id, decided)
        return Answer(id=command.id, version=version + 1, events=msgspec.Raw(encoded))

    def _react(self, message: Delivered, watermark: int, decided: _Decided) -> int:
        if AGAIN in message.headers:
            return watermark
        stored = Stored(message.subject, message.sequence, message.time_ms, message.payload, message.headers)
        reaction = self._entity.react(stored, self._shard, self._log.shards)
        entity, cause = self._entity, f"{message.stream}/{message.sequence}"
        for entity_id, command in reaction.commands:
            version, state = self._entities.get(entity_id, (0, None))
            if state is None:
                state = entity.initial(entity_id)
            context = Context(
                id=entity_id, version=version, time_ms=message.time_ms, watermark_ms=watermark, cause=cause
            )
            events = entity.decide(state, command, context)
            if events:
                self._change(entity_id, version, message.time_ms, events, "", decided)
        if reaction.time_ms:
            # One event from the far future must not end everything that is going on.
            watermark = max(watermark, min(reaction.time_ms, message.time_ms))
            self._lag_ms = max(0, message.time_ms - watermark)
            self._tell_the_time(watermark, cause, decided)
        return watermark

    def _tell_the_time(self, watermark: int, cause: str, decided: _Decided) -> None:
        entity = self._entity
        while self._waiting and self._waiting[0][0] <= watermark:
            at, entity_id = heapq.heappop(self._waiting)
            if self._timed.get(entity_id) != at:
                continue
            del self._timed[entity_id]
            version, state = self._entities.get(entity_id, (0, None))
            due = None if state is None else entity.due_ms(state)
            if due is None:
                continue
            if due > at:
                self._wait(entity_id, state)
                continue
            context = Context(id=entity_id, version=version, time_ms=due, watermark_ms=watermark, cause=cause)
            events = entity.on_time(state, context)
            if not events:
                raise RuntimeError(f"{self.name} {entity_id!r} was due at {due}, and nothing has happened")
            self._change(entity_id, version, due, events, "", decided)

    def _change(
        self, entity_id: str, version: int, time_ms: int, events: Sequence[Any], command_id: str, decided: _Decided
    ) -> bytes:
        """Apply, and write down; returns the events as JSON."""
        undo = self._undo[-1]
        if entity_id not in undo.entities:
            undo.entities[entity_id] = self._entities.get(entity_id)
        self._apply(entity_id, version + 1, events)
        if command_id:
            self._remember(command_id, version + 1)
            undo.commands.append(command_id)
        encoded = self._codec.encode(events)
        decided.lines.append(
            self._codec.encode(Change(entity_id, version + 1, time_ms, msgspec.Raw(encoded), command_id))
        )
        return encoded

    def _apply(self, entity_id: str, version: int, events: Iterable[Any]) -> None:
        found = self._entities.get(entity_id)
        state = self._codec.fold(entity_id, found[1] if found else None, events)
        if state is None:
            self._entities.pop(entity_id, None)
        else:
            self._entities[entity_id] = (version, state)
            self._wait(entity_id, state)

    def _wait(self, entity_id: str, state: Any) -> None:
        # One that has to wait longer than before is put back when it is looked at.
        due = self._entity.due_ms(state)
        if due is not None and (entity_id not in self._timed or due < self._timed[entity_id]):
            self._timed[entity_id] = due
            heapq.heappush(self._waiting, (due, entity_id))

    def _remember(self, command_id: str, version: int) -> None:
        self._known[command_id] = version
        while len(self._known) > _KNOWN_COMMANDS:
            self._known.popitem(last=False)

    # -- committing ---------------------------------------------------------------------------------------------

    async def commit(self, step: Step) -> None:
        """Changes and the progress record, in one atomic batch; nothing at all where nothing has happened."""
        decided: _Decided = step.decided
        if not step.batch and not decided.lines:
            self._undo.popleft()
            return
        messages = self._messages(decided.lines)
        self._expected = await self._log.append(self.name, self._shard, messages, decided.progress, self._expected)
        self._progress, self._folded = decided.progress, self._expected
        self._undo.popleft()
        self._unsaved += len(decided.lines)
        self._known_changes += len(decided.lines)
        telemetry.emit(
            telemetry.EntitiesChanged(
                cell=self._cell,
                messages=len(step.batch),
                commands=decided.commands,
                changes=len(decided.lines),
                entities=len(self._entities),
                seconds=time.monotonic() - step.began,
                lag=step.batch[-1].pending if step.batch else 0,
            )
        )

    def _messages(self, lines: Sequence[bytes]) -> list[Outgoing]:
        return change_messages(self.name, self._shard, lines)

    async def evolve(self, step: Step) -> None:
        """What was decided is the state now: answer, and store it once in a while."""
        decided: _Decided = step.decided
        for reply, found in decided.replies:
            lines = [msgspec.json.encode(msgspec.structs.replace(one, sequence=self._expected)) for one in found]
            await self._bus.send(reply, b"\n".join(lines))
        if self._unsaved >= self._entity.snapshot_every and (self._saving is None or self._saving.done()):
            self._saving = asyncio.create_task(self._save(), name=f"snapshot {self._cell}")

    async def aclose(self) -> None:
        if self._saving is not None:
            await asyncio.wait([self._saving])
        if self._unsaved:
            await self._save()

    async def _save(self) -> None:
        """Store the committed states. What fails is reported; the next one will do."""
        entities = dict(self._entities)
        known = dict(self._known)
        for undo in reversed(self._undo):
            for entity_id, before in undo.entities.items():
                if before is None:
                    entities.pop(entity_id, None)
                else:
                    entities[entity_id] = before
            for command_id in undo.commands:
                known.pop(command_id, None)
        began, sequence, unsaved, changes = time.monotonic(), self._folded, self._unsaved, self._known_changes
        created = self._progress.created.get(subject.LOG, "")
        try:
            created = created or (await self._log.state()).created
            data = await anyio.to_thread.run_sync(
                self._snapshots.encode, created, sequence, changes, entities, list(known.items())
            )
            await self._snapshots.store(data)
        except TidegateError as error:
            telemetry.emit(telemetry.SnapshotIgnored(cell=self._cell, reason=f"not stored: {error}"))
            return
        self._unsaved -= unsaved
        telemetry.emit(
            telemetry.SnapshotStored(
                cell=self._cell,
                entities=len(entities),
                sequence=sequence,
                bytes=len(data),
                seconds=time.monotonic() - began,
            )
        )
