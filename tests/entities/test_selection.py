"""Which events a subscription selects: types, conditions, and lines that are not as they should be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.tiers import frames
from tidegate.entities.selection import EventFilter, EventType, selecting
from tidegate.errors import ConfigError

EVENTS = frames.events(24)
LINES = [
    *(frames.encode(one) for one in EVENTS),
    b'{"metadata": {"event_code": "invoice.paid", "log_name": "billing"}, "class_uid": 0, "severity_id": 99}',
    b'{"class_uid": "4003", "severity_id": null, "metadata": 7}',
    b"[]",
]


def chosen(types: list[EventType], **where: Any) -> list[int]:
    return list(selecting(types, EventFilter(**where))(LINES))


def test_nothing_said_selects_all() -> None:
    assert chosen([]) == list(range(27))


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (["dns_activity"], [2, 14]),
        ([4003], [2, 14]),
        (["detection_finding", 4003], [1, 2, 13, 14]),
        (["invoice.paid"], [24]),
        (["invoice.paid", "dns_activity"], [2, 14, 24]),
        (["base_event"], [11, 23, 24]),
        (["nothing.of.the.kind", 777], []),
    ],
)
def test_types_are_classes_by_name_or_uid_and_what_sources_call_their_events(
    types: list[EventType], expected: list[int]
) -> None:
    assert chosen(types) == expected


def test_conditions_must_all_hold() -> None:
    assert chosen([], min_severity=3) == [1, 9, 13, 21], "99 is no severity"
    assert chosen([], source="billing") == [24]
    assert chosen([], source="suricata") == [index for index in range(24) if index % 12 in (1, 3, 4)]
    uid = EVENTS[5]["metadata"]["correlation_uid"]
    assert chosen([], correlation_id=uid) == [5, 17]
    assert chosen([], fields={"rcode": "NoError"}) == [2, 14]
    assert chosen([], fields={"src_endpoint.ip": EVENTS[0]["src_endpoint"]["ip"], "class_uid": 4001}) == [0]
    assert 24 in chosen([], fields={"src_endpoint.ip": None})
    assert 0 not in chosen([], fields={"src_endpoint.ip": None})
    assert chosen(["dns_activity"], source="suricata") == []


def test_every_line_that_the_log_may_hold_can_be_looked_at() -> None:
    select = selecting([], EventFilter(min_severity=1, fields={"unmapped.dotted": None}))
    assert len(select(frames.odd_lines())) == len(frames.odd_lines())


@pytest.mark.parametrize("path", ["src_endpoint", "src_endpoint.ipp", "observables", "metadata.uid.x", "", "a b"])
def test_paths_that_lead_to_no_single_value_are_refused(path: str) -> None:
    with pytest.raises(ConfigError):
        selecting([], EventFilter(fields={path: "x"}))


def test_a_filter_survives_the_log() -> None:
    where = EventFilter(source="a", min_severity=2, correlation_id="c", fields={"a": 1, "b": 0.5, "c": True, "d": None})
    assert msgspec.json.decode(msgspec.json.encode(where), type=EventFilter) == where
