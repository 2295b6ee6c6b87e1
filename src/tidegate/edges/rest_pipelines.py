"""Pipelines over HTTP, on transformation-pipeline: list, show, define, activate, roll back, try, metrics.

Invariant: what is defined here has compiled here before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter
from litestar.types import ControllerRouterHandler
from msgspec import Struct

from tidegate import optimising
from tidegate.actor.system import System
from tidegate.auth import LOCAL
from tidegate.bus import Bus
from tidegate.edges.examples import pipelines as examples
from tidegate.edges.examples import showing
from tidegate.edges.http import principal_of
from tidegate.edges.problems import problem, problems
from tidegate.entities.pipeline import KIND, Activate, Define, PipelineHistory, RollBack, version_of
from tidegate.errors import BusError, BusUnavailableError, CommandRefusedError, ConfigError, QueryError, StageError
from tidegate.lifecycle import Lifecycle
from tidegate.pipeline.definition import parse_definition
from tidegate.pipeline.flow import Flow, StageStats
from tidegate.pipeline.optimiser.optimise import optimise as make_quicker
from tidegate.pipeline.optimiser.optimise import takes
from tidegate.pipeline.runner import RawFrame
from tidegate.pipeline.trial import Fate, Step, explain, fates
from tidegate.sample import newest

__all__ = ["measured", "routes", "summaries"]

_MOST_RECORDS = 1000
_WATCHED_SECONDS = 30.0
_ALWAYS = (400, 401, 403, 429)
_TAGS = ["pipelines"]
_TOML = {"application/toml": {"type": "string"}}


class Trial(Struct, frozen=True, forbid_unknown_fields=True):
    """Records to run through the rules in use, or through these with one pipeline as `text` has it."""

    source: str
    records: list[str]
    """As they would arrive, each as text."""
    text: str = ""
    explain: bool = False


class Outcomes(Struct, frozen=True, omit_defaults=True):
    fates: list[Fate]
    steps: list[list[Step]] = []
    """With `explain`, what each stage did to each record."""


class Summary(Struct, frozen=True):
    name: str
    version: str
    """In use in this process."""
    sources: list[str]
    stages: list[str]
    problem: str
    """Why a newer version is not in use; "" where there is none."""


class Metrics(Struct, frozen=True):
    """Of this process, since it began to use this version."""

    version: str
    success_rate: float
    """Of the events that came to the first stage, those that did not fail in any."""
    validation_score: float
    """Of the events that came to `validate` stages, those that were found valid; 1 where there is no such stage."""
    bytes_in: int
    """Of records as they came ..."""
    bytes_out: int
    """... and of the events that they became."""
    stages: dict[str, StageStats]
    mapping: dict[str, StageStats]


def summaries(life: Lifecycle) -> list[Summary]:
    """Of all pipelines in use."""
    return [
        Summary(
            name=flow.name,
            version=flow.definition.version,
            sources=flow.definition.file.sources,
            stages=[stage.name for stage in flow.stages],
            problem=life.problem.problem if life.problem is not None else "",
        )
        for flow in life.rules().flows
    ]


def measured(flow: Flow) -> Metrics:
    """What went through a pipeline here."""
    taken = flow.stages[0].stats.taken if flow.stages else 0
    failed = sum(stage.stats.failed for stage in flow.stages)
    checks = [stage.stats for stage in flow.stages if stage.type == "validate"]
    checked = sum(one.taken for one in checks)
    return Metrics(
        version=flow.definition.version,
        success_rate=1 - failed / taken if taken else 1.0,
        validation_score=1 - sum(one.failed for one in checks) / checked if checked else 1.0,
        bytes_in=flow.bytes_in,
        bytes_out=flow.bytes_out,
        stages={stage.name: stage.stats for stage in flow.stages},
        mapping=flow.mapping,
    )


def routes(
    lifecycle: Callable[[], Lifecycle | None],
    system: Callable[[], System | None],
    connection: Callable[[], Bus | None],
    max_inflated: int,
) -> list[ControllerRouterHandler]:
    """The routes; `system` gives the way to entities, or None while there is no connection."""
    optimising_now = False

    def flows() -> dict[str, Flow]:
        life = lifecycle()
        return {} if life is None else {flow.name: flow for flow in life.rules().flows}

    def unknown(name: str) -> Response[Any]:
        return problem(404, "No such pipeline", f"{name[:80]!r} is none of: {', '.join(sorted(flows())) or 'none'}")

    async def commanded(name: str, command: Any, command_id: str = "") -> Response[Any]:
        asking = system()
        if asking is None:
            return problem(503, "Not connected", "there is no connection to NATS; try again")
        try:
            answer = await asking.ask(KIND, name, command, command_id=command_id)
        except CommandRefusedError as error:
            status = 404 if error.code == "unknown_version" else 409
            return problem(status, "Refused", error.problem)
        except BusUnavailableError as error:
            return problem(503, "No answer", str(error))
        return Response(answer, status_code=202)

    @get(
        "/v1/pipelines",
        sync_to_thread=False,
        operation_class=showing(examples.LIST),
        responses=problems(*_ALWAYS),
        tags=_TAGS,
    )
    def list_pipelines() -> list[Summary]:
        """All pipelines in use."""
        life = lifecycle()
        return [] if life is None else summaries(life)

    @get(
        "/v1/pipelines/{name:str}",
        sync_to_thread=False,
        operation_class=showing(examples.SHOW),
        responses=problems(*_ALWAYS, 404),
        tags=_TAGS,
    )
    def show(name: str) -> Response[Any]:
        """The text in use, and all versions that were defined."""
        life, flow = lifecycle(), flows().get(name)
        if life is None or flow is None:
            return unknown(name)
        history = life.history(name) or PipelineHistory()
        return Response(
            {
                "name": name,
                "version": flow.definition.version,
                "text": flow.definition.text,
                "previous": history.previous,
                "versions": [
                    {key: value for key, value in msgspec.to_builtins(one).items() if key != "text"}
                    for one in history.versions
                ],
            }
        )

    @get(
        "/v1/pipelines/{name:str}/metrics",
        sync_to_thread=False,
        operation_class=showing(examples.METRICS),
        responses=problems(*_ALWAYS, 404),
        tags=_TAGS,
    )
    def metrics(name: str) -> Response[Any]:
        """What each stage took, passed, filtered and failed, and the time it took, in this process."""
        flow = flows().get(name)
        if flow is None:
            return unknown(name)
        return Response(measured(flow))

    @post(
        "/v1/pipelines/{name:str}/versions",
        status_code=202,
        request_max_body_size=256 * 1024,
        operation_class=showing(examples.DEFINE, bodies=_TOML),
        responses=problems(*_ALWAYS, 404, 409, 413, 503),
        tags=_TAGS,
    )
    async def define(name: str, request: Request[Any, Any, Any], activate: bool = False) -> Response[Any]:
        """Define a version: the body is the pipeline as TOML. With `?activate=true` it is used at once."""
        life = lifecycle()
        if life is None:
            return problem(503, "Not ready", "the rules are being loaded; try again")
        try:
            text = str(await request.body(), "utf-8")
            definition = parse_definition(text, name)
            if definition.name != name:
                return problem(400, "Bad pipeline", f'the text is of the pipeline "{definition.name}"')
            await asyncio.to_thread(life.trial, definition)
        except (ConfigError, UnicodeDecodeError) as error:
            return problem(400, "Bad pipeline", str(error))
        command = Define(text, by=_by(request), activate=activate)
        return await commanded(name, command, f"{name}-{version_of(text)}-{activate}")

    @post(
        "/v1/pipelines/{name:str}/versions/{version:str}/activate",
        status_code=202,
        operation_class=showing(examples.ACTIVATE),
        responses=problems(*_ALWAYS, 404, 409, 503),
        tags=_TAGS,
    )
    async def activate_version(name: str, version: str, request: Request[Any, Any, Any]) -> Response[Any]:
        """Use a version that was defined before, within seconds, in every process."""
        return await commanded(name, Activate(version, by=_by(request)))

    @post(
        "/v1/pipelines/{name:str}/rollback",
        status_code=202,
        operation_class=showing(examples.ROLL_BACK),
        responses=problems(*_ALWAYS, 404, 409, 503),
        tags=_TAGS,
    )
    async def roll_back(name: str, request: Request[Any, Any, Any]) -> Response[Any]:
        """Go back to the version before."""
        return await commanded(name, RollBack(by=_by(request)))

    @post(
        "/v1/pipelines/try",
        status_code=200,
        operation_class=showing(examples.TRY),
        responses=problems(*_ALWAYS, 413, 503),
        tags=_TAGS,
    )
    async def dry_run(data: Trial) -> Response[Any]:
        """What would become of records; nothing is stored."""
        life = lifecycle()
        if life is None:
            return problem(503, "Not ready", "the rules are being loaded; try again")
        if len(data.records) > _MOST_RECORDS:
            return problem(413, "Too many records", f"try at most {_MOST_RECORDS} at once")
        try:
            # Rules of its own: what is tried must neither count nor be remembered.
            definition = parse_definition(data.text, "text") if data.text else None
            rules = await asyncio.to_thread(life.trial, definition)
        except ConfigError as error:
            return problem(400, "Bad pipeline", str(error))
        records = [record.encode("utf-8", "surrogatepass") for record in data.records]
        now = int(time.time() * 1000)
        frame = RawFrame(source=data.source, codec="json", records=records, received_ms=now, origin="try/1")
        each = [msgspec.structs.replace(frame, records=[record]) for record in records]
        found = await asyncio.to_thread(fates, rules, frame)
        steps = [await asyncio.to_thread(explain, rules, one) for one in each] if data.explain else []
        return Response(Outcomes(fates=found, steps=steps))

    @get(
        "/v1/pipelines/{name:str}/sample",
        operation_class=showing(examples.SAMPLE),
        responses=problems(*_ALWAYS, 404, 503),
        tags=_TAGS,
    )
    async def sample(name: str, records: Annotated[int, Parameter(ge=1, le=100)] = 1) -> Response[Any]:
        """The transformation log of the newest records that take the pipeline: what each stage does to each of them."""
        life, bus = lifecycle(), connection()
        if life is None or bus is None:
            return problem(503, "Not connected", "there is no connection to NATS yet; try again")
        if name not in flows():
            return unknown(name)
        rules = await asyncio.to_thread(life.trial)
        try:
            frames = [one async for one in newest(bus, "", 1_000, max_inflated) if takes(rules, one, name)]
        except (BusError, BusUnavailableError) as error:
            return problem(503, "No answer", str(error))
        each = [
            msgspec.structs.replace(one, records=[record], origin=f"{one.origin}#{index}")
            for one in frames
            for index, record in enumerate(one.records)
        ][-records:]
        return Response([await asyncio.to_thread(explain, rules, one) for one in each])

    @post(
        "/v1/pipelines/{name:str}/optimise",
        status_code=200,
        operation_class=showing(examples.OPTIMISE),
        responses=problems(*_ALWAYS, 404, 409, 503),
        tags=_TAGS,
    )
    async def optimise(
        name: str,
        request: Request[Any, Any, Any],
        activate: bool = False,
        records: Annotated[int, Parameter(ge=1, le=20_000)] = 2_000,
    ) -> Response[Any]:
        """Measure it on the newest records, and build a version that does the same in less time, if there is one.

        With `?activate=true` that is used, and watched for half a minute after the answer.
        """
        nonlocal optimising_now
        life, asking, bus = lifecycle(), system(), connection()
        if life is None or asking is None or bus is None:
            return problem(503, "Not connected", "there is no connection to NATS yet; try again")
        if name not in flows():
            return unknown(name)
        if optimising_now:
            return problem(409, "Under way", "another pipeline is being measured; try again")
        optimising_now = True
        try:
            frames = [one async for one in newest(bus, "", records, max_inflated)]
            report = await asyncio.to_thread(make_quicker, life.library(), name, frames, 2.0)
            used = activate and await optimising.put_into_use(asking, report, _by(request), _WATCHED_SECONDS)
        except (QueryError, StageError) as error:
            return problem(409, "Cannot be measured", str(error))
        except CommandRefusedError as error:
            return problem(409, "Refused", error.problem)
        except (BusError, BusUnavailableError) as error:
            return problem(503, "No answer", str(error))
        finally:
            optimising_now = False
        return Response({**msgspec.to_builtins(report), "in_use": used})

    return [list_pipelines, show, metrics, define, activate_version, roll_back, dry_run, sample, optimise]


def _by(request: Request[Any, Any, Any]) -> str:
    """Who asks: what the key says, and only where there are no keys what the request says."""
    principal = principal_of(request)
    return request.headers.get("x-user", "") if principal is LOCAL else principal.id
