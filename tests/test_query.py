"""Queries over real read models: in Python, over HTTP, and from the command line."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.conftest import free_ports, local_settings, running
from tests.tiers import frames
from tidegate import streams, subject
from tidegate.auth import Gate
from tidegate.bus import connect
from tidegate.config import Auth, Nats, Redis, Settings
from tidegate.edges import rest_query
from tidegate.edges.http import application
from tidegate.errors import BusUnavailableError, PositionTimeoutError, QueryError, TierUnavailableError
from tidegate.head import decode_heads
from tidegate.history import cells_of
from tidegate.local.processes import environment
from tidegate.local.servers import server
from tidegate.log import Log, Progress, event_messages, recorded
from tidegate.projection import Position, ReadModel, Recorded
from tidegate.query import Queries, TierName, parse_after, parse_time
from tidegate.resources import folder
from tidegate.service import Service
from tidegate.service.publishing import Publishing
from tidegate.subject import load_declarations
from tidegate.tiers.cold import ColdTier
from tidegate.tiers.hot import HotTier
from tidegate.tiers.lake import LakeTier
from tidegate.tiers.warm import WarmTier

SHARDS = load_declarations(folder("subjects")).shards
EVENTS = frames.events(240)
LINES = [frames.encode(one) for one in EVENTS]
TIERS: tuple[TierName, ...] = ("hot", "warm", "cold", "lake")
CORRELATION = EVENTS[0]["metadata"]["correlation_uid"]
MINUTE_MS = 60_000


def models_of(settings: Settings) -> dict[str, ReadModel]:
    return {
        "hot": HotTier(settings.redis_url, settings.hot),
        "warm": WarmTier(settings.mongodb_uri, settings.mongodb.database, settings.warm, timeout_seconds=2),
        "cold": ColdTier(settings.s3_endpoint, settings.s3),
        "lake": LakeTier(
            settings.catalog_uri, settings.s3_endpoint, catalog=settings.catalog, s3=settings.s3, settings=settings.lake
        ),
    }


class World:
    """A log and four read models of it, as a test sees them."""

    def __init__(self, settings: Settings, log: Log, models: dict[str, ReadModel], created: str) -> None:
        self.settings = settings
        self.log = log
        self.models = models
        self.created = created
        self.queries = Queries(models, log, wait_seconds=0.5)

    async def append(self, lines: list[bytes], shard: int, *, partition: int = 3, consumed: int = 0) -> Recorded:
        """One frame into the log, as the intake of `partition` would, that has then come to `consumed`."""
        before, progress = await self.log.progress("intake", partition)
        at = max(consumed, progress.sequence if progress else 0)
        await self.log.append(
            "intake",
            partition,
            event_messages(shard, lines, "test"),
            Progress(stream=subject.INGEST, created="then", sequence=at),
            before,
        )
        newest = (await self.log.last_event_sequences())[shard]
        (frame,) = [recorded(one) async for one in self.log.read(subject.event(shard), newest)]
        return frame

    async def apply(self, name: str, batch: list[Recorded]) -> None:
        """What a projection does."""
        model = self.models[name]
        await model.open()
        for cell in cells_of(model, SHARDS):
            own = [one for one in batch if cell in ("all", str(one.shard))]
            if own:
                stored = await model.position(cell)
                before = stored or Position(stream=subject.LOG, created=self.created, sequence=0)
                await model.apply(cell, model.project(own), stored, before.after(own))

    async def catch_up(self, name: str) -> None:
        """Until the end of the log."""
        for cell, subjects in cells_of(self.models[name], SHARDS).items():
            stored = await self.models[name].position(cell)
            first = stored.sequence + 1 if stored else 1
            await self.apply(name, [recorded(one) async for one in self.log.read(subjects, first)])

    async def end(self) -> str:
        return f"LOG/{(await self.log.state()).last_sequence}"


async def opened(settings: Settings, stack: AsyncExitStack) -> World:
    bus = await stack.enter_async_context(connect(settings.nats_url))
    await streams.apply(bus, load_declarations(folder("subjects")))
    models = models_of(settings)
    for model in models.values():
        stack.push_async_callback(model.aclose)
    log = Log(bus, SHARDS)
    return World(settings, log, models, (await log.state()).created)


@pytest.fixture(scope="module")
def here(serve: Callable[[str], Settings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A log of its own and, on the shared servers, places of their own, with EVENTS in all of them."""
    for name in ("redis", "mongo", "s3"):
        shared = serve(name)
    name = f"query-{uuid.uuid4().hex[:8]}"
    own = local_settings(tmp_path_factory.mktemp("query"))
    settings = msgspec.structs.replace(
        shared,
        nats=Nats(url=own.nats_url),
        redis=Redis(url=shared.redis_url.replace("/0", "/7")),
        mongodb=msgspec.structs.replace(shared.mongodb, database=name),
        s3=msgspec.structs.replace(shared.s3, bucket=name),
        catalog=msgspec.structs.replace(shared.catalog, table=name.replace("-", "_")),
    )

    async def fill() -> None:
        async with AsyncExitStack() as stack:
            world = await opened(settings, stack)
            batch = [await world.append(LINES[60 * shard :][:60], shard) for shard in range(4)]
            for tier in TIERS:
                await world.apply(tier, batch)

    with running(server("nats", own)):
        asyncio.run(fill())
        yield settings


@pytest.fixture
async def world(here: Settings) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await opened(here, stack)


def service_of(world: World) -> Service:
    gate = Gate(Auth(mode="off"))
    publishing = Publishing(lambda: None, gate, 4, 1, 1)
    return Service(gate, publishing, bus=lambda: None, shards=SHARDS, kinds=(), queries=lambda: world.queries)


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    class Process:
        name = "storage-manager"

        def not_ready(self) -> str | None:
            return None

        async def sections(self) -> dict[str, list[dict[str, Any]]]:
            return {}

    # Not Litestar's own test client: it runs the application in another event loop than the connections here.
    app: Any = application(Process(), rest_query.routes(service_of(world)), Gate(Auth(mode="off")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as one:
        yield one


def fresh(count: int, seed: int) -> list[bytes]:
    return [frames.encode(one) for one in frames.events(count, seed=seed)]


def same(found: list[bytes], expected: list[bytes]) -> bool:
    """Whether these are the same events; warm writes JSON anew."""
    return sorted(found_of(found), key=str) == sorted(found_of(expected), key=str)


def found_of(lines: list[bytes]) -> list[Any]:
    return [json.loads(one) for one in lines]


def with_correlation(correlation: str) -> list[bytes]:
    return [line for line, one in zip(LINES, EVENTS, strict=True) if one["metadata"]["correlation_uid"] == correlation]


# -- times and positions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-06-15T15:06:40Z", 1_750_000_000_000),
        ("2025-06-15t17:06:40.1239+02:00", 1_750_000_000_124),
        ("2025-06-15 15:06:40.5Z", 1_750_000_000_500),
        ("1750000000000", 1_750_000_000_000),
        (" 90s ", 1_750_000_000_000 - 90_000),
        ("15m", 1_750_000_000_000 - 900_000),
        ("2h", 1_750_000_000_000 - 7_200_000),
        ("7d", 1_750_000_000_000 - 604_800_000),
    ],
)
def test_a_time_is_understood_in_each_of_its_forms(text: str, expected: int) -> None:
    assert parse_time(text, now_ms=1_750_000_000_000) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "is no time"),
        ("yesterday", "is no time"),
        ("2025-06-15", "is no time"),
        ("2025-06-15T15:06:40", "no time zone"),
        ("2025-13-15T15:06:40Z", "month must be in 1..12"),
        ("1750000000", "before 1973"),
        ("1750000000000000000", "too large"),
        ("3w", "'w' is no unit"),
        ("-5m", "is no time"),
        ("٣h", "is no time"),
    ],
)
def test_what_is_no_time_is_refused_with_the_reason(text: str, wrong: str) -> None:
    with pytest.raises(QueryError, match=wrong):
        parse_time(text)


def test_a_position_is_a_receipt_or_a_place_in_the_log() -> None:
    assert parse_after("INGEST/2/17") == (2, 17)
    assert parse_after("LOG/5") == (None, 5)
    for wrong in ("", "LOG", "LOG/x", "INGEST/5", "log/5", "INGEST/-1/5", "LOG/" + "9" * 30):
        with pytest.raises(QueryError, match="is no position"):
            parse_after(wrong)


# -- looking up -------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("tier", TIERS)
async def test_each_tier_finds_by_id_correlation_and_observable(world: World, tier: TierName) -> None:
    answer = await world.queries.get(frames.event_id(130), tier)
    assert (answer.tier, found_of(answer.events)) == (tier, [EVENTS[130]])
    assert (await world.queries.get("unknown", tier)).events == []

    answer = await world.queries.by_correlation(CORRELATION, tier=tier)
    assert len(answer.events) == 4
    assert same(answer.events, with_correlation(CORRELATION))
    assert len((await world.queries.by_correlation(CORRELATION, 3, tier)).events) == 3

    times = [head.time for head in decode_heads(LINES) if head.user_name == "alice"]
    answer = await world.queries.by_observable("ALICE", times[1], times[3], 100, tier)
    assert sorted(head.time for head in decode_heads(answer.events)) == times[1:3]


@pytest.mark.anyio
async def test_without_a_tier_the_quickest_that_has_the_event_answers(world: World) -> None:
    assert (await world.queries.get(frames.event_id(1))).tier == "hot"
    frame = await world.append(fresh(3, seed=21), 1)
    event_id = frames.event_id(2, 21)
    for tier in ("lake", "warm", "hot"):
        await world.apply(tier, [frame])
        assert (await world.queries.get(event_id)).tier == tier
    nothing = await world.queries.get("unknown")
    assert (nothing.tier, nothing.events) == ("lake", [])


@pytest.mark.anyio
async def test_a_tier_that_is_away_is_passed_over_and_named_when_no_other_has_the_event(world: World) -> None:
    (port,) = free_ports(1)
    async with AsyncExitStack() as stack:
        away = HotTier(f"redis://127.0.0.1:{port}/0", world.settings.hot)
        stack.push_async_callback(away.aclose)
        queries = Queries({**world.models, "hot": away}, world.log)
        assert (await queries.get(frames.event_id(1))).tier == "warm"
        for call in (queries.get("unknown"), queries.get(frames.event_id(1), "hot"), queries.counts(0, 1)):
            with pytest.raises(TierUnavailableError) as caught:
                await call
            assert caught.value.tier == "hot"
        said = await queries.positions()
        assert list(said["unavailable"]) == ["hot"]  # type: ignore[call-overload]


@pytest.mark.anyio
async def test_counts_add_up_to_the_events_of_their_minutes(world: World) -> None:
    start = frames.START_MS // MINUTE_MS * MINUTE_MS
    found = await world.queries.counts(start, start + MINUTE_MS)
    assert {one.minute_ms for one in found} == {start}
    assert sum(one.count for one in found if one.class_uid == 6003) >= 20
    assert await world.queries.counts(start + MINUTE_MS, start + 2 * MINUTE_MS) == []


@pytest.mark.anyio
async def test_the_archive_is_listed_and_read_by_time(world: World) -> None:
    objects = await world.queries.archive()
    assert sum(one.events for one in objects) >= 240
    since = EVENTS[100]["time"]
    within = await world.queries.archive(since, since + 1)
    assert [(one.shard, one.events) for one in within if one.last_ms == EVENTS[119]["time"]] == [("1", 60)]
    answer = await world.queries.between(since, EVENTS[130]["time"], 1000)
    assert set(answer.events) >= set(LINES[100:130])
    assert all(since <= head.time < EVENTS[130]["time"] for head in decode_heads(answer.events))
    assert answer.complete
    cut = await world.queries.between(since, EVENTS[130]["time"], 5)
    assert (len(cut.events), cut.complete) == (5, False)
    assert (await world.queries.between(0, 1)).events == []


@pytest.mark.anyio
async def test_sql_reads_the_lake_and_nothing_else(world: World, tmp_path: Path) -> None:
    found = await world.queries.sql("SELECT count(*) AS n FROM events WHERE class_uid = 6003 AND event_id < '00000002'")
    assert (found.columns, [list(row) for row in found.rows], found.truncated) == (["n"], [[20]], False)
    cut = await world.queries.sql("SELECT event_id FROM events", max_rows=7)
    assert (len(cut.rows), cut.truncated) == (7, True)
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    for wrong in (
        "DROP TABLE events",
        "DELETE FROM events",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT 1; SELECT 2",
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.db'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "",
    ):
        with pytest.raises(QueryError):
            await world.queries.sql(wrong)
    assert [one.name for one in tmp_path.iterdir()] == ["secret.csv"]
    with pytest.raises(QueryError):
        await world.queries.sql("SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b", 1, 0.3)


@pytest.mark.anyio
async def test_limits_and_ranges_that_make_no_sense_are_refused(world: World) -> None:
    queries = world.queries
    for call in (
        queries.by_correlation("x", 0),
        queries.by_observable("x", limit=10_001),
        queries.by_observable("x", 5, 5),
        queries.counts(2, 1),
        queries.archive(2, 1),
        queries.between(None, None, -1),
        queries.get("x", "tepid"),  # type: ignore[arg-type]
        Queries({"hot": world.models["hot"]}, None).get("x", "warm"),
    ):
        with pytest.raises(QueryError):
            await call
    with pytest.raises(BusUnavailableError):
        await Queries(world.models, None).get("x", after="LOG/1")


# -- waiting ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("tier", TIERS)
async def test_a_query_waits_until_its_tier_has_reached_the_position(world: World, tier: TierName) -> None:
    seed = 30 + TIERS.index(tier)
    frame = await world.append(fresh(5, seed), 2)
    patient = Queries(world.models, world.log, wait_seconds=20)
    await world.models[tier].open()
    waiting = asyncio.create_task(patient.get(frames.event_id(4, seed), tier, after=await world.end()))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await world.catch_up(tier)
    answer = await waiting
    assert found_of(answer.events) == found_of(frame.lines()[4:])


@pytest.mark.anyio
async def test_a_receipt_is_waited_for_until_the_intake_and_then_the_tier_have_it(world: World) -> None:
    patient = Queries(world.models, world.log, wait_seconds=20)
    _, progress = await world.log.progress("intake", 1)
    receipt = (progress.sequence if progress else 0) + 10
    event_id = frames.event_id(0, 41)
    waiting = asyncio.create_task(patient.get(event_id, "warm", after=f"INGEST/1/{receipt}"))
    with pytest.raises(PositionTimeoutError, match=f"INGEST/1/{receipt}: the intake of partition 1 is at"):
        await world.queries.get(event_id, "warm", after=f"INGEST/1/{receipt}")
    await world.append(fresh(1, 41), 0, partition=1, consumed=receipt)
    with pytest.raises(PositionTimeoutError, match="warm: cell all is at"):
        await world.queries.get(event_id, "warm", after=f"INGEST/1/{receipt}")
    assert not waiting.done()
    await world.catch_up("warm")
    assert len((await waiting).events) == 1


@pytest.mark.anyio
async def test_a_position_beyond_the_log_times_out_with_where_the_log_ends(world: World) -> None:
    end = (await world.log.state()).last_sequence
    with pytest.raises(PositionTimeoutError, match=f"LOG/{end + 1}: the log ends at {end}"):
        await world.queries.get("x", after=f"LOG/{end + 1}")


@pytest.mark.anyio
async def test_the_position_of_a_tier_built_from_another_log_does_not_count(world: World) -> None:
    other = HotTier(world.settings.redis_url, world.settings.hot, generation=2)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(other.aclose)
        for shard in range(SHARDS):
            batch = frames.log(1, 1, first_sequence=10**6, shard=shard)
            await other.apply(str(shard), other.project(batch), None, frames.start().after(batch))
        with pytest.raises(PositionTimeoutError, match="hot: cell 0 is at 0 of"):
            await Queries({"hot": other}, world.log, wait_seconds=0.1).get("x", after="LOG/2")


# -- HTTP -------------------------------------------------------------------------------------------------------


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem, after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].split(";")[0] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["type"]
    assert body["title"]
    return str(body["detail"])


@pytest.mark.anyio
async def test_an_event_is_served_as_the_tier_has_it_and_the_header_names_the_tier(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get(f"/v1/events/{frames.event_id(5)}")
    assert (answer.status_code, answer.content) == (200, LINES[5])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["tidegate-tier"] == "hot"
    answer = await client.get(f"/v1/events/{frames.event_id(5)}", params={"tier": "cold", "after": "LOG/1"})
    assert (answer.content, answer.headers["tidegate-tier"]) == (LINES[5], "cold")
    assert "'nothing'" in problem(await client.get("/v1/events/nothing"), 404)


@pytest.mark.anyio
async def test_events_are_served_by_one_selector(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/v1/events", params={"correlation_id": CORRELATION, "limit": 2})).json()
    assert (answer["tier"], answer["count"], len(answer["events"])) == ("hot", 2, 2)
    assert answer["events"][0]["metadata"]["correlation_uid"] == CORRELATION
    asked = {"observable": "alice", "since": "2025-06-15T15:06:40Z", "until": "2025-06-15T15:06:41Z", "tier": "lake"}
    answer = (await client.get("/v1/events", params=asked)).json()
    assert (answer["tier"], answer["complete"]) == ("lake", True)
    assert answer["count"] == len(answer["events"]) > 0
    empty = (await client.get("/v1/events", params={"observable": "nobody"})).json()
    assert (empty["count"], empty["events"]) == (0, [])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/v1/events", "exactly one of correlation_id and observable"),
        ("/v1/events?correlation_id=a&observable=b", "exactly one of"),
        ("/v1/events?correlation_id=a&since=1h", "go with observable"),
        ("/v1/events?observable=a&since=soon", "'soon' is no time"),
        ("/v1/events?observable=a&since=1h&until=2h", "since must be before until"),
        ("/v1/events?observable=a&limit=0", "limit must be"),
        ("/v1/events?observable=a&limit=many", "limit"),
        ("/v1/events?observable=a&tier=tepid", "tier"),
        ("/v1/events/x?after=here", "'here' is no position"),
        ("/v1/counts?since=5x", "'x' is no unit"),
    ],
)
async def test_a_question_that_makes_no_sense_is_a_400_with_the_reason(
    client: httpx.AsyncClient, path: str, says: str
) -> None:
    assert says in problem(await client.get(path), 400)


@pytest.mark.anyio
async def test_counts_and_positions_are_served(client: httpx.AsyncClient, world: World) -> None:
    asked = {"since": str(frames.START_MS - MINUTE_MS), "until": str(frames.START_MS + MINUTE_MS)}
    answer = (await client.get("/v1/counts", params=asked)).json()
    assert answer["tier"] == "hot"
    assert sum(one["count"] for one in answer["counts"]) >= 240
    assert (await client.get("/v1/counts")).json() == {"tier": "hot", "counts": []}
    said = (await client.get("/v1/positions")).json()
    assert said["log"]["last_sequence"] == (await world.log.state()).last_sequence
    assert {name: len(cells) for name, cells in said["tiers"].items()} == {"hot": 4, "warm": 1, "cold": 4, "lake": 1}
    assert said["tiers"]["warm"]["all"]["position"]["count"] >= 240
    assert said["unavailable"] == {}


@pytest.mark.anyio
async def test_sql_is_served_and_its_mistakes_are_400s(client: httpx.AsyncClient) -> None:
    statement = (
        "SELECT min(time) AS first, class_uid, 1.5::DECIMAL(4,2) AS d, 'NaN'::DOUBLE AS nan FROM events GROUP BY 2"
    )
    answer = await client.post("/v1/sql", json={"sql": statement, "max_rows": 2})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["columns"], len(found["rows"]), found["truncated"]) == (["first", "class_uid", "d", "nan"], 2, True)
    assert found["rows"][0][0].startswith("2025-06-15T15:06:")
    problem(await client.post("/v1/sql", json={"sql": "DROP TABLE events"}), 400)
    problem(await client.post("/v1/sql", json={"sql": "SELECT 1", "max_rows": 0}), 400)
    problem(await client.post("/v1/sql", json={"sql": "SELECT 1", "timeout_seconds": 1e9}), 400)
    problem(await client.post("/v1/sql", json={"sql": "SELECT 1", "maxrows": 5}), 400)
    problem(await client.post("/v1/sql", json={}), 400)
    problem(await client.post("/v1/sql", content=b"{"), 400)


@pytest.mark.anyio
async def test_an_absent_tier_is_a_503_and_a_missed_position_a_504(world: World, client: httpx.AsyncClient) -> None:
    end = (await world.log.state()).last_sequence
    detail = problem(await client.get("/v1/events/x", params={"after": f"LOG/{end + 9}"}), 504)
    assert f"the log ends at {end}" in detail
    (port,) = free_ports(1)
    world.queries = Queries({"hot": HotTier(f"redis://127.0.0.1:{port}/0", world.settings.hot)}, world.log)
    assert problem(await client.get("/v1/events/x"), 503).startswith("hot: ")
    assert "hot: " in problem(await client.get("/v1/counts"), 503)
    world.queries = None  # type: ignore[assignment]
    assert "NATS" in problem(await client.get("/v1/positions"), 503)


@pytest.mark.anyio
async def test_the_openapi_document_describes_the_routes(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/schema/openapi.json")).json()["paths"]
    assert {"/v1/events", "/v1/events/{event_id}", "/v1/counts", "/v1/sql", "/v1/positions"} <= set(paths)
    responses = paths["/v1/events/{event_id}"]["get"]["responses"]
    assert {"200", "400", "404", "503", "504"} <= set(responses)
    assert list(responses["404"]["content"]) == ["application/problem+json"]


# -- command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def tidegate(here: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tidegate", "query", *arguments],
            env=environment(here),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("tier", TIERS)
def test_query_prints_a_table_or_ndjson(tidegate: Call, tier: str) -> None:
    done = tidegate(tier, "--correlation", CORRELATION)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("network_activity") == 4
    assert "2025-06-15 15:06:40.000" in done.stdout
    done = tidegate(tier, "--observable", "alice", "--since", str(frames.START_MS), "--limit", "3", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(events)) == (0, 3)


def test_query_takes_a_position_to_wait_for(tidegate: Call) -> None:
    done = tidegate("hot", "--id", frames.event_id(7), "--after", "LOG/1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == EVENTS[7]


def test_query_exits_with_1_when_nothing_is_found(tidegate: Call) -> None:
    done = tidegate("warm", "--id", "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing found in warm for nothing" in done.stderr


def test_query_shows_counts_and_objects(tidegate: Call) -> None:
    done = tidegate("hot", "--counts", "--since", str(frames.START_MS - MINUTE_MS), "--until", "1m")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2025-06-15 15:06" in done.stdout
    assert "api_activity" in done.stdout
    done = tidegate("cold", "--objects", "--json")
    assert sum(json.loads(line)["events"] for line in done.stdout.splitlines()) >= 240
    done = tidegate("cold", "--since", str(EVENTS[60]["time"]), "--until", str(EVENTS[62]["time"]), "--json")
    assert set(done.stdout.encode().splitlines()) >= set(LINES[60:62])


def test_query_lake_answers_sql(tidegate: Call) -> None:
    done = tidegate("lake", "SELECT class_uid, count(*) AS n FROM events GROUP BY 1 ORDER BY 1", "--max-rows", "2")
    assert done.returncode == 0, done.stderr
    assert "class_uid" in done.stdout
    assert "these are the first 2" in done.stderr
    done = tidegate("lake", "SELECT class_uid FROM events WHERE class_uid = 0 LIMIT 1", "--json")
    assert json.loads(done.stdout) == {"class_uid": 0}
    done = tidegate("lake", "SELECT * FROM events", "--max-rows", "1")
    assert re.search(r"^ *log_sequence +\d+ *$", done.stdout, re.MULTILINE)
    done = tidegate("lake", "DROP TABLE events")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hot"], "nothing to look for"),
        (["hot", "--id", "a", "--counts"], "not --id and --counts together"),
        (["warm", "--id", "a", "--observable", "b"], "not --id and --observable together"),
        (["cold"], "nothing to look for"),
        (["lake", "SELECT 1", "--id", "a"], "not --id and SQL together"),
        (["warm", "--id", "a", "--since", "1h"], "--since and --until go with --observable"),
    ],
)
def test_a_wrong_call_is_explained_and_exits_with_2(tidegate: Call, arguments: list[str], says: str) -> None:
    done = tidegate(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_what_an_event_holds_cannot_act_upon_the_terminal(here: Settings, tidegate: Call) -> None:
    (event,) = frames.events(1, first=11, seed=77)
    event["message"] = "[red]a\x1b[2Jb\x9b31m\u202ec\nd"

    async def put() -> None:
        hot = HotTier(here.redis_url, here.hot)
        batch = [frames.recorded(10**9, [frames.encode(event)], shard=0)]
        await hot.apply("elsewhere", hot.project(batch), None, frames.start().after(batch))
        await hot.aclose()

    asyncio.run(put())
    done = tidegate("hot", "--correlation", event["metadata"]["correlation_uid"])
    assert "[red]a\ufffd[2Jb\ufffd31m\ufffdc\ufffdd" in done.stdout
