"""Pipelines made quicker: what may change places, what may not, and that nothing comes out otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.data import RECEIVED_MS
from tests.pipeline.test_stages import FLOW
from tidegate.errors import QueryError
from tidegate.pipeline.definition import parse_definition
from tidegate.pipeline.library import Library, load_library
from tidegate.pipeline.optimiser.measure import measure
from tidegate.pipeline.optimiser.optimise import Report, build, classes_of, optimise, prove
from tidegate.pipeline.optimiser.plan import make_plan
from tidegate.pipeline.runner import RawFrame

COSTLY = """
[[stage]]
name = "costly"
type = "transform"
[[stage.operations]]
set = { message = "concat(lower(coalesce(app_name, 'none')), ' ', src_endpoint.ip, ' ', dst_endpoint.ip)" }
[[stage.operations]]
set = { status_detail = "replace(concat(src_endpoint.ip, '.', dst_endpoint.ip), '.', '-')" }
"""
RECORDS = [
    *(FLOW | {"dest_port": port, "flow_id": number} for number, port in enumerate([443] * 30 + [53] * 10 + [22] * 20)),
    *(
        FLOW | {"app_proto": name, "src_ip": f"10.0.0.{number}"}
        for number, name in enumerate(["ssh", "tls", "dns"] * 4)
    ),
    {"timestamp": "yesterday", "event_type": "flow"},
    {"event_type": "alert", "message": "no time"},
    FLOW | {"src_port": "odd", "dest_ip": "not an address"},
]
FRAMES = [
    RawFrame(
        source="suricata",
        codec="json",
        records=[msgspec.json.encode(one) for one in RECORDS],
        received_ms=RECEIVED_MS,
        origin="T/1",
    )
]


def library_of(folder: Path, stages: str) -> Library:
    (folder / "own.toml").write_text(f'pipeline = "own"\nsources = ["suricata"]\n{stages}')
    return load_library(folder)


def planned(library: Library) -> tuple[list[str], list[str], str]:
    """Stages of the candidate in their order, what is said to be done, and what is advised."""
    definition = library.pipelines["own"]
    pipeline = library.compile(1)
    (flow,) = pipeline.flows
    made, said = build(definition, make_plan(definition, flow, measure(pipeline, flow, FRAMES), classes_of(library)))
    names = [stage.name for stage in (made or definition).file.stage]
    return names, [one.kind for one in said if one.done], "\n".join(one.text for one in said if not one.done)


def filtering(name: str, condition: str) -> str:
    return f'[[stage]]\nname = "{name}"\ntype = "filter"\ndrop = "{condition}"\n'


@pytest.mark.parametrize(
    ("stages", "names", "done", "advised"),
    [
        (COSTLY + filtering("web", "dst_endpoint.port == 443"), ["web", "costly"], ["reorder"], ""),
        (COSTLY + filtering("web", "contains(message, 'tls')"), ["costly", "web"], [], "it reads message"),
        (
            # What fails there has to become a dead letter, not a filtered count.
            '[[stage]]\nname = "sane"\ntype = "validate"\n[[stage.rules]]\nname = "a"\ncheck = "'
            "contains(concat(src_endpoint.ip, dst_endpoint.ip, app_name), '1')"
            '"\n' + filtering("web", "dst_endpoint.port == 443"),
            ["sane", "web"],
            [],
            "would be filtered and no longer be dead letters",
        ),
        (
            # It would no longer see the first of two events.
            '[[stage]]\nname = "once"\ntype = "deduplicate"\nkey = ["concat(src_endpoint.ip, dst_endpoint.port)"]\n'
            + filtering("web", "dst_endpoint.port == 443"),
            ["once", "web"],
            [],
            "must go on seeing the events that it drops",
        ),
        (filtering("never", "class_uid == 3002 and class_uid == 4001"), [], ["drop"], ""),
        (filtering("passes_through", "class_uid == 6008"), ["passes_through"], [], "dropped none of"),
        (filtering("unseen", "dst_endpoint.port == 9"), ["unseen"], [], "dropped none of"),
        (
            COSTLY + COSTLY.replace("costly", "again").replace("message", "app_name"),
            ["costly"],
            ["fuse"],
            "",
        ),
        (
            COSTLY + COSTLY.replace('"costly"', '"again"\nwhen = "exists(message)"'),
            ["costly", "again"],
            [],
            "",
        ),
    ],
)
def test_what_is_changed_and_what_is_left(
    tmp_path: Path, stages: str, names: list[str], done: list[str], advised: str
) -> None:
    found, changed, advice = planned(library_of(tmp_path, stages))
    assert (found, changed) == (names, done)
    assert advised in advice


STAGES = st.lists(
    st.sampled_from(
        [
            'type = "filter"\ndrop = "dst_endpoint.port == 443"',
            'type = "filter"\nkeep = "exists(src_endpoint.ip)"\nwhen = "severity_id <= 1"',
            'type = "filter"\ndrop = "contains(message, \'tls\')"',
            'type = "filter"\ndrop = "unmapped.flow.odd == \'kept\'"',
            'type = "filter"\ndrop = "class_uid == 9999"',
            'type = "validate"\n[[stage.rules]]\nname = "a"\ncheck = "severity_id >= 2 or dst_endpoint.port != 53"',
            'type = "transform"\n[[stage.operations]]\nset = { message = "app_name" }',
            'type = "transform"\n[[stage.operations]]\nset = { "user.name" = "app_name" }',
            'type = "transform"\nwhen = "exists(message)"\n[[stage.operations]]\nrename = { message = "status_code" }',
            'type = "transform"\n[[stage.operations]]\nremove = ["src_endpoint", "unmapped.flow"]',
            'type = "parse"\nfield = "app_name"\npatterns = ["%{WORD:w}"]\nset = { "user.name" = "w" }',
            'type = "deduplicate"\nkey = ["src_endpoint.ip", "dst_endpoint.port"]',
            'type = "route"\nwhen = "dst_endpoint.port == 22"\nsubjects = ["siem.ssh"]',
        ]
    ),
    min_size=2,
    max_size=6,
)
ACTIONS = st.lists(st.sampled_from(["", "skip", "continue", "dead_letter"]), min_size=6, max_size=6)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stages=STAGES, actions=ACTIONS)
def test_no_plan_changes_what_comes_out(tmp_path: Path, stages: list[str], actions: Sequence[str]) -> None:
    text = ""
    for number, (stage, action) in enumerate(zip(stages, actions, strict=False)):
        policy = f'on_error = {{ action = "{action}" }}\n' if action else ""
        text += f'[[stage]]\nname = "s{number}"\n{policy}{stage}\n'
    library = library_of(tmp_path, text)
    definition = library.pipelines["own"]
    pipeline = library.compile(1)
    (flow,) = pipeline.flows
    made, _ = build(definition, make_plan(definition, flow, measure(pipeline, flow, FRAMES), classes_of(library)))
    if made is not None:
        proof, tests = prove(library, made, FRAMES)
        assert (proof.records, proof.examples, tests) == (proof.equal, [], [])


def test_a_candidate_is_measured_and_keeps_the_comments_and_tests(tmp_path: Path) -> None:
    stages = (
        "# First of all." + COSTLY + "\n# Web traffic is most of it.\n" + filtering("web", "dst_endpoint.port == 443")
    )
    record = msgspec.json.encode(FLOW).decode()
    tests = f'\n[[test]]\nname = "web"\nsource = "suricata"\nrecord = \'{record}\'\nexpect = "filtered"\n'
    report = optimise(library_of(tmp_path, stages + tests), "own", FRAMES * 5, 0.3)
    assert report.candidate is not None
    assert report.candidate.equal
    assert report.candidate.gain is not None
    assert report.candidate.gain.gain > 0
    text = report.candidate.text
    places = [text.index(part) for part in ("# Web traffic", 'name = "web"', "# First of all", 'name = "costly"')]
    assert places == sorted(places)
    assert parse_definition(text, "own").file.test[0].name == "web"
    costly = next(part for part in report.parts if part.name == "costly")
    assert costly.microseconds > next(part for part in report.parts if part.name == "web").microseconds > 0
    assert report.share <= 1


def test_a_candidate_that_does_otherwise_is_not_equal(tmp_path: Path) -> None:
    library = library_of(tmp_path, filtering("web", "dst_endpoint.port == 443"))
    other = parse_definition(library.pipelines["own"].text.replace("443", "53"), "own")
    proof, _ = prove(library, other, FRAMES)
    assert proof.records - proof.equal > 30
    assert proof.examples


def test_where_events_go_is_part_of_what_comes_out(tmp_path: Path) -> None:
    route = '[[stage]]\nname = "r"\ntype = "route"\nwhen = "dst_endpoint.port == 22"\nsubjects = ["siem.ssh"]\n'
    library = library_of(tmp_path, route)
    other = parse_definition(library.pipelines["own"].text.replace("siem.ssh", "siem.other"), "own")
    proof, _ = prove(library, other, FRAMES)
    assert (proof.records - proof.equal, dict(proof.paths)) == (20, {"(routed)": 20})


def test_nothing_is_changed_where_nothing_can_be(tmp_path: Path) -> None:
    report: Report = optimise(library_of(tmp_path, COSTLY), "own", FRAMES, 0.1)
    assert report.candidate is None


@pytest.mark.parametrize(
    ("name", "source", "says"), [("other", "suricata", "there is no pipeline"), ("own", "zeek", "there are no records")]
)
def test_what_cannot_be_measured_is_said(tmp_path: Path, name: str, source: str, says: str) -> None:
    frames: Any = [msgspec.structs.replace(one, source=source) for one in FRAMES]
    with pytest.raises(QueryError, match=says):
        optimise(library_of(tmp_path, COSTLY), name, frames, 0.1)
