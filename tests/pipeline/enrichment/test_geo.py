"""Where an address is, from the layouts of the known makers of MMDB files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from tests.pipeline.enrichment.mmdb import write
from tidegate.errors import TableError
from tidegate.ocsf import AutonomousSystem, Location
from tidegate.pipeline.enrichment.geo import Geo, GeoTable, MmdbFile, geo_of

CITY: dict[str, Any] = {
    "city": {"names": {"de": "Genf", "en": "Geneva"}},
    "continent": {"code": "EU", "names": {"en": "Europe"}},
    "country": {"iso_code": "CH", "names": {"en": "Switzerland"}},
    "location": {"latitude": 46.2, "longitude": 6.14, "accuracy_radius": 5},
    "postal": {"code": "1201"},
    "subdivisions": [{"iso_code": "GE", "names": {"en": "Geneva"}}, {"iso_code": "X"}],
}
GENEVA = Location(
    country="CH", region="CH-GE", city="Geneva", continent="Europe", postal_code="1201", lat=46.2, long=6.14
)
ASN = {"autonomous_system_number": 64500, "autonomous_system_organization": "Example Networks"}
SYSTEM = AutonomousSystem(number=64500, name="Example Networks")


@pytest.mark.parametrize(
    ("record", "geo"),
    [
        (CITY, Geo(location=GENEVA)),
        (ASN, Geo(autonomous_system=SYSTEM)),
        ({"country": {"iso_code": "CH"}}, Geo(location=Location(country="CH"))),
        ({"registered_country": {"iso_code": "CH"}}, Geo(location=Location(country="CH"))),
        ({**ASN, "isp": "Example ISP"}, Geo(location=Location(isp="Example ISP"), autonomous_system=SYSTEM)),
        # DB-IP names subdivisions without a code.
        (
            {"country": {"iso_code": "CH"}, "subdivisions": [{"names": {"en": "Geneva"}}]},
            Geo(location=Location(country="CH", region="Geneva")),
        ),
        # IPinfo: Lite, then location, then ASN.
        (
            {
                "country": "Switzerland",
                "country_code": "CH",
                "continent": "Europe",
                "continent_code": "EU",
                "asn": "AS64500",
                "as_name": "Example Networks",
                "as_domain": "net.example",
            },
            Geo(location=Location(country="CH", continent="Europe"), autonomous_system=SYSTEM),
        ),
        (
            {
                "city": "Geneva",
                "region": "Geneva",
                "country": "CH",
                "postal_code": "1201",
                "lat": "46.2",
                "lng": "6.14",
                "timezone": "Europe/Zurich",
            },
            Geo(
                location=Location(country="CH", region="Geneva", city="Geneva", postal_code="1201", lat=46.2, long=6.14)
            ),
        ),
        ({"asn": "AS64500", "name": "Example Networks", "domain": "net.example"}, Geo(autonomous_system=SYSTEM)),
        ({"country_code": "CH"}, Geo(location=Location(country="CH"))),
        ({}, None),
        ({"country": 5, "city": [], "subdivisions": "x", "location": {"latitude": "north"}, "asn": "ASx"}, None),
    ],
)
def test_records_of_each_maker_give_the_same_attributes(record: dict[str, Any], geo: Geo | None) -> None:
    assert geo_of(record) == geo


def test_what_is_found_has_the_shape_of_ocsf() -> None:
    schema = OcsfJsonSchemaEmbedded(get_ocsf_schema("1.8.0"))
    for name, found in (("location", GENEVA), ("autonomous_system", SYSTEM)):
        shape = schema.get_object_schema(name)
        assert set(msgspec.json.decode(msgspec.json.encode(found))) <= set(shape["properties"])
        jsonschema.validate(msgspec.json.decode(msgspec.json.encode(found)), shape)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[MmdbFile, MmdbFile]:
    folder = tmp_path_factory.mktemp("mmdb")
    city = write(folder / "city.mmdb", {"81.2.69.0/24": CITY, "2a02:db8::/32": CITY, "10.0.0.0/8": CITY})
    asn = write(folder / "asn.mmdb", {"81.2.0.0/16": ASN}, version=4)
    return MmdbFile(city), MmdbFile(asn)


@pytest.fixture
def table(files: tuple[MmdbFile, MmdbFile]) -> GeoTable:
    return GeoTable(*files, cache_entries=10)


def test_an_address_is_looked_up_in_both_files(table: GeoTable) -> None:
    assert table.lookup("81.2.69.7") == Geo(location=GENEVA, autonomous_system=SYSTEM)
    assert table.lookup("::ffff:81.2.69.7") == Geo(location=GENEVA, autonomous_system=SYSTEM)
    assert table.lookup("81.2.70.7") == Geo(autonomous_system=SYSTEM)
    assert table.lookup("2A02:DB8:0::1") == Geo(location=GENEVA)


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3",
        "127.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "169.254.1.1",
        "172.31.0.1",
        "8.8.8.8",
        "2a03::1",
        "",
        "x",
        "81.2.69",
    ],
)
def test_private_addresses_unknown_ones_and_other_text_find_nothing(table: GeoTable, text: str) -> None:
    assert table.lookup(text) is None


def test_hits_and_misses_are_counted_and_the_cache_is_bounded(table: GeoTable) -> None:
    for number in [*range(25), 24, 24]:
        assert table.lookup(f"81.2.69.{number}") is not None
    assert (table.cache.lookups, table.cache.misses) == (27, 25)
    assert len(table.cache) <= 10


def test_a_file_that_is_overwritten_in_place_does_not_hurt_the_table_in_use(tmp_path: Path) -> None:
    path = write(tmp_path / "city.mmdb", {f"81.2.{number}.0/24": {**CITY, "n": number} for number in range(200)})
    table = GeoTable(MmdbFile(path), None)
    path.write_bytes(b"")
    assert table.lookup("81.2.199.7") == Geo(location=GENEVA)


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda raw: raw[:-200], lambda raw: raw[100:], lambda _: b"x" * 5000]
)
def test_a_damaged_file_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    path = write(tmp_path / "city.mmdb", {"81.2.69.0/24": CITY})
    path.write_bytes(damage(path.read_bytes()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(TableError, match="is no MMDB file, or a damaged one"):
        MmdbFile(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_whose_damage_kills_the_reader_is_refused(tmp_path: Path) -> None:
    """A key that is a number where text belongs: the C extension of maxminddb 3.2 dies of that."""
    path = write(tmp_path / "city.mmdb", {"81.2.69.0/24": {"country": {"iso_code": "CH"}}})
    path.write_bytes(path.read_bytes().replace(b"Gcountry", b"\xc1country"))
    with pytest.raises(TableError, match="is no MMDB file, or a damaged one"):
        MmdbFile(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        MmdbFile(tmp_path / "none.mmdb")
