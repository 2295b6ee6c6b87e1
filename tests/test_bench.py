"""`tidegate bench`: each benchmark runs, says all that it has to say, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from msgspec.structs import replace

from tests.conftest import local_settings, running
from tidegate.bench.report import Report, balanced, made, rounds
from tidegate.bus import connect
from tidegate.config import Nats, Redis, Settings
from tidegate.errors import BalanceError
from tidegate.local.processes import environment as of_settings
from tidegate.local.servers import server

ALWAYS = {
    "bench",
    "events",
    "events_per_second",
    "limit",
    "limit_events_per_second",
    "p50_ms",
    "p99_ms",
    "fsync",
    "bar",
    "met",
    "runs",
    "bytes_per_event",
    "seconds",
    "note",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tidegate", "bench", *arguments]


def benched(folder: Path, *arguments: str, settings: Settings | None = None, seconds: float = 60) -> str:
    """What a benchmark in `folder` prints, which has to succeed; with `settings`, or without any."""
    done = subprocess.run(
        command(*arguments),
        env=environment(folder) if settings is None else of_settings(settings),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(folder: Path) -> dict[str, str]:
    """Of a process that finds no settings, and puts its temporary files into `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return kept | {"TMPDIR": str(folder)}


def processes_of(folder: Path) -> list[str]:
    """The command lines of running processes that name `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def assert_nothing_left(folder: Path) -> None:
    assert processes_of(folder) == []
    assert [path.name for path in folder.iterdir() if path.name.startswith("tidegate-bench-")] == []


SLOW = ("warm", "cold", "lake", "rebuild-warm", "rebuild-lake", "websocket", "query")
"""What takes ten seconds or more is left to `make soak`."""


@pytest.mark.parametrize(
    "name",
    [
        *("ingest", "rest", "grpc", "pipeline", "stages", "log", "hot", "rebuild-hot", "kafka-in", "kafka-out"),
        *(pytest.param(name, marks=pytest.mark.soak) for name in SLOW),
    ],
)
def test_a_benchmark_prints_one_complete_json_object_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    printed = benched(tmp_path, name, "--json", "--events", "1000", "--seconds", "0.5", seconds=150)
    (line,) = printed.splitlines()
    report: dict[str, Any] = msgspec.json.decode(line)
    assert report.keys() >= ALWAYS
    assert report["bench"] == name
    assert len(report["runs"]) >= 3
    assert report["events_per_second"] > 0
    assert report["limit_events_per_second"] > 0
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize("name", ["websocket", pytest.param("query", marks=pytest.mark.soak)])
def test_what_starts_processes_of_its_own_does_so_on_servers_that_are_there_too(name: str, tmp_path: Path) -> None:
    settings = local_settings(tmp_path)
    with running(server("nats", settings)), running(server("redis", settings)):
        there = replace(settings, nats=Nats(url=settings.nats_url), redis=Redis(url=settings.redis_url))
        printed = benched(
            tmp_path, name, "--json", "--external", "--events", "1000", "--seconds", "0.5", settings=there, seconds=150
        )
        assert msgspec.json.decode(printed)["bench"] == name

        async def streams() -> Any:
            async with connect(settings.nats_url) as bus:
                return (await bus.api("STREAM.NAMES"))["streams"]

        assert not asyncio.run(streams())
        with redis.Redis.from_url(settings.redis_url) as client:
            assert list(client.scan_iter()) == []


def test_what_is_not_there_is_skipped_with_its_reason(tmp_path: Path) -> None:
    printed = benched(tmp_path, "kafka", "--json", "--external")
    found = [msgspec.json.decode(line) for line in printed.splitlines()]
    assert [one["bench"] for one in found] == ["kafka-in", "kafka-out"]
    assert all("KAFKA_BROKERS" in one["skipped"] for one in found)


def test_the_table_shows_the_limit_beside_the_figure(tmp_path: Path) -> None:
    printed = benched(tmp_path, "pipeline", "--events", "2000", "--seconds", "0.1")
    assert "limit" in printed
    assert "ratio" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_benchmark_and_its_servers(number: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("log", "--seconds", "60"),
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while not (servers := processes_of(tmp_path)) and time.monotonic() < until:
            time.sleep(0.05)
        assert servers
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    finally:
        process.kill()
        process.wait()
    assert_nothing_left(tmp_path)


def test_a_figure_whose_counts_do_not_add_up_is_refused() -> None:
    balanced("events", (3, 17), (3, 17))
    with pytest.raises(BalanceError, match="events: found 2, expected 3"):
        balanced("events", 2, 3)


def test_there_are_at_least_three_rounds_however_short_the_time() -> None:
    assert list(rounds(0.000001)) == [0, 1, 2]


def report(**changes: Any) -> Report:
    given: dict[str, Any] = {
        "bench": "b",
        "events": 10,
        "runs": [90.0, 110.0, 100.0],
        "limit": "l",
        "limit_runs": [200.0, 100.0, 400.0],
        "bar": 100,
        "latencies": [number / 1000 for number in range(1, 101)],
        "latency": "x",
        "fsync": "x",
        "bytes_per_event": 1.5,
        "began": time.monotonic(),
        "place": "x",
    }
    return made(**given | changes)


def test_a_report_has_medians_and_nearest_rank_quantiles() -> None:
    one = report()
    assert (one.events_per_second, one.limit_events_per_second, one.ratio) == (100, 200, 0.5)
    assert (one.p50_ms, one.p99_ms) == (50.0, 99.0)
    assert report(latencies=[0.004]).p99_ms == 4.0


def test_a_bar_is_met_only_with_the_latency_that_goes_with_it() -> None:
    assert report().met
    assert not report(bar=101).met
    assert not report(most_p99_ms=99.0).met
    assert report(most_p99_ms=99.1).met
