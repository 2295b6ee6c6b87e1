"""What goes wrong, when and to whom: a schedule that follows from a seed alone, and how each fault is done.

Invariant: faults of different targets overlap as they fall; those of one target come one after the other.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from tests.system.harness import Program
from tests.system.hole import Hole

__all__ = ["Fault", "Target", "play", "schedule"]

Kind = Literal["kill", "stop", "pause", "cut", "hold", "swallow", "deafen"]
"""`stop` is SIGTERM; `kill` SIGKILL; `pause` SIGSTOP and SIGCONT. The others befall connections, see `Hole`."""
END_SECONDS = 30.0
"""A thread that waits for a store ends only with its timeouts, of 5 s for each try."""
_RECOVERY_SECONDS = 3.0
"""Between two faults of one target, so that it gets to work in between."""


class Target(Struct, frozen=True):
    """What faults can hit. Connections are hit where there is a `hole` before them."""

    program: Program | None = None
    hole: Hole | None = None
    weight: int = 1
    """How often it is chosen, beside the others."""


class Fault(Struct, frozen=True, kw_only=True):
    at: float
    """Seconds after the beginning."""
    kind: Kind
    target: str
    lasts: float
    """Seconds until the process is started or goes on, or connections are taken again; what was swallowed stays so."""


def _lasts(kind: Kind, has_hole: bool, pin_seconds: float, dice: random.Random) -> float:
    match kind:
        case "kill" | "stop":
            return dice.uniform(0, 2.0 if has_hole else 4.0)
        case "pause" | "hold":
            return dice.uniform(pin_seconds + 0.5, pin_seconds + 3.5)
        case "cut":
            return dice.uniform(0, 2.0)
        case _:
            return 0.0


def schedule(
    seed: int, seconds: float, targets: Mapping[str, Target], *, pin_seconds: float, every_seconds: float = 1.2
) -> list[Fault]:
    """Faults that come every `every_seconds` on average and are over after `seconds`; some outlast the pin."""
    dice = random.Random(seed)
    names = list(targets)
    weights = [targets[name].weight for name in names]
    free: dict[str, float] = defaultdict(float)
    found: list[Fault] = []
    at = 0.0
    while (at := at + dice.expovariate(1 / every_seconds)) < seconds:
        (name,) = dice.choices(names, weights)
        kinds: list[Kind] = ["kill", "kill", "stop", "pause"] if targets[name].program else []
        if targets[name].hole:
            kinds += ["cut", "hold", "swallow", "deafen"]
        kind = dice.choice(kinds)
        lasts = _lasts(kind, targets[name].hole is not None, pin_seconds, dice)
        if at >= free[name] and at + lasts < seconds:
            free[name] = at + lasts + _RECOVERY_SECONDS
            found.append(Fault(at=round(at, 3), kind=kind, target=name, lasts=round(lasts, 3)))
    return found


async def play(faults: Sequence[Fault], targets: Mapping[str, Target]) -> list[str]:
    """Do all of it; returns what programs did by themselves: which ended, and which did not when told to."""
    began = asyncio.get_running_loop().time()
    by_target: defaultdict[str, list[Fault]] = defaultdict(list)
    for one in faults:
        by_target[one.target].append(one)

    async def befall(name: str, mine: list[Fault]) -> list[str]:
        unruly = []
        for one in mine:
            await asyncio.sleep(began + one.at - asyncio.get_running_loop().time())
            program = targets[name].program
            if program is not None and not program.running:
                unruly.append(f"{name} ended before {one.at:g} s")
                program.start()
            try:
                await _do(one, targets[name])
            except AssertionError:
                if targets[name].hole is not None:  # one of Tidegate's own
                    unruly.append(f"{name} did not end at {one.at:g} s")
        return unruly

    found = await asyncio.gather(*(befall(name, mine) for name, mine in by_target.items()))
    return [name for names in found for name in names]


async def _do(fault: Fault, target: Target) -> None:
    """Raises AssertionError for a program that does not end when it is told to; it is started again all the same."""
    program, hole = target.program, target.hole
    match fault.kind:
        case "kill" | "stop" if program is not None:
            try:
                if fault.kind == "stop":
                    program.signal(signal.SIGTERM)
                    await program.ended(END_SECONDS)
            finally:
                program.kill()
                await asyncio.sleep(fault.lasts)
                program.start()
        case "pause" if program is not None:
            program.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.lasts)
            finally:
                program.signal(signal.SIGCONT)
        case "cut" if hole is not None:
            hole.refuse()
            hole.cut()
            await asyncio.sleep(fault.lasts)
            await hole.accept()
        case "hold" if hole is not None:
            hole.hold()
            await asyncio.sleep(fault.lasts)
            hole.go_on()
        case "swallow" if hole is not None:
            hole.swallow()
        case "deafen" if hole is not None:
            hole.deafen()
