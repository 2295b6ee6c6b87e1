"""An odd value in a good record leaves a valid event or a dead letter, by the quick way as by the general one."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline import test_crowdstrike as crowdstrike
from tests.pipeline import test_entra as entra
from tests.pipeline import test_github as github
from tests.pipeline import test_okta as okta
from tests.pipeline import test_osquery as osquery
from tests.pipeline import test_powershell as powershell
from tests.pipeline.data import run
from tests.pipeline.schema import problem_of
from tests.pipeline.test_habits import general, learned_from, quick_way
from tidegate.pipeline.compiler import Specials
from tidegate.pipeline.runner import Pipeline

RECORDS: dict[str, list[dict[str, Any]]] = {
    "okta_system": [
        okta.SIGN_IN,
        {**okta.SIGN_IN, "eventType": "user.lifecycle.create"},
        {**okta.SIGN_IN, "eventType": "application.user_membership.add"},
        {**okta.SIGN_IN, "eventType": "policy.lifecycle.update"},
        {**okta.SIGN_IN, "eventType": "of.tomorrow"},
    ],
    "entra": [entra.SIGN_IN, entra.AUDIT, {**entra.AUDIT, "activityDisplayName": "Add member to group"}],
    "github_audit": [
        github.PUSH,
        {**github.PUSH, "action": "repo.add_member"},
        {**github.PUSH, "action": "hook.create"},
    ],
    "crowdstrike_fdr": [crowdstrike.PROCESS, crowdstrike.DETECTION],
    "osquery": [
        osquery.PROCESS,
        *({**osquery.PROCESS, "columns": each} for each in (osquery.SOCKET, osquery.USER_EVENT, osquery.LOGGED_IN)),
        {**osquery.PROCESS, "columns": osquery.FILE},
    ],
    "windows": [
        {"EventID": 4104, "@timestamp": "2025-06-15T12:00:00Z", "Hostname": "pc-7", "ScriptBlockText": "x", "Level": 3},
        {"EventID": 4103, "@timestamp": 1, "Hostname": "pc-7", "Payload": "x", "ContextInfo": powershell.CONTEXT},
        {
            "EventID": 800,
            "@timestamp": 1,
            "Hostname": "pc-7",
            "SourceName": "PowerShell",
            "Message": powershell.DETAILS,
        },
        {"EventID": 400, "@timestamp": 1, "Hostname": "pc-7", "SourceName": "PowerShell", "Data": [powershell.STATE]},
    ],
}

_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**70,
        0.5,
        "",
        "-",
        "1",
        "x",
        "10.0.0.1",
        [],
        ["x"],
        [{}],
        [{"type": "User"}],
        {},
        {"#text": 1},
    ]
)


@cache
def _specials(source: str) -> Specials:
    return learned_from(source, [msgspec.json.encode(record) for record in RECORDS[source] for _ in range(20)])


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, each in inner for place in ((*at, key), *_places(each, (*at, key)))]


_CASES = [
    (source, record, place) for source, records in RECORDS.items() for record in records for place in _places(record)
]


@settings(deadline=None, max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(_CASES), odd=_ODD)
def test_an_odd_value_in_a_good_record(
    pipeline: Pipeline, case: tuple[str, dict[str, Any], tuple[Any, ...]], odd: Any
) -> None:
    source, record, place = case
    record = deepcopy(record)
    here: Any = record
    for key in place[:-1]:
        here = here[key]
    here[place[-1]] = odd
    raw = msgspec.json.encode(record)
    events, _ = run(pipeline, source, [raw])
    for event in events:
        assert problem_of(event) is None
    quick = quick_way(_specials(source), raw)
    assert quick is None or quick == general(source, raw)


def test_each_source_has_a_quick_way() -> None:
    for source, records in RECORDS.items():
        assert any(quick_way(_specials(source), msgspec.json.encode(record)) for record in records), source
