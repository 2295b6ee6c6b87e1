"""One run: everything is started, loaded and disturbed; then it settles, and is judged.

Invariant: a run ends in a report, also when something never settles: then the report says what.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import msgspec

from tests.chaos import oracle
from tests.chaos.faults import Fault, Target, play, schedule
from tests.chaos.report import Report
from tests.chaos.witness import Asker, asking, listening
from tests.conftest import free_ports
from tests.system.harness import System, system, until
from tests.system.hole import Hole
from tests.system.load import Found, Load
from tests.system.oracles import ORACLES
from tests.system.settled import caught_up, entities_caught_up, in_log
from tidegate import app
from tidegate.actor.system import System as Entities
from tidegate.bus import Bus, connect
from tidegate.config import Cold, Lake
from tidegate.entities.effects import KIND, EffectProgress
from tidegate.errors import BusUnavailableError, TidegateError
from tidegate.log import Log
from tidegate.projection import Rebuildable
from tidegate.verify import compare

__all__ = ["run"]

SETTLE_SECONDS = 300.0
"""Long: the local stand-in for MongoDB takes in 2,900 events a second, and less after each restart."""
SERVERS = {"nats": 2, "redis": 1, "mongo": 1, "s3": 1}
"""Name -> weight."""
PROCESSES = {
    "event-streaming": ("event-streaming",),
    "intake-1": ("transformation-pipeline",),
    "intake-2": ("transformation-pipeline",),
    "entities-1": ("entities",),
    "entities-2": ("entities",),
    "storage-1": ("storage-manager", "--tiers", "hot,cold,lake"),
    "storage-2": ("storage-manager", "--tiers", "hot,cold,lake"),
    # One alone: the local stand-in for MongoDB slows down a hundredfold with several writers.
    "storage-3": ("storage-manager", "--tiers", "warm"),
}
UNEXPECTED = ("cell.failed", "cell.stopped", "command.failed")
"""What none of the faults may lead to."""
KINDS = ("correlation", "alert")
ASKED = 100
"""So many correlations are asked for their state."""


async def run(folder: Path, seed: int, seconds: float) -> tuple[Report, list[Fault]]:
    """A run of its own servers and processes in `folder`; the faults as they were planned come with the report."""
    with system(folder, cold=Cold(object_seconds=0.3), lake=Lake(commit_seconds=0.7)) as one:
        async with contextlib.AsyncExitStack() as stack:
            for name in SERVERS:
                one.serve(name)
            await one.ready()
            targets = {name: Target(one.programs[name], weight=weight) for name, weight in SERVERS.items()}
            for name, (process, *options) in PROCESSES.items():
                hole, url = await _hole(one, stack)
                targets[name] = Target(one.run(process, *options, name=name, nats_url=url), hole)
            hole, url = await _hole(one, stack)
            targets["publisher"] = Target(hole=hole)
            await one.ready()
            direct = await stack.enter_async_context(connect(one.settings.nats_url))
            through = await stack.enter_async_context(connect(url))
            this = _Run(one, direct, through)
            await stack.enter_async_context(listening(direct, this.told))
            await until(this.effects_have_begun, 60, "the effects of alerts have begun")
            faults = schedule(seed, seconds, targets, pin_seconds=one.settings.intake.pin_timeout_seconds)
            unruly = await this.disturb(faults, targets)
            unruly += _start_what_has_ended(one)
            began = time.monotonic()
            unsettled = await this.settle()
            report = await this.judge(
                seed=seed,
                seconds=seconds,
                faults=dict(Counter(fault.kind for fault in faults)),
                settled_seconds=round(time.monotonic() - began, 1),
                unsettled=unsettled,
                errors=_errors(one),
                unruly=unruly + _start_what_has_ended(one),
            )
            return report, faults


async def _hole(one: System, stack: contextlib.AsyncExitStack) -> tuple[Hole, str]:
    (port,) = free_ports(1)
    hole = Hole(one.settings.local.nats_port)
    await stack.enter_async_context(hole.listening(port))
    return hole, f"nats://127.0.0.1:{port}"


def _start_what_has_ended(one: System) -> list[str]:
    ended = [program for program in one.programs.values() if not program.running]
    for program in ended:
        program.start()
    return [f"{program.name} ended after the last fault" for program in ended]


def _errors(one: System) -> dict[str, int]:
    found = [error for name in PROCESSES for error in one.programs[name].logged(*UNEXPECTED)]
    return dict(Counter(f"{error['cell']}: {error.get('error') or error.get('reason')}" for error in found))


class _Run:
    """What one run loads, listens to and judges; `direct` is never disturbed, `through` is."""

    def __init__(self, one: System, direct: Bus, through: Bus) -> None:
        shards = one.declared.shards
        self._one = one
        self._bus = direct
        self.log = Log(direct, shards)
        spread = Load(through, pause_seconds=0.2)
        ordered = Load(through, batch=20, pause_seconds=0.1, partition=0)
        self._loads = {"spread": spread, "ordered": ordered}
        self._asker = Asker(Entities(through, Log(through, shards)))
        self.told: Counter[str] = Counter()

    async def effects_have_begun(self) -> bool:
        """Alerts of before the first start have no effects."""
        return all([(await self.log.newest(KIND, shard, EffectProgress))[1] for shard in range(self.log.shards)])

    async def disturb(self, faults: list[Fault], targets: dict[str, Target]) -> list[str]:
        """Everything under load, until the last fault is over and the last publish and command answered.

        Returns what programs did by themselves.
        """
        spread, ordered = self._loads.values()
        async with asking(self._asker), spread, ordered:
            return await play(faults, targets)

    async def settle(self) -> str:
        """What has not come to an end in time; empty: everything has."""
        models = app.read_models(self._one.settings)
        try:
            await self._one.ready()
            for load in self._loads.values():
                await in_log(self._bus, self._one.declared, load, SETTLE_SECONDS)
            await entities_caught_up(self._bus, self.log, SETTLE_SECONDS)
            await caught_up(models.values(), self.log, SETTLE_SECONDS)
        except (AssertionError, TimeoutError, TidegateError) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            for model in models.values():
                await model.aclose()
        return ""

    async def judge(self, **known: Any) -> Report:
        """`known`: what is not found out here."""
        loads = self._loads.values()
        logged = await oracle.read(self.log, KINDS)
        changes = logged.changes
        return Report(
            published=sum(load.made for load in loads),
            acknowledged=sum(len(load.acknowledged) for load in loads),
            uncertain=sum(len(load.uncertain) for load in loads),
            overtaken=sum(load.overtaken for load in loads),
            found=await self._found(),
            differing=await self._differing(),
            correlations=oracle.counts(changes["correlation"], logged.correlated),
            entities={kind: oracle.entities(kind, changes[kind]) for kind in KINDS},
            alerts=oracle.alerts(changes["alert"], logged.due, self.told),
            commands=oracle.commands(changes["alert"], self._asker.answered),
            unanswered=self._asker.unanswered,
            wrong_versions=self._asker.wrong_versions,
            wrong_states=await self._wrong_states(logged.correlated),
            **known,
        )

    async def _found(self) -> dict[str, Found]:
        found: dict[str, Found] = {}
        for name, load in self._loads.items():
            found[f"log, {name}"], found[f"dead letters, {name}"] = await load.found_in(self.log)
        for tier, holds in ORACLES.items():
            ids = await asyncio.to_thread(holds, self._one.settings)
            for name, load in self._loads.items():
                found[f"{tier}, {name}"] = load.compare(ids, load.acknowledged - load.broken)
        return found

    async def _differing(self) -> dict[str, int]:
        differing = {}
        for tier, model in app.read_models(self._one.settings).items():
            await model.open()
            differing[tier] = len((await compare(self.log, cast("Rebuildable", model))).differences)
            await model.aclose()
        return differing

    async def _wrong_states(self, correlated: Counter[str]) -> int:
        """Among the largest correlations."""
        entities = Entities(self._bus, self.log)
        wrong = 0
        for name, count in correlated.most_common(ASKED):
            try:
                answer = await entities.get("correlation", name, timeout_seconds=30)
            except BusUnavailableError:
                wrong += 1
            else:
                wrong += (msgspec.json.decode(answer.state) or {}).get("count", 0) != count
        return wrong
