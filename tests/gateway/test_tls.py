"""Targets over TLS, with a private authority: trusted by its `ca_file`, and refused, saying so, without it."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp.web
import grpc
import pytest

from tests.certificates import signed
from tests.gateway.conftest import World
from tests.gateway.services import grpc_service, websocket_service
from tidegate.errors import ConfigError
from tidegate.gateway import CallFailedError, Configuration, load
from tidegate.gateway.configuration import Retry, Target

pytestmark = pytest.mark.anyio
OPERATIONS: dict[Any, str] = {
    "rest": "POST /echo",
    "graphql": "query { echo }",
    "websocket": "echo",
    "grpc": "demo.Echo/Say",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `server.pem`, `server.key`, and `ca.pem`, who has signed it; `other.pem` has not."""
    folder, authority = tmp_path_factory.mktemp("tls"), signed("authority")
    server = signed("server", authority)
    files = {"server.pem": server.pem, "server.key": server.key_pem, "ca.pem": authority.pem}
    for name, content in (files | {"other.pem": signed("another").pem}).items():
        (folder / name).write_bytes(content)
    return folder


@contextlib.asynccontextmanager
async def https_service(tls: ssl.SSLContext) -> AsyncIterator[str]:
    async def echo(request: aiohttp.web.Request) -> aiohttp.web.Response:
        asked = await request.json()
        return aiohttp.web.json_response({"data": {"n": 1}} if request.path == "/graphql" else asked)

    app = aiohttp.web.Application()
    app.router.add_post("/{name}", echo)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    try:
        site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def service(protocol: Any, folder: Path) -> AsyncIterator[str]:
    """URL of a service that shows the certificate of `server.pem`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    key, chain = (folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes()
    match protocol:
        case "grpc":
            async with grpc_service(grpc.ssl_server_credentials([(key, chain)])) as url:
                yield url
        case "websocket":
            async with websocket_service(context) as (url, _):
                yield url
        case _:
            async with https_service(context) as url:
                yield f"{url}/graphql" if protocol == "graphql" else url


@pytest.mark.parametrize("protocol", OPERATIONS)
async def test_a_target_is_called_where_its_certificate_is_trusted(world: World, folder: Path, protocol: Any) -> None:
    async with service(protocol, folder) as url:
        whose = {"good": str(folder / "ca.pem"), "other": str(folder / "other.pem"), "none": None}
        targets = [
            Target(name=name, protocol=protocol, url=url, ca_file=ca, timeout_seconds=2.0, retry=Retry(attempts=1))
            for name, ca in whose.items()
        ]
        plain = url.replace("https", "http").replace("wss", "ws").replace("grpcs", "grpc")
        targets.append(Target(name="plain", protocol=protocol, url=plain, timeout_seconds=1.0, retry=Retry(attempts=1)))
        async with world.opened(Configuration(targets=targets)) as gateway:
            found = await gateway.execute_synchronous_call("good", OPERATIONS[protocol], {"n": 1})
            assert found.value == {"n": 1}
            for name in ("other", "none"):
                with pytest.raises(CallFailedError, match="its certificate is not trusted") as caught:
                    await gateway.execute_synchronous_call(name, OPERATIONS[protocol], {"n": 1})
                assert caught.value.kind == "unreachable"
                assert "ca_file" in caught.value.problem
            with pytest.raises(CallFailedError) as caught:
                await gateway.execute_synchronous_call("plain", OPERATIONS[protocol], {"n": 1})
            assert caught.value.kind in {"unavailable", "unreachable", "timeout", "rejected"}


def test_a_file_of_authorities_that_is_none_ends_the_start(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "gateway.toml"
    (tmp_path / "no.pem").write_text("nothing")
    for name, said in (("gone.pem", "cannot be used"), ("no.pem", "cannot be used"), (str(folder / "ca.pem"), "")):
        where = tmp_path / name
        path.write_text(f'[[targets]]\nname = "it"\nprotocol = "rest"\nurl = "https://x"\nca_file = "{where}"\n')
        if said:
            with pytest.raises(ConfigError, match=rf":5: {where} {said}"):
                load(path)
        else:
            assert load(path).targets[0].ca_file == str(where)
