"""A process that stands in for one of Tidegate's own: python standin.py PORT [exit STATUS | deaf]."""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/readyz": {},
            "/status": {"cells": [{"cell": f"stand-in {sys.argv[1]}", "pid": os.getpid(), "lag": 0}]},
        }
        self.send_response(200 if self.path in answers else 404)
        self.end_headers()
        self.wfile.write(json.dumps(answers.get(self.path)).encode())

    def log_message(self, *_: object) -> None:
        pass


def main(port: int, manner: list[str]) -> int:
    match manner:
        case ["exit", status]:
            sys.stdout.write("cannot go on\n")
            return int(status)
        case ["deaf"]:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server = HTTPServer(("127.0.0.1", port), Handler)
    sys.stdout.write("the stand-in listens\n")
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
