"""What comes of a tenant's frame is the tenant's, for every kind of record and whatever it says of itself."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.pipeline.data import SHARDS
from tidegate.generator.generate import SOURCES, Generator
from tidegate.pipeline.runner import Outcome, Pipeline, RawFrame
from tidegate.subject import shard_of


def run(pipeline: Pipeline, source: str, records: list[bytes], tenant: str, origin: str = "INGEST/x/1") -> Outcome:
    outcome = Outcome(SHARDS)
    pipeline.run(
        RawFrame(
            source=source, codec="json", records=records, received_ms=1_700_000_000_000, origin=origin, tenant=tenant
        ),
        outcome,
    )
    return outcome


def events(outcome: Outcome) -> list[dict[str, Any]]:
    found = [(shard, msgspec.json.decode(line)) for shard, lines in enumerate(outcome.lines) for line in lines]
    assert all(shard == shard_of(one["metadata"]["correlation_uid"], SHARDS) for shard, one in found)
    return [one for _, one in found]


@pytest.mark.parametrize("source", SOURCES)
def test_only_the_tenant_and_the_ids_differ(pipeline: Pipeline, source: str) -> None:
    records = [one.data for one in Generator(3, malformed_share=0.05, sources=[source]).records(300)]
    plain, mine = run(pipeline, source, records, ""), run(pipeline, source, records, "acme")
    for one in (found := events(mine)):
        metadata = one["metadata"]
        assert metadata.pop("tenant_uid") == "acme"
        metadata["correlation_uid"] = metadata["correlation_uid"].removeprefix("acme:")
        metadata["uid"] = metadata["uid"].removeprefix("acme:")
    key = msgspec.json.Encoder(order="sorted").encode
    others = [{**one, "metadata": {**one["metadata"]}} for one in events(plain)]
    for one in others:
        one["metadata"].pop("tenant_uid", None)
    assert sorted(map(key, found)) == sorted(map(key, others))
    assert (mine.records, mine.filtered) == (plain.records, plain.filtered)
    assert [letter.tenant for some in mine.dead for letter in some] == ["acme"] * sum(map(len, plain.dead))


def test_a_record_cannot_name_another_tenant_or_take_another_tenants_ids(pipeline: Pipeline) -> None:
    ocsf = {
        "class_uid": 0, "category_uid": 0, "activity_id": 0, "type_uid": 0, "severity_id": 1, "time": 1_700_000_000_000,
        "metadata": {
            "version": "1.8.0", "product": {"name": "x", "vendor_name": "y"}, "uid": "u-1", "tenant_uid": "other",
            "correlation_uid": "c-1",
        },
    }  # fmt: skip
    envelope = {"data": {"metadata": {"tenant_uid": "other"}}, "event_id": "u-1", "correlation_id": "other:c-1"}
    found = [
        *events(run(pipeline, "ocsf", [msgspec.json.encode(ocsf)], "acme")),
        *events(run(pipeline, "app", [msgspec.json.encode(envelope)], "acme")),
    ]
    assert {one["metadata"]["tenant_uid"] for one in found} == {"acme"}
    assert {one["metadata"]["uid"] for one in found} == {"acme:u-1"}
    assert {one["metadata"]["correlation_uid"] for one in found} == {"acme:c-1", "acme:other:c-1"}


def test_ids_made_by_the_pipeline_stay(pipeline: Pipeline) -> None:
    records = [b'{"data":%d}' % number for number in range(5000)]
    found = events(run(pipeline, "app", records, "acme"))
    assert len({one["metadata"]["uid"] for one in found}) == 5000
    assert not any(one["metadata"]["uid"].startswith("acme") for one in found)


def test_a_dead_letter_says_whose_it_was(pipeline: Pipeline) -> None:
    outcome = run(pipeline, "suricata", [b"{"], "acme")
    (letter,) = [letter for some in outcome.dead for letter in some]
    assert letter.tenant == "acme"
