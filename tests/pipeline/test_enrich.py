"""The stages that look things up, take text apart and declare windows, in pipelines as users write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from tests.pipeline.data import SHARDS
from tests.pipeline.test_stages import FLOW, fate, load
from tidegate.errors import RuleError
from tidegate.pipeline.library import aggregates, load_with_tables

STAGES = """
pipeline = "own"
[[stage]]
name = "where"
type = "enrich"
geo = ["src_endpoint", "dst_endpoint"]
indicators = true
lookup = [
    { table = "assets", key = "src_endpoint.ip", set = { "src_endpoint.name" = "name", "severity_id" = "level" } },
    { table = "assets", key = "src_endpoint.ip" },
    { table = "tags", key = "src_endpoint.ip" },
]
"""
TABLES = """
[enrichment.geo]
city = "city.mmdb"
asn = "asn.mmdb"
[[enrichment.indicators]]
feed = "own"
path = "bad.csv"
[[enrichment.tables]]
name = "assets"
path = "assets.csv"
key = "ip"
[enrichment.tags]
"10.0.0.0/8" = { site = "hq" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, record in (
        ("city", {"country": {"iso_code": "NL"}, "city": {"names": {"en": "Delft"}}}),
        ("asn", {"autonomous_system_number": 64500, "autonomous_system_organization": "Example"}),
    ):
        writer = MMDBWriter(4, "Test", languages=["en"])
        writer.insert_network(IPSet(["192.0.2.0/24"]), record)
        writer.to_db_file(str(tmp_path / f"{name}.mmdb"))
    (tmp_path / "bad.csv").write_text("value,kind,label,confidence\n192.0.2.7,ip,c2,90\n")
    (tmp_path / "assets.csv").write_text("ip,name,level\n10.0.0.9,till-9,4\n")
    (tmp_path / "tables.toml").write_text(TABLES)
    (tmp_path / "own.toml").write_text(STAGES)
    return tmp_path


@pytest.mark.anyio
async def test_tables_are_applied_and_what_matched_is_recorded(folder: Path) -> None:
    _, pipeline = await load_with_tables(SHARDS, folder)
    event: Any = fate(pipeline, FLOW)
    assert event["dst_endpoint"]["location"] == {"city": "Delft", "country": "NL"}
    assert event["dst_endpoint"]["autonomous_system"] == {"number": 64500, "name": "Example"}
    assert event["src_endpoint"] == {"ip": "10.0.0.9", "port": 50000, "name": "till-9"}
    assert event["severity_id"] == 1, "what is there already stays"
    assert event["enrichments"] == [
        {
            "name": "src_endpoint.ip",
            "value": "10.0.0.9",
            "type": "assets",
            "data": {"ip": "10.0.0.9", "name": "till-9", "level": "4"},
        },
        {"name": "src_endpoint.ip", "value": "10.0.0.9", "type": "tags", "data": {"site": "hq"}},
        {
            "name": "dst_endpoint.ip",
            "value": "192.0.2.7",
            "type": "threat_intel",
            "provider": "own",
            "data": {"kind": "ip", "value": "192.0.2.7", "feed": "own", "confidence": 90, "label": "c2"},
        },
    ]


@pytest.mark.anyio
async def test_a_table_that_is_replaced_serves_from_the_next_event_on(folder: Path) -> None:
    library, pipeline = await load_with_tables(SHARDS, folder)
    assert library.tables is not None
    (folder / "bad.csv").write_text("value,kind\n198.51.100.1,ip\n192.0.2.77,ip\n")
    while "indicators.own" not in await library.tables.check():
        pass
    event: Any = fate(pipeline, FLOW)
    assert [one["type"] for one in event["enrichments"]] == ["assets", "tags"]


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('table = "assets", key = "src_endpoint.ip" }', 'table = "asets", key = "src_endpoint.ip" }', '"assets"'),
        ('geo = ["src_endpoint"', 'geo = ["src_endpont"', "src_endpont"),
        ("[enrichment.geo]", "[enrichment.geoip]", 'did you mean "geo"'),
        ('city = "city.mmdb"\nasn = "asn.mmdb"', "", "no MMDB file"),
    ],
)
@pytest.mark.anyio
async def test_wrong_names_are_refused(folder: Path, before: str, after: str, says: str) -> None:
    for name in ("own.toml", "tables.toml"):
        (folder / name).write_text((folder / name).read_text().replace(before, after))
    with pytest.raises(RuleError, match=says):
        await load_with_tables(SHARDS, folder)


def test_text_is_taken_apart_by_the_first_pattern_that_matches(tmp_path: Path) -> None:
    pipeline = load(
        tmp_path,
        """
[[stage]]
name = "apart"
type = "parse"
field = "message"
patterns = ["no such text %{INT:port}", "%{ANY} %{IP:ip} port %{INT:port}"]
set = { "status_code" = "port", "unmapped.address" = "ip" }
""",
    )
    event: Any = fate(pipeline, {"message": "from 10.1.2.3 port 4711"}, "acme2")
    assert (event["status_code"], event["unmapped"]) == ("4711", {"address": "10.1.2.3"})


def test_an_aggregate_stage_declares_a_window(tmp_path: Path) -> None:
    text = """
[[stage]]
name = "busy"
type = "aggregate"
window = { name = "busy", kind = "tumbling", size_ms = 60000, group_by = ["src_endpoint.ip"] }
"""
    load(tmp_path, text)
    assert [one.name for one in aggregates(tmp_path)] == ["busy"]
    with pytest.raises(RuleError, match="needs size_ms"):
        load(tmp_path, text.replace("size_ms = 60000, ", ""))
