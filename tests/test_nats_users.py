"""The shipped users of NATS, on a real server: each can do what it is for, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import nats
import pytest
from msgspec.structs import replace
from nats.aio.client import Client
from nats.errors import TimeoutError as NatsTimeoutError

from tests.conftest import local_settings, running
from tests.system.harness import System, system, until
from tidegate import resources
from tidegate.actor.system import System as Entities
from tidegate.auth.keys import new_key
from tidegate.bus import connect
from tidegate.config import Auth, Nats, Settings
from tidegate.entities.access_key import KIND, Grant
from tidegate.errors import BusUnavailableError
from tidegate.local import doctor
from tidegate.local.servers import Server, server
from tidegate.log import Log
from tidegate.publisher import Publisher
from tidegate.reader import read

pytestmark = pytest.mark.anyio

PASSWORDS = {f"{user.upper()}_PASSWORD": f"{user}-secret" for user in ("tidegate", "publisher", "client", "observer")}
PREFIXES = {"publisher": "_INBOX_publisher", "client": "_INBOX_client"}


def with_users(settings: Settings) -> Server:
    one = server("nats", settings)
    folder = resources.folder("deploy")
    command = [str(folder / "nats-users.conf") if part == str(folder / "nats.conf") else part for part in one.command]
    return with_changes(one, command=command, environment=PASSWORDS)


def url_of(settings: Settings, user: str) -> str:
    return f"nats://{user}:{user}-secret@127.0.0.1:{settings.local.nats_port}"


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The way from INGEST to hot, as the user `tidegate`, with keys."""
    folder = tmp_path_factory.mktemp("users")
    settings = local_settings(folder)
    nats_ = Nats(url=url_of(settings, "tidegate"), monitor_url=f"http://127.0.0.1:{settings.local.nats_monitor_port}")
    with (
        running(with_users(settings)),
        system(folder, local=settings.local, nats=nats_, auth=Auth(mode="keys")) as found,
    ):
        found.serve("redis")
        for name, *options in (
            ("event-streaming",), ("transformation-pipeline",), ("entities",), ("storage-manager", "--tiers", "hot"),
        ):  # fmt: skip
            found.run(name, *options)
        asyncio.run(found.ready())
        yield found


class User:
    """A connection, and what the server has said against what it did."""

    def __init__(self, client: Client, errors: list[str]) -> None:
        self.client = client
        self.errors = errors

    async def may_send(self, subject: str) -> bool:
        self.errors.clear()
        await self.client.publish(subject, b"{}")
        await self._answered()
        return self.errors == []

    async def _answered(self) -> None:
        """The server answers in order, so an objection has come by then. nats-py's first PING overtakes what waits."""
        for _ in range(2):
            await self.client.flush()

    async def may_hear(self, subject: str) -> bool:
        self.errors.clear()
        subscription = await self.client.subscribe(subject)
        await self._answered()
        with contextlib.suppress(nats.errors.BadSubscriptionError):
            await subscription.unsubscribe()
        return self.errors == []


@contextlib.asynccontextmanager
async def connected(one: System, user: str) -> AsyncIterator[User]:
    errors: list[str] = []

    async def told(error: Exception) -> None:
        errors.append(str(error))

    client = await nats.connect(
        url_of(one.settings, user), error_cb=told, inbox_prefix=PREFIXES.get(user, "_INBOX"), allow_reconnect=False
    )
    try:
        yield User(client, errors)
    finally:
        await client.close()


FORBIDDEN = (
    "log.event.0", "log.>", "log.access_key.0", "ask.alert", "ask.access_key", "cmd.alert.0", "status.processes",
    "alert.raised", "$JS.API.INFO", "$JS.API.STREAM.DELETE.LOG", "$JS.API.STREAM.INFO.INGEST",
    "$JS.API.STREAM.MSG.GET.INGEST", "$JS.API.CONSUMER.CREATE.LOG", "$JS.API.STREAM.PURGE.INGEST", "$SRV.PING",
    "$KV.tidegate.x", "_INBOX.x", "ingest.taken.kafka.t-0", "live._.x", "results.x",
)  # fmt: skip
"""What nobody but Tidegate may send, nor hear."""


async def test_records_of_the_publisher_come_through_the_whole_pipeline_and_a_client_finds_them(one: System) -> None:
    key_id, key, command = new_key(Grant(scopes=("query",)))
    async with connect(one.settings.nats_url) as bus:
        await Entities(bus, Log(bus, one.declared.shards)).ask(KIND, key_id, command)
    async with Publisher(url_of(one.settings, "publisher"), source="billing", inbox_prefix="_INBOX_publisher") as made:
        await made.publish(b'{"correlation_id":"case-7","data":{"n":1}}')
    async with connected(one, "publisher") as publisher:
        acknowledged = await publisher.client.jetstream().publish(
            "ingest.billing", b'{"correlation_id":"case-7","data":{"n":2}}'
        )
    assert acknowledged.stream == "INGEST"
    async with connected(one, "client") as client:

        async def both() -> bool:
            asked = json.dumps({"correlation_id": "case-7"}).encode()
            answer = await client.client.request("svc.query.find", asked, timeout=5, headers={"Tidegate-Key": key})
            return bool(json.loads(answer.data).get("count") == 2)

        await until(both, 15, "both events are found")
        answer = await client.client.request("svc.query.find", b"{}", timeout=5)
        assert (answer.headers or {})["Nats-Service-Error-Code"] == "401"


@pytest.mark.parametrize(
    ("user", "sends", "hears"),
    [
        ("publisher", ("ingest.suricata", "ingest.suricata.1"), ("_INBOX_publisher.x.1",)),
        ("client", ("svc.query.find",), ("_INBOX_client.x.1",)),
        ("observer", ("tidegate.STREAM.INFO.LOG",), ("log.>", "log.event.0", "_INBOX.x")),
    ],
)
async def test_each_user_may_do_what_it_is_for_and_nothing_else(
    one: System, user: str, sends: tuple[str, ...], hears: tuple[str, ...]
) -> None:
    async with connected(one, user) as found:
        for subject in (*sends, *FORBIDDEN, "svc.query.find", "ingest.suricata"):
            if subject.endswith(">"):
                continue
            assert await found.may_send(subject) == (subject in sends), f"{user} sends to {subject}"
        others = [f"{prefix}.>" for name, prefix in PREFIXES.items() if name != user]
        for subject in (*hears, *FORBIDDEN, *others, "ingest.>", "svc.>", ">"):
            allowed = subject in hears or (user == "observer" and subject.startswith(("log.", "_INBOX.")))
            assert await found.may_hear(subject) == allowed, f"{user} hears {subject}"


async def test_an_answer_cannot_be_led_into_the_log(one: System) -> None:
    """Within one account, whoever names the subject of the answer has it written by who may write there."""
    async with connect(one.settings.nats_url) as bus:

        async def acknowledgements() -> list[str]:
            end = (await bus.stream("LOG")).last_sequence
            messages = read(bus, "LOG", "log.>", 1, end) if end else None
            found = [message async for message in messages] if messages else []
            # Frames of events are compressed, acknowledgements and answers are JSON.
            return [str(one) for one in found if one.subject.startswith("log.event.") and one.payload.startswith(b"{")]

        for user, subject in (("publisher", "ingest.billing"), ("client", "svc.query.find")):
            async with connected(one, user) as sender:
                await sender.client.publish(subject, b"{}", reply="log.event.0")
                # An answer to a later request shows that the one before was dealt with.
                await sender.client.request(subject, b"{}", timeout=5)
        assert await acknowledgements() == []


async def test_an_observer_follows_the_log_and_reads_single_messages(one: System) -> None:
    async with connected(one, "observer") as observer, connected(one, "publisher") as publisher:
        heard = await observer.client.subscribe("log.event.*")
        await observer.client.flush()
        await publisher.client.jetstream().publish("ingest.billing", b'{"data":{"n":3}}')
        message = await heard.next_msg(timeout=10)
        assert message.subject.startswith("log.event.")
        told = await observer.client.request("tidegate.STREAM.INFO.LOG", b"", timeout=5)
        last = json.loads(told.data)["state"]["last_seq"]
        raw = await observer.client.jetstream(prefix="tidegate").get_msg("LOG", seq=last)
        assert raw.seq == last
        for request in ("STREAM.DELETE.LOG", "STREAM.PURGE.LOG", "STREAM.INFO.INGEST"):
            with pytest.raises(NatsTimeoutError):
                await observer.client.request(f"tidegate.{request}", b"", timeout=0.2)


async def findings(settings: Settings) -> dict[str, Any]:
    report = doctor._Report("nats")
    await doctor._nats(settings, report)
    return {one.check: one for one in report.findings}


async def test_doctor_tells_whether_nats_takes_anybody(one: System, nats_server: Settings) -> None:
    assert (await findings(one.settings))["users"].result == "ok"
    keys = Auth(mode="keys")
    found = (await findings(replace(nats_server, auth=keys)))["users"]
    assert found.result == "warn"
    assert "nats-users.conf" in found.advice
    assert "users" not in await findings(replace(nats_server, auth=Auth(mode="off")))


async def test_nobody_gets_in_without_a_password_nor_does_the_server_begin_without_one(
    one: System, tmp_path: Path
) -> None:
    for url in (f"nats://127.0.0.1:{one.settings.local.nats_port}", url_of(one.settings, "tidegate")[:-1] + "0"):
        with pytest.raises(BusUnavailableError):
            async with connect(url, connect_timeout_seconds=1):
                pass
    settings = local_settings(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_PASSWORD")}
    done = await asyncio.to_thread(
        subprocess.run, with_users(settings).command, env=environment, capture_output=True, text=True, timeout=10
    )
    assert done.returncode != 0
    assert "TIDEGATE_PASSWORD" in done.stderr
