"""The REST applications keep to their OpenAPI descriptions: the examples there, and whatever schemathesis makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from tests.conftest import free_ports
from tests.edges.openapi_examples import Example, alike, examples_of
from tests.system.harness import System, system
from tidegate.actor.system import System as Entities
from tidegate.auth.keys import new_key
from tidegate.config import Auth, Gateway
from tidegate.entities.access_key import KIND, SCOPES, Grant, Scope
from tidegate.local.processes import OWN
from tidegate.log import Log

UNANSWERED = ("/v1/stream",)
"""Answers that do not end; the contract suite reads them."""
load_all_checks()
EXCLUDED: list[Any] = CHECKS.get_by_names(["positive_data_acceptance"])
"""A schema cannot say all that makes a request good: SQL, times, cursors, names of sources, TOML."""
SERVER_ERRORS: list[Any] = CHECKS.get_by_names(["not_a_server_error"])
TARGETS = """
[[targets]]
name = "geo"
protocol = "rest"
url = "{geo}"
[[targets]]
name = "away"
protocol = "rest"
url = "http://127.0.0.1:{nothing}"
retry = {{attempts = 1}}
[[targets]]
name = "prices"
protocol = "nats"
subject = "prices"
"""


@schemathesis.serializer("application/toml")
def _toml(_: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


@dataclass
class Running:
    urls: dict[str, str]
    client: httpx.Client
    root: str
    other: dict[str, str]
    """Scope -> a key that has no other."""


@contextlib.contextmanager
def geo() -> Iterator[str]:
    """A service for the gateway to call."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"country":"CH"}')

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def keys(one: System) -> dict[str, str]:
    """One that may do all, and one for each scope."""
    grants: dict[str, tuple[Scope, ...]] = {"": SCOPES, **{scope: (scope,) for scope in SCOPES}}
    made = {}
    async with one.bus() as bus:
        for name, scopes in grants.items():
            key_id, made[name], command = new_key(Grant(scopes=scopes))
            await Entities(bus, Log(bus, one.declared.shards)).ask(KIND, key_id, command)
    return made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All five processes with keys, on NATS, Redis and S3."""
    folder = tmp_path_factory.mktemp("openapi")
    (nothing,) = free_ports(1)
    with geo() as url, system(folder, auth=Auth(mode="keys")) as one:
        (folder / "gateway.toml").write_text(TARGETS.format(geo=url, nothing=nothing))
        one.change(gateway=Gateway(config_path=str(folder / "gateway.toml")))
        for server in ("nats", "redis", "s3"):
            one.serve(server)
        asyncio.run(one.ready())
        tiers = ["--tiers", "hot,lake"]
        started = [one.run(name, *(tiers if name == "storage-manager" else [])) for name in OWN]
        asyncio.run(one.ready())
        made = asyncio.run(keys(one))
        with httpx.Client(timeout=30) as client:
            yield Running({program.name: program.url for program in started}, client, made.pop(""), made)


def described(url: str) -> Any:
    return httpx.get(f"{url}/schema/openapi.json").raise_for_status().json()


def sent(client: httpx.Client, url: str, one: Example, key: str) -> tuple[int, Any]:
    """Status and body of the answer; of an endless one the first event."""
    headers = {**one.headers, **({"Authorization": f"Bearer {key}"} if key else {})}
    path = one.path.format(**{name: quote(str(value)) for name, value in one.in_path.items()})
    request = httpx.Request(one.method.upper(), f"{url}{path}", params=one.query, headers=headers, content=one.content)
    with contextlib.closing(client.send(request, stream=True)) as answer:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            return answer.status_code, json.loads(answer.read())
        lines: list[str] = []
        for line in answer.iter_lines():
            lines += [line] if not line.startswith(":") else []
            if len(lines) > 1 and not line:
                break
        return answer.status_code, "\n".join(lines).strip("\n") + "\n\n"


def test_each_example_is_answered_as_it_says(running: Running) -> None:
    """In an order in which one can build on the other: what the first publishes, the last finds."""
    order = ("event-streaming", "transformation-pipeline", "gateway", "entities", "storage-manager")
    assert set(order) == set(OWN)
    for name in order:
        url = running.urls[name]
        for one in examples_of(described(url)):
            deadline = time.monotonic() + 20
            # What has been told is known elsewhere a little later.
            while True:
                status, found = sent(running.client, url, one, running.root)
                different = alike(found, one.answer) if status == one.status else f"{status} {found}"
                if not different or time.monotonic() > deadline:
                    break
                time.sleep(0.1)
            assert not different, f"{name}: {one.method} {one.path}, {one.name}: {different}"


@pytest.mark.parametrize("name", OWN)
def test_refusals_are_as_the_examples_of_problems_say(running: Running, name: str) -> None:
    url = running.urls[name]
    seen = set()
    for one in examples_of(described(url)):
        if (one.method, one.path) in seen or 401 not in one.problems:
            continue
        seen.add((one.method, one.path))
        answers = {401: sent(running.client, url, one, "")}
        for key in running.other.values() if 403 in one.problems else ():
            status, found = sent(running.client, url, one, key)
            if status == 403:
                answers[403] = status, found
                break
        assert answers.keys() >= {401, 403} & one.problems.keys(), (one.path, answers)
        for status, (given_status, found) in answers.items():
            assert given_status == status
            assert alike(found, one.problems[status]) == ""
            assert {part: found[part] for part in ("type", "title", "status", "code")} == {
                part: one.problems[status][part] for part in ("type", "title", "status", "code")
            }


def check(url: str, key: str, examples: int) -> None:
    description = described(url)
    assert description["openapi"].startswith("3.1")
    schema = schemathesis.openapi.from_dict(description)
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path in UNANSWERED:
            continue
        modes = [operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]

        @given(case=st.one_of(modes))
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def conforms(case: Case[Any]) -> None:
            answer = case.call(base_url=url, timeout=10, headers={"Authorization": f"Bearer {key}"})
            # A target of the gateway that is away is no fault of the gateway.
            away = SERVER_ERRORS if answer.status_code == 503 and b'"failure"' in answer.content else []
            case.validate_response(answer, excluded_checks=[*EXCLUDED, *away])

        conforms()


@pytest.mark.parametrize("name", OWN)
def test_schemathesis_finds_nothing(running: Running, name: str) -> None:
    check(running.urls[name], running.root, 12)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OWN)
def test_schemathesis_finds_nothing_in_a_long_run(running: Running, name: str) -> None:
    check(running.urls[name], running.root, 500)
