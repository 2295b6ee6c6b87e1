"""What each store really holds, read with its own plain driver and not through Tidegate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import zstandard
from botocore.session import Session
from pyiceberg.catalog.rest import RestCatalog
from pymongo import MongoClient
from redis import Redis

from tests.system.load import ids_of
from tidegate.config import Settings

__all__ = ["ORACLES"]


def hot_ids(settings: Settings) -> Counter[str]:
    """An id is a key, so it cannot be there twice. An event taken in twice shows in the counts by minute; which one it
    was does not, so the first stands for all."""
    redis = Redis.from_url(settings.redis_url)
    ids = Counter(key.decode().split(":", 3)[3] for key in redis.scan_iter("tg:1:e:*", count=5000))
    counted = sum(int(count) for key in redis.scan_iter("tg:1:m:*", count=5000) for count in _result(redis.hvals(key)))
    redis.close()
    if counted != len(ids):
        ids[next(iter(ids), "none")] += counted - len(ids)
    return ids


def _result(answer: Any) -> Any:
    return answer


def warm_ids(settings: Settings) -> Counter[str]:
    client: MongoClient[dict[str, Any]] = MongoClient(settings.mongodb_uri)
    found = client[settings.mongodb.database]["events_1"].find({}, {"metadata.uid": 1})
    ids = Counter(one["metadata"]["uid"] for one in found)
    client.close()
    return ids


def cold_ids(settings: Settings) -> Counter[str]:
    client = Session().create_client(
        "s3",
        region_name=settings.s3.region,
        endpoint_url=settings.s3_endpoint,
        aws_access_key_id=settings.s3.access_key,
        aws_secret_access_key=settings.s3.secret_key,
    )
    ids: Counter[str] = Counter()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=settings.s3.bucket, Prefix="events/"):
        for one in page.get("Contents", []):
            body = client.get_object(Bucket=settings.s3.bucket, Key=one["Key"])["Body"].read()
            content = zstandard.ZstdDecompressor().stream_reader(body, read_across_frames=True).read()
            ids.update(ids_of(content.split(b"\n")[:-1]))
    client.close()
    return ids


def lake_ids(settings: Settings) -> Counter[str]:
    catalog = RestCatalog(
        "oracle",
        **{
            "uri": settings.catalog_uri,
            "warehouse": settings.catalog.warehouse,
            "s3.endpoint": settings.s3_endpoint,
            "s3.access-key-id": settings.s3.access_key,
            "s3.secret-access-key": settings.s3.secret_key,
            "s3.region": settings.s3.region,
            "rest.sigv4-enabled": "true",
            "rest.signing-name": "s3tables",
            "rest.signing-region": settings.s3.region,
            "client.access-key-id": settings.s3.access_key,
            "client.secret-access-key": settings.s3.secret_key,
            "client.region": settings.s3.region,
        },
    )
    table = catalog.load_table((settings.catalog.namespace, settings.catalog.table))
    return Counter(table.scan(selected_fields=("event_id",)).to_arrow()["event_id"].to_pylist())


ORACLES: dict[str, Callable[[Settings], Counter[str]]] = {
    "hot": hot_ids,
    "warm": warm_ids,
    "cold": cold_ids,
    "lake": lake_ids,
}
