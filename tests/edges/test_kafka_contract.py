"""The contract, as far as Kafka has it.

What is produced becomes the same events as on other edges, and bad records dead letters where other edges refuse; what
is consumed is what other subscribers get; tenants stay apart.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

from tests.edges import test_contract
from tests.edges.catalogue import LONG, PUBLISHED
from tests.edges.drivers import Events, Refused, ServiceDriver, Stored
from tests.edges.kafka_driver import KafkaDriver
from tests.edges.test_contract import envelope, ident
from tests.edges.world import World
from tests.kafka.broker import broker
from tidegate.event import DeadLetter

pytestmark = pytest.mark.anyio

HERE = {
    "test_publishing",
    "test_what_was_refused_left_nothing_and_what_was_stored_became_events",
    "test_a_tenant_sees_its_events_and_no_others",
    "test_a_subscriber_gets_what_is_theirs_in_order_and_can_go_on_behind_any_event",
    "test_a_subscriber_from_now_on_gets_what_comes",
}
ASKING = "Kafka has no requests and answers: queries and commands go over other edges"
LETTING_IN = "who may produce and consume is for the broker's accounts and ACLs: Tidegate sees no caller"
ABSENT = {
    "test_who_may_not_publish": LETTING_IN,
    "test_who_may_not_subscribe_or_where": LETTING_IN,
    "test_under_one_key_a_body_is_stored_once_even_when_it_is_of_many_frames": "each offset becomes events once; a"
    " record that is there twice was produced twice",
    "test_a_key_limited_to_a_source_cannot_name_another_in_an_envelope": "there are no keys that could be limited",
    "test_a_key_may_have_a_limit_for_bodies_also_after_inflating": "the limit is the topic's max.message.bytes",
    "test_a_key_may_have_a_rate": "the bridge reads as fast as records are stored; quotas are the broker's",
    "test_an_observable_leads_a_tenant_to_its_own_events": ASKING,
    "test_pages_hold_each_event_once": ASKING,
    "test_who_may_not_ask_in_sql": ASKING,
    "test_counts_are_of_the_hour_before_their_end_unless_it_is_said_otherwise": ASKING,
    "test_a_tenant_commands_its_own_entities_only": ASKING,
    "test_commands_that_are_refused": ASKING,
    "test_status_tells_a_caller_what_it_may_do_and_an_administrator_more": ASKING,
    "test_refusals_and_commands_are_in_the_log_and_no_secret_is": "nobody is refused here, so nothing is audited",
}


def absent(case: str) -> str:
    """Why a case of the catalogue is none of Kafka's; empty: it is one."""
    _, content_type, encoding, _ = PUBLISHED[case]
    if encoding:
        return "compression is a matter of Kafka's own batches, which its clients inflate"
    if content_type.split(";")[0].lower() not in ("", "application/json", "application/x-ndjson"):
        return "a record has no content type: the settings say the format of a topic, and this is none of them"
    if case == "an array over a frame":
        return "how large a value may be is for the topic's max.message.bytes"
    return ""


CASES = {case: number for number, case in enumerate(PUBLISHED) if not absent(case)}


class Outcome(NamedTuple):
    answers: dict[str, Stored | Refused]
    events: dict[str, Events]
    letters: dict[str, list[DeadLetter]]


@pytest.fixture(scope="module")
async def kafka(edges: World, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KafkaDriver]:
    sources = ["billing", *(f"over-kafka-{number}" for number in CASES.values())]
    with broker(tmp_path_factory.mktemp("kafka")) as one:
        async with KafkaDriver(edges, one, sources) as driver:
            yield driver


@pytest.fixture(scope="module")
def service(edges: World) -> ServiceDriver:
    return ServiceDriver(edges)


@pytest.fixture(scope="module")
async def outcome(kafka: KafkaDriver, service: ServiceDriver) -> Outcome:
    """Of all cases at once: each is a record of a topic of its own, and a body that the service itself is given."""
    answers = {}
    for case, number in CASES.items():
        body, content_type, _, _ = PUBLISHED[case]
        await kafka.produce("root", f"over-kafka-{number}", body)
        answers[case] = await service.publish("root", f"direct-{number}", body, content_type)
    await kafka.taken_in()
    return Outcome(answers, *await kafka.outcome())


def plain(events: Events, source: str) -> list[str]:
    """Events without what tells one publishing from another."""
    found = []
    for one in events:
        own = {"uid", "correlation_uid", "logged_time", "processed_time"}
        metadata = {name: value for name, value in one["metadata"].items() if name not in own}
        kept = {name: value for name, value in one.items() if name not in {"time", "metadata"}}
        found.append(json.dumps({**kept, "metadata": metadata}, sort_keys=True).replace(source, "source"))
    return sorted(found)


@pytest.mark.parametrize("case", PUBLISHED)
async def test_publishing(outcome: Outcome, case: str) -> None:
    if reason := absent(case):
        pytest.skip(reason)
    over, direct = f"over-kafka-{CASES[case]}", f"direct-{CASES[case]}"
    answer = outcome.answers[case]
    assert plain(outcome.events[over], over) == plain(outcome.events[direct], direct)
    letters = outcome.letters[over]
    assert all(one.error and one.rule and one.came_from.endswith("/0/0") for one in letters)
    if isinstance(answer, Refused):
        assert outcome.events[over] == []
        assert letters
    else:
        assert len(letters) == len(answer.refused) + len(outcome.letters[direct])


@pytest.mark.parametrize("name", ABSENT)
def test_what_kafka_has_not(name: str) -> None:
    pytest.skip(ABSENT[name])


def test_no_case_of_the_contract_is_forgotten() -> None:
    names = {name for name, _ in inspect.getmembers(test_contract, inspect.isfunction) if name.startswith("test_")}
    assert names == HERE | ABSENT.keys()
    assert len(CASES) > 25


async def test_neighbours_of_bad_records_become_events_each_once_and_the_bad_ones_are_kept(
    kafka: KafkaDriver, edges: World
) -> None:
    correlation = ident()
    good = [envelope(correlation, event_id=f"{correlation}-{number}") for number in range(4)]
    bad = (b"{", b"", LONG)
    await kafka.produce(
        "root", "billing", good[0], bad[0], good[1], bad[1], b"\n".join((bad[0], good[2])), LONG, good[3]
    )
    await kafka.taken_in()
    events = await edges.logged(correlation)
    assert sorted(one["metadata"]["uid"] for one in events) == [f"{correlation}-{number}" for number in range(4)]
    _, letters = await kafka.outcome()
    kept = sorted(((one.original, one.rule) for one in letters["billing"]), key=lambda one: len(one[0]))
    assert [original for original, _ in kept] == [b"", b"{", b"{", LONG]
    assert {rule for _, rule in kept} == {"empty", "json", "record_size"}


def events_of(correlation: str, count: int) -> list[bytes]:
    return [envelope(correlation, event_id=f"{correlation}-{number}", data={"n": number}) for number in range(count)]


async def test_a_tenant_sees_its_events_and_no_others(kafka: KafkaDriver, service: ServiceDriver, edges: World) -> None:
    """Inputs of two tenants, and one of none, have the same ids, and claim whatever they like."""
    correlation, end = ident(), (await edges.log.state()).last_sequence
    lies = [envelope(correlation, event_id=f"acme:{correlation}-9", metadata={"tenant_uid": "acme", "tenant": "acme"})]
    for key in ("globex", "acme", "root"):
        values = [*events_of(correlation, 3), *(lies if key != "acme" else [])]
        await kafka.produce(key, "billing", *values, tidegate_tenant="acme", Tidegate_Tenant="acme")
    await kafka.taken_in()
    last = events_of(ident(), 1)
    for key in ("globex", "acme", "root"):
        await kafka.produce(key, "billing", *last)
    await kafka.taken_in()
    for key, count in {"acme": 3, "globex": 4}.items():
        async with kafka.subscribe(key, f"LOG/{end}") as reader:
            taken = [event for _, event in await reader.take(count + 1)]
        assert {one["metadata"]["tenant_uid"] for one in taken} == {key}
        assert all(one["metadata"]["correlation_uid"].startswith(f"{key}:") for one in taken)
        mine = [one for one in taken if one["metadata"]["correlation_uid"].endswith(correlation)]
        assert len(mine) == count
        # The same as who asks over another edge sees.
        seen = [one for one in await edges.logged(correlation) if one["metadata"].get("tenant_uid") == key]
        assert sorted(map(json.dumps, mine)) == sorted(map(json.dumps, seen))
    of_nobody = [one for one in await edges.logged(correlation) if "tenant_uid" not in one["metadata"]]
    assert len(of_nobody) == 4
    async with kafka.subscribe("root", f"LOG/{end}") as reader:
        assert len(await reader.take(3 + 4 + 4 + 3)) == 14


async def test_a_subscriber_gets_what_is_theirs_in_order_and_can_go_on_behind_any_event(
    kafka: KafkaDriver, service: ServiceDriver, edges: World
) -> None:
    correlation, end = ident(), (await edges.log.state()).last_sequence
    for key in ("globex", "acme", "root"):
        await kafka.produce(key, "billing", *events_of(correlation, 40))
    await kafka.taken_in()

    async def read(driver: Any, key: str, start: str, count: int) -> list[tuple[str, dict[str, Any]]]:
        async with driver.subscribe(key, start) as reader:
            found: list[tuple[str, dict[str, Any]]] = await reader.take(count)
            return found

    expected = await read(service, "acme", f"LOG/{end}", 40)
    assert await read(kafka, "acme", f"LOG/{end}", 40) == expected
    for place in (0, 17, 38):
        assert await read(kafka, "acme", expected[place][0], 39 - place) == expected[place + 1 :]
    everything = await read(service, "root", f"LOG/{end}", 120)
    # Of several shards, each has its own order.
    assert sorted(map(str, await read(kafka, "root", f"LOG/{end}", 120))) == sorted(map(str, everything))


async def test_a_subscriber_from_now_on_gets_what_comes(kafka: KafkaDriver) -> None:
    async with kafka.subscribe("acme") as reader:
        correlation = ident()
        await kafka.produce("globex", "billing", *events_of(correlation, 2))
        await kafka.produce("acme", "billing", *events_of(correlation, 2))
        taken = await reader.take(2)
    assert [event["metadata"]["tenant_uid"] for _, event in taken] == ["acme"] * 2
