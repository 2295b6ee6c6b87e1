"""Lines as the vendors document them, written for these tests (`lines/*.log`); addresses and names are made up."""

from __future__ import annotations

from pathlib import Path

__all__ = ["AUDIT", "SAMPLES", "VPC", "ZEEK"]

SAMPLES = {
    path.stem: path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for path in sorted((Path(__file__).parent / "lines").glob("*.log"))
}
"""Source -> the lines of a frame."""
AUDIT = SAMPLES["linux_auditd"]
VPC = SAMPLES["aws_vpcflow"]
ZEEK = SAMPLES["zeek"]
