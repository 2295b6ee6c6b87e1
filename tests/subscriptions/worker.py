"""A member as a process of its own, to be killed: writes the id of every event it is given to a file, then commits.

With a deadly id, it kills itself as soon as it is given that event.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from tests.subscriptions.conftest import ids_of
from tidegate import Batch, subscribe_to_stream


async def main(url: str, name: str, path: str, deadly: str = "") -> None:
    with Path(path).open("a", encoding="utf-8", buffering=1) as file:  # noqa: ASYNC230

        async def handle(batch: Batch) -> None:
            if deadly in ids_of(batch):
                os.kill(os.getpid(), signal.SIGKILL)
            file.write("\n".join([*ids_of(batch), ""]))
            await asyncio.sleep(0.002)
            await batch.commit()

        async with subscribe_to_stream(
            name, handle, auto_commit=False, max_batch_size=50, member_timeout=1.0, url=url
        ) as subscriber:
            await subscriber.ended()


asyncio.run(main(*sys.argv[1:]))
