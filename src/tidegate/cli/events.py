"""Commands around events: publish, tail, dead, trace."""

from __future__ import annotations

import asyncio
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from tidegate.config import Settings
from tidegate.errors import QueryError

__all__ = ["dead", "publish", "tail", "trace"]

Given = Annotated[Settings, Parameter(parse=False)]
_FRAMES_AT_A_TIME = 8
Json = Annotated[bool, Parameter(name="--json", negative="")]


async def publish(
    path: Path | None = None,
    /,
    *,
    source: str,
    codec: Literal["json", "text"] = "json",
    settings: Given,
) -> int:
    """Publish the lines of a file (or of standard input), one event a line, and print where they went.

    Parameters
    ----------
    path
        NDJSON, or log lines with `--codec text`. Without it, or with `-`: standard input.
    source
        Where the events come from, such as `suricata`; it chooses the mapping rules.
    codec
        `json`, or `text` for raw log lines. Header lines of Zeek's TSV logs and of AWS VPC flow logs are repeated in
        each frame, and the lines of one Linux audit event stay in one.
    """
    from tidegate.pipeline.lines.framing import frames_of
    from tidegate.publisher import Publisher

    stream = sys.stdin.buffer if path is None or str(path) == "-" else path.open("rb")
    count = 0
    frames: dict[str, int] = {}
    with stream:
        async with Publisher(
            settings.nats_url,
            source=source,
            codec=codec,
            credentials_file=settings.nats.credentials_file,
            inbox_prefix=settings.nats.inbox_prefix,
        ) as publisher:
            if codec == "text":
                lines_of_file = (line for one in stream if (line := one.rstrip(b"\r\n")) and not line.isspace())
                cut = frames_of(lines_of_file)
                while batch := await asyncio.to_thread(lambda: list(islice(cut, _FRAMES_AT_A_TIME))):
                    receipts = await asyncio.gather(*(publisher.publish_together(records) for records, _ in batch))
                    for receipt, (records, repeated) in zip(receipts, batch, strict=True):
                        frames[str(receipt)] = len(records)
                        count += len(records) - repeated
            while lines := await asyncio.to_thread(stream.readlines, 4 * 1024 * 1024):
                events = [line for line in (one.rstrip(b"\r\n") for one in lines) if line and not line.isspace()]
                for receipt in await publisher.publish_many(events):
                    frames[str(receipt)] = frames.get(str(receipt), 0) + 1
                count += len(events)
    print(f"{count} events stored in {len(frames)} frames{f', the last at {list(frames)[-1]}' if frames else ''}")
    return 0


async def tail(
    subject: str = "log.event.*", /, *, count: int | None = None, json: Json = False, settings: Given
) -> int:
    """Show live events readably, until Ctrl-C.

    Parameters
    ----------
    subject
        `log.event.*` for normalised events, `ingest.suricata.*` or `ingest.>` for raw ones, `log.dead.*`, `log.>`.
    count
        Stop after so many records.
    json
        Print each record as it is.
    """
    from nats.aio.msg import Msg

    from tidegate import frame
    from tidegate.bus import connect
    from tidegate.cli.show import one_line
    from tidegate.errors import FrameError

    queue: asyncio.Queue[Msg] = asyncio.Queue(1000)
    shown = 0
    async with connect(settings.nats_url, credentials_file=settings.nats.credentials_file) as bus:
        await bus.subscribe(subject, queue.put)
        print(f"listening on {subject}; Ctrl-C ends", file=sys.stderr, flush=True)
        while count is None or shown < count:
            message = await queue.get()
            headers = message.headers or {}
            try:
                _, records = frame.open_frame(
                    message.data,
                    headers.get(frame.CONTENT_TYPE, ""),
                    headers.get(frame.CONTENT_ENCODING, ""),
                    settings.ingest.max_inflated_bytes,
                )
            except FrameError as error:
                print(f"{message.subject}  unreadable frame of {len(message.data)} bytes: {error}", flush=True)
                continue
            for record in records[: None if count is None else count - shown]:
                text = record.decode(errors="replace") if json else one_line(message.subject, record)
                print(text, flush=True)
                shown += 1
    return 0


dead = App(name="dead", help="Inputs that could not become events: list, show, redrive.")


@dead.command(name="list")
async def dead_list(
    *,
    source: str | None = None,
    stage: str | None = None,
    rule: str | None = None,
    limit: int = 50,
    json: Json = False,
    settings: Given,
) -> int:
    """List dead letters, newest last, with the reason of each.

    Parameters
    ----------
    source
        Only those of this source.
    stage
        Only those of this stage: frame, parse, normalise, validate or subscription.
    rule
        Only those of this rule.
    limit
        At most so many of the newest.
    json
        Print one JSON object a line.
    """
    import msgspec

    from tidegate.app import opened_log
    from tidegate.deadletters import DeadLetters

    async with opened_log(settings) as (bus, log):
        found, total = await DeadLetters(bus, log).find(source=source, stage=stage, rule=rule, limit=limit)
    if json:
        for one in found:
            print(msgspec.json.encode(one).decode())
        return 0
    if not found:
        print("no dead letters")
        return 0
    for one in found:
        letter = one.letter
        mark = f"  redriven x{one.redrives}" if one.redrives else ""
        print(f"{letter.id}  {letter.source:<15} {letter.stage}/{letter.rule}  {letter.error[:90]}{mark}")
    print(
        f"{len(found)} of {total}; `tidegate dead show ID` shows one whole, `tidegate dead redrive ID` tries it again"
    )
    return 0


@dead.command(name="show")
async def dead_show(letter_id: str, /, *, raw: bool = False, settings: Given) -> int:
    """Show one dead letter whole.

    Parameters
    ----------
    letter_id
        Its id, or a unique beginning of it.
    raw
        Print only the original bytes.
    """
    from tidegate.app import opened_log
    from tidegate.deadletters import DeadLetters

    async with opened_log(settings) as (bus, log):
        one = await DeadLetters(bus, log).get(letter_id)
    letter = one.letter
    if raw:
        sys.stdout.buffer.write(letter.original)
        return 0
    for name in ("id", "source", "stage", "rule", "error", "attempts", "origin", "came_from", "trace", "content_type"):
        print(f"{name:<13} {getattr(letter, name)}")
    print(f"{'redrives':<13} {one.redrives}")
    print(f"{'original':<13} {len(letter.original)} bytes")
    print(letter.original[:4000].decode(errors="backslashreplace"))
    return 0


@dead.command(name="redrive")
async def dead_redrive(
    *letter_ids: str, every: Annotated[bool, Parameter(name="--all", negative="")] = False, settings: Given
) -> int:
    """Publish dead letters again, as they arrived, for another attempt.

    Parameters
    ----------
    letter_ids
        Which ones.
    every
        All that were not redriven yet.
    """
    from tidegate.app import opened_log
    from tidegate.deadletters import DeadLetters

    if not letter_ids and not every:
        raise QueryError("say which: ids, or --all")
    async with opened_log(settings) as (bus, log):
        count = await DeadLetters(bus, log).redrive(None if every else list(letter_ids))
    print(f"{count} redriven")
    return 0


async def trace(identity: str | None = None, /, *, settings: Given) -> int:
    """Print the tree of a trace, from the publisher to every read model; without an id, list the newest.

    Parameters
    ----------
    identity
        A trace id (or its first 6 digits or more), or the id of an event.
    """
    from rich.console import Console

    from tidegate.traces import load_trace, recent, render_tree

    console = Console()
    path = settings.spans_path
    if path is None:
        raise QueryError("no spans are kept here: telemetry.local_spans is off")
    if identity is None:
        for span in recent(path, 20):
            milliseconds = (span.end_ns - span.start_ns) / 1e6
            console.print(
                f"{span.trace_id}  {span.service:<24} {span.name:<16} {milliseconds:8.1f} ms", highlight=False
            )
        return 0
    if len(identity) == 36 and identity.count("-") == 4:
        identity = await _trace_of_event(identity, settings)
    console.print(render_tree(load_trace(path, identity), identity))
    return 0


async def _trace_of_event(event_id: str, settings: Settings) -> str:
    from tidegate import frame, subject
    from tidegate.app import opened_log, serving_models
    from tidegate.errors import TidegateError

    async with opened_log(settings) as (bus, log):
        models: dict[str, Any] = dict(await serving_models(settings, log, ["warm"]))
        warm = models["warm"]
        try:
            await warm.open()
            sequence = await warm.sequence_of(event_id)
        finally:
            await warm.aclose()
        if sequence is None:
            raise QueryError(f"there is no event {event_id} in the warm read model")
        message = await bus.message_at(subject.LOG, sequence)
    if message is None or not (parent := message.headers.get(frame.TRACEPARENT, "")):
        raise TidegateError(f"the log frame {sequence} of event {event_id} carries no trace")
    return parent.split("-")[1]
