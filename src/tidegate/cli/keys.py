"""The command `tidegate keys`: the key file of anonymisation.

Invariant: no secret is printed, whatever goes wrong.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

__all__ = ["keys"]

File = Annotated[Path, Parameter(help="The key file.")]

keys = App(name="keys", help="The key file of anonymisation: add a key, list them, turn a pseudonym back.")


@keys.command
def new(file: File, /, *, created: datetime.datetime | None = None) -> int:
    """Add a new random key to the file, which is made (readable by its owner only) if it is not there.

    Parameters
    ----------
    created
        From when on events are anonymised with it, by their own time; now by default. Times without a zone are UTC.
    """
    from tidegate.pipeline.anonymise.keys import generate

    moment = created or datetime.datetime.now(datetime.UTC)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    print(f"key {generate(file, moment)} added to {file}")
    return 0


@keys.command(name="list")
def list_(file: File, /) -> int:
    """List the keys by their ids, with the time from which each serves."""
    from tidegate.pipeline.anonymise.keys import load_keys

    for key in load_keys(file).keys:
        since = datetime.datetime.fromtimestamp(key.created_ms / 1000, datetime.UTC)
        print(f"{key.id}  since {since:%Y-%m-%dT%H:%M:%SZ}{'  revoked' if key.revoked else ''}")
    return 0


@keys.command
def reverse(pseudonym: str, file: File, /, *, tenant: str = "default") -> int:
    """Print what a reversible pseudonym, or that of an address, stands for, after the id of the key that made it.

    Parameters
    ----------
    pseudonym
        As it is in an event. Of an IPv6 address every key has an answer; the event's time says which key is right.
    tenant
        Whose event it is: `metadata.tenant_uid`, or what the pipeline file says.
    """
    from tidegate.pipeline.anonymise.keys import load_keys
    from tidegate.pipeline.anonymise.pseudonyms import reverse as reversals

    found = False
    for key, original in reversals(pseudonym, load_keys(file), tenant):
        print(f"{key}  {original}")
        found = True
    if not found:
        print(f"no key in {file} has made this for the tenant {tenant!r}, or it is not reversible", file=sys.stderr)
    return 0 if found else 1
