"""What is particular to each read model: a store of its own for each run, its limit, and its removal.

Invariant: a limit writes to the same server, through the same connection settings, and does nothing of what Tidegate
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from tidegate.bench.report import balanced
from tidegate.config import Settings
from tidegate.errors import BalanceError
from tidegate.history import cells_of
from tidegate.projection import ReadModel, Recorded

__all__ = ["STORES", "Store", "empty"]

Batches = Sequence[Sequence[Recorded]]


class Store(NamedTuple):
    """A read model as the benchmarks see it."""

    server: str
    events: int
    """Events of one run, unless asked for otherwise."""
    bar: int
    """Events per second; 0 where it is a share of the limit."""
    bar_share: float
    limit: str
    fsync: str
    shared: bool
    """Whether all runs use the same store, one after the other."""
    settings: Callable[[Settings, str], Settings]
    """The settings for a run of this name: it gets a store of its own, unless that is shared."""
    best: Callable[[Any, Batches], Any]
    """Awaited with an open model and the frames in batches: the seconds that the limit takes."""
    remove: Callable[[Any], Any]
    """Awaited with an open model: all that it has stored goes."""


async def _one_by_one(calls: Sequence[Callable[[], Any]]) -> float:
    start = time.perf_counter()
    for call in calls:
        await call()
    return time.perf_counter() - start


# -- hot ------------------------------------------------------------------------------------------------------------


async def _best_hot(model: Any, batches: Batches) -> float:
    redis, prefix = model._redis, f"{model._prefix}limit:"
    lines = [[line for one in batch for line in one.lines()] for batch in batches]

    async def sets(number: int) -> None:
        async with redis.pipeline(transaction=False) as pipeline:
            for index, line in enumerate(lines[number]):
                pipeline.set(f"{prefix}{number}:{index}", line, ex=3600)
            balanced("SETs", sum(await pipeline.execute()), len(lines[number]))

    return await _one_by_one([lambda number=number: sets(number) for number in range(len(lines))])  # type: ignore[misc]


@contextlib.asynccontextmanager
async def empty(store: Store, model: ReadModel, shards: int, *, external: bool) -> AsyncIterator[None]:
    """`model` is open and empty; what it holds at the end goes with the block, or with the server.

    Raises BalanceError where it holds something.
    """
    try:
        await model.open()
        for cell in cells_of(model, shards):
            if await model.position(cell) is not None:
                raise BalanceError(f"the {model.name} read model is not empty; use another server")
        try:
            yield
        finally:
            if external or store.shared:
                await store.remove(model)
    finally:
        await model.aclose()


async def _remove_hot(model: Any) -> None:
    some: list[bytes] = []
    async for key in model._redis.scan_iter(match=f"{model._prefix}*", count=10_000):
        some.append(key)
        if len(some) == 10_000:
            await model._redis.unlink(*some)
            some = []
    if some:
        await model._redis.unlink(*some)


# -- warm -----------------------------------------------------------------------------------------------------------


async def _best_warm(model: Any, batches: Batches) -> float:
    documents = [model.project(batch) for batch in batches]
    seconds = await _one_by_one(
        [lambda some=some: model._events.insert_many(some, ordered=False) for some in documents]  # type: ignore[misc]
    )
    balanced("documents", await model._events.count_documents({}), sum(map(len, documents)))
    return seconds


async def _remove_warm(model: Any) -> None:
    await model._client.drop_database(model._database.name)


# -- cold -----------------------------------------------------------------------------------------------------------


async def _best_cold(model: Any, batches: Batches) -> float:
    objects = model._objects
    bodies = [b"".join(one.payload for one in batch) for batch in batches]
    shards = sorted({batch[0].shard for batch in batches})

    async def puts(shard: int) -> None:
        for number, batch in enumerate(batches):
            if batch[0].shard == shard:
                await objects._client.put_object(
                    Bucket=objects._settings.bucket, Key=f"limit/{number}", Body=bodies[number]
                )

    start = time.perf_counter()
    await asyncio.gather(*map(puts, shards))
    return time.perf_counter() - start


async def _remove_cold(model: Any) -> None:
    client, bucket = model._objects._client, model._objects._settings.bucket
    async for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for one in page.get("Contents", ()):
            await client.delete_object(Bucket=bucket, Key=one["Key"])
    await client.delete_bucket(Bucket=bucket)


# -- lake -----------------------------------------------------------------------------------------------------------


async def _best_lake(model: Any, batches: Batches) -> float:
    import pyarrow as pa

    ready = []
    for batch in batches:
        parts = [rows for found in model.project(batch) for some in found.values() for rows in some]
        ready.append(pa.Table.from_batches(parts).combine_chunks())
    table = await asyncio.to_thread(model._load)
    seconds = await _one_by_one([lambda one=one: asyncio.to_thread(table.append, one) for one in ready])  # type: ignore[misc]
    found = (await model.tally()).count
    balanced("rows of the limit", found, sum(one.num_rows for one in ready))
    return seconds


async def _remove_lake(model: Any) -> None:
    await asyncio.to_thread(model._catalog.drop_table, model._identifier)


STORES = {
    "hot": Store(
        server="redis",
        events=80_000,
        bar=50_000,
        bar_share=0.0,
        limit="the JSON of the same events in SETs with a time to live, pipelined",
        fsync="redis appendfsync everysec: up to a second may be lost with the power, data and position alike",
        shared=True,
        settings=lambda settings, name: settings,
        best=_best_hot,
        remove=_remove_hot,
    ),
    "warm": Store(
        server="mongo",
        events=12_000,
        bar=0,
        bar_share=0.7,
        limit="insert_many of the same documents, made before, with the same indexes and write concern",
        fsync="majority and journal: synced to disk before the acknowledgement (local server: --sync-on-commit)",
        shared=False,
        settings=lambda settings, name: replace(
            settings, mongodb=replace(settings.mongodb, database=f"tidegate_bench_{name}")
        ),
        best=_best_warm,
        remove=_remove_warm,
    ),
    "cold": Store(
        server="s3",
        events=300_000,
        bar=200_000,
        bar_share=0.0,
        limit="PUTs of objects of the same size, one after the other for each shard",
        fsync="as the S3 server does; the local one (weed) acknowledges before the disk is synced",
        shared=False,
        settings=lambda settings, name: replace(
            settings, s3=replace(settings.s3, bucket=f"tidegate-bench-{name.replace('_', '-')}")
        ),
        best=_best_cold,
        remove=_remove_cold,
    ),
    "lake": Store(
        server="s3",
        events=150_000,
        bar=100_000,
        bar_share=0.0,
        limit="pyiceberg's append of the same rows, ready as Arrow tables, to a table with the same partitions",
        fsync="as the S3 server does; the local one (weed) acknowledges before the disk is synced",
        shared=False,
        settings=lambda settings, name: replace(settings, catalog=replace(settings.catalog, table=f"bench_{name}")),
        best=_best_lake,
        remove=_remove_lake,
    ),
}
