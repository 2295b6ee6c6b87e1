"""A schema registry as far as the bridge speaks to one: Confluent's `/schemas/ids/<id>`, `/subjects/<s>/versions`."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Registered", "registry"]


class Registered:
    """What is in it, and what was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.schemas: dict[int, dict[str, Any]] = {}
        self.asked: list[str] = []

    def add(self, schema: Any, kind: str = "AVRO") -> int:
        number = 100_000 + len(self.schemas)
        self.schemas[number] = {"schema": json.dumps(schema), "schemaType": kind}
        return number


@contextlib.contextmanager
def registry() -> Iterator[Registered]:
    one = Registered()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, code: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            one.asked.append(self.path)
            found = one.schemas.get(int(self.path.rpartition("/")[2]))
            self._answer(*((404, {"error_code": 40403}) if found is None else (200, found)))

        def do_POST(self) -> None:
            one.asked.append(self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(200, {"id": one.add(json.loads(body["schema"]))})

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
