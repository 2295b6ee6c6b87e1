"""The objects of the cold archive on S3: their names, and how to find, read and add them.

Invariant: an object is added once, as the only successor of the one before it, and never changed.

    events/gen=<generation>/shard=<shard>/<after, 20 digits>.ndjson.zst

An object is named by its shard and by where its range of sequences begins: after the last sequence of the object before
it. So the name is a function of the position that the object takes the shard on from, and `If-None-Match: *` lets
exactly one writer have the successor of a position, whatever each wanted to put in. (With both ends of the range in the
name, two writers could add different batches to the same position.) The range ends where the next object's name says;
for the newest object its metadata does.

Names sort by sequence, so the newest object, or the one that holds a given sequence, is found by bisecting with
`StartAfter`: one request for up to 1,000 objects, about twenty for a million.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aioboto3
import aiohttp
import msgspec
from botocore import exceptions
from botocore.config import Config

from tidegate.config import S3
from tidegate.errors import FencedError, TierUnavailableError
from tidegate.projection import Position
from tidegate.tiers import cold_index
from tidegate.tiers.cold_index import ObjectIndex, Summary

__all__ = ["ColdObjects"]

# Away or slow. A ClientError is an answer that says no: refused, throttled, broken, or not one of ours.
UNAVAILABLE = (
    aiohttp.ClientError,
    exceptions.ClientError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
    exceptions.NoCredentialsError,
    OSError,
    TimeoutError,
)

_SUFFIX = ".ndjson.zst"
_LAST = 10**19
_PAGE = 1000
_TAIL_BYTES = 64 * 1024
_POSITION = "tidegate-position"
_WRITER = "tidegate-writer"


def _status(error: exceptions.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


class ColdObjects:
    """All objects of one generation."""

    def __init__(self, endpoint: str, settings: S3, generation: int, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._settings = settings
        self._prefix = f"events/gen={generation}/"
        self._timeout_seconds = timeout_seconds
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._newest: dict[str, int] = {}
        """Where to begin to look for a shard's newest object; only a hint."""

    async def open(self) -> None:
        """Connect, and make the bucket when it is missing."""
        async with self.reaching():
            if self._client is None:
                self._client = await self._stack.enter_async_context(self._connect())
            try:
                await self._client.head_bucket(Bucket=self._settings.bucket)
            except exceptions.ClientError as error:
                if _status(error) != 404:
                    raise
                await self._make_bucket()

    def _connect(self) -> Any:
        session = aioboto3.Session(
            aws_access_key_id=self._settings.access_key,
            aws_secret_access_key=self._settings.secret_key,
            region_name=self._settings.region,
        )
        config = Config(
            connect_timeout=min(self._timeout_seconds, 3.0),
            read_timeout=self._timeout_seconds,
            # A PUT that the client repeats after a lost answer finds its own object, known by the writer's token.
            retries={"mode": "standard", "total_max_attempts": 2},
            s3={"addressing_style": "path"},
        )
        return session.client("s3", endpoint_url=self._endpoint, config=config)

    async def _make_bucket(self) -> None:
        # us-east-1 is where buckets are made by default, and is not accepted as a constraint.
        region = self._settings.region
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        try:
            await self._client.create_bucket(Bucket=self._settings.bucket, **where)
        except self._client.exceptions.BucketAlreadyOwnedByYou:
            return  # made by another one that opened at the same time

    async def aclose(self) -> None:
        self._client = None
        await self._stack.aclose()

    @asynccontextmanager
    async def reaching(self) -> AsyncIterator[None]:
        """Whatever keeps S3 from working becomes a TierUnavailableError."""
        try:
            yield
        except UNAVAILABLE as error:
            raise TierUnavailableError("cold", f"{type(error).__name__}: {error}") from error

    def key(self, shard: str, after: int) -> str:
        return f"{self._prefix}shard={shard}/{after:020d}{_SUFFIX}"

    async def shards(self) -> list[str]:
        """The shards that have objects."""
        answer = await self._client.list_objects_v2(Bucket=self._settings.bucket, Prefix=self._prefix, Delimiter="/")
        found = [one["Prefix"].removeprefix(self._prefix) for one in answer.get("CommonPrefixes", [])]
        return [one.removeprefix("shard=").removesuffix("/") for one in found]

    async def names(self, shard: str) -> AsyncIterator[int]:
        """All names, ascending."""
        beyond, more = -1, True
        while more:
            page, more = await self._page(shard, beyond)
            for beyond in page:
                yield beyond

    async def floor(self, shard: str, bound: int, hint: int = -1) -> int | None:
        """The last object with name <= bound. A `hint` of a name below it saves requests."""
        low: int | None = None
        high, step, beyond = bound, 0, hint - 1 if hint > 0 else -1
        while True:
            page, more = await self._page(shard, beyond)
            fitting = [one for one in page if one <= bound]
            if fitting:
                low = fitting[-1]
                if not more or len(fitting) < len(page):
                    return low
                # Leap ahead, each time twice as far, until there is an upper bound to bisect with.
                step = max(2 * step, low - fitting[0] + 1)
                beyond = low + step if low + step < high else (low + high) // 2
            elif low is not None:
                high = beyond
                beyond = (low + high) // 2
                if high <= low:
                    return low
            elif beyond >= 0:
                beyond = -1  # the hint was wrong
            else:
                return None

    async def following(self, shard: str, after: int) -> int | None:
        """The first name greater than `after`."""
        page, _ = await self._page(shard, after)
        return page[0] if page else None

    async def _page(self, shard: str, beyond: int) -> tuple[list[int], bool]:
        """The first 1,000 names greater than `beyond`, ascending, and whether there are more."""
        folder = f"{self._prefix}shard={shard}/"
        answer = await self._client.list_objects_v2(
            Bucket=self._settings.bucket,
            Prefix=folder,
            StartAfter=self.key(shard, beyond) if beyond >= 0 else "",
            MaxKeys=_PAGE,
        )
        names = []
        for one in answer.get("Contents", []):
            name = one["Key"].removeprefix(folder).removesuffix(_SUFFIX)
            if not name.isdecimal():
                raise TierUnavailableError("cold", f"{one['Key']!r} is not an object of the archive; remove it")
            names.append(int(name))
        return names, answer["IsTruncated"]

    async def newest(self, shard: str) -> tuple[int, Position] | None:
        """The newest object and the position that it stands for."""
        after = await self.floor(shard, _LAST, self._newest.get(shard, -1))
        if after is None:
            return None
        self._newest[shard] = after
        answer = await self._client.head_object(Bucket=self._settings.bucket, Key=self.key(shard, after))
        return after, msgspec.json.decode(answer["Metadata"][_POSITION], type=Position)

    async def add(self, shard: str, after: int, body: bytes, position: Position) -> None:
        """Add the successor of the object that ends with `after`. Raises FencedError when it has one already."""
        key = self.key(shard, after)
        writer = uuid.uuid4().hex
        try:
            await self._client.put_object(
                Bucket=self._settings.bucket,
                Key=key,
                Body=body,
                IfNoneMatch="*",
                ContentType="application/zstd",
                Metadata={_POSITION: msgspec.json.encode(position).decode(), _WRITER: writer},
            )
        except UNAVAILABLE as error:
            # The answer may have been lost, and then, if the client has tried again, been replaced by a 412.
            if await self._writer_of(key) == writer:
                return
            if isinstance(error, exceptions.ClientError) and _status(error) == 412:
                raise FencedError(shard, f"another writer has put {key}") from error
            raise

    async def mend(self, shard: str, after: int, offset: int, payload: bytes) -> None:
        """Put `payload` back at `offset` of an object that was damaged there."""
        key = self.key(shard, after)
        answer = await self._client.get_object(Bucket=self._settings.bucket, Key=key)
        async with answer["Body"] as body:
            whole = bytearray(await body.read())
        whole[offset : offset + len(payload)] = payload
        await self._client.put_object(
            Bucket=self._settings.bucket,
            Key=key,
            Body=bytes(whole),
            ContentType="application/zstd",
            Metadata=answer["Metadata"],
        )

    async def remove(self, shard: str) -> None:
        """Remove all objects of a shard, the newest first, so that what is left is an archive too."""
        for after in reversed([one async for one in self.names(shard)]):
            await self._client.delete_object(Bucket=self._settings.bucket, Key=self.key(shard, after))

    async def generations(self) -> list[int]:
        """The generations that have objects, ascending."""
        answer = await self._client.list_objects_v2(Bucket=self._settings.bucket, Prefix="events/", Delimiter="/")
        names = [
            one["Prefix"].removeprefix("events/gen=").removesuffix("/") for one in answer.get("CommonPrefixes", [])
        ]
        return sorted(int(name) for name in names if name.isdecimal())

    async def _writer_of(self, key: str) -> str | None:
        try:
            answer = await self._client.head_object(Bucket=self._settings.bucket, Key=key)
        except exceptions.ClientError as error:
            if _status(error) == 404:
                return None
            raise
        writer: str | None = answer["Metadata"].get(_WRITER)
        return writer

    async def index(self, shard: str, after: int, size: int = _TAIL_BYTES) -> tuple[ObjectIndex, Summary] | None:
        """The index of an object, for which its last `size` bytes are read first; None when there is no such object."""
        key = self.key(shard, after)
        try:
            answer = await self._client.get_object(Bucket=self._settings.bucket, Key=key, Range=f"bytes=-{size}")
        except exceptions.ClientError as error:
            if _status(error) == 404:
                return None
            raise
        async with answer["Body"] as body:
            tail = await body.read()
        total = int(answer["ContentRange"].rsplit("/", 1)[1])
        try:
            needed = cold_index.index_bytes(tail)
            if needed > len(tail):
                tail = await self.read(shard, after, total - needed, total)
            index = cold_index.parse(tail[-needed:])
        except (ValueError, msgspec.DecodeError) as error:
            raise TierUnavailableError("cold", f"{key} is damaged: {error}") from error
        return index, cold_index.summarise(index, total, needed)

    async def read(self, shard: str, after: int, start: int, end: int) -> bytes:
        """The bytes start..end-1 of an object."""
        answer = await self._client.get_object(
            Bucket=self._settings.bucket, Key=self.key(shard, after), Range=f"bytes={start}-{end - 1}"
        )
        async with answer["Body"] as body:
            data: bytes = await body.read()
        return data

    async def chunks(self, shard: str, after: int, size: int) -> AsyncIterator[bytes]:
        """A whole object."""
        answer = await self._client.get_object(Bucket=self._settings.bucket, Key=self.key(shard, after))
        async with answer["Body"] as body:
            async for chunk in body.content.iter_chunked(size):
                yield chunk

    async def latest_first(self, shard: str) -> AsyncGenerator[Summary, None]:
        """What is known about each object, by one read for each 128 of them."""
        newest = await self.newest(shard)
        known: Sequence[Summary] = await self.with_those_before(shard, newest[0]) if newest else ()
        while known:
            for one in known:
                yield one
            known = (await self.with_those_before(shard, known[-1].after))[1:]

    async def with_those_before(self, shard: str, after: int) -> list[Summary]:
        """What is known about an object and up to 128 before it, latest first."""
        found = await self.index(shard, after)
        return [found[1], *found[0].before] if found else []
