"""What stages do to events, what their policies do with failures, and that every record is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.data import RECEIVED_MS, SHARDS, run
from tests.pipeline.schema import problem_of
from tidegate.errors import RecordError, RuleError, StageError
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

FLOW = {
    "timestamp": "2025-06-15T14:00:00.250+0000",
    "flow_id": 17,
    "event_type": "flow",
    "src_ip": "10.0.0.9",
    "src_port": 50000,
    "dest_ip": "192.0.2.7",
    "dest_port": 443,
    "proto": "TCP",
    "app_proto": "tls",
    "flow": {"pkts_toserver": 4, "bytes_toserver": 400, "odd": "kept"},
}


def load(folder: Path, stages: str, head: str = "") -> Pipeline:
    (folder / "own.toml").write_text(f'pipeline = "own"\n{head}\n{stages}')
    return load_pipeline(SHARDS, folder)


def fate(pipeline: Pipeline, record: dict[str, Any], source: str = "suricata") -> dict[str, Any] | str:
    """The event, or what decided that there is none."""
    outcome = Outcome(SHARDS)
    raw = [msgspec.json.encode(record)]
    pipeline.run(RawFrame(source=source, codec="json", records=raw, received_ms=RECEIVED_MS, origin="T/1"), outcome)
    dead = [letter for shard in outcome.dead for letter in shard]
    if dead:
        return f"{dead[0].stage}/{dead[0].rule}"
    if outcome.filtered:
        return next(iter(outcome.filtered))
    event: dict[str, Any] = msgspec.json.decode(next(line for shard in outcome.lines for line in shard))
    assert problem_of(event) is None
    return event


def test_events_name_the_pipeline_and_its_version(tmp_path: Path) -> None:
    pipeline = load(tmp_path, '[[stage]]\nname = "x"\ntype = "filter"\ndrop = "severity_id == 6"')
    event = fate(pipeline, FLOW)
    assert isinstance(event, dict)
    version = pipeline.flows[0].definition.version
    assert event["metadata"]["transformation_info_list"] == [{"name": "own", "uid": version}]
    unknown = fate(pipeline, {"message": "hello"}, "acme")
    assert isinstance(unknown, dict)
    assert unknown["metadata"]["transformation_info_list"] == [{"name": "own", "uid": version}]


@pytest.mark.parametrize(
    ("condition", "gone"),
    [
        ('drop = "dst_endpoint.port == 443"', True),
        ('drop = "dst_endpoint.port == 80"', False),
        ("keep = \"in_cidr(src_endpoint.ip, '10.0.0.0/8')\"", False),
        ("keep = \"user.name == 'ada'\"", True),
        ("drop = \"unmapped.flow.odd == 'kept'\"", True),
        ("drop = \"metadata.log_source == 'suricata'\"", True),
        ('drop = "metadata.log_source == \'suricata\'"\nwhen = "severity_id > 3"', False),
    ],
)
def test_a_filter_counts_what_it_leaves_out(tmp_path: Path, condition: str, gone: bool) -> None:
    found = fate(load(tmp_path, f'[[stage]]\nname = "noise"\ntype = "filter"\n{condition}'), FLOW)
    assert (found == "own.noise") is gone


def test_a_transform_sets_renames_removes_and_splits(tmp_path: Path) -> None:
    event = fate(
        load(
            tmp_path,
            """
[[stage]]
name = "shape"
type = "transform"
[[stage.operations]]
set = { message = "concat(src_endpoint.ip, ' to ', dst_endpoint.ip)", "src_endpoint.hostname" = "'host-9'" }
[[stage.operations]]
set = { "user.name" = "none", "severity_id" = "4 if dst_endpoint.port == 443 else 1" }
[[stage.operations]]
set = { "unmapped.note" = "upper(app_name)" }
[[stage.operations]]
rename = { "src_endpoint.hostname" = "src_endpoint.name" }
[[stage.operations]]
remove = ["dst_endpoint.port", "unmapped.flow", "connection_info.protocol_name"]
[[stage.operations]]
split = "message"
separator = " to "
into = ["src_endpoint.domain", "dst_endpoint.ip"]
""",
        ),
        FLOW,
    )
    assert isinstance(event, dict)
    assert event["message"] == "10.0.0.9 to 192.0.2.7"
    assert event["severity_id"] == 4
    assert event["src_endpoint"] == {"ip": "10.0.0.9", "port": 50000, "name": "host-9", "domain": "10.0.0.9"}
    assert event["dst_endpoint"] == {"ip": "192.0.2.7"}
    assert "user" not in event
    assert "flow" not in event.get("unmapped", {})
    assert sorted((one["name"], one["value"]) for one in event["observables"]) == [
        ("dst_endpoint.ip", "192.0.2.7"),
        ("src_endpoint.ip", "10.0.0.9"),
    ]


def test_observables_follow_the_attributes(tmp_path: Path) -> None:
    pipeline = load(
        tmp_path,
        """
[[stage]]
name = "shape"
type = "transform"
[[stage.operations]]
set = { "src_endpoint.ip" = "'203.0.113.5'", "device.hostname" = "'sensor-1'", "device.type_id" = "0" }
[[stage.operations]]
remove = ["dst_endpoint"]
""",
    )
    event = fate(pipeline, FLOW)
    assert isinstance(event, dict)
    assert [(one["name"], one["value"]) for one in event["observables"]] == [
        ("src_endpoint.ip", "203.0.113.5"),
        ("device.hostname", "sensor-1"),
    ]
    assert "dst_endpoint" not in event


def test_stages_work_on_events_that_no_rule_has_made(tmp_path: Path) -> None:
    stages = """
[[stage]]
name = "shape"
type = "transform"
[[stage.operations]]
set = { "actor.user.name" = "unmapped.who", "severity_id" = "5" }
[[stage.operations]]
remove = ["unmapped.who"]
"""
    event = fate(load(tmp_path, stages), {"message": "hi", "who": "ada", "left": 1}, "acme")
    assert isinstance(event, dict)
    assert event["actor"] == {"user": {"name": "ada"}}
    assert (event["severity_id"], event["unmapped"]) == (5, {"left": 1})
    enveloped = fate(load(tmp_path, stages), {"event_id": "e1", "source": "suricata", "data": FLOW}, "acme")
    assert isinstance(enveloped, dict)
    assert (enveloped["severity_id"], enveloped["metadata"]["uid"]) == (5, "e1")


def test_only_the_first_of_two_alike_goes_on_however_often_it_comes(tmp_path: Path) -> None:
    pipeline = load(
        tmp_path,
        '[[stage]]\nname = "once"\ntype = "deduplicate"\nkey = ["src_endpoint.ip", "dst_endpoint.port"]\n',
    )

    def times(moment: str, origin: str) -> int:
        raw = msgspec.json.encode({**FLOW, "timestamp": moment})
        return len(run(pipeline, "suricata", [raw], origin=origin)[0])

    assert times("2025-06-15T14:00:00", "T/1") == 1
    assert times("2025-06-15T14:00:00", "T/1") == 1, "the same one, delivered again"
    assert times("2025-06-15T14:00:59", "T/2") == 0
    assert times("2025-06-15T14:01:01", "T/3") == 1


CHECK = """[[stage]]
name = "sane"
type = "validate"
{policy}
[[stage.rules]]
name = "tls"
check = "dst_endpoint.port == 22"
"""


@pytest.mark.parametrize(
    ("policy", "becomes"),
    [
        ("", "validate/sane.tls"),
        ('on_error = { action = "dead_letter" }', "validate/sane.tls"),
        ('on_error = { action = "retry", attempts = 3 }', "validate/sane.tls"),
        ('on_error = { action = "continue" }', None),
        ('on_error = { action = "fallback", fallback = { "app_name" = "odd" } }', "odd"),
    ],
)
def test_a_policy_says_what_becomes_of_a_failure(tmp_path: Path, policy: str, becomes: str | None) -> None:
    pipeline = load(tmp_path, CHECK.format(policy=policy))
    found = fate(pipeline, FLOW)
    if isinstance(found, dict):
        assert found["app_name"] == (becomes or "tls")
        assert pipeline.flows[0].stages[0].stats.continued == 1
    else:
        assert found == becomes
    stats = pipeline.flows[0].stages[0].stats
    assert (stats.taken, stats.failed) == (1, 1)
    assert stats.skipped == (policy == "")


def test_the_policy_fail_stops_everything(tmp_path: Path) -> None:
    pipeline = load(tmp_path, CHECK.format(policy='on_error = { action = "fail" }'))
    with pytest.raises(StageError, match=r"stage own\.sane: RecordError: not so"):
        fate(pipeline, FLOW)


def test_records_that_cannot_be_mapped_go_on_where_the_pipeline_says_so(tmp_path: Path) -> None:
    stages = """
[[stage]]
name = "decoding"
type = "deserialise"
on_error = { action = "continue" }
[[stage]]
name = "mapping"
type = "normalise"
on_error = { action = "continue" }
"""
    pipeline = load(tmp_path, stages)
    events, dead = run(pipeline, "suricata", [b"not json", b'{"event_type":"flow"}', b"\xff"])
    assert sorted(event["message"] for event in events) == ["not json", '{"event_type":"flow"}']
    assert [letter.stage for letter in dead] == ["parse"]


def test_what_may_work_later_is_tried_again(tmp_path: Path) -> None:
    pipeline = load(
        tmp_path,
        '[[stage]]\nname = "shape"\ntype = "transform"\n[[stage.operations]]\nset = { message = "lower(app_name)" }\n',
    )
    stage = pipeline.flows[0].stages[0]
    works, attempts = stage._function, 0

    def flaky(events: Any, rows: list[int], drop: Any, failed: Any) -> list[int]:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            return [row for row in rows if failed(row, ConnectionError("the table is being replaced"))]
        return works(events, rows, drop, failed)

    stage._function = flaky
    event = fate(pipeline, FLOW)
    assert isinstance(event, dict)
    assert (event["message"], stage.stats.retries) == ("tls", 2)


STAGES = st.lists(
    st.sampled_from(
        [
            'type = "filter"\ndrop = "dst_endpoint.port == 443"',
            'type = "filter"\nkeep = "exists(src_endpoint.ip)"',
            'type = "validate"\n[[stage.rules]]\nname = "a"\ncheck = "severity_id >= 2"',
            'type = "transform"\n[[stage.operations]]\nset = { message = "app_name", "user.name" = "proto" }'.replace(
                "proto", "connection_info.protocol_name"
            ),
            'type = "transform"\n[[stage.operations]]\nremove = ["src_endpoint", "unmapped.flow"]',
            'type = "deduplicate"\nkey = ["src_endpoint.ip"]',
        ]
    ),
    max_size=4,
)
ACTIONS = st.sampled_from(["retry", "skip", "continue", "dead_letter"])
RECORDS = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.builds(
            lambda **changed: msgspec.json.encode({**FLOW, **changed}),
            dest_port=st.sampled_from([443, 22, "x", None, []]),
            src_ip=st.sampled_from(["10.0.0.1", "nonsense", None, {}]),
            event_type=st.sampled_from(["flow", "alert", "dns", 7, "unheard"]),
        ),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stages=STAGES, action=ACTIONS, records=RECORDS, faults=st.sets(st.integers(0, 60), max_size=8))
def test_every_record_is_accounted_for_under_every_policy(
    tmp_path_factory: pytest.TempPathFactory, stages: list[str], action: str, records: list[bytes], faults: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    policy = f'on_error = {{ action = "{action}", attempts = 2, backoff_ms = 0 }}'
    text = "\n".join(f'[[stage]]\nname = "s{number}"\n{policy}\n{stage}' for number, stage in enumerate(stages))
    pipeline = load(folder, text)
    for stage in pipeline.flows[0].stages:
        works = stage._function

        def faulty(events: Any, rows: list[int], drop: Any, failed: Any, works: Any = works) -> list[int]:
            bad = [row for row in rows if row in faults]
            good = works(events, [row for row in rows if row not in faults], drop, failed)
            return sorted([*good, *(row for row in bad if failed(row, RecordError("transform", "fault", "planted")))])

        stage._function = faulty
    run(pipeline, "suricata", records)


@pytest.mark.parametrize(
    ("stage", "line", "says"),
    [
        ('type = "filter"\ndrop = "severty_id == 1"', 6, 'did you mean "severity_id"'),
        ('type = "filter"\ndrop = "severity_id"', 6, "a condition is true or false"),
        ('type = "filter"', 3, 'needs either "drop" or "keep"'),
        ('type = "fliter"', 5, 'unknown type "fliter"; did you mean "filter"'),
        ('type = "transform"\n[[stage.operations]]\nset = { "class_uid" = "1" }', 7, "set by the pipeline itself"),
        ('type = "transform"\n[[stage.operations]]\nset = { "is_mfa" = "3" }', 7, "is bool, but"),
        ('type = "transform"\n[[stage.operations]]\nremove = ["time"]', 7, "required of every event"),
        ('type = "transform"\n[[stage.operations]]\nset = { "src_endpoint.adress" = "1" }', 7, "adress"),
        ('type = "filter"\ndrop = "severity_id == 1"\nunknown = 1', 7, 'unknown key "unknown"'),
    ],
)
def test_a_stage_that_cannot_work_is_refused_with_file_and_line(
    tmp_path: Path, stage: str, line: int, says: str
) -> None:
    with pytest.raises(RuleError) as refused:
        load(tmp_path, f'[[stage]]\nname = "bad"\n{stage}\n')
    assert f"own.toml:{line}" in str(refused.value)
    assert says in str(refused.value)


def test_a_source_takes_one_pipeline(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('pipeline = "other"\nsources = ["suricata"]\n')
    with pytest.raises(RuleError, match='"suricata" already takes the pipeline "other"'):
        load(tmp_path, "", 'sources = ["zeek", "suricata"]')


def test_events_that_came_as_ocsf_lose_nothing_in_stages(tmp_path: Path) -> None:
    pipeline = load(
        tmp_path,
        '[[stage]]\nname = "s"\ntype = "transform"\n[[stage.operations]]\nset = { "severity_id" = "4" }\n',
    )
    sent = {
        "class_uid": 3002,
        "category_uid": 3,
        "activity_id": 1,
        "type_uid": 300201,
        "severity_id": 1,
        "time": 1_750_000_000_000,
        "metadata": {"version": "1.8.0", "product": {"name": "Own"}, "tags": [{"name": "a", "value": "b"}]},
        "user": {"name": "ada", "type_id": 1},
        "service": {"name": "door"},
        "timezone_offset": 60,
    }
    event = fate(pipeline, sent, "ocsf")
    assert isinstance(event, dict)
    assert (event["severity_id"], event["user"]["name"]) == (4, "ada")
    assert event["unmapped"]["ocsf"] == {"timezone_offset": 60, "metadata": {"tags": [{"name": "a", "value": "b"}]}}
