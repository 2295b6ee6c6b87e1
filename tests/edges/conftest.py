"""One world for each module: real servers, keys for everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec.structs import replace

from tests.actor.conftest import nats_server
from tests.edges.drivers import Driver, drivers
from tests.edges.grpc_driver import GrpcDriver
from tests.edges.micro_driver import MicroDriver
from tests.edges.world import World, world
from tidegate.config import Auth, Redis, Settings

__all__ = ["nats_server"]


@pytest.fixture(scope="module")
async def edges(nats_server: Settings, redis_server: Settings) -> AsyncIterator[World]:
    settings = replace(nats_server, redis=Redis(url=redis_server.redis_url))
    # Many tests have wrong keys sent; test_floods.py looks at what becomes of too many.
    async with world(settings, Auth(mode="keys", wrong_keys_per_second=0)) as one:
        yield one


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30) as one:
        yield one


@pytest.fixture(scope="module")
async def all_drivers(edges: World, client: httpx.AsyncClient) -> AsyncIterator[list[Driver]]:
    async with GrpcDriver(edges) as over_grpc, MicroDriver(edges) as over_nats:
        yield [*drivers(edges, client), over_grpc, over_nats]
