"""The commands around events, against a running Tidegate: publish, tail, dead, trace, subjects, status."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import BIN, Command, command_environment
from tidegate import Batch, ErrorPolicy, subscribe_to_stream
from tidegate.config import Settings

FLOW = (
    '{"timestamp":"2026-05-04T10:11:13.000000+0000","event_type":"flow","flow_id":%d,"proto":"TCP",'
    '"src_ip":"10.9.9.9","src_port":40000,"dest_ip":"192.0.2.80","dest_port":443}'
)


def eventually(check: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first true answer of `check`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := check():
            return answer
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.2)


def test_published_lines_are_counted_and_found_in_every_tier(tidegate: Command) -> None:
    lines = "\n".join(FLOW % n for n in range(50)) + "\n\n"
    done = tidegate("publish", "--source", "suricata", stdin=lines)
    assert done.stdout.startswith("50 events stored in 1 frames")
    position = done.stdout.split()[-1]
    for tier in ("hot", "warm", "lake"):
        found = tidegate(
            "query", tier, "--observable", "10.9.9.9", "--limit", "100", "--after", position, "--json"
        ).stdout.splitlines()
        assert len(found) == 50, tier


def test_a_long_log_is_published_in_frames_that_each_have_its_header(tidegate: Command, tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    header = [
        "#separator \\x09",
        "#path\tconn",
        "#fields\tts\tuid\tid.orig_h\tid.resp_h",
        "#types\ttime\tstring\taddr\taddr",
    ]
    rows = [f"1750000000.{number:06}\tC{number}\t10.8.8.8\t192.0.2.1" for number in range(2100)]
    log.write_text("\n".join([*header, *rows, "#close\tnow", ""]))
    done = tidegate("publish", str(log), "--source", "zeek", "--codec", "text")
    assert done.stdout.startswith("2105 events stored in 3 frames")
    position = done.stdout.split()[-1]
    found = tidegate(
        "query", "warm", "--observable", "10.8.8.8", "--limit", "3000", "--after", position, "--json"
    ).stdout
    assert len(found.splitlines()) == 2100
    assert tidegate("dead", "list", "--source", "zeek").stdout == "no dead letters\n"


def test_tail_shows_live_events_readably(tidegate: Command, up_settings: Settings) -> None:
    process = subprocess.Popen(
        [str(BIN / "tidegate"), "tail", "log.event.*", "--count", "2"],
        env=command_environment(up_settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert "listening" in process.stderr.readline()
        tidegate("publish", "--source", "suricata", stdin=(FLOW % 901) + "\n" + (FLOW % 902))
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert out.count("10.9.9.9:40000 -> 192.0.2.80:443") == 2


def test_a_dead_letter_is_listed_shown_and_redriven(tidegate: Command) -> None:
    broken = '{"timestamp": "not a time", "event_type": "flow"}'
    tidegate("publish", "--source", "suricata", stdin=broken)

    def letters() -> list[dict[str, Any]]:
        return [json.loads(line) for line in tidegate("dead", "list", "--json").stdout.splitlines()]

    (found,) = eventually(letters)
    letter = found["letter"]
    assert letter["source"] == "suricata"
    assert letter["stage"] == "normalise"
    assert letter.get("attempts", 1) == 1
    assert tidegate("dead", "show", letter["id"][:23], "--raw").stdout == broken
    assert "not a time" in tidegate("dead", "show", letter["id"]).stdout
    assert tidegate("dead", "redrive", letter["id"]).stdout == "1 redriven\n"
    again = eventually(lambda: len(found := letters()) == 2 and found)
    assert again[0]["redrives"] == 1
    assert again[1]["letter"]["attempts"] == 2
    assert tidegate("dead", "redrive", "--all").stdout == "1 redriven\n"
    assert "no dead letter" in tidegate("dead", "show", "ffffffff", code=1).stderr


def test_a_trace_leads_from_the_publisher_to_every_read_model(tidegate: Command, up_settings: Settings) -> None:
    done = tidegate("publish", "--source", "suricata", stdin=FLOW % 12345)
    position = done.stdout.split()[-1]
    hit = tidegate("query", "lake", "--observable", "10.9.9.9", "--limit", "100", "--after", position, "--json")
    event = next(json.loads(one) for one in hit.stdout.splitlines() if "12345" in one)

    def complete() -> str:
        tree = tidegate("trace", event["metadata"]["uid"]).stdout
        return tree if all(f"{tier} apply" in tree for tier in ("hot", "warm", "cold", "lake")) else ""

    tree = eventually(complete)
    assert "intake commit" in tree
    assert tidegate("trace").stdout
    assert "is not a trace id" in tidegate("trace", "xyz", code=1).stderr


def test_status_shows_streams_cells_and_positions(tidegate: Command) -> None:
    shown = json.loads(tidegate("status", "--json").stdout)
    assert all(one["ready"] for one in shown["processes"])
    assert {row["stream"] for row in shown["sections"]["streams"]} == {"COMMAND", "INGEST", "LOG"}
    assert {row["cell"] for row in shown["sections"]["cells"]} >= {
        "intake.0",
        "hot.3",
        "warm.all",
        "cold.0",
        "lake.all",
    }
    assert {row["read model"] for row in shown["sections"]["read models"]} == {"hot", "warm", "cold", "lake"}


def test_subscriptions_are_shown_and_led_from_the_command_line(tidegate: Command, up_settings: Settings) -> None:
    tidegate("publish", "--source", "suricata", stdin="\n".join(FLOW % n for n in range(20)))
    assert tidegate("subscriptions", "list").stdout == "no subscriptions\n"

    async def fail(batch: Batch) -> None:
        raise ConnectionError("no route to the SIEM")

    async def subscribe() -> None:
        async with subscribe_to_stream(
            "siem", fail, on_error=ErrorPolicy(retries=0, then="pause"), url=up_settings.nats_url
        ) as subscriber:
            while (await subscriber.state()).status == "active":  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(subscribe(), 30))
    line = "ConnectionError: no route to the SIEM; paused; `tidegate subscriptions resume` tries it again"
    (row,) = json.loads(tidegate("status", "--json").stdout)["sections"]["subscriptions"]
    assert row["status"] == "paused: attempt 1 of 1 failed"
    assert row["lag (frames)"] > 0
    assert line in row["recovery"]
    assert "siem/main" in tidegate("subscriptions", "list").stdout
    assert json.loads(tidegate("subscriptions", "list", "--json").stdout)["processed"] == 0
    tidegate("subscriptions", "resume", "siem")
    tidegate("subscriptions", "pause", "siem/main", "--reason", "moved")
    shown = json.loads(tidegate("subscriptions", "show", "siem").stdout)
    assert (shown["status"], shown["reason"]) == ("paused", "moved")
    assert shown["definition"]["on_error"] == {"retries": 0, "then": "pause"}
    tidegate("subscriptions", "seek", "siem", "2026-05-04T10:00:00Z")
    tidegate("subscriptions", "seek", "siem", "end")
    assert json.loads(tidegate("subscriptions", "show", "siem").stdout)["lag"]["frames"] == 0
    assert "is not start, end" in tidegate("subscriptions", "seek", "siem", "yesterday", code=1).stderr
    assert "does not exist" in tidegate("subscriptions", "pause", "nobody", code=1).stderr
    tidegate("subscriptions", "delete", "siem")
    assert tidegate("subscriptions", "list").stdout == "no subscriptions\n"


def test_subjects_plan_finds_nothing_to_do_after_start(tidegate: Command) -> None:
    assert "as declared" in tidegate("subjects", "plan").stdout
    assert "nothing to change" in tidegate("subjects", "apply").stdout


def test_schemas_in_the_tree_are_what_the_code_says(tidegate: Command, tmp_path: Path) -> None:
    assert "up to date" in tidegate("subjects", "schema", "--check").stdout
    tidegate("subjects", "schema", "--to", str(tmp_path))
    (tmp_path / "envelope.schema.json").write_text("{}")
    assert "envelope" in tidegate("subjects", "schema", "--check", "--to", str(tmp_path), code=1).stdout


@pytest.mark.timeout(240)
def test_demo_on_generated_and_on_real_events_adds_up(tidegate: Command, shared_data: Path) -> None:
    report = json.loads(tidegate("demo", "--events", "3000", "--json").stdout)
    assert report["balanced"] is True
    assert report["published"] == 3000 == report["events"] + report["dead"] + report["filtered"]
    assert all(one["matches"] for one in report["tiers"].values())
    assert set(report["kpi"]) == {
        "API answer", "cache hits", "delivery", "ingest", "storage query", "transformation",
    }  # fmt: skip
    real = shared_data / "aws_cloudtrail.invictus.jsonl"
    replay = json.loads(tidegate("demo", "--from", str(real), "--source", "aws_cloudtrail", "--json").stdout)
    assert replay["balanced"] is True
    assert replay["published"] == 1803
    assert replay["dead"] < 18
