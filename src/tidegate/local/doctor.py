"""Checks of the servers that the settings point at: is each there, set up rightly, and what do its promises mean.

Invariant: what a check needs it tries, under a name of its own, and takes away again; it never touches the data.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import aioboto3
import anyio
import anyio.to_thread
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from motor.motor_asyncio import AsyncIOMotorClient
from msgspec import Struct
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, RESTError
from pymongo import WriteConcern
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from tidegate import bus
from tidegate.config import Settings
from tidegate.errors import BusError, BusUnavailableError, ConfigError, TierUnavailableError
from tidegate.local.processes import hide_password
from tidegate.local.servers import fetch

__all__ = ["Finding", "examine"]

REACH_SECONDS = 3.0
ANONYMOUS_SECONDS = 1.0
"""To be let in by a server that has just answered; who is not is let wait so long."""
CHECK_SECONDS = 7.0
"""For all checks of one server; the servers are examined at the same time."""
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
NATS_VERSION = (2, 14)  # atomic publish (2.12) and moving a consumer to a sequence; tried on 2.15.1
REDIS_VERSION = (7, 0)
MONGODB_VERSION = (6, 0)
_VERSION = re.compile(r"(?P<major>\d+)\.(?P<minor>\d+)[0-9A-Za-z.-]*")


class Finding(Struct, frozen=True, kw_only=True):
    """The result of one check."""

    server: str
    check: str
    result: Literal["ok", "warn", "fail"]
    seen: str
    advice: str = ""


class _Report:
    """Takes down what is found about one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self.findings: list[Finding] = []

    def ok(self, check: str, seen: str) -> None:
        self.findings.append(Finding(server=self._server, check=check, result="ok", seen=seen))

    def warn(self, check: str, seen: str, advice: str) -> None:
        self.findings.append(Finding(server=self._server, check=check, result="warn", seen=seen, advice=advice))

    def fail(self, check: str, seen: str, advice: str) -> None:
        self.findings.append(Finding(server=self._server, check=check, result="fail", seen=seen, advice=advice))

    def version(self, text: str, least: tuple[int, int], note: str = "") -> None:
        found = _VERSION.search(text)
        seen = f"{found[0] if found else text}{note}"
        if found and (int(found["major"]), int(found["minor"])) >= least:
            self.ok("version", seen)
        else:
            self.fail("version", seen, f"use {least[0]}.{least[1]} or newer")


async def examine(settings: Settings) -> list[Finding]:
    """All findings, server by server. Takes CHECK_SECONDS at most."""
    checks = {"nats": _nats, "redis": _redis, "mongodb": _mongodb, "s3": _s3, "catalog": _catalog}
    if settings.kafka.brokers:
        checks["kafka"] = _kafka
    reports = {server: _Report(server) for server in checks}

    async def limited(server: str, check: Callable[[Settings, _Report], Awaitable[None]]) -> None:
        with anyio.move_on_after(CHECK_SECONDS) as scope:
            await check(settings, reports[server])
        if scope.cancelled_caught:
            advice = "see whether the server is overloaded, or something on the way drops packets"
            reports[server].fail("answers", f"not all within {CHECK_SECONDS:g} s", advice)

    async with anyio.create_task_group() as group:
        for server, check in checks.items():
            group.start_soon(limited, server, check)
    return [finding for report in reports.values() for finding in report.findings]


def _advice(setting: str, variable: str) -> str:
    return f"start it with `tidegate up`, or set {setting} ({variable}) to where it is"


def _name(error: BaseException) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__


async def _nats(settings: Settings, report: _Report) -> None:
    address = hide_password(settings.nats_url)
    try:
        async with bus.connect(
            settings.nats_url,
            name="tidegate-doctor",
            credentials_file=settings.nats.credentials_file,
            connect_timeout_seconds=REACH_SECONDS,
            request_timeout_seconds=REACH_SECONDS,
        ) as connection:
            report.ok("reachable", address)
            report.version(connection.server_version, NATS_VERSION)
            _max_payload(settings, report, connection.max_payload)
            if settings.auth.mode != "off":
                await _users(settings, report)
            if await _jetstream(report, connection):
                await _sync_interval(settings, report)
                await _atomic_publish(report, connection)
    except BusUnavailableError as error:
        cause = error.__cause__
        why = f"no connection within {REACH_SECONDS:g} s" if isinstance(cause, TimeoutError) else _name(cause or error)
        report.fail("reachable", f"{address}: {why}", _advice("nats.url", "NATS_URL"))


async def _users(settings: Settings, report: _Report) -> None:
    """Keys guard the edges; on NATS itself they guard nothing, and its users have to."""
    anonymous = ",".join(re.sub(r"//[^@/]*@", "//", one) for one in settings.nats_url.split(","))
    try:
        async with bus.connect(anonymous, name="tidegate-doctor", connect_timeout_seconds=ANONYMOUS_SECONDS):
            seen = f"anybody gets in without credentials, whatever the edges ask for (auth.mode {settings.auth.mode!r})"
            report.warn("users", seen, "give NATS users: see docs/nats.md and deploy/nats-users.conf")
    except BusUnavailableError:
        report.ok("users", "nobody gets in without credentials")


def _max_payload(settings: Settings, report: _Report, size: int) -> None:
    seen, advice = f"{size / 2**20:g} MB", "set `max_payload: 8MB` in the server's configuration"
    if size >= MAX_PAYLOAD_BYTES:
        report.ok("max_payload", seen)
    elif size >= settings.ingest.max_frame_bytes:
        report.warn("max_payload", f"{seen}: a large dead letter may not fit", advice)
    else:
        report.fail("max_payload", f"{seen}: less than a frame (ingest.max_frame_bytes)", advice)


async def _jetstream(report: _Report, connection: bus.Bus) -> bool:
    advice = "add a `jetstream { store_dir: ... }` block to the server's configuration, or enable it for this account"
    try:
        info = await connection.api("INFO")
    except BusError as error:
        report.fail("jetstream", error.description, advice)
    except BusUnavailableError:
        # Without JetStream nobody subscribes to $JS.API.
        report.fail("jetstream", "not enabled: $JS.API does not answer", advice)
    else:
        report.ok("jetstream", f"enabled, {info['streams']} streams")
        return True
    return False


async def _sync_interval(settings: Settings, report: _Report) -> None:
    url = settings.nats_monitor_url
    if url is None:
        seen = "unknown; so is whether an acknowledged event is on disk"
        report.warn("sync_interval", seen, "set nats.monitor_url (TIDEGATE_NATS_MONITOR_URL), e.g. http://host:8222")
        return
    try:
        # nats-server 2.15: `/varz` has jetstream.config with sync_interval (ns), and sync_always when it is `always`.
        status, body = await fetch(f"{url.rstrip('/')}/varz", REACH_SECONDS)
        config = msgspec.json.decode(body)["jetstream"]["config"] if status == 200 else {}
    except (OSError, TimeoutError, msgspec.DecodeError, KeyError, TypeError) as error:
        seen = f"unknown: {hide_password(url)} does not tell ({_name(error)})"
        report.warn("sync_interval", seen, "set nats.monitor_url (TIDEGATE_NATS_MONITOR_URL) to the monitoring port")
        return
    if config.get("sync_always"):
        report.ok("sync_interval", "always: acknowledged = on disk")
    else:
        every = _duration(config.get("sync_interval", 0) / 1e9)
        seen = f"every {every}: what was acknowledged may be lost for up to {every} on power loss of a server"
        report.warn("sync_interval", seen, "set `sync_interval: always` in the `jetstream` block")


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


async def _atomic_publish(report: _Report, connection: bus.Bus) -> None:
    name = f"TIDEGATE_DOCTOR_{uuid.uuid4().hex}"
    subject = f"tidegate-doctor.{name}"
    advice = "use nats-server 2.12 or newer, and allow this user to make streams"
    stream = {"name": name, "subjects": [subject], "storage": "memory", "max_age": 60 * 10**9, "allow_atomic": True}
    try:
        await connection.api(f"STREAM.CREATE.{name}", stream)
        try:
            ack = await connection.publish_atomic([bus.Outgoing(subject, b"1", {}), bus.Outgoing(subject, b"2", {})])
        finally:
            await connection.api(f"STREAM.DELETE.{name}")
    except BusError as error:
        report.fail("atomic publish", f"refused: {error.description}", advice)
    except BusUnavailableError as error:
        report.fail("atomic publish", str(error), advice)
    else:
        if ack.count == 2:
            report.ok("atomic publish", "a batch of 2 was stored as one")
        else:
            # An older server does not know the headers and stores each message for itself.
            report.fail("atomic publish", "the server took no notice of the batch", advice)


async def _redis(settings: Settings, report: _Report) -> None:
    address = hide_password(settings.redis_url)
    connection = Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=REACH_SECONDS,
        socket_timeout=REACH_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        info: dict[str, Any] = await connection.info()
        key = f"tidegate-doctor:{uuid.uuid4().hex}"
        await connection.set(key, "1", ex=60)
        await connection.delete(key)
        report.ok("reachable", f"{address}, takes writes")
        own = f" (valkey {info['valkey_version']})" if "valkey_version" in info else ""
        report.version(str(info["redis_version"]), REDIS_VERSION, own)
        try:
            config = {str(name): str(value) for name, value in (await connection.config_get("*")).items()}
        except ResponseError as error:
            seen = f"unknown: the server does not show its configuration ({_name(error)})"
            report.warn("persistence", seen, "look up appendonly, save and maxmemory-policy at whoever runs it")
            return
        _redis_persistence(report, config)
        _redis_eviction(report, config)
    except (RedisError, OSError) as error:
        report.fail("reachable", f"{address}: {_name(error)}", _advice("redis.url", "REDIS_URL"))
    finally:
        await connection.aclose()


def _redis_persistence(report: _Report, config: dict[str, str]) -> None:
    appended, fsync, save = config.get("appendonly"), config.get("appendfsync"), config.get("save")
    refill = "the hot tier then goes on from the position it still has"
    if appended == "yes" and fsync == "always":
        report.ok("persistence", "appendonly, fsync always: nothing is lost")
    elif appended == "yes" and fsync == "everysec":
        report.ok("persistence", f"appendonly, fsync everysec: up to 1 s may be lost on power loss; {refill}")
    elif appended == "yes":
        seen = f"appendonly, fsync {fsync}: up to about 30 s may be lost on power loss; {refill}"
        report.warn("persistence", seen, "set appendfsync everysec")
    elif save:
        seen = f"snapshots only (save {save}): all since the last one is lost when it crashes; {refill}"
        report.warn("persistence", seen, "set appendonly yes")
    else:
        seen = "none: a restart empties the hot tier, and it is filled again from the start of the log"
        report.warn("persistence", seen, "set appendonly yes")


def _redis_eviction(report: _Report, config: dict[str, str]) -> None:
    limit, policy = int(config.get("maxmemory", "0")), config.get("maxmemory-policy", "noeviction")
    size = f"maxmemory {limit / 2**20:g} MB, {policy}" if limit else f"no maxmemory, {policy}"
    advice = "set maxmemory-policy noeviction; expiry (hot.ttl_seconds) keeps the size down"
    if not limit or policy == "noeviction":
        report.ok("eviction", f"{size}: nothing is evicted")
    elif policy.startswith("volatile-"):
        report.warn("eviction", f"{size}: events may be gone before they expire", advice)
    else:
        report.warn("eviction", f"{size}: events may be evicted, and the positions along with them", advice)


async def _mongodb(settings: Settings, report: _Report) -> None:
    address = hide_password(settings.mongodb_uri)
    timeout_ms = int(REACH_SECONDS * 1000)
    client: Any = AsyncIOMotorClient(
        settings.mongodb_uri,
        serverSelectionTimeoutMS=timeout_ms,
        connectTimeoutMS=timeout_ms,
        socketTimeoutMS=timeout_ms,
        tz_aware=True,
    )
    try:
        info = await client.server_info()
        report.ok("reachable", address)
        report.version(str(info["version"]), MONGODB_VERSION)
        database = client[settings.mongodb.database]
        name = f"tidegate_doctor_{uuid.uuid4().hex}"
        try:
            concern = WriteConcern("majority", j=True, wtimeout=timeout_ms)
            await database.get_collection(name, write_concern=concern).insert_one({"_id": 1})
            report.ok("write concern", "majority with journal was acknowledged")
        except PyMongoError as error:
            advice = "Tidegate writes with w=majority and j=true; look at the replica set's state and this user's roles"
            report.fail("write concern", _name(error), advice)
        finally:
            await database.drop_collection(name)
    except ServerSelectionTimeoutError:
        seen = f"{address}: no server to write to within {REACH_SECONDS:g} s"
        report.fail("reachable", seen, _advice("mongodb.uri", "MONGODB_URI"))
    except PyMongoError as error:
        report.fail("reachable", f"{address}: {_name(error)}", _advice("mongodb.uri", "MONGODB_URI"))
    finally:
        client.close()


async def _s3(settings: Settings, report: _Report) -> None:
    address = hide_password(settings.s3_endpoint)
    session = aioboto3.Session(
        aws_access_key_id=settings.s3.access_key,
        aws_secret_access_key=settings.s3.secret_key,
        region_name=settings.s3.region,
    )
    config = Config(
        connect_timeout=REACH_SECONDS,
        read_timeout=REACH_SECONDS,
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
    )
    bucket = settings.s3.bucket
    try:
        async with session.client("s3", endpoint_url=settings.s3_endpoint, config=config) as client:
            made = False
            try:
                await client.head_bucket(Bucket=bucket)
            except ClientError as error:
                if _status(error) != 404:
                    raise
                await client.create_bucket(Bucket=bucket)
                made = True
            report.ok("reachable", f"{address}, bucket {bucket} {'can be made' if made else 'is there'}")
            try:
                await _s3_writes(client, bucket, report)
            finally:
                if made:
                    await client.delete_bucket(Bucket=bucket)
    except ClientError as error:
        advice = "check s3.bucket (S3_BUCKET), s3.access_key and s3.secret_key, and what these keys may do"
        report.fail("bucket", f"{bucket} at {address}: {_name(error)}", advice)
    except (BotoCoreError, OSError) as error:
        report.fail("reachable", f"{address}: {_name(error)}", _advice("s3.endpoint", "S3_ENDPOINT"))


async def _s3_writes(client: Any, bucket: str, report: _Report) -> None:
    key = f"tidegate-doctor/{uuid.uuid4().hex}"
    try:
        await client.put_object(Bucket=bucket, Key=key, Body=b"1", IfNoneMatch="*")
        report.ok("writable", f"an object was put into {bucket}")
        try:
            await client.put_object(Bucket=bucket, Key=key, Body=b"2", IfNoneMatch="*")
        except ClientError as error:
            if _status(error) != 412:
                raise
            report.ok("If-None-Match", "a second put of the same name was refused")
        else:
            seen = "not honoured: two writers could overwrite each other's objects"
            report.fail("If-None-Match", seen, "use a store with conditional writes")
    finally:
        await client.delete_object(Bucket=bucket, Key=key)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


async def _catalog(settings: Settings, report: _Report) -> None:
    address = hide_password(settings.catalog_uri)
    advice = _advice("catalog.uri", "CATALOG_URI")
    try:
        await fetch(f"{settings.catalog_uri.rstrip('/')}/v1/config", REACH_SECONDS)
    except (OSError, TimeoutError) as error:
        report.fail("reachable", f"{address}: {_name(error)}", advice)
        return

    def list_namespaces() -> list[str]:
        catalog = RestCatalog(
            "tidegate-doctor",
            **{
                "uri": settings.catalog_uri,
                "warehouse": settings.catalog.warehouse,
                "rest.sigv4-enabled": str(settings.catalog.sigv4).lower(),
                "rest.sigv4.max-retries": "0",
                "rest.signing-name": "s3tables",
                "rest.signing-region": settings.s3.region,
                "client.access-key-id": settings.s3.access_key,
                "client.secret-access-key": settings.s3.secret_key,
                "client.region": settings.s3.region,
            },
        )
        return [".".join(name) for name in catalog.list_namespaces()]

    try:
        names = await anyio.to_thread.run_sync(list_namespaces, abandon_on_cancel=True)
    except (RESTError, NoSuchNamespaceError, OSError) as error:
        advice = "check catalog.warehouse, s3.access_key and s3.secret_key, and what these keys may do"
        report.fail("namespaces", f"{settings.catalog.warehouse} at {address}: {_name(error)}", advice)
    else:
        report.ok("reachable", address)
        report.ok("namespaces", f"{settings.catalog.warehouse} has {', '.join(names) or 'none yet'}")


async def _kafka(settings: Settings, report: _Report) -> None:
    brokers = settings.kafka.brokers
    try:
        from tidegate.edges.kafka.checks import topics
    except ModuleNotFoundError as error:
        report.fail("client", f"{error.name} is not installed", "pip install 'tidegate[kafka]'")
        return
    try:
        there = await topics(settings.kafka, REACH_SECONDS)
    except ConfigError as error:
        report.fail("settings", f"{error.where} {error.problem}", "mend the table [kafka] of the settings")
        return
    except TierUnavailableError as error:
        report.fail("reachable", f"{brokers}: {_name(error)}", "start it, or set kafka.brokers (KAFKA_BROKERS)")
        return
    report.ok("reachable", str(brokers))
    if missing := [topic for topic, found in there.items() if not found]:
        advice = "create them, or correct kafka.inputs and kafka.outputs; the bridge waits for them"
        report.fail("topics", f"missing: {', '.join(missing)}", advice)
    else:
        report.ok("topics", ", ".join(there))
    if url := settings.kafka.registry:
        try:
            status, _ = await fetch(f"{url.rstrip('/')}/subjects", REACH_SECONDS)
        except (OSError, TimeoutError) as error:
            report.fail("registry", f"{hide_password(url)}: {_name(error)}", "start it, or correct kafka.registry")
        else:
            seen = f"{hide_password(url)} answers {status}"
            if status in (200, 401, 403):
                report.ok("registry", seen)
            else:
                report.fail("registry", seen, "kafka.registry must be the URL of a schema registry's API")
