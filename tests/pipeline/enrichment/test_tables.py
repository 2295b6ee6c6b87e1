"""Tables of assets and identities, from files and from MongoDB, and networks with tags."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Int64, ObjectId
from pymongo import MongoClient

from tidegate.config import Settings
from tidegate.errors import TableError
from tidegate.pipeline.enrichment.files import Report
from tidegate.pipeline.enrichment.settings import Collection, KeyedTable
from tidegate.pipeline.enrichment.tables import NetworkTags, TextTable, load_collection, load_table, tags_of

CSV = b"hostname,owner,site,critical\nWEB-1,mira,hq,yes\ndb-1,,hq,\n"
LINES = (
    b'{"hostname": "WEB-1", "owner": "mira", "site": "hq", "critical": "yes"}\n\n{"hostname": "db-1", "site": "hq"}\n'
)
LIST = b'[{"hostname": "WEB-1", "owner": "mira", "site": "hq", "critical": "yes"}, {"hostname": "db-1", "site": "hq"}]'


def _load(path: Path, content: bytes, key: str = "hostname", **settings: Any) -> tuple[TextTable | NetworkTags, Report]:
    path.write_bytes(content)
    return load_table(path, KeyedTable(name="assets", path=path.name, key=key, **settings))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.csv.gz", gzip.compress(CSV, mtime=0)),
        ("a.ndjson", LINES),
        ("a.json", LIST),
        ("a.json", LINES),
    ],
)
def test_rows_are_found_by_their_key(tmp_path: Path, name: str, content: bytes) -> None:
    table, report = _load(tmp_path / name, content)
    assert table.lookup("web-1") == {"hostname": "WEB-1", "owner": "mira", "site": "hq", "critical": "yes"}
    assert table.lookup("DB-1") == {"hostname": "db-1", "site": "hq"}
    assert table.lookup("none") is None
    assert (len(table), table.hits, table.misses) == (2, 2, 1)
    assert (report.rows, report.bad) == (2, 0)
    assert table.nbytes > 500


def test_columns_may_be_chosen_and_case_may_count(tmp_path: Path) -> None:
    table, _ = _load(tmp_path / "a.csv", CSV, columns=["site"], fold_case=False)
    assert table.lookup("WEB-1") == {"site": "hq"}
    assert table.lookup("web-1") is None


def test_bad_rows_are_counted_and_told(tmp_path: Path) -> None:
    lines = b'{"hostname": "a"}\n5\n{"hostname": ["a"]}\n{\n{"hostname": "A", "n": 1}\n{"hostname": 7}\n'
    table, report = _load(tmp_path / "a.ndjson", lines)
    assert (report.rows, report.bad, report.repeated, len(table)) == (6, 3, 1, 2)
    assert table.lookup("a") == {"hostname": "A", "n": 1}
    assert table.lookup("7") == {"hostname": 7}
    assert [each.partition(":")[0] for each in report.first_bad] == ["line 2", "line 3", "line 4"]
    table, report = _load(tmp_path / "a.csv", b"hostname,owner\na,b,c\nb\nc,d\n")
    assert (len(table), report.first_bad) == (2, ["line 2: more than the 2 columns of the header"])


@pytest.mark.parametrize(
    ("name", "content", "settings", "problem"),
    [
        ("a.csv", b"host,owner\n", {}, r'a\.csv:1: no column "hostname"; there are: host, owner'),
        ("a.csv", b"hostname\n", {"columns": ["site"]}, r'a\.csv:1: no column "site"'),
        ("a.csv", CSV, {"max_rows": 1}, "more than 1 rows; raise max_rows of assets"),
        ("a.json", b"[{]", {}, "is not JSON"),
        ("a.json", b"{}", {}, r'not one of 1 rows can be used; line 1: no usable "hostname"'),
        ("a.csv.gz", gzip.compress(CSV, mtime=0)[:-9], {}, "cannot be read"),
        ("a.csv", CSV, {"match": "cidr"}, "'WEB-1' is no network"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, content: bytes, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TableError, match=problem):
        _load(tmp_path / name, content, **settings)


def test_an_address_finds_the_row_of_its_closest_network(tmp_path: Path) -> None:
    table, report = _load(
        tmp_path / "a.csv",
        b"net,site\n10.0.0.0/8,all\n10.1.0.0/16,hq\n10.1.2.3,door\nx,y\n",
        "net",
        match="cidr",
        columns=["site"],
    )
    assert [table.lookup(ip) for ip in ("10.1.2.3", "10.1.2.4", "10.2.0.1", "11.0.0.1", "door")] == [
        {"site": "door"},
        {"site": "hq"},
        {"site": "all"},
        None,
        None,
    ]
    assert (len(table), table.hits, table.misses, report.bad) == (3, 3, 2, 1)


def test_tags_of_networks_may_be_in_the_settings() -> None:
    tags = tags_of({"10.1.0.0/16": {"site": "hq"}, "2001:db8::/32": {"site": "lab"}})
    assert tags.lookup("10.1.9.9") == {"site": "hq"}
    assert tags.lookup("2001:db8::9") == {"site": "lab"}
    assert tags.lookup("10.2.9.9") is None
    with pytest.raises(TableError, match=r"'10\.1' is no network"):
        tags_of({"10.1": {}})


def test_a_collection_of_mongodb_is_a_table(mongo_server: Settings) -> None:
    uri, database = mongo_server.mongodb_uri, "enrichment"
    when = datetime(2026, 1, 1, tzinfo=UTC)
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        identity = ObjectId()
        client[database]["people"].insert_many(
            [
                {"_id": identity, "login": "Mira", "team": "blue", "since": when, "badge": Int64(5), "on": True},
                {"login": "ada", "team": "red", "on": True},
                {"login": "eve", "on": False},
                {"team": "none", "on": True},
            ]
        )
    source = Collection(collection="people", filter={"on": True})
    table, report = load_collection(uri, database, KeyedTable(name="people", mongodb=source, key="login"))
    row = table.lookup("mira")
    assert row is not None
    assert {name: row[name] for name in ("login", "team", "badge", "on")} == {
        "login": "Mira",
        "team": "blue",
        "badge": 5,
        "on": True,
    }
    assert row["since"].startswith("2026-01-01T00:00:00")
    assert table.lookup("eve") is None
    assert (len(table), report.rows, report.first_bad) == (2, 3, ['document 3: no usable "login"'])
    chosen = KeyedTable(name="people", mongodb=source, key="_id", columns=["team"])
    assert load_collection(uri, database, chosen)[0].lookup(str(identity)) == {"team": "blue"}
    with pytest.raises(TableError, match=r"mongodb:enrichment\.people: more than 1 rows"):
        load_collection(uri, database, KeyedTable(name="people", mongodb=source, key="login", max_rows=1))


def test_a_mongodb_that_is_not_there_is_told_with_the_name_of_the_collection() -> None:
    settings = KeyedTable(name="people", mongodb=Collection(collection="people"), key="login")
    with pytest.raises(TableError, match=r"mongodb:db\.people: cannot be read"):
        load_collection("mongodb://127.0.0.1:1/", "db", settings, timeout_seconds=0.2)
