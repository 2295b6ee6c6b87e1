"""The quick way that is learned from a source's records makes of each record what the general way makes of it."""

from __future__ import annotations

import random
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.cloud_records import RECORDS, base
from tests.pipeline.data import FILES, FOLDER, ODD, SHARDS, distort, records_of, run
from tidegate.generator import SOURCES, Generator
from tidegate.pipeline.compiler import Compiled, Specials, compile_source, first_key
from tidegate.pipeline.library import load_pipeline
from tidegate.pipeline.rules import load_source

Mapped = tuple[str, Any] | None


@cache
def _compiled(source: str) -> Compiled:
    path = Path(str(resources.files("tidegate.pipeline"))) / "sources" / f"{source}.toml"
    return compile_source(load_source(path), path)


def _content(value: Any) -> Any:
    """`value` without nulls, which the quick way may leave out, and without what is empty then."""
    if isinstance(value, dict):
        inner = {key: _content(each) for key, each in value.items()}
        return {key: each for key, each in inner.items() if each is not None and each != {}}
    return [_content(each) for each in value] if isinstance(value, list) else value


def _decoded(event: Any) -> Any:
    return _content(msgspec.json.decode(msgspec.json.encode(event)))


def general(source: str, raw: bytes) -> Mapped:
    try:
        correlation, event = _compiled(source).route(msgspec.json.decode(raw), "id", 1, None)
    except Exception:  # noqa: BLE001 - whatever it is, the record is a dead letter then
        return None
    return None if correlation is None else (correlation, _decoded(event))


def quick_way(specials: Specials, raw: bytes) -> Mapped:
    special = specials.by_first_key.get(first_key(raw)) if specials.by_first_key else specials.default
    if special is None:
        return None
    try:
        native = special.decode(raw)
        correlation, event = special.mappers[native.__class__](native, "id", 1, None)
    except Exception:  # noqa: BLE001 - the runner takes the general way then
        return None
    return None if correlation is None else (correlation, _decoded(event))


def learned_from(source: str, records: list[bytes]) -> Specials:
    specials = _compiled(source).specialise([raw for raw in records if general(source, raw) is not None][:2000])
    assert specials is not None
    return specials


@cache
def _made(source: str) -> tuple[list[bytes], Specials]:
    records = [one.data for one in Generator(11, sources=[source]).records(2500)]
    return records, learned_from(source, records)


@pytest.mark.parametrize("source", SOURCES)
def test_real_records_become_the_same_either_way(source: str) -> None:
    records = [record for path in sorted(FOLDER.glob(FILES[source])) for record in records_of(path)]
    if not records:
        pytest.skip("the folder with real records (../shared/data) is not there")
    random.Random(3).shuffle(records)
    specials = learned_from(source, records)
    for raw in records:
        quick = quick_way(specials, raw)
        assert quick is None or quick == general(source, raw)


@pytest.mark.parametrize("source", SOURCES)
def test_generated_records_become_the_same_either_way_and_most_go_the_quick_one(source: str) -> None:
    records, specials = _made(source)
    count = 0
    for raw in records:
        quick = quick_way(specials, raw)
        assert quick is None or quick == general(source, raw)
        count += quick is not None
    assert count > len(records) * (0.7 if source == "windows" else 0.9)


@settings(deadline=None, max_examples=400)
@given(source=st.sampled_from(SOURCES), index=st.integers(0, 2499), path=st.lists(st.integers(0, 60)), odd=ODD)
def test_a_record_with_an_odd_value_becomes_the_same_either_way(
    source: str, index: int, path: list[int], odd: Any
) -> None:
    records, specials = _made(source)
    try:
        record = msgspec.json.decode(records[index])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if isinstance(record, dict):
        distort(record, path, odd)
    raw = msgspec.json.encode(record)
    quick = quick_way(specials, raw)
    assert quick is None or quick == general(source, raw)


@cache
def _taught(source: str, name: str) -> Specials | None:
    return _compiled(source).specialise([msgspec.json.encode(RECORDS[source][name])] * 20)


def test_cloud_records_like_those_it_learned_from_go_the_quick_way() -> None:
    for source, name in _CLOUD:
        specials, raw = _taught(source, name), msgspec.json.encode(RECORDS[source][name])
        assert (specials is None) == ((source, name) in _RESHAPED)
        assert specials is None or quick_way(specials, raw) == general(source, raw) is not None


_RESHAPED = {("azure_activity", "rest")}
_CLOUD = [(source, name) for source, records in RECORDS.items() if source != "ocsf" for name in records]


@settings(deadline=None, max_examples=300)
@given(which=st.sampled_from(_CLOUD), path=st.lists(st.integers(0, 60)), odd=ODD)
def test_a_cloud_record_with_an_odd_value_becomes_the_same_either_way(
    which: tuple[str, str], path: list[int], odd: Any
) -> None:
    specials = _taught(*which)
    record = base(*which)
    distort(record, path, odd)
    raw = msgspec.json.encode(record)
    quick = specials and quick_way(specials, raw)
    assert quick is None or quick == general(which[0], raw)


@pytest.mark.parametrize("source", SOURCES)
def test_a_pipeline_that_has_learned_gives_what_a_fresh_one_gives(source: str) -> None:
    records, _ = _made(source)
    learned = load_pipeline(SHARDS)
    for start in range(0, 2400, 400):
        run(learned, source, records[start : start + 400])
    last = records[-100:]
    assert run(learned, source, last) == run(load_pipeline(SHARDS), source, last)
