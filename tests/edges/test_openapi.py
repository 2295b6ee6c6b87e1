"""The four REST applications keep to their own OpenAPI descriptions, whatever schemathesis makes of these."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from tests.system.harness import system
from tidegate.local.processes import OWN

UNANSWERED = ("/v1/stream",)
"""Answers that do not end; the contract suite reads them."""
load_all_checks()
EXCLUDED: list[Any] = CHECKS.get_by_names(["positive_data_acceptance"])
"""A schema cannot say all that makes a request good: SQL, times, cursors, names of sources, TOML."""


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """All four processes, with NATS and Redis."""
    with system(tmp_path_factory.mktemp("openapi")) as one:
        one.serve("nats")
        one.serve("redis")
        asyncio.run(one.ready())
        started = [one.run(name, *(["--tiers", "hot"] if name == "storage-manager" else [])) for name in OWN]
        asyncio.run(one.ready())
        yield {program.name: program.url for program in started}


def check(url: str, examples: int) -> None:
    description = httpx.get(f"{url}/schema/openapi.json").json()
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
            case.call_and_validate(base_url=url, excluded_checks=EXCLUDED, timeout=10)

        conforms()


@pytest.mark.parametrize("name", OWN)
def test_schemathesis_finds_nothing(urls: dict[str, str], name: str) -> None:
    check(urls[name], 12)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OWN)
def test_schemathesis_finds_nothing_in_a_long_run(urls: dict[str, str], name: str) -> None:
    check(urls[name], 500)
