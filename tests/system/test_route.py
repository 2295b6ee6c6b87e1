"""Events that a pipeline routes: into some read models only, and as copies on subjects, through a kill."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from nats.aio.msg import Msg

from tests.system.harness import system, tidegate, until
from tidegate import app, frame, subject
from tidegate.config import Intake, Lake
from tidegate.log import Log

pytestmark = pytest.mark.anyio

RULES = """
pipeline = "routes"
sources = ["acme"]

[[stage]]
name = "quiet"
type = "route"
when = 'unmapped.level == "debug"'
tiers = ["lake"]

[[stage]]
name = "loud"
type = "route"
when = 'unmapped.level == "fatal"'
subjects = ["siem.fatal", "pager"]
"""
LEVELS = ("debug", "info", "fatal")


def records(first: int) -> bytes:
    return b"\n".join(
        msgspec.json.encode({"message": f"m{number}", "level": LEVELS[number % 3]})
        for number in range(first, first + 30)
    )


async def test_routed_events_are_where_they_belong_and_copies_survive_a_kill(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "routes.toml").write_text(RULES)
    with system(tmp_path, lake=Lake(commit_seconds=0.5), intake=Intake(rules_path=str(rules))) as one:
        for name in ("nats", "redis", "s3"):
            one.serve(name)
        await one.ready()
        async with one.bus() as bus:
            pipeline = one.run("transformation-pipeline")
            one.run("storage-manager", "--tiers", "hot,cold,lake")
            await one.ready()
            log = Log(bus, one.declared.shards)
            copies: dict[str, Counter[str]] = {"siem.fatal": Counter(), "pager": Counter()}

            async def copied(message: Msg) -> None:
                headers = message.headers or {}
                assert headers["Nats-Msg-Id"].startswith("LOG/")
                _, lines = frame.open_frame(message.data, headers["Content-Type"], headers["Content-Encoding"], 2**20)
                copies[message.subject].update(msgspec.json.decode(line)["message"] for line in lines)

            for name in copies:
                await bus.subscribe(name, copied)
            headers = {frame.CONTENT_TYPE: frame.NDJSON}
            for number in range(20):
                await bus.publish(subject.ingest("acme", number % 4), records(30 * number), headers)
                if number == 10:
                    pipeline.kill()
            one.run("transformation-pipeline", name="heir")
            expected = {f"m{number}" for number in range(600) if number % 3 == 2}

            async def all_copied() -> bool:
                return all(set(found) == expected for found in copies.values())

            await until(all_copied, 30, "every routed event was copied")
            assert await log.events_taken_in() == 600

            models = app.read_models(one.settings, ["hot", "cold", "lake"])
            try:
                for model in models.values():
                    await model.open()
                for name, count in (("hot", 400), ("cold", 600), ("lake", 600)):

                    async def all_in(name: str = name, count: int = count) -> bool:
                        return (await models[name].tally()).count == count

                    await until(all_in, 30, f"{name} has {count} events")
            finally:
                for model in models.values():
                    await model.aclose()

        for name in ("hot", "lake"):
            await tidegate(one, "verify", "--tier", name)
        shown = json.loads(await tidegate(one, "rebuild", "hot", "--json"))
        assert (shown["events"], shown["generation"]) == (400, 2)
