"""Stages that look at events and leave them as they are: validate, filter, deduplicate, aggregate, route."""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from tidegate import subject
from tidegate.errors import ConfigError
from tidegate.frame import Destination
from tidegate.pipeline.definition import Aggregate, Deduplicate, Filter, Route, Validate
from tidegate.pipeline.stages.body import Body

__all__ = ["Recent", "write_aggregate", "write_deduplicate", "write_filter", "write_route", "write_validate"]


_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")  # As Kafka has it.


def write_validate(stage: Validate, body: Body) -> None:
    for index, rule in enumerate(stage.rules):
        code = body.condition(rule.check, ["rules", index, "check"])
        problem = rule.problem or f"not so: {rule.check}"
        body.put(
            f"if not ({code}):", f"    raise RecordError('validate', {f'{stage.name}.{rule.name}'!r}, {problem!r})"
        )


def write_filter(stage: Filter, body: Body) -> None:
    if bool(stage.drop) == bool(stage.keep):
        raise body.fail([], f'the filter "{stage.name}" needs either "drop" or "keep"')
    code = body.condition(stage.drop, ["drop"]) if stage.drop else body.condition(stage.keep, ["keep"])
    body.put(f"if {code}:" if stage.drop else f"if not ({code}):", "    drop(row)", "    continue")


def write_deduplicate(stage: Deduplicate, body: Body) -> None:
    parts = []
    for index, text in enumerate(stage.key):
        code, _ = body.expression(text, ["key", index])
        body.put(f"k{index} = {code}")
        parts.append(f"k{index}")
    body.names["RECENT"] = Recent(stage.seconds * 1000, stage.most)
    tests = " and ".join(f"{part} is not None" for part in parts)
    body.put(
        f"if {tests} and RECENT.seen(({', '.join(parts)},), e.metadata.uid, e.time):", "    drop(row)", "    continue"
    )


def write_aggregate(stage: Aggregate, body: Body) -> None:
    """Checks the window; the process `entities` reads the stage, too, and counts the events of the log."""
    if stage.when:
        raise body.fail(["when"], 'windows count events of the log: say which in "window.where"')
    try:
        stage.window.check()
    except ConfigError as error:
        raise body.fail(["window"], str(error)) from error
    body.put("pass")


def write_route(stage: Route, body: Body) -> None:
    if not (stage.tiers or stage.subjects or stage.topics):
        raise body.fail([], f'the stage "{stage.name}" routes nowhere: say "tiers", "subjects" or "topics"')
    for index, name in enumerate(stage.subjects):
        if not subject.valid_outside(name):
            raise body.fail(["subjects", index], f'"{name}" is no plain subject, or one that Tidegate itself reads')
    for index, name in enumerate(stage.topics):
        if _TOPIC.fullmatch(name) is None:
            raise body.fail(["topics", index], f'"{name}" is no name of a topic: letters, digits, ".", "_" and "-"')
    to = Destination(frozenset(stage.tiers), frozenset(stage.subjects), frozenset(stage.topics))
    body.put(f"route(row, {body.constant(to)})")


class Recent:
    """Keys seen lately by event time. An event is no duplicate of itself, however often it is delivered."""

    def __init__(self, milliseconds: int, most: int) -> None:
        self._milliseconds = milliseconds
        self._most = most
        self._first: OrderedDict[Any, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._first)

    def seen(self, key: Any, uid: str, time: int) -> bool:
        """Whether another event with `key` came before, at most so long ago."""
        key = repr(key) if any(part.__class__ is list for part in key) else key
        first = self._first.get(key)
        if first is not None and abs(time - first[1]) <= self._milliseconds:
            return first[0] != uid
        self._first[key] = uid, time
        self._first.move_to_end(key)
        if len(self._first) > self._most:
            self._first.popitem(last=False)
        return False
