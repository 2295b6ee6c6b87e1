"""`tidegate up` with stand-ins: python run_standins.py servers MANNER...; settings come from the environment."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import anyio

from tidegate.config import Settings, load
from tidegate.errors import LocalServerError
from tidegate.local import supervisor
from tidegate.local.processes import Process, own_ports
from tidegate.local.servers import answers_http

SCRIPT = str(Path(__file__).with_name("standin.py"))


def standin(settings: Settings, manner: list[str]) -> Process:
    port = own_ports(settings)["event-streaming"]
    return Process(
        name="stand-in",
        command=[sys.executable, SCRIPT, str(port), *manner],
        ports={"http.event_streaming_port": port},
        address=f"http://127.0.0.1:{port}",
        is_ready=partial(answers_http, f"http://127.0.0.1:{port}/readyz"),
        own=True,
    )


def main(manner: list[str]) -> int:
    settings = load()
    supervisor.GRACE_SECONDS = 0.5
    say = partial(print, flush=True)
    processes = [standin(settings, manner)]
    try:
        anyio.run(partial(supervisor.up, settings, processes, say=say, log=lambda name, line: say(name, line.decode())))
    except LocalServerError as error:
        say(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
