"""A rebuild, a rollback and a damaged read model as an operator sees them, while events keep flowing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.harness import ROOT, System, system, until
from tests.system.load import Load, in_log
from tidegate import app
from tidegate.bus import connect
from tidegate.config import Cold, Lake
from tidegate.local.processes import environment
from tidegate.log import Log

pytestmark = pytest.mark.anyio


def _run(one: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tidegate", *arguments]
    return subprocess.run(command, env=environment(one.settings), cwd=ROOT, capture_output=True, text=True, timeout=60)


async def tidegate(one: System, *arguments: str, code: int = 0) -> str:
    done = await asyncio.to_thread(_run, one, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


async def test_rebuilds_while_events_flow_lose_and_double_nothing(tmp_path: Path) -> None:
    with system(tmp_path, cold=Cold(object_seconds=0.3), lake=Lake(commit_seconds=0.7)) as one:
        for name in ("nats", "redis", "mongo", "s3"):
            one.serve(name)
        await one.ready()
        one.run("event-streaming")
        one.run("transformation-pipeline")
        manager = one.run("storage-manager")
        await one.ready()
        async with connect(one.settings.nats_url) as bus:
            log = Log(bus, one.declared.shards)
            async with Load(bus) as load:
                for tier in ("hot", "lake"):
                    found = json.loads(await tidegate(one, "rebuild", tier, "--json"))
                    assert (found["generation"], found["previous"]) == (2, 1)
                await load.stop()
                await in_log(bus, one.declared, load)
            # Without the load: the local stand-in for MongoDB slows down a hundredfold with several writers.
            assert json.loads(await tidegate(one, "rebuild", "warm", "--json"))["generation"] == 2
            assert "generation 1 serves" in await tidegate(one, "rebuild", "rollback", "warm")
            tally = await log.tally()
            for name, generation in {"hot": 2, "warm": 1, "lake": 2, "cold": 1}.items():
                model = app.read_models(one.settings, [name], {name: generation})[name]
                try:
                    await model.open()

                    async def whole() -> bool:
                        return await model.tally() == tally  # noqa: B023

                    await until(whole, 30, f"{name} is caught up:\n{manager.log_tail()}")
                finally:
                    await model.aclose()
            assert set((await manager.cells()).values()) == {"running"}
        shown = await tidegate(one, "verify")
        assert [f"{name}: equal" in shown for name in ("hot", "warm", "cold", "lake")] == [True] * 4, shown
        assert "dropped" not in await tidegate(one, "rebuild", "gc")  # both generations of each are kept
