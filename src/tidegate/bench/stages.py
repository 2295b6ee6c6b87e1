"""A pipeline with all kinds of stages, on one core, without any server: what a platform would have in use.

GeoIP of both endpoints, a million threat indicators (fewer for few events), three filters, a validation, two anonymised
attributes.
"""

from __future__ import annotations

import asyncio
import random
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tidegate.app import declarations
from tidegate.bench.pipeline import measured, reported
from tidegate.bench.report import Report
from tidegate.config import Settings
from tidegate.errors import ConfigError
from tidegate.pipeline.anonymise.keys import generate
from tidegate.pipeline.library import load_with_tables

__all__ = ["run"]

BAR = 120_000
MOST_P99_MS = 50.0
INDICATORS = 1_000_000
_PIPELINE = """
pipeline = "full"

[anonymisation]
keys = "keys.toml"

[[stage]]
type = "filter"
name = "multicast"
drop = 'in_cidr(dst_endpoint.ip, "224.0.0.0/4", "ff00::/8")'

[[stage]]
type = "filter"
name = "health_checks"
drop = 'http_request.user_agent == "kube-probe/1.29" and http_response.code == 200'

[[stage]]
type = "filter"
name = "own_scanner"
drop = 'src_endpoint.ip in ("10.20.9.9", "10.20.9.10") and severity_id <= 2'

[[stage]]
type = "validate"
name = "sane"
rules = [
    { name = "time", check = "time > 0" },
    { name = "severity", check = "severity_id >= 0 and severity_id <= 99" },
]

[[stage]]
type = "enrich"
name = "known"
geo = ["src_endpoint", "dst_endpoint"]
indicators = true

[[stage]]
type = "anonymise"
name = "people"
fields = [
    { field = "actor.user.name", method = "pseudonymise" },
    { field = "src_endpoint.ip", method = "pseudonymise" },
]
"""
_TABLES = """
[enrichment.geo]
city = "city.mmdb"

[[enrichment.indicators]]
feed = "bench"
path = "indicators.csv"
"""


async def run(settings: Settings, *, events: int = 100_000, seconds: float = 8.0) -> Report:
    """Runs of `events` events, for `seconds` or three times, whichever is longer."""
    began = time.monotonic()
    declared = declarations(settings)
    indicators = min(INDICATORS, 10 * events)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        folder = Path(name)
        await asyncio.to_thread(_write, folder, indicators)
        before = _megabytes()
        started = time.monotonic()
        _, pipeline = await load_with_tables(declared.shards, folder)
        loaded = time.monotonic() - started
        grown = _megabytes() - before
        found = await measured(pipeline, declared.shards, events, seconds)
        stages = {stage.name: stage.stats for stage in pipeline.flows[0].stages}
    costs = ", ".join(f"{name} {1e6 * one.seconds / max(one.taken, 1):.1f}" for name, one in stages.items())
    note = (
        f"{found.bytes_out:.0f} bytes per event come out; microseconds per event: {costs};"
        f" {indicators:,} indicators loaded in {loaded:.1f} s, {grown:.0f} MB (bars: 10 s, 500 MB)"
    )
    return reported(found, bench="stages", events=events, bar=BAR, began=began, note=note, most_p99_ms=MOST_P99_MS)


def _megabytes() -> float:
    """Resident memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write(folder: Path, indicators: int) -> None:
    """The rules, and the files that they look things up in; a few of the indicators occur in the events."""
    try:
        from mmdb_writer import MMDBWriter
        from netaddr import IPSet
    except ImportError as error:
        raise ConfigError(
            "bench stages", "a GeoIP file is made for this benchmark by mmdb-writer: `pip install mmdb-writer`"
        ) from error
    (folder / "full.toml").write_text(_PIPELINE, encoding="utf-8")
    (folder / "enrichment.toml").write_text(_TABLES, encoding="utf-8")
    generate(folder / "keys.toml", datetime(2020, 1, 1, tzinfo=UTC))
    dice = random.Random(1)  # noqa: S311 - material
    writer = MMDBWriter(6, "GeoLite2-City", ipv4_compatible=True)
    for number in range(4_000):
        place = {
            "country": {"iso_code": dice.choice(["SE", "US", "BR", "JP"])},
            "city": {"names": {"en": f"City {number % 500}"}},
            "location": {"latitude": float(number % 180 - 90), "longitude": float(number % 360 - 180)},
        }
        writer.insert_network(IPSet([f"{1 + number % 220}.{number // 220}.0.0/20"]), place)
    for network in ("203.0.113.0/25", "198.51.100.0/24", "192.0.2.0/24"):
        writer.insert_network(IPSet([network]), {"country": {"iso_code": "SE"}, "city": {"names": {"en": "Lund"}}})
    writer.to_db_file(str(folder / "city.mmdb"))
    with (folder / "indicators.csv").open("w", encoding="utf-8") as file:
        file.write("value,label,confidence\n203.0.113.200,scanner,90\n")
        for number in range(indicators - 1):
            match number % 4:
                case 0:
                    value = (
                        f"{dice.randrange(11, 190)}.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)}"
                    )
                case 1:
                    value = f"h{dice.randrange(10**9)}.bad{number % 5000}.example"
                case 2:
                    value = f"{dice.getrandbits(256):064x}"
                case _:
                    value = f"http://bad{number % 5000}.example/{dice.randrange(10**9)}"
            file.write(f"{value},label{number % 20},{number % 100}\n")
