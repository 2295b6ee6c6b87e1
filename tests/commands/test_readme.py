"""Every command that the README shows, run as it stands there, in its order."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import command_environment
from tests.conftest import local_settings
from tidegate.config import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "kafka.md"]
"""Kafka's client needs a broker, and is run where there is one."""
BLOCK = re.compile(r"(?:`([^`\n]+)`:\n\n)?^```(sh|python|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A block of TOML is written to the file that is named right before it, if any."""
IN_A_CLONE = ("make ", "source ")


def _with_ports(text: str, settings: Settings) -> str:
    """The text with this run's ports in place of the usual ones."""
    for usual, port in {
        4222: settings.local.nats_port,
        8080: settings.http.event_streaming_port,
        8081: settings.http.transformation_pipeline_port,
        8082: settings.http.gateway_port,
        8083: settings.http.storage_manager_port,
        8084: settings.http.entities_port,
        8090: settings.grpc.event_streaming_port,
        8093: settings.grpc.storage_manager_port,
    }.items():
        text = text.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
    return text


def _lines(block: str) -> list[str]:
    return [line.split("   #")[0].rstrip() for line in block.splitlines() if line.strip()]


@pytest.mark.timeout(420)
def test_every_command_of_the_readme_works_in_its_order(tmp_path: Path) -> None:
    settings = local_settings(tmp_path / ".tidegate")
    variables = command_environment(settings)
    printed: dict[str, str] = {}

    def run(command: list[str], shown: str) -> None:
        done = subprocess.run(
            command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"{shown}\n{done.stdout}\n{done.stderr}"
        printed[shown.split(" > ")[0]] = done.stdout

    try:
        blocks = BLOCK.findall(README)
        end = next(index for index, (_, _, block) in enumerate(blocks) if "tidegate down" in block)
        blocks[end:end] = [block for page in PAGES for block in BLOCK.findall(page)]
        for name, language, block in blocks:
            if language == "toml":
                if name:
                    (tmp_path / name).parent.mkdir(exist_ok=True)
                    (tmp_path / name).write_text(block, encoding="utf-8")
            elif language == "python":
                run(["python", "-c", _with_ports(block, settings)], f"python {len(printed)}")
            else:
                for line in _lines(block):
                    if not line.startswith(IN_A_CLONE):
                        run(["bash", "-euo", "pipefail", "-c", _with_ports(line, settings)], line)
    finally:
        subprocess.run(["tidegate", "down", "--quiet"], env=variables, cwd=tmp_path, timeout=60, check=False)

    # Those of the pages stand between.
    published, forwarded, *_, counted = (text.splitlines() for key, text in printed.items() if key.startswith("python"))
    assert published[0] == "INGEST/1/1"
    assert published[1].startswith("1000 ")
    assert forwarded[0].endswith(" invoice.opened")
    assert forwarded[-1] == "1001 processed 0 failed"
    assert counted == ["{'case 0': 2, 'case 1': 1}"]
    assert '"version": 2' in next(text for key, text in printed.items() if "alert.acknowledge" in key)
    assert "10.0.0.53:53" in printed["tidegate query hot --observable 10.0.0.5 --after INGEST/1/1"]
    assert "billing" in printed["tidegate query warm --correlation case-7 --limit 3"]
    assert "4001" in next(text for key, text in printed.items() if key.startswith("tidegate query lake"))
    assert '"count":2' in next(text for key, text in printed.items() if "correlation_id=case-7" in key)
    assert "suricata" in printed["tidegate dead list"]
    assert printed["tidegate dead redrive --all"].startswith("1 ")


def test_make_targets_of_the_readme_exist() -> None:
    for target in re.findall(r"`?make ([a-z]+)", README):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_names_every_command_and_no_other() -> None:
    from tidegate.cli.main import COMMANDS

    table = README.split("## Commands")[1].split("## Settings")[0]
    named = {word for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for word in re.findall(r"[a-z]+", row)}
    missing = [name for name, _, _ in COMMANDS if name not in named]
    assert not missing
