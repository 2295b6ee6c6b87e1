"""Rules that change while the processes run: by an edited file, by commands over HTTP, and back again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from msgspec.structs import replace

from tests.system.harness import System, system, tidegate, until
from tidegate import frame, subject
from tidegate.actor.system import System as Entities
from tidegate.config import Intake
from tidegate.entities.pipeline import PipelineHistory, RollBack, version_of
from tidegate.errors import CommandRefusedError
from tidegate.lifecycle import histories
from tidegate.log import Log, lines_of
from tidegate.optimising import put_into_use
from tidegate.pipeline.library import load_library
from tidegate.pipeline.optimiser.optimise import optimise
from tidegate.sample import newest as sampled

pytestmark = pytest.mark.anyio

TEXT = """
pipeline = "own"
[[stage]]
name = "mark"
type = "transform"
[[stage.operations]]
set = { "status_detail" = "'MARK'" }
"""


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rules")
    (folder / "own.toml").write_text(TEXT.replace("MARK", "one"))
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, rules: Path) -> Iterator[System]:
    with system(tmp_path_factory.mktemp("lifecycle"), intake=Intake(rules_path=str(rules))) as one:

        async def begin() -> None:
            await one.serve("nats").ready()
            async with one.bus():
                pass
            one.run("entities")
            one.run("transformation-pipeline")
            await one.ready()

        asyncio.run(begin())
        yield one


async def newest(running: System) -> dict[str, Any]:
    """The event that a record published now becomes."""
    async with running.bus() as bus:
        ack = await bus.publish(subject.ingest("acme", 0), b'{"message": "hello", "trace_id": "t-1"}')
        shard = subject.shard_of("t-1", running.declared.shards)

        async def there() -> bool:
            message = await bus.last_message(subject.LOG, subject.event(shard))
            return message is not None and message.headers["Tidegate-Cause"].endswith(f"-{ack.seq}")

        await until(there, 10, "the event is in the log")
        message = await bus.last_message(subject.LOG, subject.event(shard))
        assert message is not None
        event: dict[str, Any] = msgspec.json.decode(lines_of(message)[-1])
        return event


async def marked(running: System, mark: str) -> bool:
    return bool((await newest(running))["status_detail"] == mark)


async def test_a_pipeline_through_its_life(running: System, rules: Path) -> None:
    port = running.settings.http.transformation_pipeline_port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as http:
        assert await marked(running, "one")
        event = await newest(running)
        first = event["metadata"]["transformation_info_list"][0]["uid"]

        (rules / "own.toml").write_text(TEXT.replace("MARK", "two"))
        await until(partial(marked, running, "two"), 20, "the edited file is used")
        (rules / "own.toml").write_text(TEXT.replace("transform", "trnsform"))

        async def refused() -> bool:
            (listed,) = (await http.get("/v1/pipelines")).json()
            return "own.toml:5" in listed["problem"]

        await until(refused, 20, "the broken file is noticed")
        assert await marked(running, "two")

        async def both_known() -> bool:
            shown = (await http.get("/v1/pipelines/own")).json()
            return [one["origin"] for one in shown["versions"]] == ["own.toml", "own.toml"]

        await until(both_known, 20, "both versions are in the log")
        back = await http.post("/v1/pipelines/own/rollback", headers={"x-user": "ada"})
        assert back.status_code == 202, back.text
        await until(partial(marked, running, "one"), 20, "the version before is used")
        assert (await newest(running))["metadata"]["transformation_info_list"][0]["uid"] == first

        bad = await http.post("/v1/pipelines/own/versions", content=TEXT.replace("status_detail", "status_detial"))
        assert (bad.status_code, "status_detail" in bad.json()["detail"]) == (400, True)
        fine = TEXT.replace("MARK", "three")
        defined = await http.post("/v1/pipelines/own/versions", content=fine, params={"activate": "true"})
        assert defined.status_code == 202, defined.text
        await until(partial(marked, running, "three"), 20, "the version defined over HTTP is used")

        unknown = await http.post("/v1/pipelines/own/versions/0123456789ab/activate")
        assert unknown.status_code == 404
        tried = await http.post(
            "/v1/pipelines/try",
            json={"source": "acme", "records": ['{"a": 1}'], "text": TEXT.replace("MARK", "four"), "explain": True},
        )
        assert tried.json()["fates"][0]["event"]["status_detail"] == "four"
        assert [step["stage"] for step in tried.json()["steps"][0]] == ["mapping", "mark"]
        metrics = (await http.get("/v1/pipelines/own/metrics")).json()
        assert (metrics["success_rate"], metrics["stages"]["mark"]["taken"] > 0) == (1.0, True)
        assert metrics["bytes_out"] > metrics["bytes_in"] > 0
        (steps,) = (await http.get("/v1/pipelines/own/sample")).json()
        assert [step["stage"] for step in steps] == ["mapping", "mark"]
        assert steps[1]["bytes_out"] > 0

    # Known text: what the log has in use stays in use.
    (rules / "own.toml").write_text(TEXT.replace("MARK", "two"))
    program = running.programs["transformation-pipeline"]
    program.kill()
    program.start()
    await program.ready()
    await until(partial(marked, running, "three"), 20, "what is in use outlives the process")


SLOW = """
pipeline = "slow"
sources = ["web"]

[[stage]]
name = "label"
type = "transform"
[[stage.operations]]
set = { status_detail = "concat(lower(text(unmapped.path)), ' ', replace(text(unmapped.agent), 'a', 'b'))" }
[[stage.operations]]
set = { status_code = "replace(replace(upper(text(unmapped.agent)), 'A', 'b'), 'E', 'b')" }
[[stage.operations]]
set = { status_code = "replace(replace(upper(text(unmapped.agent)), 'A', 'c'), 'E', 'c')" }
[[stage.operations]]
set = { status_code = "replace(replace(upper(text(unmapped.agent)), 'A', 'd'), 'E', 'd')" }
[[stage.operations]]
set = { status_code = "replace(replace(upper(text(unmapped.agent)), 'A', 'f'), 'E', 'f')" }
[[stage.operations]]
set = { status_code = "replace(replace(upper(text(unmapped.agent)), 'A', 'g'), 'E', 'g')" }

[[stage]]
name = "health"
type = "filter"
drop = "unmapped.path == '/health'"
"""


def requests(first: int, count: int, path: str = "/health") -> bytes:
    lines = (
        {"path": path if number % 5 else "/login", "agent": f"agent {number}"} for number in range(first, first + count)
    )
    return b"\n".join(map(msgspec.json.encode, lines))


async def test_a_pipeline_is_made_quicker_and_one_that_does_otherwise_is_rolled_back(
    running: System, rules: Path
) -> None:
    (rules / "slow.toml").write_text(SLOW)

    async def history() -> PipelineHistory:
        async with running.bus() as bus:
            found = await histories(bus, Log(bus, running.declared.shards))
            return found.get("slow", PipelineHistory())

    async def defined() -> bool:
        return bool((await history()).active)

    await until(defined, 20, "the new file is in use")
    original = (await history()).active
    headers = {frame.CONTENT_TYPE: frame.NDJSON}
    async with running.bus() as bus:
        for number in range(10):
            await bus.publish(subject.ingest("web", number % 4), requests(200 * number, 200), headers)
        asked = asyncio.create_task(
            tidegate(running, "pipeline", "optimise", "slow", "--activate", "--watch", "6", "--seconds", "1", "--json")
        )
        while not asked.done():
            await bus.publish(subject.ingest("web", 0), requests(0, 50), headers)
            await asyncio.sleep(0.3)
        report = msgspec.json.decode(await asked)
        assert report["candidate"]["proof"]["equal"] == report["records"] >= 2000
        assert report["candidate"]["gain"]["gain"] > 0.03
        assert report["watched"]["records"] > 0
        assert (report["watched"].get("differing", 0), report["watched"].get("rolled_back", "")) == (0, "")
        now = await history()
        version = now.find(now.active)
        assert version is not None
        assert (now.active, now.previous) == (report["candidate"]["version"], original)
        assert (version.optimises, version.origin) == (original, "optimise")

        # A candidate that was equal on the sample only: what comes later tells.
        log = Log(bus, running.declared.shards)
        entities = Entities(bus, log)
        library = load_library(rules)
        frames = [one async for one in sampled(bus, "web", 500, 2**24)]
        await entities.ask("pipeline", "slow", RollBack("test", "to try another one"))
        told = await asyncio.to_thread(optimise, library, "slow", frames, 0.2)
        assert told.candidate is not None
        text = told.candidate.text.replace("'/health'", "'/health' or unmapped.path == '/new'")
        wrong = replace(told, candidate=replace(told.candidate, text=text, version=version_of(text)))
        assert wrong.candidate is not None
        assert wrong.candidate.gain is not None
        no_gain = replace(wrong.candidate, gain=replace(wrong.candidate.gain, gain=0.01, least=-0.01))
        assert not await put_into_use(entities, replace(wrong, candidate=no_gain), "test", 20)
        assert (await history()).active == original, "what is not better is noted, and not used"
        assert await put_into_use(entities, wrong, "test", 20)
        assert (await history()).active == version_of(text)
        # The watch is the log's, not of the process that began it.
        program = running.programs["transformation-pipeline"]
        program.kill()
        program.start()
        await program.ready()

        async def judged() -> bool:
            await bus.publish(subject.ingest("web", 1), requests(0, 50, "/new"), headers)
            await asyncio.sleep(0.2)
            return (await history()).active == original

        await until(judged, 20, "it is rolled back")
        seen = (await history()).watch
        assert seen is not None
        assert seen.differing == seen.records * 4 // 5 > 0
        assert f"{seen.differing} of {seen.records} records came out otherwise" in seen.rolled_back
        with pytest.raises(CommandRefusedError, match="rolled back before"):
            await put_into_use(entities, wrong, "test", 20)

        # One that stops where the original does not.
        stops = told.candidate.text.replace('name = "health"', 'name = "health"\non_error = { action = "fail" }', 1)
        stops += '\n[[stage]]\nname = "s"\ntype = "validate"\non_error = { action = "fail" }\n[[stage.rules]]\n'
        stops += 'name = "x"\ncheck = "unmapped.path != \'/bad\'"\n'
        bad = replace(told, candidate=replace(told.candidate, text=stops, version=version_of(stops)))
        assert await put_into_use(entities, bad, "test", 20)
        await asyncio.sleep(4)  # until the processes use it, and watch it
        before = (await Log(bus, running.declared.shards).state()).last_sequence
        await bus.publish(subject.ingest("web", 1), requests(0, 50, "/bad"), headers)

        async def rolled_back() -> bool:
            return (await history()).active == original

        await until(rolled_back, 20, "it is rolled back")
        seen = (await history()).watch
        assert seen is not None
        assert "it stops where" in seen.rolled_back

        async def taken_in() -> bool:
            return (await Log(bus, running.declared.shards).state()).last_sequence > before

        await until(taken_in, 20, "what it stopped at goes through the original")

        # One that does the same, and takes longer.
        first = SLOW.index("[[stage]]")
        slow = SLOW[:first]
        for number in range(12):
            slow += f'[[stage]]\nname = "idle{number}"\ntype = "filter"\n'
            slow += "drop = \"replace(replace(lower(text(unmapped.agent)), 'e', 'a'), 'a', 'o') == 'never'\"\n"
        slow += SLOW[first:]
        lame = replace(told, candidate=replace(told.candidate, text=slow, version=version_of(slow)))
        assert await put_into_use(entities, lame, "test", 14)

        async def too_slow() -> bool:
            await bus.publish(subject.ingest("web", 1), requests(0, 200), headers)
            await asyncio.sleep(0.2)
            return (await history()).active == original

        await until(too_slow, 40, "it is rolled back")
        seen = (await history()).watch
        assert seen is not None
        assert "more time than" in seen.rolled_back
        assert (seen.differing, seen.gain < -0.05) == (0, True)
