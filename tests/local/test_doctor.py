"""`tidegate doctor` tells what each server is, what its promises mean, and what to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest
from redis import Redis

from tests.conftest import local_settings, running
from tidegate.config import Nats, Settings
from tidegate.local.doctor import Finding, examine
from tidegate.local.servers import server


def diagnose(settings: Settings) -> dict[tuple[str, str], Finding]:
    findings = anyio.run(partial(examine, settings))
    return {(one.server, one.check): one for one in findings}


@pytest.fixture(scope="module")
def healthy(serve: Callable[[str], Settings]) -> Settings:
    for name in ("nats", "redis", "mongo"):
        serve(name)
    return serve("s3")


def test_healthy_servers_pass_every_check(healthy: Settings) -> None:
    found = diagnose(healthy)
    assert {name: one for name, one in found.items() if one.result != "ok"} == {}
    assert set(found) == {
        *(("nats", check) for check in ("reachable", "version", "max_payload", "jetstream", "sync_interval")),
        ("nats", "atomic publish"),
        *(("redis", check) for check in ("reachable", "version", "persistence", "eviction")),
        *(("mongodb", check) for check in ("reachable", "version", "write concern")),
        *(("s3", check) for check in ("reachable", "writable", "If-None-Match")),
        *(("catalog", check) for check in ("reachable", "namespaces")),
    }
    assert found["nats", "sync_interval"].seen == "always: acknowledged = on disk"
    assert found["nats", "version"].seen.startswith("2.")


def test_a_missing_bucket_that_can_be_made_is_fine_and_not_left_behind(healthy: Settings) -> None:
    settings = msgspec.structs.replace(healthy, s3=msgspec.structs.replace(healthy.s3, bucket="elsewhere"))
    for _ in range(2):
        found = diagnose(settings)
        assert "elsewhere can be made" in found["s3", "reachable"].seen
        assert found["s3", "If-None-Match"].result == "ok"


def test_wrong_keys_are_told_from_a_dead_server(healthy: Settings) -> None:
    settings = msgspec.structs.replace(healthy, s3=msgspec.structs.replace(healthy.s3, secret_key="wrong"))
    found = diagnose(settings)
    assert found["s3", "bucket"].result == "fail"
    assert "s3.secret_key" in found["s3", "bucket"].advice
    assert found["catalog", "namespaces"].result == "fail"


def test_a_missing_warehouse_is_told_from_a_dead_catalog(healthy: Settings) -> None:
    catalog = msgspec.structs.replace(healthy.catalog, warehouse="s3://nowhere")
    found = diagnose(msgspec.structs.replace(healthy, catalog=catalog))
    assert found["catalog", "namespaces"].result == "fail"
    assert "s3://nowhere" in found["catalog", "namespaces"].seen
    assert "catalog.warehouse" in found["catalog", "namespaces"].advice


def test_eviction_that_takes_positions_along_is_warned_of(healthy: Settings) -> None:
    with Redis.from_url(healthy.redis_url) as redis:
        redis.config_set("maxmemory", "1gb")
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            finding = diagnose(healthy)["redis", "eviction"]
        finally:
            redis.config_set("maxmemory-policy", "noeviction")
            redis.config_set("maxmemory", "0")
    assert finding.result == "warn"
    assert "positions" in finding.seen


def test_dead_servers_fail_within_ten_seconds_naming_address_and_setting(tmp_path: Path) -> None:
    settings = local_settings(tmp_path)
    began = time.monotonic()
    found = diagnose(settings)
    assert time.monotonic() - began < 10
    expected = {
        "nats": (settings.nats_url, "NATS_URL"),
        "redis": (settings.redis_url, "REDIS_URL"),
        "mongodb": (settings.mongodb_uri, "MONGODB_URI"),
        "s3": (settings.s3_endpoint, "S3_ENDPOINT"),
        "catalog": (settings.catalog_uri, "CATALOG_URI"),
    }
    assert set(found) == {(name, "reachable") for name in expected}
    for name, (address, variable) in expected.items():
        finding = found[name, "reachable"]
        assert finding.result == "fail"
        assert address in finding.seen
        assert variable in finding.advice


@pytest.mark.parametrize("jetstream", [False, True])
def test_a_plain_nats_server_is_told_what_it_lacks(healthy: Settings, tmp_path: Path, jetstream: bool) -> None:
    plain = local_settings(tmp_path)
    one = server("nats", plain)
    config = one.command.index("-c")
    command = one.command[:config] + one.command[config + 2 :] + (["-js"] if jetstream else [])
    with running(replace(one, command=command)):
        watched = Nats(url=plain.nats_url, monitor_url=plain.nats_monitor_url)
        found = diagnose(msgspec.structs.replace(healthy, nats=watched))
        unwatched = diagnose(msgspec.structs.replace(healthy, nats=Nats(url=plain.nats_url)))
    assert found["nats", "max_payload"].result == "fail"
    assert "1 MB" in found["nats", "max_payload"].seen
    if jetstream:
        assert found["nats", "sync_interval"].result == "warn"
        assert "may be lost for up to 2 min on power loss" in found["nats", "sync_interval"].seen
        assert "sync_interval: always" in found["nats", "sync_interval"].advice
        assert found["nats", "atomic publish"].result == "ok"
        assert unwatched["nats", "sync_interval"].seen.startswith("unknown")
        assert "TIDEGATE_NATS_MONITOR_URL" in unwatched["nats", "sync_interval"].advice
    else:
        assert found["nats", "jetstream"].result == "fail"
        assert "jetstream {" in found["nats", "jetstream"].advice
        assert ("nats", "atomic publish") not in found
