"""Connections to a broker that asks for TLS and for users: what is let in works, and what is not says why."""

from __future__ import annotations

import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.certificates import Signed, signed
from tests.edges.world import until
from tests.kafka.broker import Broker, broker
from tests.kafka.guard import Guard, guarding
from tests.kafka.test_bridge import Place, _count, _event, place, position
from tidegate import subject
from tidegate.config import Kafka, KafkaInput, KafkaOutput
from tidegate.edges.kafka.checks import topics
from tidegate.edges.kafka.client import options
from tidegate.edges.kafka.producing import Producing
from tidegate.errors import TierUnavailableError
from tidegate.event import KafkaPlace
from tidegate.log import event_messages

__all__ = ["place"]

pytestmark = pytest.mark.anyio
USERS = {"mira": "s3cret=,"}
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")


@pytest.fixture(scope="module")
def authority() -> Signed:
    return signed("authority")


@pytest.fixture(scope="module")
def tls(authority: Signed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of a broker (`server.pem`) and of whom it trusts (`ca.pem`)."""
    folder = tmp_path_factory.mktemp("tls")
    server = signed("server", authority)
    (folder / "server.pem").write_bytes(server.key_pem + server.pem)
    (folder / "ca.pem").write_bytes(authority.pem)
    (folder / "other.pem").write_bytes(signed("another").pem)
    return folder


@contextlib.asynccontextmanager
async def guarded(
    folder: Path, tls: Path | None, mechanisms: tuple[str, ...] = (), users: dict[str, str] | None = None
) -> AsyncIterator[tuple[Guard, Broker]]:
    """A broker, and the guard to which alone its clients are sent."""
    guard = Guard(mechanisms, users or {})
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls / "server.pem")
    with broker(folder, advertised=guard.address) as one:
        async with guarding(guard, one.address, context):
            yield guard, one


@pytest.mark.parametrize("mechanism", ["", *MECHANISMS])
async def test_records_come_and_go_encrypted_and_signed_in(
    place: Place, tls: Path, tmp_path: Path, mechanism: str
) -> None:
    users = USERS if mechanism else {}
    async with guarded(tmp_path, tls, (mechanism,), users) as (guard, kafka):
        given: dict[str, Any] = {"brokers": guard.address, "protocol": "SSL", "ca_file": str(tls / "ca.pem")}
        if mechanism:
            given |= {
                "protocol": "SASL_SSL",
                "sasl_mechanism": mechanism,
                "username": "mira",
                "password": USERS["mira"],
            }
        kafka.clients = options(Kafka(**given))
        read, written, run = await kafka.topic(), await kafka.topic(), uuid.uuid4().hex[:8]
        await kafka.send(read, [b'{"a":1}'] * 3)
        inputs, outputs = [KafkaInput(topic=read, source="s")], [KafkaOutput(topic=written, types=[run])]
        await place.bus.publish_atomic(event_messages(0, [_event(run, n, code=run) for n in range(5)], "test"))
        async with place.bridge(kafka, inputs=inputs, outputs=outputs, **given) as bridge:
            await position(bridge, read, 3)
            await until(lambda: _count(kafka, written, 5), "the events are written")
            answer = await place.bus.request(subject.kafka(written), b'{"data":1}')
            assert msgspec.json.decode(answer.data, type=KafkaPlace) == KafkaPlace(written, 0, 5)
        assert set(guard.signed_in) == ({f"{mechanism} mira"} if mechanism else set())


async def refused(settings: Kafka) -> str:
    """Why somebody is not let in, as `tidegate doctor` and the bridge say it too."""
    with pytest.raises(TierUnavailableError) as caught:
        await topics(settings, settings.request_timeout_seconds)
    producing = Producing(settings)
    with pytest.raises(TierUnavailableError) as again:
        await producing.partitions("some")
    await producing.aclose()
    assert again.value.problem == caught.value.problem
    assert not settings.password or settings.password not in caught.value.problem
    return caught.value.problem.replace(settings.brokers or "", "BROKER")


async def test_what_keeps_a_client_out_is_said(tls: Path, tmp_path: Path) -> None:
    async with guarded(tmp_path, tls, MECHANISMS[:1], USERS) as (guard, kafka):
        good = Kafka(
            brokers=guard.address,
            protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-256",
            username="mira",
            password=USERS["mira"],
            ca_file=str(tls / "ca.pem"),
            request_timeout_seconds=3.0,
        )
        assert await topics(good, 3.0) == {}
        assert await refused(replace(good, password="wrong")) == (
            "BROKER refuses the user 'mira'; correct kafka.username or kafka.password"
        )
        assert "refuses the user 'eve'" in await refused(replace(good, username="eve"))
        assert await refused(replace(good, sasl_mechanism="PLAIN")) == (
            "BROKER does not take PLAIN; see kafka.sasl_mechanism"
        )
        for ca_file in (str(tls / "other.pem"), None):
            said = await refused(replace(good, ca_file=ca_file))
            assert said.startswith("the certificate of BROKER is not trusted: ")
            assert said.endswith("; kafka.ca_file names whose are")
        # Who speaks no TLS to a port that does, and the other way round.
        for protocol in ("SASL_PLAINTEXT", "SSL"):
            said = await refused(replace(good, protocol=protocol))
            assert said == f"BROKER closes the connection; see kafka.protocol, which is {protocol}"
        silent = replace(good, brokers=kafka.address, request_timeout_seconds=0.3)
        assert (await refused(silent)).startswith("no broker answers at BROKER")
        # A certificate of the right authority, for another host.
        assert "not trusted" in await refused(replace(good, brokers=f"localhost:{guard.port}"))


async def test_a_broker_that_knows_no_such_user_keeps_us_out(tmp_path: Path) -> None:
    """The broker itself, when it asks for users: it has none."""
    one = Broker(tmp_path)
    one.start("--authentication")
    try:
        one.ready()
        given = Kafka(brokers=one.address, request_timeout_seconds=3.0)
        assert await refused(given) == "BROKER closes the connection; see kafka.protocol, which is PLAINTEXT"
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            signing = replace(
                given, protocol="SASL_PLAINTEXT", sasl_mechanism=mechanism, username="mira", password=USERS["mira"]
            )
            assert "BROKER refuses the user 'mira'" in await refused(signing)
    finally:
        one.kill()
