"""The cold archive on a real S3 server: objects, their fence, their index, and what can be found in them."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aioboto3
import msgspec
import pytest
import zstandard

from tests.conftest import free_ports
from tests.tiers import frames
from tests.tiers.contract import Make, ReadModelContract, opened, take, tally_of
from tests.tiers.proxy import Proxy
from tidegate.config import S3, Settings
from tidegate.errors import FencedError, TierUnavailableError
from tidegate.head import decode_heads, seen_in
from tidegate.projection import Position, Recorded
from tidegate.tiers import cold_index, cold_objects
from tidegate.tiers.cold import ColdTier

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000


class TestColdContract(ReadModelContract):
    server_name = "s3"

    @pytest.fixture
    def make(self) -> Make:
        bucket = f"cold-{uuid.uuid4().hex[:12]}"
        return lambda settings: ColdTier(settings.s3_endpoint, msgspec.structs.replace(settings.s3, bucket=bucket))


@pytest.fixture
def s3(s3_server: Settings) -> S3:
    return msgspec.structs.replace(s3_server.s3, bucket=f"cold-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def tier(s3_server: Settings, s3: S3) -> ColdTier:
    return ColdTier(s3_server.s3_endpoint, s3)


def client(settings: Settings) -> Any:
    session = aioboto3.Session(
        aws_access_key_id=settings.s3.access_key,
        aws_secret_access_key=settings.s3.secret_key,
        region_name=settings.s3.region,
    )
    return session.client("s3", endpoint_url=settings.s3_endpoint)


def _zstdcat(path: Path) -> bytes:
    return subprocess.run(["zstdcat", path], capture_output=True, check=True).stdout


async def objects_of(settings: Settings, bucket: str) -> dict[str, bytes]:
    async with client(settings) as raw:
        listed = await raw.list_objects_v2(Bucket=bucket)
        found = {}
        for one in listed.get("Contents", []):
            answer = await raw.get_object(Bucket=bucket, Key=one["Key"])
            found[one["Key"]] = await answer["Body"].read()
    return found


async def fill(tier: ColdTier, log: Sequence[Recorded], frames_per_object: int, cell: str = "0") -> Position | None:
    position = None
    for start in range(0, len(log), frames_per_object):
        position = await take(tier, cell, log[start : start + frames_per_object], position)
    return position


async def test_an_object_holds_the_payloads_unchanged_and_zstd_tools_show_ndjson(
    tier: ColdTier, s3_server: Settings, s3: S3, tmp_path: Path
) -> None:
    log = frames.log(6, 50)
    async with opened(tier):
        await fill(tier, log, 3)
    stored = await objects_of(s3_server, s3.bucket)
    assert list(stored) == [
        "events/gen=1/shard=0/00000000000000000000.ndjson.zst",
        f"events/gen=1/shard=0/{log[2].sequence:020d}.ndjson.zst",
    ]
    for content, batch in zip(stored.values(), (log[:3], log[3:]), strict=True):
        payloads = b"".join(one.payload for one in batch)
        plain = b"".join(line + b"\n" for one in batch for line in one.lines())
        assert content.startswith(payloads)
        with zstandard.ZstdDecompressor().stream_reader(content, read_across_frames=True) as reader:
            assert reader.read() == plain
        if shutil.which("zstdcat"):
            path = tmp_path / "object.ndjson.zst"
            path.write_bytes(content)
            assert await asyncio.to_thread(_zstdcat, path) == plain


async def test_of_twenty_writers_with_different_batches_one_has_the_successor(s3_server: Settings, s3: S3) -> None:
    log = frames.log(40, 4)
    tiers = [ColdTier(s3_server.s3_endpoint, s3) for _ in range(5)]
    try:
        for one in tiers:
            await one.open()
        position: Position | None = None
        done = 0
        for _ in range(2):
            results = await asyncio.gather(
                *(take(tiers[n % 5], "0", log[done : done + n], position) for n in range(1, 21)),
                return_exceptions=True,
            )
            won = [one for one in results if isinstance(one, Position)]
            assert len(won) == 1
            assert sum(isinstance(one, FencedError) for one in results) == 19
            position = won[0]
            done = next(n for n, one in enumerate(log, 1) if one.sequence == position.sequence)
        assert await tiers[0].tally() == tally_of(log[:done])
        assert [one.after for one in [_ async for _ in tiers[1].objects("0")]][-1] == 0
    finally:
        for one in tiers:
            await one.aclose()


async def test_a_zombie_with_an_old_position_and_another_batch_adds_nothing(s3_server: Settings, s3: S3) -> None:
    log = frames.log(6, 10)
    async with opened(ColdTier(s3_server.s3_endpoint, s3)) as old, opened(ColdTier(s3_server.s3_endpoint, s3)) as new:
        first = await take(old, "0", log[:2], None)
        await take(new, "0", log[2:4], first)
        for zombie_batch in (log[2:3], log[2:4], log[2:6]):
            with pytest.raises(FencedError):
                await take(old, "0", zombie_batch, first)
        assert await new.tally() == tally_of(log[:4])


@pytest.mark.parametrize("cut", ["before the answer", "before the request"])
async def test_a_lost_answer_to_a_put_is_told_apart_from_a_lost_request(s3_server: Settings, s3: S3, cut: str) -> None:
    log = frames.log(3, 20)
    (port,) = free_ports(1)
    through = ColdTier(f"http://127.0.0.1:{port}", s3, timeout_seconds=2)
    async with Proxy(port, s3_server.local.s3_port) as proxy, opened(through) as tier:
        first = await take(tier, "0", log[:1], None)
        if cut == "before the answer":
            proxy.lose_answer_to(b"PUT ")
            second = await take(tier, "0", log[1:2], first)
            assert proxy.lost == 1
        else:
            proxy.refuse(b"PUT ")
            with pytest.raises(TierUnavailableError):
                await take(tier, "0", log[1:2], first)
            assert await tier.position("0") == first
            proxy.pass_all()
            second = await take(tier, "0", log[1:2], first)
        assert await tier.position("0") == second
        assert await tier.tally() == tally_of(log[:2])


async def test_a_range_gives_back_the_frames_as_they_were(tier: ColdTier) -> None:
    log = frames.log(20, 10)
    async with opened(tier):
        await fill(tier, log, 3)
        for first, last in ((1, 10**9), (log[4].sequence, log[4].sequence), (log[2].sequence, log[15].sequence + 1)):
            got = [one async for one in tier.get_range("0", first, last)]
            assert got == [one for one in log if first <= one.sequence <= last]
        assert [one async for one in tier.get_range("0", log[-1].sequence + 1, 10**9)] == []
        assert [one async for one in tier.get_range("7", 1, 10**9)] == []


async def test_objects_are_listed_latest_first_through_their_indexes(tier: ColdTier) -> None:
    log = frames.log(300, 1)
    async with opened(tier):
        await fill(tier, log, 1)
        listed = [one async for one in tier.objects("0")]
        assert [one.last for one in listed] == [one.sequence for one in reversed(log)]
        assert [one.after for one in listed] == [*(one.sequence for one in reversed(log[:-1])), 0]
        assert await tier.shards() == ["0"]


async def test_the_newest_object_is_found_among_thousands_by_few_requests(
    s3_server: Settings, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold_objects, "_PAGE", 3)
    pick = random.Random(5)
    names = [0, *itertools.accumulate(pick.choice([1, 2, 5, 1000]) for _ in range(300))]
    objects = cold_objects.ColdObjects(s3_server.s3_endpoint, s3, 1, 10.0)
    await objects.open()
    try:
        async with client(s3_server) as raw:
            for name in names:
                await raw.put_object(Bucket=s3.bucket, Key=objects.key("0", name), Body=b"")
        bounds = [10**19, 0, 1, *names[1:300:17], *(name - 1 for name in names[1:300:13])]
        for bound, hint in itertools.product(bounds, (-1, 1, names[250], 10**12)):
            expected = max(name for name in names if name <= bound)
            if hint <= expected or hint > names[-1]:
                assert await objects.floor("0", bound, hint) == expected
        assert await objects.floor("1", 10**19) is None
    finally:
        await objects.aclose()


async def test_events_are_found_by_id_correlation_and_observable(s3_server: Settings, s3: S3) -> None:
    logs = [frames.log(12, 60, shard=shard, seed=shard + 1) for shard in range(2)]
    async with opened(ColdTier(s3_server.s3_endpoint, s3)) as tier:
        assert isinstance(tier, ColdTier)
        for shard, log in enumerate(logs):
            await fill(tier, log, 3, str(shard))
        lines = [line for log in logs for one in log for line in one.lines()]
        heads = decode_heads(lines)
        every = list(zip(heads, lines, strict=True))

        found = await tier.get(frames.event_id(100, 2))
        assert [decode_heads([one])[0].metadata.uid for one in found.events] == [frames.event_id(100, 2)]
        assert (await tier.get("nowhere")).events == []
        assert (await tier.get("nowhere")).frames_read == 0

        wanted = heads[700].metadata.correlation_uid
        found = await tier.by_correlation(wanted)
        assert sorted(found.events) == sorted(line for head, line in every if head.metadata.correlation_uid == wanted)
        assert found.complete

        found = await tier.by_observable("ALICE", 10_000)
        with_alice = [(head, line) for head, line in every if "alice" in seen_in(head)]
        assert sorted(found.events) == sorted(line for _, line in with_alice)
        assert found.objects_scanned == 8
        times = [head.time for head in decode_heads(found.events)]
        assert times == sorted(times, reverse=True)

        since, until = heads[200].time, heads[300].time
        found = await tier.by_observable("alice", 10_000, since_ms=since, until_ms=until)
        assert sorted(found.events) == sorted(line for head, line in with_alice if since <= head.time < until)
        assert found.objects_scanned == 2

        found = await tier.by_observable("alice", 3)
        assert len(found.events) == 3
        assert not found.complete
        found = await tier.by_observable("alice", 10_000, max_objects=2)
        assert (found.objects_scanned, found.complete) == (2, False)


async def test_a_search_stops_at_objects_logged_well_before_its_range(tier: ColdTier) -> None:
    log = frames.log(40, 2)
    spread = [
        msgspec.structs.replace(one, time_ms=frames.START_MS + n * 6 * HOUR_MS)  # ten days of log
        for n, one in enumerate(log)
    ]
    async with opened(tier):
        await fill(tier, spread, 1)
        found = await tier.by_observable("alice", since_ms=frames.START_MS + 9 * 24 * HOUR_MS)
        assert found.complete
        assert found.objects_scanned == 0


def test_the_index_knows_all_that_is_seen_in_events() -> None:
    heads = decode_heads([*(line for one in frames.log(2, 100) for line in one.lines()), *frames.odd_lines()])
    ids = {one for head in heads for one in (head.metadata.uid, head.metadata.correlation_uid)}
    assert cold_index.keys_of(heads) == ids.union(*map(seen_in, heads))


async def test_odd_event_times_are_searched_as_they_are(tier: ColdTier) -> None:
    times = [-(10**13), 0, 253_402_300_799_000, 2**63, 10**30, "yesterday"]
    lines = [
        frames.encode({**event, "time": time}) for event, time in zip(frames.events(len(times)), times, strict=True)
    ]
    async with opened(tier):
        await take(tier, "0", [frames.recorded(1, lines)], None)
        for index in range(len(lines)):
            assert (await tier.get(frames.event_id(index))).events == [lines[index]]


async def test_a_damaged_object_is_named(tier: ColdTier, s3_server: Settings, s3: S3) -> None:
    log = frames.log(3, 20)
    async with opened(tier):
        await fill(tier, log, 1)
        key = f"events/gen=1/shard=0/{log[0].sequence:020d}.ndjson.zst"
        async with client(s3_server) as raw:
            await raw.put_object(Bucket=s3.bucket, Key=key, Body=b"(" * 1000)
        with pytest.raises(TierUnavailableError, match=key):
            await tier.tally()
        with pytest.raises(TierUnavailableError, match=key):
            async for _ in tier.get_range("0", 1, 10**9):
                pass


async def test_racing_openers_make_one_bucket(s3_server: Settings, s3: S3) -> None:
    tiers = [ColdTier(s3_server.s3_endpoint, s3) for _ in range(4)]
    try:
        await asyncio.gather(*(one.open() for one in tiers))
        assert await tiers[0].position("0") is None
    finally:
        for one in tiers:
            await one.aclose()


async def test_refused_credentials_make_the_tier_unavailable(s3_server: Settings, s3: S3) -> None:
    tier = ColdTier(s3_server.s3_endpoint, msgspec.structs.replace(s3, secret_key="wrong"))
    try:
        with pytest.raises(TierUnavailableError):
            await tier.open()
    finally:
        await tier.aclose()
