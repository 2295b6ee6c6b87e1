"""The lake on a real Iceberg catalog and S3: its commits, their fence, and SQL that can only read."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import LongType, NestedField, StringType

from tests.conftest import free_ports
from tests.tiers import frames
from tests.tiers.contract import Make, ReadModelContract, opened, take, tally_of
from tests.tiers.proxy import Proxy
from tidegate.config import Settings
from tidegate.errors import FencedError, PositionError, QueryError, TierUnavailableError
from tidegate.head import decode_heads, seen_in
from tidegate.projection import Position
from tidegate.tiers import lake, lake_rows, lake_sql
from tidegate.tiers.lake import LakeTier

pytestmark = pytest.mark.anyio
DAY_MS = 86_400_000


def lake_on(settings: Settings, namespace: str, *, sigv4: bool = True, **changes: Any) -> LakeTier:
    return LakeTier(
        changes.pop("uri", settings.catalog_uri),
        changes.pop("endpoint", settings.s3_endpoint),
        catalog=msgspec.structs.replace(settings.catalog, namespace=namespace, sigv4=sigv4),
        s3=settings.s3,
        settings=settings.lake,
        **changes,
    )


@pytest.fixture
def namespace() -> str:
    return f"lake_{uuid.uuid4().hex[:12]}"


class TestLakeContract(ReadModelContract):
    server_name = "s3"

    @pytest.fixture
    def make(self, namespace: str) -> Make:
        return lambda settings: lake_on(settings, namespace)


@pytest.fixture
def tier(s3_server: Settings, namespace: str) -> LakeTier:
    return lake_on(s3_server, namespace)


def catalog_of(settings: Settings) -> RestCatalog:
    signing = {"rest.sigv4-enabled": "true", "rest.signing-name": "s3tables", "rest.signing-region": settings.s3.region}
    keys = {
        f"{kind}.{name}": value
        for kind in ("s3", "client")
        for name, value in (
            ("access-key-id", settings.s3.access_key),
            ("secret-access-key", settings.s3.secret_key),
            ("region", settings.s3.region),
        )
    }
    return RestCatalog(
        "test",
        **{"uri": settings.catalog_uri, "warehouse": settings.catalog.warehouse, "s3.endpoint": settings.s3_endpoint},
        **signing,
        **keys,
    )


def table_of(settings: Settings, namespace: str) -> Table:
    table: Table = catalog_of(settings).load_table((namespace, "events"))
    return table


def with_times(times: Sequence[Any], *, seed: int = 1) -> list[bytes]:
    events = frames.events(len(times), seed=seed)
    return [frames.encode({**event, "time": time}) for event, time in zip(events, times, strict=True)]


async def test_columns_hold_what_the_event_says(tier: LakeTier) -> None:
    event = {
        "metadata": {"version": "1.8.0", "uid": "id-1", "correlation_uid": "c-1", "log_source": "zeek"},
        "class_uid": 4001,
        "category_uid": 4,
        "activity_id": 6,
        "type_uid": 400106,
        "severity_id": 3,
        "time": 1_718_000_000_123,
        "src_endpoint": {"ip": "10.0.0.1", "port": 1234},
        "dst_endpoint": {"ip": "2001:db8::1", "port": 443},
        "actor": {"user": {"name": "Alice"}},
        "device": {"hostname": "WS-1"},
        "observables": [{"name": "file.path", "type_id": 7, "value": "C:\\X"}],
    }
    line = frames.encode(event)
    one = frames.recorded(17, [frames.encode(frames.events(1)[0]), line], shard=3)
    async with opened(tier):
        await take(tier, "all", [one], None)
        answer = await tier.query("SELECT * FROM events WHERE event_id = 'id-1'")
    row = dict(zip(answer.columns, answer.rows[0], strict=True))
    assert row.pop("crc") == frames.recorded(1, [line]).digest
    assert row == {
        "log_sequence": 17,
        "log_index": 1,
        "shard": 3,
        "time": datetime(2024, 6, 10, 6, 13, 20, 123000, tzinfo=UTC),
        "class_uid": 4001,
        "category_uid": 4,
        "activity_id": 6,
        "type_uid": 400106,
        "severity_id": 3,
        "event_id": "id-1",
        "correlation_id": "c-1",
        "source": "zeek",
        "src_ip": "10.0.0.1",
        "src_port": 1234,
        "dst_ip": "2001:db8::1",
        "dst_port": 443,
        "user_name": "Alice",
        "hostname": "WS-1",
        "event": line.decode(),
        "observables": ["10.0.0.1", "2001:db8::1", "alice", "c:\\x", "ws-1"],
    }


async def test_events_are_found_by_id_correlation_and_observable_newest_first(tier: LakeTier) -> None:
    logs = [frames.log(6, 60, seed=1), frames.log(6, 60, first_sequence=50, seed=2)]
    async with opened(tier):
        first = await take(tier, "all", logs[0], None)
        await take(tier, "all", logs[1], first)
        lines = [line for log in logs for one in log for line in one.lines()]
        every = list(zip(decode_heads(lines), lines, strict=True))

        assert await tier.get(frames.event_id(100, 2)) == lines[460]
        assert await tier.get("nowhere") is None

        wanted = every[200][0].correlation_id
        found = await tier.by_correlation(wanted)
        assert sorted(found) == sorted(line for head, line in every if head.correlation_id == wanted)

        with_alice = [(head, line) for head, line in every if "alice" in seen_in(head)]
        found = await tier.by_observable("ALICE", 10_000)
        assert sorted(found) == sorted(line for _, line in with_alice)
        times = [head.time for head in decode_heads(found)]
        assert times == sorted(times, reverse=True)
        assert await tier.by_observable("alice", 3) == found[:3]

        since, until = times[20], times[5]
        found = await tier.by_observable("alice", 10_000, since_ms=since, until_ms=until)
        assert sorted(found) == sorted(line for head, line in with_alice if since <= head.time < until)
        assert await tier.by_observable("' OR 1=1 --") == []


async def test_of_four_racing_writers_one_commits(s3_server: Settings, namespace: str) -> None:
    log = frames.log(12, 5)
    tiers = [lake_on(s3_server, namespace) for _ in range(4)]
    try:
        await asyncio.gather(*(one.open() for one in tiers))
        position: Position | None = None
        done = 0
        for _ in range(2):
            results = await asyncio.gather(
                *(take(one, "all", log[done : done + n], position) for n, one in enumerate(tiers, 1)),
                return_exceptions=True,
            )
            won = [one for one in results if isinstance(one, Position)]
            assert len(won) == 1, results
            assert sum(isinstance(one, FencedError) for one in results) == 3, results
            position = won[0]
            done = next(n for n, one in enumerate(log, 1) if one.sequence == position.sequence)
        assert await tiers[0].tally() == tally_of(log[:done])
    finally:
        for one in tiers:
            await one.aclose()


async def test_the_fence_holds_when_the_table_asks_for_retries(
    tier: LakeTier, s3_server: Settings, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = frames.log(4, 5)
    async with opened(tier), opened(lake_on(s3_server, namespace)) as other:
        first = await take(tier, "all", log[:1], None)
        with table_of(s3_server, namespace).transaction() as change:
            change.set_properties({"commit.retry.num-retries": "4"})
        overtake = asyncio.get_running_loop()
        write = lake_rows.write

        def slow_write(*arguments: Any) -> Any:
            # The position has been compared; now another writer is faster.
            monkeypatch.setattr(lake_rows, "write", write)
            asyncio.run_coroutine_threadsafe(take(other, "all", log[1:2], first), overtake).result()
            return write(*arguments)

        monkeypatch.setattr(lake_rows, "write", slow_write)
        with pytest.raises(FencedError):
            await take(tier, "all", log[1:3], first)
        assert await tier.tally() == tally_of(log[:2])


@pytest.mark.parametrize("cut", ["before the answer", "before the request"])
async def test_a_lost_answer_to_a_commit_is_told_apart_from_a_lost_request(
    s3_server: Settings, namespace: str, cut: str
) -> None:
    log = frames.log(3, 20)
    (port,) = free_ports(1)
    through = lake_on(s3_server, namespace, uri=f"http://127.0.0.1:{port}")
    async with Proxy(port, s3_server.local.catalog_port) as proxy, opened(through) as tier:
        first = await take(tier, "all", log[:1], None)
        if cut == "before the answer":
            proxy.lose_answer_to(b"POST ")
            second = await take(tier, "all", log[1:2], first)
            assert proxy.lost == 1
        else:
            proxy.refuse(b"POST ")
            with pytest.raises(TierUnavailableError):
                await take(tier, "all", log[1:2], first)
            proxy.pass_all()
            assert await tier.position("all") == first
            second = await take(tier, "all", log[1:2], first)
        assert await tier.position("all") == second
        assert await tier.tally() == tally_of(log[:2])


async def test_a_catalog_that_hangs_is_unavailable(s3_server: Settings, namespace: str) -> None:
    def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(ignore, "127.0.0.1", 0)
    tier = lake_on(
        s3_server, namespace, uri=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_seconds=0.5
    )
    try:
        with pytest.raises(TierUnavailableError):
            await tier.open()
    finally:
        await tier.aclose()
        server.close()
        for one in connections:
            one.close()


async def test_an_unsigned_request_is_refused_by_a_catalog_that_asks_for_signatures(
    s3_server: Settings, namespace: str
) -> None:
    tier = lake_on(s3_server, namespace, sigv4=False)
    with pytest.raises(TierUnavailableError):
        await tier.open()
    await tier.aclose()


async def test_a_snapshot_of_others_that_changes_no_rows_leaves_the_position(
    tier: LakeTier, s3_server: Settings, namespace: str
) -> None:
    log = frames.log(2, 10)
    async with opened(tier):
        first = await take(tier, "all", log[:1], None)
        with (
            table_of(s3_server, namespace).transaction() as change,
            change.update_snapshot(snapshot_properties={"by": "maintenance"}).fast_append(),
        ):
            pass
        assert await tier.position("all") == first
        await take(tier, "all", log[1:], first)
        assert await tier.tally() == tally_of(log)


async def test_rows_without_a_position_are_refused(tier: LakeTier, s3_server: Settings, namespace: str) -> None:
    async with opened(tier):
        with (
            table_of(s3_server, namespace).transaction() as change,
            change.update_snapshot().fast_append(),
        ):
            pass
        with pytest.raises(PositionError, match="events"):
            await tier.position("all")


async def test_another_table_of_that_name_is_named_and_left_alone(s3_server: Settings, namespace: str) -> None:
    catalog = catalog_of(s3_server)
    catalog.create_namespace(namespace)
    schema = Schema(NestedField(1, "log_sequence", LongType()), NestedField(2, "log_index", StringType()))
    catalog.create_table((namespace, "events"), schema)
    tier = lake_on(s3_server, namespace)
    with pytest.raises(TierUnavailableError, match=f"{namespace}.events .* log_index"):
        await tier.open()
    await tier.aclose()
    assert table_of(s3_server, namespace).schema().column_names == ["log_sequence", "log_index"]


async def test_odd_event_times_are_kept_in_the_json_and_brought_into_range_in_the_column(tier: LakeTier) -> None:
    odd = {
        -11_676_096_000_000: datetime(1600, 1, 1, tzinfo=UTC),
        -1: datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        253_402_300_799_999: datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        2**63: datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
        -(10**30): datetime(1, 1, 1, tzinfo=UTC),
    }
    lines = with_times([*odd, "yesterday", None])
    async with opened(tier):
        await take(tier, "all", [frames.recorded(1, lines)], None)
        rows = (await tier.query("SELECT time FROM events ORDER BY log_index")).rows
        assert [time for (time,) in rows] == [*odd.values(), *[datetime(1970, 1, 1, tzinfo=UTC)] * 2]
        for index, line in enumerate(lines):
            assert await tier.get(frames.event_id(index)) == line
        assert await tier.query("SELECT count(*) FROM events WHERE time < '1970-01-01'") == lake_sql.Answer(
            columns=["count_star()"], rows=[(3,)], truncated=False
        )


async def test_odd_numbers_become_the_nearest_that_fits(tier: LakeTier) -> None:
    events = frames.events(3)
    events[0] |= {"class_uid": 2**40, "severity_id": -(2**70), "type_uid": 10**30}
    events[1] |= {"class_uid": "dns", "src_endpoint": {"ip": "10.0.0.9", "port": 2**33}, "activity_id": [1]}
    async with opened(tier):
        await take(tier, "all", [frames.recorded(1, [frames.encode(event) for event in events])], None)
        answer = await tier.query("SELECT class_uid, severity_id, type_uid, src_port FROM events ORDER BY log_index")
    assert answer.rows[0][:3] == (2**31 - 1, -(2**31), 2**63 - 1)
    assert (answer.rows[1][0], answer.rows[1][3]) == (0, 2**31 - 1)


async def test_events_of_twenty_years_and_thirty_classes_make_a_bounded_number_of_files(
    tier: LakeTier, s3_server: Settings, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_rows, "MAX_PARTITIONS", 40)
    usual = [frames.START_MS + n for n in range(1000)]
    spread = [n * 20 * 365 * DAY_MS // 4000 for n in range(4000)]
    lines = with_times([*usual, *spread])
    lines = [
        msgspec.json.encode({**msgspec.json.decode(line), "class_uid": 4000 + index % 30})
        for index, line in enumerate(lines)
    ]
    log = [frames.recorded(1 + n, lines[n * 500 : n * 500 + 500]) for n in range(10)]
    async with opened(tier):
        first = await take(tier, "all", log[:5], None)
        second = await take(tier, "all", log[5:], first)
        assert await tier.position("all") == second
        assert await tier.tally() == tally_of(log)
        table = table_of(s3_server, namespace)
        assert [field.name for field in table.spec().fields] == ["time_day", "class_uid"]
        files = table.inspect.files()
        assert files.num_rows <= 2 * 41
        for where, expected in (
            ("time < '1990-01-01T00:00:00+00:00'", sum(n < 20 * 365.25 * DAY_MS for n in spread)),
            ("class_uid = 4007", sum(index % 30 == 7 for index in range(5000))),
            ("time >= '2025-06-01T00:00:00+00:00' and class_uid = 4007", sum(n % 30 == 7 for n in range(1000))),
        ):
            assert table.scan(row_filter=where).count() == expected
            assert (await tier.query(f"SELECT count(*) FROM events WHERE {where}")).rows == [(expected,)]


async def test_old_snapshots_are_forgotten_and_manifests_merged(
    tier: LakeTier, s3_server: Settings, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake, "_MAX_SNAPSHOTS", 20)
    monkeypatch.setattr(lake, "_KEPT_SNAPSHOTS", 5)
    log = frames.log(60, 2)
    position = None
    async with opened(tier):
        for one in log:
            position = await take(tier, "all", [one], position)
        table = table_of(s3_server, namespace)
        assert len(table.metadata.snapshots) <= 21
        head = table.current_snapshot()
        assert head is not None
        assert len(head.manifests(table.io)) < 55
        assert await tier.position("all") == position
        assert await tier.tally() == tally_of(log)


async def test_files_are_passed_over_by_what_their_manifest_says(
    tier: LakeTier, s3_server: Settings, namespace: str
) -> None:
    log = frames.log(2, 240)
    later = [frames.recorded(900, with_times([frames.START_MS + DAY_MS * 3 + n for n in range(240)], seed=9))]
    async with opened(tier):
        first = await take(tier, "all", log, None)
        await take(tier, "all", later, first)
    events = lake_sql.dataset(table_of(s3_server, namespace))

    def files(condition: ds.Expression) -> int:
        return len(list(events.get_fragments(filter=condition)))

    every = len(list(events.get_fragments()))
    assert every == 20  # two days, ten classes
    moment = pa.scalar(datetime.fromtimestamp(frames.START_MS / 1000 + 86_400, UTC), pa.timestamp("us", tz="UTC"))
    assert files(ds.field("class_uid") == 4001) == 2
    assert files(ds.field("time") > moment) == 10
    assert files((ds.field("time") > moment) & (ds.field("class_uid") == 4001)) == 1
    assert files(ds.field("log_sequence") == 900) == 10
    assert files(ds.field("event_id") == frames.event_id(7, 9)) < 20


async def test_only_columns_that_are_asked_for_are_read(s3_server: Settings, namespace: str) -> None:
    events = frames.events(3000)
    pick = random.Random(3)
    lines = [frames.encode({**event, "message": pick.randbytes(320).hex()}) for event in events]
    (port,) = free_ports(1)
    async with Proxy(port, s3_server.local.s3_port) as proxy:
        through = lake_on(s3_server, namespace, endpoint=f"http://127.0.0.1:{port}")
        async with opened(through) as tier:
            assert isinstance(tier, LakeTier)
            await take(tier, "all", [frames.recorded(1, lines)], None)
            read = []
            for sql in ("SELECT count(DISTINCT src_ip) FROM events", "SELECT sum(length(event)) FROM events"):
                before = proxy.answered_bytes
                await tier.query(sql)
                read.append(proxy.answered_bytes - before)
    assert read[0] < read[1] - 3000 * 320


async def test_without_s3_reading_is_unavailable_and_not_the_query_to_blame(
    s3_server: Settings, namespace: str
) -> None:
    (port,) = free_ports(1)
    through = lake_on(s3_server, namespace, endpoint=f"http://127.0.0.1:{port}", timeout_seconds=2)
    async with Proxy(port, s3_server.local.s3_port) as proxy, opened(through) as tier:
        assert isinstance(tier, LakeTier)
        await take(tier, "all", frames.log(1, 20), None)
        proxy.refuse(b"GET ")
        for read in (tier.query("SELECT event FROM events"), tier.get(frames.event_id(1)), tier.tally()):
            with pytest.raises(TierUnavailableError):
                await read
        proxy.pass_all()
        assert await tier.get(frames.event_id(1))


ALLOWED = [
    "SELECT count(*) FROM events",
    "WITH one AS (SELECT class_uid, count(*) AS n FROM events GROUP BY ALL) SELECT * FROM one ORDER BY n DESC",
    "FROM events LIMIT 3",
    "VALUES (1)",
    "DESCRIBE events",
    "SELECT event->>'$.metadata.uid' FROM events LIMIT 1;",
    "SELECT time_bucket(INTERVAL 1 hour, time) AS hour, count(*) FROM events GROUP BY hour",
    "SELECT unnest(observables) AS seen, count(*) FROM events GROUP BY seen ORDER BY 2 DESC LIMIT 5",
    "SELECT sum(crc), avg(severity_id), max(time), min(time)::DATE, list(log_index) FROM events",
]
REFUSED = [
    "",
    "SELECT 1; SELECT 2",
    "SELEC 1",
    "SELECT nothing FROM events",
    "SELECT event::INTEGER FROM events",
    "SELECT * FROM other",
    "SELECT * FROM lines",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_parquet('s3://lake/x.parquet')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM query('COPY events TO ''x.csv''')",
    "SELECT getenv('HOME')",
    "COPY events TO '/tmp/x.csv'",
    "COPY (SELECT 1) TO '/tmp/x.csv'",
    "ATTACH '/tmp/x.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "EXPORT DATABASE '/tmp/x'",
    "PRAGMA version",
    "CALL pragma_version()",
    "SET threads = 3",
    "RESET threads",
    "CREATE TABLE a AS SELECT 1",
    "CREATE MACRO a() AS 1",
    "CREATE SECRET x (TYPE s3)",
    "DROP VIEW events",
    "INSERT INTO events VALUES (1)",
    "UPDATE events SET crc = 0",
    "DELETE FROM events",
    "BEGIN",
    "CHECKPOINT",
    "PREPARE a AS SELECT 1",
    "EXECUTE a",
    "EXPLAIN ANALYZE SELECT 1",
    "VACUUM",
    "USE memory",
]


async def test_sql_reads_events_and_can_do_nothing_else(tier: LakeTier) -> None:
    async with opened(tier):
        await take(tier, "all", frames.log(2, 60), None)
        for sql in ALLOWED:
            answer = await tier.query(sql)
            assert answer.rows, sql
            assert all(len(row) == len(answer.columns) for row in answer.rows), sql
        for sql in REFUSED:
            try:
                await tier.query(sql)
            except QueryError:
                continue
            pytest.fail(f"allowed: {sql}")
        assert (await tier.query("SELECT sum(crc) FROM events")).rows[0][0] == (await tier.tally()).digest


async def test_sql_works_on_an_empty_table(tier: LakeTier) -> None:
    async with opened(tier):
        assert (await tier.query("SELECT count(*) FROM events WHERE time > '2020-01-01'")).rows == [(0,)]
        assert await tier.get("x") is None


async def test_an_answer_is_cut_at_the_rows_asked_for_and_says_so(tier: LakeTier) -> None:
    async with opened(tier):
        await take(tier, "all", frames.log(2, 60), None)
        answer = await tier.query("SELECT log_index FROM events", max_rows=50)
        assert (len(answer.rows), answer.truncated) == (50, True)
        answer = await tier.query("SELECT log_index FROM events", max_rows=120)
        assert (len(answer.rows), answer.truncated) == (120, False)
        # The rest of a huge answer is never made.
        answer = await tier.query("SELECT * FROM range(100_000_000_000)", max_rows=5, timeout_seconds=10)
        assert (answer.rows, answer.truncated) == ([(0,), (1,), (2,), (3,), (4,)], True)


async def test_a_query_that_takes_too_long_or_too_much_memory_is_ended(tier: LakeTier) -> None:
    async with opened(tier):
        await take(tier, "all", frames.log(2, 60), None)
        started = time.monotonic()
        with pytest.raises(QueryError, match=r"longer than 0\.5 s"):
            await tier.query("SELECT count(*) FROM range(1_000_000_000_000) WHERE hash(range) = 1", timeout_seconds=0.5)
        assert time.monotonic() - started < 5
        with pytest.raises(QueryError):
            await tier.query("SELECT list(range) FROM range(1_000_000_000)")
        task = asyncio.ensure_future(tier.query("SELECT count(*) FROM range(1_000_000_000_000) WHERE hash(range) = 1"))
        await asyncio.wait([task], timeout=0.5)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 5
