"""`python -m tests.chaos`: a run with a seed, and what it has found. Exits with 1 unless everything adds up."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from tests.chaos.report import shown
from tests.chaos.run import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000), help="decides which faults come when")
    parser.add_argument("--seconds", type=float, default=180.0, help="how long faults come")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # the publisher's: that it publishes again is what is wanted here
    print(f"seed {options.seed}, {options.seconds:g} s", file=sys.stderr, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-chaos-"))
    report, faults = asyncio.run(run(folder, options.seed, options.seconds))
    if options.json:
        print(msgspec.json.encode({**msgspec.to_builtins(report), "wrong": report.wrong}).decode())
    else:
        print(shown(report, faults))
    if report.wrong:
        print(f"{report.wrong} wrong with seed {options.seed}; logs and data are in {folder}", file=sys.stderr)
        return 1
    print("Everything adds up.", file=sys.stderr)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
