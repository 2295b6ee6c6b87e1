"""Warm against the local stand-in for MongoDB: the contract, the lookups and content that BSON cannot hold."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import bson
import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from tests.tiers import frames
from tests.tiers.contract import Make, ReadModelContract, take
from tidegate.config import Settings, Warm
from tidegate.errors import QueryError
from tidegate.head import record_id
from tidegate.projection import Tally
from tidegate.tiers import bsoned
from tidegate.tiers.warm import WarmTier

_generations = itertools.count(1)


class TestWarmKeepsTheContract(ReadModelContract):
    server_name = "mongo"

    @pytest.fixture
    def make(self) -> Make:
        generation = next(_generations)
        return lambda settings: WarmTier(
            settings.mongodb_uri, "contract", settings.warm, generation=generation, timeout_seconds=2
        )


@pytest.fixture
async def warm(mongo_server: Settings) -> AsyncIterator[WarmTier]:
    tier = WarmTier(mongo_server.mongodb_uri, "lookups", Warm(), generation=next(_generations))
    await tier.open()
    yield tier
    await tier.aclose()


def _values(found: list[bytes]) -> list[Any]:
    return [json.loads(one) for one in found]


@pytest.mark.anyio
async def test_events_come_back_by_id_without_our_own_fields(warm: WarmTier) -> None:
    log = frames.log(2, 30)
    await take(warm, "all", log, None)
    for index, line in enumerate(line for one in log for line in one.lines()):
        found = await warm.get(frames.event_id(index))
        assert found is not None
        assert json.loads(found) == json.loads(line)
    assert await warm.get("unknown") is None


@pytest.mark.anyio
async def test_odd_content_comes_back_as_the_same_value_and_a_repeated_id_gives_the_newest(warm: WarmTier) -> None:
    lines = frames.odd_lines()
    lines.append(
        frames.encode({**frames.events(1, first=50, seed=99)[0], "_id": 1, "unmapped": {"$ref": "a", "$id": 1}})
    )
    await take(warm, "all", [frames.recorded(7, lines)], None)
    for index, line in enumerate(lines[1:-3], 1):
        found = await warm.get(frames.event_id(index, 99))
        assert found is not None
        assert json.loads(found) == json.loads(line), index
    assert _values([await warm.get(frames.event_id(0, 99)) or b""]) == _values([lines[-2]])
    assert _values([await warm.get(frames.event_id(50, 99)) or b""]) == _values([lines[-1]])
    assert _values(await warm.find({"unmapped.biggest": str(10**40)})) == _values([lines[0]])


@pytest.mark.anyio
async def test_an_event_beyond_the_document_limit_is_kept_and_indexed(warm: WarmTier) -> None:
    event = {**frames.events(1)[0], "message": "x" * 17_000_000}
    await take(warm, "all", [frames.recorded(7, [frames.encode(event)])], None)
    assert _values([await warm.get(frames.event_id(0)) or b""]) == [event]
    assert len(await warm.by_observable(event["src_endpoint"]["ip"])) == 1


@pytest.mark.anyio
async def test_correlations_and_observables_are_listed_newest_first_by_event_time(warm: WarmTier) -> None:
    log = frames.log(2, 96)
    await take(warm, "all", log, None)
    events = [json.loads(line) for one in log for line in one.lines()]

    correlation = events[3]["metadata"]["correlation_uid"]
    expected = [one for one in events if one["metadata"]["correlation_uid"] == correlation][::-1]
    assert len(expected) == 4
    assert _values(await warm.by_correlation(correlation)) == expected
    assert _values(await warm.by_correlation(correlation, 2)) == expected[:2]
    assert await warm.by_correlation(correlation, 0) == []

    host = "WS-0142.corp.example"
    expected = [one for one in events if one.get("device", {}).get("hostname") == host][::-1]
    assert len(expected) > 8
    assert _values(await warm.by_observable(host.upper())) == expected
    since, until = expected[6]["time"], expected[2]["time"]
    assert _values(await warm.by_observable(host, since_ms=since, until_ms=until)) == expected[3:7]
    assert _values(await warm.by_observable(host, 1, until_ms=until)) == expected[3:4]


@pytest.mark.anyio
async def test_find_takes_a_mongodb_filter_and_gives_the_latest_first(warm: WarmTier) -> None:
    log = frames.log(1, 120)
    await take(warm, "all", log, None)
    events = [json.loads(line) for line in log[0].lines()]
    expected = [one for one in events if one["class_uid"] == 4001 and one["activity_id"] in (1, 2)][::-1]
    query = {"class_uid": 4001, "$or": [{"activity_id": 1}, {"activity_id": {"$eq": 2}}]}
    assert _values(await warm.find(query)) == expected
    assert _values(await warm.find(query, 3)) == expected[:3]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "query",
    [
        {"$where": "sleep(1000)"},
        {"$and": [{"time": 1}, {"$or": [{"$where": "1"}]}]},
        {"$expr": {"$function": {"body": "function() {}", "args": [], "lang": "js"}}},
        {"time": {"$nonsense": 1}},
    ],
)
async def test_find_refuses_code_and_nonsense(warm: WarmTier, query: dict[str, Any]) -> None:
    with pytest.raises(QueryError):
        await warm.find(query)


@pytest.mark.anyio
async def test_documents_left_by_a_crash_before_the_position_moved_are_not_doubled(
    warm: WarmTier, mongo_server: Settings
) -> None:
    log = frames.log(3, 20)
    position = await take(warm, "all", log[:1], None)
    left = bsoned.documents_of(log[1:3])[:27]
    client: Any = AsyncIOMotorClient(mongo_server.mongodb_uri)
    try:
        await client["lookups"][warm._events.name].insert_many(left)
    finally:
        client.close()
    await take(warm, "all", log[1:], position)
    assert await warm.tally() == Tally(count=60, digest=sum(one.digest for one in log))


@pytest.mark.anyio
async def test_the_time_to_live_follows_the_setting(mongo_server: Settings) -> None:
    generation = next(_generations)
    for days in (30, 7):
        tier = WarmTier(mongo_server.mongodb_uri, "lookups", Warm(ttl_days=days), generation=generation)
        try:
            await tier.open()
            indexes = await tier._events.index_information()
            assert [one.get("expireAfterSeconds") for one in indexes.values() if "expireAfterSeconds" in one] == [
                days * 86_400
            ]
        finally:
            await tier.aclose()


def test_a_document_is_the_event_with_its_place_checksum_and_arrival() -> None:
    one = frames.log(1, 48)[0]
    documents = [bson.decode(document.raw) for document in bsoned.documents_of([one])]
    assert [document["_id"] for document in documents] == [record_id(one.sequence, index) for index in range(48)]
    assert sum(document["_crc"] for document in documents) == one.digest
    assert "_raw" not in documents[0]
    assert {"ws-0142.corp.example", "dc01.corp.example"} & {
        seen for document in documents for seen in document["_seen"]
    }
    assert documents[0]["_at"].timestamp() * 1000 == one.time_ms
    for document, line in zip(documents, one.lines(), strict=True):
        assert json.loads(bsoned.json_of(document)) == json.loads(line)
