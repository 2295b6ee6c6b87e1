"""Tokens of an identity provider over gRPC: what they open, what they do not, and that it ends when they do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from msgspec.structs import replace

from tests.edges.catalogue import LINES, NDJSON
from tests.edges.drivers import Refused, Stored
from tests.edges.grpc_driver import GrpcDriver, refusal
from tests.edges.test_contract import RAISE, envelope, ident
from tests.edges.test_tokens import AUDIENCE, ISSUER, Provider
from tests.edges.world import World, world
from tidegate.config import Auth, Redis, Settings
from tidegate.entities.access_key import SCOPES

pytestmark = pytest.mark.anyio
ALL = " ".join(f"tidegate:{one}" for one in SCOPES)


@pytest.fixture(scope="module")
def provider() -> Provider:
    return Provider()


@pytest.fixture(scope="module")
async def tokens(
    nats_server: Settings, redis_server: Settings, provider: Provider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """Edges that take the tokens of a provider whose keys are in a file."""
    jwks: Path = tmp_path_factory.mktemp("jwks") / "jwks.json"
    jwks.write_bytes(provider.published())
    auth = Auth(mode="jwt", jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwks=str(jwks), wrong_keys_per_second=0)
    async with world(replace(nats_server, redis=Redis(url=redis_server.redis_url)), auth) as one:
        one.keys |= {
            "acme": provider.token(scope=ALL),
            "globex": provider.token(scope=ALL, tenant="globex"),
            "all": provider.token(scope=ALL, tenant="*"),
            "narrow": provider.token(scope="publish", tidegate_sources=["billing"]),
            "audience": provider.token(scope=ALL, aud="other"),
            "issuer": provider.token(scope=ALL, iss="https://evil.example"),
            "expired": provider.token(scope=ALL, exp=int(time.time()) - 60),
            "forged": provider.token(scope=ALL, signed_by=generate_private_key(SECP256R1())),
            "tenantless": provider.token(scope=ALL, tenant=None),
        }
        yield one


@pytest.fixture(scope="module")
async def over_grpc(tokens: World) -> AsyncIterator[GrpcDriver]:
    async with GrpcDriver(tokens) as one:
        yield one


async def everything(driver: GrpcDriver, key: str) -> set[Any]:
    """What comes of one call of each kind."""
    answers: list[Any] = [
        await driver.publish(key, "billing", LINES, NDJSON),
        await driver.event(key, "some"),
        await driver.correlation(key, "some"),
        await driver.command(key, "alert", "some", RAISE),
        await driver.entity(key, "alert", "some"),
        await driver.status(key),
    ]
    async with driver.subscribe(key) as reader:
        return {*answers, reader}


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [
        ("audience", "unauthenticated", "Audience doesn't match"),
        ("issuer", "unauthenticated", "Invalid issuer"),
        ("expired", "unauthenticated", "expired"),
        ("forged", "unauthenticated", "Signature verification failed"),
        ("nobody", "unauthenticated", "send a key or a token"),
        ("unknown", "unauthenticated", "neither is taken here"),
        ("tenantless", "forbidden", "names no tenant"),
    ],
)
async def test_a_token_that_does_not_count_opens_nothing(over_grpc: GrpcDriver, key: str, code: str, said: str) -> None:
    (refused,) = await everything(over_grpc, key)
    assert refused == Refused(code)
    assert said in refused.problem


async def test_a_token_opens_what_is_its_tenants_and_nothing_else(over_grpc: GrpcDriver, tokens: World) -> None:
    correlation, end = ident(), (await tokens.log.state()).last_sequence
    after = ""
    for key in ("globex", "acme"):
        body = b"\n".join(envelope(correlation, event_id=f"{correlation}-{key}-{n}") for n in range(3))
        stored = await over_grpc.publish(key, "billing", body, NDJSON)
        assert isinstance(stored, Stored)
        after = stored.positions[-1]
    for key, other in (("acme", "globex"), ("globex", "acme")):
        events = await over_grpc.correlation(key, correlation, after=after)
        assert not isinstance(events, Refused)
        assert [one["metadata"]["tenant_uid"] for one in events] == [key] * 3
        for name in (f"{correlation}-{other}-0", f"{other}:{correlation}-{other}-0"):
            assert await over_grpc.event(key, name) == Refused("not_found")
        assert await over_grpc.correlation(key, f"{other}:{correlation}") == []
        async with over_grpc.subscribe(key, f"LOG/{end}") as reader:
            assert not isinstance(reader, Refused)
            assert {one["metadata"]["tenant_uid"] for _, one in await reader.take(3)} == {key}
    assert await over_grpc.command("acme", "alert", correlation, RAISE) == 1
    assert await over_grpc.entity("globex", "alert", correlation) == Refused("not_found")
    assert not isinstance(await over_grpc.entity("all", "alert", f"acme:{correlation}"), Refused)


async def test_a_token_is_limited_to_its_scopes_and_sources(over_grpc: GrpcDriver) -> None:
    assert await over_grpc.publish("narrow", "billing", LINES, NDJSON) == Stored(2)
    assert await over_grpc.publish("narrow", "app", LINES, NDJSON) == Refused("forbidden")
    assert await over_grpc.event("narrow", "some") == Refused("forbidden")
    assert await over_grpc.command("narrow", "alert", "some", RAISE) == Refused("forbidden")
    assert await over_grpc.command("acme", "access_key", "some", {"type": "access_key.revoke.v1"}) == Refused(
        "forbidden"
    )


async def test_a_subscription_ends_with_its_token(over_grpc: GrpcDriver, tokens: World, provider: Provider) -> None:
    # Ten seconds after its end a token still counts, for clocks that differ.
    tokens.keys["ending"] = provider.token(scope=ALL, exp=int(time.time()) - 8)
    async with over_grpc.subscribe("ending") as reader:
        assert not isinstance(reader, Refused)
        await over_grpc.publish("acme", "billing", envelope(ident()))
        await reader.take(1)
        await asyncio.sleep(2.5)
        late = ident()
        await over_grpc.publish("acme", "billing", envelope(late))

        async def read_on() -> None:
            while True:  # what was sent while the token counted may be of the tests before, too
                assert late not in json.dumps(await reader.take(1))

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_on()
        assert refusal(caught.value) == Refused("unauthenticated")
