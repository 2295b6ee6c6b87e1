"""Examples of transformation-pipeline."""

from __future__ import annotations

from tidegate.edges.examples import Exchange, exchanges, problem
from tidegate.edges.examples.events import INVOICE
from tidegate.entities.pipeline import version_of

__all__ = ["ACTIVATE", "DEFINE", "LIST", "METRICS", "OPTIMISE", "ROLL_BACK", "SAMPLE", "SHOW", "TRY"]

_FIRST = """pipeline = "example"
sources = ["billing"]
"""
_NEXT = f"""{_FIRST}
[[stage]]
type = "filter"
name = "tests"
drop = 'unmapped.user == "test"'
"""
_V1, _V2 = version_of(_FIRST), version_of(_NEXT)
_MS = 1777889472000
_BY = "5662c36b4b6b9ea4"
_NAME = {"name": "example"}
_OTHER = {"name": "other"}
_NONE = Exchange(
    parameters=_OTHER,
    status=404,
    answer=problem(404, "No such pipeline", "'other' is none of: example"),
)
_TOML = "application/toml"


def _activated(version: str, previous: str) -> dict[str, object]:
    return {"type": "pipeline.activated.v1", "version": version, "previous": previous, "time_ms": _MS, "by": _BY}


def _decided(version: int, *events: dict[str, object]) -> dict[str, object]:
    return {"id": "example", "version": version, "sequence": 178, "events": [*events]}


def _defined(number: int, text: str, previous: str) -> dict[str, object]:
    version = version_of(text)
    defined = {"type": "pipeline.defined.v1", "version": version, "text": text, "time_ms": _MS}
    return _decided(number, {**defined, "origin": "command", "by": _BY}, _activated(version, previous))


def _step(stage: str, kind: str, outcome: str, changes: dict[str, list[object]]) -> dict[str, object]:
    measured = {"microseconds": 15.9, "bytes_in": 181, "bytes_out": 401, "changes": changes}
    return {"stage": stage, "type": kind, "outcome": outcome, **measured, "problem": "", "recovery": ""}


def _stats() -> dict[str, object]:
    counts = dict.fromkeys(("taken", "passed", "filtered", "failed", "skipped", "continued", "retries"), 0)
    return {**counts, "seconds": 0.0}


def _mapped(**more: object) -> dict[str, list[object]]:
    """What mapping a record adds."""
    added = {
        "class_uid": 0,
        "category_uid": 0,
        "activity_id": 0,
        "type_uid": 0,
        "severity_id": 0,
        "time": _MS,
        "metadata.version": "1.8.0",
        "metadata.product.name": "billing",
        "metadata.uid": "invoice-1",
        "metadata.correlation_uid": "case-7",
        "metadata.log_source": "billing",
        "unmapped.user": "mira",
        **more,
    }
    return {path: [None, value] for path, value in added.items()}


LIST = exchanges(
    all=Exchange(
        answer=[{"name": "example", "version": _V2, "sources": ["billing"], "stages": ["tests"], "problem": ""}]
    )
)
SHOW = exchanges(
    known=Exchange(
        parameters=_NAME,
        answer={
            "name": "example",
            "version": _V2,
            "text": _NEXT,
            "previous": "",
            "versions": [
                {"version": version, "time_ms": _MS, "origin": "command", "by": _BY} for version in (_V1, _V2)
            ],
        },
    ),
    unknown=_NONE,
)
METRICS = exchanges(
    known=Exchange(
        parameters=_NAME,
        answer={
            "version": _V2,
            "success_rate": 1.0,
            "validation_score": 1.0,
            "bytes_in": 0,
            "bytes_out": 0,
            "stages": {"tests": _stats()},
            "mapping": {"deserialise": _stats(), "normalise": _stats()},
        },
    ),
    unknown=_NONE,
)
DEFINE = exchanges(
    first=Exchange(
        parameters={**_NAME, "activate": True},
        body=_FIRST,
        media_type=_TOML,
        status=202,
        answer=_defined(1, _FIRST, ""),
    ),
    next=Exchange(
        parameters={**_NAME, "activate": True},
        body=_NEXT,
        media_type=_TOML,
        status=202,
        answer=_defined(2, _NEXT, _V1),
    ),
    bad=Exchange(
        parameters=_NAME,
        body=f"{_FIRST}stagse = []\n",
        media_type=_TOML,
        status=400,
        answer=problem(
            400, "Bad pipeline", 'example:3: unknown key "stagse"; did you mean "stage"?'
        ),
    ),
)  # fmt: skip
ACTIVATE = exchanges(
    known=Exchange(
        parameters={**_NAME, "version": _V1}, status=202, answer=_decided(3, _activated(_V1, _V2))
    ),
    unknown=Exchange(
        parameters={**_NAME, "version": "none"},
        status=404,
        answer=problem(
            404, "Refused", f"version 'none' was never defined; known are: {_V1}, {_V2}"
        ),
    ),
)  # fmt: skip
_ROLLED_BACK = {"type": "pipeline.rolled_back.v1", "version": _V2, "from_version": _V1, "time_ms": _MS, "by": _BY}
ROLL_BACK = exchanges(
    known=Exchange(parameters=_NAME, status=202, answer=_decided(4, _ROLLED_BACK)),
    unknown=Exchange(
        parameters=_OTHER,
        status=409,
        answer=problem(409, "Refused", "there is no earlier version to go back to"),
    ),
)
_FATE: dict[str, object] = {"outcome": "event", "by": "", "problem": "", "event": None, "correlation": "", "routed": {}}
_BARE = {
    **INVOICE,
    "metadata": {
        "version": "1.8.0",
        "product": {"name": "billing"},
        "uid": "01a215f9-fcfd-77e7-97e5-d8c72eda9000",
        "correlation_uid": "01a215f9-fcfd-77e7-97e5-d8c72eda9000",
        "log_source": "billing",
    },
    "unmapped": {"user": "mira"},
}
TRY = exchanges(
    in_use=Exchange(
        body={"source": "billing", "records": ['{"data":{"user":"mira"}}'], "explain": True},
        answer={
            "fates": [{**_FATE, "event": _BARE, "correlation": "01a215f9-fcfd-77e7-97e5-d8c72eda9000"}],
            "steps": [[_step("mapping", "normalise", "passed", _mapped())]],
        },
    ),
    text=Exchange(
        body={"source": "billing", "records": ['{"data":{"user":"test"}}'], "text": _NEXT},
        answer={"fates": [{**_FATE, "outcome": "filtered", "by": "example.tests"}]},
    ),
    bad=Exchange(
        body={"source": "billing", "records": [], "text": "pipeline"},
        status=400,
        answer=problem(400, "Bad pipeline", "text: not valid TOML: Expected '=' after a key"),
    ),
)
_INVOICE = {
    "metadata.original_time": "2026-05-04T10:11:12Z",
    "metadata.event_code": "invoice.paid",
    "metadata.transformation_info_list": [{"name": "example", "uid": _V2}],
    "unmapped.amount": 12,
}
SAMPLE = exchanges(
    newest=Exchange(
        parameters={**_NAME, "records": 1},
        answer=[
            [
                _step("mapping", "normalise", "passed", _mapped(**_INVOICE)),
                _step("tests", "filter", "unchanged", {}),
            ]
        ],
    ),
    unknown=_NONE,
)
_PART = {"taken": 7, "matched": 7, "filtered": 0, "failed": 0, "microseconds": 29.2}
_ADVICE = '"tests" dropped none of 7 events'
OPTIMISE = exchanges(
    known=Exchange(
        parameters={**_NAME, "records": 100},
        answer={
            "pipeline": "example",
            "version": _V2,
            "text": _NEXT,
            "records": 7,
            "parts": [
                {"name": "mapping", "type": "normalise", **_PART},
                {"name": "tests", "type": "filter", **_PART},
                {"name": "encoding", "type": "encode", **_PART},
            ],
            "in_stages": 2.0,
            "bottleneck": "mapping",
            "share": 0.9,
            "recommendations": [{"kind": "dead", "stage": "tests", "text": _ADVICE, "done": False}],
            "candidate": None,
            "in_use": False,
        },
    ),
    unknown=_NONE,
)
