"""Hot against a real server: the contract, the lookups and the counts."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.tiers import frames
from tests.tiers.contract import Make, ReadModelContract, take
from tidegate.config import Hot, Settings
from tidegate.head import decode_heads, seen_in
from tidegate.tiers.hot import HotTier, MinuteCount

_generations = itertools.count(1)


class TestHotKeepsTheContract(ReadModelContract):
    server_name = "redis"

    @pytest.fixture
    def make(self) -> Make:
        generation = next(_generations)
        return lambda settings: HotTier(settings.redis_url, settings.hot, generation=generation, timeout_seconds=3)


@pytest.fixture
async def hot(redis_server: Settings) -> AsyncIterator[HotTier]:
    tier = HotTier(redis_server.redis_url, Hot(recent_per_key=20), generation=next(_generations))
    await tier.open()
    yield tier
    await tier.aclose()


@pytest.mark.anyio
async def test_every_event_is_found_by_its_id_byte_for_byte(hot: HotTier) -> None:
    log = frames.log(3, 70)
    await take(hot, "0", log, None)
    lines = [line for one in log for line in one.lines()]
    ids = [frames.event_id(index) for index in range(210)]
    assert [await hot.get(one) for one in ids] == lines
    assert await hot.get("unknown") is None
    assert await hot.present([*ids, "unknown"]) == 210
    assert (hot.by_id.lookups, hot.by_id.hits) == (211, 210)


@pytest.mark.anyio
async def test_odd_content_comes_back_byte_for_byte_and_a_repeated_id_gives_the_newest(hot: HotTier) -> None:
    lines = frames.odd_lines()
    await take(hot, "0", [frames.recorded(7, lines)], None)
    found = [await hot.get(frames.event_id(index, 99)) for index in range(len(lines) - 2)]
    assert found == [lines[-1], *lines[1:-2]]


@pytest.mark.anyio
async def test_an_event_whose_fields_have_unexpected_types_is_kept_and_found_by_the_others(hot: HotTier) -> None:
    event = {**frames.events(1)[0], "time": "now", "observables": 7, "severity_id": None}
    await take(hot, "0", [frames.recorded(7, [frames.encode(event), *frames.odd_lines()])], None)
    assert await hot.get(frames.event_id(0)) == frames.encode(event)
    assert await hot.by_observable(event["src_endpoint"]["ip"]) == [frames.encode(event)]


@pytest.mark.anyio
async def test_the_latest_events_of_a_correlation_are_listed_newest_first(hot: HotTier) -> None:
    log = frames.log(2, 96)
    await take(hot, "0", log, None)
    wanted = json.loads(log[0].lines()[3])["metadata"]["correlation_uid"]
    expected = [
        line for one in log for line in one.lines() if json.loads(line)["metadata"]["correlation_uid"] == wanted
    ]
    assert len(expected) == 4
    assert await hot.by_correlation(wanted) == expected[::-1]
    assert await hot.by_correlation(wanted, 2) == expected[:-3:-1]
    assert await hot.by_correlation(wanted, 0) == []
    assert await hot.by_correlation("unknown") == []
    assert (hot.by_key.lookups, hot.by_key.hits) == (4, 2)


@pytest.mark.anyio
async def test_an_observable_is_found_regardless_of_case_within_a_time_range_and_up_to_the_cap(hot: HotTier) -> None:
    log = frames.log(10, 300)
    lines = [line for one in log for line in one.lines()]
    position = await take(hot, "0", log[:6], None)
    await take(hot, "0", log[6:], position)
    expected = [
        (json.loads(line)["time"], line)
        for line, head in zip(lines, decode_heads(lines), strict=True)
        if "ws-0142.corp.example" in seen_in(head)
    ][: -(20 + 1) : -1]
    assert len(expected) == 20
    assert await hot.by_observable("WS-0142.CORP.example") == [line for _, line in expected]
    since, until = expected[9][0], expected[4][0]
    within = [line for time, line in expected if since <= time < until]
    assert await hot.by_observable("ws-0142.corp.example", since_ms=since, until_ms=until) == within
    assert await hot.by_observable("ws-0142.corp.example", 2, since_ms=since, until_ms=until) == within[:2]


@pytest.mark.anyio
async def test_events_are_counted_by_minute_class_and_severity(hot: HotTier) -> None:
    log = frames.log(40, 500)
    position = None
    for first in range(0, 40, 8):
        position = await take(hot, "0", log[first : first + 8], position)
    expected = Counter(
        (head.time // 60_000 * 60_000, head.class_uid, head.severity_id)
        for one in log
        for head in decode_heads(one.lines())
    )
    found = await hot.counts(0, 2**53)
    assert {(one.minute_ms, one.class_uid, one.severity_id): one.count for one in found} == expected
    assert found == sorted(found, key=lambda one: (one.minute_ms, one.class_uid, one.severity_id))
    minute = found[-1].minute_ms
    assert await hot.counts(minute, minute + 1) == [one for one in found if one.minute_ms == minute]
    assert await hot.counts(minute + 1, minute + 60_000) == []
    assert isinstance(found[0], MinuteCount)


@pytest.mark.anyio
async def test_old_events_are_kept_for_their_time_after_arrival_and_the_position_for_good(
    redis_server: Settings,
) -> None:
    settings = Hot(ttl_seconds=1, counts_ttl_seconds=2)
    tier = HotTier(redis_server.redis_url, settings, generation=next(_generations))
    await tier.open()
    try:
        log = frames.log(2, 10)
        position = await take(tier, "0", log[:1], None)
        assert await tier.get(frames.event_id(3)) is not None
        user = json.loads(log[0].lines()[6])["actor"]["user"]["name"]
        assert await tier.by_observable(user) != []
        await asyncio.sleep(1.2)
        assert await tier.get(frames.event_id(3)) is None
        assert await tier.by_observable(user) == []
        assert await tier.counts(0, 2**53) != []
        await asyncio.sleep(1.2)
        assert await tier.counts(0, 2**53) == []
        assert await tier.position("0") == position
        await take(tier, "0", log[1:], position)
        assert (await tier.tally()).count == 20
    finally:
        await tier.aclose()


@pytest.mark.anyio
async def test_generations_do_not_see_each_other(hot: HotTier, redis_server: Settings) -> None:
    await take(hot, "0", frames.log(1, 5), None)
    other = HotTier(redis_server.redis_url, Hot(), generation=next(_generations))
    try:
        assert await other.position("0") is None
        assert await other.get(frames.event_id(0)) is None
        assert (await other.tally()).count == 0
    finally:
        await other.aclose()
