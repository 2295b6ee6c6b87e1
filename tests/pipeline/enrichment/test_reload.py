"""Tables are replaced while they are in use, and only by what is whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from anyio import create_task_group, to_thread
from pymongo import MongoClient

from tests.pipeline.enrichment.mmdb import write
from tidegate import tomlfile
from tidegate.config import Settings
from tidegate.errors import ConfigError, TableError
from tidegate.pipeline.enrichment.feeds import load_feed
from tidegate.pipeline.enrichment.library import Library, TableStatus
from tidegate.pipeline.enrichment.settings import Enrichment

pytestmark = pytest.mark.anyio

RULES = """\
[geo]
city = "city.mmdb"

[[indicators]]
feed = "iocs"
path = "iocs.txt"

[[tables]]
name = "assets"
path = "assets.csv"
key = "hostname"

[tags]
"10.1.0.0/16" = { site = "hq" }
"""


def _city(path: Path, country: str) -> Path:
    return write(path, {"81.2.69.0/24": {"country": {"iso_code": country}}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules.toml").write_text(RULES)
    _city(tmp_path / "city.mmdb", "CH")
    (tmp_path / "iocs.txt").write_text("evil.example\nnonsense\n")
    (tmp_path / "assets.csv").write_text("hostname,owner\nweb-1,mira\n")
    return tmp_path


@pytest.fixture
async def library(folder: Path) -> Library:
    library = Library(tomlfile.load(folder / "rules.toml", Enrichment), folder)
    await library.load()
    return library


def _status(library: Library, name: str) -> TableStatus:
    return next(one for one in library.statistics() if one.name == name)


def _is_evil(library: Library, domain: str) -> bool:
    return library.indicators.match("domain", domain, 0) is not None


def _country(library: Library) -> str | None:
    geo = library.geo.lookup("81.2.69.7") if library.geo else None
    return geo.location.country if geo and geo.location else None


async def test_everything_is_loaded_as_the_settings_say_and_counted(library: Library) -> None:
    assert _country(library) == "CH"
    assert _country(library) == "CH"
    assert _is_evil(library, "www.evil.example")
    assert library.tables["assets"].lookup("web-1") == {"hostname": "web-1", "owner": "mira"}
    assert library.tags.lookup("10.1.2.3") == {"site": "hq"}
    geo, iocs, assets = library.statistics()
    assert (geo.name, geo.kind, geo.hits, geo.misses, geo.hit_rate) == ("geo.city", "geo", 1, 1, 0.5)
    assert (iocs.name, iocs.kind, iocs.entries, iocs.rows, iocs.bad) == ("indicators.iocs", "indicators", 1, 2, 1)
    assert iocs.first_bad == ["line 2: 'nonsense' is no address, network, domain, hash, URL or e-mail address"]
    assert (assets.name, assets.kind, assets.entries, assets.hits) == ("tables.assets", "table", 1, 1)
    for one in (geo, iocs, assets):
        assert one.bytes > 0
        assert one.loaded_at_ms > 1_700_000_000_000
        assert one.load_seconds > 0
        assert one.problem is None
    assert msgspec.json.decode(msgspec.json.encode(iocs), type=TableStatus) == iocs


async def test_a_changed_file_is_loaded_once_it_has_stayed_the_same_for_a_check(library: Library, folder: Path) -> None:
    assert await library.check() == []
    path = folder / "iocs.txt"
    path.write_text("evil.exa")
    assert await library.check() == []
    path.write_text("evil.example\nbad.example\n")
    assert await library.check() == []
    assert not _is_evil(library, "bad.example")
    assert await library.check() == ["indicators.iocs"]
    assert _is_evil(library, "bad.example")
    assert await library.check() == []


async def test_files_that_are_renamed_over_the_old_ones_are_loaded_and_counts_go_on(
    library: Library, folder: Path
) -> None:
    assert _country(library) == "CH"
    assert library.tables["assets"].lookup("web-1") is not None
    _city(folder / "new", "FR").replace(folder / "city.mmdb")
    (folder / "new").write_text("hostname,owner\nweb-2,ada\n")
    (folder / "new").replace(folder / "assets.csv")
    assert await library.check() == []
    assert await library.check() == ["geo.city", "tables.assets"]
    assert _country(library) == "FR"
    assert library.tables["assets"].lookup("web-1") is None
    assert (_status(library, "geo.city").misses, _status(library, "tables.assets").hits) == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "where", "problem"),
    [
        ("city.mmdb", b"not an MMDB", "city.mmdb", "is no MMDB file"),
        ("iocs.txt", b"\x1f\x8bbroken", "iocs.txt", "cannot be read"),
        ("assets.csv", b"host\nweb-1\n", "assets.csv:1", 'no column "hostname"'),
    ],
)
async def test_a_broken_file_does_not_replace_the_table_in_use_and_a_mended_one_does(
    library: Library, folder: Path, name: str, content: bytes, where: str, problem: str
) -> None:
    good = (folder / name).read_bytes()
    before = library.statistics()
    (folder / name).write_bytes(content)
    assert [await library.check() for _ in range(3)] == [[], [], []]
    assert _country(library) == "CH"
    assert _is_evil(library, "evil.example")
    assert library.tables["assets"].lookup("web-1") is not None
    broken = next(one for one in library.statistics() if one.problem is not None)
    assert broken.loaded_at_ms == next(one for one in before if one.name == broken.name).loaded_at_ms
    assert broken.problem is not None
    assert broken.problem.where == str(folder / where)
    assert problem in broken.problem.problem
    assert broken.problem.at_ms >= broken.loaded_at_ms
    (folder / name).write_bytes(good)
    assert [await library.check() for _ in range(2)] == [[], [broken.name]]
    assert all(one.problem is None for one in library.statistics())


async def test_a_file_that_goes_away_is_told_and_its_table_stays(library: Library, folder: Path) -> None:
    (folder / "iocs.txt").rename(folder / "away")
    assert await library.check() == []
    assert _is_evil(library, "evil.example")
    problem = _status(library, "indicators.iocs").problem
    assert problem is not None
    assert "No such file" in problem.problem
    (folder / "away").rename(folder / "iocs.txt")
    await library.check()
    await library.check()
    assert _status(library, "indicators.iocs").problem is None


async def test_a_file_that_is_written_to_while_it_is_loaded_is_not_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0

    def load_and_disturb(*arguments: Any) -> Any:
        nonlocal loads
        loads += 1
        loaded = load_feed(*arguments)
        if loads == 2:
            (folder / "iocs.txt").write_text("evil.example\nbad.example\n")
        return loaded

    monkeypatch.setattr("tidegate.pipeline.enrichment.library.load_feed", load_and_disturb)
    library = Library(tomlfile.load(folder / "rules.toml", Enrichment), folder)
    await library.load()
    (folder / "iocs.txt").write_text("torn.example\n")
    assert [await library.check() for _ in range(4)] == [[], [], [], ["indicators.iocs"]]
    assert not _is_evil(library, "torn.example")
    assert _is_evil(library, "bad.example")
    assert loads == 3


async def test_lookups_go_on_and_see_one_whole_table_while_tables_are_replaced(library: Library, folder: Path) -> None:
    """Each version of the feed has both of its own domains, and each of the country file one country."""
    stop = threading.Event()
    wrong: list[str] = []
    seen: set[str | None] = set()
    lookups = 0

    def look() -> None:
        nonlocal lookups
        while not stop.is_set():
            lookups += 1
            if not _is_evil(library, f"{lookups % 100}.evil.example"):
                wrong.append("the indicator that all versions have was not found")
            country = _country(library)
            seen.add(country)
            if country not in ("CH", "FR"):
                wrong.append(f"country {country}")

    def replace(number: int) -> None:
        rows = [f"{number}-{each}.example" for each in range(2000)]
        (folder / "new").write_text("\n".join([*rows, "evil.example"]))
        (folder / "new").replace(folder / "iocs.txt")
        _city(folder / "new.mmdb", ("CH", "FR")[number % 2]).replace(folder / "city.mmdb")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(3):
            await to_thread.run_sync(replace, number)
            await library.check()
            assert set(await library.check()) == {"geo.city", "indicators.iocs"}
            assert _is_evil(library, f"{number}-1999.example")
            assert not _is_evil(library, f"{number - 1}-1999.example")
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    assert lookups > 100
    assert seen == {"CH", "FR"}


async def test_only_one_check_is_at_work_at_a_time(library: Library, folder: Path) -> None:
    (folder / "iocs.txt").write_text("evil.example\nbad.example\n")
    await library.check()
    found: list[list[str]] = []

    async def check() -> None:
        found.append(await library.check())

    async with create_task_group() as group:
        for _ in range(3):
            group.start_soon(check)
    assert sorted(found) == [[], [], ["indicators.iocs"]]


async def test_a_table_that_cannot_be_loaded_at_first_is_an_error(folder: Path) -> None:
    os.truncate(folder / "city.mmdb", 10)
    library = Library(tomlfile.load(folder / "rules.toml", Enrichment), folder)
    with pytest.raises(TableError, match=r"city\.mmdb: is no MMDB file"):
        await library.load()
    (folder / "city.mmdb").unlink()
    with pytest.raises(TableError, match="No such file"):
        await Library(tomlfile.load(folder / "rules.toml", Enrichment), folder).load()


async def test_a_collection_is_loaded_again_after_a_while(mongo_server: Settings, tmp_path: Path) -> None:
    with MongoClient[dict[str, Any]](mongo_server.mongodb_uri) as client:
        people = client["reload"]["people"]
        people.insert_one({"_id": 1, "login": "mira", "team": "blue"})
        table = {"name": "people", "key": "login", "mongodb": {"collection": "people", "refresh_seconds": 0.001}}
        settings = msgspec.convert({"tables": [table]}, Enrichment)
        library = Library(settings, tmp_path, mongo_server.mongodb_uri, "reload")
        await library.load()
        assert library.tables["people"].lookup("mira") == {"login": "mira", "team": "blue"}
        people.update_one({"_id": 1}, {"$set": {"team": "red"}})
        assert await library.check() == ["tables.people"]
        assert library.tables["people"].lookup("mira") == {"login": "mira", "team": "red"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"tables": [{"name": "a", "key": "k"}]}, '"a" needs either path or mongodb'),
        ({"tables": [{"name": "a", "key": "k", "path": "x", "mongodb": {"collection": "c"}}]}, "needs either"),
        ({"tables": [{"name": "a", "key": "k", "path": "x"}] * 2}, '"tables.a" is there twice'),
        ({"tags": {"x": {}}}, "'x' is no network"),
    ],
)
async def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        Library(msgspec.convert(settings, Enrichment), tmp_path)


async def test_an_unknown_key_of_the_settings_is_refused_with_its_line(folder: Path) -> None:
    (folder / "rules.toml").write_text(RULES.replace('path = "iocs.txt"', 'pth = "iocs.txt"'))
    with pytest.raises(ConfigError, match=r'rules\.toml:6: unknown key "pth"; did you mean "path"\?'):
        tomlfile.load(folder / "rules.toml", Enrichment)
