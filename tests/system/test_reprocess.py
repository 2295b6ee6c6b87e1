"""Raw history through later rules: hot is rebuilt with what it becomes, verified, and rolled back; the log stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.system.harness import System, system, tidegate, until
from tidegate import app, frame, subject
from tidegate.config import Intake
from tidegate.log import Log
from tidegate.reprocess import collect, sets

pytestmark = pytest.mark.anyio

RULES = r"""
pipeline = "own"
sources = ["acme"]

[[stage]]
name = "noise"
type = "filter"
drop = 'unmapped.level == "{noise}"'

[[stage]]
name = "known"
type = "validate"
rules = [{{ name = "level", check = '''unmapped.level in {levels}''', problem = "no level" }}]

[[stage]]
name = "mark"
type = "transform"
operations = [{{ set = {{ status_detail = "{mark!r}" }} }}]
"""
LEVELS = ("debug", "info", "fatal", "odd")


def write(rules: Path, mark: str, noise: str, levels: list[str]) -> None:
    (rules / "own.toml").write_text(RULES.format(mark=mark, noise=noise, levels=levels))


def records(first: int) -> bytes:
    """40 of each level, in frames of which some have one level only."""
    return b"\n".join(
        msgspec.json.encode({"message": f"m{number}", "level": LEVELS[number // 40 % 4], "trace_id": f"t{number % 7}"})
        for number in range(first, first + 20)
    )


async def found(one: System, number: int) -> dict[str, Any]:
    """All events of hot, by message."""
    model: Any = app.read_models(one.settings, ["hot"], {"hot": number})["hot"]
    try:
        await model.open()
        lines = [line for name in range(7) for line in await model.by_correlation(f"t{name}", 1000)]
    finally:
        await model.aclose()
    return {event["message"]: event for event in map(msgspec.json.decode, lines)}


async def test_history_is_run_through_later_rules_and_hot_rebuilt_with_it(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    write(rules, "old", "debug", ["info", "fatal"])  # `odd` becomes dead letters
    with system(tmp_path, intake=Intake(rules_path=str(rules))) as one:
        for name in ("nats", "redis"):
            one.serve(name)
        await one.ready()
        async with one.bus() as bus:
            one.run("transformation-pipeline")
            one.run("storage-manager", "--tiers", "hot")
            await one.ready()
            log = Log(bus, one.declared.shards)
            for number in range(16):
                headers = {frame.CONTENT_TYPE: frame.NDJSON}
                await bus.publish(subject.ingest("acme", number % 4), records(20 * number), headers)

            async def taken_in() -> bool:
                return len(await found(one, 1)) == 160

            await until(taken_in, 30, "hot has all that are events")
            before = await log.tally()

            write(rules, "new", "info", ["debug", "info", "fatal", "odd"])
            shown = json.loads(await tidegate(one, "pipeline", "reprocess", "--json"))
            assert (shown["set"], shown["finished"], shown["kept"]) == (1, True, 0)
            # Those of the last commits of a partition of which nothing had become an event stay for later.
            assert shown["events_before"] == 160
            assert shown["records"] == shown["events"] + shown["filtered"]
            rebuilt = json.loads(await tidegate(one, "rebuild", "hot", "--remade", "1", "--json"))
            assert (rebuilt["generation"], rebuilt["events"]) == (2, shown["events"])
            now = await found(one, 2)
            assert len(now) == shown["events"]
            levels = {name: sum(event["unmapped"]["level"] == name for event in now.values()) for name in LEVELS}
            assert levels["fatal"] == 80
            assert levels["info"] == 0
            assert levels["odd"] > 0
            assert levels["debug"] > 0
            assert {event["status_detail"] for event in now.values()} == {"new"}
            old = await found(one, 1)
            assert {event["status_detail"] for event in old.values()} == {"old"}
            both = old.keys() & now.keys()
            assert all(old[name]["metadata"]["uid"] == now[name]["metadata"]["uid"] for name in both)
            assert await log.tally() == before, "the log's own events stay as they are"

            await tidegate(one, "verify", "--tier", "hot")
            await bus.publish(subject.ingest("acme", 0), b'{"message": "after", "level": "fatal", "trace_id": "t1"}')

            async def goes_on() -> bool:
                return "after" in await found(one, 2)

            await until(goes_on, 30, "the new generation takes in what comes")
            await tidegate(one, "verify", "--tier", "hot")
            await tidegate(one, "rebuild", "rollback", "hot")
            await tidegate(one, "verify", "--tier", "hot")
            again = json.loads(await tidegate(one, "pipeline", "reprocess", "--json"))
            assert (again["set"], again["finished"]) == (2, True)
            third = json.loads(await tidegate(one, "pipeline", "reprocess", "--json"))
            assert third["set"] == 3
            # Set 1 belongs to the generation that a rollback leads to, and the newest may be waiting to be used.
            assert await collect(bus, log, ["hot"]) == [2]
            assert list(await sets(bus, log)) == [1, 3]
