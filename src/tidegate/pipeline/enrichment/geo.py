"""Where an address is and which autonomous system it belongs to, from MMDB files.

Invariant: a file is read from a copy of our own, as the one on disk may be overwritten while it is mapped into memory
(SIGBUS), and only once another process has read it without dying.

Known layouts: MaxMind's (GeoIP2, GeoLite2, and DB-IP's, which follow it) and IPinfo's flat ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import maxminddb
from msgspec import Struct

from tidegate.errors import TableError
from tidegate.ocsf import AutonomousSystem, Location
from tidegate.pipeline.enrichment.cache import Cached
from tidegate.pipeline.enrichment.networks import Networks
from tidegate.pipeline.enrichment.values import ip_key, key_of, text_of

__all__ = ["Geo", "GeoTable", "MmdbFile", "geo_of"]


_LOCAL = Networks(
    {
        key_of("cidr", text)[1]: 0
        for text in (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
            *("192.168.0.0/16", "224.0.0.0/3", "::/127", "fc00::/7", "fe80::/10", "ff00::/8"),
        )
    }
)
"""Private, loopback, link-local and multicast: no file is asked for these."""


_CHECK_SECONDS = 120
# ValueError: text that is not UTF-8.
_DAMAGED = (maxminddb.InvalidDatabaseError, ValueError)


class Geo(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of an address; one of both is there."""

    location: Location | None = None
    autonomous_system: AutonomousSystem | None = None


class MmdbFile:
    """One MMDB file, opened."""

    def __init__(self, path: Path) -> None:
        """Raises TableError when it cannot be read or is no MMDB file. Takes a second for a large one."""
        try:
            descriptor, copy = tempfile.mkstemp(suffix=".mmdb")
            os.close(descriptor)
            try:
                shutil.copyfile(path, copy)
                _check(path, copy)
                # MODE_AUTO takes the C extension, which maps the file into memory: it needs the name no longer.
                self._reader = maxminddb.open_database(copy, maxminddb.MODE_AUTO)
                self.nbytes = Path(copy).stat().st_size
            finally:
                Path(copy).unlink()
        except OSError as error:
            raise TableError(str(path), f"cannot be read: {error}") from error
        self._four_only = self._reader.metadata().ip_version == 4

    @property
    def nodes(self) -> int:
        """Nodes of the search tree: the format does not say how many networks there are."""
        return self._reader.metadata().node_count

    def get(self, address: str) -> dict[str, Any]:
        """The record, empty when there is none, or a damaged one; `address` is a valid one."""
        if self._four_only and ":" in address:
            return {}
        try:
            record = self._reader.get(address)
        except _DAMAGED:
            return {}
        return record if isinstance(record, dict) else {}


def _check(path: Path, copy: str) -> None:
    command = [sys.executable, "-I", str(Path(__file__).with_name("mmdb_check.py")), copy]
    try:
        checked = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise TableError(str(path), f"could not be checked in {_CHECK_SECONDS} s") from error
    if checked.returncode != 0:
        told = checked.stderr.strip().splitlines()
        problem = told[-1] if checked.returncode > 0 and told else "the reader dies of it"
        raise TableError(str(path), f"is no MMDB file, or a damaged one: {problem}")


class GeoTable:
    """Looks addresses up in a file of cities or countries, one of autonomous systems, or both. Replaced as a whole."""

    def __init__(self, city: MmdbFile | None, asn: MmdbFile | None, cache_entries: int = 65_536) -> None:
        self._city, self._asn = city, asn
        self.cache: Cached[Geo | None] = Cached(self._find, cache_entries)

    def lookup(self, ip: str) -> Geo | None:
        """What is known of an address; None also for a private one, and for text that is no address."""
        cache = self.cache
        cache.lookups += 1
        return cache[ip]

    def _find(self, ip: str) -> Geo | None:
        key = ip_key(ip)
        if key is None:
            return None
        if _LOCAL.find(key):
            return None
        address = text_of("ip", key)
        record = self._city.get(address) if self._city else {}
        if self._asn:
            record = {**record, **self._asn.get(address)}
        return geo_of(record)


def geo_of(record: dict[str, Any]) -> Geo | None:
    """What a record of any of the known layouts says; a field of another type is left out."""
    country = _code(record.get("country")) or _code(record.get("country_code"))
    country = country or _code(record.get("registered_country"))
    place = record.get("location")
    place = place if isinstance(place, dict) else record
    location = Location(
        country=country,
        region=_region(record, country),
        city=_name(record.get("city")),
        continent=_name(record.get("continent_name")) or _name(record.get("continent")),
        postal_code=_text(_inside(record.get("postal"), "code")) or _text(record.get("postal_code")),
        lat=_degrees(place.get("latitude", place.get("lat")), 90),
        long=_degrees(place.get("longitude", place.get("lng")), 180),
        isp=_text(record.get("isp")) or _text(_inside(record.get("traits"), "isp")),
    )
    system = _system(record)
    if location == _NOWHERE:
        return Geo(autonomous_system=system) if system is not None else None
    return Geo(location=location, autonomous_system=system)


_NOWHERE = Location()


def _system(record: dict[str, Any]) -> AutonomousSystem | None:
    number = record.get("autonomous_system_number", record.get("asn"))
    if isinstance(number, str):
        digits = number.upper().removeprefix("AS")
        number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 11 else None
    if not isinstance(number, int):
        return None
    # In a file of systems only, IPinfo has the organization as `name`.
    names = ("autonomous_system_organization", "as_name", "name")
    return AutonomousSystem(number=number, name=next(filter(None, (_text(record.get(each)) for each in names)), None))


def _region(record: dict[str, Any], country: str | None) -> str | None:
    divisions = record.get("subdivisions")
    first = divisions[0] if isinstance(divisions, list) and divisions else None
    code = _text(_inside(first, "iso_code"))
    if code and country:
        return f"{country}-{code}"
    return _name(first) or _text(record.get("region"))


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _code(value: Any) -> str | None:
    """The code of a country, which is text of two letters or inside an object."""
    text = _text(_inside(value, "iso_code")) or _text(value)
    return text.upper() if text and len(text) == 2 else None


def _name(value: Any) -> str | None:
    """A name, which is text or in English inside an object."""
    return _text(value) or _text(_inside(_inside(value, "names"), "en"))


def _degrees(value: Any, most: int) -> float | None:
    try:
        degrees = float(value)
    except (TypeError, ValueError):
        return None
    return degrees if -most <= degrees <= most else None
