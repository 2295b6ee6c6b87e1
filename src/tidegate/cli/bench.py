"""The command `tidegate bench`: measures one part after the other, each with its limit beside it.

Invariant: what was started for a benchmark is gone before the next one starts, and when the command ends.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import anyio
import msgspec
from cyclopts import Parameter

from tidegate.bench.report import Report, Skipped
from tidegate.config import Settings

__all__ = ["bench"]

Name = Literal[
    "ingest",
    "rest",
    "pipeline",
    "stages",
    "log",
    "hot",
    "warm",
    "cold",
    "lake",
    "entities",
    "recovery",
    "grpc",
    "rebuild-hot",
    "rebuild-warm",
    "rebuild-lake",
    "websocket",
    "query",
    "kafka-in",
    "kafka-out",
]
NAMES: tuple[Name, ...] = get_args(Name)


async def bench(
    what: Name | Literal["rebuild", "kafka", "all"],
    /,
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    events: Annotated[int | None, Parameter(validator=lambda kind, value: _above(value, 99))] = None,
    seconds: Annotated[float, Parameter(validator=lambda kind, value: _above(value, 0))] = 5.0,
    external: Annotated[bool, Parameter(negative="")] = False,
    settings: Annotated[Settings, Parameter(parse=False)],
) -> int:
    """Measure a part on real servers, which are started for it in a temporary folder.

    Parameters
    ----------
    what
        Which part; `rebuild` is all rebuilds, `kafka` both ways of the bridge.
    json
        Print one JSON object for each benchmark, on a line of its own.
    events
        Events of one run; each benchmark has its own default.
    seconds
        Go on with further runs until so many seconds have passed. There are at least three.
    external
        Use the servers of the settings. Streams INGEST and LOG there have to be empty, and are deleted. What is not
        there for a benchmark of several is said in its place, under `skipped`.
    """
    from tidegate.app import collect_rarely

    code = 0
    collect_rarely()  # as the processes that are measured here do

    async def end_on_signal(scope: anyio.CancelScope) -> None:
        nonlocal code
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                code = 128 + number
                scope.cancel()
                return

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(end_on_signal, scope)
            for name in _named(what, external):
                # What was named has to be there, or else the error says what is missing.
                report = (await _skipped(name, settings) if external and name != what else None) or await _run(
                    name, settings, events, seconds, external
                )
                if json:
                    print(msgspec.json.encode(report).decode(), flush=True)
                elif isinstance(report, Skipped):
                    print(f"bench {report.bench}: skipped, {report.skipped}")
                else:
                    _show(report)
        group.cancel_scope.cancel()
    return code


def _named(what: Name | Literal["rebuild", "kafka", "all"], external: bool) -> Sequence[Name]:
    if what == "all":
        from tidegate.bench.broker import at_hand

        return [one for one in NAMES if at_hand() or external or not one.startswith("kafka-")]
    return [what] if what in NAMES else [one for one in NAMES if one.startswith(f"{what}-")]


async def _skipped(name: Name, settings: Settings) -> Skipped | None:
    """Why a benchmark cannot be run on what is there."""
    if name.startswith("kafka-") and not settings.kafka.brokers:
        return Skipped(bench=name, skipped="kafka.brokers (KAFKA_BROKERS) is not set")
    if name == "rest":
        from tidegate.local.processes import address
        from tidegate.local.servers import answers_http

        url = address("event-streaming", settings)
        if not await answers_http(f"{url}/readyz"):
            return Skipped(bench=name, skipped=f"event-streaming is not ready at {url}: tidegate run event-streaming")
    return None


def _above(value: float | None, bound: float) -> None:
    if value is not None and value <= bound:
        raise ValueError(f"Must be above {bound:g}.")


async def _run(name: Name, settings: Settings, events: int | None, seconds: float, external: bool) -> Report:
    # Each is imported only when it is to run: the drivers of the read models take a second.
    given: dict[str, Any] = {"seconds": seconds} if events is None else {"seconds": seconds, "events": events}
    match name:
        case "ingest":
            from tidegate.bench import ingest

            return await ingest.run(settings, external=external, **given)
        case "rest":
            from tidegate.bench import rest

            return await rest.run(settings, external=external, **given)
        case "pipeline":
            from tidegate.bench import pipeline

            return await pipeline.run(settings, **given)
        case "stages":
            from tidegate.bench import stages

            return await stages.run(settings, **given)
        case "log":
            from tidegate.bench import intake

            return await intake.run(settings, external=external, **given)
        case "entities":
            from tidegate.bench import entities

            return await entities.run(settings, external=external, **given)
        case "recovery":
            from tidegate.bench import entities

            return await entities.recovery(settings, external=external, **given)
        case "grpc":
            from tidegate.bench import over_grpc

            return await over_grpc.run(settings, external=external, **given)
        case "websocket":
            from tidegate.bench import websocket

            return await websocket.run(settings, external=external, **given)
        case "query":
            from tidegate.bench import query

            return await query.run(settings, external=external, **given)
        case "kafka-in" | "kafka-out":
            from tidegate.bench import kafka

            run = kafka.inward if name == "kafka-in" else kafka.outward
            return await run(settings, external=external, **given)
        case _:
            from tidegate.bench import tiers

            tier = name.removeprefix("rebuild-")
            return await tiers.run(tier, settings, external=external, rebuilding=tier != name, **given)


def _show(one: Report) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"bench {one.bench}", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    mark = "[green]met[/green]" if one.met else "[red]not met[/red]"
    table.add_row("measured", f"{one.events_per_second:,}", f"events/s, median of {len(one.runs)} runs")
    table.add_row("limit", f"{one.limit_events_per_second:,}", f"events/s: {one.limit}")
    table.add_row("ratio", f"{one.ratio:.2f}", "measured / limit")
    table.add_row("bar", f"{one.bar:,}", f"events/s: {mark}")
    table.add_row("p50", f"{one.p50_ms:,.2f} ms", one.latency)
    table.add_row("p99", f"{one.p99_ms:,.2f} ms", "")
    table.add_row("fsync", "", one.fsync)
    table.add_row("events", f"{one.events:,}", f"a run, {one.bytes_per_event} bytes each; {one.note}")
    table.add_row("took", f"{one.seconds:.1f} s", f"load average {one.load}; data in {one.place}")
    Console().print(table)
