"""What is gRPC's own: streams, flow control, deadlines, cancellation, limits, bad input, TLS, health, reflection."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.edges.catalogue import JSON, NDJSON
from tests.edges.grpc_driver import answered, refusal
from tests.edges.test_contract import envelope, ident
from tests.edges.world import GRANTS, World, served_grpc, until
from tidegate import telemetry
from tidegate.bench.material import commits
from tidegate.bus import connect
from tidegate.config import Grpc
from tidegate.edges import grpc_calls, grpc_server
from tidegate.pipeline.library import load_pipeline
from tidegate.proto import services_pb2 as pb
from tidegate.proto.services_pb2_grpc import EventsStub
from tidegate.service import Feed

pytestmark = pytest.mark.anyio

MB = 1024 * 1024
Raw = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    return data


def stub(channel: grpc.aio.Channel) -> Any:
    return EventsStub(channel)  # type: ignore[no-untyped-call]


def bearer(edges: World, key: str = "root") -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {edges.keys[key]}")]


@pytest.fixture
async def channel(edges: World) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(edges.grpc_events) as one:
        yield one


@contextlib.contextmanager
def refused(code: grpc.StatusCode, reason: str = "") -> Iterator[Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield caught
    assert caught.value.code() is code, caught.value
    if reason:
        assert refusal(caught.value).code == reason


def feeds() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("feed of")]


async def no_feed_left() -> None:
    async def none() -> bool:
        return not feeds()

    await until(none, "all feeds have ended")


# -- publishing -------------------------------------------------------------------------------------------------


async def test_each_message_of_a_stream_has_its_answer_in_order_and_a_bad_one_does_not_end_it(
    edges: World, channel: grpc.aio.Channel
) -> None:
    call = stub(channel).PublishEach(metadata=bearer(edges))
    bodies = [b'{"data":1}\n' * (1 + number % 7) for number in range(40)]
    bodies[11] = b"{"
    correlation = ident()
    bodies[13] = envelope(correlation)

    async def send() -> None:
        for number, body in enumerate(bodies):
            await call.write(
                pb.Records(body=body, source="app" if not number else "", content_type=NDJSON if not number else "")
            )
        await call.done_writing()

    sending = asyncio.create_task(send())
    outcomes = [outcome async for outcome in call]
    await sending
    assert [one.published.records for one in outcomes] == [
        0 if body == b"{" else len(body.splitlines()) for body in bodies
    ]
    assert outcomes[11].failure.code == "invalid"
    await until(lambda: edges.logged(correlation), "the event is in the log")


async def test_what_was_stored_before_the_deadline_is_told_and_is_there(
    edges: World, channel: grpc.aio.Channel
) -> None:
    correlation = ident()
    lines = b"".join(envelope(correlation, data={"pad": "x" * 700}) + b"\n" for _ in range(2500))

    async def body() -> AsyncIterator[pb.Records]:
        yield pb.Records(source="app", content_type=NDJSON, body=lines)
        await asyncio.sleep(30)

    began = time.monotonic()
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout") as caught:
        await stub(channel).PublishBody(body(), metadata=bearer(edges), timeout=3)
    assert time.monotonic() - began < 3
    rich = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    told = pb.Published()
    assert rich.details[1].Unpack(told)
    assert told.records == 2000

    async def there() -> bool:
        return len(await edges.logged(correlation)) == told.records

    await until(there, "what was told to be stored is in the log, and no more")


# -- subscriptions ----------------------------------------------------------------------------------------------


async def test_no_more_events_are_given_out_than_may_be_unacknowledged(edges: World, channel: grpc.aio.Channel) -> None:
    events = stub(channel)
    call = events.Follow(metadata=bearer(edges, "acme"))
    await call.write(pb.Following(start=pb.Subscription(source="billing", buffer=3)))
    await call.initial_metadata()
    lines = b"\n".join(envelope(ident(), data={"n": number}) for number in range(10))
    await events.Publish(pb.Records(source="billing", body=lines, content_type=NDJSON), metadata=bearer(edges, "acme"))

    seen: list[Any] = []
    for most in (3, 6, 9, 10):
        while len(seen) < most:
            seen += (await call.read()).items
            assert len(seen) <= most
        early = asyncio.ensure_future(call.read())
        if most < 10:
            await asyncio.sleep(0.1)
            assert not early.done(), "more than unacknowledged events allow"
            await call.write(pb.Following(ack=seen[-1].position))
            seen += (await early).items
    await call.write(pb.Following(ack="1-1"))
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid"):
        assert await early is grpc.aio.EOF
        await fail_as(call)
    assert len({one.position for one in seen}) == 10
    await no_feed_left()


async def fail_as(call: Any) -> None:
    """Raise how the call has ended."""
    raise grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )


async def test_a_subscription_can_begin_at_a_time_and_choose(edges: World, channel: grpc.aio.Channel) -> None:
    events = stub(channel)
    correlation = ident()
    began = time.time_ns()
    body = envelope(correlation) + b"\n" + envelope(ident())
    await events.Publish(pb.Records(body=body, content_type=NDJSON), metadata=bearer(edges, "globex"))
    await until(lambda: edges.logged(correlation), "the event is in the log")
    wanted = pb.Subscription(correlation_id=correlation)
    wanted.time.FromNanoseconds(began)
    call = events.Subscribe(wanted, metadata=bearer(edges, "globex"))
    batch = await call.read()
    assert [json.loads(one.line)["metadata"]["correlation_uid"] for one in batch.items] == [f"globex:{correlation}"]
    call.cancel()
    await no_feed_left()


async def test_a_cancelled_or_expired_subscription_frees_its_feed(edges: World, channel: grpc.aio.Channel) -> None:
    events = stub(channel)
    calls = [events.Subscribe(pb.Subscription(), metadata=bearer(edges)) for _ in range(5)]
    for call in calls:
        await call.initial_metadata()
    expiring = events.Subscribe(pb.Subscription(), metadata=bearer(edges), timeout=0.5)
    await expiring.initial_metadata()
    assert len(feeds()) == 6
    for call in calls:
        call.cancel()
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        await expiring.read()
    await no_feed_left()


async def test_a_key_that_is_revoked_ends_its_streams(edges: World, channel: grpc.aio.Channel) -> None:
    events = stub(channel)
    edges.keys["brief"] = await edges.created(GRANTS["root"])
    following = events.Subscribe(pb.Subscription(), metadata=bearer(edges, "brief"))
    await following.initial_metadata()
    publishing = events.PublishEach(metadata=bearer(edges, "brief"))
    await publishing.write(pb.Records(body=b"1"))
    assert (await publishing.read()).published.records == 1
    await edges.revoked(edges.keys["brief"])
    await publishing.write(pb.Records(body=b"1"))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"):
        await publishing.read()
        await fail_as(publishing)
    await events.Publish(pb.Records(body=envelope(ident())), metadata=bearer(edges))
    with refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"):
        while (await following.read()) is not grpc.aio.EOF:
            pass
        await fail_as(following)
    await no_feed_left()


async def test_a_slow_reader_is_held_back_and_misses_nothing(edges: World) -> None:
    options = [("grpc.http2.lookahead_bytes", 65536), ("grpc.http2.bdp_probe", 0)]
    correlation = ident()
    async with grpc.aio.insecure_channel(edges.grpc_events, options=options) as channel:
        events = stub(channel)
        call = events.Subscribe(pb.Subscription(correlation_id=correlation, buffer=50), metadata=bearer(edges))
        await call.initial_metadata()
        count, size = 400, 100_000
        body = b"\n".join(envelope(correlation, data={"n": n, "pad": "x" * size}) for n in range(count))

        async def parts() -> AsyncIterator[pb.Records]:
            for start in range(0, len(body), MB):
                yield pb.Records(source="app", content_type=NDJSON, body=body[start : start + MB])

        await events.PublishBody(parts(), metadata=bearer(edges))

        async def there() -> bool:
            return len(await edges.logged(correlation)) == count

        await until(there, "all events are in the log", 30)
        (task,) = feeds()
        feed: Feed = task.get_coro().cr_frame.f_locals["self"]  # type: ignore[union-attr]
        assert len(feed._buffer) <= 150
        found: list[int] = []
        while len(found) < count:
            found += [json.loads(one.line)["unmapped"]["n"] for one in (await call.read()).items]
        assert len(set(found)) == count
        call.cancel()
    await no_feed_left()


async def test_nothing_piles_up_for_a_reader_that_stands_still_and_it_can_go_on_later(
    edges: World, channel: grpc.aio.Channel
) -> None:
    end = (await edges.log.state()).last_sequence
    call = stub(channel).Subscribe(pb.Subscription(position=f"LOG/{end}", buffer=50), metadata=bearer(edges))
    await call.initial_metadata()
    (task,) = feeds()
    feed: Feed = task.get_coro().cr_frame.f_locals["self"]  # type: ignore[union-attr]
    feed._consumer._beat = 0.1
    count = 0
    async with connect(edges.settings.nats_url) as bus:
        for commit in commits(20_000, load_pipeline(4), 4, 1000):
            messages = [one for one in commit.messages if one.subject.startswith("log.event.")]
            await bus.publish_atomic(messages)
            count += commit.events
        waiting = feed._consumer._buffer

        async def full() -> bool:
            return len(waiting) >= 30

        await until(full, "the reader holds back")
        before = len(waiting)
        await asyncio.sleep(0.7)
        assert len(waiting) <= before + 2
        # As the server does with consumers of which it has not heard for half a minute.
        await bus.api(f"CONSUMER.DELETE.LOG.{feed._consumer._name}")
    found: list[str] = []
    while len(found) < count:
        found += [one.position for one in (await call.read()).items]
    assert found == sorted(set(found), key=lambda one: tuple(map(int, one.split("-"))))
    call.cancel()
    await no_feed_left()


# -- bad input --------------------------------------------------------------------------------------------------


async def assert_alive(edges: World) -> None:
    async with grpc.aio.insecure_channel(edges.grpc_events) as channel:
        found = await stub(channel).Publish(pb.Records(body=b"1"), metadata=bearer(edges), timeout=10)
        assert found.records == 1


async def test_a_message_over_the_limit_is_refused_also_if_it_was_small_when_compressed(edges: World) -> None:
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        async with grpc.aio.insecure_channel(edges.grpc_events, compression=compression) as channel:
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
                await stub(channel).Publish(pb.Records(body=b" " * (64 * MB)), metadata=bearer(edges), timeout=30)
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
                await stub(channel).Publish(pb.Records(body=b" " * (5 * MB)), metadata=bearer(edges), timeout=30)
            found = await stub(channel).Publish(
                pb.Records(body=b" " * (MB - 1) + b"1"), metadata=bearer(edges), timeout=30
            )
            assert found.records == 1


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff", b"\x0a\x7fshort", b"\x0a\x02\xff\xfe", b"\x08", b"\x1b" * 1000, b"\x12\xff\xff\xff\xff\x7f"],
)
async def test_bytes_that_are_no_message_are_told_so(edges: World, channel: grpc.aio.Channel, data: bytes) -> None:
    for method in ("Events/Publish", "Events/PublishEach", "Events/Follow", "Events/GetEntity"):
        call = channel.stream_stream(f"/tidegate.v1.{method}", same, same)(metadata=bearer(edges), timeout=10)
        with contextlib.suppress(asyncio.InvalidStateError):
            await call.write(data)
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid"):
            await call.read()
            await fail_as(call)
    await assert_alive(edges)


async def test_a_call_without_a_message_and_a_method_that_is_not_there(edges: World, channel: grpc.aio.Channel) -> None:
    call = channel.stream_stream("/tidegate.v1.Events/Publish", same, same)(metadata=bearer(edges), timeout=10)
    await call.done_writing()
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid"):
        await call.read()
        await fail_as(call)
    for method in ("/tidegate.v1.Events/Nothing", "/tidegate.v1.Nothing/Publish", "/tidegate.v1.Queries/Sql"):
        with refused(grpc.StatusCode.UNIMPLEMENTED):
            await channel.unary_unary(method, same, same)(b"", metadata=bearer(edges), timeout=10)


@pytest.mark.parametrize(
    "wanted",
    [
        pb.Subscription(buffer=-1),
        pb.Subscription(buffer=10**9),
        pb.Subscription(position="\0"),
        pb.Subscription(time={"seconds": 2**62}),
    ],
    ids=str,
)
async def test_subscriptions_that_make_no_sense(
    edges: World, channel: grpc.aio.Channel, wanted: pb.Subscription
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid"):
        await stub(channel).Subscribe(wanted, metadata=bearer(edges), timeout=10).read()
    await no_feed_left()


@pytest.mark.parametrize("command", [b"", b"{", b"[" * 5000, b"1", b'"x"', b'{"type":"\\ud800"}', b"\xff"])
async def test_commands_that_make_no_sense(edges: World, channel: grpc.aio.Channel, command: bytes) -> None:
    given = pb.Command(kind="alert", id="x", command=command)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "invalid"):
        await stub(channel).GiveCommand(given, metadata=bearer(edges), timeout=10)


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 4096,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + b"x" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
    ],
    ids=["zeros", "http/1", "tls", "frames"],
)
async def test_a_connection_with_garbage_is_closed(edges: World, data: bytes) -> None:
    host, port = edges.grpc_events.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
    writer.close()
    await assert_alive(edges)


async def test_who_has_no_key_has_nothing_read_of_what_they_send(edges: World, channel: grpc.aio.Channel) -> None:
    sent = 0

    async def body() -> AsyncIterator[pb.Records]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield pb.Records(content_type=NDJSON, body=b'{"data":1}\n' * 90_000)

    with refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"):
        await answered(lambda: stub(channel).PublishBody(body(), timeout=20))
    assert sent < 100
    with refused(grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"):
        await stub(channel).Publish(pb.Records(body=b"1"), metadata=[("authorization", "Basic eA==")])
    found = await stub(channel).Publish(pb.Records(body=b"1"), metadata=[("x-api-key", edges.keys["root"])])
    assert found.records == 1


async def test_a_flood_of_calls_is_refused_beyond_a_number_and_leaves_nothing(edges: World) -> None:
    limited = Grpc(max_calls=20)
    async with served_grpc(edges.service, "Events", limited) as address, grpc.aio.insecure_channel(address) as channel:
        events = stub(channel)
        calls = [events.Follow(metadata=bearer(edges)) for _ in range(60)]

        async def most_ended() -> bool:
            return bool(sum(call.done() for call in calls) == 40)

        await until(most_ended, "all but 20 are refused")
        assert {await call.code() for call in calls if call.done()} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call in calls:
            call.cancel()

        async def works() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return bool((await events.Publish(pb.Records(body=b"1"), metadata=bearer(edges))).records)
            return False

        await until(works, "calls are taken again")


async def test_who_says_nothing_for_long_is_told_so_and_what_is_stored(
    edges: World, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_calls, "_IDLE_SECONDS", 0.4)
    call = stub(channel).PublishBody(metadata=bearer(edges))
    await call.write(pb.Records(content_type=NDJSON, body=b'{"data":"' + b"x" * 800 + b'"}\n'))
    await call.write(pb.Records(body=(b'{"data":"' + b"x" * 800 + b'"}\n') * 2000))
    with refused(grpc.StatusCode.CANCELLED, "too_slow") as caught:
        await fail_as(call)
    rich = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
    told = pb.Published()
    assert rich.details[1].Unpack(told)
    assert told.records == 2000
    silent = stub(channel).Follow(metadata=bearer(edges))
    with refused(grpc.StatusCode.CANCELLED, "too_slow"):
        await fail_as(silent)


async def test_streams_that_need_no_key_leave_room_for_others(edges: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "_MOST_KEYLESS", 5)
    async with served_grpc(edges.service, "Events") as address, grpc.aio.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watching = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(4)]
        for call in watching:
            await call.read()
        reflecting = [reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo() for _ in range(3)]
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        await reflecting[0].write(asked)
        assert (await reflecting[0].read()).list_services_response.service
        for call in (*reflecting[1:], health.Watch(health_pb2.HealthCheckRequest())):
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
                await fail_as(call)
        found = await stub(channel).Publish(pb.Records(body=b"1"), metadata=bearer(edges))
        assert found.records == 1
        for call in (*watching, reflecting[0]):
            call.cancel()


# -- the server -------------------------------------------------------------------------------------------------


async def test_health_says_what_readiness_says_and_needs_no_key(edges: World) -> None:
    reason: list[str] = []
    server = grpc_server.serving(Grpc(), 0, edges.service, "Events", lambda: reason[0] if reason else None, MB)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="tidegate.v1.Events")
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await health.Check(asked)).status == serving
        watching = health.Watch(asked)
        assert (await watching.read()).status == serving
        reason.append("NATS is away")
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == not_serving
        assert (await watching.read()).status == not_serving
        with refused(grpc.StatusCode.NOT_FOUND):
            await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
        watching.cancel()
    await server.stop(0)


async def test_reflection_describes_the_service(edges: World, channel: grpc.aio.Channel) -> None:
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = [one.name for one in (await call.read()).list_services_response.service]
    assert "tidegate.v1.Events" in names
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="tidegate.v1.Events"))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto[0] == pb.DESCRIPTOR.serialized_pb
    call.cancel()


async def test_a_fault_is_told_without_what_is_inside_and_counted(
    edges: World, channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*_: object) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(edges.service, "entity", fails)
    with refused(grpc.StatusCode.INTERNAL) as caught:
        await stub(channel).GetEntity(pb.Entity(kind="alert", id="x"), metadata=bearer(edges))
    assert "secret" not in caught.value.details()
    assert "secret" in caplog.text

    async def counted() -> bool:
        return b'tidegate_grpc_calls_total{code="INTERNAL",method="GetEntity"} 1.0' in telemetry.render_metrics()[0]

    await until(counted, "it is counted, perhaps after the answer has come")


async def test_answers_are_compressed_where_that_is_set(edges: World) -> None:
    async with (
        served_grpc(edges.service, "Events", Grpc(compress_answers=True)) as address,
        grpc.aio.insecure_channel(address, compression=grpc.Compression.Gzip) as channel,
    ):
        found = await stub(channel).Publish(pb.Records(body=b'{"data":1}', content_type=JSON), metadata=bearer(edges))
        assert found.records == 1
