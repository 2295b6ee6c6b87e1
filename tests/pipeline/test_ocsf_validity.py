"""Real events of the four sources, and generated ones: each becomes a valid OCSF 1.8 event or a dead letter that says why."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from tidegate.event import DeadLetter
from tidegate.frame import split_lines
from tidegate.generator import Generator
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame

SHARDS = 4
FILES = {
    "suricata": (
        "suricata_eve.alerts_first-org-conf-2015.jsonl",
        "suricata_eve.alerts_wrccdc-2017.jsonl",
        "suricata_eve.suricata_verify.jsonl",
    ),
    "aws_cloudtrail": ("aws_cloudtrail.invictus.jsonl", "aws_cloudtrail.panther.jsonl"),
    "windows": (
        "windows_events.evtx_json_sysmon.jsonl",
        "windows_events.otrf_cmd_sharpview_pcre_net.jsonl",
        "windows_events.otrf_covenant_copy_smb_CreateRequest.jsonl",
        "windows_events.otrf_empire_shell_samr_EnumDomainUsers.jsonl",
        "windows_events.otrf_lsass02.jsonl",
        "windows_events.otrf_psh_cmstp_execution_bypassuac.jsonl",
        "windows_events.otrf_psh_lsass_memory_dump_comsvcs.jsonl",
        "windows_events.otrf_schtask_create.jsonl",
        "windows_events.sigma_regression.jsonl",
    ),
    "zeek": ("zeek_json.otrf_apt29.jsonl", "zeek_json.wrccdc.jsonl"),
}
CASES = [(source, name) for source, names in FILES.items() for name in names]
EXPECTED_CLASSES = {
    "suricata_eve.suricata_verify.jsonl": {2004, 4001, 4002, 4003},
    "aws_cloudtrail.invictus.jsonl": {6003},
    "windows_events.otrf_lsass02.jsonl": {1005, 1007, 1009},
    "zeek_json.otrf_apt29.jsonl": {4001, 4003},
    "zeek_json.wrccdc.jsonl": {4003},
}
# Their authors cut some of these down for unit tests, times included.
REDACTED = {"aws_cloudtrail.panther.jsonl"}


@cache
def _schemas() -> tuple[dict[str, Any], OcsfJsonSchemaEmbedded, dict[int, str]]:
    raw = get_ocsf_schema("1.8.0")
    return raw, OcsfJsonSchemaEmbedded(raw), {one["uid"]: name for name, one in raw["classes"].items()}


@cache
def _validator(class_uid: int, profiles: tuple[str, ...]) -> jsonschema.Draft202012Validator:
    raw, embedded, names = _schemas()
    name = names[class_uid]
    schema = embedded.get_class_schema(name, profiles=list(profiles))
    attributes = raw["classes"][name]["attributes"]
    # What a profile requires is required only where the profile is used.
    schema["required"] = [
        one for one in schema["required"] if not (attributes[one].get("profile") or attributes[one].get("profiles"))
    ]
    return jsonschema.Draft202012Validator(schema)


def run(pipeline: Pipeline, source: str, records: list[bytes]) -> tuple[list[dict[str, Any]], list[DeadLetter]]:
    outcome = Outcome(SHARDS)
    frame = RawFrame(source=source, codec="json", records=records, received_ms=1_700_000_000_000, origin="INGEST/now/1")
    pipeline.run(frame, outcome)
    events = [msgspec.json.decode(line) for shard in outcome.lines for line in shard]
    dead = [letter for shard in outcome.dead for letter in shard]
    assert len(events) + len(dead) + sum(outcome.filtered.values()) == outcome.records == len(records)
    return events, dead


def problems(events: list[dict[str, Any]]) -> Counter[str]:
    """What is not valid OCSF, by kind."""
    found: Counter[str] = Counter()
    for event in events:
        profiles = tuple(event["metadata"].get("profiles", ()))
        for error in _validator(event["class_uid"], profiles).iter_errors(event):
            found[f"class {event['class_uid']} {'/'.join(map(str, error.absolute_path))}: {error.message[:160]}"] += 1
        if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
            found[f"type_uid {event['type_uid']}"] += 1
        if event["category_uid"] != event["class_uid"] // 1000 % 100:
            found[f"category_uid {event['category_uid']}"] += 1
        if not event["metadata"].get("uid") or not event["metadata"].get("correlation_uid"):
            found["no event id or no correlation id"] += 1
    return found


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(SHARDS)


@pytest.mark.parametrize(("source", "name"), CASES, ids=[name for _, name in CASES])
def test_real_events_become_valid_ocsf_of_a_sensible_class(
    source: str, name: str, pipeline: Pipeline, shared_data: Path
) -> None:
    records = split_lines((shared_data / name).read_bytes())
    events, dead = run(pipeline, source, records)
    assert not problems(events).most_common(5)
    assert len(dead) <= len(records) * (0.5 if name in REDACTED else 0.01)
    assert all(letter.stage and letter.rule and letter.error and letter.original for letter in dead)
    classes = Counter(event["class_uid"] for event in events)
    assert classes.keys() >= EXPECTED_CLASSES.get(name, set())


@pytest.mark.parametrize("source", FILES)
def test_generated_events_become_valid_ocsf_and_only_malformed_ones_dead_letters(
    source: str, pipeline: Pipeline
) -> None:
    records = Generator(5, sources=[source]).records(1500)
    good = [one.data for one in records if not one.malformed]
    bad = [one.data for one in records if one.malformed]
    events, dead = run(pipeline, source, good)
    assert not problems(events).most_common(5)
    assert not dead
    assert sum(event["class_uid"] == 0 for event in events) < len(events) * 0.1
    events, dead = run(pipeline, source, bad)
    assert len(dead) == len(bad)
    assert not events
