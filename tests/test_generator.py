"""The generator's promises: same seed, same bytes; exact malformed flags; native shapes; rising time; stories."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tidegate.generator import DEFAULT_START_MS, SOURCES, Generator, NativeRecord
from tidegate.generator.malformed import TIME_FIELDS
from tidegate.generator.world import Address, community_id

DIGEST = (
    "import hashlib; from tidegate.generator import Generator;"
    "print(hashlib.sha256(b'\\n'.join(r.data for r in Generator(7).records(2000))).hexdigest())"
)


def loaded(record: NativeRecord) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(record.data.decode("utf-8"), parse_constant=refuse)


def times(value: Any) -> Iterator[Any]:
    """Everything under a name that may be taken for the time of the event, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "TimeCreated" and isinstance(inner, dict) and "#attributes" in inner:
                yield inner["#attributes"]["SystemTime"]
            elif name in TIME_FIELDS:
                yield inner
            else:
                yield from times(inner)


def usable(record: NativeRecord) -> bool:
    try:
        event = loaded(record)
    except ValueError:
        return False
    return isinstance(event, dict) and any(isinstance(time, str | int | float) for time in times(event))


def seconds(source: str, event: dict[str, Any]) -> float:
    """The time of an event, as a reader of this source finds it."""
    match source:
        case "suricata":
            time = event["timestamp"]
        case "aws_cloudtrail":
            time = event["eventTime"]
        case "zeek":
            time = event["ts"]
        case _ if "Event" in event:
            time = event["Event"]["System"]["TimeCreated"]["#attributes"]["SystemTime"]
        case _:
            time = event["@timestamp"]
    return float(time) if isinstance(time, float) else datetime.fromisoformat(time).timestamp()


@pytest.fixture(scope="module")
def good() -> list[tuple[str, dict[str, Any]]]:
    return [(record.source, loaded(record)) for record in Generator(3, malformed_share=0).records(20_000)]


@pytest.fixture(scope="module")
def mixed() -> list[NativeRecord]:
    return Generator(4, malformed_share=0.05).records(20_000)


def test_same_seed_gives_the_same_records_however_the_calls_are_cut() -> None:
    cut = Generator(5)
    assert Generator(5).records(3000) == [record for size in (1, 999, 2000) for record in cut.records(size)]


def test_another_process_with_other_string_hashes_makes_the_same_bytes() -> None:
    command = [sys.executable, "-c", DIGEST]
    environments = [os.environ | {"PYTHONHASHSEED": seed} for seed in ("1", "2")]
    digests = {subprocess.run(command, env=env, capture_output=True, check=True).stdout for env in environments}
    here = hashlib.sha256(b"\n".join(record.data for record in Generator(7).records(2000))).hexdigest()
    assert digests == {f"{here}\n".encode()}


def test_different_seeds_give_different_records() -> None:
    first, second = ({record.data for record in Generator(seed).records(500)} for seed in (1, 2))
    assert not first & second


def test_malformed_flag_is_exactly_what_a_strict_reader_cannot_use(mixed: list[NativeRecord]) -> None:
    assert [record.malformed for record in mixed] == [not usable(record) for record in mixed]


def test_malformed_share_is_about_the_one_asked_for(mixed: list[NativeRecord]) -> None:
    assert 800 < sum(record.malformed for record in mixed) < 1200


def test_malformed_records_fail_for_every_reason_in_every_source(mixed: list[NativeRecord]) -> None:
    reasons = defaultdict(set)
    for record in mixed:
        if not record.malformed:
            continue
        try:
            event = msgspec.json.decode(record.data)
        except UnicodeDecodeError:
            reason = "utf-8"
        except msgspec.DecodeError:
            reason = "nan" if record.data.endswith(b"NaN}") else "truncated"
        else:
            found = next(times(event), None) if isinstance(event, dict) else None
            reason = f"{type(event).__name__} {type(found).__name__}"
        reasons[record.source].add(reason)
    kinds = {"utf-8", "nan", "truncated", "dict dict", "dict list", "list NoneType", "int NoneType"}
    assert reasons == dict.fromkeys(SOURCES, kinds)


def test_a_share_of_nothing_or_of_everything_is_kept() -> None:
    assert not any(record.malformed for record in Generator(1, malformed_share=0).records(1000))
    assert all(record.malformed and not usable(record) for record in Generator(1, malformed_share=1).records(1000))


def test_records_stay_on_one_line_and_none_occurs_twice(mixed: list[NativeRecord]) -> None:
    assert not any(b"\n" in record.data for record in mixed)
    assert len({record.data for record in mixed}) == len(mixed)


def test_good_records_have_the_key_fields_of_their_source(good: list[tuple[str, dict[str, Any]]]) -> None:
    for source, event in good:
        match source:
            case "suricata":
                assert event.keys() >= {"timestamp", "flow_id", "event_type", "src_ip", "dest_ip", "proto"}
                assert event["event_type"] in event
            case "aws_cloudtrail":
                assert event.keys() >= {"eventVersion", "eventTime", "eventSource", "eventName", "eventID", "awsRegion"}
                assert event["userIdentity"]["type"] in {"IAMUser", "AssumedRole", "Root", "AWSService"}
            case "zeek":
                assert event.keys() & {"_path", "@stream"}
                assert "ts" in event
            case _ if "Event" in event:
                assert event["Event"]["System"].keys() >= {"Provider", "EventID", "Channel", "Computer", "TimeCreated"}
                assert event["Event"]["EventData"]
            case _:
                assert event.keys() >= {"EventID", "Channel", "Hostname", "@timestamp", "SourceName"}


def test_good_records_hold_no_unfilled_mark(good: list[tuple[str, dict[str, Any]]]) -> None:
    marks = re.compile(r"\$\{|%\(\w+\)|#\$")
    assert not [event for _, event in good if marks.search(json.dumps(event))]


def test_every_source_has_its_kinds_of_events_and_about_its_share(good: list[tuple[str, dict[str, Any]]]) -> None:
    kinds = defaultdict(set)
    for source, event in good:
        system = event["Event"]["System"] if "Event" in event else event
        names = ("event_type", "_path", "@stream", "EventID", "eventName")
        kinds[source].add(next(system[name] for name in names if name in system))
    assert kinds["suricata"] == {"alert", "dns", "fileinfo", "flow", "http", "smb", "ssh", "tls"}
    assert kinds["zeek"] == {"conn", "dns", "files", "http", "notice", "ssh", "ssl", "weird"}
    assert kinds["windows"] == {
        1, 3, 5, 7, 10, 11, 13, 22, 4104, 4624, 4625, 4634, 4672, 4688, 4720, 4726, 4732, 4740,
    }  # fmt: skip
    assert kinds["aws_cloudtrail"] > {"ConsoleLogin", "GetObject", "AssumeRole", "CreateUser", "StopLogging"}
    shares = Counter(source for source, _ in good)
    assert all(4000 < shares[source] < 6500 for source in SOURCES)


def test_cloudtrail_event_ids_are_unique_uuids() -> None:
    records = Generator(6, malformed_share=0, sources=["aws_cloudtrail"]).records(20_000)
    ids = {loaded(record)["eventID"] for record in records}
    assert len(ids) == 20_000
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", each) for each in ids)


def test_times_rise_at_the_rate_from_the_start(good: list[tuple[str, dict[str, Any]]]) -> None:
    """CloudTrail writes whole seconds and Windows milliseconds; both only cut off, so a second is the slack."""
    start = DEFAULT_START_MS / 1000
    moments = [seconds(source, event) for source, event in good]
    assert all(-1 < moment - start - number / 1000 < 0.001 for number, moment in enumerate(moments))
    fine = [moment for (source, _), moment in zip(good, moments, strict=True) if source in ("suricata", "zeek")]
    assert fine == sorted(fine)


def test_start_and_rate_are_followed() -> None:
    records = Generator(
        1, start_ms=1_760_000_000_000, rate_per_second=0.5, malformed_share=0, sources=["zeek"]
    ).records(9)
    moments = [seconds("zeek", loaded(record)) for record in records]
    assert moments == [1_760_000_000 + 2 * number for number in range(9)]


@pytest.mark.parametrize("source", SOURCES)
def test_one_source_alone_gives_only_that_source(source: str) -> None:
    assert {record.source for record in Generator(1, sources=[source]).records(500)} == {source}


@pytest.mark.parametrize(
    "arguments", [{"sources": []}, {"sources": ["okta"]}, {"malformed_share": 2}, {"rate_per_second": 0}]
)
def test_impossible_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Generator(1, **arguments)


def test_community_id_is_that_of_the_specification_in_both_directions() -> None:
    """A TCP example of the Community ID v1 baseline."""
    one, other = Address.of("128.232.110.120").packed, Address.of("66.35.250.204").packed
    assert community_id(6, one, 34855, other, 80) == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="
    assert community_id(6, other, 80, one, 34855) == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="


def test_both_sensors_see_a_flow_under_the_same_community_id(good: list[tuple[str, dict[str, Any]]]) -> None:
    by_source: dict[str, set[str]] = {"suricata": set(), "zeek": set()}
    flows: dict[int, set[str]] = defaultdict(set)
    for source, event in good:
        if "community_id" in event:
            by_source[source].add(event["community_id"])
        if source == "suricata":
            flows[event["flow_id"]].add(event["community_id"])
    assert len(by_source["suricata"] & by_source["zeek"]) > 0.9 * len(by_source["zeek"])
    assert all(len(ids) == 1 for ids in flows.values())


def test_addresses_are_private_or_reserved_for_documentation(good: list[tuple[str, dict[str, Any]]]) -> None:
    allowed = [
        ipaddress.ip_network(network)
        for network in ("10.0.0.0/8", "127.0.0.0/8", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
    ]
    names = {"src_ip", "dest_ip", "sourceIPAddress", "id.orig_h", "id.resp_h", "IpAddress", "SourceIp", "DestinationIp"}
    found = set()
    for _, event in good:
        fields = event["Event"]["EventData"] if "Event" in event else event
        found |= {fields[name] for name in names & fields.keys() if fields[name][0].isdigit()}
    assert len(found) > 100
    assert all(any(ipaddress.ip_address(address) in network for network in allowed) for address in found)


def test_an_attacker_is_seen_by_all_four_sources_within_a_small_run() -> None:
    """The first four stories share two attackers: scan and guessed password, taken account and download."""
    records = Generator(1, malformed_share=0).records(5000)
    seen = {
        attacker: {r.source for r in records if attacker in r.data} for attacker in (b"203.0.113.200", b"203.0.113.207")
    }
    assert set.union(*seen.values()) == set(SOURCES)
    guessed = [loaded(r) for r in records if r.source == "windows" and b'"203.0.113.200"' in r.data]
    numbers = [event["Event"]["System"]["EventID"] if "Event" in event else event["EventID"] for event in guessed]
    assert numbers.index(4624) >= 12
    assert set(numbers[: numbers.index(4624)]) == {4625}
    calls = [loaded(r)["eventName"] for r in records if r.source == "aws_cloudtrail" and b'"203.0.113.207"' in r.data]
    assert calls[:4] == ["ConsoleLogin"] * 4
    assert calls[-1] == "StopLogging"


def test_start_defaults_to_a_fixed_instant() -> None:
    assert datetime.fromtimestamp(DEFAULT_START_MS / 1000, UTC) == datetime(2025, 1, 1, tzinfo=UTC)
